// AVX512-BF16, and AMX for the bulk of a block where the processor has it.
#include "engine/cpu/bf16.h"
#include "engine/cpu/compile.h"
#include "engine/cpu/packed_panel.h"
#include "engine/cpu/tiles.h"

#if defined __x86_64__
#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include "engine/cpu/turn.h"

enum {
    PAIRS = BF16_STEP / 2,               // vectors of one step of a group
    GROUP_STEP = BF16_STEP * BF16_GROUP, // values of one step of a group
    SQUARE = BF16_GROUP * BF16_GROUP,    // sums of one tile
};

// ---- Packing and storing

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

INLINE __m512i halves_of(__m512 x) { // bf16 in the lower half of each lane
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
}

INLINE __m512i narrowed(const float *x) {
    return halves_of(_mm512_loadu_ps(x));
}

static void pack_sums(const float *sum, size_t sum_stride, int outputs, int groups, uint16_t *to, size_t group_stride) {
    for (int g = 0; g < groups; g++, sum += sum_stride, to += group_stride) {
        int o = 0;
        for (; o < outputs; o += 2) {
            const float *from = sum + (size_t)o * BF16_GROUP;
            __m512i pair = narrowed(from);
            if (o + 1 < outputs) pair = _mm512_or_si512(pair, _mm512_slli_epi32(narrowed(from + BF16_GROUP), 16));
            _mm512_storeu_si512(to + (size_t)o * BF16_GROUP, pair);
        }
        for (; o % BF16_STEP != 0; o += 2) _mm512_storeu_si512(to + (size_t)o * BF16_GROUP, _mm512_setzero_si512());
    }
}

// Up to sixteen outputs of up to sixteen rows.
static void store_square(const struct bf16_store *store, const float *sum, int output, int row) {
    int rows = store->rows - row < BF16_GROUP ? store->rows - row : BF16_GROUP;
    __mmask16 mask = first(store->outputs - output);
    __m512i square[16];
    UNROLL for (int o = 0; o < 16; o++) square[o] = _mm512_loadu_si512(sum + o * BF16_GROUP);
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
    const float *sum = store->sum;
    for (int row = 0; row < store->rows; row += BF16_GROUP, sum += store->sum_stride)
        for (int output = 0; output < store->outputs; output += 16)
            store_square(store, sum + (size_t)output * BF16_GROUP, output, row);
}

// ---- Panels

static void panel(const uint16_t *weight, size_t stride, int outputs, int depth, uint16_t *to) {
    int o = 0, whole = depth / BF16_STEP * BF16_STEP;
    __mmask32 rest = (__mmask32)((1ull << (depth - whole)) - 1);
    for (; o < outputs; o++, weight += stride, to += BF16_STEP) {
        uint16_t *at = to;
        int k = 0;
        for (; k < whole; k += BF16_STEP, at += BF16_PANEL_STEP)
            _mm512_storeu_si512(at, _mm512_loadu_si512(weight + k));
        if (rest) _mm512_storeu_si512(at, _mm512_maskz_loadu_epi16(rest, weight + k));
    }
    for (; o % BF16_OUTPUTS_STEP != 0; o++, to += BF16_STEP)
        for (int k = 0; k < depth; k += BF16_STEP) _mm512_storeu_si512(to + k * BF16_OUTPUTS, _mm512_setzero_si512());
}

// ---- Blocks

// What is still to be asked for of the next weights.
struct fetcher {
    const char *row;
    size_t stride;
    int lines, line, left, each; // `each`: lines at a time, so that all have had their turn when the block is done
};

INLINE struct fetcher fetcher_of(const struct bf16_block *b, int turns) {
    const struct bf16_next *next = &b->next;
    int all = next->rows * next->lines;
    return (struct fetcher){next->from, next->stride_bytes, next->lines, 0, all, (all + turns - 1) / turns};
}

INLINE void fetch(struct fetcher *f) {
    for (int i = f->each < f->left ? f->each : f->left; i > 0; i--, f->left--) {
        _mm_prefetch(f->row + (size_t)f->line * 64, _MM_HINT_T1);
        if (++f->line == f->lines) {
            f->line = 0;
            f->row += f->stride;
        }
    }
}

INLINE void avx512_tile(const int outputs, const int groups, const struct bf16_block *b, int output, int group,
                        struct fetcher *fetcher) {
    const uint16_t *weight = b->weight + (size_t)output * b->weight_stride;
    const uint16_t *x = b->x + (size_t)group * b->group_stride;
    float *to = b->sum + (size_t)group * b->sum_stride + (size_t)output * BF16_GROUP;
    __m512 sum[12][2];
    UNROLL for (int o = 0; o < outputs; o++) UNROLL for (int g = 0; g < groups; g++) sum[o][g] =
        b->add ? _mm512_loadu_ps(to + (size_t)g * b->sum_stride + o * BF16_GROUP) : _mm512_setzero_ps();
    for (int step = 0; step < b->steps; step++, weight += b->step_stride) {
        if (output == 0) fetch(fetcher);
        for (int k = 0; k < BF16_STEP; k += 2, x += 2 * BF16_GROUP) {
            __m512bh value[2];
            UNROLL for (int g = 0; g < groups; g++) value[g] =
                (__m512bh)_mm512_loadu_si512(x + (size_t)g * b->group_stride);
            UNROLL for (int o = 0; o < outputs; o++) {
                int32_t two;
                memcpy(&two, weight + (size_t)o * b->weight_stride + k, sizeof two);
                __m512bh w = (__m512bh)_mm512_set1_epi32(two);
                UNROLL for (int g = 0; g < groups; g++) sum[o][g] = _mm512_dpbf16_ps(sum[o][g], w, value[g]);
            }
        }
    }
    UNROLL for (int o = 0; o < outputs; o++) UNROLL for (int g = 0; g < groups; g++)
        _mm512_storeu_ps(to + (size_t)g * b->sum_stride + o * BF16_GROUP, sum[o][g]);
}

// All outputs, of which there are 16 or 32 with the padding.
INLINE void avx512_groups(const int groups, const struct bf16_block *b, int group, struct fetcher *fetcher) {
    int o = 0;
    for (; o + 12 <= b->outputs; o += 12) avx512_tile(12, groups, b, o, group, fetcher);
    for (; o < b->outputs; o += 4) avx512_tile(4, groups, b, o, group, fetcher);
}

static void avx512_block(const struct bf16_block *b) {
    struct fetcher fetcher = fetcher_of(b, (b->groups + 1) / 2 * b->steps);
    int group = 0;
    for (; group + 2 <= b->groups; group += 2) avx512_groups(2, b, group, &fetcher);
    if (group < b->groups) avx512_groups(1, b, group, &fetcher);
}

static void nothing(void) {}

static const struct bf16_kernels avx512 = {"BF16",       nothing, nothing,   panel, packed_panel,
                                           avx512_block, pack,    pack_sums, store};

COMPILE_END

// ---- AMX: tiles of sixteen rows of 64 bytes each

COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")

static void amx_begin(void) {
    _tile_loadconfig(&TILE_SQUARES);
}

static void amx_end(void) {
    _tile_release();
}

// Two times sixteen outputs of up to two groups: tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 activations.
INLINE void amx_tiles(const int groups, const struct bf16_block *b, int group, struct fetcher *fetcher) {
    const uint16_t *weight = b->weight, *weight_b = weight + 16 * b->weight_stride,
                   *x = b->x + (size_t)group * b->group_stride, *x_b = x + b->group_stride;
    float *sum = b->sum + (size_t)group * b->sum_stride, *sum_b = sum + b->sum_stride;
    const size_t weight_bytes = b->weight_stride * sizeof *weight;
    if (b->add) {
        _tile_loadd(0, sum, 64);
        _tile_loadd(2, sum + SQUARE, 64);
        if (groups == 2) _tile_loadd(1, sum_b, 64);
        if (groups == 2) _tile_loadd(3, sum_b + SQUARE, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int step = 0; step < b->steps; step++, x += GROUP_STEP, x_b += GROUP_STEP) {
        _tile_loadd(6, x, 64);
        _tile_loadd(4, weight, weight_bytes);
        fetch(fetcher);
        _tile_dpbf16ps(0, 4, 6);
        if (groups == 2) {
            _tile_loadd(7, x_b, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_loadd(5, weight_b, weight_bytes);
        _tile_dpbf16ps(2, 5, 6);
        if (groups == 2) _tile_dpbf16ps(3, 5, 7);
        weight += b->step_stride;
        weight_b += b->step_stride;
    }
    _tile_stored(0, sum, 64);
    _tile_stored(2, sum + SQUARE, 64);
    if (groups == 2) _tile_stored(1, sum_b, 64);
    if (groups == 2) _tile_stored(3, sum_b + SQUARE, 64);
}

// Sixteen outputs of up to six groups: tiles 0 to 5 are sums, 6 weights, which are loaded once, and 7 activations.
#define LOAD_SUM(g) \
    if ((g) < groups) _tile_loadd(g, sum + (g)*b->sum_stride, 64);
#define STORE_SUM(g) \
    if ((g) < groups) _tile_stored(g, sum + (g)*b->sum_stride, 64);
#define ZERO_SUM(g) _tile_zero(g);
#define MULTIPLY(g) \
    if ((g) < groups) { \
        _tile_loadd(7, x + (g)*b->group_stride, 64); \
        _tile_dpbf16ps(g, 6, 7); \
    }
#define EACH_GROUP(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

INLINE void amx_row(const int groups, const struct bf16_block *b, int group, struct fetcher *fetcher) {
    const uint16_t *weight = b->weight, *x = b->x + (size_t)group * b->group_stride;
    float *sum = b->sum + (size_t)group * b->sum_stride;
    const size_t weight_bytes = b->weight_stride * sizeof *weight;
    if (b->add) {
        EACH_GROUP(LOAD_SUM)
    } else {
        EACH_GROUP(ZERO_SUM)
    }
    for (int step = 0; step < b->steps; step++, x += GROUP_STEP, weight += b->step_stride) {
        _tile_loadd(6, weight, weight_bytes);
        fetch(fetcher);
        EACH_GROUP(MULTIPLY)
    }
    EACH_GROUP(STORE_SUM)
}

static void amx_rows(const struct bf16_block *b) {
    struct fetcher fetcher = fetcher_of(b, (b->groups + BF16_PASS_GROUPS - 1) / BF16_PASS_GROUPS * b->steps);
    for (int group = 0; group < b->groups; group += BF16_PASS_GROUPS) switch (b->groups - group) {
        case 1:
            amx_row(1, b, group, &fetcher);
            break;
        case 2:
            amx_row(2, b, group, &fetcher);
            break;
        case 3:
            amx_row(3, b, group, &fetcher);
            break;
        case 4:
            amx_row(4, b, group, &fetcher);
            break;
        case 5:
            amx_row(5, b, group, &fetcher);
            break;
        default:
            amx_row(BF16_PASS_GROUPS, b, group, &fetcher);
        }
}

static void amx_pairs(const struct bf16_block *b) {
    struct fetcher fetcher = fetcher_of(b, (b->groups + 1) / 2 * b->steps);
    int group = 0;
    for (; group + 2 <= b->groups; group += 2) amx_tiles(2, b, group, &fetcher);
    if (group < b->groups) amx_tiles(1, b, group, &fetcher);
}

static void amx_block(const struct bf16_block *b) {
    if (b->outputs > 16)
        amx_pairs(b);
    else
        amx_rows(b);
}

static const struct bf16_kernels amx = {"AMX BF16", amx_begin, amx_end,   panel, packed_panel,
                                        amx_block,  pack,      pack_sums, store};

COMPILE_END

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
