#include "cli/answer.h"

#include "base/clock.h"
#include "base/plural.h"
#include "cli/interrupt.h"

int answer_follow(struct engine *engine, const struct engine_request *request, answer_take *take, void *user,
                  struct answer *out, struct error *error) {
    *out = (struct answer){0};
    struct engine_job *job;
    struct engine_request waking = *request;
    waking.wake = interrupt_wake;
    double began_at = clock_seconds();
    int code = engine_submit(engine, &waking, &job, error);
    if (code) return code;
    for (bool ended = false; !ended;) {
        if (!code && interrupt_noted()) code = error_set_code(error, ERROR_CANCELLED);
        if (code) engine_job_cancel(job);
        struct engine_event *event = engine_job_next(job);
        if (!event) {
            interrupt_wait(-1);
            continue;
        }
        if (out->first_seconds == 0) out->first_seconds = clock_seconds() - began_at;
        ended = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
        if (ended) {
            out->finish = event->finish;
            out->usage = event->usage;
        }
        if (!code && event->type == ENGINE_EVENT_ERROR) {
            code = event->error.code;
            if (error) *error = event->error;
        } else if (!code) {
            code = take(user, event, error);
        }
        engine_event_destroy(event);
    }
    engine_job_release(job);
    return code;
}

static double rate(size_t tokens, double seconds) {
    return seconds > 0 ? (double)tokens / seconds : 0;
}

double answer_prompt_rate(const struct engine_usage *usage) {
    size_t cached = usage->cached_tokens < usage->prompt_tokens ? usage->cached_tokens : 0;
    return rate(usage->prompt_tokens - cached, usage->prompt_seconds);
}

double answer_decode_rate(const struct engine_usage *usage) {
    return rate(usage->completion_tokens > 0 ? usage->completion_tokens - 1 : 0, usage->decode_seconds);
}

void answer_write_timings(const struct answer *answer, struct buffer *out) {
    const struct engine_usage *usage = &answer->usage;
    buffer_format(out, "%zu prompt token%s", usage->prompt_tokens, plural(usage->prompt_tokens));
    if (usage->cached_tokens) buffer_format(out, ", %zu of them known,", usage->cached_tokens);
    buffer_format(out, " in %.2f s (%.0f/s), %zu new one%s in %.2f s", usage->prompt_seconds, answer_prompt_rate(usage),
                  usage->completion_tokens, plural(usage->completion_tokens), usage->decode_seconds);
    if (usage->completion_tokens > 1) buffer_format(out, " (%.1f/s)", answer_decode_rate(usage));
    if (usage->guessed_right) buffer_format(out, ", %zu of them guessed", usage->guessed_right);
}
