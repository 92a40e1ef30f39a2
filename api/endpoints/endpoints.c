#include "api/endpoint.h"

#include "api/endpoints/answers.h"
#include "api/json.h"

static void greet(const struct api_context *context, const char *parameter, struct api_reply *reply);

const struct endpoint ENDPOINTS[] = {
    {"POST", "/v1/chat/completions", "the next message of a conversation", NULL, &chat_generation, false},
    {"POST", "/v1/completions", "the continuation of a text", NULL, &completion_generation, false},
    {"DELETE", "/v1/chat/completions/{id}", "ends the chat's answer with that id, or x-request-id", chat_cancel, NULL,
     false},
    {"DELETE", "/v1/completions/{id}", "the same for a continuation", completion_cancel, NULL, false},
    {"GET", "/v1/models", "the loaded model, as a list", models_list, NULL, false},
    {"GET", "/v1/models/{id}", "the loaded model", models_one, NULL, false},
    {"GET", "/health", "200 while the process answers", health_answer, NULL, true},
    {"GET", "/ready", "200 while it makes progress and takes requests, else 503 and why", ready_answer, NULL, true},
    {"GET", "/metrics", "counters and histograms for Prometheus", metrics_answer, NULL, false},
    {"GET", "/openapi.yaml", "all of this for programs, as OpenAPI 3.1", openapi_answer, NULL, true},
    {"GET", "/", "this list", greet, NULL, false},
};
_Static_assert(sizeof ENDPOINTS / sizeof *ENDPOINTS == ENDPOINT_COUNT, "endpoint.h counts other rows than there are");

static void greet(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)parameter;
    struct buffer *out = &reply->body;
    buffer_text(out, "{\"name\":\"tandem\",\"model\":");
    json_write_text(out, engine_info(context->engine)->model_name);
    buffer_text(out, ",\"endpoints\":[");
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        buffer_format(out, "%s{\"method\":\"%s\",\"path\":", i ? "," : "", ENDPOINTS[i].method);
        json_write_text(out, ENDPOINTS[i].path);
        buffer_text(out, ",\"help\":");
        json_write_text(out, ENDPOINTS[i].help);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}
