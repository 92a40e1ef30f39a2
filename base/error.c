#include "base/error.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

// What came from outside may be quoted in a message; it must not carry broken UTF-8 or control characters
// into a log line or a JSON string.
static void clean(char *text) {
    size_t length = strlen(text);
    size_t at = 0;
    while (at < length) {
        unsigned char byte = (unsigned char)text[at];
        size_t width = utf8_decode(text + at, length - at, NULL);
        if (width == 0) {
            if (length - at < 4 && utf8_is_prefix(text + at, length - at)) { // cut in mid-character by vsnprintf
                text[at] = '\0';
                return;
            }
            text[at++] = '?';
        } else {
            if (byte < 0x20 || byte == 0x7f) text[at] = ' ';
            at += width;
        }
    }
}

static void set(struct error *error, enum error_code code, const char *param, const char *format, va_list args) {
    if (!error) return;
    error->code = code;
    error->retry_seconds = 0;
    snprintf(error->param, sizeof error->param, "%s", param);
    clean(error->param);
    vsnprintf(error->message, sizeof error->message, format, args);
    clean(error->message);
}

int error_set(struct error *error, enum error_code code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    set(error, code, "", format, args);
    va_end(args);
    return code;
}

int error_set_param(struct error *error, enum error_code code, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    set(error, code, param, format, args);
    va_end(args);
    return code;
}

int error_set_code(struct error *error, enum error_code code) {
    return error_set(error, code, "%s", error_text(code));
}

int error_prefix(struct error *error, const char *format, ...) {
    if (!error) return ERROR_INTERNAL;
    char front[ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(front, sizeof front, format, args);
    va_end(args);

    char whole[2 * ERROR_MESSAGE_BYTES + 2];
    snprintf(whole, sizeof whole, "%s: %s", front, error->message);
    snprintf(error->message, sizeof error->message, "%.*s", ERROR_MESSAGE_BYTES - 1, whole);
    clean(error->message);
    return error->code;
}

const char *error_text(enum error_code code) {
    switch (code) {
    case ERROR_NONE: return "no error";
#define ERROR_CASE(name, value, text) \
    case name: return text;
        ERROR_TABLE(ERROR_CASE)
#undef ERROR_CASE
    }
    return "an unknown error occurred";
}
