// Server-sent events, as OpenAI frames them: `data: …` and an empty line, without event names. Pure.
#ifndef API_SSE_H
#define API_SSE_H

#include "base/buffer.h"
#include "base/error.h"

#define SSE_CONTENT_TYPE "text/event-stream"
#define SSE_HEARTBEAT ": ping\n\n" // a comment, which clients skip: safe between two events

// Around an event's JSON, which must hold no line break (json_write_string sees to that).
void sse_begin(struct buffer *out);
void sse_end(struct buffer *out);

void sse_done(struct buffer *out);                             // the end of a stream that went well
void sse_error(struct buffer *out, const struct error *error); // the end of one that did not

#endif
