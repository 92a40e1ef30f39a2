// DELETE /v1/chat/completions/{id} and /v1/completions/{id}: ends an answer that is under way, from another connection.
// The answer has OpenAI's form, whose clients delete answers that were kept this way; here none are kept.
#include "api/endpoints/answers.h"
#include "api/json.h"

static void cancel(const struct api_context *context, const struct generation_kind *kind, const char *object,
                   const char *id, struct api_reply *reply) {
    struct error error;
    if (!context->cancel(context->cancel_user, kind, id)) {
        error_set(&error, ERROR_NOT_FOUND,
                  "nothing under way here has this id, neither as an answer's own nor as its request's x-request-id");
        api_reply_error(reply, &error);
        return;
    }
    buffer_text(&reply->body, "{\"id\":");
    json_write_text(&reply->body, id);
    buffer_format(&reply->body, ",\"object\":\"%s\",\"deleted\":true}", object);
}

void chat_cancel(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    cancel(context, &chat_generation, "chat.completion.deleted", parameter, reply);
}

void completion_cancel(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    cancel(context, &completion_generation, "text_completion.deleted", parameter, reply);
}
