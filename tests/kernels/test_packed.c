// The kernels for int8 and int4, at every level this machine has: against sums in whole numbers written out here, at
// the shapes of Phi-tiny, Phi-mini and Phi-3.5 and at ragged ones; against each other, to the bit; and how much their
// rounding costs, and that of prompts in bf16, beside the scheme that llama.cpp calls Q8_0 and Q4_0.
//
// Tolerance: whole numbers are exact, so a result is off by the roundings of one product and one sum for each group of
// columns, in f32: (groups + 4) · 2^-23 of the sum of the groups' sizes, at most.
#include "tests/kernels/stage_data.h"

#include "engine/quants/f16.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

static const enum weight_format FORMATS[] = {WEIGHTS_INT8, WEIGHTS_INT4};

// ---- One product

struct product_case {
    struct owned_matrix weight;
    float *x, *bias, *y; // y: what is there before
    int rows;
    bool accumulate;
};

// Every other time with outliers, more of them than a row can keep.
static float *activations(struct random *random, int rows, int columns) {
    float *x = random_floats(random, (size_t)rows * (size_t)columns);
    int outliers = random_below(random, 2) * columns * rows / 40;
    for (int i = 0; i < outliers; i++) x[random_below(random, rows * columns)] *= 100;
    return x;
}

static struct product_case case_of(struct random *random, enum weight_format format, int outputs, int columns,
                                   int rows) {
    return (struct product_case){.weight = random_matrix(random, format, outputs, columns, 0),
                                 .x = activations(random, rows, columns),
                                 .bias = random_below(random, 2) ? random_floats(random, (size_t)outputs) : NULL,
                                 .y = random_floats(random, (size_t)rows * (size_t)outputs),
                                 .rows = rows,
                                 .accumulate = random_below(random, 2) == 1};
}

static void case_free(struct product_case *c) {
    free(c->weight.memory);
    free(c->x);
    free(c->bias);
    free(c->y);
}

// Quantized rows, with padding that must not matter.
static struct packed_x *quantized(const struct packed_kernels *kernels, const struct product_case *c) {
    const struct matrix *weight = &c->weight.matrix;
    size_t blocks = packed_x_blocks(weight->columns);
    size_t rows = ((size_t)c->rows + PACKED_ROWS - 1) / PACKED_ROWS * PACKED_ROWS;
    struct packed_x *x = allocate(rows * blocks, sizeof *x);
    memset(x, 0xff, rows * blocks * sizeof *x);
    for (int r = 0; r < c->rows; r++)
        kernels->quantize(c->x + (size_t)r * (size_t)weight->columns, weight->columns, x + (size_t)r * blocks);
    return x;
}

static float *multiplied(const struct packed_kernels *kernels, const struct product_case *c, const struct packed_x *x) {
    const struct matrix *weight = &c->weight.matrix;
    float *y = copy_floats(c->y, (size_t)c->rows * (size_t)weight->rows);
    kernels->dot(&(struct packed_dot){.format = weight->format,
                                      .weight = weight->data,
                                      .outputs = weight->rows,
                                      .columns = weight->columns,
                                      .x = x,
                                      .rows = c->rows,
                                      .y = y,
                                      .y_stride = (size_t)weight->rows,
                                      .bias = c->bias,
                                      .accumulate = c->accumulate});
    return y;
}

// Every step'th output of every row against whole numbers.
static void check_product(const char *name, const struct product_case *c, const struct packed_x *x, const float *y,
                          int step) {
    const struct matrix *weight = &c->weight.matrix;
    size_t blocks = packed_x_blocks(weight->columns);
    for (int r = 0; r < c->rows; r++)
        for (int o = r % step; o < weight->rows; o += step) {
            size_t at = (size_t)r * (size_t)weight->rows + (size_t)o;
            double bias = c->bias ? (double)c->bias[o] : 0, before = c->accumulate ? (double)c->y[at] : 0;
            double sum = bias + before, size = fabs(bias) + fabs(before), groups = 0;
            for (int k = 0; k < weight->columns; k += PACKED_GROUP, groups++) {
                const struct packed_x *block = x + (size_t)r * blocks + k / PACKED_COLUMNS;
                double group = 0;
                for (int i = k; i < k + PACKED_GROUP && i < weight->columns; i++)
                    group += weight_at(weight, o, i) * block->value[i % PACKED_COLUMNS];
                group *= (double)block->scale[k % PACKED_COLUMNS / PACKED_GROUP];
                sum += group;
                size += fabs(group);
            }
            const struct packed_outliers *list = packed_outliers_of(x + (size_t)r * blocks, weight->columns);
            for (int i = 0; i < list->count; i++) {
                double one = weight_at(weight, o, list->at[i].column) * (double)list->at[i].x;
                sum += one;
                size += fabs(one);
                groups++;
            }
            if (!(fabs((double)y[at] - sum) <= (groups + 4) * 0x1p-23 * size))
                fail_msg("%s, %s, %d x %d, row %d of %d, output %d: found %.9g, expected %.9g", name,
                         weight_format_name(weight->format), weight->rows, weight->columns, r, c->rows, o,
                         (double)y[at], sum);
        }
}

static void product_on_all(struct random *random, enum weight_format format, int outputs, int columns, int rows,
                           int step) {
    struct product_case c = case_of(random, format, outputs, columns, rows);
    float *first = NULL; // by vectors
    for (int level = 0; level < PACKED_LEVELS; level++) {
        const struct packed_kernels *kernels = packed_kernels_at((enum packed_level)level);
        if (!kernels) continue;
        struct packed_x *x = quantized(kernels, &c);
        float *y = multiplied(kernels, &c, x);
        check_product(kernels->name, &c, x, y, step);
        if (first) assert_memory_equal(y, first, (size_t)rows * (size_t)outputs * sizeof *y);
        free(x);
        if (level > PACKED_C && !first)
            first = y;
        else
            free(y);
    }
    free(first);
    case_free(&c);
}

static void products_of_small_shapes(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{1, 1},   {1, 31},  {3, 32},  {15, 33}, {16, 64},  {17, 65},   {31, 63}, {33, 96},
                                    {48, 97}, {16, 448}, {50, 500}, {7, 127}, {20, 1100}, {16, 1024}, {19, 2112}};
    struct random random = {31};
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
        for (int rows = 1; rows <= 40; rows += SANITIZED ? 7 : 1)
            for (int f = 0; f < 2; f++) product_on_all(&random, FORMATS[f], SHAPES[s][0], SHAPES[s][1], rows, 1);
}

// Projections, experts and head of Phi-tiny, Phi-mini and Phi-3.5.
static void products_of_real_shapes(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{2048, 4096}, {512, 4096},  {4096, 2048}, {448, 4096},
                                    {4096, 448},  {960, 4096},  {4096, 960},  {1024, 4096},
                                    {4096, 4096}, {6400, 4096}, {4096, 6400}, {32064, 4096}};
    struct random random = {32};
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s += SANITIZED ? 4 : 1)
        for (int f = 0; f < 2; f++) {
            bool large = SHAPES[s][0] * SHAPES[s][1] > 1 << 24;
            product_on_all(&random, FORMATS[f], large ? SHAPES[s][0] / 8 + 3 : SHAPES[s][0], SHAPES[s][1], 1, 97);
            product_on_all(&random, FORMATS[f], 67, SHAPES[s][1], 150, 7); // more than one pass
        }
}

// ---- Panels of bf16

// Every weight as packed_at tells it, rounded to bf16, 0 beyond the matrix's edges up to whole steps and blocks.
static void check_panel(const struct bf16_kernels *kernels, const struct matrix *weight, int row, int column) {
    int outputs = weight->rows - row < BF16_OUTPUTS ? weight->rows - row : BF16_OUTPUTS;
    int depth = weight->columns - column < BF16_DEPTH ? weight->columns - column : BF16_DEPTH;
    uint16_t *panel = aligned_alloc(64, BF16_PANEL * sizeof *panel);
    assert_non_null(panel);
    memset(panel, 0xff, BF16_PANEL * sizeof *panel);
    const unsigned char *blocks = (const unsigned char *)weight->data +
                                  weight_format_bytes(weight->format, row, weight->columns) +
                                  weight_format_bytes(weight->format, 1, column);
    kernels->unpack(weight->format, blocks, weight->columns, outputs, depth, panel);
    for (int o = 0; o < outputs; o++)
        for (int k = 0; k < (depth + BF16_STEP - 1) / BF16_STEP * BF16_STEP; k++) {
            float expected = 0;
            if (k < depth) expected = packed_at(weight->format, weight->data, weight->columns, row + o, column + k);
            float found = float_of_bf16(panel[k / BF16_STEP * BF16_PANEL_STEP + o * BF16_STEP + k % BF16_STEP]);
            assert_true(found == float_of_bf16(bf16_of_float(expected))); // 0 has any sign
        }
    for (int o = outputs; o % PACKED_OUTPUTS != 0; o++) // padding of the same block
        for (int k = 0; k < depth; k++)
            assert_int_equal(panel[k / BF16_STEP * BF16_PANEL_STEP + o * BF16_STEP + k % BF16_STEP] & 0x7fff, 0);
    free(panel);
}

static void panels(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{1, 1},    {16, 32},   {17, 33},    {32, 64},
                                    {33, 448}, {70, 1100}, {448, 4096}, {96, 960}};
    const struct bf16_kernels *kernels = bf16_kernels_at(BF16_AVX512);
    if (!kernels) skip();
    struct random random = {37};
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
        for (int f = 0; f < 2; f++) {
            struct owned_matrix owned = random_matrix(&random, FORMATS[f], SHAPES[s][0], SHAPES[s][1], 0);
            for (int row = 0; row < SHAPES[s][0]; row += BF16_OUTPUTS)
                for (int column = 0; column < SHAPES[s][1]; column += BF16_DEPTH)
                    check_panel(kernels, &owned.matrix, row, column);
            free(owned.memory);
        }
}

// ---- Quantizing

// Of a row of a few hundred columns: each value within half a step, sums as they are, and the same by all kernels.
static void check_row(const float *x, int columns, const struct packed_x *row) {
    const struct packed_outliers *list = packed_outliers_of(row, columns);
    for (size_t group = 0; group < 2 * packed_blocks(columns); group++) {
        const struct packed_x *block = &row[group / 2];
        const float scale = block->scale[group % 2];
        int sum = 0;
        bool finite = true;
        for (int k = 0; k < PACKED_GROUP; k++) {
            int column = (int)group * PACKED_GROUP + k, value = block->value[group % 2 * PACKED_GROUP + k];
            float seen = scale * (float)value, wanted = column < columns ? x[column] : 0;
            for (int i = 0; i < list->count; i++)
                if (list->at[i].column == column) {
                    assert_int_equal(value, 0);
                    seen = list->at[i].x;
                }
            sum += value;
            finite &= (bool)isfinite(wanted);
            if (!isnan(scale)) assert_true(fabs((double)seen - (double)wanted) <= 0.5001 * (double)scale);
        }
        assert_int_equal(PACKED_BASE_BITS - INT8_ZERO * sum, block->start[0][group % 2]);
        assert_int_equal(PACKED_BASE_BITS - INT4_ZERO * sum, block->start[1][group % 2]);
        assert_int_equal(isnan(scale), !finite);
    }
}

static void quantizing(void **unused) {
    (void)unused;
    enum { COLUMNS = 500 };
    struct random random = {33};
    size_t blocks = packed_x_blocks(COLUMNS);
    struct packed_x *plain = calloc(blocks, sizeof *plain), *packed = calloc(blocks, sizeof *packed);
    assert_non_null(plain);
    assert_non_null(packed);
    int outliers = 0;
    for (int i = 0; i < 300; i++) {
        float x[COLUMNS];
        for (int k = 0; k < COLUMNS; k++) x[k] = random_float(&random) * (k / 32 == i % 7 ? 1e-30f : 1);
        for (int k = 0; k < i % 16; k++) x[random_below(&random, COLUMNS)] *= 50;
        if (i % 5 == 0) memset(x, 0, 64 * sizeof *x);
        if (i % 4 == 1) x[i % COLUMNS] = (float[]){NAN, INFINITY, -INFINITY, 1e38f}[i / 4 % 4];
        packed_c.quantize(x, COLUMNS, plain);
        check_row(x, COLUMNS, plain);
        outliers += packed_outliers_of(plain, COLUMNS)->count;
        for (int level = PACKED_C + 1; level < PACKED_LEVELS; level++) {
            const struct packed_kernels *kernels = packed_kernels_at((enum packed_level)level);
            if (!kernels) continue;
            kernels->quantize(x, COLUMNS, packed);
            size_t listed = (size_t)packed_outliers_of(plain, COLUMNS)->count;
            assert_memory_equal(packed, plain, (blocks - 1) * sizeof *packed + sizeof(int32_t) * (1 + 2 * listed));
        }
    }
    assert_in_range(outliers, 300, 300 * PACKED_OUTLIERS);
    free(plain);
    free(packed);
}

// The largest ones are kept, whatever comes first.
static void outliers_that_matter(void **unused) {
    (void)unused;
    enum { COLUMNS = 4096, MANY = 2 * PACKED_OUTLIERS };
    struct random random = {36};
    struct packed_x *row = calloc(packed_x_blocks(COLUMNS), sizeof *row);
    float *x = random_floats(&random, COLUMNS);
    assert_non_null(row);
    for (int i = 0; i < MANY; i++)
        x[i * 200 + 7] = (float)(10 + i * 7 % MANY) * (i % 2 ? 1 : -1); // each in a group of its own
    packed_c.quantize(x, COLUMNS, row);
    const struct packed_outliers *list = packed_outliers_of(row, COLUMNS);
    assert_int_equal(list->count, PACKED_OUTLIERS);
    for (int i = 0; i < PACKED_OUTLIERS; i++) {
        assert_int_equal(list->at[i].column % 200, 7);
        assert_true(fabsf(list->at[i].x) >= 10 + MANY - PACKED_OUTLIERS);
        assert_true(list->at[i].x == x[list->at[i].column]);
        for (int j = 0; j < i; j++) assert_int_not_equal(list->at[j].column, list->at[i].column);
    }
    free(x);
    free(row);
}

// What is not finite, in an activation or in a weight, is seen in its row or output and in no other.
static void not_finite(void **unused) {
    (void)unused;
    enum { ROWS = 20, OUTPUTS = 40, COLUMNS = 100 };
    struct random random = {34};
    for (int f = 0; f < 2; f++)
        for (int level = 0; level < PACKED_LEVELS; level++) {
            const struct packed_kernels *kernels = packed_kernels_at((enum packed_level)level);
            if (!kernels) continue;
            struct product_case c = case_of(&random, FORMATS[f], OUTPUTS, COLUMNS, ROWS);
            unsigned char *block = c.weight.memory;
            uint16_t nan = 0x7e00;
            memcpy(block + 2 * 3, &nan, sizeof nan); // the first scale of output 3
            c.x[7 * COLUMNS + 70] = INFINITY;
            struct packed_x *x = quantized(kernels, &c);
            float *y = multiplied(kernels, &c, x);
            for (int r = 0; r < ROWS; r++)
                for (int o = 0; o < OUTPUTS; o++) assert_int_equal(isfinite(y[r * OUTPUTS + o]), r != 7 && o != 3);
            free(x);
            free(y);
            case_free(&c);
        }
}

// ---- Outliers: beside llama.cpp's scheme

// One value to int8 with its group's scale, as Q8_0 does: the largest size becomes 127, the scale is kept in fp16.
static void q8_0(const float *x, float *seen) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
    float d = largest / 127, inverse = d != 0 ? 1 / d : 0, kept = f16_to_f32(f16_from_f32(d));
    for (int i = 0; i < 32; i++) seen[i] = kept * roundf(x[i] * inverse);
}

// To 4 bits, as Q4_0 does: the value of largest size becomes -8.
static void q4_0(const float *x, float *seen) {
    float largest = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
    float d = largest / -8, inverse = d != 0 ? 1 / d : 0, kept = f16_to_f32(f16_from_f32(d));
    for (int i = 0; i < 32; i++) seen[i] = kept * (fminf(15, floorf(x[i] * inverse + 8.5f)) - 8);
}

static float gaussian(struct random *random) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += random_float(random);
    return sum / 2; // of variance 1
}

// As large models have them: a channel in a thousand is 50 to 200 times the rest, in every row.
static void fill_activations(struct random *random, float *x, int rows, int columns) {
    float *size = allocate((size_t)columns, sizeof *size);
    for (int k = 0; k < columns; k++) size[k] = 1;
    for (int i = 0; i < (columns + 999) / 1000; i++)
        size[random_below(random, columns)] = 50 + 150 * (random_float(random) + 1) / 2;
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < columns; k++) x[r * columns + k] = gaussian(random) * size[k];
    free(size);
}

// Error of y beside exact, relative to exact, both [rows][outputs].
static double relative_error(const double *exact, const double *y, size_t count) {
    double off = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        off += (y[i] - exact[i]) * (y[i] - exact[i]);
        size += exact[i] * exact[i];
    }
    return sqrt(off / size);
}

// The same product as a prompt's rows, on tiles of bf16. Without them there is but one way.
static float *multiplied_as_prompt(const struct product_case *c) {
    const struct device *device = &DEVICES[DEVICE_COUNT - 1];
    const struct linear linear = {c->weight.matrix, NULL};
    const struct stage_limits limits = {.tokens_max = c->rows,
                                        .sequences_max = 1,
                                        .context_max = 1,
                                        .hidden = linear.weight.columns,
                                        .heads = 1,
                                        .kv_heads = 1,
                                        .head_dim = 1,
                                        .intermediate = 1,
                                        .experts = 1,
                                        .vocab = 1,
                                        .threads = 1};
    assert_int_equal(device->options.bf16, BF16_AMX);
    void *state = open_device(device, &limits);
    if (!state) return NULL;
    float *y = allocate((size_t)c->rows * (size_t)linear.weight.rows, sizeof *y);
    cpu_stages.rows_are(state, ROWS_OF_PROMPTS);
    assert_int_equal(matmul_way(state, linear.weight.format, c->rows), MATMUL_BF16);
    cpu_stages.linear(state, &linear, c->x, y, c->rows, false);
    cpu_stages.close(state);
    return y;
}

// Relative errors of ours, for answers and for prompts, and of llama.cpp's way, of one product in this format.
static void errors_of(struct random *random, enum weight_format format, int outputs, int columns, double *ours,
                      double *prompts, double *theirs) {
    enum { ROWS = 8 };
    size_t count = ROWS * (size_t)outputs;
    struct product_case c = {.rows = ROWS, .x = allocate(ROWS * (size_t)columns, sizeof(float)),
                             .y = allocate(count, sizeof(float))};
    fill_activations(random, c.x, ROWS, columns);
    float *w = allocate((size_t)outputs * (size_t)columns, sizeof *w), *w_seen = allocate((size_t)columns, sizeof *w);
    float *x_seen = allocate(ROWS * (size_t)columns, sizeof *x_seen);
    for (size_t i = 0; i < (size_t)outputs * (size_t)columns; i++) w[i] = gaussian(random);
    double *exact = allocate(count, sizeof *exact), *y_ours = allocate(count, sizeof *exact);
    double *y_theirs = allocate(count, sizeof *exact);
    for (int i = 0; i < ROWS * columns; i += 32) q8_0(c.x + i, x_seen + i);
    for (int o = 0; o < outputs; o++) {
        const float *row = w + (size_t)o * (size_t)columns;
        for (int k = 0; k < columns; k += 32) (format == WEIGHTS_INT4 ? q4_0 : q8_0)(row + k, w_seen + k);
        for (int r = 0; r < ROWS; r++) {
            double sum = 0, sum_theirs = 0;
            for (int k = 0; k < columns; k++) {
                sum += (double)row[k] * (double)c.x[r * columns + k];
                sum_theirs += (double)w_seen[k] * (double)x_seen[r * columns + k];
            }
            exact[r * outputs + o] = sum;
            y_theirs[r * outputs + o] = sum_theirs;
        }
    }
    c.weight = packed_matrix(format, outputs, columns, w);
    const struct packed_kernels *kernels = packed_kernels_at(packed_best());
    struct packed_x *x = quantized(kernels, &c);
    float *y = multiplied(kernels, &c, x);
    for (size_t i = 0; i < count; i++) y_ours[i] = (double)y[i];
    *ours = relative_error(exact, y_ours, count);
    *theirs = relative_error(exact, y_theirs, count);
    *prompts = *ours;
    float *y_prompts = multiplied_as_prompt(&c);
    if (y_prompts) {
        for (size_t i = 0; i < count; i++) y_ours[i] = (double)y_prompts[i];
        *prompts = relative_error(exact, y_ours, count);
    }
    free(y_prompts);
    free(y);
    free(x);
    free(y_theirs);
    free(y_ours);
    free(exact);
    free(x_seen);
    free(w_seen);
    free(w);
    case_free(&c);
}

static void outliers(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{256, 4096}, {512, 448}, {256, 2048}, {512, 960}, {128, 6400}};
    struct random random = {35};
    for (int f = 0; f < 2; f++)
        for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++) {
            double ours, prompts, theirs;
            errors_of(&random, FORMATS[f], SHAPES[s][0], SHAPES[s][1], &ours, &prompts, &theirs);
            print_message("%s, %d x %d: relative error %.5f (prompts %.5f), llama.cpp's way %.5f\n",
                          weight_format_name(FORMATS[f]), SHAPES[s][0], SHAPES[s][1], ours, prompts, theirs);
            assert_true(ours <= theirs);
            assert_true(prompts <= theirs);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantizing),
        cmocka_unit_test(outliers_that_matter),
        cmocka_unit_test(products_of_small_shapes),
        cmocka_unit_test(products_of_real_shapes),
        cmocka_unit_test(panels),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(outliers),
    };
    return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
