// Products by thirds (engine/cpu/thirds.h) against double precision: ragged outputs and columns, short rows and long,
// any number of rows up to more than one pass; alone and in company.
//
// Tolerance: products are exact, so a result is off by the roundings of its sums: one for each pair of columns a tile
// adds up, and a few at the end. (columns / 32 + 20) · 2^-24 of the sum of the terms' sizes: less than what the last
// third of a single activation is worth.
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

struct shape {
    int outputs, columns;
};

struct thirds_case {
    struct owned_matrix weight;
    float *x, *bias, *before;
    int *row; // the last first, or NULL
    int rows;
    size_t x_stride;
    bool accumulate;
};

static struct thirds_case case_of(struct random *random, struct shape shape, int rows) {
    struct thirds_case c = {.weight = random_matrix(random, WEIGHTS_BF16, shape.outputs, shape.columns, 1),
                            .rows = rows,
                            .x_stride = (size_t)shape.columns + (size_t)random_below(random, 2) * 3,
                            .bias = random_below(random, 2) ? random_floats(random, (size_t)shape.outputs) : NULL,
                            .accumulate = random_below(random, 2) == 1};
    c.x = random_floats(random, (size_t)rows * c.x_stride);
    c.before = random_floats(random, (size_t)rows * (size_t)shape.outputs);
    if (random_below(random, 2)) {
        c.row = allocate((size_t)rows, sizeof *c.row);
        for (int r = 0; r < rows; r++) c.row[r] = rows - 1 - r;
    }
    return c;
}

static void case_free(struct thirds_case *c) {
    free(c->weight.memory);
    free(c->x);
    free(c->bias);
    free(c->before);
    free(c->row);
}

// Rows [first, first + rows) of a case; what lies in memory before must not matter.
static float *multiplied(const struct thirds_case *c, int first, int rows, int parts) {
    const struct matrix *weight = &c->weight.matrix;
    size_t values = (size_t)thirds_groups(rows) * thirds_values(weight->columns), outputs = (size_t)weight->rows;
    uint16_t *packed = allocate(values, sizeof *packed);
    memset(packed, 0xff, values * sizeof *packed);
    const struct thirds_rows some = {.x = c->x + (c->row ? 0 : (size_t)first * c->x_stride),
                                     .x_stride = c->x_stride,
                                     .row = c->row ? c->row + first : NULL,
                                     .rows = rows,
                                     .columns = weight->columns,
                                     .to = packed};
    for (int part = 0; part < parts; part++) thirds_pack(&some, part, parts);
    float *y = copy_floats(c->before + (size_t)first * outputs, (size_t)rows * outputs);
    thirds_multiply(&(struct thirds_dot){.weight = weight->data,
                                         .outputs = weight->rows,
                                         .columns = weight->columns,
                                         .x = packed,
                                         .rows = rows,
                                         .y = y,
                                         .y_stride = outputs,
                                         .bias = c->bias,
                                         .accumulate = c->accumulate,
                                         .next = first % 2 ? weight->data : NULL});
    free(packed);
    return y;
}

static void check(const struct thirds_case *c, const float *y, int step) {
    const struct matrix *weight = &c->weight.matrix;
    for (int r = 0; r < c->rows; r++)
        for (int o = r % step; o < weight->rows; o += step) {
            size_t at = (size_t)r * (size_t)weight->rows + (size_t)o;
            double bias = c->bias ? (double)c->bias[o] : 0, before = c->accumulate ? (double)c->before[at] : 0;
            double sum = bias + before, size = fabs(bias) + fabs(before);
            const float *x = c->x + (size_t)(c->row ? c->row[r] : r) * c->x_stride;
            for (int k = 0; k < weight->columns; k++) {
                double term = weight_at(weight, o, k) * (double)x[k];
                sum += term;
                size += fabs(term);
            }
            if (!(fabs((double)y[at] - sum) <= (weight->columns / 32 + 20) * 0x1p-24 * size))
                fail_msg("%d x %d, row %d of %d, output %d: found %.9g, expected %.9g", weight->rows, weight->columns,
                         r, c->rows, o, (double)y[at], sum);
        }
}

static void products(void **unused) {
    (void)unused;
    static const struct shape SHAPES[] = {{1, 1},     {3, 7},     {16, 17},  {16, 31},   {17, 32},
                                          {15, 33},   {48, 64},   {33, 447}, {64, 448},  {70, 480},
                                          {16, 2048}, {40, 2080}, {5, 4095}, {100, 100}, {37, 4096}};
    static const int ROWS[] = {1, 2, 4, 5, 6, 8, 11, 16, 25, 29, 30, 31, 33, 61, 64};
    if (!bf16_kernels_at(BF16_AMX)) skip();
    struct random random = {71};
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
        for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++) {
            struct thirds_case c = case_of(&random, SHAPES[s], ROWS[r]);
            float *y = multiplied(&c, 0, c.rows, 1 + (int)r % 3);
            check(&c, y, 3);
            free(y);
            case_free(&c);
        }
}

// Every row, alone and beside a few others, gives what it gives beside all, to the bit.
static void company(void **unused) {
    (void)unused;
    static const struct shape SHAPES[] = {{33, 448}, {32, 4096}, {20, 100}};
    enum { ROWS = 40 };
    if (!bf16_kernels_at(BF16_AMX)) skip();
    struct random random = {72};
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++) {
        struct thirds_case c = case_of(&random, SHAPES[s], ROWS);
        float *all = multiplied(&c, 0, ROWS, 1);
        for (int first = 0; first < ROWS; first++)
            for (int rows = 1; rows <= 3 && first + rows <= ROWS; rows++) {
                float *some = multiplied(&c, first, rows, 2);
                size_t outputs = (size_t)SHAPES[s].outputs;
                assert_memory_equal(some, all + (size_t)first * outputs, (size_t)rows * outputs * sizeof *some);
                free(some);
            }
        free(all);
        case_free(&c);
    }
}

// Every bit of an activation counts: times 1 it comes back as it was, large or small.
static void nothing_is_rounded(void **unused) {
    (void)unused;
    if (!bf16_kernels_at(BF16_AMX)) skip();
    struct random random = {73};
    uint16_t *packed = allocate(thirds_values(1), sizeof *packed);
    const uint16_t one = bf16_of_float(1);
    for (int i = 0; i < 20000; i++) {
        uint32_t bits = random_bits(&random);
        if ((bits >> 23 & 0xff) == 0xff || (bits >> 23 & 0xff) < 24) continue; // not finite, or parts of it too small
        float x, y;
        memcpy(&x, &bits, sizeof x);
        thirds_pack(&(struct thirds_rows){&x, 1, NULL, 1, 1, packed}, 0, 1);
        thirds_multiply(&(struct thirds_dot){
            .weight = &one, .outputs = 1, .columns = 1, .x = packed, .rows = 1, .y = &y, .y_stride = 1});
        if (memcmp(&x, &y, sizeof x) != 0) fail_msg("%a became %a", (double)x, (double)y);
    }
    free(packed);
}

// What is not finite, in an activation or in a weight, is seen in its row or output and in no other.
static void not_finite(void **unused) {
    (void)unused;
    static const float ODD[] = {NAN, INFINITY, -INFINITY};
    static const int COLUMNS[] = {20, 32, 48, 64};
    enum { ROWS = 7, OUTPUTS = 32 };
    if (!bf16_kernels_at(BF16_AMX)) skip();
    struct random random = {74};
    for (int i = 0; i < 12; i++) {
        struct shape shape = {OUTPUTS, COLUMNS[i / 3]};
        struct thirds_case c = case_of(&random, shape, ROWS);
        c.x[(size_t)(c.row ? c.row[3] : 3) * c.x_stride + (size_t)(shape.columns - 1)] = ODD[i % 3];
        ((uint16_t *)c.weight.memory)[1 + 6 * shape.columns] = 0x7fc0; // the first weight of output 6
        float *y = multiplied(&c, 0, ROWS, 1);
        for (int r = 0; r < ROWS; r++)
            for (int o = 0; o < OUTPUTS; o++) assert_int_equal(isfinite(y[r * OUTPUTS + o]), r != 3 && o != 6);
        free(y);
        case_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),
        cmocka_unit_test(company),
        cmocka_unit_test(nothing_is_rounded),
        cmocka_unit_test(not_finite),
    };
    return cmocka_run_group_tests_name("thirds", tests, NULL, NULL);
}
