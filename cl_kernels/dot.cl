// Products of int8 and int4 weights with rows that are int8 too (quantize.cl), four columns to an instruction. What the
// launcher defines: DOT, that they are wanted; DOT_EMULATED, that plain multiplications take the instruction's place,
// with which every device can show that the rest is right. The CPU's kernels add up in the same order, so that both
// have the same bits.
#if defined DOT && !defined PACKED
#undef DOT // weights that are no integers
#endif

#ifdef DOT

// As engine/cpu/packed.h has them.
enum { OUTLIERS = 9 };
#define OUTLIER_TIMES 3.0f
#define PACKED_LEAST 0x1p-120f

struct packed_x {
    char value[BLOCK_COLUMNS];
    float scale[2];
    int sum[2];
};

struct packed_outliers { // of a row: in the place of a block behind its last one
    int count;
    struct {
        int column;
        float x;
    } at[OUTLIERS];
};

static inline int blocks_of(int columns) {
    return (columns + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
}

// sum + weights (without a sign) times values (with one)
static inline int dot4(uint weights, uint values, int sum) {
#ifdef DOT_EMULATED
    const uchar4 w = as_uchar4(weights);
    const char4 x = as_char4(values);
    return sum + w.s0 * x.s0 + w.s1 * x.s1 + w.s2 * x.s2 + w.s3 * x.s3;
#else
    return sum + dot_4x8packed_us_int(weights, values);
#endif
}

enum { BLOCK_WORDS = BLOCK_COLUMNS / 4, GROUP_WORDS = BLOCK_GROUP / 4 };

#define BLOCK_BYTES PASTE(BLOCK_BYTES_, QUANT)
#define BLOCK_ZERO PASTE(BLOCK_ZERO_, QUANT)
#define BLOCK_LINES PASTE(BLOCK_LINES_, QUANT) // of 16 words; scales are in a line before them
enum {
    BLOCK_BYTES_int8 = INT8_BYTES,
    BLOCK_BYTES_int4 = INT4_BYTES,
    BLOCK_ZERO_int8 = 128,
    BLOCK_ZERO_int4 = 8,
    BLOCK_LINES_int8 = 16,
    BLOCK_LINES_int4 = 8,
};

static inline void block_words_int8(uint words[BLOCK_WORDS], int line, uint stored) {
    words[line] = stored;
}

static inline void block_words_int4(uint words[BLOCK_WORDS], int line, uint stored) {
    words[2 * line] = stored & 0x0f0f0f0f;
    words[2 * line + 1] = stored >> 4 & 0x0f0f0f0f;
}

// An output's part of a block, a word for each four columns.
static inline void block_words(uint words[BLOCK_WORDS], __global const uchar *block, int output) {
    __global const uint *line = (__global const uint *)(block + SCALE_BYTES);
    for (int i = 0; i < BLOCK_LINES; i++)
        PASTE(block_words_, QUANT)(words, i, line[i * BLOCK_OUTPUTS + output % BLOCK_OUTPUTS]);
}

// The same where the items of a sub-group have 16 neighbouring outputs.
static inline void block_words_side_by_side(uint words[BLOCK_WORDS], __global const uchar *block, int output) {
#ifdef SUB_GROUPS
    __global const uint *line = (__global const uint *)(block + SCALE_BYTES);
    for (int i = 0; i < BLOCK_LINES; i++)
        PASTE(block_words_, QUANT)(words, i, intel_sub_group_block_read(line + i * BLOCK_OUTPUTS));
#else
    block_words(words, block, output);
#endif
}

// sum += one group's product; whole numbers are added up exactly.
static inline float add_group(float sum, float product, float x_scale) {
    return fma(product, x_scale, sum);
}

// What the groups of a block of an output's weights by one row's come to, which every item reads for itself.
static inline int2 dot_block(const uint words[BLOCK_WORDS], __global const struct packed_x *x) {
    __global const uint *values = (__global const uint *)x->value;
    int2 whole = (int2)(-BLOCK_ZERO * x->sum[0], -BLOCK_ZERO * x->sum[1]);
    for (int i = 0; i < GROUP_WORDS; i++) {
        whole.s0 = dot4(words[i], values[i], whole.s0);
        whole.s1 = dot4(words[GROUP_WORDS + i], values[GROUP_WORDS + i], whole.s1);
    }
    return whole;
}

// The same for a sub-group whose items share the row: it is read once, a word to an item.
static inline int2 dot_block_together(const uint words[BLOCK_WORDS], __global const struct packed_x *x) {
#ifdef SUB_GROUPS
    const uint values = intel_sub_group_block_read((__global const uint *)x->value);
    int2 whole = (int2)(-BLOCK_ZERO * x->sum[0], -BLOCK_ZERO * x->sum[1]);
    for (int i = 0; i < GROUP_WORDS; i++) {
        whole.s0 = dot4(words[i], sub_group_broadcast(values, i), whole.s0);
        whole.s1 = dot4(words[GROUP_WORDS + i], sub_group_broadcast(values, GROUP_WORDS + i), whole.s1);
    }
    return whole;
#else
    return dot_block(words, x);
#endif
}

// What a row's outliers are worth to an output.
static inline float add_outliers(float sum, __global const uchar *matrix, int output,
                                 __global const struct packed_x *row, int columns) {
    __global const struct packed_outliers *list = (__global const struct packed_outliers *)(row + blocks_of(columns));
    for (int i = 0; i < list->count; i++) {
        const int column = list->at[i].column;
        const float4 weights = weight4(matrix, output, column / 4 * 4, columns);
        const float2 pair = column % 4 < 2 ? weights.s01 : weights.s23;
        sum = fma(column % 2 ? pair.s1 : pair.s0, list->at[i].x, sum);
    }
    return sum;
}

// ---- Few rows. A lane multiplies every FEW_LANES'th block of an output; what its groups come to lies in local memory
// then, where each item adds them up for one row and output, from the first column to the last.

enum { FEW_GROUPS = FEW_LANES * BLOCK_COLUMNS / BLOCK_GROUP, FEW_PRODUCTS = FEW_ROWS * FEW_GROUPS * FEW_OUTPUTS };

// Which of the rows this item adds up; there are as many as lanes.
static inline int few_row(void) {
    return get_local_id(0) / FEW_OUTPUTS;
}

// Leaves this lane's block in products[row][group][output].
static inline void few_multiply(__local float *products, __global const uchar *matrix, int output, int block,
                                __global const struct packed_x *const row[FEW_ROWS], int rows, int columns) {
    __global const uchar *weights = block_at(matrix, output, block * BLOCK_COLUMNS, columns, BLOCK_BYTES);
    const float2 scale = (float2)(scale_at(weights, output, 0), scale_at(weights, output, BLOCK_GROUP));
    const int at = few_lane() * 2 * FEW_OUTPUTS + few_output();
    uint words[BLOCK_WORDS];
    block_words(words, weights, output);
    for (int r = 0; r < FEW_ROWS; r++) {
        if (r >= rows) break;
        const float2 product = convert_float2(dot_block(words, row[r] + block)) * scale;
        products[r * FEW_GROUPS * FEW_OUTPUTS + at] = product.s0;
        products[r * FEW_GROUPS * FEW_OUTPUTS + at + FEW_OUTPUTS] = product.s1;
    }
}

// This item's row by its output. All items of a work group come here.
static inline float dot_few(__local float *products, __global const uchar *matrix, int output,
                            __global const struct packed_x *const row[FEW_ROWS], __global const struct packed_x *mine,
                            int rows, int columns) {
    const int blocks = blocks_of(columns);
    __local const float *product = products + few_row() * FEW_GROUPS * FEW_OUTPUTS + few_output();
    float sum = 0;
    for (int first = 0; first < blocks; first += FEW_LANES) {
        if (first + few_lane() < blocks) few_multiply(products, matrix, output, first + few_lane(), row, rows, columns);
        barrier(CLK_LOCAL_MEM_FENCE);
        const int groups = 2 * min(FEW_LANES, blocks - first);
        for (int g = 0; few_row() < rows && g < groups; g++)
            sum = add_group(sum, product[g * FEW_OUTPUTS], mine[first + g / 2].scale[g % 2]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return few_row() < rows ? add_outliers(sum, matrix, output, mine, columns) : 0.0f;
}

// ---- Many rows: 32 rows by 16 outputs to a work group, 8 rows by an output to an item.

enum { DOT_ROWS = 8 };

static inline int dot_first_row(void) {
    return get_local_id(0) / BLOCK_OUTPUTS * DOT_ROWS;
}

static inline void dot_many(float sum[DOT_ROWS], __global const uchar *matrix, int output, int block,
                            __global const struct packed_x *const row[DOT_ROWS], int columns) {
    __global const uchar *weights = block_at(matrix, output, block * BLOCK_COLUMNS, columns, BLOCK_BYTES);
    const float2 scale = (float2)(scale_at(weights, output, 0), scale_at(weights, output, BLOCK_GROUP));
    uint words[BLOCK_WORDS];
    block_words_side_by_side(words, weights, output);
    for (int r = 0; r < DOT_ROWS; r++) {
        const float2 product = convert_float2(dot_block_together(words, row[r] + block)) * scale;
        sum[r] = add_group(add_group(sum[r], product.s0, row[r][block].scale[0]), product.s1, row[r][block].scale[1]);
    }
}
#endif

// What the products read rows as, and how many of it a row is.
#ifdef DOT
#define ROW struct packed_x
#define row_length(columns) (blocks_of(columns) + 1)
#else
#define ROW float
#define row_length(columns) (columns)
#endif
