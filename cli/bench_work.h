// The measurements of tandem bench: drives an open engine and sums what its steps tell. The command's thread; the
// engine thread reports through bench_watch.
#ifndef CLI_BENCH_WORK_H
#define CLI_BENCH_WORK_H

#include "engine/engine.h"
#include "engine/watch.h"

#include <pthread.h>

enum {
    BENCH_RUNS_MAX = 100,
    BENCH_BATCH_MAX = 32,
    BENCH_LIMITS_MAX = 32,  // times that the machine's limits are measured
    BENCH_DECODE_STEPS = 8, // of one run
    BENCH_STEP_ROWS_MAX = 16,
};

// What is measured. A prefill: a prompt of so many tokens, alone. A decode: `batch` answers that grow behind prompts of
// `tokens` tokens each.
struct bench_point {
    bool prefill;
    int batch, tokens;
    bool quick; // --quick measures it too
};

struct bench_sum { // of steps
    int steps;
    double tokens, seconds;
    struct engine_stage_work stages[ENGINE_STAGE_COUNT];
    struct engine_device_work device;
};

struct bench_result {
    struct bench_point point;
    int runs;
    double rate[BENCH_RUNS_MAX];        // tokens a second, of each run
    double first_token[BENCH_RUNS_MAX]; // a prefill's: seconds from submission to the first token
    struct bench_sum all;               // of all runs
};

struct bench_samples { // of one limit
    double of[BENCH_LIMITS_MAX];
    int count;
};

struct bench_steps { // of one answer, by how many rows they had: bench_guess.h
    double seconds[BENCH_STEP_ROWS_MAX + 1];
    int count[BENCH_STEP_ROWS_MAX + 1];
};

struct bench {
    struct engine *engine;
    int runs;
    float *memory; // [memory_bytes] to read
    size_t memory_bytes;
    struct bench_samples read_bytes, f32, bf16, int8, peak;
    bool one_by_one;        // nothing is guessed, whatever is asked for
    bool synthetic;         // random weights, made and not loaded
    const char *arithmetic; // NULL: there are no limits
    bool cached; // the weights fit the processor's cache, so that memory does not limit how fast they are read
    uint64_t dice;
    void (*tell)(const struct bench_point *point, int run, int runs); // before each run

    pthread_mutex_t lock; // guards what the engine thread adds to
    struct bench_point wanted;
    int warm_up; // decode steps to leave out still
    struct bench_result *result;
    struct bench_sum run; // the one that is under way
    struct bench_steps steps;
};

void bench_watch(void *bench, const struct engine_step *step); // engine_options.watch

// Takes memory to read: as much as is useful and free; quick: less of it. ERROR_MEMORY.
int bench_take_memory(struct bench *bench, bool quick, struct error *error);

// Measures the machine's limits once more. No error for kernels that have none.
int bench_measure(struct bench *bench, struct error *error);

// Warms up and measures a point. ERROR_CONTEXT_LENGTH where the model's context is too short for it.
int bench_run(struct bench *bench, const struct bench_point *point, struct bench_result *out, struct error *error);

// Random token ids, others each time, so that nothing is found in a cache.
void bench_fill_prompt(struct bench *bench, int32_t *ids, int count);

// Such ids as JSON, to be freed by free. NULL: out of memory.
char *bench_write_prompt(struct bench *bench, int count);

// Hands requests to the engine itself: `together` at once and the next when one has ended. *seconds: all of it.
int bench_drive(struct bench *bench, int together, int requests, int prompt_tokens, int new_tokens, double *seconds,
                struct error *error);

// Tokens of KV cache that a point needs.
size_t bench_kv_tokens(const struct bench_point *point, int runs);

double bench_median(const double *values, int count); // 0 of none
double bench_deviation(const double *values, int count); // of a sample; 0 of fewer than two
// Tokens a second as everywhere here: all tokens by all the time they took, so that shares, profile and rate agree.
double bench_rate(const struct bench_result *result);

// Shares of the limits; 0 where those are not known, or do not limit.
double bench_share_of_peak(const struct bench *bench, const struct bench_result *result);
double bench_share_of_bandwidth(const struct bench *bench, const struct bench_result *result);

#endif
