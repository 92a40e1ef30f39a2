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

    // Ends all answers of one kind that bear this id, their own or their request's, and that whoever is answered now has
    // asked for. False: there is none.
    bool (*cancel)(void *user, const struct generation_kind *kind, const char *id);
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

#define ENDPOINT_ROWS(X) \
    X("POST", "/v1/chat/completions", "the next message of a conversation", NULL, &chat_generation, false) \
    X("POST", "/v1/completions", "the continuation of a text", NULL, &completion_generation, false) \
    X("DELETE", "/v1/chat/completions/{id}", "ends the chat's answer with that id, or x-request-id", chat_cancel, \
      NULL, false) \
    X("DELETE", "/v1/completions/{id}", "the same for a continuation", completion_cancel, NULL, false) \
    X("GET", "/v1/models", "the loaded model, as a list", models_list, NULL, false) \
    X("GET", "/v1/models/{id}", "the loaded model", models_one, NULL, false) \
    X("GET", "/health", "200 while the process answers", health_answer, NULL, true) \
    X("GET", "/ready", "200 while it makes progress and takes requests, else 503 and why", ready_answer, NULL, true) \
    X("GET", "/metrics", "counters and histograms for Prometheus", metrics_answer, NULL, false) \
    X("GET", "/openapi.yaml", "all of this for programs, as OpenAPI 3.1", openapi_answer, NULL, true) \
    X("GET", "/", "this list", list_answer, NULL, false)

enum {
#define ENDPOINT_ONE(...) +1
    ENDPOINT_COUNT = 0 ENDPOINT_ROWS(ENDPOINT_ONE)
#undef ENDPOINT_ONE
};
extern const struct endpoint ENDPOINTS[ENDPOINT_COUNT];

#endif
