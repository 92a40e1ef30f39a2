// GET /health: the process answers. GET /ready: and it makes progress, so that requests may be sent its way.
#include "api/endpoints/answers.h"
#include "api/json.h"

static void write_status(const char *status, const struct engine_stats *stats, struct buffer *out) {
    long long step_ms = (long long)(stats->step_running_seconds * 1e3); // whole numbers print faster
    buffer_format(out, "{\"status\":\"%s\",\"running\":%d,\"waiting\":%d,\"step_running_seconds\":%lld.%03lld",
                  status, stats->running, stats->waiting, step_ms / 1000, step_ms % 1000);
    if (!stats->degraded[0]) return;
    buffer_text(out, ",\"degraded\":");
    json_write_text(out, stats->degraded);
}

void health_answer(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)parameter;
    struct engine_stats stats;
    engine_stats(context->engine, &stats);
    write_status(stats.degraded[0] ? "degraded" : "ok", &stats, &reply->body);
    buffer_text(&reply->body, "}");
}

void ready_answer(const struct api_context *context, const char *parameter, struct api_reply *reply) {
    (void)parameter;
    struct engine_stats stats;
    engine_stats(context->engine, &stats);
    struct error error = {0};
    const char *status = "ready";
    if (context->shutting_down) {
        status = "shutting_down";
        error_set_code(&error, ERROR_SHUTDOWN);
    } else if (stats.step_running_seconds > READY_STEP_SECONDS_MAX) {
        status = "stalled";
        error_set(&error, ERROR_INTERNAL, "a step of the engine has been running for %.0f seconds (more than %d)",
                  stats.step_running_seconds, READY_STEP_SECONDS_MAX);
    }
    if (error.code != 0) {
        api_reply_error(reply, &error); // for the headers; the body says more
        reply->status = 503;
        buffer_clear(&reply->body);
    }
    write_status(status, &stats, &reply->body);
    if (error.code != 0) {
        buffer_text(&reply->body, ",\"error\":");
        api_error_object(&error, &reply->body);
    }
    buffer_text(&reply->body, "}");
}
