// AVX512-BF16, and AMX for the bulk of a block where the processor has it.
#include "engine/cpu/bf16.h"

#if defined __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { PAIRS = BF16_STEP / 2, GROUP_STEP = BF16_STEP * BF16_GROUP }; // of one step: vectors, and values of a group

// ---- Packing and storing

// Sixteen rows of sixteen become columns.
INLINE void turn(__m512i r[16]) {
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) { // quarter q of r[i + j]: column 4 q + j of rows i to i + 3
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        __m512i even_a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), odd_a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        __m512i even_b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        __m512i odd_b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even_a, even_b, 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(odd_a, odd_b, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even_a, even_b, 0xdd);
        t[12 + j] = _mm512_shuffle_i32x4(odd_a, odd_b, 0xdd);
    }
    UNROLL for (int i = 0; i < 16; i++) r[i] = t[i];
}

INLINE __mmask16 first(int n) { // of sixteen lanes
    return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

static void pack(const float *x, size_t x_stride, const int *row, int rows, int columns, uint16_t *to) {
    for (int k = 0; k < columns; k += BF16_STEP, to += GROUP_STEP) {
        __mmask16 low = first(columns - k), high = first(columns - k - 16);
        __m512i vector[16];
        for (int r = 0; r < BF16_GROUP; r++) {
            if (r >= rows) {
                vector[r] = _mm512_setzero_si512();
                continue;
            }
            const float *from = x + (size_t)(row ? row[r] : r) * x_stride + (size_t)k;
            __m512 a = _mm512_maskz_loadu_ps(low, from);
            __m512 b = high ? _mm512_maskz_loadu_ps(high, from + 16) : _mm512_setzero_ps();
            vector[r] = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        }
        turn(vector);
        for (int i = 0; i < PAIRS; i++) _mm512_storeu_si512(to + i * 2 * BF16_GROUP, vector[i]);
    }
}

INLINE __m512i narrowed(const float *x) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)));
}

static void pack_sums(const float *sum, size_t sum_stride, int outputs, int groups, uint16_t *to, size_t group_stride) {
    for (int g = 0; g < groups; g++, sum += BF16_GROUP, to += group_stride)
        for (int o = 0; o < outputs; o += 2) {
            const float *from = sum + (size_t)o * sum_stride;
            __m512i pair = narrowed(from);
            if (o + 1 < outputs) pair = _mm512_or_si512(pair, _mm512_slli_epi32(narrowed(from + sum_stride), 16));
            _mm512_storeu_si512(to + o * BF16_GROUP, pair);
        }
}

// Up to sixteen outputs of up to sixteen rows.
static void store_square(const struct bf16_store *store, int output, int row) {
    int outputs = store->outputs - output, rows = store->rows - row < 16 ? store->rows - row : 16;
    __mmask16 mask = first(outputs);
    __m512i square[16];
    for (int o = 0; o < 16; o++)
        square[o] = o < outputs ? _mm512_loadu_si512(store->sum + (size_t)(output + o) * store->sum_stride + row)
                                : _mm512_setzero_si512();
    turn(square);
    __m512 bias = store->bias ? _mm512_maskz_loadu_ps(mask, store->bias + output) : _mm512_setzero_ps();
    for (int r = 0; r < rows; r++) {
        float *y = store->y + (size_t)(store->row ? store->row[row + r] : row + r) * store->y_stride + output;
        __m512 value = (__m512)square[r];
        if (store->scale) value = _mm512_mul_ps(value, _mm512_set1_ps(store->scale[row + r]));
        value = _mm512_add_ps(value, bias);
        if (store->add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, y));
        _mm512_mask_storeu_ps(y, mask, value);
    }
}

static void store(const struct bf16_store *store) {
    for (int row = 0; row < store->rows; row += 16)
        for (int output = 0; output < store->outputs; output += 16) store_square(store, output, row);
}

// ---- Blocks

// The part of the next weights that pair `pair` of `pairs` of groups asks for, at column k.
INLINE void fetch(const struct bf16_block *b, int pair, int pairs, int k) {
    if (!b->next) return;
    for (int o = b->outputs * pair / pairs, end = b->outputs * (pair + 1) / pairs; o < end; o++)
        _mm_prefetch((const char *)(b->next + (size_t)o * b->next_stride + (size_t)k), _MM_HINT_T1);
}

INLINE __m512bh two_columns(const uint16_t *weight, int columns) { // a single one goes with 0
    int32_t both = 0;
    memcpy(&both, weight, columns == 1 ? sizeof *weight : sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

INLINE void avx512_tile(const int outputs, const int groups, const struct bf16_block *b, int output, int group,
                        int pairs) {
    const uint16_t *weight = b->weight + (size_t)output * b->weight_stride;
    const uint16_t *x = b->x + (size_t)group * b->group_stride;
    float *to = b->sum + (size_t)output * b->sum_stride + (size_t)group * BF16_GROUP;
    __m512 sum[12][2];
    UNROLL for (int o = 0; o < outputs; o++) UNROLL for (int g = 0; g < groups; g++) sum[o][g] =
        b->add ? _mm512_loadu_ps(to + (size_t)o * b->sum_stride + g * BF16_GROUP) : _mm512_setzero_ps();
    int k = 0;
    for (; k + 2 <= b->depth; k += 2, x += 2 * BF16_GROUP) {
        if (output == 0 && k % BF16_STEP == 0) fetch(b, group / 2, pairs, k);
        __m512bh value[2];
        UNROLL for (int g = 0; g < groups; g++) value[g] =
            (__m512bh)_mm512_loadu_si512(x + (size_t)g * b->group_stride);
        UNROLL for (int o = 0; o < outputs; o++) {
            __m512bh w = two_columns(weight + (size_t)o * b->weight_stride + k, 2);
            UNROLL for (int g = 0; g < groups; g++) sum[o][g] = _mm512_dpbf16_ps(sum[o][g], w, value[g]);
        }
    }
    if (k < b->depth) UNROLL for (int o = 0; o < outputs; o++) {
            __m512bh w = two_columns(weight + (size_t)o * b->weight_stride + k, 1);
            UNROLL for (int g = 0; g < groups; g++) sum[o][g] =
                _mm512_dpbf16_ps(sum[o][g], w, (__m512bh)_mm512_loadu_si512(x + (size_t)g * b->group_stride));
        }
    UNROLL for (int o = 0; o < outputs; o++) UNROLL for (int g = 0; g < groups; g++)
        _mm512_storeu_ps(to + (size_t)o * b->sum_stride + g * BF16_GROUP, sum[o][g]);
}

INLINE void avx512_groups(const int groups, const struct bf16_block *b, int group, int pairs) {
    int o = 0;
    for (; o + 12 <= b->outputs; o += 12) avx512_tile(12, groups, b, o, group, pairs);
    for (; o + 4 <= b->outputs; o += 4) avx512_tile(4, groups, b, o, group, pairs);
    for (; o < b->outputs; o++) avx512_tile(1, groups, b, o, group, pairs);
}

static void avx512_block(const struct bf16_block *b) {
    int group = 0, pairs = (b->groups + 1) / 2;
    for (; group + 2 <= b->groups; group += 2) avx512_groups(2, b, group, pairs);
    if (group < b->groups) avx512_groups(1, b, group, pairs);
}

static void nothing(void) {}

static const struct bf16_kernels avx512 = {"AVX-512 BF16", nothing, nothing, avx512_block, pack, pack_sums, store};

#if defined __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// ---- AMX: tiles of 16 rows of 64 bytes

#if defined __clang__
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#endif

static void amx_begin(void) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } SQUARES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&SQUARES);
}

static void amx_end(void) {
    _tile_release();
}

// Tiles 0 to 3 are sums, 4 and 5 weights (16 outputs each), 6 and 7 activations (a group each).
INLINE void amx_tiles(const int halves, const int groups, const struct bf16_block *b, int group, int pairs) {
    const uint16_t *weight = b->weight, *weight_b = weight + 16 * b->weight_stride;
    const uint16_t *x = b->x + (size_t)group * b->group_stride, *x_b = x + b->group_stride;
    float *sum = b->sum + (size_t)group * BF16_GROUP, *sum_b = sum + 16 * b->sum_stride;
    const size_t w_bytes = b->weight_stride * sizeof *weight, sum_bytes = b->sum_stride * sizeof *sum;
    if (b->add) {
        _tile_loadd(0, sum, sum_bytes);
        if (groups == 2) _tile_loadd(1, sum + BF16_GROUP, sum_bytes);
        if (halves == 2) _tile_loadd(2, sum_b, sum_bytes);
        if (halves == 2 && groups == 2) _tile_loadd(3, sum_b + BF16_GROUP, sum_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k + BF16_STEP <= b->depth; k += BF16_STEP, x += GROUP_STEP, x_b += GROUP_STEP) {
        _tile_loadd(6, x, 64);
        _tile_loadd(4, weight + k, w_bytes);
        fetch(b, group / 2, pairs, k);
        _tile_dpbf16ps(0, 4, 6);
        if (groups == 2) {
            _tile_loadd(7, x_b, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (halves == 2) {
            _tile_loadd(5, weight_b + k, w_bytes);
            _tile_dpbf16ps(2, 5, 6);
            if (groups == 2) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sum, sum_bytes);
    if (groups == 2) _tile_stored(1, sum + BF16_GROUP, sum_bytes);
    if (halves == 2) _tile_stored(2, sum_b, sum_bytes);
    if (halves == 2 && groups == 2) _tile_stored(3, sum_b + BF16_GROUP, sum_bytes);
}

INLINE void amx_groups(const int halves, const struct bf16_block *b) {
    int group = 0, pairs = (b->groups + 1) / 2;
    for (; group + 2 <= b->groups; group += 2) amx_tiles(halves, 2, b, group, pairs);
    if (group < b->groups) amx_tiles(halves, 1, b, group, pairs);
}

static void amx_block(const struct bf16_block *b) {
    int outputs = b->outputs / 16 * 16, depth = b->depth / BF16_STEP * BF16_STEP;
    if (outputs == 0 || depth == 0) {
        avx512_block(b);
        return;
    }
    if (outputs == 32)
        amx_groups(2, b);
    else
        amx_groups(1, b);
    struct bf16_block rest = *b;
    rest.next = NULL;
    if (depth < b->depth) { // columns beyond the last whole step
        rest.outputs = outputs;
        rest.weight += depth;
        rest.x += (size_t)depth * BF16_GROUP;
        rest.depth = b->depth - depth;
        rest.add = true;
        avx512_block(&rest);
    }
    if (outputs < b->outputs) {
        rest = *b;
        rest.next = NULL;
        rest.outputs = b->outputs - outputs;
        rest.weight += (size_t)outputs * b->weight_stride;
        rest.sum += (size_t)outputs * b->sum_stride;
        avx512_block(&rest);
    }
}

static const struct bf16_kernels amx = {"AMX BF16", amx_begin, amx_end, amx_block, pack, pack_sums, store};

#if defined __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// ---- What this machine has

static bool has_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}

// The processor has the tiles (CPUID leaf 7: TILE and BF16), and Linux lets this process use their state.
static bool has_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    const unsigned tile = 1u << 24, bf16 = 1u << 22;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile) == 0 || (d & bf16) == 0) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

const struct bf16_kernels *bf16_kernels_at(enum bf16_level level) {
    if (level == BF16_AVX512 && has_avx512()) return &avx512;
    if (level == BF16_AMX && has_amx()) return &amx;
    return NULL;
}
#else
const struct bf16_kernels *bf16_kernels_at(enum bf16_level level) {
    (void)level;
    return NULL;
}
#endif

enum bf16_level bf16_best(void) {
    for (int level = BF16_LEVELS - 1; level > BF16_NONE; level--)
        if (bf16_kernels_at((enum bf16_level)level)) return (enum bf16_level)level;
    return BF16_NONE;
}
