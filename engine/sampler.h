// The sampler: logits to a token, with log-probabilities. Pure but for its own random state and scratch;
// one per sequence, used by one thread at a time. Logits may be -inf: such a token is ruled out.
//
// Order: logit_bias, repetition penalty (prompt and answer), presence and frequency penalties (answer),
// then, unless temperature is 0 (the most likely token, the smallest id among equals): top_k, temperature,
// top_p, min_p, and one draw. Log-probabilities are those of the logits as the model gave them.
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "engine/engine.h"

struct sampler;

// sampling is copied, the bias too; its values are the caller's to check, token ids against vocab_size as well.
int sampler_create(struct sampler **out, const struct sampling *sampling, int vocab_size, struct error *error);
void sampler_destroy(struct sampler *sampler); // takes NULL

// Tells of a token in the prompt or in the answer, for the penalties.
void sampler_saw_prompt(struct sampler *sampler, int32_t token);
void sampler_saw_answer(struct sampler *sampler, int32_t token);

// Chooses from logits [vocab_size], which it leaves as they are. ERROR_NUMERIC when one is NaN or +inf, or all
// are -inf.
int sampler_choose(struct sampler *sampler, const float *logits, int32_t *token, struct error *error);

// Log-probability of `token` and the `count` (0..20) most likely, in falling order, smaller ids first among
// equals. Returns how many it wrote to top (fewer than count when fewer tokens are possible), or ERROR_NUMERIC
// as sampler_choose. A ruled-out token's own log-probability is -inf.
int sampler_logprobs(const float *logits, int vocab_size, int32_t token, float *logprob, struct token_logprob *top,
                     int count, struct error *error);

#endif
