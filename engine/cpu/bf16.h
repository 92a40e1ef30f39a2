// Products of bf16 weights with many rows of activations that are rounded to bf16 too; the sums are f32.
//
// The weights stay as they lie in the file, [outputs][columns]; the activations are packed so that one vector holds
// two neighbouring columns of sixteen rows, which is what the processor's bf16 instructions multiply. A result is
// summed as [output][row], and turned round when it is stored. One table of kernels for each set of instructions:
// single-threaded, without state, any thread.
#ifndef ENGINE_CPU_BF16_H
#define ENGINE_CPU_BF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BF16_GROUP = 16,   // rows that are packed together
    BF16_OUTPUTS = 32, // outputs of one block
    BF16_STEP = 32,    // columns that packed rows are padded to a multiple of
};

enum bf16_level { BF16_NONE, BF16_AVX512, BF16_AMX, BF16_LEVELS };

// sum[o][r] (+)= Σ_k weight[o][k] · x[r][k] over `depth` columns
struct bf16_block {
    const uint16_t *weight; // [outputs][weight_stride]
    size_t weight_stride;
    int outputs;       // at most BF16_OUTPUTS
    const uint16_t *x; // group g at x + g * group_stride: [depth / 2][BF16_GROUP][2]
    size_t group_stride;
    int groups, depth;
    float *sum; // [outputs][sum_stride]
    size_t sum_stride;
    bool add; // to what is there
    // Weights that will be wanted next, as many rows and columns as here; NULL: none are known. They are asked for from
    // memory while this block is computed.
    const uint16_t *next;
    size_t next_stride;
};

// y[row[r]][o] = or += scale[r] · sum[o][r] + bias[o]
struct bf16_store {
    const float *sum; // [outputs][sum_stride]
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
    void (*block)(const struct bf16_block *block);
    // Up to BF16_GROUP rows, x[row[r]] or x[r], to [columns / 2][BF16_GROUP][2]; missing rows and columns become 0 up
    // to the next multiple of BF16_STEP columns.
    void (*pack)(const float *x, size_t x_stride, const int *row, int rows, int columns, uint16_t *to);
    // The same from sums, whose outputs become columns: sum [outputs][sum_stride] of `groups` groups of rows.
    void (*pack_sums)(const float *sum, size_t sum_stride, int outputs, int groups, uint16_t *to, size_t group_stride);
    void (*store)(const struct bf16_store *store);
};

// The kernels of a level; NULL where this build or this machine has none. BF16_AMX asks Linux for leave to use the
// tiles, on behalf of the whole process.
const struct bf16_kernels *bf16_kernels_at(enum bf16_level level);
enum bf16_level bf16_best(void);

#endif
