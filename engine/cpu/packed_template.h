// The kernels of packed.h, written once over a small vocabulary of vectors, as kernels_template.h is.
//
// The vocabulary:
//   LANES, VECTORS          values in a vector, vectors in PACKED_OUTPUTS
//   TILE_ROWS, PAIR_ROWS    rows of activations, six at most, that are multiplied with a weight while it is in a
//                           register, and so many of two strips of outputs at once
//   PAIRED_ROWS             so many rows at most take two strips at once
//   HOLDS_SUMS              a tile's sums have room in registers, beside those of whole numbers
//   KERNELS, KERNELS_NAME   the table to define
//   vec, vec_zero, vec_set, vec_load, vec_store, vec_add, vec_mul, vec_fma, vec_f16 (from 16 bits), vec_abs, vec_max,
//   vec_largest, vec_is_zero, vec_below (0 where not less than a limit) words, words_load, words_store, words_set,
//   words_and, words_down (shifts right by 4), words_float, words_bits (called floats), words_add, words_sum, dot_int8,
//   dot_int4 (sum, stored weights, activations: both 4 bytes a lane), begin_int8, begin_int4 (the sum to begin with,
//   given struct packed_x's), end_int8, end_int4 (the bits of PACKED_BASE + sum, given the same), words_down_by (shifts
//   right by so many bits), narrow (rounds a vector to LANES bytes; gives the words it stored)

#include "base/smaller.h"

#include <string.h>

// A chunk of weights stays in the first cache while rows pass it, tile by tile, and a tile's rows stay there while they
// pass the strips of the chunk; the rows of a pass stay in the second cache while the weights come from memory. So each
// tile asks for some of the next chunk's: the processor's own prefetching stops at every page.
enum {
    GROUPS = PACKED_COLUMNS / PACKED_GROUP,
    LINE = 64,
    STRIPS_AT_ONCE = 2,
    CHUNK_BLOCKS = 8,
    SUM_ROWS = PACKED_PASS + 8, // of a strip: those of two strips must not lie a multiple of 4 KB apart
    OPENED_STRIP_BYTES = CHUNK_BLOCKS * INT8_BLOCK_BYTES,
};

// One tile of rows waits for memory. Two strips are read at once then, each asked for a little ahead, or at the same
// place of the next two where strips are short. (One row and one strip: 84 % of what can be read, two: 92 %, four:
// 85 %. Asking for the second cache is better than for the first.)
enum {
    AHEAD_BYTES = 2048,
    LONG_STRIP_BYTES = 16384,
    STREAM_ROWS = 2, // so few rows ask for each line as they read one; they are never one tile of several
};

INLINE words broadcast(const int8_t *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return words_set(word);
}

// A line into the second cache; there may be nothing at that address.
INLINE void fetch_line(uintptr_t at) {
    __builtin_prefetch((const void *)at, 0, 2);
}

// How weights lie: as they are stored, or those of int4 one a byte, as int8's. The first of several tiles of rows
// leaves them so for the others: storing them takes no time beside its products.
enum kind { INT8, INT4, OPENING, OPENED };

// What the compiler knows of a tile: `strips` times 16 outputs by `rows` rows.
struct tile {
    int rows, strips;
    enum kind kind;
};

// Rows that pass the weights together.
struct pass {
    int row, rows, tiles;
    bool pairs;                             // of strips
    int outlier_rows, outlier[PACKED_PASS]; // those that have some
};

// Some columns of the rows of a pass, and of up to STRIPS_AT_ONCE strips.
struct chunk {
    const unsigned char *weight; // blocks of the first strip
    size_t strip_bytes;          // from one strip's to the next one's
    int strips, blocks;
    const struct packed_x *x; // [rows][x_blocks]
    size_t x_blocks;
    float *sum;                 // [strips][SUM_ROWS][PACKED_OUTPUTS]
    uintptr_t fetch;            // where the weights are that are wanted next, of the first strip: `bytes` of each
    size_t fetch_bytes, bytes;  // from one strip's to the next one's
    unsigned char *opened;      // [strips][OPENED_STRIP_BYTES]
    int fetch_lines;            // that a tile asks for with each group, of each
    size_t tile_fetches;        // and how many bytes that are
};

struct sums {
    vec of[STRIPS_AT_ONCE][TILE_ROWS][VECTORS];
};

// Two weights a byte.
INLINE bool is_tight(const enum kind kind) {
    return kind == INT4 || kind == OPENING;
}

INLINE size_t block_bytes(const enum kind kind) {
    return is_tight(kind) ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES;
}

// One group of columns of a tile, added to its sums; the block `opened` is written where t.kind says so.
INLINE void dot_group(const struct tile t, const unsigned char *block, const size_t strip_bytes, const size_t ahead,
                      const int group, const struct packed_x *const *x, struct sums *held, float *sum,
                      unsigned char *opened) {
    const bool four = is_tight(t.kind), low_bits = t.kind != INT8;
    const int lines = PACKED_GROUP / (four ? 8 : 4), columns = four ? 8 : 4;
    const unsigned char *line = block + PACKED_SCALE_BYTES + group * lines * LINE;
    const words low = words_set(0x0f0f0f0f);
    words whole[STRIPS_AT_ONCE][TILE_ROWS][VECTORS];
    UNROLL for (int r = 0; r < t.rows; r++) {
        const words start = low_bits ? begin_int4(x[r]->start[1][group]) : begin_int8(x[r]->start[0][group]);
        UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int v = 0; v < VECTORS; v++) whole[s][r][v] = start;
    }
    UNROLL for (int l = 0; l < lines; l++) {
        words first[STRIPS_AT_ONCE][VECTORS], second[STRIPS_AT_ONCE][VECTORS];
        UNROLL for (int s = 0; s < t.strips; s++) {
            const unsigned char *from = line + (size_t)s * strip_bytes + l * LINE;
            if (t.rows <= STREAM_ROWS) fetch_line((uintptr_t)from + ahead);
            UNROLL for (int v = 0; v < VECTORS; v++) {
                const words stored = words_load(from + v * LANES * 4);
                first[s][v] = four ? words_and(stored, low) : stored;
                second[s][v] = four ? words_and(words_down(stored), low) : stored;
                if (t.kind != OPENING) continue;
                unsigned char *to = opened + s * OPENED_STRIP_BYTES + PACKED_SCALE_BYTES +
                                    (group * lines + l) * 2 * LINE + v * LANES * 4;
                words_store(to, first[s][v]);
                words_store(to + LINE, second[s][v]);
            }
        }
        UNROLL for (int r = 0; r < t.rows; r++) {
            const int8_t *value = x[r]->value + group * PACKED_GROUP + l * columns;
            UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int v = 0; v < VECTORS; v++) {
                words *to = &whole[s][r][v];
                *to = low_bits ? dot_int4(*to, first[s][v], broadcast(value))
                               : dot_int8(*to, first[s][v], broadcast(value));
                if (four) *to = dot_int4(*to, second[s][v], broadcast(value + 4));
            }
        }
    }
    UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int v = 0; v < VECTORS; v++) {
        const vec scale = vec_f16(block + (size_t)s * strip_bytes + (group * PACKED_OUTPUTS + v * LANES) * 2);
        const vec base = vec_mul(scale, vec_set(-PACKED_BASE));
        UNROLL for (int r = 0; r < t.rows; r++) {
            const words total = low_bits ? end_int4(whole[s][r][v], x[r]->start[1][group])
                                         : end_int8(whole[s][r][v], x[r]->start[0][group]);
            float *to = sum + (s * SUM_ROWS + r) * PACKED_OUTPUTS + v * LANES;
            // (base + whole) · scale - base · scale is rounded once, as whole · scale is.
            const vec scaled = vec_fma(words_bits(total), scale, base);
            const vec factor = vec_set(x[r]->scale[group]);
            if (HOLDS_SUMS)
                held->of[s][r][v] = vec_fma(scaled, factor, held->of[s][r][v]);
            else
                vec_store(to, vec_fma(scaled, factor, vec_load(to)));
        }
    }
}

// Strips from `strip` on, rows from `row` on.
INLINE void dot_tile(const struct tile t, const struct chunk *chunk, int strip, int row, size_t fetched) {
    const size_t strip_bytes = chunk->strip_bytes, fetch_bytes = chunk->fetch_bytes;
    const unsigned char *block = chunk->weight + (size_t)strip * strip_bytes;
    uintptr_t fetch = chunk->fetch + (size_t)strip * fetch_bytes + fetched;
    const int fetch_lines = t.rows > STREAM_ROWS && fetched < chunk->bytes ? chunk->fetch_lines : 0;
    const size_t ahead = chunk->fetch - (uintptr_t)chunk->weight;
    const struct packed_x *x[TILE_ROWS];
    float *sum = chunk->sum + (strip * SUM_ROWS + row) * PACKED_OUTPUTS;
    unsigned char *opened = chunk->opened + strip * OPENED_STRIP_BYTES;
    struct sums held;
    UNROLL for (int r = 0; r < t.rows; r++) x[r] = chunk->x + (size_t)(row + r) * chunk->x_blocks;
    if (HOLDS_SUMS)
        UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int r = 0; r < t.rows; r++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                held.of[s][r][v] = vec_load(sum + (s * SUM_ROWS + r) * PACKED_OUTPUTS + v * LANES);
    for (int b = 0; b < chunk->blocks; b++, block += block_bytes(t.kind)) {
        if (t.rows <= STREAM_ROWS)
            UNROLL for (int s = 0; s < t.strips; s++) fetch_line((uintptr_t)block + (size_t)s * strip_bytes + ahead);
        if (t.kind == OPENING)
            UNROLL for (int s = 0; s < t.strips; s++)
                memcpy(opened + s * OPENED_STRIP_BYTES, block + (size_t)s * strip_bytes, PACKED_SCALE_BYTES);
        UNROLL for (int group = 0; group < GROUPS; group++) {
            for (int i = 0; i < fetch_lines; i++, fetch += LINE)
                UNROLL for (int s = 0; s < t.strips; s++) fetch_line(fetch + (size_t)s * fetch_bytes);
            dot_group(t, block, strip_bytes, ahead, group, x, &held, sum, opened);
        }
        UNROLL for (int r = 0; r < t.rows; r++) x[r]++;
        if (t.kind == OPENING) opened += INT8_BLOCK_BYTES;
    }
    if (HOLDS_SUMS)
        UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int r = 0; r < t.rows; r++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                vec_store(sum + (s * SUM_ROWS + r) * PACKED_OUTPUTS + v * LANES, held.of[s][r][v]);
}

// ---- Sixteen outputs of some rows

// The weights of 16 outputs at one column times x.
INLINE void add_outlier(const bool four, const unsigned char *strip, int column, float x, float *sums) {
    const unsigned char *block =
        strip + (size_t)(column / PACKED_COLUMNS) * (four ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES);
    const int at = column % PACKED_COLUMNS, line = at / (four ? 8 : 4), bits = at % 4 * 8 + (four ? at % 8 / 4 * 4 : 0);
    const words mask = words_set(four ? 15 : 255), zero = words_set(four ? -INT4_ZERO : -INT8_ZERO);
    UNROLL for (int v = 0; v < VECTORS; v++) {
        const words stored = words_load(block + PACKED_SCALE_BYTES + line * LINE + v * LANES * 4);
        const vec whole = words_float(words_add(words_and(words_down_by(stored, bits), mask), zero));
        const vec scale = vec_f16(block + (at / PACKED_GROUP * PACKED_OUTPUTS + v * LANES) * 2);
        vec_store(sums + v * LANES, vec_fma(vec_mul(whole, scale), vec_set(x), vec_load(sums + v * LANES)));
    }
}

static void add_outliers(const struct packed_dot *dot, int output, int row, int rows, float *sums) {
    const bool four = dot->format == WEIGHTS_INT4;
    const unsigned char *strip = dot->weight + weight_format_bytes(dot->format, output, dot->columns);
    const struct packed_x *x = dot->x + (size_t)row * packed_x_blocks(dot->columns);
    for (int r = 0; r < rows; r++, x += packed_x_blocks(dot->columns), sums += PACKED_OUTPUTS) {
        const struct packed_outliers *list = packed_outliers_of(x, dot->columns);
        for (int i = 0; i < list->count; i++) add_outlier(four, strip, list->at[i].column, list->at[i].x, sums);
    }
}

// What packed_store does, of a whole strip.
static void store(const struct packed_dot *dot, int output, int row, int rows, const float *sum) {
    if (dot->outputs - output < PACKED_OUTPUTS) {
        packed_store(dot, output, row, rows, sum);
        return;
    }
    for (int r = 0; r < rows; r++) {
        float *y = dot->y + (size_t)(row + r) * dot->y_stride + output;
        UNROLL for (int v = 0; v < VECTORS; v++, y += LANES, sum += LANES) {
            vec value = vec_load(sum);
            if (dot->bias) value = vec_add(value, vec_load(dot->bias + output + v * LANES));
            vec_store(y, dot->accumulate ? vec_add(vec_load(y), value) : value);
        }
    }
}

// ---- All of it

static int parts_of(int count, int most) {
    return (count + most - 1) / most;
}

#define DOT_ROWS(ROWS) \
    case ROWS: \
        if (ROWS <= tile_rows) \
            dot_tile((struct tile){ROWS <= tile_rows ? ROWS : 1, strips, kind}, chunk, strip, row, fetched); \
        break;

// One tile of one strip, or two.
INLINE void dot_rows(const int strips, const enum kind kind, const struct chunk *chunk, int strip, int row, int rows,
                     size_t fetched) {
    const int tile_rows = strips == 1 ? TILE_ROWS : PAIR_ROWS;
    switch (rows) {
        DOT_ROWS(1)
        DOT_ROWS(2)
        DOT_ROWS(3)
        DOT_ROWS(4)
        DOT_ROWS(5)
        DOT_ROWS(6)
    }
}

// Some rows, of all strips.
INLINE void dot_tiles(const enum kind kind, const struct pass *pass, const struct chunk *chunk, int row, int rows,
                      size_t fetched) {
    int strip = 0;
    for (; pass->pairs && strip + 1 < chunk->strips; strip += STRIPS_AT_ONCE)
        dot_rows(STRIPS_AT_ONCE, kind, chunk, strip, row, rows, fetched);
    for (; strip < chunk->strips; strip++) dot_rows(1, kind, chunk, strip, row, rows, fetched);
}

// In tiles that are as high as each other, give or take a row.
INLINE void dot_chunk(const bool four, const struct pass *pass, const struct chunk *chunk) {
    const int rows = pass->rows / pass->tiles, more = pass->rows % pass->tiles;
    struct chunk opened = *chunk;
    opened.weight = chunk->opened;
    opened.strip_bytes = OPENED_STRIP_BYTES;
    for (int row = 0, i = 0, some; i < pass->tiles; i++, row += some) {
        const size_t fetched = chunk->tile_fetches * (size_t)i;
        some = rows + (i < more);
        if (!four)
            dot_tiles(INT8, pass, chunk, row, some, fetched);
        else if (pass->tiles == 1)
            dot_tiles(INT4, pass, chunk, row, some, fetched);
        else if (i == 0)
            dot_tiles(OPENING, pass, chunk, row, some, fetched);
        else
            dot_tiles(OPENED, pass, &opened, row, some, fetched);
    }
}

// Some strips.
INLINE void dot_strips(const bool four, const struct packed_dot *dot, const struct pass *pass, int output, int strips) {
    _Alignas(LINE) float sum[STRIPS_AT_ONCE * SUM_ROWS * PACKED_OUTPUTS];
    _Alignas(LINE) unsigned char opened[STRIPS_AT_ONCE * OPENED_STRIP_BYTES];
    const size_t x_blocks = packed_x_blocks(dot->columns), bytes = block_bytes(four ? INT4 : INT8);
    const int blocks = (int)packed_blocks(dot->columns);
    const size_t strip_bytes = (size_t)blocks * bytes;
    const unsigned char *weight = dot->weight + (size_t)(output / PACKED_OUTPUTS) * strip_bytes;
    for (int s = 0; s < strips; s++)
        memset(sum + s * SUM_ROWS * PACKED_OUTPUTS, 0, (size_t)pass->rows * PACKED_OUTPUTS * sizeof *sum);
    for (int b = 0, some; b < blocks; b += some) {
        some = pass->tiles == 1 ? blocks : smaller(blocks - b, CHUNK_BLOCKS);
        const unsigned char *from = weight + (size_t)b * bytes;
        struct chunk chunk = {.weight = from,
                              .strip_bytes = strip_bytes,
                              .strips = strips,
                              .blocks = some,
                              .x = dot->x + (size_t)pass->row * x_blocks + b,
                              .x_blocks = x_blocks,
                              .sum = sum,
                              .fetch = (uintptr_t)from + (size_t)some * bytes,
                              .fetch_bytes = strip_bytes,
                              .bytes = (size_t)some * bytes,
                              .opened = opened,
                              .fetch_lines = parts_of((int)bytes / LINE, GROUPS * pass->tiles)};
        chunk.tile_fetches = (size_t)(chunk.fetch_lines * GROUPS * some * LINE);
        if (some == blocks && strip_bytes >= LONG_STRIP_BYTES)
            chunk.fetch = (uintptr_t)from + AHEAD_BYTES;
        else if (b + some == blocks && output + strips * PACKED_OUTPUTS >= dot->outputs && dot->next)
            chunk.fetch = (uintptr_t)dot->next;
        else if (b + some == blocks)
            chunk.fetch += (size_t)(strips - 1) * strip_bytes; // of the next strips
        dot_chunk(four, pass, &chunk);
    }
    for (int s = 0; s < strips; s++, output += PACKED_OUTPUTS) {
        float *of_strip = sum + s * SUM_ROWS * PACKED_OUTPUTS;
        for (int i = 0; i < pass->outlier_rows; i++)
            add_outliers(dot, output, pass->row + pass->outlier[i], 1, of_strip + pass->outlier[i] * PACKED_OUTPUTS);
        store(dot, output, pass->row, pass->rows, of_strip);
    }
}

static void dot_strips_int8(const struct packed_dot *dot, const struct pass *pass, int output, int strips) {
    dot_strips(false, dot, pass, output, strips);
}

static void dot_strips_int4(const struct packed_dot *dot, const struct pass *pass, int output, int strips) {
    dot_strips(true, dot, pass, output, strips);
}

static struct pass pass_of(const struct packed_dot *dot, int row, int rows) {
    struct pass pass = {.row = row, .rows = rows, .pairs = rows <= PAIRED_ROWS};
    pass.tiles = parts_of(rows, pass.pairs ? PAIR_ROWS : TILE_ROWS);
    for (int r = 0; r < rows; r++)
        if (packed_outliers_of(dot->x + (size_t)(row + r) * packed_x_blocks(dot->columns), dot->columns)->count > 0)
            pass.outlier[pass.outlier_rows++] = r;
    return pass;
}

static void dot(const struct packed_dot *dot) {
    const int passes = parts_of(dot->rows, PACKED_PASS), all = parts_of(dot->outputs, PACKED_OUTPUTS);
    for (int i = 0, row = 0; i < passes; i++) {
        const struct pass pass = pass_of(dot, row, dot->rows / passes + (i < dot->rows % passes));
        const int at_once = pass.tiles > 1 || pass.pairs ? STRIPS_AT_ONCE : 1;
        row += pass.rows;
        for (int strip = 0; strip < all; strip += at_once)
            (dot->format == WEIGHTS_INT4 ? dot_strips_int4 : dot_strips_int8)(
                dot, &pass, strip * PACKED_OUTPUTS, smaller(all - strip, at_once));
    }
}

// ---- Activations

INLINE void quantize_group(const float *x, struct packed_x *block, int group, float *most, float *next) {
    enum { PARTS = PACKED_GROUP / LANES };
    vec part[PARTS], largest = vec_zero(), second = vec_zero(), odd = vec_zero();
    UNROLL for (int i = 0; i < PARTS; i++) {
        part[i] = vec_load(x + i * LANES);
        largest = vec_max(vec_abs(part[i]), largest);
        odd = vec_fma(part[i], vec_zero(), odd); // what is not finite is to be noticed
    }
    *most = vec_largest(largest);
    UNROLL for (int i = 0; i < PARTS; i++) second = vec_max(vec_below(vec_abs(part[i]), vec_set(*most)), second);
    *next = vec_largest(second);
    bool finite = vec_is_zero(odd);
    float inverse = finite && *most >= PACKED_LEAST ? 127 / *most : 0;
    words sum = words_set(0);
    UNROLL for (int i = 0; i < PARTS; i++)
        sum = words_add(sum, narrow(block->value + group * PACKED_GROUP + i * LANES,
                                    finite ? vec_mul(part[i], vec_set(inverse)) : vec_zero()));
    block->scale[group] = finite ? *most / 127 : __builtin_nanf("");
    packed_x_start(block, group, words_sum(sum));
    if (!finite) *most = *next = 0; // no outlier
}

static void quantize_again(const float *x, struct packed_x *block, int group, float *most, float *next) {
    quantize_group(x, block, group, most, next);
}

static void quantize(const float *x, int columns, struct packed_x *row) {
    struct packed_found found = {.list.count = 0};
    float last[PACKED_COLUMNS], most, next;
    for (int first = 0; first < columns; first += PACKED_COLUMNS) {
        const float *from = x + first;
        if (columns - first < PACKED_COLUMNS) {
            memset(last, 0, sizeof last);
            memcpy(last, from, (size_t)(columns - first) * sizeof *x);
            from = last;
        }
        for (int group = 0; group < GROUPS; group++) {
            quantize_group(from + group * PACKED_GROUP, row + first / PACKED_COLUMNS, group, &most, &next);
            if (most <= OUTLIER_TIMES * next || most == 0) continue;
            int at = group * PACKED_GROUP;
            while (from[at] != most && from[at] != -most) at++;
            packed_note(&found, first + at, from[at], next);
        }
    }
    packed_end_row(&found, x, columns, row, quantize_again);
}

const struct packed_kernels KERNELS = {KERNELS_NAME, quantize, dot, add_outliers};
