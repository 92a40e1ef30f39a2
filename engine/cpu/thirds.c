// The thirds of row r stand in the tiles' columns r, 5 + r and 10 + r. Weights are multiplied as they lie, sixteen
// outputs by 32 columns at a time; those with ragged ends are copied with zeros around them.
#include "engine/cpu/thirds.h"

#include "base/smaller.h"
#include "engine/cpu/compile.h"
#include "engine/cpu/tiles.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")

#include "engine/cpu/turn.h"

#include <string.h>

enum {
    PARTS = 3,
    SIDE = 16,                        // rows and columns of a tile
    SQUARE = SIDE * SIDE,             // sums of a tile
    STEP_VALUES = THIRDS_STEP * SIDE, // of weights, and of activations of a group
    LINE_VALUES = 32,                 // of a cache line
    PASS_GROUPS = 6,                  // that so many outputs are multiplied with in one pass over the weights
    STREAM_COLUMNS = 2048,            // the processor fetches ahead of rows as long as this by itself
};
_Static_assert((int)PARTS *(int)THIRDS_ROWS <= (int)SIDE, "a group is as wide as a tile");

// ---- Activations

// 32 columns of one row: a word of each part holds two neighbouring columns.
INLINE void cut(const float *x, int columns, __m512i *part) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    const __m512i pairs =
        _mm512_add_epi16(_mm512_slli_epi16(_mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
                                                            16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           1),
                         _mm512_set1_epi16(1)); // the upper half of each of 32 words
    __m512 half[2] = {_mm512_maskz_loadu_ps(first(columns), x),
                      columns > SIDE ? _mm512_maskz_loadu_ps(first(columns - SIDE), x + SIDE) : _mm512_setzero_ps()};
    UNROLL for (int p = 0; p < PARTS; p++) {
        part[p * THIRDS_ROWS] = _mm512_permutex2var_epi16((__m512i)half[0], pairs, (__m512i)half[1]);
        UNROLL for (int h = 0; h < 2; h++) half[h] =
            _mm512_sub_ps(half[h], (__m512)_mm512_and_si512((__m512i)half[h], upper));
    }
}

static void pack_step(const struct thirds_rows *rows, int group, int step) {
    const int row = group * THIRDS_ROWS, count = smaller(rows->rows - row, THIRDS_ROWS), column = step * THIRDS_STEP;
    uint16_t *to = rows->to + (size_t)group * thirds_values(rows->columns) + (size_t)step * STEP_VALUES;
    __m512i lane[SIDE];
    UNROLL for (int i = 0; i < SIDE; i++) lane[i] = _mm512_setzero_si512();
    UNROLL for (int r = 0; r < THIRDS_ROWS; r++) if (r < count)
        cut(rows->x + (size_t)(rows->row ? rows->row[row + r] : row + r) * rows->x_stride + column,
            rows->columns - column, lane + r);
    turn(lane);
    UNROLL for (int i = 0; i < SIDE; i++) _mm512_storeu_si512(to + i * LINE_VALUES, lane[i]);
}

void thirds_pack(const struct thirds_rows *rows, int part, int parts) {
    int64_t steps = (rows->columns + THIRDS_STEP - 1) / THIRDS_STEP;
    int from = (int)(steps * part / parts), end = (int)(steps * (part + 1) / parts);
    for (int group = 0; group < thirds_groups(rows->rows); group++)
        for (int step = from; step < end; step++) pack_step(rows, group, step);
}

// ---- Products

// Weights from an output and a column on, with zeros where there are none.
static void copy_ragged(const struct thirds_dot *dot, int output, int column, uint16_t *to) {
    int outputs = smaller(dot->outputs - output, SIDE), columns = smaller(dot->columns - column, THIRDS_STEP);
    const uint16_t *from = dot->weight + (size_t)output * (size_t)dot->columns + column;
    memset(to, 0, STEP_VALUES * sizeof *to);
    for (int o = 0; o < outputs; o++)
        memcpy(to + o * THIRDS_STEP, from + (size_t)o * (size_t)dot->columns, (size_t)columns * sizeof *to);
}

// Asks for a step's share of sixteen rows that lie one after another.
INLINE void fetch(const uint16_t *next, int step) {
    next += (size_t)step * STEP_VALUES;
    UNROLL for (int i = 0; i < SIDE; i++) _mm_prefetch((const char *)(next + i * LINE_VALUES), _MM_HINT_T1);
}

// Sixteen outputs of up to PASS_GROUPS groups: tiles 0 to 5 are sums, 6 weights, which are loaded once, 7 activations.
#define EACH_GROUP(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define ZERO(g) \
    if ((g) < groups) _tile_zero(g);
#define MULTIPLY(g) \
    if ((g) < groups) { \
        _tile_loadd(7, x + (g)*group_values, 64); \
        _tile_dpbf16ps(g, 6, 7); \
    }
#define STORE(g) \
    if ((g) < groups) _tile_stored(g, sums + (g)*SQUARE, 64);

INLINE void pass(const bool ragged, const int groups, const struct thirds_dot *dot, int output, const uint16_t *x,
                 const uint16_t *next, float *sums) {
    const size_t group_values = thirds_values(dot->columns), row_bytes = (size_t)dot->columns * sizeof(uint16_t);
    const uint16_t *weight = dot->weight + (size_t)output * (size_t)dot->columns;
    const int steps = (dot->columns + THIRDS_STEP - 1) / THIRDS_STEP;
    uint16_t copy[STEP_VALUES];
    EACH_GROUP(ZERO)
    for (int step = 0; step < steps; step++, x += STEP_VALUES) {
        if (ragged) {
            copy_ragged(dot, output, step * THIRDS_STEP, copy);
            _tile_loadd(6, copy, 64);
        } else {
            _tile_loadd(6, weight + step * THIRDS_STEP, row_bytes);
            if (next) fetch(next, step);
        }
        EACH_GROUP(MULTIPLY)
    }
    EACH_GROUP(STORE)
}

// Sixteen outputs of one group.
static void store(const struct thirds_dot *dot, int output, int row, const float *sums) {
    const int rows = smaller(dot->rows - row, THIRDS_ROWS);
    const __mmask16 mask = first(dot->outputs - output);
    const __m512 bias = dot->bias ? _mm512_maskz_loadu_ps(mask, dot->bias + output) : _mm512_setzero_ps();
    __m512i lane[SIDE];
    UNROLL for (int o = 0; o < SIDE; o++) lane[o] = _mm512_loadu_si512(sums + o * SIDE);
    turn(lane);
    for (int r = 0; r < rows; r++) {
        float *y = dot->y + (size_t)(row + r) * dot->y_stride + output;
        const __m512 small = _mm512_add_ps((__m512)lane[THIRDS_ROWS + r], (__m512)lane[2 * THIRDS_ROWS + r]);
        __m512 value = _mm512_add_ps(_mm512_add_ps((__m512)lane[r], small), bias);
        if (dot->accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, y));
        _mm512_mask_storeu_ps(y, mask, value);
    }
}

#define PASS(GROUPS) \
    case GROUPS: \
        pass(ragged, GROUPS, dot, output, x, next, sums); \
        break;

// Sixteen outputs of all rows, in passes of about as many groups each.
INLINE void outputs_at(const bool ragged, const struct thirds_dot *dot, int output, const uint16_t *next) {
    const int groups = thirds_groups(dot->rows), passes = (groups + PASS_GROUPS - 1) / PASS_GROUPS;
    float sums[PASS_GROUPS * SQUARE];
    for (int p = 0, group = 0, end; p < passes; p++, group = end, next = NULL) {
        const uint16_t *x = dot->x + (size_t)group * thirds_values(dot->columns);
        end = groups * (p + 1) / passes;
        switch (end - group) {
            PASS(1)
            PASS(2)
            PASS(3)
            PASS(4)
            PASS(5)
            PASS(6)
        }
        for (int g = group; g < end; g++) store(dot, output, g * THIRDS_ROWS, sums + (g - group) * SQUARE);
    }
}

void thirds_multiply(const struct thirds_dot *dot) {
    int output = 0;
    _tile_loadconfig(&TILE_SQUARES);
    if (dot->columns % THIRDS_STEP == 0)
        for (; output + SIDE <= dot->outputs; output += SIDE) {
            const bool more = output + 2 * SIDE <= dot->outputs;
            const uint16_t *next = more ? dot->weight + (size_t)(output + SIDE) * (size_t)dot->columns : dot->next;
            outputs_at(false, dot, output, dot->columns < STREAM_COLUMNS ? next : NULL);
        }
    for (; output < dot->outputs; output += SIDE) outputs_at(true, dot, output, NULL);
    _tile_release();
}

COMPILE_END
#else
typedef int thirds_have_no_kernels_here; // a file is not to be empty
#endif
