// The kernels, written once over a small vocabulary of vectors. Each instruction set's file defines that
// vocabulary and includes this one; there is no include guard, because each file gets its own copy.
//
// The vocabulary:
//   LANES                   floats in a vector
//   DOT_OUTPUTS(rows)       weight rows that a dot tile of 1..4 activation rows takes at once: 1, 2, 4 or 8
//   PRODUCT_ROWS            rows of a product tile, which is two vectors wide
//   KERNELS, KERNELS_NAME   the table to define
//   vec, vec_zero, vec_set, vec_load, vec_load_part, vec_store, vec_store_part, vec_load_bf16,
//   vec_load_bf16_part, the same of f16 (and vec_store_f16, vec_store_f16_part) and i8, vec_add, vec_sub, vec_mul,
//   vec_div, vec_fma (a · b + c), vec_min, vec_max (both give the second operand where one is NaN), vec_round,
//   vec_power (2^n, n whole, -126 ≤ n ≤ 127), vec_sum, vec_largest. The _part forms take 1..LANES-1 values; the lanes
//   beyond are 0.

#include "engine/cpu/compile.h"

#include <math.h>
#include <string.h>

enum { DOT_ROWS = 4, DOT_OUTPUTS_MAX = 8 };

// ---- Dot products
//
// One vector of partial sums for each (row, output), filled from the first column to the last: the order of
// the additions is the same in a tile of any size, and so is the result. Every lane adds columns / LANES
// products in turn, so the error is below (columns / LANES + 6) · 2^-24 · Σ|w · x|.

// Few rows wait for memory, and the processor's own prefetching stops at every page and is misled by short rows:
// ask for what comes a little later in a long row, or at the same place in the next tile's rows.
// (One row of bf16 from memory, on a busy core with AVX-512: 13.4 against 11.7 GB/s.)
enum { PREFETCH_BYTES = 1024, LONG_ROW_BYTES = 4096 };

INLINE size_t prefetch_distance(size_t row_bytes, int outputs) {
    return row_bytes >= LONG_ROW_BYTES ? PREFETCH_BYTES : (size_t)outputs * row_bytes;
}

#define DOT_TILE(NAME, ELEMENT, LOAD, LOAD_PART) \
    INLINE void NAME(const int rows, const int outputs, const struct dot *dot, int row, int output) { \
        const size_t columns = (size_t)dot->columns; \
        const ELEMENT *w = (const ELEMENT *)dot->weight + (size_t)output * columns; \
        const float *x = dot->x + (size_t)row * columns; \
        const bool next = dot->ahead != 0; \
        const uintptr_t ahead = next ? (uintptr_t)dot->ahead : prefetch_distance(columns * sizeof *w, outputs); \
        vec sum[DOT_ROWS][DOT_OUTPUTS_MAX], weight[DOT_OUTPUTS_MAX]; \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outputs; o++) sum[r][o] = vec_zero(); \
        size_t k = 0; \
        for (; k + LANES <= columns; k += LANES) { \
            UNROLL for (int o = 0; o < outputs; o++) { \
                weight[o] = LOAD(w + (size_t)o * columns + k); \
                if (rows <= 2 || next) \
                    __builtin_prefetch((const void *)((uintptr_t)(w + (size_t)o * columns + k) + ahead)); \
            } \
            UNROLL for (int r = 0; r < rows; r++) { \
                vec value = vec_load(x + (size_t)r * columns + k); \
                UNROLL for (int o = 0; o < outputs; o++) sum[r][o] = vec_fma(weight[o], value, sum[r][o]); \
            } \
        } \
        if (k < columns) { \
            const int rest = (int)(columns - k); \
            UNROLL for (int o = 0; o < outputs; o++) weight[o] = LOAD_PART(w + (size_t)o * columns + k, rest); \
            UNROLL for (int r = 0; r < rows; r++) { \
                vec value = vec_load_part(x + (size_t)r * columns + k, rest); \
                UNROLL for (int o = 0; o < outputs; o++) sum[r][o] = vec_fma(weight[o], value, sum[r][o]); \
            } \
        } \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < outputs; o++) \
            dot_store(dot, row + r, output + o, vec_sum(sum[r][o])); \
    }

INLINE void dot_store(const struct dot *dot, int row, int output, float value) {
    float *y = dot->y + (size_t)row * dot->y_stride + (size_t)output;
    if (dot->bias) value += dot->bias[output];
    *y = dot->accumulate ? *y + value : value;
}

DOT_TILE(dot_tile_f32, float, vec_load, vec_load_part)
DOT_TILE(dot_tile_bf16, uint16_t, vec_load_bf16, vec_load_bf16_part)
DOT_TILE(dot_tile_f16, uint16_t, vec_load_f16, vec_load_f16_part)
DOT_TILE(dot_tile_i8, int8_t, vec_load_i8, vec_load_i8_part)

// Outputs [first, last) of a run of rows whose length the compiler knows.
#define DOT_RUN(TILE, ROWS) \
    case ROWS: \
        for (; output + DOT_OUTPUTS(ROWS) <= last; output += DOT_OUTPUTS(ROWS)) \
            TILE(ROWS, DOT_OUTPUTS(ROWS), dot, row, output); \
        for (; output < last; output++) TILE(ROWS, 1, dot, row, output); \
        break;

// Eight outputs at a time for all rows: their weights come from memory once and from the cache after that.
// (Tiles of eight rows were slower than two of four: 104 against 133 GFLOP/s a core with AVX-512.)
#define DOT(NAME, TILE) \
    static void NAME(const struct dot *dot) { \
        for (int first = 0; first < dot->outputs; first += DOT_OUTPUTS_MAX) { \
            int rest = dot->outputs - first; \
            int last = rest < DOT_OUTPUTS_MAX ? dot->outputs : first + DOT_OUTPUTS_MAX; \
            for (int row = 0; row < dot->rows; row += DOT_ROWS) { \
                int output = first; \
                switch (dot->rows - row) { \
                    DOT_RUN(TILE, 1) \
                    DOT_RUN(TILE, 2) \
                    DOT_RUN(TILE, 3) \
                default: \
                    DOT_RUN(TILE, 4) \
                } \
            } \
        } \
    }

DOT(dot_f32, dot_tile_f32)
DOT(dot_bf16, dot_tile_bf16)
DOT(dot_f16, dot_tile_f16)
DOT(dot_i8, dot_tile_i8)

// ---- Products: a broadcast along rows, b and c in vectors of columns

// `n`: how many columns there are where they do not fill the one vector; else 0.
#define PRODUCT_TILE(NAME, ELEMENT, LOAD, LOAD_PART) \
    INLINE void NAME(const int rows, const int vectors, const struct product *p, int row, int column, int n) { \
        const float *a = p->a + (size_t)row * p->a_stride; \
        const ELEMENT *b = (const ELEMENT *)p->b + column; \
        float *c = p->c + (size_t)row * p->c_stride + column; \
        vec sum[PRODUCT_ROWS][2]; \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) { \
            const float *from = c + (size_t)r * p->c_stride + v * LANES; \
            sum[r][v] = n ? vec_load_part(from, n) : vec_load(from); \
        } \
        for (int k = 0; k < p->depth; k++, b += p->b_stride) { \
            vec value[2]; \
            if (p->ahead) __builtin_prefetch((const void *)((uintptr_t)b + (uintptr_t)p->ahead)); \
            UNROLL for (int v = 0; v < vectors; v++) value[v] = n ? LOAD_PART(b, n) : LOAD(b + v * LANES); \
            UNROLL for (int r = 0; r < rows; r++) { \
                vec factor = vec_set(a[(size_t)r * p->a_stride + (size_t)k]); \
                UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = vec_fma(factor, value[v], sum[r][v]); \
            } \
        } \
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) { \
            float *to = c + (size_t)r * p->c_stride + v * LANES; \
            if (n) \
                vec_store_part(to, sum[r][v], n); \
            else \
                vec_store(to, sum[r][v]); \
        } \
    }

PRODUCT_TILE(product_tile_f32, float, vec_load, vec_load_part)
PRODUCT_TILE(product_tile_f16, uint16_t, vec_load_f16, vec_load_f16_part)
PRODUCT_TILE(product_tile_i8, int8_t, vec_load_i8, vec_load_i8_part)

#define PRODUCT(NAME, TILE) \
    INLINE void NAME##_rows(const int rows, const struct product *p, int row) { \
        int column = 0; \
        for (; column + 2 * LANES <= p->columns; column += 2 * LANES) TILE(rows, 2, p, row, column, 0); \
        for (; column + LANES <= p->columns; column += LANES) TILE(rows, 1, p, row, column, 0); \
        if (column < p->columns) TILE(rows, 1, p, row, column, p->columns - column); \
    } \
    static void NAME(const struct product *p) { \
        int row = 0; \
        for (; row + PRODUCT_ROWS <= p->rows; row += PRODUCT_ROWS) NAME##_rows(PRODUCT_ROWS, p, row); \
        for (; row + 4 <= p->rows; row += 4) NAME##_rows(4, p, row); \
        for (; row < p->rows; row++) NAME##_rows(1, p, row); \
    }

PRODUCT(product, product_tile_f32)
PRODUCT(product_f16, product_tile_f16)
PRODUCT(product_i8, product_tile_i8)

// ---- LayerNorm: the mean first, then the variance around it, which loses nothing when the mean is large

INLINE float deviation_sum(const float *x, float mean, const int squared, int width) {
    vec center = vec_set(mean), even = vec_zero(), odd = vec_zero();
    int i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        vec a = vec_sub(vec_load(x + i), center), b = vec_sub(vec_load(x + i + LANES), center);
        even = squared ? vec_fma(a, a, even) : vec_add(even, a);
        odd = squared ? vec_fma(b, b, odd) : vec_add(odd, b);
    }
    float sum = vec_sum(vec_add(even, odd));
    for (; i < width; i++) {
        float a = x[i] - mean;
        sum += squared ? a * a : a;
    }
    return sum;
}

static void norm(const float *x, const float *weight, const float *bias, float epsilon, int width, float *y) {
    float mean = deviation_sum(x, 0, 0, width) / (float)width;
    float variance = deviation_sum(x, mean, 1, width) / (float)width;
    float factor = 1 / sqrtf(variance + epsilon);
    vec center = vec_set(mean), stretch = vec_set(factor);
    int i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec value = vec_mul(vec_sub(vec_load(x + i), center), stretch);
        vec_store(y + i, vec_fma(value, vec_load(weight + i), vec_load(bias + i)));
    }
    for (; i < width; i++) y[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// ---- Element by element, the last vector possibly in part

// How many values of the vector at i there are when it is not whole; 0 when it is.
INLINE int part(size_t i, size_t count) {
    return count - i < LANES ? (int)(count - i) : 0;
}

INLINE vec load(const float *x, int n) {
    return n ? vec_load_part(x, n) : vec_load(x);
}

INLINE void store(float *x, vec value, int n) {
    if (n)
        vec_store_part(x, value, n);
    else
        vec_store(x, value);
}

// e^x within 2 units in the last place for -87.3 ≤ x ≤ 88; the ends' values beyond them; NaN for NaN.
// x = n ln 2 + r with |r| ≤ ln 2 / 2, where eight terms of the series leave r^8 / 8! < 6e-9.
INLINE vec vec_exp(vec x) {
    x = vec_max(vec_set(-87.3f), vec_min(vec_set(88.0f), x));
    vec n = vec_round(vec_mul(x, vec_set(1.44269504f)));
    vec r = vec_fma(n, vec_set(-0.693359375f), x); // ln 2 in two parts: the first has 9 bits, so n times it is exact
    r = vec_fma(n, vec_set(2.12194440e-4f), r);
    vec sum = vec_set(1.0f / 5040);
    sum = vec_fma(sum, r, vec_set(1.0f / 720));
    sum = vec_fma(sum, r, vec_set(1.0f / 120));
    sum = vec_fma(sum, r, vec_set(1.0f / 24));
    sum = vec_fma(sum, r, vec_set(1.0f / 6));
    sum = vec_fma(sum, r, vec_set(0.5f));
    sum = vec_fma(sum, r, vec_set(1));
    sum = vec_fma(sum, r, vec_set(1));
    return vec_mul(sum, vec_power(n));
}

static void rotate(const float *cosine, const float *sine, int half, float *vector) {
    float *upper = vector + half;
    for (size_t i = 0, count = (size_t)half; i < count; i += LANES) {
        const int n = part(i, count);
        vec a = load(vector + i, n), b = load(upper + i, n), c = load(cosine + i, n), s = load(sine + i, n);
        store(vector + i, vec_sub(vec_mul(a, c), vec_mul(b, s)), n);
        store(upper + i, vec_fma(b, c, vec_mul(a, s)), n);
    }
}

static void gate(float *gate, const float *up, size_t count) {
    const vec one = vec_set(1);
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        vec g = load(gate + i, n);
        vec silu = vec_div(g, vec_add(one, vec_exp(vec_sub(vec_zero(), g))));
        store(gate + i, vec_mul(silu, load(up + i, n)), n);
    }
}

static float maximum(const float *x, size_t count) {
    vec largest = vec_set(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) largest = vec_max(largest, vec_load(x + i));
    float found = vec_largest(largest);
    for (; i < count; i++)
        if (x[i] > found) found = x[i];
    return found;
}

static float exponentials(float *x, float largest, size_t count) {
    const vec shift = vec_set(largest);
    vec sum = vec_zero();
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = vec_exp(vec_sub(vec_load(x + i), shift));
        vec_store(x + i, value);
        sum = vec_add(sum, value);
    }
    float total = vec_sum(sum);
    if (i < count) {
        vec_store_part(x + i, vec_exp(vec_sub(vec_load_part(x + i, (int)(count - i)), shift)), (int)(count - i));
        for (; i < count; i++) total += x[i];
    }
    return total;
}

static void scale(float *x, float factor, size_t count) {
    const vec by = vec_set(factor);
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        store(x + i, vec_mul(load(x + i, n), by), n);
    }
}

static void add_scaled(float *y, const float *x, float factor, size_t count) {
    const vec by = vec_set(factor);
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        store(y + i, vec_fma(load(x + i, n), by, load(y + i, n)), n);
    }
}

static void widen(const uint16_t *bf16, float *out, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        store(out + i, n ? vec_load_bf16_part(bf16 + i, n) : vec_load_bf16(bf16 + i), n);
    }
}

// ---- Rows of keys and values

#define LOAD_ROW(NAME, ELEMENT, LOAD, LOAD_PART) \
    static void NAME(const void *from, float factor, float *to, size_t count) { \
        const ELEMENT *at = from; \
        const vec by = vec_set(factor); \
        for (size_t i = 0; i < count; i += LANES) { \
            const int n = part(i, count); \
            store(to + i, vec_mul(n ? LOAD_PART(at + i, n) : LOAD(at + i), by), n); \
        } \
    }

LOAD_ROW(load_f32, float, vec_load, vec_load_part)
LOAD_ROW(load_f16, uint16_t, vec_load_f16, vec_load_f16_part)
LOAD_ROW(load_i8, int8_t, vec_load_i8, vec_load_i8_part)

static float store_f32(const float *from, void *to, size_t count) {
    memcpy(to, from, count * sizeof *from);
    return 1;
}

// What f16 can hold: beyond it a value becomes the largest, and one that is not finite NaN, for it is to be noticed.
INLINE vec held_f16(vec x) {
    const vec most = vec_set(KV_F16_MAX);
    return vec_fma(x, vec_zero(), vec_max(vec_sub(vec_zero(), most), vec_min(most, x)));
}

static float store_f16(const float *from, void *to, size_t count) {
    uint16_t *half = to;
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        if (n)
            vec_store_f16_part(half + i, held_f16(vec_load_part(from + i, n)), n);
        else
            vec_store_f16(half + i, held_f16(vec_load(from + i)));
    }
    return 1;
}

// The largest becomes 127. What is not finite makes all of the row NaN: it is to be noticed.
static float store_i8(const float *from, void *to, size_t count) {
    int8_t *whole = to;
    vec most = vec_zero(), odd = vec_zero();
    for (size_t i = 0; i < count; i += LANES) {
        const vec x = load(from + i, part(i, count));
        most = vec_max(vec_max(x, vec_sub(vec_zero(), x)), most);
        odd = vec_fma(x, vec_zero(), odd);
    }
    const bool finite = vec_sum(odd) == 0;
    const float largest = vec_largest(most), inverse = finite && largest > 0 ? 127 / largest : 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int n = part(i, count);
        float rounded[LANES];
        vec_store(rounded, finite ? vec_round(vec_mul(load(from + i, n), vec_set(inverse))) : vec_zero());
        for (int j = 0; j < (n ? n : LANES); j++) whole[i + (size_t)j] = (int8_t)rounded[j];
    }
    return finite ? largest / 127 : NAN;
}

// ---- Transposition in blocks of four by four

typedef float quad __attribute__((vector_size(16)));

INLINE void transpose_four(const float *in, size_t in_stride, float *out, size_t out_stride) {
    quad row[4];
    UNROLL for (size_t r = 0; r < 4; r++) memcpy(&row[r], in + r * in_stride, sizeof row[r]);
    quad a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5); // 00 10 01 11
    quad b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5); // 20 30 21 31
    quad c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7); // 02 12 03 13
    quad d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7); // 22 32 23 33
    quad turned[4] = {
        __builtin_shufflevector(a, b, 0, 1, 4, 5),
        __builtin_shufflevector(a, b, 2, 3, 6, 7),
        __builtin_shufflevector(c, d, 0, 1, 4, 5),
        __builtin_shufflevector(c, d, 2, 3, 6, 7),
    };
    UNROLL for (size_t r = 0; r < 4; r++) memcpy(out + r * out_stride, &turned[r], sizeof turned[r]);
}

static void transpose(const float *in, size_t in_stride, int rows, int columns, float *out, size_t out_stride) {
    size_t row = 0, height = (size_t)rows, width = (size_t)columns;
    for (; row + 4 <= height; row += 4) {
        const float *from = in + row * in_stride;
        size_t column = 0;
        for (; column + 4 <= width; column += 4)
            transpose_four(from + column, in_stride, out + column * out_stride + row, out_stride);
        for (; column < width; column++)
            for (size_t r = 0; r < 4; r++) out[column * out_stride + row + r] = from[r * in_stride + column];
    }
    for (; row < height; row++)
        for (size_t column = 0; column < width; column++) out[column * out_stride + row] = in[row * in_stride + column];
}

const struct kernels KERNELS = {
    .name = KERNELS_NAME,
    .dot_f32 = dot_f32,
    .dot_bf16 = dot_bf16,
    .product = product,
    .rows = {[KV_F32] = {dot_f32, product, load_f32, store_f32},
             [KV_F16] = {dot_f16, product_f16, load_f16, store_f16},
             [KV_INT8] = {dot_i8, product_i8, load_i8, store_i8}},
    .norm = norm,
    .rotate = rotate,
    .gate = gate,
    .maximum = maximum,
    .exponentials = exponentials,
    .scale = scale,
    .add_scaled = add_scaled,
    .widen = widen,
    .transpose = transpose,
};
