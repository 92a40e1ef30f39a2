// AVX512-BF16, and AMX for the products where the processor has it.
//
// A score is the sum of three products: of the rounded halves of query and key, and of each one's rounded half with
// what rounding took from the other.
#include "engine/cpu/attention_kernels.h"

#include "engine/cpu/compile.h"
#include "engine/cpu/tiles.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include "engine/cpu/turn.h"

#include <string.h>

enum {
    TILE = ATTENTION_TILE,
    ROW = 32,                        // values of a tile's row
    PAIRS = ATTENTION_PAGE_KEYS / 2, // of keys in a page
    SQUARE = ATTENTION_LANES * ATTENTION_LANES,
    ROUNDED = 0, // parts of queries and keys
    REST = 2 * TILE,
    STEP_TILES = 4 * TILE, // both parts of a step: of two groups of queries, or of two halves of a page
};

static int steps_of(int width) {
    return (width + ATTENTION_STEP - 1) / ATTENTION_STEP;
}

// ---- Packing

// 32 places of a vector, of which `left` are there: rounded to bf16, and what that leaves, rounded.
INLINE void split(const float *from, int left, __m512i *rounded, __m512i *rest) {
    const __m512 a = _mm512_maskz_loadu_ps(first(left), from);
    const __m512 b = left > 16 ? _mm512_maskz_loadu_ps(first(left - 16), from + 16) : _mm512_setzero_ps();
    *rounded = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512i low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(*rounded)), 16);
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(*rounded, 1)), 16);
    *rest = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, (__m512)high), _mm512_sub_ps(a, (__m512)low));
}

static void queries(const float *q, int width, uint16_t *to) {
    for (int i = 0; i < width; i += ATTENTION_STEP, to += STEP_TILES) {
        __m512i rounded[16], rest[16];
        for (int r = 0; r < 16; r++) split(q + (size_t)r * (size_t)width + i, width - i, &rounded[r], &rest[r]);
        turn(rounded);
        turn(rest);
        for (int pair = 0; pair < 16; pair++) _mm512_storeu_si512(to + ROUNDED + pair * ROW, rounded[pair]);
        for (int pair = 0; pair < 16; pair++) _mm512_storeu_si512(to + REST + pair * ROW, rest[pair]);
    }
}

static void keys(const float *keys, int count, int width, uint16_t *to) {
    for (int i = 0; i < width; i += ATTENTION_STEP, to += STEP_TILES)
        for (int key = 0; key < ATTENTION_PAGE_KEYS; key++) {
            __m512i rounded = _mm512_setzero_si512(), rest = rounded;
            if (key < count) split(keys + (size_t)key * (size_t)width + i, width - i, &rounded, &rest);
            _mm512_storeu_si512(to + ROUNDED + key * ROW, rounded);
            _mm512_storeu_si512(to + REST + key * ROW, rest);
        }
}

static void values(const float *values, int count, int width, uint16_t *to) {
    for (int i = 0; i < steps_of(width) * ATTENTION_STEP; i += 16, to += TILE) {
        __mmask16 there = first(width - i);
        __m512i half[2][16];
        for (int h = 0; h < 2; h++) {
            for (int j = 0; j < 16; j++) {
                int key = h * 16 + j;
                half[h][j] = _mm512_setzero_si512();
                if (key < count && there)
                    half[h][j] = _mm512_maskz_loadu_epi32(there, values + (size_t)key * (size_t)width + i);
            }
            turn(half[h]);
        }
        for (int j = 0; j < 16; j++)
            _mm512_storeu_si512(to + j * ROW, (__m512i)_mm512_cvtne2ps_pbh((__m512)half[1][j], (__m512)half[0][j]));
    }
}

// ---- Weights

// 2^x for x ≤ 0, with a relative error below 2^-18, and exactly 1 for 0; 0 far below and for -INFINITY; NaN stays. The
// polynomial is right at both ends of 0 … 1, where steps meet.
INLINE __m512 power_of_2(__m512 x) {
    __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 y = _mm512_set1_ps(0.0135557464f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.0520323704f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.2413797624f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.6930321208f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1));
    return _mm512_scalef_ps(y, x);
}

// Scores that are still to become weights, of both groups at the same keys.
struct weigher {
    const float *score;
    uint16_t *to;
    int left; // pairs of keys
    __m512 scale, shift[2], even[2], odd[2];
};

INLINE struct weigher weigher_of(const struct attention_work *work) {
    struct weigher w = {0};
    UNROLL for (int g = 0; g < 2; g++) w.even[g] = w.odd[g] = w.shift[g] = _mm512_setzero_ps();
    w.scale = _mm512_setzero_ps();
    if (!work) return w;
    w.score = work->score + work->first * ATTENTION_PAGE_KEYS * ATTENTION_LANES;
    w.to = work->weight + work->first * TILE;
    w.left = (work->last - work->first) * PAIRS;
    w.scale = _mm512_set1_ps(work->scale);
    UNROLL for (int g = 0; g < 2; g++) w.shift[g] = _mm512_loadu_ps(work->unit->shift + g * ATTENTION_LANES);
    return w;
}

// The next `pairs`. The weights that are added up are rounded, as they will be multiplied with the values.
INLINE void weigh(struct weigher *w, int pairs) {
    const __m512i side_by_side = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                  22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int n = pairs < w->left ? pairs : w->left; n > 0; n--, w->left--) {
        UNROLL for (int g = 0; g < 2; g++) {
            const float *score = w->score + g * ATTENTION_SCORES;
            __m512 a = power_of_2(_mm512_fmsub_ps(_mm512_loadu_ps(score), w->scale, w->shift[g]));
            __m512 b = power_of_2(_mm512_fmsub_ps(_mm512_loadu_ps(score + ATTENTION_LANES), w->scale, w->shift[g]));
            __m512i both = _mm512_permutexvar_epi16(side_by_side, (__m512i)_mm512_cvtne2ps_pbh(b, a));
            _mm512_storeu_si512(w->to + g * ATTENTION_SCORES, both);
            w->even[g] = _mm512_add_ps(w->even[g], (__m512)_mm512_slli_epi32(both, 16));
            w->odd[g] = _mm512_add_ps(w->odd[g], (__m512)_mm512_and_si512(both, _mm512_set1_epi32(-65536)));
        }
        w->score += 2 * ATTENTION_LANES;
        w->to += ROW;
    }
}

INLINE void weigher_end(struct weigher *w, const struct attention_work *work) {
    weigh(w, w->left);
    if (!work) return;
    UNROLL for (int g = 0; g < 2; g++) {
        float *total = work->unit->total + g * ATTENTION_LANES;
        _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), _mm512_add_ps(w->even[g], w->odd[g])));
    }
}

// ---- Between scores and weights

// -INFINITY where a query does not see a key of the page.
static void hide(const struct attention_work *work, int group, int page) {
    const __m512i query = _mm512_loadu_si512(work->unit->query + group * ATTENTION_LANES);
    const __m512i oldest = _mm512_sub_epi32(query, _mm512_set1_epi32(work->window - 1));
    float *score = work->score + group * ATTENTION_SCORES + page * ATTENTION_PAGE_KEYS * ATTENTION_LANES;
    for (int j = 0; j < ATTENTION_PAGE_KEYS; j++, score += ATTENTION_LANES) {
        __m512i key = _mm512_set1_epi32(work->position + page * ATTENTION_PAGE_KEYS + j);
        __mmask16 seen = _mm512_cmple_epi32_mask(key, query) & _mm512_cmpge_epi32_mask(key, oldest);
        _mm512_mask_storeu_ps(score, (__mmask16)~seen, _mm512_set1_ps(-__builtin_inff()));
    }
}

static void hide_pages(const struct attention_work *work, int group) {
    const int *query = work->unit->query + group * ATTENTION_LANES;
    int seen_first = query[ATTENTION_LANES - 1] - work->window + 1, seen_last = query[0]; // by all of them
    for (int page = work->first; page < work->last; page++) {
        int key = work->position + page * ATTENTION_PAGE_KEYS;
        if (key < seen_first || key + ATTENTION_PAGE_KEYS - 1 > seen_last) hide(work, group, page);
    }
}

static void look_group(const struct attention_work *work, int group) {
    struct attention_unit *unit = work->unit;
    const float *score = work->score + group * ATTENTION_SCORES;
    const __m512 before = _mm512_loadu_ps(unit->largest + group * ATTENTION_LANES);
    __m512 most[4] = {before, before, before, before};
    hide_pages(work, group);
    for (int j = work->first * ATTENTION_PAGE_KEYS; j < work->last * ATTENTION_PAGE_KEYS; j += 4)
        UNROLL for (int i = 0; i < 4; i++) most[i] =
            _mm512_max_ps(_mm512_loadu_ps(score + (j + i) * ATTENTION_LANES), most[i]); // a NaN is passed over
    const __m512 largest = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    const __m512 scale = _mm512_set1_ps(work->scale);
    const __mmask16 any = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ);
    const __m512 factor = power_of_2(_mm512_maskz_mul_ps(any, _mm512_sub_ps(before, largest), scale));
    float *total = unit->total + group * ATTENTION_LANES;
    _mm512_storeu_ps(total, _mm512_mul_ps(_mm512_loadu_ps(total), factor));
    _mm512_storeu_ps(unit->largest + group * ATTENTION_LANES, largest);
    _mm512_storeu_ps(unit->shift + group * ATTENTION_LANES, _mm512_maskz_mul_ps(any, largest, scale));
    if (!unit->begun || _mm512_cmp_ps_mask(before, largest, _CMP_NEQ_UQ) == 0) return;
    float *sum = unit->sum + group * work->width * ATTENTION_LANES;
    for (int i = 0; i < work->width; i++, sum += ATTENTION_LANES)
        _mm512_storeu_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(sum), factor));
}

static void look(const struct attention_work *work) {
    for (int group = 0; group < 2; group++) look_group(work, group);
}

// Turned where they lie, so that a row's values are then written one after another: rows lie pages apart.
static void store(const struct attention_unit *unit, int group, int rows, const int *row, int width, float *out) {
    float *sums = unit->sum + group * steps_of(width) * ATTENTION_STEP * ATTENTION_LANES, *sum = sums;
    const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1), _mm512_loadu_ps(unit->total + group * ATTENTION_LANES));
    for (int i = 0; i < width; i += 16, sum += SQUARE) {
        __m512i square[16];
        UNROLL for (int j = 0; j < 16; j++) square[j] =
            (__m512i)_mm512_mul_ps(_mm512_loadu_ps(sum + j * ATTENTION_LANES), factor);
        turn(square);
        UNROLL for (int r = 0; r < 16; r++) _mm512_storeu_si512(sum + r * 16, square[r]);
    }
    for (int r = 0; r < rows; r++) {
        float *to = out + (size_t)row[r] * (size_t)width;
        sum = sums + r * 16;
        for (int i = 0; i < width; i += 16, sum += SQUARE)
            _mm512_mask_storeu_ps(to + i, first(width - i), _mm512_loadu_ps(sum));
    }
}

// ---- Products without tiles: eight rows of both groups at a time

enum { FEW = 8 };

// sum[row][group] += Σ a[row] · b[group] of one tile of rows and one of each group.
INLINE void few_rows(const uint16_t *a, const uint16_t *b, size_t b_group, __m512 sum[FEW][2]) {
    for (int pair = 0; pair < 16; pair++) {
        __m512bh x[2];
        UNROLL for (int g = 0; g < 2; g++) x[g] = (__m512bh)_mm512_loadu_si512(b + (size_t)g * b_group + pair * ROW);
        UNROLL for (int r = 0; r < FEW; r++) {
            int32_t two;
            memcpy(&two, a + r * ROW + pair * 2, sizeof two);
            const __m512bh w = (__m512bh)_mm512_set1_epi32(two);
            UNROLL for (int g = 0; g < 2; g++) sum[r][g] = _mm512_dpbf16_ps(sum[r][g], w, x[g]);
        }
    }
}

INLINE void few_load(const float *from, size_t group, bool there, __m512 sum[FEW][2]) {
    UNROLL for (int r = 0; r < FEW; r++) UNROLL for (int g = 0; g < 2; g++) sum[r][g] =
        there ? _mm512_loadu_ps(from + (size_t)g * group + r * ATTENTION_LANES) : _mm512_setzero_ps();
}

INLINE void few_store(__m512 sum[FEW][2], size_t group, float *to) {
    UNROLL for (int r = 0; r < FEW; r++) UNROLL for (int g = 0; g < 2; g++)
        _mm512_storeu_ps(to + (size_t)g * group + r * ATTENTION_LANES, sum[r][g]);
}

static void avx512_scores(const struct attention_work *work, const struct attention_work *before) {
    struct weigher weigher = weigher_of(before);
    int steps = work ? work->width / ATTENTION_STEP : 0;
    for (int key = work ? work->first * ATTENTION_PAGE_KEYS : 0; work && key < work->last * ATTENTION_PAGE_KEYS;
         key += FEW) {
        const uint16_t *k = work->keys + (size_t)(key / ATTENTION_PAGE_KEYS) * (size_t)steps * STEP_TILES +
                            key % ATTENTION_PAGE_KEYS * ROW;
        const uint16_t *q = work->unit->q;
        __m512 sum[FEW][2];
        few_load(NULL, 0, false, sum);
        for (int step = 0; step < steps; step++, k += STEP_TILES, q += STEP_TILES) {
            few_rows(k + ROUNDED, q + ROUNDED, TILE, sum);
            few_rows(k + REST, q + ROUNDED, TILE, sum);
            few_rows(k + ROUNDED, q + REST, TILE, sum);
        }
        few_store(sum, ATTENTION_SCORES, work->score + key * ATTENTION_LANES);
    }
    weigher_end(&weigher, before);
}

static void avx512_sums(const struct attention_work *work) {
    size_t group = (size_t)work->width * ATTENTION_LANES, page_values = (size_t)work->width * ATTENTION_PAGE_KEYS;
    for (int place = 0; place < work->width; place += FEW) {
        float *to = work->unit->sum + place * ATTENTION_LANES;
        __m512 sum[FEW][2];
        few_load(to, group, work->unit->begun, sum);
        for (int page = work->first; page < work->last; page++)
            few_rows(work->values + (size_t)page * page_values + place * ROW, work->weight + page * TILE,
                     ATTENTION_SCORES, sum);
        few_store(sum, group, to);
    }
    work->unit->begun = true;
}

static void nothing(void) {}

static const struct attention_kernels avx512 = {nothing,       nothing, queries,     keys, values,
                                                avx512_scores, look,    avx512_sums, store};

COMPILE_END

// ---- Products of tiles: 0 to 3 are sums, 4 and 5 of both groups, 6 and 7 of sixteen rows each

COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")

static void amx_begin(void) {
    _tile_loadconfig(&TILE_SQUARES);
}

static void amx_end(void) {
    _tile_release();
}

// Of two tiles of rows with both groups.
#define LOAD_GROUPS(b, group) \
    _tile_loadd(4, b, 64); \
    _tile_loadd(5, (b) + (group), 64);
#define MULTIPLY(a) \
    _tile_loadd(6, a, 64); \
    _tile_dpbf16ps(0, 6, 4); \
    _tile_dpbf16ps(1, 6, 5); \
    _tile_loadd(7, (a) + TILE, 64); \
    _tile_dpbf16ps(2, 7, 4); \
    _tile_dpbf16ps(3, 7, 5);
#define STORE(to, group) \
    _tile_stored(0, to, 64); \
    _tile_stored(1, (to) + (group), 64); \
    _tile_stored(2, (to) + SQUARE, 64); \
    _tile_stored(3, (to) + (group) + SQUARE, 64);

INLINE void amx_zero(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static void amx_scores(const struct attention_work *work, const struct attention_work *before) {
    struct weigher weigher = weigher_of(before);
    int steps = work ? work->width / ATTENTION_STEP : 0, pairs = work ? (PAIRS + steps - 1) / steps : 0;
    for (int page = work ? work->first : 0; work && page < work->last; page++) {
        const uint16_t *k = work->keys + (size_t)page * (size_t)steps * STEP_TILES, *q = work->unit->q;
        amx_zero();
        for (int step = 0; step < steps; step++, k += STEP_TILES, q += STEP_TILES) {
            LOAD_GROUPS(q + ROUNDED, TILE)
            MULTIPLY(k + ROUNDED)
            MULTIPLY(k + REST)
            LOAD_GROUPS(q + REST, TILE)
            MULTIPLY(k + ROUNDED)
            weigh(&weigher, pairs);
        }
        STORE(work->score + page * ATTENTION_PAGE_KEYS * ATTENTION_LANES, ATTENTION_SCORES)
    }
    weigher_end(&weigher, before);
}

static void amx_sums(const struct attention_work *work) {
    size_t group = (size_t)work->width * ATTENTION_LANES, page_values = (size_t)work->width * ATTENTION_PAGE_KEYS;
    for (int place = 0; place < work->width; place += 32) {
        float *sum = work->unit->sum + place * ATTENTION_LANES;
        if (work->unit->begun) {
            _tile_loadd(0, sum, 64);
            _tile_loadd(1, sum + group, 64);
            _tile_loadd(2, sum + SQUARE, 64);
            _tile_loadd(3, sum + group + SQUARE, 64);
        } else {
            amx_zero();
        }
        for (int page = work->first; page < work->last; page++) {
            LOAD_GROUPS(work->weight + page * TILE, ATTENTION_SCORES)
            MULTIPLY(work->values + (size_t)page * page_values + place * ROW)
        }
        STORE(sum, group)
    }
    work->unit->begun = true;
}

static const struct attention_kernels amx = {amx_begin,  amx_end, queries,  keys, values,
                                             amx_scores, look,    amx_sums, store};

COMPILE_END

const struct attention_kernels *attention_kernels_at(enum bf16_level level) {
    if (!bf16_kernels_at(level)) return NULL;
    return level == BF16_AMX ? &amx : &avx512;
}
#else
const struct attention_kernels *attention_kernels_at(enum bf16_level level) {
    (void)level;
    return NULL;
}
#endif
