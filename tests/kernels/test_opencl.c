// The OpenCL kernels at every level against the reference, on whatever device there is (with PoCL, the CPU): random and
// boundary shapes, experts with no rows, few, all; ties and near ties; NaN; the same bits in every run.
//
// Expected values are computed here in double precision, each with how far off it may be: tolerances of sums as in
// test_stages.c. At levels of integer products the rows that are multiplied are the CPU's own int8, and between gate and
// down a value may fall to either side where it lies within its tolerance of the border between two.
#include "tests/kernels/opencl_data.h"

static bool is_dot(void) {
    return strstr(level, "dot") != NULL;
}

// Formats whose kernels are this level's own: integer products leave those of floats as they are.
static enum weight_format first_format(void) {
    return is_dot() ? WEIGHTS_INT8 : WEIGHTS_F32;
}

// ---- What is expected

static double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static struct packed_x *quantize(const float *x, int columns) {
    struct packed_x *packed = calloc(packed_x_blocks(columns), sizeof *packed);
    assert_non_null(packed);
    packed_c.quantize(x, columns, packed);
    return packed;
}

static double quantized_at(const struct packed_x *packed, int columns, int k) {
    const struct packed_outliers *list = packed_outliers_of(packed, columns);
    for (int i = 0; i < list->count; i++)
        if (list->at[i].column == k) return (double)list->at[i].x;
    const struct packed_x *block = &packed[k / PACKED_COLUMNS];
    return (double)block->scale[k % PACKED_COLUMNS / PACKED_GROUP] * block->value[k % PACKED_COLUMNS];
}

// The values between gate and down, and how far off the device may be there.
static void gated_bounds(const struct mixture *m, const struct expert *expert, const double *x, double *gated,
                         double *tolerance) {
    for (int i = 0; i < m->inner; i++) {
        double g = 0, u = 0, g_absolute = 0, u_absolute = 0;
        for (int k = 0; k < m->hidden; k++) {
            double by_gate = weight_at(&expert->gate, i, k) * x[k], by_up = weight_at(&expert->up, i, k) * x[k];
            g += by_gate;
            u += by_up;
            g_absolute += fabs(by_gate);
            u_absolute += fabs(by_up);
        }
        double silu = g / (1 + exp(-g)); // its slope is nowhere above 1.1; exp and division may be off by some units
        gated[i] = silu * u;
        tolerance[i] = 1.1 * sum_error(m->hidden, g_absolute) * fabs(u) +
                       fabs(silu) * sum_error(m->hidden, u_absolute) + 16 * 0x1p-24 * fabs(gated[i]);
    }
}

// The same values as int8: what they become, and how far off that may be. A step's size follows its group's largest value;
// where a value is so near the border between two steps that its tolerance reaches it, it may take either.
static void quantize_bounds(int columns, double *value, double *tolerance) {
    float *x = allocate((size_t)columns, sizeof *x);
    for (int k = 0; k < columns; k++) x[k] = (float)value[k];
    struct packed_x *packed = quantize(x, columns);
    for (int first = 0; first < columns; first += PACKED_GROUP) {
        int end = first + PACKED_GROUP < columns ? first + PACKED_GROUP : columns;
        double step = (double)packed[first / PACKED_COLUMNS].scale[first % PACKED_COLUMNS / PACKED_GROUP], widest = 0;
        for (int k = first; k < end; k++) widest = fmax(widest, tolerance[k]);
        for (int k = first; k < end; k++) {
            double seen = quantized_at(packed, columns, k), moved = widest / (127 * step) + 0x1p-22;
            bool outlier = seen == (double)x[k];
            if (step > 0 && !outlier) {
                double steps = value[k] / step, off = tolerance[k] / step + fabs(steps) * moved;
                bool either = fabs(steps - floor(steps) - 0.5) <= off;
                tolerance[k] = fabs(seen) * moved + (either ? step : 0);
            }
            value[k] = seen;
        }
    }
    free(packed);
    free(x);
}

// A row's output, every step'th value, with the route that the device took.
static void check_row(const struct mixture *m, const struct answer *a, int row, int step) {
    bool integers = is_dot() && weight_format_packed(m->expert[0].gate.format);
    double *x = allocate((size_t)m->hidden, sizeof *x);
    double *gated = allocate((size_t)m->inner * 4, sizeof *gated), *tolerance = gated + 2 * m->inner;
    const float *own = m->x + (size_t)row * (size_t)m->hidden;
    struct packed_x *packed = quantize(own, m->hidden);
    for (int k = 0; k < m->hidden; k++) x[k] = integers ? quantized_at(packed, m->hidden, k) : (double)own[k];
    for (int slot = 0; slot < 2; slot++) {
        gated_bounds(m, &m->expert[a->expert[2 * row + slot]], x, gated + slot * m->inner, tolerance + slot * m->inner);
        if (integers) quantize_bounds(m->inner, gated + slot * m->inner, tolerance + slot * m->inner);
    }
    for (int o = row % step; o < m->hidden; o += step) {
        size_t at = (size_t)row * (size_t)m->hidden + (size_t)o;
        double expected = (double)m->y[at], allowed = 8 * 0x1p-24 * fabs(expected);
        for (int slot = 0; slot < 2; slot++) {
            const struct matrix *down = &m->expert[a->expert[2 * row + slot]].down;
            double weight = (double)a->weight[2 * row + slot], sum = 0, absolute = 0, inner = 0;
            for (int i = 0; i < m->inner; i++) {
                double term = weight_at(down, o, i) * gated[slot * m->inner + i];
                sum += term;
                absolute += fabs(term);
                inner += fabs(weight_at(down, o, i)) * tolerance[slot * m->inner + i];
            }
            expected += weight * sum;
            allowed += fabs(weight) * (inner + sum_error(m->inner, absolute) + 8 * 0x1p-24 * fabs(sum));
        }
        check("output", (double)a->y[at], expected, allowed);
    }
    free(gated);
    free(x);
    free(packed);
}

// Routes as the reference does, but where its scores leave it open: a route may turn only within rounding.
static void check_routes(const struct mixture *m, const struct answer *a, int turned_max) {
    struct stage_limits limits = limits_of(m);
    struct answer expected = answer_for(m);
    void *reference;
    struct error error;
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    reference_stages.route(reference, &m->layer.router, m->x, m->rows, &expected.routing);
    int turned = 0;
    for (int r = 0; r < m->rows; r++) {
        bool same = true;
        for (int i = 2 * r; i < 2 * r + 2; i++) {
            assert_in_range(a->expert[i], 0, m->experts - 1);
            same = same && a->expert[i] == expected.expert[i] &&
                   fabs((double)a->weight[i] - (double)expected.weight[i]) <= 1e-4;
        }
        turned += !same;
    }
    assert_true(turned <= turned_max);
    reference_stages.close(reference);
    answer_free(&expected);
}

static void one_shape(struct random *random, enum weight_format format, int hidden, int inner, int experts, int rows,
                      size_t gap, int row_step, int step) {
    struct mixture m = mixture_of(random, format, hidden, inner, experts, rows, gap);
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &a);
    check_routes(&m, &a, rows / 50); // scores of random rows lie within rounding of each other once in thousands
    for (int r = 0; r < rows; r += row_step) check_row(&m, &a, r, step);
    check_row(&m, &a, rows - 1, step);
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

static void shapes(void) {
    static const int SHAPES[][3] = {{1, 1, 2}, {7, 5, 3}, {48, 31, 4}, {64, 96, 8}, {101, 33, 16}, {256, 96, 40}, {430, 330, 3}};
    static const int ROWS[] = {1, 2, 15, 16, 17, 33, 100, 513};
    struct random random = {31};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++)
        for (int s = 0; s < 7; s++)
            for (int r = 0; r < 8; r++)
                one_shape(&random, (enum weight_format)format, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2], ROWS[r],
                          (size_t)(r % 3), ROWS[r] > 16 ? s < 6 ? 7 : 67 : 1, s < 6 ? 1 : 11);
}

static void real_shapes(void) {
    struct random random = {32};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++) {
        one_shape(&random, (enum weight_format)format, 4096, 448, 4, 3, 1, 1, 17);
        one_shape(&random, (enum weight_format)format, 4096, 448, 4, 40, 0, 13, 17);
    }
    one_shape(&random, first_format(), 4096, 960, 3, 2, 0, 1, 17);
}

// Matrices far apart are copied to the device, instead of being read where they are.
static void scattered_weights(void) {
    struct random random = {33};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++) {
        one_shape(&random, (enum weight_format)format, 64, 48, 4, 20, 64 * 48, 1, 1);
        one_shape(&random, (enum weight_format)format, 64, 48, 4, 4, 64 * 48, 1, 1);
    }
}

// ---- Which expert has how many rows: scores as they are, for the router picks out columns of x

enum { SPREAD_EXPERTS = 8, SPREAD_HIDDEN = 40, SPREAD_INNER = 24 };

static void pick_out(struct mixture *m) {
    for (int i = 0; i < m->experts * m->hidden; i++) m->router[i] = 0;
    for (int e = 0; e < m->experts; e++) m->router[e * m->hidden + e] = 1;
}

// first[r] is the expert that row r prefers; second choices go to the next one.
static void spread(enum weight_format format, const int *first, int rows) {
    struct random random = {34};
    struct mixture m = mixture_of(&random, format, SPREAD_HIDDEN, SPREAD_INNER, SPREAD_EXPERTS, rows, 0);
    pick_out(&m);
    for (int r = 0; r < rows; r++) {
        for (int e = 0; e < SPREAD_EXPERTS; e++) m.x[r * SPREAD_HIDDEN + e] = (float)e / 10;
        m.x[r * SPREAD_HIDDEN + first[r]] = 5;
        m.x[r * SPREAD_HIDDEN + (first[r] + 1) % SPREAD_EXPERTS] = 3;
    }
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &a);
    for (int r = 0; r < rows; r++) {
        assert_int_equal(a.expert[2 * r], first[r]);
        assert_int_equal(a.expert[2 * r + 1], (first[r] + 1) % SPREAD_EXPERTS);
        check_row(&m, &a, r, 1);
    }
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

static void rows_of_experts(void) {
    static const int COUNTS[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 64, 65, 130, 513};
    enum { ROWS_MOST = 513 };
    int first[ROWS_MOST];
    for (int f = 0; f < 2; f++) {
        enum weight_format format = f ? WEIGHTS_INT4 : is_dot() ? WEIGHTS_INT8 : WEIGHTS_BF16;
        for (size_t c = 0; c < sizeof COUNTS / sizeof *COUNTS; c++) { // all to one expert, so most have none
            for (int r = 0; r < COUNTS[c]; r++) first[r] = 3;
            spread(format, first, COUNTS[c]);
        }
        for (int r = 0; r < 400; r++) first[r] = r < 17 ? 0 : r < 18 ? 2 : r < 50 ? 4 : 7; // ragged
        spread(format, first, 400);
    }
}

static void no_rows(void) {
    struct random random = {45};
    struct mixture m = mixture_of(&random, first_format(), 64, 48, 4, 3, 0);
    struct answer a = answer_for(&m), expected = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &expected);
    run_rows(opencl, &m, ROWS_OF_PROMPTS, 0, 0, &a);
    assert_memory_equal(a.y, m.y, answer_bytes(&m));
    run(opencl, &m, &a); // and the slot is free
    assert_memory_equal(a.y, expected.y, answer_bytes(&m));
    opencl_close(opencl);
    answer_free(&a);
    answer_free(&expected);
    mixture_free(&m);
}

// Ties go to the first, what is near shares: cases whose answers transformers gave (see test_mixture.c).
static void known_routes(void) {
    static const struct {
        float score[4];
        int expert[2];
        float weight[2];
    } CASES[] = {
        {{-9, 1.0f, 0.99f, 0.5f}, {1, 2}, {0.502500f, 1}},
        {{1, 1, 1, 1}, {0, 1}, {0.25f, 0.333333f}},
        {{-1, -1.01f, -1.03f, -5}, {0, 1}, {0.502500f, 0.504999f}},
        {{0, -1e-9f, -0.1f, -3}, {0, 1}, {1, 1}},
        {{0, 0, -9, -9}, {0, 1}, {0.5f, 1}},
        {{3, 2.9401f, 2.9399f, 1}, {0, 1}, {0.514970f, 0.500050f}},
    };
    enum { CASE_COUNT = sizeof CASES / sizeof CASES[0] };
    struct random random = {35};
    struct mixture m = mixture_of(&random, first_format(), SPREAD_EXPERTS, 4, SPREAD_EXPERTS, CASE_COUNT, 0);
    pick_out(&m);
    for (int r = 0; r < CASE_COUNT; r++)
        for (int k = 0; k < SPREAD_EXPERTS; k++) m.x[r * SPREAD_EXPERTS + k] = k < 4 ? CASES[r].score[k] : -9;
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &a);
    for (int r = 0; r < CASE_COUNT; r++)
        for (int slot = 0; slot < 2; slot++) {
            assert_int_equal(a.expert[2 * r + slot], CASES[r].expert[slot]);
            check("weight", (double)a.weight[2 * r + slot], (double)CASES[r].weight[slot], 1e-6);
        }
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

// Scores on a coarse grid (many ties), within a few percent of each other, all negative: no route may turn, for scores that
// are columns of x have no rounding. 40 experts: more than the router's scores that are computed at once.
static void near_ties(void) {
    enum { EXPERTS = 40, ROWS = 300 };
    struct random random = {46};
    struct mixture m = mixture_of(&random, first_format(), EXPERTS, 4, EXPERTS, ROWS, 0);
    pick_out(&m);
    for (int i = 0; i < ROWS * EXPERTS; i++) {
        float x = 3 * random_float(&random);
        int kind = i / EXPERTS % 5;
        m.x[i] = kind == 0 ? x : kind == 1 ? roundf(x) : kind == 2 ? -fabsf(x) : kind == 3 ? 1 + 0.01f * x : -1 - 0.01f * x;
    }
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &a);
    check_routes(&m, &a, 0);
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

// ---- Company and repetition

// What is not finite in one row stays there, and shows; experts exist, whatever the scores.
static void odd_rows(void) {
    enum { HIDDEN = 80, INNER = 48, EXPERTS = 6 };
    struct random random = {36};
    for (int i = 0; i < 4; i++) {
        int rows = i % 2 ? 40 : 8;
        enum weight_format format = i / 2 ? WEIGHTS_INT4 : is_dot() ? WEIGHTS_INT8 : WEIGHTS_BF16;
        struct mixture m = mixture_of(&random, format, HIDDEN, INNER, EXPERTS, rows, 0);
        struct answer plain = answer_for(&m), odd = answer_for(&m);
        struct opencl *opencl = open_for(&m);
        run(opencl, &m, &plain);
        m.x[3 * HIDDEN + 5] = NAN;
        for (int k = 0; k < HIDDEN; k++) m.x[5 * HIDDEN + k] = INFINITY;
        m.x[6 * HIDDEN + 70] = -INFINITY;
        run(opencl, &m, &odd);
        for (int r = 0; r < rows; r++) {
            for (int k = 2 * r; k < 2 * r + 2; k++) assert_in_range(odd.expert[k], 0, EXPERTS - 1);
            if (r == 3 || r == 5 || r == 6)
                assert_false(isfinite(odd.y[r * HIDDEN]));
            else
                assert_memory_equal(odd.y + r * HIDDEN, plain.y + r * HIDDEN, HIDDEN * sizeof(float));
        }
        opencl_close(opencl);
        answer_free(&plain);
        answer_free(&odd);
        mixture_free(&m);
    }
}

static void same_bits(void) {
    struct random random = {37};
    struct mixture m = mixture_of(&random, is_dot() ? WEIGHTS_INT8 : WEIGHTS_BF16, 100, 84, 16, 200, 0);
    struct answer first = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &first);
    for (int i = 0; i < 10; i++) {
        struct answer again = answer_for(&m);
        run(opencl, &m, &again);
        assert_memory_equal(again.expert, first.expert, (size_t)m.rows * 2 * sizeof(int32_t));
        assert_memory_equal(again.weight, first.weight, (size_t)m.rows * 2 * sizeof(float));
        assert_memory_equal(again.y, first.y, answer_bytes(&m));
        answer_free(&again);
    }
    opencl_close(opencl);
    answer_free(&first);
    mixture_free(&m);
}

// What a row is decides how it is computed, not how many there are: in a kind each row has the same bits in calls of any
// size, and what the other kind gives for it is close.
static void kinds_of_rows(void) {
    enum { ROWS = 60, HIDDEN = 100 };
    static const int SIZES[] = {1, 3, 16, 17, 33, ROWS};
    struct random random = {44};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++) {
        struct mixture m = mixture_of(&random, (enum weight_format)format, HIDDEN, 84, 6, ROWS, 0);
        struct opencl *opencl = open_for(&m);
        for (int kind = ROWS_OF_ANSWERS; kind <= ROWS_OF_PROMPTS; kind++) {
            struct answer together = answer_for(&m), parts = answer_for(&m);
            run_rows(opencl, &m, (enum row_kind)kind, 0, ROWS, &together);
            for (int r = 0; r < ROWS; r++) check_row(&m, &together, r, 1);
            for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++) {
                memcpy(parts.y, m.y, answer_bytes(&m));
                for (int first = 0; first < ROWS; first += SIZES[s])
                    run_rows(opencl, &m, (enum row_kind)kind, first, SIZES[s] < ROWS - first ? SIZES[s] : ROWS - first,
                             &parts);
                assert_memory_equal(parts.y, together.y, answer_bytes(&m));
                assert_memory_equal(parts.expert, together.expert, 2 * ROWS * sizeof(int32_t));
                assert_memory_equal(parts.weight, together.weight, 2 * ROWS * sizeof(float));
            }
            answer_free(&together);
            answer_free(&parts);
        }
        opencl_close(opencl);
        mixture_free(&m);
    }
}

// Two calls under way give what they give one after the other.
static void both_slots(void) {
    struct random random = {39};
    struct mixture m = mixture_of(&random, first_format(), 64, 48, 6, 90, 0);
    struct answer expected = answer_for(&m), found = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    struct error error;
    enum { HALF = 45 };
    run_rows(opencl, &m, ROWS_BY_NUMBER, 0, HALF, &expected);
    run_rows(opencl, &m, ROWS_BY_NUMBER, HALF, HALF, &expected);
    for (int i = 0; i < 5; i++) {
        memcpy(found.y, m.y, answer_bytes(&m));
        assert_int_equal(opencl_begin(opencl, 0, &m.layer, m.x, HALF, ROWS_BY_NUMBER, &error), 0);
        assert_int_equal(opencl_begin(opencl, 1, &m.layer, m.x + HALF * 64, HALF, ROWS_BY_NUMBER, &error), 0);
        struct routing rest = {.expert = found.expert + 2 * HALF, .weight = found.weight + 2 * HALF};
        assert_int_equal(opencl_end(opencl, 0, found.y, &found.routing, &error), 0);
        assert_int_equal(opencl_end(opencl, 1, found.y + HALF * 64, &rest, &error), 0);
        assert_memory_equal(found.y, expected.y, answer_bytes(&m));
        assert_memory_equal(found.expert, expected.expert, (size_t)m.rows * 2 * sizeof(int32_t));
    }
    struct opencl_counts counts = opencl_counts(opencl);
    assert_int_equal(counts.mixtures, 12);
    assert_int_equal(counts.waits, 12); // one for each mixture: nothing else makes the host wait
    opencl_close(opencl);
    answer_free(&expected);
    answer_free(&found);
    mixture_free(&m);
}

// ---- Beside the CPU

// Integer products give what the CPU's give, from the same whole numbers. What is left is the order of the sums and exp's
// last bits; and where those carry a value between gate and down over the border of a step, that step: a part in 127 of one
// value of hundreds.
static void as_the_cpu(void) {
    enum { ROWS = 60, HIDDEN = 512, INNER = 448 };
    struct random random = {47};
    const struct device plain = {"plain C", {KERNELS_C, false, BF16_NONE, PACKED_C}};
    for (int format = WEIGHTS_INT8; is_dot() && format <= WEIGHTS_INT4; format++) {
        struct mixture m = mixture_of(&random, (enum weight_format)format, HIDDEN, INNER, 4, ROWS, 0);
        struct stage_limits limits = limits_of(&m);
        struct answer found = answer_for(&m), expected = answer_for(&m);
        struct opencl *opencl = open_for(&m);
        void *cpu = open_device(&plain, &limits);
        memset(m.y, 0, answer_bytes(&m));
        for (int kind = ROWS_OF_ANSWERS; kind <= ROWS_OF_PROMPTS; kind++) {
            memset(found.y, 0, answer_bytes(&m));
            memset(expected.y, 0, answer_bytes(&m));
            run_rows(opencl, &m, (enum row_kind)kind, 0, ROWS, &found);
            found.routing.rows = ROWS;
            found.routing.top_k = 2;
            cpu_stages.experts(cpu, &m.layer, &found.routing, m.x, expected.y, ROWS);
            int close = 0;
            for (int r = 0; r < ROWS; r++) {
                double square = 0, off = 0;
                for (int i = r * HIDDEN; i < (r + 1) * HIDDEN; i++) {
                    double difference = (double)found.y[i] - (double)expected.y[i];
                    square += (double)expected.y[i] * (double)expected.y[i];
                    off += difference * difference;
                }
                check("distance", sqrt(off / square), 0, 1e-3);
                close += sqrt(off / square) <= 1e-6;
            }
            printf("# %s, %s: %d of %d rows within 1e-6 of the CPU's\n", weight_format_name((enum weight_format)format),
                   kind == ROWS_OF_ANSWERS ? "few" : "many", close, ROWS);
            assert_true(close * 2 >= ROWS);
        }
        cpu_stages.close(cpu);
        opencl_close(opencl);
        answer_free(&found);
        answer_free(&expected);
        mixture_free(&m);
    }
}

// ---- All of it

#define LEVEL_TEST(function, level) DEVICE_TEST(#function " " level, function, level)
#define LEVEL_TESTS(level) \
    LEVEL_TEST(known_routes, level), LEVEL_TEST(near_ties, level), LEVEL_TEST(no_rows, level), \
        LEVEL_TEST(shapes, level), LEVEL_TEST(kinds_of_rows, level), LEVEL_TEST(rows_of_experts, level), \
        LEVEL_TEST(odd_rows, level), LEVEL_TEST(same_bits, level), LEVEL_TEST(both_slots, level), \
        LEVEL_TEST(scattered_weights, level), LEVEL_TEST(real_shapes, level)

int main(void) {
    const struct CMUnitTest tests[] = {
        LEVEL_TESTS("portable"),
        LEVEL_TESTS("sub-group"),
        LEVEL_TESTS("emulated dot"),
        LEVEL_TEST(as_the_cpu, "emulated dot"),
        LEVEL_TESTS("emulated sub-group dot"),
        LEVEL_TEST(as_the_cpu, "emulated sub-group dot"),
        LEVEL_TESTS("dot"),
        LEVEL_TEST(as_the_cpu, "dot"),
        LEVEL_TESTS("sub-group dot"),
        LEVEL_TEST(as_the_cpu, "sub-group dot"),
    };
    tell_device();
    if (getenv("TANDEM_TEST_ONLY")) cmocka_set_test_filter(getenv("TANDEM_TEST_ONLY"));
    return cmocka_run_group_tests_name("opencl", tests, NULL, NULL);
}
