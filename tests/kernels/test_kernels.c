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
static void run_block(const struct bf16_kernels *kernels, struct random *random, int outputs, int columns, int rows) {
    int groups = (rows + BF16_GROUP - 1) / BF16_GROUP, steps = (columns + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
    size_t stride = (size_t)steps * BF16_GROUP, sums = (size_t)groups * BF16_GROUP, width = (size_t)columns;
    struct owned_matrix weight = random_matrix(random, WEIGHTS_BF16, outputs, columns, 1);
    float *x = random_floats(random, (size_t)rows * width), *sum = random_floats(random, (size_t)outputs * sums);
    float *before = copy_floats(sum, (size_t)outputs * sums),
          *y = random_floats(random, (size_t)rows * (size_t)outputs);
    float *y_before = copy_floats(y, (size_t)rows * (size_t)outputs), *bias = random_floats(random, (size_t)outputs);
    float *scale = random_floats(random, (size_t)rows);
    int *row = allocate((size_t)rows, sizeof *row);
    uint16_t *packed = allocate(stride * (size_t)groups, sizeof *packed);
    for (int r = 0; r < rows; r++) row[r] = rows - 1 - r;
    for (int g = 0; g < groups; g++) {
        int some = rows - g * BF16_GROUP < BF16_GROUP ? rows - g * BF16_GROUP : BF16_GROUP;
        kernels->pack(x, width, row + g * BF16_GROUP, some, columns, packed + (size_t)g * stride);
    }
    for (int r = 0; r < groups * BF16_GROUP; r++)
        for (int k = 0; k < steps; k++) {
            uint16_t found = packed[(size_t)(r / BF16_GROUP) * stride + (size_t)(k / 2 * 2 * BF16_GROUP) +
                                    (size_t)(r % BF16_GROUP * 2 + k % 2)];
            bool there = r < rows && k < columns;
            assert_int_equal(found, there ? bf16_of_float(x[(size_t)row[r] * width + (size_t)k]) : 0);
        }
    kernels->begin();
    kernels->block(&(struct bf16_block){.weight = weight.matrix.data,
                                        .weight_stride = width,
                                        .outputs = outputs,
                                        .x = packed,
                                        .group_stride = stride,
                                        .groups = groups,
                                        .depth = columns,
                                        .sum = sum,
                                        .sum_stride = sums,
                                        .add = columns % 2 == 1});
    kernels->end();
    kernels->store(
        &(struct bf16_store){sum, sums, outputs, rows, bias, scale, row, y, (size_t)outputs, outputs % 2 == 1});
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++) {
            size_t at = (size_t)o * sums + (size_t)r, to = (size_t)row[r] * (size_t)outputs + (size_t)o;
            double expected = columns % 2 == 1 ? (double)before[at] : 0, absolute = fabs(expected);
            for (int k = 0; k < columns; k++) {
                double term = weight_at(&weight.matrix, o, k) *
                              (double)float_of_bf16(bf16_of_float(x[(size_t)row[r] * width + (size_t)k]));
                expected += term;
                absolute += fabs(term);
            }
            check((double)sum[at], expected, sum_error(columns + 1, absolute));
            double stored = (double)sum[at] * (double)scale[r] + (double)bias[o];
            if (outputs % 2 == 1) stored += (double)y_before[to];
            check((double)y[to], stored, 4 * 0x1p-24 * (fabs(stored) + 3));
        }
    free(packed);
    free(row);
    free(scale);
    free(bias);
    free(y_before);
    free(y);
    free(before);
    free(sum);
    free(x);
    free(weight.memory);
}

static void bf16_blocks(void **state) {
    (void)state;
    static const int OUTPUTS[] = {1, 5, 12, 16, 17, 31, 32}, COLUMNS[] = {1, 2, 31, 32, 33, 64, 95, 128};
    static const int ROWS[] = {1, 15, 16, 17, 32, 33, 48, 70};
    struct random random = {4242};
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct bf16_kernels *kernels = bf16_kernels_at((enum bf16_level)level);
        if (!kernels) continue;
        for (size_t o = 0; o < sizeof OUTPUTS / sizeof *OUTPUTS; o++)
            for (size_t c = 0; c < sizeof COLUMNS / sizeof *COLUMNS; c++)
                for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
                    run_block(kernels, &random, OUTPUTS[o], COLUMNS[c], ROWS[r]);
    }
}

// What is packed from sums is what would be packed from their transpose; an odd last output goes with 0.
static void bf16_packs_sums(void **state) {
    (void)state;
    enum { OUTPUTS = 7, GROUPS = 2, ROWS = GROUPS * BF16_GROUP };
    struct random random = {99};
    float *sum = random_floats(&random, OUTPUTS * ROWS);
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct bf16_kernels *kernels = bf16_kernels_at((enum bf16_level)level);
        if (!kernels) continue;
        uint16_t *packed = allocate((OUTPUTS + 1) * ROWS, sizeof *packed);
        kernels->pack_sums(sum, ROWS, OUTPUTS, GROUPS, packed, (OUTPUTS + 1) * BF16_GROUP);
        for (int r = 0; r < ROWS; r++)
            for (int o = 0; o <= OUTPUTS; o++) {
                int at =
                    r / BF16_GROUP * (OUTPUTS + 1) * BF16_GROUP + o / 2 * 2 * BF16_GROUP + r % BF16_GROUP * 2 + o % 2;
                assert_int_equal(packed[at], o < OUTPUTS ? bf16_of_float(sum[o * ROWS + r]) : 0);
            }
        free(packed);
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
            kernels->product(
                &(struct product){a, b, found, (size_t)depth, (size_t)columns, (size_t)columns, rows, depth, columns});
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_are_kernels), cmocka_unit_test(exponentials),    cmocka_unit_test(bf16),
        cmocka_unit_test(bf16_blocks),       cmocka_unit_test(bf16_packs_sums), cmocka_unit_test(small_kernels),
        cmocka_unit_test(transposition),     cmocka_unit_test(products),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
