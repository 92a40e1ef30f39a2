// Errors: one table of codes, one buffer for the cause that a person will read.
//
// A function that can fail returns 0 or a negative code from this table and, when the caller gave it a
// struct error, leaves the cause there: what was wrong, and what was expected. The buffer belongs to the
// caller; nothing here allocates, logs or keeps state, so any thread may use it.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

// name, value, and the words used when a function has nothing more precise to say.
#define ERROR_TABLE(X) \
    X(ERROR_ARGUMENT, -1, "an argument is not valid") \
    X(ERROR_MEMORY, -2, "out of memory") \
    X(ERROR_IO, -3, "a file could not be read or written") \
    X(ERROR_FORMAT, -4, "a file is damaged or not of the expected format") \
    X(ERROR_UNSUPPORTED, -5, "this is not supported") \
    X(ERROR_CONTEXT_LENGTH, -6, "the prompt and the requested tokens exceed the model's context") \
    X(ERROR_KV_CAPACITY, -7, "the request can never fit the KV cache") \
    X(ERROR_BUSY, -8, "the server is at capacity; try again later") \
    X(ERROR_CANCELLED, -9, "the request was cancelled") \
    X(ERROR_TIMEOUT, -10, "the request took too long") \
    X(ERROR_NUMERIC, -11, "the model produced numbers that are not finite") \
    X(ERROR_SHUTDOWN, -12, "the server is shutting down") \
    X(ERROR_INTERNAL, -13, "an internal error occurred") \
    X(ERROR_NOT_FOUND, -14, "there is no such resource") \
    X(ERROR_MODEL_NOT_FOUND, -15, "there is no such model") \
    X(ERROR_METHOD, -16, "this method is not allowed here") \
    X(ERROR_TOO_LARGE, -17, "the request is too large") \
    X(ERROR_MEDIA_TYPE, -18, "the content type is not supported") \
    X(ERROR_HEADERS, -19, "the request's headers are not acceptable") \
    X(ERROR_FORBIDDEN_HOST, -20, "the Host header does not name this server") \
    X(ERROR_API_KEY, -21, "an API key is missing or wrong") \
    X(ERROR_CHUNKS, -22, "the body is not properly divided into chunks")

enum error_code {
    ERROR_NONE = 0,
#define ERROR_ENUM(name, value, text) name = (value),
    ERROR_TABLE(ERROR_ENUM)
#undef ERROR_ENUM
};

enum { ERROR_MESSAGE_BYTES = 768, ERROR_PARAM_BYTES = 96 };

struct error {
    enum error_code code;
    char param[ERROR_PARAM_BYTES];     // the request field at fault, or ""
    char message[ERROR_MESSAGE_BYTES]; // always NUL-terminated, always valid UTF-8
    double retry_seconds;              // of ERROR_BUSY: worth another try then; 0: nobody knows
};

// Writes code and message into error (which may be NULL) and returns code, so that a failing function can
// end in `return error_set(error, ERROR_FORMAT, "…")`. A message that is too long is cut at a character.
int error_set(struct error *error, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// As error_set, and names the request field at fault.
int error_set_param(struct error *error, enum error_code code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// The same with the table's own words, where there is nothing more precise to say.
int error_set_code(struct error *error, enum error_code code);

// Puts "context: " in front of the message: the way a caller adds the file or the layer it was busy with.
int error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The table's words for a code; never NULL.
const char *error_text(enum error_code code);

#endif
