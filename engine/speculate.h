// Speculation: several tokens of one answer in one step. What may come next is looked up in the text (lookup.h) and
// computed along with the token that is next for sure; where the answer's own choice turns out to be what was guessed,
// the next row's logits are those it wants, and so on. The choice is made as ever, from the same logits and with the
// same draw, so guessing changes neither greedy nor drawn answers, only how many steps they take.
//
// A guess that is wrong costs something: a step of more rows takes longer. This file decides when to guess, by a rule
// with a number: no answer's time grows by more than SPECULATE_COST_MAX, the share, whoever guesses.
//
// Each answer has an account, in seconds. That share of all the time it takes, from the prompt on, is paid in. A step
// with guesses in it takes out what it takes, and pays in what its tokens would have taken one by one, for those that
// guess and those that only wait. Nothing is guessed unless every account covers the step's whole surplus, as if all
// guesses were wrong; and then as many tokens as promise the most tokens a second. Gains are kept up to a limit, so
// that what one part of a text has gained is not wasted on the rest.
//
// What steps take is measured all the time: the pace, in seconds for a step of one row, follows the machine quickly;
// the shape, how much longer one of so many rows takes, is nearly constant. How likely a guess is right is counted per
// answer, also where nothing is guessed: what came, is compared with what would have been. Pure: told the time, calls
// no device. The engine thread's.
#ifndef ENGINE_SPECULATE_H
#define ENGINE_SPECULATE_H

#include "engine/lookup.h"

#include <stdbool.h>

enum {
    SPECULATE_ROWS_MAX = 16, // of answers, in a step that has guesses in it
    SPECULATE_GUESSES_MAX = SPECULATE_ROWS_MAX - 1,
    SPECULATE_LENGTHS = 5,       // classes of matches by their length
    SPECULATE_REFRESH_STEPS = 16, // after so many steps with guesses comes one without, to see how long that takes
};
#define SPECULATE_COST_MAX 0.02
#define SPECULATE_SAVED_STEPS_MAX 8 // an account is kept up to so many plain steps
#define SPECULATE_GAIN_MIN 1.05     // expected tokens a second, over those of the plain step: below that, why bother

// What steps take. Starts as zeros.
struct step_costs {
    double pace;                          // seconds of a step of one row; 0: nothing is known yet
    double shape[SPECULATE_ROWS_MAX + 1]; // a step of so many rows takes so many times that, where it was seen
    int seen[SPECULATE_ROWS_MAX + 1];     // steps that say so, as far as they are not forgotten
    int64_t seen_at[SPECULATE_ROWS_MAX + 1], steps; // the last of them, of so many steps in all
    int since_plain;                      // steps since the last one without guesses
};

// A step of answers only has taken so long: `answers` of them, with `rows` in all.
void step_costs_measured(struct step_costs *costs, int answers, int rows, double seconds);

// What is known of one answer.
struct speculator {
    struct lookup *lookup; // NULL: nothing is guessed for it, but it may have to wait for others' guesses
    double right[SPECULATE_LENGTHS],
        tried[SPECULATE_LENGTHS]; // guesses at the next token, the older the less they count
    double account_seconds;
    int told; // tokens since speculator_pays

    int32_t guess[SPECULATE_GUESSES_MAX]; // [guesses] for the step that comes next
    int guesses;
    size_t guesses_made, guesses_right; // in steps, ever
};

// capacity: tokens of the text, all in all; 0: it guesses nothing.
int speculator_init(struct speculator *speculator, size_t capacity, struct error *error);
void speculator_finish(struct speculator *speculator); // takes one that is all zeros too

// The answer's next token has come, in whatever way. It is compared with what was to be expected.
void speculator_saw(struct speculator *speculator, int32_t token);

// Time has passed for it that nobody guessed in.
void speculator_waits(struct speculator *speculator, double seconds);

// A step with guesses has taken so long; told are the tokens that it has brought. costs: as they are after it.
void speculator_pays(struct speculator *speculator, const struct step_costs *costs, int answers, double seconds);

// Before a step: fills guess and guesses of each of the `count` answers that run. room[i]: the most it may guess.
// Returns their sum.
int speculate_plan(const struct step_costs *costs, struct speculator *const *running, const int *room, int count);

#endif
