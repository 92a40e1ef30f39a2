// GET /metrics: what the server has counted, for Prometheus. The server counts, so the server writes it.
#include "api/endpoints/answers.h"

void metrics_answer(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)parameter;
    reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
    context->write_metrics(context->write_metrics_user, &reply->body);
}
