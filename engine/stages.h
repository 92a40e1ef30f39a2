// The contract of a device: the stages that a model's forward pass is made of.
//
// reference/ implements it in plain C and is the oracle of every test; cpu/ implements it fast; placement.c shares it
// out between the CPU and OpenCL. All activations are fp32 and row-major; no stage keeps a pointer past its call, but
// for a mixture that has begun. The engine thread alone calls stages, one at a time; a stage may use threads of its own
// inside.
#ifndef ENGINE_STAGES_H
#define ENGINE_STAGES_H

#include "engine/batch.h"
#include "engine/kv_cache.h"
#include "engine/watch.h"
#include "engine/weights.h"

enum {
    ROUTE_TOP_K_MAX = 2, // SparseMixer as the family defines it picks two
    STAGE_STEADY_ROWS = 16, // see ROWS_BY_NUMBER
    STAGE_SLOTS = 3,        // mixtures that may have begun and not ended
};

// What the rows of a call are, which decides the arithmetic they are computed in: that of answers is the more exact,
// that of prompts the faster one where there are many rows. Within either of the two, what comes out for a row does not
// depend on the rows beside it, on their number or on its place among them, to the bit. So an answer is the same alone
// and in company, and a prompt's keys and values are the same in chunks of any size, whoever has computed them.
enum row_kind {
    ROWS_BY_NUMBER, // nobody has said: up to STAGE_STEADY_ROWS as those of answers, more as suits the device
    ROWS_OF_ANSWERS,
    ROWS_OF_PROMPTS,
};

// The shapes that a device prepares for.
struct stage_limits {
    int tokens_max;    // rows in one call
    int sequences_max; // whose rows they are; a guess in an answer counts as one
    int context_max;   // positions of one sequence
    int hidden, heads, kv_heads, head_dim, intermediate, experts, vocab;
    int threads;
    const char *kernels; // a name of ENGINE_KERNELS; NULL: the best there are
};

struct attention {
    int heads, kv_heads, head_dim;
    int window;          // a query at i sees keys j with i - window < j <= i
    const float *rope_cos; // [context_max][head_dim / 2]
    const float *rope_sin; // the same
    bool narrow;           // many rows may be multiplied in bf16, as they are with weights of bf16
};

// What the router decided for each row.
struct routing {
    int rows, top_k;
    int32_t *expert; // [rows][top_k]
    float *weight;   // [rows][top_k], not normalised
};

struct stages {
    const char *name;
    // One line for a person about what runs: kernels, instruction set, threads. Lives as long as the state.
    const char *(*describe)(const void *state);

    int (*open)(void **state, const struct stage_limits *limits, struct error *error);
    void (*close)(void *state); // takes NULL

    // What the device reaches at best, with matrices held in `weights`; see engine_measure. NULL: not to be measured.
    void (*measure)(void *state, enum weight_format weights, const void *memory, size_t bytes,
                    struct engine_limits *out);
    // Bytes a second that it reads from memory at best: `measure` without the arithmetic's peaks, which take longest.
    // NULL: not to be measured.
    double (*measure_reading)(void *state, const void *memory, size_t bytes);

    // Each of its threads keeps to a core of its own from now on, the calling one as well, where that pays; with false,
    // they are free again, and with them those that the calling one starts. Returns whether they keep to cores. NULL:
    // they run wherever they are put.
    bool (*pin)(void *state, bool pinned);

    // What the rows of `linear`, `linears`, `route` and `experts` are, from now on. NULL: there is one arithmetic for
    // all. `attention` sees it in its batch.
    void (*rows_are)(void *state, enum row_kind kind);

    // Whether rows of prompts are multiplied in weights that are unpacked for them, which a few rows do not pay for:
    // then brief prompts are computed as answers are (engine/sequence.h). NULL: no.
    bool (*unpacks)(const void *state, enum weight_format weights);

    // x[r] = table[token[r]]
    void (*embed)(void *state, const struct matrix *table, const int32_t *token, int rows, float *x);
    // y[r] = LayerNorm(x[r]); y may be x
    void (*norm)(void *state, const struct norm *norm, const float *x, float *y, int rows);
    // y[r] = W x[r] + bias, or y[r] += … with accumulate
    void (*linear)(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate);
    // y_i[r] = W_i x[r] + bias_i, of `count` matrices that read the same activations and are held in one format
    void (*linears)(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows);
    // Rotates q and k, writes k and v into the batch's pages of `layer`, then
    // out[r] = softmax(q[r] · keys / √head_dim) · values for every head.
    // q, out: [tokens][heads * head_dim]; k, v: [tokens][kv_heads * head_dim]; q and k are overwritten.
    void (*attention)(void *state, const struct attention *attention, const struct batch *batch,
                      const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out);
    // SparseMixer on router · x: fills routing->expert and ->weight
    void (*route)(void *state, const struct router *router, const float *x, int rows, struct routing *routing);
    // y[r] += Σ_slot weight · down(silu(gate x[r]) ⊙ up x[r]), which are added to each other before they are to y
    void (*experts)(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                    int rows);

    // All three or none. Both of these stages as one, which another device computes while the caller goes on: begun in
    // a slot that is free, ended in the order of beginning. x stays as it is until then. A layer lives as long as the
    // state. whole: so many rows there are with those of the other part, where `parts` says two.
    void (*mixture_begin)(void *state, int slot, const struct layer *layer, const float *x, int rows, int whole);
    void (*mixture_end)(void *state, int slot, float *y, struct routing *routing);
    // Into how many parts, 1 or 2, so many rows of a kind are best cut, so that both devices have work.
    int (*parts)(const void *state, enum row_kind kind, int rows);
    // What the other device has done since opening. NULL: there is none.
    void (*device_work)(const void *state, struct engine_device_work *out);
};

extern const struct stages reference_stages;
extern const struct stages cpu_stages;

#endif
