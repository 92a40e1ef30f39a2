#include "api/endpoint.h"

#include "api/endpoints/answers.h"
#include "api/json.h"

static void list_answer(const struct api_context *context, const char *parameter, struct api_reply *reply);

#define ENDPOINT_ROW(...) {__VA_ARGS__},
const struct endpoint ENDPOINTS[] = {ENDPOINT_ROWS(ENDPOINT_ROW)};

static void list_answer(const struct api_context *context, const char *parameter, struct api_reply *reply) {
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
