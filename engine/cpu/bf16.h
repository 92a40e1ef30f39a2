// Products of bf16 weights with many rows of activations that are rounded to bf16 too; the sums are f32.
//
// The activations are packed once, so that one vector holds two neighbouring columns of sixteen rows, which is what the
// processor's bf16 instructions multiply. Weights need no such order: they stay as they lie in the file,
// [outputs][columns], but for ragged ends, which are copied to a panel with zeros around them. A result is summed as
// [output][row], and turned round when it is stored. One table of kernels for each set of instructions:
// single-threaded, without state, any thread.
#ifndef ENGINE_CPU_BF16_H
#define ENGINE_CPU_BF16_H

#include "engine/quants/packed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BF16_GROUP = 16,                            // rows that are packed together
    BF16_STEP = 32,                             // columns that packed rows and panels are padded to a multiple of
    BF16_OUTPUTS = 32,                          // outputs of a panel
    BF16_DEPTH = 512,                           // columns of a panel
    BF16_PANEL = BF16_OUTPUTS * BF16_DEPTH,     // [steps][BF16_OUTPUTS][BF16_STEP]
    BF16_PANEL_STEP = BF16_OUTPUTS * BF16_STEP, // of which values of one step
    BF16_OUTPUTS_STEP = 16,                     // outputs that panels and sums are padded to a multiple of
    BF16_PASS_GROUPS = 6,                       // that so many outputs are multiplied with in one pass over the weights
};

// Memory that will be wanted soon: it is asked for while a block is computed.
struct bf16_next {
    const void *from;    // NULL: none is known
    size_t stride_bytes; // from one row to the next
    int rows, lines;     // cache lines of each row
};

// sum[o][r] (+)= Σ_k weight[o][k] · x[r][k]
struct bf16_block {
    // Output o of step s at weight + o * weight_stride + s * step_stride: as they lie, whole steps of a multiple of
    // BF16_OUTPUTS_STEP outputs; or a panel.
    const uint16_t *weight;
    size_t weight_stride, step_stride;
    int outputs, steps; // at most BF16_OUTPUTS; steps of the depth
    const uint16_t *x;  // group g at x + g * group_stride: [steps][BF16_STEP / 2][BF16_GROUP][2]
    size_t group_stride;
    int groups;
    float *sum; // group g at sum + g * sum_stride: [outputs, padded][BF16_GROUP]
    size_t sum_stride;
    bool add; // to what is there
    struct bf16_next next;
};

// y[row[r]][o] = or += scale[r] · sum[o][r] + bias[o]
struct bf16_store {
    const float *sum; // group g at sum + g * sum_stride: [outputs, padded][BF16_GROUP]
    size_t sum_stride;
    int outputs, rows;
    const float *bias;  // [outputs], or NULL
    const float *scale; // [rows], or NULL: 1
    const int *row;     // [rows], or NULL: r itself
    float *y;           // from the first output on
    size_t y_stride;
    bool add;
};

struct bf16_kernels {
    const char *name;
    void (*begin)(void), (*end)(void); // around the blocks that a thread computes
    // weight [outputs][stride], of which `depth` columns, to a panel whose missing outputs and columns become 0 up to
    // the next multiples of BF16_OUTPUTS_STEP and BF16_STEP.
    void (*panel)(const uint16_t *weight, size_t stride, int outputs, int depth, uint16_t *panel);
    // The same of blocks of int8 or int4 (engine/quants/packed.h) of a matrix with so many columns, each weight rounded
    // to bf16. `outputs` begin with a block, and so do `depth` columns.
    void (*unpack)(enum weight_format format, const void *blocks, int columns, int outputs, int depth, uint16_t *panel);
    void (*block)(const struct bf16_block *block);
    // Up to BF16_GROUP rows, x[row[r]] or x[r], to [columns / 2][BF16_GROUP][2]; missing rows and columns become 0 up
    // to the next multiple of BF16_STEP columns.
    void (*pack)(const float *x, size_t x_stride, const int *row, int rows, int columns, uint16_t *to);
    // The same from sums, whose outputs become columns.
    void (*pack_sums)(const float *sum, size_t sum_stride, int outputs, int groups, uint16_t *to, size_t group_stride);
    void (*store)(const struct bf16_store *store);
};

// The kernels of a level; NULL where this build or this machine has none. BF16_AMX asks Linux for leave to use the
// tiles, on behalf of the whole process.
enum bf16_level { BF16_NONE, BF16_AVX512, BF16_AMX, BF16_LEVELS };
const struct bf16_kernels *bf16_kernels_at(enum bf16_level level);
enum bf16_level bf16_best(void);

#endif
