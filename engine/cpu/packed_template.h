// The kernels of packed.h, written once over a small vocabulary of vectors, as kernels_template.h is.
//
// The vocabulary:
//   LANES, VECTORS          values in a vector, vectors in PACKED_OUTPUTS
//   TILE_ROWS               rows of activations that are multiplied with a weight while it is in a register
//   PAIR_ROWS               so many rows at most take two strips of outputs at once
//   KERNELS, KERNELS_NAME   the table to define
//   vec, vec_zero, vec_set, vec_load, vec_store, vec_mul, vec_fma, vec_f16 (from 16 bits), vec_abs, vec_max,
//   vec_largest, vec_is_zero, vec_below (0 where not less than a limit) words, words_load, words_set, words_and,
//   words_down (shifts right by 4), words_float, words_add, words_sum dot_int8, dot_int4 (sum, stored weights,
//   activations: both 4 bytes a lane), start_int8, start_int4 (the sum to begin with, given what the zeros are worth),
//   end_int8, end_int4 (the sum, given the same) words_down_by (shifts right by so many bits) narrow (rounds a vector
//   to LANES bytes; gives the words it stored)

#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { GROUPS = PACKED_COLUMNS / PACKED_GROUP, LINE = 64 };

// Few rows wait for memory. Two strips of outputs are read at once then, each asked for from memory a little ahead, or
// at the same place of the next two where strips are short: the processor's own prefetching stops at every page. (One
// row and one strip: 84 % of what can be read, two: 92 %, four: 85 %; two rows of int4: 88 and 97 %, four 86 and 92 %.
// Asking for the second cache is better than for the first.)
enum { STRIPS_MAX = 2, AHEAD_BYTES = 2048, LONG_STRIP_BYTES = 16384 };

INLINE words broadcast(const int8_t *four) {
    int32_t word;
    memcpy(&word, four, sizeof word);
    return words_set(word);
}

// What the compiler knows of a tile: `strips` times 16 outputs by `rows` rows.
struct tile {
    int rows, strips;
    bool four;
};

// Sums of a tile, and their columns so far.
struct sums {
    vec of[STRIPS_MAX][TILE_ROWS][VECTORS];
};

// One group of columns of a tile, added to its sums. A strip's block is at block + its number · strip_bytes.
INLINE void dot_group(const struct tile t, const unsigned char *block, const size_t strip_bytes, const size_t ahead,
                      const int group, const struct packed_x *const *x, struct sums *sums) {
    const int lines = PACKED_GROUP / (t.four ? 8 : 4), columns = t.four ? 8 : 4;
    const unsigned char *line = block + PACKED_SCALE_BYTES + group * lines * LINE;
    const words low = words_set(0x0f0f0f0f);
    words whole[STRIPS_MAX][TILE_ROWS][VECTORS];
    UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int r = 0; r < t.rows; r++) {
        const int32_t zeros = x[r]->zeros[t.four][group];
        UNROLL for (int v = 0; v < VECTORS; v++) whole[s][r][v] = t.four ? start_int4(zeros) : start_int8(zeros);
    }
    UNROLL for (int l = 0; l < lines; l++) UNROLL for (int s = 0; s < t.strips; s++) {
        const unsigned char *from = line + (size_t)s * strip_bytes + l * LINE;
        __builtin_prefetch(from + ahead, 0, 2);
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const words stored = words_load(from + v * LANES * 4);
            const words first = t.four ? words_and(stored, low) : stored;
            const words second = t.four ? words_and(words_down(stored), low) : stored;
            UNROLL for (int r = 0; r < t.rows; r++) {
                const int8_t *value = x[r]->value + group * PACKED_GROUP + l * columns;
                words *to = &whole[s][r][v];
                if (t.four)
                    *to = dot_int4(dot_int4(*to, first, broadcast(value)), second, broadcast(value + 4));
                else
                    *to = dot_int8(*to, first, broadcast(value));
            }
        }
    }
    UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int v = 0; v < VECTORS; v++) {
        const vec scale = vec_f16(block + (size_t)s * strip_bytes + (group * PACKED_OUTPUTS + v * LANES) * 2);
        UNROLL for (int r = 0; r < t.rows; r++) {
            const int32_t zeros = x[r]->zeros[t.four][group];
            const words total = t.four ? end_int4(whole[s][r][v], zeros) : end_int8(whole[s][r][v], zeros);
            vec *sum = &sums->of[s][r][v];
            *sum = vec_fma(vec_mul(words_float(total), scale), vec_set(x[r]->scale[group]), *sum);
        }
    }
}

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

INLINE void dot_tile(const struct tile t, const struct packed_dot *dot, int output, int row) {
    const size_t blocks = packed_blocks(dot->columns), x_blocks = packed_x_blocks(dot->columns);
    const size_t block_bytes = t.four ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES, strip_bytes = blocks * block_bytes;
    const size_t ahead = strip_bytes < LONG_STRIP_BYTES ? (size_t)t.strips * strip_bytes : AHEAD_BYTES;
    const unsigned char *block = dot->weight + (size_t)(output / PACKED_OUTPUTS) * strip_bytes;
    const struct packed_x *x[TILE_ROWS];
    struct sums sums;
    float stored[TILE_ROWS * PACKED_OUTPUTS];
    UNROLL for (int r = 0; r < t.rows; r++) {
        x[r] = dot->x + (size_t)(row + r) * x_blocks;
        UNROLL for (int s = 0; s < t.strips; s++) UNROLL for (int v = 0; v < VECTORS; v++) sums.of[s][r][v] =
            vec_zero();
    }
    for (size_t b = 0; b < blocks; b++, block += block_bytes) {
        UNROLL for (int s = 0; s < t.strips; s++) __builtin_prefetch(block + (size_t)s * strip_bytes + ahead, 0, 2);
        UNROLL for (int group = 0; group < GROUPS; group++) dot_group(t, block, strip_bytes, ahead, group, x, &sums);
        UNROLL for (int r = 0; r < t.rows; r++) x[r]++;
    }
    UNROLL for (int s = 0; s < t.strips; s++) {
        UNROLL for (int r = 0; r < t.rows; r++) UNROLL for (int v = 0; v < VECTORS; v++)
            vec_store(stored + r * PACKED_OUTPUTS + v * LANES, sums.of[s][r][v]);
        add_outliers(dot, output + s * PACKED_OUTPUTS, row, t.rows, stored);
        packed_store(dot, output + s * PACKED_OUTPUTS, row, t.rows, stored);
    }
}

// Two strips for as long as there are two, or the beginning of a second.
#define DOT_PAIRS(ROWS) \
    case ROWS: \
        for (; ROWS <= PAIR_ROWS && output + PACKED_OUTPUTS < dot->outputs; output += STRIPS_MAX * PACKED_OUTPUTS) \
            dot_tile((struct tile){ROWS < PAIR_ROWS ? ROWS : PAIR_ROWS, STRIPS_MAX, four}, dot, output, 0); \
        break;

#define DOT_ROWS(ROWS) \
    case ROWS: dot_tile((struct tile){ROWS < TILE_ROWS ? ROWS : TILE_ROWS, 1, four}, dot, output, row); break;

// All rows of 16 outputs: their weights come from memory once and from the cache after that.
INLINE void dot_all(const bool four, const struct packed_dot *dot) {
    int output = 0;
    switch (dot->rows) {
        DOT_PAIRS(1)
        DOT_PAIRS(2)
        DOT_PAIRS(3)
        DOT_PAIRS(4)
        DOT_PAIRS(5)
        DOT_PAIRS(6)
    }
    for (; output < dot->outputs; output += PACKED_OUTPUTS)
        for (int row = 0; row < dot->rows; row += TILE_ROWS)
            switch (dot->rows - row) {
                DOT_ROWS(1)
                DOT_ROWS(2)
                DOT_ROWS(3)
                DOT_ROWS(4)
                DOT_ROWS(5)
                DOT_ROWS(6)
                DOT_ROWS(7)
            default: dot_tile((struct tile){TILE_ROWS, 1, four}, dot, output, row);
            }
}

static void dot_all_int8(const struct packed_dot *dot) {
    dot_all(false, dot);
}

static void dot_all_int4(const struct packed_dot *dot) {
    dot_all(true, dot);
}

static void dot(const struct packed_dot *dot) {
    if (dot->format == WEIGHTS_INT4)
        dot_all_int4(dot);
    else
        dot_all_int8(dot);
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
    packed_x_zeros(block, group, words_sum(sum));
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
