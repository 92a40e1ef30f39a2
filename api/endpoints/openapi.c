// GET /openapi.yaml: what this server understands, for programs.
#include "api/openapi.h"
#include "api/endpoints/answers.h"

void openapi_answer(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)context;
    (void)parameter;
    reply->content_type = "application/yaml";
    openapi_write(&reply->body);
}
