// What guessing (engine/speculate.h) gains and costs: tandem bench --guess asks the same with and without, in turns, of
// one answer at a time. Answers that are foretold in whole stand for copying, those of which a word now and then is
// another for correcting a text, and those of which every third is another for guesses that mislead: the worst that a
// text can do.
#ifndef CLI_BENCH_GUESS_H
#define CLI_BENCH_GUESS_H

#include "cli/bench_work.h"

#include <jansson.h>

enum {
    BENCH_GUESS_ROWS = 4,
    BENCH_GUESS_PROMPT_TOKENS = 64, // of random weights
    BENCH_GUESS_NEW_TOKENS = 160,   // at most
    BENCH_GUESS_CONTEXT = 1024,     // for both, generously
};

struct bench_guess {
    const char *name;
    int wrong_every;          // of the tokens that are foretold, one in so many; 0: nothing is foretold; INT_MAX: none
    size_t tokens;            // of the answers, but for each one's first
    double seconds[2];        // writing them without guesses, with
    size_t guessed, right;
};

struct bench_guesses {
    struct bench_guess rows[BENCH_GUESS_ROWS];
    struct bench_steps steps;
};

// ERROR_INTERNAL where an answer is another with guesses, or ends earlier.
int bench_guess(struct bench *bench, int rounds, struct bench_guesses *out, struct error *error);
void bench_guess_watch(void *bench, const struct engine_step *step); // engine_options.watch

json_t *bench_guess_json(const struct bench_guesses *guesses);

#endif
