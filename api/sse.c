#include "api/sse.h"

#include "api/reply.h"

void sse_begin(struct buffer *out) {
    buffer_text(out, "data: ");
}

void sse_end(struct buffer *out) {
    buffer_text(out, "\n\n");
}

void sse_done(struct buffer *out) {
    buffer_text(out, "data: [DONE]\n\n");
}

void sse_error(struct buffer *out, const struct error *error) {
    sse_begin(out);
    api_error_event(error, out);
    sse_end(out);
}
