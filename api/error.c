#include "api/json.h"
#include "api/reply.h"
#include "base/wrap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// What a client sees of an error code. Codes that should never reach one are told as an internal error.
struct row {
    enum error_code code;
    int status;
    const char *type, *openai_code; // openai_code NULL: null
    double retry_after_seconds;     // where the error knows of no better one; 0: do not say
    bool never_retry;               // the same request would fail again, so SDKs must not try
};

#define INVALID "invalid_request_error"
#define SERVER "server_error"

static const struct row ROWS[] = {
    {ERROR_INTERNAL, 500, SERVER, "internal_error", 0, false}, // first: stands for what is not listed
    {ERROR_ARGUMENT, 400, INVALID, NULL, 0, false},
    {ERROR_UNSUPPORTED, 400, INVALID, "unsupported_parameter", 0, false},
    {ERROR_CONTEXT_LENGTH, 400, INVALID, "context_length_exceeded", 0, false},
    {ERROR_KV_CAPACITY, 400, INVALID, "kv_capacity_exceeded", 0, false},
    {ERROR_HEADERS, 400, INVALID, "invalid_headers", 0, false},
    {ERROR_CHUNKS, 400, INVALID, "invalid_chunks", 0, false},
    {ERROR_API_KEY, 401, INVALID, "invalid_api_key", 0, false},
    {ERROR_FORBIDDEN_HOST, 403, "permission_error", "forbidden_host", 0, false},
    {ERROR_NOT_FOUND, 404, INVALID, "not_found", 0, false},
    {ERROR_MODEL_NOT_FOUND, 404, INVALID, "model_not_found", 0, false},
    {ERROR_METHOD, 405, INVALID, "method_not_allowed", 0, false},
    {ERROR_TIMEOUT, 408, INVALID, "request_timeout", 0, false},
    {ERROR_TOO_LARGE, 413, INVALID, "too_large", 0, false},
    {ERROR_MEDIA_TYPE, 415, INVALID, "unsupported_media_type", 0, false},
    {ERROR_BUSY, 429, "rate_limit_error", "rate_limit_exceeded", 1, false},
    {ERROR_CANCELLED, 499, INVALID, "request_cancelled", 0, false},
    {ERROR_NUMERIC, 500, SERVER, "numeric_error", 0, true},
    {ERROR_MEMORY, 503, SERVER, "out_of_memory", 2, false},
    {ERROR_SHUTDOWN, 503, SERVER, "shutting_down", 2, false},
};

static const struct row *find(enum error_code code) {
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (ROWS[i].code == code) return &ROWS[i];
    return &ROWS[0];
}

int api_error_status(enum error_code code) {
    return find(code)->status;
}

const char *api_error_name(enum error_code code) {
    const struct row *row = find(code);
    return row->openai_code ? row->openai_code : row->type;
}

// Messages are written to stand behind "tandem serve: "; here they begin as sentences do, unless with a field's name.
static void write_sentence(const struct error *error, char out[ERROR_MESSAGE_BYTES]) {
    snprintf(out, ERROR_MESSAGE_BYTES, "%s", error->message[0] ? error->message : error_text(find(error->code)->code));
    bool field = error->param[0] && strncmp(out, error->param, strlen(error->param)) == 0;
    if (!field && out[0] >= 'a' && out[0] <= 'z') out[0] = (char)(out[0] - 'a' + 'A');
}

static double retry_seconds(const struct error *error) {
    return error->retry_seconds > 0 ? error->retry_seconds : find(error->code)->retry_after_seconds;
}

void api_retry_after(double seconds, char whole_seconds[API_RETRY_BYTES], char milliseconds[API_RETRY_BYTES]) {
    snprintf(whole_seconds, API_RETRY_BYTES, "%.0f", ceil(seconds));
    snprintf(milliseconds, API_RETRY_BYTES, "%.0f", ceil(seconds * 1000));
}

// All but the closing brace.
static void write_object(const struct error *error, struct buffer *out) {
    const struct row *row = find(error->code);
    char message[ERROR_MESSAGE_BYTES];
    write_sentence(error, message);
    buffer_text(out, "{\"message\":");
    json_write_text(out, message);
    buffer_format(out, ",\"type\":\"%s\",\"param\":", row->type);
    if (error->param[0])
        json_write_text(out, error->param);
    else
        buffer_text(out, "null");
    buffer_text(out, ",\"code\":");
    if (row->openai_code)
        json_write_text(out, row->openai_code);
    else
        buffer_text(out, "null");
}

void api_error_object(const struct error *error, struct buffer *out) {
    write_object(error, out);
    buffer_text(out, "}");
}

void api_error_event(const struct error *error, struct buffer *out) {
    char seconds[API_RETRY_BYTES], milliseconds[API_RETRY_BYTES];
    buffer_text(out, "{\"error\":");
    write_object(error, out);
    buffer_format(out, ",\"status\":%d", api_error_status(error->code));
    api_retry_after(retry_seconds(error), seconds, milliseconds);
    if (retry_seconds(error) > 0) buffer_format(out, ",\"retry_after_ms\":%s", milliseconds);
    buffer_text(out, "}}");
}

void api_error_text(struct buffer *out) {
    enum { TEXT_COLUMN = 5 };
    for (int status = 400; status < 600; status++)
        for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
            if (ROWS[i].status != status) continue;
            buffer_format(out, "%-*d%s (%s)\n%*s", TEXT_COLUMN, status,
                          ROWS[i].openai_code ? ROWS[i].openai_code : "null", ROWS[i].type, TEXT_COLUMN, "");
            wrap_text(out, error_text(ROWS[i].code), TEXT_COLUMN, TEXT_COLUMN, WRAP_COLUMNS);
            buffer_text(out, "\n");
        }
}

void api_reply_init(struct api_reply *reply) {
    *reply = (struct api_reply){.status = 200, .content_type = "application/json"};
    buffer_init(&reply->body, API_REPLY_BYTES_MAX);
}

void api_reply_error(struct api_reply *reply, const struct error *error) {
    const struct row *row = find(error->code);
    reply->status = row->status;
    reply->content_type = "application/json";
    reply->retry_after_seconds = retry_seconds(error);
    reply->never_retry = row->never_retry;
    buffer_clear(&reply->body);
    buffer_text(&reply->body, "{\"error\":");
    api_error_object(error, &reply->body);
    buffer_text(&reply->body, "}");
}

// The distinct values of a column: every type, or every code there is.
static void write_values(struct buffer *out, bool types) {
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const char *value = types ? ROWS[i].type : ROWS[i].openai_code;
        bool again = !value;
        for (size_t j = 0; j < i && !again; j++) again = types && strcmp(ROWS[j].type, value) == 0;
        if (again) continue;
        if (i > 0) buffer_text(out, ", ");
        json_write_text(out, value);
    }
}

void api_error_schema(struct buffer *out) {
    buffer_text(out, "{\"type\": \"object\", \"required\": [\"message\", \"type\", \"param\", \"code\"], "
                     "\"properties\": {\"message\": {\"type\": \"string\", \"minLength\": 1}, "
                     "\"type\": {\"enum\": [");
    write_values(out, true);
    buffer_text(out, "]}, \"param\": {\"type\": [\"string\", \"null\"], \"minLength\": 1}, \"code\": {\"enum\": [");
    write_values(out, false);
    buffer_text(out,
                ", null]}, \"status\": {\"type\": \"integer\", \"description\": \"In a stream only: what the HTTP "
                "status would have been\"}, \"retry_after_ms\": {\"type\": \"integer\", \"description\": \"In a stream "
                "only, where it is worth another try then\"}}, \"additionalProperties\": false}");
}
