// One step's work as flat arrays: which tokens, at which positions, of which sequences, and whose logits are
// wanted. Built by the engine for each step, read by the architecture and the stages; owned by the engine.
#ifndef ENGINE_BATCH_H
#define ENGINE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

// A run of rows that belong to one sequence, at consecutive positions. A row of an answer is a run of its own; guesses
// (engine/speculate.h) are further runs of the same sequence behind it.
struct batch_sequence {
    int first, count;   // rows [first, first + count)
    int position;       // of the first row; keys [0, position) are in the cache already
    const int32_t *pages; // KV page of position p: pages[p / KV_PAGE_TOKENS]; covers position + count
};

struct batch {
    int tokens;               // rows in all, at least 1
    int answers;              // so many of them are answers', the first ones, in runs of one row; the rest are prompts'
    int brief;                // so many behind these are brief prompts': all but their attention is as answers' is
    const int32_t *token;     // [tokens]
    const int32_t *position;  // [tokens]
    int sequences;
    const struct batch_sequence *sequence; // [sequences], rows in order, together all of them
    int outputs;              // rows whose logits are wanted
    const int32_t *output;    // [outputs] row numbers, ascending
    // Whether nobody waits for any of this any more, asked by the engine thread between layers; NULL: somebody does.
    bool (*unwanted)(void *user);
    void *unwanted_user;
};

#endif
