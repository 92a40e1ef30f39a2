// The OpenCL kernels at every level against the reference, on whatever device there is (with PoCL, the CPU): random and
// boundary shapes, experts with no rows, few, all; ties and near ties; NaN; the same bits in every run.
#include "tests/kernels/opencl_expected.h"

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
    static const int SHAPES[][3] = {{1, 1, 2},     {7, 5, 3},     {48, 31, 4},  {64, 96, 8},
                                    {101, 33, 16}, {256, 96, 40}, {430, 330, 3}};
    static const int ROWS[] = {1, 2, 15, 16, 17, 33, 100, 513};
    struct random random = {31};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++)
        for (int s = 0; s < 7; s++)
            for (int r = 0; r < 8; r++)
                if (!SANITIZED || (format + s + r) % 9 == 0)
                    one_shape(&random, (enum weight_format)format, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2],
                              ROWS[r], (size_t)(r % 3), ROWS[r] > 16 ? s < 6 ? 7 : 67 : 1, s < 6 ? 1 : 11);
}

static void real_shapes(void) {
    struct random random = {32};
    for (int format = (int)first_format(); format < WEIGHT_FORMAT_COUNT; format++) {
        one_shape(&random, (enum weight_format)format, 4096, 448, 4, 3, 1, 1, 17);
        if (!SANITIZED) one_shape(&random, (enum weight_format)format, 4096, 448, 4, 40, 0, 13, 17);
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

// Scores on a coarse grid (many ties), within a few percent of each other, all negative: no route may turn, for scores
// that are columns of x have no rounding. 40 experts: more than the router's scores that are computed at once.
static void near_ties(void) {
    enum { EXPERTS = 40, ROWS = 300 };
    struct random random = {46};
    struct mixture m = mixture_of(&random, first_format(), EXPERTS, 4, EXPERTS, ROWS, 0);
    pick_out(&m);
    for (int i = 0; i < ROWS * EXPERTS; i++) {
        float x = 3 * random_float(&random);
        int kind = i / EXPERTS % 5;
        m.x[i] = kind == 0   ? x
                 : kind == 1 ? roundf(x)
                 : kind == 2 ? -fabsf(x)
                 : kind == 3 ? 1 + 0.01f * x
                             : -1 - 0.01f * x;
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

// What is not finite in one row stays there, and shows; experts exist, whatever the scores. Rows end within four
// columns, so that who reads beyond one finds the next row's NaN.
static void odd_rows(void) {
    enum { HIDDEN = 82, INNER = 50, EXPERTS = 6 };
    struct random random = {36};
    for (int i = 0; i < 4; i++) {
        int rows = i % 2 ? 40 : 8;
        enum weight_format format = i / 2 ? WEIGHTS_INT4 : is_dot() ? WEIGHTS_INT8 : WEIGHTS_BF16;
        struct mixture m = mixture_of(&random, format, HIDDEN, INNER, EXPERTS, rows, 0);
        struct answer plain = answer_for(&m), odd = answer_for(&m);
        struct opencl *opencl = open_for(&m);
        run(opencl, &m, &plain);
        m.x[3 * HIDDEN] = m.x[3 * HIDDEN + 5] = NAN;
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

// What a row is decides how it is computed, not how many there are: in a kind each row has the same bits in calls of
// any size, and what the other kind gives for it is close.
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

// Rows as norms leave them, and some that are not: of zeros, tiny, so small that the last bit of e^x shows, so large
// that it meets its ends, infinite, NaN. Nothing is there before, which would hide what is tiny.
static void make_odd(struct mixture *m) {
    static const float FACTORS[] = {1, 0.02f, 0.2f, 1e4f, 100, 1e-20f, 0.02f, 0};
    memset(m->y, 0, answer_bytes(m));
    for (int r = 0; r < m->rows; r++) {
        const float factor = FACTORS[r % 8];
        for (int k = 0; k < m->hidden; k++) m->x[r * m->hidden + k] *= factor;
    }
    if (m->rows < 16) return;
    m->x[9 * m->hidden] = NAN;
    m->x[11 * m->hidden + m->hidden / 2] = INFINITY;
}

// The experts of all rows by the CPU, as it computes answers, which are bytes on every machine.
static void mix_on_cpu(const struct device *device, const struct mixture *m, struct answer *a) {
    struct stage_limits limits = limits_of(m);
    void *cpu = open_device(device, &limits);
    assert_non_null(cpu);
    a->routing.rows = m->rows;
    a->routing.top_k = 2;
    cpu_stages.rows_are(cpu, ROWS_OF_ANSWERS);
    cpu_stages.experts(cpu, &m->layer, &a->routing, m->x, a->y, m->rows);
    cpu_stages.close(cpu);
}

static bool on_this_machine(const struct device *device) {
    const struct mixture m = {.hidden = 8, .inner = 8, .experts = 2, .rows = 2};
    struct stage_limits limits = limits_of(&m);
    void *cpu = open_device(device, &limits);
    if (cpu) cpu_stages.close(cpu);
    return cpu != NULL;
}

static void check_same(const struct device *device, const struct mixture *m, const struct answer *found,
                       const struct answer *expected) {
    for (int i = 0; i < m->rows * m->hidden; i++) {
        const float is = found->y[i], should = expected->y[i];
        if (memcmp(&is, &should, sizeof is) != 0 && !(isnan(is) && isnan(should)))
            fail_msg("%s, %s, row %d, output %d: %.9g, with %s %.9g", weight_format_name(m->expert[0].gate.format),
                     level, i / m->hidden, i % m->hidden, (double)is, device->name, (double)should);
    }
}

// The median row's distance: where exp's last bit carries a value between gate and down over the border of a step, a
// row is off by a part in 127 of one value of hundreds.
static double distance(const struct mixture *m, const struct answer *found, const struct answer *expected) {
    double all[64];
    int count = 0;
    assert_in_range(m->rows, 1, 64);
    for (int r = 0; r < m->rows; r++) {
        double square = 0, off = 0;
        for (int i = r * m->hidden; i < (r + 1) * m->hidden; i++) {
            double difference = (double)found->y[i] - (double)expected->y[i];
            square += (double)expected->y[i] * (double)expected->y[i];
            off += difference * difference;
        }
        if (!isfinite(square) || square == 0) continue;
        check("distance", sqrt(off / square), 0, 2e-3);
        int at = count++;
        for (; at > 0 && all[at - 1] > sqrt(off / square); at--) all[at] = all[at - 1];
        all[at] = sqrt(off / square);
    }
    return all[count / 2];
}

// Integer products give what the CPU's kernels give, bit for bit, in either form, whatever its instructions are. Those
// of plain C, which has no fused multiplication, round otherwise.
static void as_the_cpu(void) {
    static const int SHAPES[][3] = {{512, 448, 60}, {100, 84, 33}, {1, 1, 60}, {430, 330, 17}, {64, 32, 1}};
    struct random random = {47};
    int compared = 0;
    for (int i = 0; is_dot() && i < 2 * 5; i++) {
        const enum weight_format format = i % 2 ? WEIGHTS_INT4 : WEIGHTS_INT8;
        struct mixture m = mixture_of(&random, format, SHAPES[i / 2][0], SHAPES[i / 2][1], 4, SHAPES[i / 2][2], 0);
        make_odd(&m);
        struct opencl *opencl = open_for(&m);
        for (int kind = ROWS_OF_ANSWERS; kind <= ROWS_OF_PROMPTS; kind++) {
            struct answer found = answer_for(&m);
            run_rows(opencl, &m, (enum row_kind)kind, 0, m.rows, &found);
            for (int d = 0; d < DEVICE_COUNT; d++) {
                if (!on_this_machine(&DEVICES[d])) continue;
                struct answer expected = answer_for(&m);
                memcpy(expected.expert, found.expert, (size_t)m.rows * 2 * sizeof *found.expert);
                memcpy(expected.weight, found.weight, (size_t)m.rows * 2 * sizeof *found.weight);
                mix_on_cpu(&DEVICES[d], &m, &expected);
                if (DEVICES[d].options.level != KERNELS_C) {
                    check_same(&DEVICES[d], &m, &found, &expected);
                    compared++;
                } else if (m.hidden > 64) {
                    check("median distance", distance(&m, &found, &expected), 0, 1e-6);
                }
                answer_free(&expected);
            }
            answer_free(&found);
        }
        opencl_close(opencl);
        mixture_free(&m);
    }
    printf("# the same bits as the CPU's in %d comparisons\n", compared);
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
