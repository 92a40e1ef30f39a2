#include "api/logprobs.h"

#include "api/json.h"
#include "base/utf8.h"

#include <math.h>
#include <string.h>

void logprobs_write_token(struct buffer *out, const struct engine *engine, int32_t token) {
    size_t bytes = 0;
    const char *text = engine_token_text(engine, token, &bytes);
    if (!text) bytes = 0;
    if (bytes == 0 || (utf8_valid(text, bytes) && !memchr(text, '\0', bytes))) {
        json_write_string(out, text, bytes);
        return;
    }
    buffer_text(out, "\"bytes:");
    for (size_t i = 0; i < bytes; i++) buffer_format(out, "\\\\x%02x", (unsigned char)text[i]);
    buffer_text(out, "\"");
}

void logprobs_write_bytes(struct buffer *out, const struct engine *engine, int32_t token) {
    size_t bytes = 0;
    const char *text = engine_token_text(engine, token, &bytes);
    if (!text) {
        buffer_text(out, "null");
        return;
    }
    buffer_text(out, "[");
    for (size_t i = 0; i < bytes; i++) buffer_format(out, i ? ",%d" : "%d", (unsigned char)text[i]);
    buffer_text(out, "]");
}

void logprobs_write_value(struct buffer *out, float logprob) {
    if (isnan(logprob))
        buffer_text(out, "null");
    else
        buffer_format(out, "%.9g", (double)(logprob < -9999.0f ? -9999.0f : logprob));
}
