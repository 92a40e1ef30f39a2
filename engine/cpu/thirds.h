// Products of bf16 weights with few rows of f32 activations, on tiles that multiply bf16 (AMX).
//
// An activation is cut into three numbers of bf16, 8 bits of its 24 each, whose sum it is. A product of two numbers of
// bf16 is exact in f32, so nothing is rounded but sums, as in any product in f32:
//
//   |error| ≤ (columns / 32 + 20) · 2^-24 · Σ|w · x|
//
// Tiles multiply so fast that up to some thirty rows cost what reading the weights does; vectors in f32 have twice the
// time of one row at eight. (Activations below 2^-110 lose bits: the tiles know no subnormal numbers.)
//
// Single-threaded, without state, any thread. A row comes out the same, to the bit, in any company.
#ifndef ENGINE_CPU_THIRDS_H
#define ENGINE_CPU_THIRDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    THIRDS_ROWS = 5,  // that a tile holds the thirds of: a group
    THIRDS_STEP = 32, // columns that are padded to a multiple of
};

// Groups of so many rows, and values of one: [steps][THIRDS_STEP / 2][16][2].
static inline int thirds_groups(int rows) {
    return (rows + THIRDS_ROWS - 1) / THIRDS_ROWS;
}
static inline size_t thirds_values(int columns) {
    return ((size_t)columns + THIRDS_STEP - 1) / THIRDS_STEP * THIRDS_STEP * 16;
}

struct thirds_rows {
    const float *x; // x[row[r]] or x[r]
    size_t x_stride;
    const int *row; // [rows], or NULL
    int rows, columns;
    uint16_t *to; // [thirds_groups(rows)][thirds_values(columns)]
};

// y[r][o] = or += weight[o] · x[r] + bias[o]
struct thirds_dot {
    const uint16_t *weight; // [outputs][columns]
    int outputs, columns;
    const uint16_t *x; // packed
    int rows;
    float *y; // [rows][y_stride], of which `outputs` are written
    size_t y_stride;
    const float *bias;    // [outputs], or NULL
    bool accumulate;      // add to y instead of replacing it
    const uint16_t *next; // weights of this width that are wanted after these, or NULL
};

#if defined __x86_64__
// Only where bf16_kernels_at(BF16_AMX) is something.
void thirds_pack(const struct thirds_rows *rows, int part, int parts); // one of so many parts of the columns
void thirds_multiply(const struct thirds_dot *dot);
#else
static inline void thirds_pack(const struct thirds_rows *rows, int part, int parts) {
    (void)rows, (void)part, (void)parts;
}
static inline void thirds_multiply(const struct thirds_dot *dot) {
    (void)dot;
}
#endif

#endif
