// The scheduler: who runs in the next step. Pure and deterministic: it is shown every live sequence and says how many
// rows of each the next step computes; it calls no device, reads no clock, allocates nothing. A sequence keeps its
// place in the array as long as it lives, which is what makes turns fair; a free place is shown as a paused one.
//
// Every step computes one token of every sequence that decodes, and beside them a bounded number of rows of prompts,
// the chunk. So a running stream waits for no more than one chunk. The chunk is what a target for the time of such a
// step allows, going by how long the steps before have taken; without a target, or while nobody decodes, it is as large
// as it may be.
//
// While nobody decodes, prompts that wait together go together: those that are no longer than a chunk are computed
// whole, as far as several chunks go and not too long a time. Rows cost less in larger steps, and whose first token
// came sooner would only hold up the others: from then on there are small chunks for them, or large ones between his
// tokens. For the same reason a step after a rest may wait a moment for more prompts: those that are sent together come
// one by one.
//
// Prompts share the chunk like this: one part in TURN_SHARE goes to them in turns, whatever their length; the rest to
// the client who needs least for all prompts of his, of these to the one that needs least, then to the next. So short
// prompts hardly wait for long ones, nor who asks once for who asks many times at once; and a long one, of P prompts
// that there are, gets at least that part of a chunk in every P steps, however many short ones come.
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>

enum {
    SCHEDULER_TURN_SHARE = 4,
    SCHEDULER_CHUNK_MIN = 64, // a chunk is at least so long: reading the weights for it takes most of its time anyway
    SCHEDULER_TOGETHER = 4,   // chunks of prompts that go together …
    SCHEDULER_TOGETHER_ROWS_MAX = 2048, // … but no more rows, for they take memory; where a chunk is longer, that
};
#define SCHEDULER_TOGETHER_SECONDS 5 // and no more than take so long, if the last ones tell: nothing else happens then
#define SCHEDULER_ROWS_EXPONENT 0.75   // of the time of such a step: twice the rows take 1.7 times as long
#define SCHEDULER_GAP_SHARE 0.02       // of the time that prompts at hand take: so long the next one is waited for …
#define SCHEDULER_WAIT_SHARE 0.1       // … and so long all that come, one behind the other …
#define SCHEDULER_WAIT_SECONDS_MAX 0.1 // … or this, whatever the last ones took

struct scheduler_sequence { // what the scheduler needs to know of a sequence
    size_t prompt_left;     // prompt tokens not yet computed; 0: it decodes
    size_t client_left;     // the same of all prompts that its client has here, or of whoever waits for this one
    int rows_max;           // of its prompt in one step; 0: no bound of its own
    bool paused;            // its reader is slow, or the place is free: leave it out
};

struct scheduler {
    int prefill_tokens_max;     // a chunk: rows of prompts in one step, but for those that go together
    double step_target_seconds; // of one that decodes and computes prompts; 0: none
    size_t turn;                // the place whose prompt comes first in the next step
    size_t planned_turn;        // in the step behind the one that was planned last
    double chunk;               // rows of prompts that the target allows; 0: nothing is known yet
    int planned;                // rows of prompts in the step that was planned last
    bool planned_alone;         // nobody decodes in it
    int alone_rows;             // in the step without answers that tells most of such steps; 0: there was none
    double alone_seconds;       // that it took
};

// The rows of prompts that a step may have at most, where prefill_tokens_max is this.
int scheduler_rows_max(int prefill_tokens_max);

// Fills rows [count] and returns their sum; 0: there is nothing to do. A plan that is not carried out is forgotten: the
// same sequences get the same rows again.
int scheduler_next(struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count, int *rows);

// For how many seconds the step that was planned last may still be put off after a rest, so that more prompts come
// along: since_first seconds after the first of its prompts came, and since_last after the last did. One that is alone
// is put off for SCHEDULER_GAP_SHARE of its time; many that come together are, as long as they come, for
// SCHEDULER_WAIT_SHARE. 0: it is time to go, for somebody decodes, there is no room for more, or nothing is known of
// what prompts take.
double scheduler_patience(const struct scheduler *scheduler, double since_first, double since_last);

// Tells that the step that was planned last was carried out, and how long that took.
void scheduler_measured(struct scheduler *scheduler, double seconds);

#endif
