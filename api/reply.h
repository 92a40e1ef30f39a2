// What the API answers: a status, a content type and a body. Owned by whoever declared it.
#ifndef API_REPLY_H
#define API_REPLY_H

#include "base/buffer.h"
#include "base/error.h"

struct api_reply {
    int status;                 // HTTP
    const char *content_type;   // static text
    struct buffer body;         // the owner calls buffer_finish
    double retry_after_seconds; // > 0: tell the client when to come back
    bool never_retry;           // a failure that would repeat: tells SDKs not to try again
};

enum { API_REPLY_BYTES_MAX = 64 * 1024 * 1024 };

void api_reply_init(struct api_reply *reply); // 200, application/json, empty

enum { API_RETRY_BYTES = 24 };

// What the headers retry-after and retry-after-ms say, both rounded up: nobody is to come too early.
void api_retry_after(double seconds, char whole_seconds[API_RETRY_BYTES], char milliseconds[API_RETRY_BYTES]);

// Turns the reply into the OpenAI error object for this cause, dropping what was in it.
void api_reply_error(struct api_reply *reply, const struct error *error);

// The error object for the middle of a stream, whose status and headers are gone: it has "status" too, and
// "retry_after_ms" where a header would say so.
void api_error_event(const struct error *error, struct buffer *out);
void api_error_object(const struct error *error, struct buffer *out); // the inner object, for an answer that says more
int api_error_status(enum error_code code);
const char *api_error_name(enum error_code code); // its code in the answer, or its type where that has none: for logs
void api_error_text(struct buffer *out); // the table of all errors, for people

// The JSON Schema of the inner object, on one line.
void api_error_schema(struct buffer *out);

#endif
