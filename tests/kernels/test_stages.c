// Every stage of the CPU, at every level and with and without oneDNN and bf16, against the reference: random shapes and
// their boundaries, ragged ones, near ties, numbers that are not finite; and that a row's result does not depend
// on the rows beside it.
//
// Tolerances. A sum of n products is allowed (4√n + 8) · 2^-24 of the sum of their absolute values: rounding errors
// behave like a random walk, and four standard deviations are hardly ever exceeded over the number of values
// tested here, while a single product left out or taken twice shows as about 1/n of that sum. Where a device
// multiplies in bf16 or int8, the reference is given the activations rounded in the same way, and in bf16 the weights,
// so that the same holds; that int8 rounds them well is for test_packed.
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

static const int ROWS[] = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257};
enum { ROW_COUNT = sizeof ROWS / sizeof ROWS[0], ROWS_MAX = 257 };

static double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static void check(const char *what, double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s: found %.9g, expected %.9g ± %.3g", what, found, expected, tolerance);
}

static struct stage_limits limits_of(int tokens, int hidden, int intermediate, int experts, int vocab) {
    return (struct stage_limits){.tokens_max = tokens,
                                 .sequences_max = tokens,
                                 .context_max = 1024,
                                 .hidden = hidden,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .intermediate = intermediate,
                                 .experts = experts,
                                 .vocab = vocab,
                                 .threads = 2};
}

static void *open_reference(const struct stage_limits *limits) {
    void *state;
    struct error error;
    assert_int_equal(reference_stages.open(&state, limits, &error), 0);
    return state;
}

// The activations as the device multiplies them.
static float *as_multiplied(const struct cpu *cpu, enum weight_format format, const float *x, int rows, int columns) {
    size_t count = (size_t)rows * (size_t)columns;
    float *seen = copy_floats(x, count);
    enum matmul_way way = matmul_way(cpu, format, rows);
    if (way == MATMUL_PACKED) as_packed(cpu, x, rows, columns, seen);
    if (way == MATMUL_BF16)
        for (size_t i = 0; i < count; i++) seen[i] = float_of_bf16(bf16_of_float(x[i]));
    return seen;
}

// ---- linear

struct linear_case {
    struct owned_matrix weight;
    float *bias, *x, *y; // y: what is there before
    int rows;
    bool accumulate, with_bias;
};

static struct linear_case linear_case(struct random *random, enum weight_format format, int outputs, int columns,
                                      int rows) {
    size_t y_count = (size_t)rows * (size_t)outputs;
    return (struct linear_case){.weight = random_matrix(random, format, outputs, columns, 1),
                                .bias = random_floats(random, (size_t)outputs),
                                .x = random_floats(random, (size_t)rows * (size_t)columns),
                                .y = random_floats(random, y_count),
                                .rows = rows,
                                .accumulate = random_below(random, 2) == 1,
                                .with_bias = random_below(random, 2) == 1};
}

static void linear_case_free(struct linear_case *c) {
    free(c->weight.memory);
    free(c->bias);
    free(c->x);
    free(c->y);
}

// Every step'th output of every row against double precision.
static void check_linear(const char *name, const struct linear_case *c, void *state, int step) {
    const struct matrix *weight = &c->weight.matrix;
    const struct linear linear = {*weight, c->with_bias ? c->bias : NULL};
    size_t x_count = (size_t)c->rows * (size_t)weight->columns, y_count = (size_t)c->rows * (size_t)weight->rows;
    float *x = copy_floats(c->x, x_count), *y = copy_floats(c->y, y_count);
    cpu_stages.linear(state, &linear, x, y, c->rows, c->accumulate);
    assert_memory_equal(x, c->x, x_count * sizeof *x);

    float *seen = as_multiplied(state, weight->format, x, c->rows, weight->columns);
    enum matmul_way way = matmul_way(state, weight->format, c->rows);
    for (int r = 0; r < c->rows; r++)
        for (int o = r % step; o < weight->rows; o += step) {
            double sum = 0, absolute = 0;
            for (int k = 0; k < weight->columns; k++) {
                double term = weight_multiplied(weight, way, o, k) *
                              (double)seen[(size_t)r * (size_t)weight->columns + (size_t)k];
                sum += term;
                absolute += fabs(term);
            }
            size_t at = (size_t)r * (size_t)weight->rows + (size_t)o;
            double before = c->accumulate ? (double)c->y[at] : 0, bias = c->with_bias ? (double)c->bias[o] : 0;
            check(name, (double)y[at], sum + before + bias,
                  sum_error(weight->columns, absolute) + 4 * 0x1p-24 * (fabs(before) + fabs(bias) + fabs(sum)));
        }
    free(seen);
    free(y);
    free(x);
}

static void linear_on_all(struct random *random, int outputs, int columns, int rows, int step) {
    for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++) {
        struct linear_case c = linear_case(random, (enum weight_format)format, outputs, columns, rows);
        struct stage_limits limits = limits_of(rows, columns, 1, 1, outputs);
        for (int d = 0; d < DEVICE_COUNT; d++) {
            void *state = open_device(&DEVICES[d], &limits);
            if (!state) continue;
            check_linear(DEVICES[d].name, &c, state, step);
            cpu_stages.close(state);
        }
        linear_case_free(&c);
    }
}

static void linear_of_small_shapes(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{1, 1},   {1, 7},    {3, 31},   {5, 48},   {17, 100}, {16, 256},
                                    {33, 96}, {48, 257}, {64, 640}, {130, 33}, {7, 4},    {96, 64}};
    struct random random = {1};
    for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s++)
        for (int r = SANITIZED ? (int)s % 3 : 0; r < ROW_COUNT; r += SANITIZED ? 3 : 1)
            linear_on_all(&random, SHAPES[s][0], SHAPES[s][1], ROWS[r], 1);
    linear_on_all(&random, 80, 1120, 530, 7); // beyond what is multiplied at once, in rows and in columns
}

// The projections, experts and head of Phi-tiny, Phi-mini and Phi-3.5, with few rows and a sample of the outputs.
static void linear_of_real_shapes(void **unused) {
    (void)unused;
    static const int SHAPES[][2] = {{2048, 4096}, {512, 4096}, {4096, 2048}, {448, 4096},  {4096, 448},
                                    {960, 4096},  {4096, 960}, {1024, 4096}, {4096, 6400}, {32064, 512}};
    struct random random = {2};
    for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s += SANITIZED ? 9 : 1) {
        linear_on_all(&random, SHAPES[s][0], SHAPES[s][1], 2, 97);
        linear_on_all(&random, SHAPES[s][0], SHAPES[s][1], 21, 997);
    }
}

// The reference itself, on which all the other tests rest, against sums of its own kind written out here.
static void reference_linear(void **unused) {
    (void)unused;
    struct random random = {3};
    struct stage_limits limits = limits_of(5, 100, 1, 1, 17);
    void *state = open_reference(&limits);
    for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++) {
        struct linear_case c = linear_case(&random, (enum weight_format)format, 17, 100, 5);
        const struct linear linear = {c.weight.matrix, c.bias};
        float *y = copy_floats(c.y, 5 * 17);
        reference_stages.linear(state, &linear, c.x, y, 5, true);
        for (int r = 0; r < 5; r++)
            for (int o = 0; o < 17; o++) {
                double sum = (double)c.y[r * 17 + o] + (double)c.bias[o];
                for (int k = 0; k < 100; k++) sum += weight_at(&c.weight.matrix, o, k) * (double)c.x[r * 100 + k];
                check("reference", (double)y[r * 17 + o], sum, fabs(sum) * 0x1p-23);
            }
        free(y);
        linear_case_free(&c);
    }
    reference_stages.close(state);
}

// In bf16 an activation is off by at most 2^-9 of itself, so a result by at most 2^-9 Σ|w · x| more than in f32.
static void bf16_keeps_its_bound(void **unused) {
    (void)unused;
    struct random random = {4};
    struct linear_case c = linear_case(&random, WEIGHTS_BF16, 64, 640, 64);
    c.accumulate = c.with_bias = false;
    struct stage_limits limits = limits_of(64, 640, 1, 1, 64);
    for (int d = 0; d < DEVICE_COUNT; d++) {
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        const struct linear linear = {c.weight.matrix, NULL};
        float *y = copy_floats(c.y, 64 * 64);
        cpu_stages.linear(state, &linear, c.x, y, 64, false);
        for (int r = 0; r < 64; r++)
            for (int o = 0; o < 64; o++) {
                double sum = 0, absolute = 0;
                for (int k = 0; k < 640; k++) {
                    double term = weight_at(&c.weight.matrix, o, k) * (double)c.x[r * 640 + k];
                    sum += term;
                    absolute += fabs(term);
                }
                check(DEVICES[d].name, (double)y[r * 64 + o], sum, 0x1p-9 * absolute + sum_error(640, absolute));
            }
        free(y);
        cpu_stages.close(state);
    }
    linear_case_free(&c);
}

// ---- embed and norm

static void embeddings(void **unused) {
    (void)unused;
    struct random random = {5};
    const int32_t token[] = {3, 0, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8};
    struct stage_limits limits = limits_of(12, 37, 1, 1, 10);
    void *reference = open_reference(&limits);
    for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++) {
        struct owned_matrix table = random_matrix(&random, (enum weight_format)format, 10, 37, 1);
        float expected[12 * 37], x[12 * 37];
        reference_stages.embed(reference, &table.matrix, token, 12, expected);
        for (int r = 0; r < 12; r++) assert_true((double)expected[r * 37 + 5] == weight_at(&table.matrix, token[r], 5));
        for (int d = 0; d < DEVICE_COUNT; d++) {
            void *state = open_device(&DEVICES[d], &limits);
            if (!state) continue;
            cpu_stages.embed(state, &table.matrix, token, 12, x);
            assert_memory_equal(x, expected, sizeof x);
            cpu_stages.close(state);
        }
        free(table.memory);
    }
    reference_stages.close(reference);
}

static void check_norm(const char *name, void *state, void *reference, struct random *random, int width, int rows,
                       float offset) {
    size_t count = (size_t)rows * (size_t)width;
    float *x = random_floats(random, count), *y = allocate(count, sizeof *y), *expected = allocate(count, sizeof *y);
    float *weight = random_floats(random, (size_t)width), *bias = random_floats(random, (size_t)width);
    for (size_t i = 0; i < count; i++) x[i] += offset;
    const struct norm norm = {width, 1e-5f, weight, bias};
    reference_stages.norm(reference, &norm, x, expected, rows);
    cpu_stages.norm(state, &norm, x, y, rows);
    for (int r = 0; r < rows; r++) {
        const float *row = x + (size_t)r * (size_t)width;
        double mean = 0, absolute = 0, variance = 0;
        for (int i = 0; i < width; i++) {
            mean += (double)row[i] / width;
            absolute += fabs((double)row[i]) / width;
        }
        for (int i = 0; i < width; i++) variance += ((double)row[i] - mean) * ((double)row[i] - mean) / width;
        // An error of the mean moves every value; its square, and the rounding of the sum, stretch them.
        double scale = 1 / sqrt(variance + 1e-5), shift = sum_error(width, absolute) + 0x1p-24 * fabs(mean);
        for (int i = 0; i < width; i++) {
            double deviation = fabs((double)row[i] - mean);
            double stretch = sum_error(width, 1) + shift * shift * scale * scale + 8 * 0x1p-24;
            double tolerance =
                fabs((double)weight[i]) * scale * (shift + deviation * stretch) + 4 * 0x1p-24 * fabs((double)bias[i]);
            check(name, (double)y[(size_t)r * (size_t)width + (size_t)i],
                  (double)expected[(size_t)r * (size_t)width + (size_t)i], tolerance);
        }
    }
    cpu_stages.norm(state, &norm, x, x, rows); // in place
    assert_memory_equal(x, y, count * sizeof *y);
    free(bias);
    free(weight);
    free(expected);
    free(y);
    free(x);
}

static void norms(void **unused) {
    (void)unused;
    static const int WIDTHS[] = {1, 2, 7, 8, 16, 31, 32, 48, 100, 256, 4096};
    struct random random = {6};
    struct stage_limits limits = limits_of(ROWS_MAX, 4096, 1, 1, 1);
    void *reference = open_reference(&limits);
    for (int d = 0; d < DEVICE_COUNT; d++) {
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        for (size_t w = 0; w < sizeof WIDTHS / sizeof WIDTHS[0]; w++)
            for (int rows = 1; rows <= 9; rows += 4) {
                check_norm(DEVICES[d].name, state, reference, &random, WIDTHS[w], rows, 0);
                check_norm(DEVICES[d].name, state, reference, &random, WIDTHS[w], rows, 100); // mean ≫ deviation
            }
        cpu_stages.close(state);
    }
    reference_stages.close(reference);
}

// ---- Company: a row of a kind is the same, to the bit, alone

static void rows_do_not_see_each_other(void **unused) {
    (void)unused;
    enum { COLUMNS = 100, OUTPUTS = 600, ROWS = 60 }; // alone on one thread, together on several
    struct random random = {7};
    struct stage_limits limits = limits_of(ROWS, COLUMNS, 1, 1, OUTPUTS);
    float *alone = allocate(ROWS * OUTPUTS, sizeof *alone), *together = allocate(ROWS * OUTPUTS, sizeof *alone);
    for (int i = 0; i < WEIGHT_FORMAT_COUNT * 3; i++) {
        enum weight_format format = (enum weight_format)(i % WEIGHT_FORMAT_COUNT);
        enum row_kind kind =
            (enum row_kind[]){ROWS_BY_NUMBER, ROWS_OF_ANSWERS, ROWS_OF_PROMPTS}[i / WEIGHT_FORMAT_COUNT];
        int most = kind == ROWS_BY_NUMBER ? FEW_ROWS : ROWS;
        struct linear_case c = linear_case(&random, format, OUTPUTS, COLUMNS, ROWS);
        const struct linear linear = {c.weight.matrix, c.bias};
        const struct norm norm = {COLUMNS, 1e-5f, c.x, c.x + COLUMNS};
        for (int d = 0; d < DEVICE_COUNT * 3; d++) {
            limits.threads = 1 + d % 3 * 2; // nor does it depend on their number
            void *state = open_device(&DEVICES[d / 3], &limits);
            if (!state) continue;
            float one[COLUMNS], all[ROWS * COLUMNS];
            cpu_stages.rows_are(state, kind);
            if (limits.threads == 1) memcpy(alone, c.y, ROWS * OUTPUTS * sizeof *alone);
            for (int r = 0; r < most && limits.threads == 1; r++)
                cpu_stages.linear(state, &linear, c.x + r * COLUMNS, alone + r * OUTPUTS, 1, c.accumulate);
            cpu_stages.norm(state, &norm, c.x, all, ROWS);
            for (int rows = 1; rows <= most; rows += SANITIZED ? 23 : 1) {
                memcpy(together, c.y, ROWS * OUTPUTS * sizeof *alone);
                cpu_stages.linear(state, &linear, c.x, together, rows, c.accumulate);
                assert_memory_equal(together, alone, (size_t)(rows * OUTPUTS) * sizeof *alone);
                cpu_stages.norm(state, &norm, c.x + (rows - 1) * COLUMNS, one, 1);
                assert_memory_equal(one, all + (rows - 1) * COLUMNS, sizeof one);
            }
            cpu_stages.close(state);
        }
        linear_case_free(&c);
    }
    free(together);
    free(alone);
}

// Several matrices at once give what each gives alone, to the bit, whatever their heights.
static void linears_are_each_alone(void **unused) {
    (void)unused;
    enum { COLUMNS = 200, ROWS = 21, MATRICES = 3 };
    static const int OUTPUTS[][MATRICES] = {{600, 40, 40}, {16, 16, 16}, {7, 530, 1}, {33, 15, 500}};
    struct random random = {17};
    struct stage_limits limits = limits_of(ROWS, COLUMNS, 1, 1, 600);
    float *x = random_floats(&random, ROWS * COLUMNS), *y[MATRICES], *alone = allocate(ROWS * 600, sizeof *alone);
    for (int i = 0; i < MATRICES; i++) y[i] = allocate(ROWS * 600, sizeof *alone);
    for (size_t i = 0; i < WEIGHT_FORMAT_COUNT * sizeof OUTPUTS / sizeof *OUTPUTS; i++) {
        const int *outputs = OUTPUTS[i / WEIGHT_FORMAT_COUNT];
        struct linear_case cases[MATRICES];
        struct linear linear[MATRICES];
        const struct linear *linears[MATRICES];
        for (int m = 0; m < MATRICES; m++) {
            enum weight_format format = (enum weight_format)(i % WEIGHT_FORMAT_COUNT);
            cases[m] = linear_case(&random, format, outputs[m], COLUMNS, ROWS);
            linear[m] = (struct linear){cases[m].weight.matrix, m == 1 ? NULL : cases[m].bias};
            linears[m] = &linear[m];
        }
        for (int d = 0; d < DEVICE_COUNT * 2; d++) {
            limits.threads = 1 + d % 2 * 3;
            void *state = open_device(&DEVICES[d / 2], &limits);
            if (!state) continue;
            for (int rows = 1; rows <= ROWS; rows += 4) {
                cpu_stages.linears(state, linears, MATRICES, x, y, rows);
                for (int m = 0; m < MATRICES; m++) {
                    cpu_stages.linear(state, linears[m], x, alone, rows, false);
                    assert_memory_equal(y[m], alone, (size_t)(rows * outputs[m]) * sizeof *alone);
                }
            }
            cpu_stages.close(state);
        }
        for (int m = 0; m < MATRICES; m++) linear_case_free(&cases[m]);
    }
    for (int i = 0; i < MATRICES; i++) free(y[i]);
    free(alone);
    free(x);
}

// Everything is dealt out once, in order, in shares that never grow.
static void deals(void **unused) {
    (void)unused;
    for (int count = 0; count < 300; count++)
        for (int threads = 1; threads < 40; threads += 3)
            for (int most = 0; most < 40; most += 13) {
                struct deal deal = deal_of(count, threads, most);
                int next = 0, before = count;
                for (struct share some = deal_take(&deal); some.first < some.last; some = deal_take(&deal)) {
                    assert_int_equal(some.first, next);
                    next = some.last;
                    assert_in_range(some.last - some.first, 1, most > 1 ? (uintmax_t)most : 1);
                    assert_true(some.last - some.first <= before);
                    before = some.last - some.first;
                }
                assert_int_equal(next, count);
                assert_true(count == 0 || before == 1); // nobody is left with more than one
            }
}

// ---- Numbers that are not finite stay in their row, and are seen there

static void not_finite(void **unused) {
    (void)unused;
    static const float ODD[] = {NAN, INFINITY, -INFINITY};
    enum { COLUMNS = 64, OUTPUTS = 48 };
    struct random random = {8};
    struct stage_limits limits = limits_of(40, COLUMNS, 1, 1, OUTPUTS);
    for (int i = 0; i < 3 * 2 * 2; i++) {
        int rows = i % 2 ? 40 : 3;
        struct linear_case c = linear_case(&random, (enum weight_format)(i / 2 % 2), OUTPUTS, COLUMNS, rows);
        const struct linear linear = {c.weight.matrix, c.bias};
        const struct norm norm = {COLUMNS, 1e-5f, c.x, c.x};
        for (int d = 0; d < DEVICE_COUNT; d++) {
            void *state = open_device(&DEVICES[d], &limits);
            if (!state) continue;
            float clean[40 * OUTPUTS], found[40 * OUTPUTS], normed[40 * COLUMNS];
            float *x = copy_floats(c.x, (size_t)rows * COLUMNS);
            cpu_stages.linear(state, &linear, x, clean, rows, false);
            x[COLUMNS + 5] = ODD[i / 4];
            cpu_stages.linear(state, &linear, x, found, rows, false);
            cpu_stages.norm(state, &norm, x, normed, rows);
            for (int o = 0; o < OUTPUTS; o++) assert_false(isfinite(found[OUTPUTS + o]));
            assert_false(isfinite(normed[COLUMNS]));
            assert_memory_equal(found, clean, OUTPUTS * sizeof *found);
            assert_memory_equal(found + 2 * OUTPUTS, clean + 2 * OUTPUTS, (size_t)(rows - 2) * OUTPUTS * sizeof *found);
            free(x);
            cpu_stages.close(state);
        }
        linear_case_free(&c);
    }
}

// ---- Opening

static void opening(void **unused) {
    (void)unused;
    struct stage_limits limits = limits_of(16, 64, 32, 4, 100);
    struct error error;
    void *state;
    assert_int_equal(cpu_stages.open(&state, &limits, &error), 0);
    assert_non_null(strstr(cpu_stages.describe(state), "oneDNN "));
    assert_non_null(strstr(cpu_stages.describe(state), "2 threads"));
    cpu_stages.close(state);
    cpu_stages.close(NULL);
    reference_stages.close(NULL);

    limits.tokens_max = INT32_MAX; // more memory than there can be: an error, not a crash
    limits.hidden = INT32_MAX;
    limits.head_dim = 1 << 20;
    assert_int_equal(cpu_stages.open(&state, &limits, &error), ERROR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_linear),
        cmocka_unit_test(linear_of_small_shapes),
        cmocka_unit_test(linear_of_real_shapes),
        cmocka_unit_test(bf16_keeps_its_bound),
        cmocka_unit_test(embeddings),
        cmocka_unit_test(norms),
        cmocka_unit_test(rows_do_not_see_each_other),
        cmocka_unit_test(linears_are_each_alone),
        cmocka_unit_test(deals),
        cmocka_unit_test(not_finite),
        cmocka_unit_test(opening),
    };
    return cmocka_run_group_tests_name("stages", tests, NULL, NULL);
}
