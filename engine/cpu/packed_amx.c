// AMX: sixteen rows by sixteen outputs by one group of columns in one instruction.
//
// The whole numbers of a group leave the tile for memory, where vectors multiply them with the scales of weights and
// activations and add them up, just as the other kernels do, so that the results are theirs to the bit. While vectors
// work on one block of columns, the tiles work on the next. Weights lie as tiles want them; they only get their signs
// back (and int4 its bytes), a piece at a time, for all rows.
#include "engine/cpu/packed.h"

#if defined __x86_64__
#if defined __clang__
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")
#endif

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
    GROUPS = PACKED_COLUMNS / PACKED_GROUP,
    LINE = 64,
    GROUP_LINES = PACKED_GROUP / 4, // of weights as bytes
    PIECE_BLOCKS = 8,               // unpacked at once: they and their activations stay in the first cache
    ROWS_MAX = 128,                 // that are multiplied with a piece: they stay in the second
    ROWS_MIN = 9,                   // fewer are faster without tiles
};

// Of one call, on its stack.
struct work {
    _Alignas(LINE) int8_t weight[PIECE_BLOCKS][GROUPS][GROUP_LINES][LINE]; // each line 4 columns of 16 outputs
    _Alignas(LINE) float scale[PIECE_BLOCKS][GROUPS][PACKED_OUTPUTS];
    _Alignas(LINE) float sum[ROWS_MAX][PACKED_OUTPUTS];
    _Alignas(LINE) int32_t whole[2][GROUPS][PACKED_ROWS][PACKED_OUTPUTS]; // of this block and of the one before
};

// Tiles 0 and 1 are sums, 4 and 5 activations, 6 and 7 weights.
static void configure(void) {
    static const struct {
        uint8_t palette, start, unused[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } SHAPES = {.palette = 1,
                .row_bytes = {LINE, LINE, LINE, LINE, PACKED_GROUP, PACKED_GROUP, LINE, LINE},
                .rows = {16, 16, 16, 16, 16, 16, GROUP_LINES, GROUP_LINES}};
    _tile_loadconfig(&SHAPES);
}

// ---- Weights

INLINE void unpack_block(const bool four, const unsigned char *block, struct work *work, int b) {
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(INT4_ZERO), sign = _mm512_set1_epi8(-128);
    UNROLL for (int g = 0; g < GROUPS; g++) _mm512_store_ps(
        work->scale[b][g], _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)block + g)));
    const unsigned char *line = block + PACKED_SCALE_BYTES;
    int8_t *to = work->weight[b][0][0];
    if (four) {
        UNROLL for (int l = 0; l < GROUPS * GROUP_LINES / 2; l++, line += LINE, to += 2 * LINE) {
            const __m512i both = _mm512_load_si512(line);
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            _mm512_store_si512(to, _mm512_sub_epi8(_mm512_and_si512(both, low), zero));
            _mm512_store_si512(to + LINE, _mm512_sub_epi8(high, zero));
        }
    } else {
        UNROLL for (int l = 0; l < GROUPS * GROUP_LINES; l++, line += LINE, to += LINE)
            _mm512_store_si512(to, _mm512_xor_si512(_mm512_load_si512(line), sign));
    }
}

// ---- Sixteen rows by sixteen outputs

#define MULTIPLY(G, SUM, X, W) \
    _tile_zero(SUM); \
    _tile_loadd(X, x[b].value + (G)*PACKED_GROUP, x_stride); \
    _tile_loadd(W, work->weight[b][G], LINE); \
    _tile_dpbssd(SUM, X, W); \
    _tile_stored(SUM, work->whole[b % 2][G], LINE)

INLINE void add_block(const struct work *work, int b, const struct packed_x *x, size_t x_blocks, __m512 *sum) {
    UNROLL for (int g = 0; g < GROUPS; g++) {
        const __m512 scale = _mm512_load_ps(work->scale[b][g]);
        UNROLL for (int r = 0; r < PACKED_ROWS; r++) {
            const __m512 whole = _mm512_cvtepi32_ps(_mm512_load_si512(work->whole[b % 2][g][r]));
            sum[r] =
                _mm512_fmadd_ps(_mm512_mul_ps(whole, scale), _mm512_set1_ps(x[(size_t)r * x_blocks].scale[g]), sum[r]);
        }
    }
}

// Asks for weights of later, a share at each step.
struct fetch {
    const unsigned char *at, *end;
    size_t step_bytes;
};

INLINE void fetch_step(struct fetch *fetch) {
    const unsigned char *end = fetch->at + fetch->step_bytes < fetch->end ? fetch->at + fetch->step_bytes : fetch->end;
    for (; fetch->at < end; fetch->at += LINE) _mm_prefetch((const char *)fetch->at, _MM_HINT_T1);
}

static void tile(struct work *work, int piece_blocks, const struct packed_x *x, size_t x_blocks, float *sums,
                 struct fetch *fetch) {
    const size_t x_stride = x_blocks * sizeof *x;
    __m512 sum[PACKED_ROWS];
    UNROLL for (int r = 0; r < PACKED_ROWS; r++) sum[r] = _mm512_load_ps(sums + r * PACKED_OUTPUTS);
    for (int b = 0; b <= piece_blocks; b++) {
        if (b < piece_blocks) {
            MULTIPLY(0, 0, 4, 6);
            MULTIPLY(1, 1, 5, 7);
        }
        if (b == 0) continue;
        fetch_step(fetch);
        add_block(work, b - 1, x + b - 1, x_blocks, sum);
    }
    UNROLL for (int r = 0; r < PACKED_ROWS; r++) _mm512_store_ps(sums + r * PACKED_OUTPUTS, sum[r]);
}

// ---- All of it

static void quantize(const float *x, int columns, struct packed_x *row) {
    packed_avx512_vnni.quantize(x, columns, row);
}

static void add_outliers(const struct packed_dot *dot, int output, int row, int rows, float *sums) {
    packed_avx512_vnni.add_outliers(dot, output, row, rows, sums);
}

// Sixteen outputs of up to ROWS_MAX rows.
INLINE void column(const bool four, const struct packed_dot *dot, int output, int row, int rows, struct work *work) {
    const size_t blocks = packed_blocks(dot->columns), x_blocks = packed_x_blocks(dot->columns);
    const size_t block_bytes = four ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES;
    const unsigned char *block = dot->weight + (size_t)(output / PACKED_OUTPUTS) * blocks * block_bytes;
    const struct packed_x *x = dot->x + (size_t)row * x_blocks;
    const int tiles = (rows + PACKED_ROWS - 1) / PACKED_ROWS;
    memset(work->sum, 0, (size_t)tiles * PACKED_ROWS * sizeof *work->sum);
    for (size_t first = 0; first < blocks; first += PIECE_BLOCKS) {
        const int count = blocks - first < PIECE_BLOCKS ? (int)(blocks - first) : PIECE_BLOCKS;
        for (int b = 0; b < count; b++) unpack_block(four, block + (first + (size_t)b) * block_bytes, work, b);
        const unsigned char *next = block + (blocks + first) * block_bytes; // the same piece of the next outputs
        struct fetch fetch = {next, next + (size_t)count * block_bytes,
                              (block_bytes / LINE + (size_t)tiles - 1) / (size_t)tiles * LINE};
        if (output + PACKED_OUTPUTS >= dot->outputs) fetch.end = next;
        for (int t = 0; t < tiles; t++)
            tile(work, count, x + (size_t)t * PACKED_ROWS * x_blocks + first, x_blocks, work->sum[t * PACKED_ROWS],
                 &fetch);
    }
    add_outliers(dot, output, row, rows, work->sum[0]);
    packed_store(dot, output, row, rows, work->sum[0]);
}

static void columns_int8(const struct packed_dot *dot, int row, int rows, struct work *work) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS) column(false, dot, output, row, rows, work);
}

static void columns_int4(const struct packed_dot *dot, int row, int rows, struct work *work) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS) column(true, dot, output, row, rows, work);
}


static void dot(const struct packed_dot *dot) {
    int rest = dot->rows % PACKED_ROWS < ROWS_MIN ? dot->rows % PACKED_ROWS : 0, rows = dot->rows - rest;
    if (rows > 0) {
        struct work work;
        configure();
        for (int row = 0, some; row < rows; row += some) {
            some = rows - row < ROWS_MAX ? rows - row : ROWS_MAX;
            if (dot->format == WEIGHTS_INT4)
                columns_int4(dot, row, some, &work);
            else
                columns_int8(dot, row, some, &work);
        }
        _tile_release();
    }
    if (rest == 0) return;
    struct packed_dot last = *dot;
    last.x += (size_t)rows * packed_x_blocks(dot->columns);
    last.y += (size_t)rows * dot->y_stride;
    last.rows = rest;
    packed_avx512_vnni.dot(&last);
}

const struct packed_kernels packed_amx = {"AMX int8", quantize, dot, add_outliers};

#if defined __clang__
#pragma clang attribute pop
#endif
#endif
