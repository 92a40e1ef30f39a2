// The endpoints that answer at once, for the table of api/endpoint.h. Loop thread.
#ifndef API_ENDPOINTS_ANSWERS_H
#define API_ENDPOINTS_ANSWERS_H

#include "api/endpoint.h"

enum { READY_STEP_SECONDS_MAX = 30 }; // an engine's step that runs longer has stalled

void models_list(const struct api_context *context, const char *parameter, struct api_reply *reply);
void models_one(const struct api_context *context, const char *parameter, struct api_reply *reply);
void chat_cancel(const struct api_context *context, const char *parameter, struct api_reply *reply);
void completion_cancel(const struct api_context *context, const char *parameter, struct api_reply *reply);
void health_answer(const struct api_context *context, const char *parameter, struct api_reply *reply);
void ready_answer(const struct api_context *context, const char *parameter, struct api_reply *reply);
void metrics_answer(const struct api_context *context, const char *parameter, struct api_reply *reply);
void openapi_answer(const struct api_context *context, const char *parameter, struct api_reply *reply);

#endif
