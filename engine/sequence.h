// A sequence: one request on its way through the steps. It knows what is computed, what comes next and what its
// job is told; it calls no device. Created by the submitting thread, then the engine thread's alone.
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "engine/detokenizer.h"
#include "engine/job.h"
#include "engine/prefix_cache.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/speculate.h"
#include "engine/stop_matcher.h"

// What sequences need to know of the model; outlives them.
struct sequence_model {
    const struct tokenizer *tokenizer;
    int vocab_size;
    const int32_t *eos; // [eos_count] tokens that end an answer
    int eos_count;
};

struct sequence {
    const struct sequence_model *model;
    struct engine_job *job; // the engine's reference

    int32_t *prompt; // [prompt_tokens], and room for the answer where that is kept too
    size_t prompt_tokens, tokens_max;
    bool ignore_eos, want_logprobs, prompt_logprobs;
    int top_logprobs;

    size_t computed;   // positions in the cache: of the prompt, then of the answer
    size_t cached;     // of the prompt, so many of them computed by others
    size_t generated;  // tokens of the answer
    int32_t newest;    // the last of them, which the next decode step computes
    bool brief;        // its prompt is short enough to be computed as answers are
    bool keeps_answer; // for others to go on from
    bool finished;     // nothing more will come, for this reason:
    enum finish_reason finish;

    int32_t *pages; // [pages_max] KV pages; the first page_count are taken
    int page_count;
    int pages_kept;                // so many of them, whole ones, the prefix cache knows
    bool suspect;                  // who knows what is in its pages: they are for nobody else
    int pages_max;                 // what prompt and answer can need at most; sure of them once admitted
    uint64_t salt;                 // whose prompts are found in the cache
    uint64_t client;               // who asks
    bool gave_way;                 // its place in the line went to another client
    uint64_t number;               // of its admission
    int overtaken;                 // how many were admitted before it while it was the head of the waiting line
    struct sequence *next_leaving; // among those that the engine thread is taking out of the line

    struct speculator speculator; // used where the engine speculates
    struct sampler *sampler;
    struct detokenizer detokenizer;
    struct stop_matcher stop_matcher;
    struct buffer piece, text; // of the newest token: as detokenized, and as it may be given out

    double submitted_at, admitted_at, answering_at; // clock_seconds(); 0: not yet
};

struct sequence_ways { // of the engine that it runs in
    bool keeps_answer; // in the prefix cache
    size_t brief_tokens; // prompts of up to so many are computed as answers are: their length alone decides, so that
                         // what comes out does not depend on what is beside them
    bool speculates;
};

// request is checked already (engine/admission.h); tokens_max is what it may generate at most.
int sequence_create(struct sequence **out, const struct engine_request *request, size_t tokens_max,
                    const struct sequence_ways *ways, const struct sequence_model *model, struct job_bell *bell,
                    struct error *error);
void sequence_destroy(struct sequence *sequence); // drops the job; pages must be back. Takes NULL

static inline size_t sequence_prompt_left(const struct sequence *sequence) {
    return sequence->computed < sequence->prompt_tokens ? sequence->prompt_tokens - sequence->computed : 0;
}

// Takes pages until they cover so many more positions. False when there is none, which admission excludes.
bool sequence_take_pages(struct sequence *sequence, struct prefix_cache *cache, int positions);
void sequence_give_pages(struct sequence *sequence, struct prefix_cache *cache); // all of them

// What others have computed of its prompt: how many whole pages of that it could hold now, and how many of these nobody
// holds. A prompt's last token is always computed, for it says what comes next; with prompt_logprobs all are.
int sequence_find_pages(const struct sequence *sequence, const struct prefix_cache *cache, int *idle);

// Holds those pages, and copies the one behind them as far as it goes on alike.
void sequence_reuse_pages(struct sequence *sequence, struct prefix_cache *cache);
void sequence_reuse_part(struct sequence *sequence, struct prefix_cache *cache);

// How many tokens of the page that comes next could be copied now.
int sequence_known_part(const struct sequence *sequence, const struct prefix_cache *cache);

// Whether it had better wait for `other`, which is computing the page that comes next here too, or enough more of it
// than the part that is `known`. Once that page is known there is no more to wait for.
bool sequence_follows(const struct sequence *sequence, const struct sequence *other, int known);

// Makes known what it has computed, once there is more of it.
void sequence_keep_pages(struct sequence *sequence, struct prefix_cache *cache);

// Tells of a computed chunk of the prompt. logits: [rows][vocab] with prompt_logprobs; otherwise [1][vocab], of
// the last row, once the prompt is complete. Chooses the first token then. On an error the sequence has to end.
int sequence_prefilled(struct sequence *sequence, int rows, const float *logits, struct error *error);

// How many tokens behind the newest one may be guessed: no more than it may still say, and its reader has room for.
int sequence_guess_room(const struct sequence *sequence);

// Tells of `rows` computed tokens of the answer, the newest one and those guessed behind it, and chooses the next ones
// from logits [rows][vocab], as long as what it chooses is what was guessed. Keys and values of the others are dropped.
int sequence_decoded(struct sequence *sequence, int rows, const float *logits, struct error *error);

struct engine_usage sequence_usage(const struct sequence *sequence);

#endif
