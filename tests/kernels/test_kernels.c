// The CPU's inner loops at every level this machine has, against double precision: values, ragged ends, the odd
// numbers. Buffers have their exact sizes, so under a sanitizer every load and store beyond an end shows.
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

static const int LENGTHS[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 129, 257};
enum { LENGTH_COUNT = sizeof LENGTHS / sizeof LENGTHS[0] };

// Rounding errors of a sum of n products behave like a random walk: √n steps of 2^-24 of what is added, four
// standard deviations, and a few roundings at the end. A single product left out or taken twice would be 1/n.
static double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static void check(double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("found %.9g, expected %.9g ± %.3g", found, expected, tolerance);
}

// Runs a check at each level that this machine has.
static void at_levels(void (*run)(const struct kernels *kernels, struct random *random)) {
    for (int level = 0; level < KERNEL_LEVELS; level++) {
        struct random random = {12345};
        const struct kernels *kernels = kernels_at((enum kernel_level)level);
        if (kernels) run(kernels, &random);
    }
}

static void there_are_kernels(void **state) {
    (void)state;
    assert_non_null(kernels_at(KERNELS_C));
    assert_non_null(kernels_at(kernels_best()));
}

// ---- exp: within two units in the last place, wherever the softmax and silu need it

static void run_exponentials(const struct kernels *kernels, struct random *random) {
    enum { COUNT = 100001 };
    float *x = allocate(COUNT, sizeof *x), *y = allocate(COUNT, sizeof *y);
    for (int i = 0; i < COUNT; i++) y[i] = x[i] = -87.0f + 175.0f * (float)i / COUNT; // -87 .. 88
    double total = 0;
    kernels->exponentials(y, 0, COUNT);
    for (int i = 0; i < COUNT; i++) check((double)y[i], exp((double)x[i]), exp((double)x[i]) * 2 * 0x1p-23);
    free(y);

    for (int i = 0; i < LENGTH_COUNT; i++) { // the sum, and the ragged ends
        int n = LENGTHS[i];
        y = random_floats(random, (size_t)n);
        total = 0;
        for (int j = 0; j < n; j++) total += exp((double)(y[j] - 0.5f));
        check((double)kernels->exponentials(y, 0.5f, (size_t)n), total, sum_error(n, total));
        free(y);
    }
    float odd[] = {-INFINITY, -1000, NAN, 0};
    kernels->exponentials(odd, 0, 4);
    assert_true(odd[0] >= 0 && odd[0] < 2e-38f && odd[1] < 2e-38f && isnan(odd[2]) && odd[3] == 1);
    free(x);
}

static void exponentials(void **state) {
    (void)state;
    at_levels(run_exponentials);
}

// ---- bf16

static void run_widen(const struct kernels *kernels, struct random *random) {
    (void)random;
    enum { ALL = 1 << 16 };
    uint16_t *bits = allocate(ALL, sizeof *bits);
    float *wide = allocate(ALL, sizeof *wide);
    for (int i = 0; i < ALL; i++) bits[i] = (uint16_t)i;
    kernels->widen(bits, wide, ALL);
    for (int i = 0; i < ALL; i++) {
        float expected = float_of_bf16(bits[i]);
        assert_memory_equal(&wide[i], &expected, sizeof expected);
    }
    free(wide);
    for (int i = 0; i < LENGTH_COUNT; i++) { // ragged ends
        size_t n = (size_t)LENGTHS[i];
        uint16_t *some = memcpy(allocate(n, sizeof *some), bits + 0x3f80, n * sizeof *some);
        float *x = allocate(n, sizeof *x);
        kernels->widen(some, x, n);
        for (size_t j = 0; j < n; j++) assert_true(x[j] == float_of_bf16(some[j]));
        free(x);
        free(some);
    }
    free(bits);
}

static void bf16(void **state) {
    (void)state;
    at_levels(run_widen);
}

// The kernels for many rows: what is packed, what a block sums up (ragged outputs, columns and groups, added to what
// was there), and where it is stored. Their rounding is that of bf16_of_float, and sums are exact enough for sum_error.

struct block_case {
    int outputs, columns, rows, groups, steps;
    size_t outputs_padded, group_stride, sum_stride; // with a gap behind each group
    bool add;
    struct owned_matrix weight;
    float *x, *sum, *before;
    int *row; // the last first
    uint16_t *packed, *panel;
};

static int rounded_up(int count, int step) {
    return (count + step - 1) / step * step;
}

static struct block_case block_case(struct random *random, int outputs, int columns, int rows) {
    struct block_case c = {.outputs = outputs, .columns = columns, .rows = rows, .add = columns % 2 == 1};
    c.groups = rounded_up(rows, BF16_GROUP) / BF16_GROUP;
    c.steps = rounded_up(columns, BF16_STEP) / BF16_STEP;
    c.outputs_padded = (size_t)rounded_up(outputs, BF16_OUTPUTS_STEP);
    c.group_stride = (size_t)c.steps * BF16_STEP * BF16_GROUP;
    c.sum_stride = (c.outputs_padded + 3) * BF16_GROUP;
    c.weight = random_matrix(random, WEIGHTS_BF16, outputs, columns, 1);
    c.x = random_floats(random, (size_t)rows * (size_t)columns);
    c.sum = random_floats(random, (size_t)c.groups * c.sum_stride);
    c.before = copy_floats(c.sum, (size_t)c.groups * c.sum_stride);
    c.row = allocate((size_t)rows, sizeof *c.row);
    for (int r = 0; r < rows; r++) c.row[r] = rows - 1 - r;
    c.packed = allocate(c.group_stride * (size_t)c.groups, sizeof *c.packed);
    c.panel = allocate(BF16_PANEL, sizeof *c.panel);
    memset(c.panel, 0xff, BF16_PANEL * sizeof *c.panel); // NaN, which must not get into any sum
    return c;
}

static void block_case_free(struct block_case *c) {
    free(c->weight.memory);
    free(c->x);
    free(c->sum);
    free(c->before);
    free(c->row);
    free(c->packed);
    free(c->panel);
}

static uint16_t rounded_x(const struct block_case *c, int r, int k) {
    return bf16_of_float(c->x[(size_t)c->row[r] * (size_t)c->columns + (size_t)k]);
}

static void check_packing(const struct bf16_kernels *kernels, const struct block_case *c) {
    for (int g = 0; g < c->groups; g++) {
        int some = c->rows - g * BF16_GROUP < BF16_GROUP ? c->rows - g * BF16_GROUP : BF16_GROUP;
        kernels->pack(c->x, (size_t)c->columns, c->row + g * BF16_GROUP, some, c->columns,
                      c->packed + (size_t)g * c->group_stride);
    }
    for (int r = 0; r < c->groups * BF16_GROUP; r++)
        for (int k = 0; k < c->steps * BF16_STEP; k++) {
            size_t at = (size_t)(r / BF16_GROUP) * c->group_stride + (size_t)(k / 2 * 2 * BF16_GROUP);
            uint16_t found = c->packed[at + (size_t)(r % BF16_GROUP * 2 + k % 2)];
            assert_int_equal(found, r < c->rows && k < c->columns ? rounded_x(c, r, k) : 0);
        }
    kernels->panel(c->weight.matrix.data, (size_t)c->columns, c->outputs, c->columns, c->panel);
}

// From a panel, and where the weights have no ragged ends, from where they lie.
static void check_block(const struct bf16_kernels *kernels, const struct block_case *c, bool direct) {
    memcpy(c->sum, c->before, (size_t)c->groups * c->sum_stride * sizeof *c->sum);
    kernels->begin();
    kernels->block(&(struct bf16_block){.weight = direct ? c->weight.matrix.data : c->panel,
                                        .weight_stride = direct ? (size_t)c->columns : BF16_STEP,
                                        .step_stride = direct ? BF16_STEP : BF16_PANEL_STEP,
                                        .outputs = c->outputs,
                                        .steps = c->steps,
                                        .x = c->packed,
                                        .group_stride = c->group_stride,
                                        .groups = c->groups,
                                        .sum = c->sum,
                                        .sum_stride = c->sum_stride,
                                        .add = c->add,
                                        .next = {c->x, 64, c->rows % 3, c->rows % 7}}); // may be anything
    kernels->end();
    for (int r = 0; r < c->groups * BF16_GROUP; r++) {
        size_t group = (size_t)(r / BF16_GROUP) * c->sum_stride;
        for (size_t o = 0; o < c->outputs_padded + 3; o++) {
            size_t at = group + o * BF16_GROUP + (size_t)(r % BF16_GROUP);
            if (o >= c->outputs_padded) assert_true(c->sum[at] == c->before[at]); // behind the end
            if (o >= (size_t)c->outputs || r >= c->rows) continue;
            double expected = c->add ? (double)c->before[at] : 0, absolute = fabs(expected);
            for (int k = 0; k < c->columns; k++) {
                double term = weight_at(&c->weight.matrix, (int)o, k) * (double)float_of_bf16(rounded_x(c, r, k));
                expected += term;
                absolute += fabs(term);
            }
            check((double)c->sum[at], expected, sum_error(c->columns + 1, absolute));
        }
    }
}

// With or without a bias, a scale, and an order of rows.
static void check_store(const struct bf16_kernels *kernels, const struct block_case *c, struct random *random,
                        int variant) {
    size_t count = (size_t)c->rows * (size_t)c->outputs;
    float *y = random_floats(random, count), *before = copy_floats(y, count);
    float *bias = random_floats(random, (size_t)c->outputs), *scale = random_floats(random, (size_t)c->rows);
    bool with_bias = variant & 1, with_scale = variant & 2, with_row = variant & 4, add = variant & 8;
    kernels->store(&(struct bf16_store){c->sum, c->sum_stride, c->outputs, c->rows, with_bias ? bias : NULL,
                                        with_scale ? scale : NULL, with_row ? c->row : NULL, y, (size_t)c->outputs,
                                        add});
    for (int r = 0; r < c->rows; r++)
        for (int o = 0; o < c->outputs; o++) {
            size_t to = (size_t)(with_row ? c->row[r] : r) * (size_t)c->outputs + (size_t)o;
            size_t at = (size_t)(r / BF16_GROUP) * c->sum_stride + (size_t)(o * BF16_GROUP + r % BF16_GROUP);
            double stored = (double)c->sum[at] * (with_scale ? (double)scale[r] : 1);
            double largest = fabs(stored) + 2;
            stored += (with_bias ? (double)bias[o] : 0) + (add ? (double)before[to] : 0);
            check((double)y[to], stored, 4 * 0x1p-24 * largest);
        }
    free(scale);
    free(bias);
    free(before);
    free(y);
}

static void bf16_blocks(void **state) {
    (void)state;
    static const int OUTPUTS[] = {1, 5, 12, 16, 17, 31, 32}, COLUMNS[] = {1, 2, 31, 32, 33, 95, 512};
    static const int ROWS[] = {1, 15, 16, 17, 32, 33, 48, 70, 96, 205};
    struct random random = {4242};
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct bf16_kernels *kernels = bf16_kernels_at((enum bf16_level)level);
        if (!kernels) continue;
        for (size_t o = 0; o < sizeof OUTPUTS / sizeof *OUTPUTS; o++)
            for (size_t c = 0; c < sizeof COLUMNS / sizeof *COLUMNS; c++)
                for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++) {
                    struct block_case block = block_case(&random, OUTPUTS[o], COLUMNS[c], ROWS[r]);
                    check_packing(kernels, &block);
                    check_block(kernels, &block, false);
                    if (block.outputs % BF16_OUTPUTS_STEP == 0 && block.columns % BF16_STEP == 0)
                        check_block(kernels, &block, true);
                    check_store(kernels, &block, &random, random_below(&random, 16));
                    block_case_free(&block);
                }
    }
}

// What is packed from sums is what would be packed from their transpose, with 0 up to the next whole step.
static void bf16_packs_sums(void **state) {
    (void)state;
    enum { OUTPUTS = 39, PADDED = 64, GROUPS = 3, STRIDE = 50 * BF16_GROUP };
    struct random random = {99};
    float *sum = random_floats(&random, GROUPS * STRIDE);
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct bf16_kernels *kernels = bf16_kernels_at((enum bf16_level)level);
        if (!kernels) continue;
        for (int outputs = OUTPUTS - 1; outputs <= OUTPUTS; outputs++) {
            uint16_t *packed = allocate(GROUPS * PADDED * BF16_GROUP, sizeof *packed);
            kernels->pack_sums(sum, STRIDE, outputs, GROUPS, packed, PADDED * BF16_GROUP);
            for (int r = 0; r < GROUPS * BF16_GROUP; r++)
                for (int o = 0; o < PADDED; o++) {
                    int group = r / BF16_GROUP, i = r % BF16_GROUP;
                    int at = (group * PADDED + o / 2 * 2) * BF16_GROUP + i * 2 + o % 2;
                    float value = sum[group * STRIDE + o * BF16_GROUP % STRIDE + i];
                    assert_int_equal(packed[at], o < outputs ? bf16_of_float(value) : 0);
                }
            free(packed);
        }
    }
    free(sum);
}

// ---- The small ones

static void run_small(const struct kernels *kernels, struct random *random) {
    for (int i = 0; i < LENGTH_COUNT; i++) {
        int n = LENGTHS[i];
        size_t count = (size_t)n;
        float *a = random_floats(random, count), *b = random_floats(random, count);
        float *y = copy_floats(a, count);
        kernels->scale(y, 3, count);
        for (int j = 0; j < n; j++) assert_true(y[j] == 3 * a[j]);

        memcpy(y, a, count * sizeof *y);
        kernels->add_scaled(y, b, 0.7f, count);
        for (int j = 0; j < n; j++) check((double)y[j], (double)a[j] + (double)0.7f * (double)b[j], 2 * 0x1p-24 * 2);

        memcpy(y, a, count * sizeof *y);
        for (int j = 0; j < n; j++) y[j] *= 20;
        float *g = copy_floats(y, count);
        kernels->gate(y, b, count);
        for (int j = 0; j < n; j++) {
            double expected = (double)g[j] / (1 + exp(-(double)g[j])) * (double)b[j];
            check((double)y[j], expected, fabs(expected) * 5 * 0x1p-23);
        }
        free(g);

        float largest = a[0];
        for (int j = 0; j < n; j++) largest = a[j] > largest ? a[j] : largest;
        assert_true(kernels->maximum(a, count) == largest);

        if (n % 2 == 0) {
            memcpy(y, a, count * sizeof *y);
            kernels->rotate(b, b + n / 2, n / 2, y);
            for (int j = 0; j < n / 2; j++) {
                double c = (double)b[j], s = (double)b[j + n / 2], p = (double)a[j], q = (double)a[j + n / 2];
                check((double)y[j], p * c - q * s, 4 * 0x1p-24);
                check((double)y[j + n / 2], q * c + p * s, 4 * 0x1p-24);
            }
        }
        free(y);
        free(b);
        free(a);
    }
    float silu[] = {-1000, 1000, 0}, ones[] = {1, 1, 1};
    kernels->gate(silu, ones, 3);
    assert_true(fabsf(silu[0]) < 1e-30f && silu[1] == 1000 && silu[2] == 0);
}

static void small_kernels(void **state) {
    (void)state;
    at_levels(run_small);
}

static void run_transpose(const struct kernels *kernels, struct random *random) {
    for (int i = 0; i < LENGTH_COUNT; i++)
        for (int j = 0; j < LENGTH_COUNT; j += 3) {
            int rows = LENGTHS[i], columns = LENGTHS[j];
            float *in = random_floats(random, (size_t)rows * (size_t)columns);
            float *out = allocate((size_t)rows * (size_t)columns, sizeof *out);
            kernels->transpose(in, (size_t)columns, rows, columns, out, (size_t)rows);
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < columns; c++) assert_true(out[c * rows + r] == in[r * columns + c]);
            free(out);
            free(in);
        }
}

static void transposition(void **state) {
    (void)state;
    at_levels(run_transpose);
}

static void run_product(const struct kernels *kernels, struct random *random) {
    const int rows_of[] = {1, 3, 4, 6, 11, 12, 13, 30};
    for (int i = 0; i < LENGTH_COUNT; i++)
        for (int j = 0; j < LENGTH_COUNT; j += 2) {
            int rows = rows_of[(i + j) % 8], depth = LENGTHS[i], columns = LENGTHS[j];
            float *a = random_floats(random, (size_t)rows * (size_t)depth);
            float *b = random_floats(random, (size_t)depth * (size_t)columns);
            float *c = random_floats(random, (size_t)rows * (size_t)columns);
            float *found = copy_floats(c, (size_t)rows * (size_t)columns);
            kernels->product(&(struct product){a, b, found, (size_t)depth, (size_t)columns, (size_t)columns, rows,
                                               depth, columns, 0});
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < columns; n++) {
                    double sum = (double)c[r * columns + n], absolute = fabs(sum);
                    for (int k = 0; k < depth; k++) {
                        double term = (double)a[r * depth + k] * (double)b[k * columns + n];
                        sum += term;
                        absolute += fabs(term);
                    }
                    check((double)found[r * columns + n], sum, sum_error(depth, absolute));
                }
            free(found);
            free(c);
            free(b);
            free(a);
        }
}

static void products(void **state) {
    (void)state;
    at_levels(run_product);
}

// ---- Rows of keys and values, in every format: what is stored is what the cache's plain C stores, and products of it
// are those of what it holds

static void check_row_kernels(const struct kernels *kernels, struct random *random, enum kv_format format, int width) {
    enum { COUNT = 7, ROWS = 5, STRIDE = 9 };
    const struct row_kernels *rows = &kernels->rows[format];
    struct kv_cache cache;
    struct error error;
    assert_int_equal(kv_cache_init(&cache, format, 1, 1, width, 1, &error), 0);
    void *block = kv_cache_block(&cache, 0, 0, 0, 0), *plain = kv_cache_block(&cache, 0, 0, 1, 0);
    float *x = random_floats(random, (size_t)(COUNT * width)), *held = allocate((size_t)(COUNT * width), sizeof *held);
    float *q = random_floats(random, (size_t)(ROWS * width)), y[ROWS * STRIDE], scale[COUNT];
    float *sum = random_floats(random, (size_t)(ROWS * width)), *before = copy_floats(sum, (size_t)(ROWS * width));
    for (int i = 0; i < COUNT; i++) {
        scale[i] = rows->store(x + i * width, kv_cache_row(&cache, block, i), (size_t)width);
        kv_cache_put(&cache, plain, i, x + i * width);
        if (format == KV_INT8) assert_true(kv_cache_scales(&cache, plain)[i] == scale[i]);
        assert_memory_equal(kv_cache_row(&cache, block, i), kv_cache_row(&cache, plain, i), cache.row_bytes);
        rows->load(kv_cache_row(&cache, block, i), scale[i], held + i * width, (size_t)width);
        float expected[300];
        kv_cache_get(&cache, plain, i, expected);
        assert_memory_equal(held + i * width, expected, (size_t)width * sizeof *held);
    }
    rows->dot(&(struct dot){
        .weight = block, .outputs = COUNT, .columns = width, .x = q, .rows = ROWS, .y = y, .y_stride = STRIDE});
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COUNT; i++) {
            double total = 0, absolute = 0;
            for (int k = 0; k < width; k++) {
                double term = (double)q[r * width + k] * (double)held[i * width + k];
                total += term;
                absolute += fabs(term);
            }
            check((double)(y[r * STRIDE + i] * scale[i]), total, sum_error(width, absolute));
            y[r * STRIDE + i] = random_float(random);
        }
    rows->product(&(struct product){.a = y,
                                    .a_stride = STRIDE,
                                    .b = block,
                                    .b_stride = (size_t)width,
                                    .c = sum,
                                    .c_stride = (size_t)width,
                                    .rows = ROWS,
                                    .depth = COUNT,
                                    .columns = width});
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < width; k++) {
            double total = (double)before[r * width + k], absolute = fabs(total);
            for (int i = 0; i < COUNT; i++) {
                double term = (double)y[r * STRIDE + i] * (double)held[i * width + k] / (double)scale[i];
                total += term;
                absolute += fabs(term);
            }
            check((double)sum[r * width + k], total, sum_error(COUNT + 1, absolute));
        }
    free(before);
    free(sum);
    free(q);
    free(held);
    free(x);
    kv_cache_finish(&cache);
}

static void run_rows(const struct kernels *kernels, struct random *random) {
    for (int format = 0; format < KV_FORMAT_COUNT; format++) {
        for (int i = 0; i < LENGTH_COUNT; i++) check_row_kernels(kernels, random, (enum kv_format)format, LENGTHS[i]);
        const struct row_kernels *rows = &kernels->rows[format];
        for (int odd = 0; odd < 3; odd++) { // what is not finite is noticed, wherever it is
            float x[21] = {0}, held[21];
            unsigned char room[21 * sizeof(float)];
            x[odd * 10] = odd == 1 ? INFINITY : NAN;
            rows->load(room, rows->store(x, room, 21), held, 21);
            assert_false(isfinite(held[odd * 10]));
        }
    }
}

static void rows_of_keys_and_values(void **state) {
    (void)state;
    at_levels(run_rows);
}

// What f16 has no number for is held as the largest it has, in whole vectors and at the ragged end.
static void run_large(const struct kernels *kernels, struct random *random) {
    (void)random;
    enum { WIDTH = 37 };
    static const float LARGE[] = {65503, 65519, 65520, 1e6f, FLT_MAX, -65519, -65520, -FLT_MAX};
    static const float HELD[] = {65504, 65504, 65504, 65504, 65504, -65504, -65504, -65504};
    struct kv_cache cache;
    struct error error;
    assert_int_equal(kv_cache_init(&cache, KV_F16, 1, 1, WIDTH, 1, &error), 0);
    void *block = kv_cache_block(&cache, 0, 0, 0, 0), *plain = kv_cache_block(&cache, 0, 0, 1, 0);
    const struct row_kernels *rows = &kernels->rows[KV_F16];
    float x[WIDTH], held[WIDTH];
    for (int i = 0; i < WIDTH; i++) x[i] = LARGE[i % 8];
    kv_cache_put(&cache, plain, 0, x);
    assert_true(rows->store(x, kv_cache_row(&cache, block, 0), WIDTH) == 1);
    assert_memory_equal(block, plain, cache.row_bytes);
    rows->load(kv_cache_row(&cache, block, 0), 1, held, WIDTH);
    for (int i = 0; i < WIDTH; i++) assert_true(held[i] == HELD[i % 8]);
    x[3] = x[36] = INFINITY; // and what is not finite stays so
    x[4] = NAN;
    kv_cache_put(&cache, plain, 0, x);
    rows->store(x, kv_cache_row(&cache, block, 0), WIDTH);
    rows->load(kv_cache_row(&cache, block, 0), 1, held, WIDTH);
    for (int i = 0; i < WIDTH; i++) assert_true(isnan(held[i]) == (i == 3 || i == 4 || i == 36));
    kv_cache_get(&cache, plain, 0, held);
    for (int i = 0; i < WIDTH; i++) assert_true(isnan(held[i]) == (i == 3 || i == 4 || i == 36));
    kv_cache_finish(&cache);
}

static void large_keys_and_values(void **state) {
    (void)state;
    at_levels(run_large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_are_kernels),
        cmocka_unit_test(rows_of_keys_and_values),
        cmocka_unit_test(large_keys_and_values),
        cmocka_unit_test(exponentials),
        cmocka_unit_test(bf16),
        cmocka_unit_test(bf16_blocks),
        cmocka_unit_test(bf16_packs_sums),
        cmocka_unit_test(small_kernels),
        cmocka_unit_test(transposition),
        cmocka_unit_test(products),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
