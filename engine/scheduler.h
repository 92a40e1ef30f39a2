// The scheduler: who runs in the next step. Pure and deterministic: it is shown every live sequence and names
// the rows of the next step; it calls no device, reads no clock, allocates nothing. A sequence keeps its place
// in the array as long as it lives, which is what makes turns fair; a free place is shown as a paused one.
//
// Two kinds of step take turns while both have work: one token for every sequence that decodes, or one bounded
// chunk of one prompt. So a running stream waits for at most one chunk, and prompts take their chunks in turn.
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>

struct scheduler_sequence { // what the scheduler needs to know of a sequence
    size_t prompt_left;     // prompt tokens not yet computed; 0: it decodes
    bool paused;            // its reader is slow, or the place is free: leave it out
};

enum scheduler_kind { SCHEDULE_NOTHING, SCHEDULE_PREFILL, SCHEDULE_DECODE };

struct scheduler {
    int prefill_tokens_max;
    bool decoded_last; // the step before was a decode step
    size_t turn;       // the place whose prompt comes first in the next prefill step
};

struct schedule {
    enum scheduler_kind kind;
    size_t sequence; // PREFILL: which one
    int tokens;      // PREFILL: how many of its prompt tokens
};

struct schedule scheduler_next(struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count);

#endif
