// AMX: sixteen rows by sixteen outputs by one group of columns in one instruction.
//
// The whole numbers of a group leave the tile for memory, where vectors multiply them with the scales of weights and
// activations and add them up, just as the other kernels do, so that the results are theirs to the bit. While vectors
// work on one block of columns, the tiles work on the next. Weights lie as tiles want them; they only get their signs
// back (and int4 its bytes), two blocks ahead: a tile that is loaded from what has just been stored waits for it. (At
// once: 28 ns for 16 rows and a group of int4, one block ahead 26.3, two 25.4.) Each sixteen rows read the weights
// again, from the second cache.
#include "engine/cpu/compile.h"
#include "engine/cpu/packed.h"
#include "engine/cpu/tiles.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")

#include <immintrin.h>
#include <string.h>

enum {
    GROUPS = PACKED_COLUMNS / PACKED_GROUP,
    LINE = 64,
    GROUP_LINES = PACKED_GROUP / 4, // of weights as bytes
    UNPACKED_AHEAD = 2,             // blocks
    RING = 4,                       // of blocks, unpacked
    ROWS_MIN = 9,                   // fewer are faster without tiles
    FETCHED_AHEAD = 2048,           // bytes that weights are asked for from memory ahead
};

// Of one call, on its stack.
struct work {
    _Alignas(LINE) int8_t weight[RING][GROUPS][GROUP_LINES][LINE];        // each line 4 columns of 16 outputs
    _Alignas(LINE) int32_t whole[2][GROUPS][PACKED_ROWS][PACKED_OUTPUTS]; // of this block and of the one before
};

// Tiles 0 and 1 are sums, 4 and 5 activations, 6 and 7 weights.
static void configure(void) {
    static const struct tile_shapes SHAPES = {
        .palette = 1,
        .row_bytes = {LINE, LINE, LINE, LINE, PACKED_GROUP, PACKED_GROUP, LINE, LINE},
        .rows = {16, 16, 16, 16, 16, 16, GROUP_LINES, GROUP_LINES},
    };
    _tile_loadconfig(&SHAPES);
}

// ---- Weights

INLINE void unpack_block(const bool four, const unsigned char *block, int8_t *to) {
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(INT4_ZERO), sign = _mm512_set1_epi8(-128);
    const unsigned char *line = block + PACKED_SCALE_BYTES;
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

INLINE void fetch_block(const unsigned char *block, size_t bytes) {
    for (size_t line = 0; line < bytes; line += LINE)
        _mm_prefetch((const char *)block + FETCHED_AHEAD + line, _MM_HINT_T1);
}

// ---- Sixteen rows by sixteen outputs

#define MULTIPLY(G, SUM, X, W) \
    _tile_zero(SUM); \
    _tile_loadd(X, x[b].value + (G)*PACKED_GROUP, x_stride); \
    _tile_loadd(W, work->weight[b % RING][G], LINE); \
    _tile_dpbssd(SUM, X, W); \
    _tile_stored(SUM, work->whole[b % 2][G], LINE)

// x: this block of the first row.
INLINE void add_block(const unsigned char *block, int32_t (*whole)[PACKED_ROWS][PACKED_OUTPUTS],
                      const struct packed_x *x, size_t x_blocks, __m512 *sum) {
    UNROLL for (int g = 0; g < GROUPS; g++) {
        const __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)block + g));
        UNROLL for (int r = 0; r < PACKED_ROWS; r++) {
            const __m512 value = _mm512_cvtepi32_ps(_mm512_load_si512(whole[g][r]));
            sum[r] =
                _mm512_fmadd_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(x[(size_t)r * x_blocks].scale[g]), sum[r]);
        }
    }
}

// `fetches`: the weights are still in memory.
INLINE void tile(const bool four, const bool fetches, const unsigned char *weight, size_t blocks,
                 const struct packed_x *x, struct work *work, float *sums) {
    const size_t x_stride = (blocks + 1) * sizeof *x, block_bytes = four ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES;
    __m512 sum[PACKED_ROWS];
    UNROLL for (int r = 0; r < PACKED_ROWS; r++) sum[r] = _mm512_setzero_ps();
    for (size_t ahead = 0; ahead <= blocks + UNPACKED_AHEAD; ahead++) {
        if (ahead < blocks) {
            if (fetches) fetch_block(weight + ahead * block_bytes, block_bytes);
            unpack_block(four, weight + ahead * block_bytes, work->weight[ahead % RING][0][0]);
        }
        if (ahead < UNPACKED_AHEAD) continue;
        const size_t b = ahead - UNPACKED_AHEAD;
        if (b < blocks) {
            MULTIPLY(0, 0, 4, 6);
            MULTIPLY(1, 1, 5, 7);
        }
        if (b > 0) add_block(weight + (b - 1) * block_bytes, work->whole[(b - 1) % 2], x + b - 1, blocks + 1, sum);
    }
    UNROLL for (int r = 0; r < PACKED_ROWS; r++) _mm512_storeu_ps(sums + r * PACKED_OUTPUTS, sum[r]);
}

// ---- All of it

static void quantize(const float *x, int columns, struct packed_x *row) {
    packed_avx512_vnni.quantize(x, columns, row);
}

static void add_outliers(const struct packed_dot *dot, int output, int row, int rows, float *sums) {
    packed_avx512_vnni.add_outliers(dot, output, row, rows, sums);
}

// Sixteen outputs of all rows.
INLINE void column(const bool four, const struct packed_dot *dot, int output, int rows, struct work *work) {
    const size_t blocks = packed_blocks(dot->columns);
    const unsigned char *weight = dot->weight + weight_format_bytes(dot->format, output, dot->columns);
    float sums[PACKED_ROWS * PACKED_OUTPUTS];
    for (int row = 0; row < rows; row += PACKED_ROWS) {
        const struct packed_x *x = dot->x + (size_t)row * packed_x_blocks(dot->columns);
        const int some = rows - row < PACKED_ROWS ? rows - row : PACKED_ROWS;
        if (row == 0)
            tile(four, true, weight, blocks, x, work, sums);
        else
            tile(four, false, weight, blocks, x, work, sums);
        add_outliers(dot, output, row, some, sums);
        packed_store(dot, output, row, some, sums);
    }
}

static void columns_int8(const struct packed_dot *dot, int rows, struct work *work) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS) column(false, dot, output, rows, work);
}

static void columns_int4(const struct packed_dot *dot, int rows, struct work *work) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS) column(true, dot, output, rows, work);
}

static void dot(const struct packed_dot *dot) {
    int rest = dot->rows % PACKED_ROWS < ROWS_MIN ? dot->rows % PACKED_ROWS : 0, rows = dot->rows - rest;
    if (rows > 0) {
        struct work work;
        configure();
        if (dot->format == WEIGHTS_INT4)
            columns_int4(dot, rows, &work);
        else
            columns_int8(dot, rows, &work);
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

COMPILE_END
#endif
