// The endpoints as data: one row each, from which routing, 404, 405 (with Allow) and the documentation come.
#ifndef API_ENDPOINT_H
#define API_ENDPOINT_H

#include "api/generation.h"
#include "api/reply.h"
#include "engine/engine.h"

struct api_context { // what an immediate answer may look at; owned by the server
    struct engine *engine;
    bool shutting_down;                                    // draining: /ready says no
    void (*write_metrics)(void *user, struct buffer *out); // what the server counts, as Prometheus reads it
    void *write_metrics_user;
    uint64_t key; // of whoever asks: the number of the API key, 0 where there are none

    // Ends all answers of one kind that bear this id, their own or their request's, and were asked for with that key.
    // False: there is none.
    bool (*cancel)(void *user, uint64_t key, const struct generation_kind *kind, const char *id);
    void *cancel_user;
};

struct endpoint {
    const char *method; // "GET" (which answers HEAD too), "POST" or "DELETE"
    const char *path;   // "/v1/models/{id}": {id} takes one or more path segments, percent-decoded
    const char *help;   // one line for the documentation
    // Exactly one of the two:
    void (*answer)(const struct api_context *context, const char *parameter, struct api_reply *reply); // loop thread
    const struct generation_kind *generation;
    bool open; // asks for no API key: probes have none, and it tells nothing of the model or what it is asked
};

enum { ENDPOINT_COUNT = 11 };
extern const struct endpoint ENDPOINTS[ENDPOINT_COUNT];

#endif
