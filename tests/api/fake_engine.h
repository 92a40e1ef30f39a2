// An engine without a model, for tests of the API: a tiny vocabulary, and events made by hand.
#ifndef TESTS_API_FAKE_ENGINE_H
#define TESTS_API_FAKE_ENGINE_H

#include "api/generation.h"
#include "engine/engine.h"

// The vocabulary: one token for each byte, and these. A text is encoded with a space in front, as Llama's
// tokenizers do; a chat message as `role:content` and END.
enum { FAKE_BOS = 256, FAKE_END, FAKE_THE, FAKE_A, FAKE_CAT, FAKE_VOCAB = 300 };

struct engine {
    struct engine_info info;
    struct engine_stats stats;
};

extern struct engine fake; // model "fake-model", 128 tokens of context

// Events on the stack; they live until the next call of the same function.
struct engine_event fake_text(const char *text);
struct engine_event fake_tokens(enum engine_event_type type, const char *text, const int32_t *tokens, int count);
struct engine_event fake_done(enum finish_reason finish, size_t completion_tokens);
struct engine_event fake_error(enum error_code code);

// Parses a body that must be good / must be refused, and returns it / its error.
struct generation *parse_good(const struct generation_kind *kind, const char *body);
struct error parse_bad(const struct generation_kind *kind, const char *body);

#endif
