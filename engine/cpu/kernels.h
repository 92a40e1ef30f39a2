// The CPU's inner loops: single-threaded, without state, one table for each instruction set, all from the one
// source kernels_template.h. Every result depends on its own inputs alone: a row comes out the same, to the
// bit, however many rows go along with it. Any thread.
#ifndef ENGINE_CPU_KERNELS_H
#define ENGINE_CPU_KERNELS_H

#include "engine/kv_cache.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kernel_level { KERNELS_C, KERNELS_AVX2, KERNELS_AVX512, KERNEL_LEVELS };

// Dot products of weight rows with activation rows, for few activation rows: each weight is read once.
struct dot {
    const void *weight; // [outputs][columns], float or bf16 by the kernel
    int outputs, columns;
    const float *x; // [rows][columns]
    int rows;
    float *y; // [rows][y_stride], of which `outputs` are written
    size_t y_stride;
    const float *bias; // [outputs], or NULL
    bool accumulate;   // add to y instead of replacing it
    ptrdiff_t ahead;   // what is wanted next lies so many bytes behind the weights; 0: nobody knows
};

// c[r][n] += Σ_k a[r][k] · b[k][n]
struct product {
    const float *a; // [rows][a_stride]
    const void *b;  // [depth][b_stride], float or others by the kernel
    float *c;       // [rows][c_stride]
    size_t a_stride, b_stride, c_stride;
    int rows, depth, columns;
    ptrdiff_t ahead; // what is wanted next lies so many bytes behind b; 0: nobody knows
};

// Rows of keys or values as they are held in one of KV_FORMATS.
struct row_kernels {
    void (*dot)(const struct dot *dot);             // with such rows as weights, without their scales
    void (*product)(const struct product *product); // and as b
    void (*load)(const void *from, float scale, float *to, size_t count); // to[i] = scale · from[i]
    float (*store)(const float *from, void *to, size_t count);            // returns the scale: 1 where there is none
};

struct kernels {
    const char *name;
    void (*dot_f32)(const struct dot *dot);
    void (*dot_bf16)(const struct dot *dot);
    void (*product)(const struct product *product);
    struct row_kernels rows[KV_FORMAT_COUNT];

    // y = (x - mean) / √(variance + epsilon) · weight + bias; y may be x
    void (*norm)(const float *x, const float *weight, const float *bias, float epsilon, int width, float *y);
    // Turns the pairs (vector[i], vector[i + half]) by their angles.
    void (*rotate)(const float *cosine, const float *sine, int half, float *vector);
    // gate[i] = silu(gate[i]) · up[i]
    void (*gate)(float *gate, const float *up, size_t count);
    float (*maximum)(const float *x, size_t count);                           // -INFINITY for none; may overlook NaN
    float (*exponentials)(float *x, float largest, size_t count);             // x[i] = exp(x[i] - largest); their sum
    void (*scale)(float *x, float factor, size_t count);                      // x[i] *= factor
    void (*add_scaled)(float *y, const float *x, float factor, size_t count); // y[i] += factor · x[i]
    void (*widen)(const uint16_t *bf16, float *out, size_t count);            // exact
    // out[c][r] = in[r][c]: out is [columns][out_stride]
    void (*transpose)(const float *in, size_t in_stride, int rows, int columns, float *out, size_t out_stride);
};

// The kernels of a level; NULL where this build or this machine has none.
const struct kernels *kernels_at(enum kernel_level level);
enum kernel_level kernels_best(void);

extern const struct kernels kernels_c;
#if defined __x86_64__
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

#endif
