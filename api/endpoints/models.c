// GET /v1/models and /v1/models/{id}: the one model that is loaded.
#include "api/endpoints/answers.h"
#include "api/json.h"
#include "api/model_names.h"

static void write_model(const struct engine_info *info, struct buffer *out) {
    buffer_text(out, "{\"id\":");
    json_write_text(out, info->model_name);
    buffer_format(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tandem\",\"architecture\":",
                  (long long)info->created);
    json_write_text(out, info->architecture);
    buffer_text(out, ",\"weights\":");
    json_write_text(out, info->weights);
    buffer_format(out, ",\"parameters\":%llu,\"context_length\":%d,\"max_model_len\":%d}",
                  (unsigned long long)info->parameters, info->context_tokens, info->context_tokens);
}

void models_list(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)parameter;
    buffer_text(&reply->body, "{\"object\":\"list\",\"data\":[");
    write_model(engine_info(context->engine), &reply->body);
    buffer_text(&reply->body, "]}");
}

void models_one(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    const struct engine_info *info = engine_info(context->engine);
    struct error error;
    if (model_names_check(info, parameter, &error))
        api_reply_error(reply, &error);
    else
        write_model(info, &reply->body);
}
