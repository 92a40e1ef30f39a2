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

static void run_bf16(const struct kernels *kernels, struct random *random) {
    enum { ALL = 1 << 16 };
    uint16_t *bits = allocate(ALL, sizeof *bits), *back = allocate(ALL, sizeof *back);
    float *wide = allocate(ALL, sizeof *wide);
    for (int i = 0; i < ALL; i++) bits[i] = (uint16_t)i;
    kernels->widen(bits, wide, ALL);
    kernels->narrow(wide, back, ALL);
    for (int i = 0; i < ALL; i++) {
        float expected = float_of_bf16(bits[i]);
        assert_memory_equal(&wide[i], &expected, sizeof expected);
        if (isnan(wide[i]))
            assert_true(isnan(float_of_bf16(back[i])));
        else
            assert_int_equal(back[i], bits[i]);
    }
    free(wide);
    for (int i = 0; i < LENGTH_COUNT; i++) {
        size_t n = (size_t)LENGTHS[i];
        float *x = random_floats(random, n);
        uint16_t *narrowed = allocate(n, sizeof *narrowed);
        kernels->narrow(x, narrowed, n);
        for (size_t j = 0; j < n; j++) assert_int_equal(narrowed[j], bf16_of_float(x[j]));
        free(narrowed);
        free(x);
    }
    const uint32_t edges[] = {0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x7fffffff, 0xff800000, 0x00008000};
    const uint16_t expected[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x7fc0, 0xff80, 0x0000}; // ties go to even
    float x[7];
    uint16_t out[7];
    memcpy(x, edges, sizeof x);
    kernels->narrow(x, out, 7);
    assert_memory_equal(out, expected, sizeof out);
    free(back);
    free(bits);
}

static void bf16(void **state) {
    (void)state;
    at_levels(run_bf16);
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
        cmocka_unit_test(there_are_kernels), cmocka_unit_test(exponentials),  cmocka_unit_test(bf16),
        cmocka_unit_test(small_kernels),     cmocka_unit_test(transposition), cmocka_unit_test(products),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
