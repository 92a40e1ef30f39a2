// Tokens and their log-probabilities as JSON. Pure.
#ifndef API_LOGPROBS_H
#define API_LOGPROBS_H

#include "base/buffer.h"
#include "engine/engine.h"

// A token as a string: its text where that is valid UTF-8 by itself and holds no NUL (which some JSON readers do not
// take), else spelled out as "bytes:\xe2\x80".
void logprobs_write_token(struct buffer *out, const struct engine *engine, int32_t token);

// Its bytes as an array of numbers; null for a token that has none.
void logprobs_write_bytes(struct buffer *out, const struct engine *engine, int32_t token);

// A log-probability. JSON knows no infinity: what is out of its reach is -9999, as OpenAI has it; NAN is null.
void logprobs_write_value(struct buffer *out, float logprob);

#endif
