// What the server does with its exchanges, once they are admitted: has their endpoint answer, and for a generating
// request goes the way from its body over the engine's jobs to the bytes of its answer. Loop thread, but for the
// engine's wake call.
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "engine/engine.h"
#include "server/http.h"
#include "server/loop.h"

struct api_keys;
struct metrics;
struct requests;

struct requests_options {
    struct loop *loop;
    struct engine *engine;
    const struct api_keys *keys;
    const char *local_host; // where only this machine can reach the server: the bound name; otherwise NULL
    uint64_t heartbeat_ms;
    size_t body_bytes_max;                                 // of all the bodies together that wait to be parsed
    struct metrics *metrics;                               // to count in
    void (*write_metrics)(void *user, struct buffer *out); // GET /metrics
    void *write_metrics_user;
};

int requests_create(struct requests **out, const struct requests_options *options, struct error *error);
struct http_handler requests_handler(struct requests *requests);

void requests_refuse_new(struct requests *requests);                      // shutting down: /ready says no
void requests_fail(struct requests *requests, const struct error *error); // ends all that is under way

size_t requests_body_memory(const struct requests *requests); // bytes of the bodies that wait to be parsed

// After http is destroyed, before the loop is: no job is left, work on the pool may be.
void requests_stop(struct requests *requests);
void requests_destroy(struct requests *requests); // after the loop; takes NULL

#endif
