// The OpenCL kernels against the reference, on whatever device there is (with PoCL, the CPU): random and boundary shapes,
// experts with no rows, few, all; ties; NaN; the same bits in every run. Tolerances: see test_stages.c. Then failures: of
// every call of the library in turn, of all from one on, and a device that never answers.
#include "engine/opencl/opencl.h"
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

// What drivers keep until the process ends is no leak of ours.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\nleak:libhwloc\nleak:_dl_\nleak:libclang";
}

// ---- A layer

enum { EXPERTS_MAX = 40 };

struct mixture {
    int hidden, inner, experts, rows;
    void *memory; // of all experts' weights
    struct expert expert[EXPERTS_MAX];
    float *router; // [experts][hidden]
    struct layer layer;
    float *x, *y; // [rows][hidden]; y: what is there before
};

static struct stage_limits limits_of(const struct mixture *m) {
    return (struct stage_limits){.tokens_max = m->rows,
                                 .sequences_max = m->rows,
                                 .context_max = 32,
                                 .hidden = m->hidden,
                                 .heads = 2,
                                 .kv_heads = 2,
                                 .head_dim = 8,
                                 .intermediate = m->inner,
                                 .experts = m->experts,
                                 .vocab = 8,
                                 .threads = 1};
}

// In one piece of memory, as in a file, with a gap in front of each matrix, in steps of what it is aligned to; a large one
// scatters them.
static struct mixture mixture_of(struct random *random, enum weight_format format, int hidden, int inner, int experts,
                                 int rows, size_t gap) {
    struct mixture m = {.hidden = hidden, .inner = inner, .experts = experts, .rows = rows};
    size_t step = weight_format_packed(format) ? 64 : weight_format_bytes(format, 1, 1), at = 0;
    size_t most = weight_format_bytes(format, inner, hidden), other = weight_format_bytes(format, hidden, inner);
    if (other > most) most = other;
    m.memory = aligned_alloc(64, ((most + gap * step) * (size_t)experts * 3 + 63) / 64 * 64);
    assert_non_null(m.memory);
    for (int e = 0; e < experts; e++) {
        struct matrix *matrices[] = {&m.expert[e].gate, &m.expert[e].up, &m.expert[e].down};
        for (int i = 0; i < 3; i++) {
            struct owned_matrix owned = random_matrix(random, format, i == 2 ? hidden : inner, i == 2 ? inner : hidden, 0);
            size_t bytes = weight_format_bytes(format, owned.matrix.rows, owned.matrix.columns);
            char *data = (char *)m.memory + at + gap * step;
            memcpy(data, owned.matrix.data, bytes);
            *matrices[i] = owned.matrix;
            matrices[i]->data = data;
            free(owned.memory);
            at += gap * step + bytes;
        }
    }
    m.router = random_floats(random, (size_t)experts * (size_t)hidden);
    m.layer = (struct layer){.router = {experts, 2, 0.01f, m.router, hidden}};
    m.x = random_floats(random, (size_t)rows * (size_t)hidden);
    m.y = random_floats(random, (size_t)rows * (size_t)hidden);
    return m;
}

static void mixture_free(struct mixture *m) {
    free(m->memory);
    free(m->router);
    free(m->x);
    free(m->y);
}

// ---- The device

static const char *level; // of the kernels that are tested; NULL: the best

static struct opencl *open_for(const struct mixture *m) {
    struct opencl *opencl;
    struct error error;
    struct stage_limits limits = limits_of(m);
    const struct opencl_options options = {.limits = &limits, .weights = m->expert[0].gate.format, .level = level};
    if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
    return opencl;
}

static void run(struct opencl *opencl, struct mixture *m, const float *x, int rows, float *y, struct routing *routing) {
    struct error error;
    m->layer.experts = m->expert;
    if (opencl_begin(opencl, 0, &m->layer, x, rows, ROWS_BY_NUMBER, &error)) fail_msg("%s", error.message);
    if (opencl_end(opencl, 0, y, routing, &error)) fail_msg("%s", error.message);
}

struct answer {
    int32_t *expert;
    float *weight, *y;
    struct routing routing;
};

static struct answer answer_for(const struct mixture *m) {
    struct answer a = {.expert = allocate((size_t)m->rows * 2, sizeof(int32_t)),
                       .weight = allocate((size_t)m->rows * 2, sizeof(float)),
                       .y = copy_floats(m->y, (size_t)m->rows * (size_t)m->hidden)};
    a.routing = (struct routing){.expert = a.expert, .weight = a.weight};
    return a;
}

static void answer_free(struct answer *a) {
    free(a->expert);
    free(a->weight);
    free(a->y);
}

// ---- What is expected

static double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static void check(const char *what, double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s: found %.9g, expected %.9g ± %.3g", what, found, expected, tolerance);
}

// The values between gate and down, and how far off the device may be there.
static void gated_bounds(const struct mixture *m, const struct expert *expert, const float *x, double *gated,
                         double *tolerance) {
    for (int i = 0; i < m->inner; i++) {
        double g = 0, u = 0, g_absolute = 0, u_absolute = 0;
        for (int k = 0; k < m->hidden; k++) {
            double by_gate = weight_at(&expert->gate, i, k) * (double)x[k];
            double by_up = weight_at(&expert->up, i, k) * (double)x[k];
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

// A row's output, every step'th value, with the route that the device took.
static void check_row(const struct mixture *m, const struct answer *a, int row, int step) {
    double *gated = allocate((size_t)m->inner * 4, sizeof *gated), *tolerance = gated + 2 * m->inner;
    for (int slot = 0; slot < 2; slot++)
        gated_bounds(m, &m->expert[a->expert[2 * row + slot]], m->x + (size_t)row * (size_t)m->hidden,
                     gated + slot * m->inner, tolerance + slot * m->inner);
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
}

// Routes as the reference does, but where its scores leave it open: a route may turn only within rounding.
static void check_routes(struct mixture *m, const struct answer *a) {
    struct stage_limits limits = limits_of(m);
    struct answer expected = answer_for(m);
    void *reference;
    struct error error;
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    reference_stages.route(reference, &m->layer.router, m->x, m->rows, &expected.routing);
    assert_int_equal(a->routing.rows, m->rows);
    assert_int_equal(a->routing.top_k, 2);
    int turned = 0;
    for (int r = 0; r < m->rows; r++) {
        bool same = true;
        for (int i = 2 * r; i < 2 * r + 2; i++) {
            assert_in_range(a->expert[i], 0, m->experts - 1);
            same &= a->expert[i] == expected.expert[i] &&
                    fabs((double)a->weight[i] - (double)expected.weight[i]) <= 1e-4;
        }
        turned += !same;
    }
    assert_true(turned * 50 <= m->rows); // scores of random rows lie within rounding of each other once in thousands
    reference_stages.close(reference);
    answer_free(&expected);
}

static void one_shape(struct random *random, enum weight_format format, int hidden, int inner, int experts, int rows,
                      size_t gap, int row_step, int step) {
    struct mixture m = mixture_of(random, format, hidden, inner, experts, rows, gap);
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, rows, a.y, &a.routing);
    check_routes(&m, &a);
    for (int r = 0; r < rows; r += row_step) check_row(&m, &a, r, step);
    check_row(&m, &a, rows - 1, step);
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

static void shapes(void) {
    static const int SHAPES[][3] = {{1, 1, 2}, {7, 5, 3}, {48, 31, 4}, {64, 96, 8}, {101, 33, 16}, {256, 96, 40}};
    static const int ROWS[] = {1, 2, 15, 16, 17, 33, 100, 513};
    struct random random = {31};
    for (int s = 0; s < 6; s++)
        for (int r = 0; r < 8; r++)
            for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++)
                one_shape(&random, (enum weight_format)format, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2], ROWS[r],
                          (size_t)(r % 3), ROWS[r] > 16 ? 7 : 1, 1);
}

static void real_shapes(void) {
    struct random random = {32};
    one_shape(&random, WEIGHTS_BF16, 4096, 448, 4, 3, 1, 1, 17);
    one_shape(&random, WEIGHTS_BF16, 4096, 448, 4, 40, 0, 13, 17);
    one_shape(&random, WEIGHTS_F32, 4096, 960, 3, 2, 0, 1, 17);
    one_shape(&random, WEIGHTS_INT8, 4096, 448, 4, 3, 0, 1, 17);
    one_shape(&random, WEIGHTS_INT8, 4096, 448, 4, 40, 0, 13, 17);
    one_shape(&random, WEIGHTS_INT4, 4096, 448, 4, 3, 0, 1, 17);
    one_shape(&random, WEIGHTS_INT4, 4096, 448, 4, 40, 0, 13, 17);
}

// Matrices far apart are copied to the device, instead of being read where they are.
static void scattered_weights(void) {
    struct random random = {33};
    one_shape(&random, WEIGHTS_BF16, 64, 48, 4, 20, 64 * 48, 1, 1);
    one_shape(&random, WEIGHTS_F32, 64, 48, 4, 4, 64 * 48, 1, 1);
    one_shape(&random, WEIGHTS_INT8, 64, 48, 4, 20, 100, 1, 1);
}

// ---- Which expert has how many rows: scores as they are, for the router picks out columns of x

enum { SPREAD_EXPERTS = 8, SPREAD_HIDDEN = 40, SPREAD_INNER = 24 };

// first[r] is the expert that row r prefers; second choices go to the next one.
static void spread(const int *first, int rows) {
    struct random random = {34};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, SPREAD_HIDDEN, SPREAD_INNER, SPREAD_EXPERTS, rows, 0);
    for (int i = 0; i < SPREAD_EXPERTS * SPREAD_HIDDEN; i++) m.router[i] = 0;
    for (int e = 0; e < SPREAD_EXPERTS; e++) m.router[e * SPREAD_HIDDEN + e] = 1;
    for (int r = 0; r < rows; r++) {
        m.x[r * SPREAD_HIDDEN + first[r]] = 5;
        m.x[r * SPREAD_HIDDEN + (first[r] + 1) % SPREAD_EXPERTS] = 3;
    }
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, rows, a.y, &a.routing);
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
    static const int COUNTS[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 64, 65, 130};
    int first[400];
    for (size_t c = 0; c < sizeof COUNTS / sizeof *COUNTS; c++) { // all to one expert, so most have none
        for (int r = 0; r < COUNTS[c]; r++) first[r] = 3;
        spread(first, COUNTS[c]);
    }
    for (int r = 0; r < 400; r++) first[r] = r < 17 ? 0 : r < 18 ? 2 : r < 50 ? 4 : 7; // ragged
    spread(first, 400);
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
    struct mixture m = mixture_of(&random, WEIGHTS_F32, SPREAD_EXPERTS, 4, SPREAD_EXPERTS, CASE_COUNT, 0);
    for (int e = 0; e < SPREAD_EXPERTS; e++)
        for (int k = 0; k < SPREAD_EXPERTS; k++) m.router[e * SPREAD_EXPERTS + k] = e == k;
    for (int r = 0; r < CASE_COUNT; r++)
        for (int k = 0; k < SPREAD_EXPERTS; k++) m.x[r * SPREAD_EXPERTS + k] = k < 4 ? CASES[r].score[k] : -9;
    struct answer a = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, CASE_COUNT, a.y, &a.routing);
    for (int r = 0; r < CASE_COUNT; r++)
        for (int slot = 0; slot < 2; slot++) {
            assert_int_equal(a.expert[2 * r + slot], CASES[r].expert[slot]);
            check("weight", (double)a.weight[2 * r + slot], (double)CASES[r].weight[slot], 1e-6);
        }
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
}

// ---- Company and repetition

// What is not finite in one row stays there, and shows; experts exist, whatever the scores.
static void odd_rows(void) {
    struct random random = {36};
    for (int rows = 8; rows <= 40; rows += 32) {
        struct mixture m = mixture_of(&random, WEIGHTS_BF16, 64, 48, 6, rows, 0);
        struct answer plain = answer_for(&m), odd = answer_for(&m);
        struct opencl *opencl = open_for(&m);
        run(opencl, &m, m.x, rows, plain.y, &plain.routing);
        m.x[3 * 64 + 5] = NAN;
        for (int k = 0; k < 64; k++) m.x[5 * 64 + k] = INFINITY;
        run(opencl, &m, m.x, rows, odd.y, &odd.routing);
        for (int r = 0; r < rows; r++) {
            for (int i = 2 * r; i < 2 * r + 2; i++) assert_in_range(odd.expert[i], 0, 5);
            if (r == 3 || r == 5)
                assert_true(isnan(odd.y[r * 64]));
            else
                assert_memory_equal(odd.y + r * 64, plain.y + r * 64, 64 * sizeof(float));
        }
        opencl_close(opencl);
        answer_free(&plain);
        answer_free(&odd);
        mixture_free(&m);
    }
}

static void same_bits(void) {
    struct random random = {37};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 100, 84, 16, 200, 0);
    struct answer first = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, m.rows, first.y, &first.routing);
    for (int i = 0; i < 10; i++) {
        struct answer again = answer_for(&m);
        run(opencl, &m, m.x, m.rows, again.y, &again.routing);
        assert_memory_equal(again.expert, first.expert, (size_t)m.rows * 2 * sizeof(int32_t));
        assert_memory_equal(again.weight, first.weight, (size_t)m.rows * 2 * sizeof(float));
        assert_memory_equal(again.y, first.y, (size_t)m.rows * 100 * sizeof(float));
        answer_free(&again);
    }
    opencl_close(opencl);
    answer_free(&first);
    mixture_free(&m);
}

static void rows_do_not_see_each_other(void) {
    struct random random = {38};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 100, 84, 4, STAGE_STEADY_ROWS, 0);
    struct answer together = answer_for(&m), alone = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, m.rows, together.y, &together.routing);
    for (int r = 0; r < m.rows; r++) {
        struct routing one = {.expert = alone.expert + 2 * r, .weight = alone.weight + 2 * r};
        run(opencl, &m, m.x + r * 100, 1, alone.y + r * 100, &one);
    }
    assert_memory_equal(alone.expert, together.expert, (size_t)m.rows * 2 * sizeof(int32_t));
    assert_memory_equal(alone.weight, together.weight, (size_t)m.rows * 2 * sizeof(float));
    assert_memory_equal(alone.y, together.y, (size_t)m.rows * 100 * sizeof(float));
    opencl_close(opencl);
    answer_free(&together);
    answer_free(&alone);
    mixture_free(&m);
}

// What a row is decides how it is computed, not how many there are: in a kind each row has the same bits in calls of any
// size, and what the other kind gives for it is close.
static void kinds_of_rows(void) {
    enum { ROWS = 60 };
    static const int SIZES[] = {1, 3, 16, 17, 33, ROWS};
    struct random random = {44};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 100, 84, 6, ROWS, 0);
    struct opencl *opencl = open_for(&m);
    struct error error;
    m.layer.experts = m.expert;
    for (int kind = ROWS_OF_ANSWERS; kind <= ROWS_OF_PROMPTS; kind++) {
        struct answer together = answer_for(&m), parts = answer_for(&m);
        assert_int_equal(opencl_begin(opencl, 0, &m.layer, m.x, ROWS, (enum row_kind)kind, &error), 0);
        assert_int_equal(opencl_end(opencl, 0, together.y, &together.routing, &error), 0);
        for (int r = 0; r < ROWS; r++) check_row(&m, &together, r, 1);
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++) {
            memcpy(parts.y, m.y, ROWS * 100 * sizeof(float));
            for (int first = 0; first < ROWS; first += SIZES[s]) {
                int rows = SIZES[s] < ROWS - first ? SIZES[s] : ROWS - first;
                struct routing some = {.expert = parts.expert + 2 * first, .weight = parts.weight + 2 * first};
                assert_int_equal(
                    opencl_begin(opencl, 0, &m.layer, m.x + first * 100, rows, (enum row_kind)kind, &error), 0);
                assert_int_equal(opencl_end(opencl, 0, parts.y + first * 100, &some, &error), 0);
            }
            assert_memory_equal(parts.y, together.y, ROWS * 100 * sizeof(float));
        }
        answer_free(&together);
        answer_free(&parts);
    }
    opencl_close(opencl);
    mixture_free(&m);
}

// Two calls under way give what they give one after the other.
static void both_slots(void) {
    struct random random = {39};
    struct mixture m = mixture_of(&random, WEIGHTS_F32, 64, 48, 6, 90, 0);
    struct answer expected = answer_for(&m), found = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    struct error error;
    enum { HALF = 45 };
    run(opencl, &m, m.x, HALF, expected.y, &expected.routing);
    struct routing rest = {.expert = expected.expert + 2 * HALF, .weight = expected.weight + 2 * HALF};
    run(opencl, &m, m.x + HALF * 64, HALF, expected.y + HALF * 64, &rest);
    for (int i = 0; i < 5; i++) {
        memcpy(found.y, m.y, (size_t)m.rows * 64 * sizeof(float));
        assert_int_equal(opencl_begin(opencl, 0, &m.layer, m.x, HALF, ROWS_BY_NUMBER, &error), 0);
        assert_int_equal(opencl_begin(opencl, 1, &m.layer, m.x + HALF * 64, HALF, ROWS_BY_NUMBER, &error), 0);
        rest = (struct routing){.expert = found.expert + 2 * HALF, .weight = found.weight + 2 * HALF};
        assert_int_equal(opencl_end(opencl, 0, found.y, &found.routing, &error), 0);
        assert_int_equal(opencl_end(opencl, 1, found.y + HALF * 64, &rest, &error), 0);
        assert_memory_equal(found.y, expected.y, (size_t)m.rows * 64 * sizeof(float));
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

// ---- Failures

// Opens, runs twice and closes; 0, or the first error. y is right, or as it was.
static int whole_life(struct mixture *m, const struct answer *right, double wait_seconds, struct error *error) {
    struct opencl *opencl;
    struct stage_limits limits = limits_of(m);
    const struct opencl_options options = {
        .limits = &limits, .weights = m->expert[0].gate.format, .wait_seconds = wait_seconds};
    struct answer a = answer_for(m);
    size_t bytes = (size_t)m->rows * (size_t)m->hidden * sizeof(float);
    int code = opencl_open(&opencl, &options, error);
    bool open = !code;
    for (int i = 0; !code && i < 2; i++) {
        memcpy(a.y, m->y, bytes);
        code = opencl_begin(opencl, 0, &m->layer, m->x, m->rows, ROWS_BY_NUMBER, error);
        if (!code) code = opencl_end(opencl, 0, a.y, &a.routing, error);
        assert_memory_equal(a.y, code ? m->y : right->y, bytes);
    }
    if (open) opencl_close(opencl);
    answer_free(&a);
    return code;
}

static void every_call_fails_once(void) {
    struct random random = {40};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, 0);
    m.layer.experts = m.expert;
    struct answer right = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, m.x, m.rows, right.y, &right.routing);
    opencl_close(opencl);

    struct error error;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_int_equal(whole_life(&m, &right, 0, &error), 0);
    long calls = opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_true(calls > 100);
    int survived = 0;
    for (int kind = OPENCL_FAULT_ONCE; kind <= OPENCL_FAULT_ONWARDS; kind++)
        for (long n = 1; n <= calls; n += kind == OPENCL_FAULT_ONCE || n < 80 ? 1 : 7) {
            error = (struct error){0};
            opencl_inject(n, (enum opencl_fault)kind);
            int code = whole_life(&m, &right, 0, &error);
            if (code && (error.code != code || !error.message[0])) fail_msg("call %ld: no cause is told", n);
            survived += code == 0;
        }
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_true(survived < 10); // words of a device, a buffer that is copied instead of shared: little can go without harm
    assert_int_equal(whole_life(&m, &right, 0, &error), 0);
    answer_free(&right);
    mixture_free(&m);
}

static void a_silent_device_is_given_up(void) {
    struct random random = {41};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, 0);
    m.layer.experts = m.expert;
    struct answer right = answer_for(&m);
    struct error error;
    opencl_inject(1, OPENCL_FAULT_SILENCE);
    assert_int_equal(whole_life(&m, &right, 0.05, &error), ERROR_TIMEOUT);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    answer_free(&right);
    usleep(200000); // what it was about to write, it writes: its memory was left to it
    mixture_free(&m);
}

static void write_file(const char *directory, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

// A directory's kernels go before the built-in ones; what the compiler says of them is told with file and line.
static void kernels_of_a_directory(void) {
    char directory[] = "/tmp/tandem-kernels-XXXXXX", path[256];
    assert_non_null(mkdtemp(directory));
    struct random random = {42};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, 0);
    m.layer.experts = m.expert;
    struct stage_limits limits = limits_of(&m);
    const struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_BF16, .kernels = directory};
    struct opencl *opencl;
    struct error error;
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_NOT_FOUND); // it has none of them
    assert_non_null(strstr(error.message, directory));

    write_file(directory, "scatter.cl", "\n__kernel void scatter(__global int *x) { x[0] = missing; }\n");
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_FORMAT);
    if (!strstr(error.message, "scatter.cl:2") || !strstr(error.message, "missing")) fail_msg("%s", error.message);

    // Of the right arguments, but one that leaves everything at 7.
    write_file(directory, "scatter.cl",
               "__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void scatter(__global const float *a,\n"
               "    __global const int *b, __global const float *c, int hidden, int d, __global float *out) {\n"
               "    if (get_global_id(0) < hidden) out[get_group_id(1) * hidden + get_global_id(0)] = 7; }\n");
    if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
    struct answer a = answer_for(&m);
    run(opencl, &m, m.x, m.rows, a.y, &a.routing);
    for (int i = 0; i < m.rows * m.hidden; i++) check("seven", (double)(a.y[i] - m.y[i]), 7, 1e-5);
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
    snprintf(path, sizeof path, "%s/scatter.cl", directory);
    unlink(path);
    rmdir(directory);
}

static void too_much_is_refused(void) {
    struct random random = {43};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 8, 8, 4, 2, 0);
    struct stage_limits limits = limits_of(&m);
    struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_BF16};
    struct opencl *opencl;
    struct error error;
    limits.experts = OPENCL_EXPERTS_MAX + 1;
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_UNSUPPORTED);
    limits.experts = 4;
    limits.tokens_max = 1 << 30;
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_MEMORY);
    limits.tokens_max = 2;
    options.weights = WEIGHTS_F32; // not what the layer has
    m.layer.experts = m.expert;
    assert_int_equal(opencl_open(&opencl, &options, &error), 0);
    assert_int_equal(opencl_begin(opencl, 0, &m.layer, m.x, 2, ROWS_BY_NUMBER, &error), ERROR_UNSUPPORTED);
    opencl_close(opencl);
    mixture_free(&m);
}

// ---- All of it

struct device_test {
    void (*run)(void);
    const char *level; // of the kernels; NULL: the best
};

// Runs a test, unless there is no device, or none for kernels of this level.
static void on_device(void **state) {
    const struct device_test *test = *state;
    struct mixture m = {.hidden = 8, .inner = 8, .experts = 2, .rows = 2};
    struct stage_limits limits = limits_of(&m);
    level = test->level;
    const struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_F32, .level = level};
    struct opencl *opencl;
    struct error error;
    int code = opencl_open(&opencl, &options, &error);
    if (code == ERROR_UNSUPPORTED) {
        printf("# skipped: %s\n", error.message);
        skip();
    }
    if (code) fail_msg("%s", error.message);
    opencl_close(opencl);
    test->run();
}

static void tell_device(void) {
    struct mixture m = {.hidden = 8, .inner = 8, .experts = 2, .rows = 2};
    struct stage_limits limits = limits_of(&m);
    const struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_F32};
    struct opencl *opencl;
    struct error error;
    if (opencl_open(&opencl, &options, &error)) return;
    printf("# %s\n", opencl_describe(opencl));
    opencl_close(opencl);
}

#define DEVICE_TEST(name, function, level) {name, on_device, NULL, NULL, &(struct device_test){function, level}}
#define LEVEL_TESTS(level) \
    DEVICE_TEST("known_routes " level, known_routes, level), DEVICE_TEST("shapes " level, shapes, level), \
        DEVICE_TEST("real_shapes " level, real_shapes, level), \
        DEVICE_TEST("scattered_weights " level, scattered_weights, level), \
        DEVICE_TEST("rows_of_experts " level, rows_of_experts, level), DEVICE_TEST("odd_rows " level, odd_rows, level), \
        DEVICE_TEST("same_bits " level, same_bits, level), \
        DEVICE_TEST("rows_do_not_see_each_other " level, rows_do_not_see_each_other, level), \
        DEVICE_TEST("kinds_of_rows " level, kinds_of_rows, level), DEVICE_TEST("both_slots " level, both_slots, level)
#define FAILURE_TEST(function) DEVICE_TEST(#function, function, NULL)

int main(void) {
    const struct CMUnitTest tests[] = {
        LEVEL_TESTS("portable"),
        LEVEL_TESTS("sub-group"),
        FAILURE_TEST(every_call_fails_once),
        FAILURE_TEST(a_silent_device_is_given_up),
        FAILURE_TEST(kernels_of_a_directory),
        FAILURE_TEST(too_much_is_refused),
    };
    tell_device();
    return cmocka_run_group_tests_name("opencl", tests, NULL, NULL);
}
