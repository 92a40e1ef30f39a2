// Products with weights in int8 or int4 (engine/quants/packed.h), multiplied as bytes: activations are quantized too,
// to int8 with a scale for each group of 32 columns.
//
// Some channels of large models are tens to hundreds of times the rest, and would cost all of their group its
// precision. So a value that is OUTLIER_TIMES the next largest of its group is left out of it, and multiplied by itself
// in f32: up to PACKED_OUTLIERS of a row, those that matter most.
//
// One table of kernels for each set of instructions: single-threaded, without state, any thread. A row comes out the
// same, to the bit, in any company, and by any of the vector kernels: whole numbers are added up exactly, and groups of
// them in the same order.
#ifndef ENGINE_CPU_PACKED_H
#define ENGINE_CPU_PACKED_H

#include "engine/quants/packed.h"

enum packed_level { PACKED_C, PACKED_AVX2, PACKED_AVX_VNNI, PACKED_AVX512_VNNI, PACKED_AMX, PACKED_LEVELS };

enum {
    PACKED_ROWS = 16,  // rows of activations are held in multiples of so many
    PACKED_PASS = 128, // so many stay in a core's second cache while weights pass
};

// Activations of one row, PACKED_COLUMNS columns: x = scale · value. The rest of a last block is 0. A row is
// packed_x_blocks(columns) of these, of which the last one is room for the row's struct packed_outliers.
struct packed_x {
    int8_t value[PACKED_COLUMNS];
    float scale[PACKED_COLUMNS / PACKED_GROUP];
    int32_t start[2][PACKED_COLUMNS / PACKED_GROUP]; // what a group's sum begins with, in int8 and in int4: see below
};

// A float whose last place is worth 1, and its bits: a whole number of less than 2^22 that is added to the bits is
// added to the float. So sums become floats by being called that.
#define PACKED_BASE 0x1.8p23f
enum { PACKED_BASE_BITS = 0x4b400000 };

// The base, less the weights' zero times the sum of a group's values.
static inline void packed_x_start(struct packed_x *block, int group, int32_t sum) {
    block->start[0][group] = PACKED_BASE_BITS - INT8_ZERO * sum;
    block->start[1][group] = PACKED_BASE_BITS - INT4_ZERO * sum;
}

// Of a group's largest value: a smaller one counts as 0, for 127 divided by it is beyond f32.
#define PACKED_LEAST 0x1p-120f

#define OUTLIER_TIMES 3.0f
enum { PACKED_OUTLIERS = 9 };
struct packed_outliers {
    int32_t count;
    struct {
        int32_t column;
        float x;
    } at[PACKED_OUTLIERS];
};
_Static_assert(sizeof(struct packed_outliers) <= sizeof(struct packed_x), "they have a block's room");

static inline size_t packed_x_blocks(int columns) {
    return packed_blocks(columns) + 1;
}

static inline const struct packed_outliers *packed_outliers_of(const struct packed_x *row, int columns) {
    return (const struct packed_outliers *)(const void *)(row + packed_blocks(columns));
}

// y[r][o] = or += weight[o] · x[r] + bias[o]
struct packed_dot {
    enum weight_format format;
    const unsigned char *weight; // blocks, from the first output on
    int outputs, columns;
    const struct packed_x *x; // [rows, and what is missing to a multiple of PACKED_ROWS][packed_x_blocks(columns)]
    int rows;
    float *y; // [rows][y_stride], of which `outputs` are written
    size_t y_stride;
    const float *bias;         // [outputs], or NULL
    bool accumulate;           // add to y instead of replacing it
    const unsigned char *next; // blocks of the same width that are wanted after these; NULL: those that lie behind them
};

struct packed_kernels {
    const char *name;
    void (*quantize)(const float *x, int columns, struct packed_x *row); // a group that is not finite becomes NaN
    void (*dot)(const struct packed_dot *dot);
    // Adds what outliers are worth to sums [rows][PACKED_OUTPUTS] of 16 outputs from `output` on, rows from `row` on.
    void (*add_outliers)(const struct packed_dot *dot, int output, int row, int rows, float *sums);
};

// The kernels of a level; NULL where this build or this machine has none. PACKED_AMX asks Linux for leave to use the
// tiles, on behalf of the whole process.
const struct packed_kernels *packed_kernels_at(enum packed_level level);
enum packed_level packed_best(void);

extern const struct packed_kernels packed_c;
#if defined __x86_64__
extern const struct packed_kernels packed_avx2, packed_avx_vnni, packed_avx512_vnni, packed_amx;
#endif

// The outliers of a row as they are found, with the groups that they are left out of.
struct packed_found {
    struct packed_outliers list;
    float next[PACKED_OUTLIERS]; // largest of its group
};

// Takes column's x into the list, if it matters more than one that is there.
void packed_note(struct packed_found *found, int column, float x, float next);

// Ends a row: has its groups with outliers quantized again without them, by `group`, and keeps the list.
void packed_end_row(const struct packed_found *found, const float *x, int columns, struct packed_x *row,
                    void (*group)(const float *x, struct packed_x *block, int group, float *most, float *next));

// Stores one tile's sums [rows][PACKED_OUTPUTS] of `outputs` outputs from `output` on, rows from `row` on.
static inline void packed_store(const struct packed_dot *dot, int output, int row, int rows, const float *sum) {
    int outputs = dot->outputs - output < PACKED_OUTPUTS ? dot->outputs - output : PACKED_OUTPUTS;
    for (int r = 0; r < rows; r++, sum += PACKED_OUTPUTS) {
        float *y = dot->y + (size_t)(row + r) * dot->y_stride + output;
        for (int o = 0; o < outputs; o++) {
            float value = dot->bias ? sum[o] + dot->bias[output + o] : sum[o];
            y[o] = dot->accumulate ? y[o] + value : value;
        }
    }
}

#endif
