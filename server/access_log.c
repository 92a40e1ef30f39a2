#include "server/access_log.h"

#include "api/json.h"

#include <string.h>

// The last two: how much is shown of what a client may make as long as it likes.
enum { TEXT_BYTES = 1024, METHOD_BYTES_MAX = 16, TARGET_BYTES_MAX = 100 };

static bool known(const char *text) {
    return text && *text;
}

// ---- Text

// "POST /v1/chat/completions 400 invalid_request_error messages[0].role", as far as there is something to say.
static void write_outcome(const struct access *access, struct buffer *out) {
    buffer_format(out, "%.*s %.*s %d", METHOD_BYTES_MAX, access->method, TARGET_BYTES_MAX, access->target,
                  access->status);
    if (known(access->cause)) buffer_format(out, " %s", access->cause);
    if (known(access->cause) && known(access->param)) buffer_format(out, " %s", access->param);
    if (known(access->failed)) buffer_format(out, " (%s)", access->failed);
}

static void write_tokens(const struct generation_summary *sum, struct buffer *out) {
    buffer_format(out, " · %zu tokens in", sum->prompt_tokens);
    if (sum->completion_tokens > 0) buffer_format(out, ", %zu out", sum->completion_tokens);
    if (sum->finish[0]) buffer_format(out, ", %s", sum->finish);
    if (sum->tokens_per_second > 0) buffer_format(out, ", %.1f tokens/s", sum->tokens_per_second);
}

static void log_text(enum log_level level, const struct access *access) {
    struct buffer line;
    buffer_init(&line, TEXT_BYTES);
    write_outcome(access, &line);
    if (access->summary) write_tokens(access->summary, &line);
    buffer_format(&line, access->summary ? ", %.2f s" : ", %.3f s", access->seconds);
    buffer_format(&line, " · %s", access->request_id);
    if (known(access->generation_id)) buffer_format(&line, " · %s", access->generation_id);
    log_write(level, "%s", line.data ? line.data : "");
    buffer_finish(&line);
}

// ---- JSON

static void write_shown(struct buffer *out, const char *name, const char *text, size_t bytes_max) {
    if (!known(text)) return;
    buffer_format(out, ",\"%s\":", name);
    json_write_string(out, text, strnlen(text, bytes_max));
}

static void log_json(enum log_level level, const struct access *access) {
    const struct generation_summary *sum = access->summary;
    struct buffer members;
    buffer_init(&members, LOG_LINE_BYTES_MAX);
    log_member_text(&members, "request_id", access->request_id);
    log_member_text(&members, "client", access->client);
    write_shown(&members, "method", access->method, METHOD_BYTES_MAX);
    write_shown(&members, "target", access->target, TARGET_BYTES_MAX);
    log_member_text(&members, "route", access->route);
    buffer_format(&members, ",\"status\":%d", access->status);
    if (!known(access->refusal)) buffer_format(&members, ",\"duration_ms\":%.0f", access->seconds * 1000);
    log_member_text(&members, "error", access->cause);
    log_member_text(&members, "param", access->param);
    log_member_text(&members, "failed", access->failed);
    log_member_text(&members, "generation_id", access->generation_id);
    if (sum) {
        buffer_format(&members, ",\"prompt_tokens\":%zu,\"completion_tokens\":%zu", sum->prompt_tokens,
                      sum->completion_tokens);
        log_member_text(&members, "finish", sum->finish);
        if (sum->tokens_per_second > 0) buffer_format(&members, ",\"tokens_per_second\":%.1f", sum->tokens_per_second);
    }
    log_members(level, known(access->refusal) ? access->refusal : "request", &members);
    buffer_finish(&members);
}

void access_log(enum log_level level, const struct access *access) {
    if (!log_enabled(level)) return;
    if (log_is_json())
        log_json(level, access);
    else if (known(access->refusal))
        log_about(level, access->request_id, "a connection was refused with %d: %s", access->status, access->refusal);
    else
        log_text(level, access);
}
