// Routing and experts of the CPU at every level against the reference: ties and near ties, negative, zero and
// odd scores; few and many rows for an expert, ragged shapes; and that a token's result does not depend on the
// tokens beside it. Tolerances: see test_stages.c.
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

static struct stage_limits limits_of(int tokens, int hidden, int intermediate, int experts) {
    return (struct stage_limits){.tokens_max = tokens,
                                 .sequences_max = tokens,
                                 .context_max = 32,
                                 .hidden = hidden,
                                 .heads = 2,
                                 .kv_heads = 2,
                                 .head_dim = 8,
                                 .intermediate = intermediate,
                                 .experts = experts,
                                 .vocab = 8,
                                 .threads = 2};
}

static void *open_reference(const struct stage_limits *limits) {
    void *state;
    struct error error;
    assert_int_equal(reference_stages.open(&state, limits, &error), 0);
    return state;
}

static double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static void check(const char *what, double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s: found %.9g, expected %.9g ± %.3g", what, found, expected, tolerance);
}

// ---- Routing

enum { EXPERTS = 16 };

// Routes scores as they are: the router's matrix is the identity.
static void route_scores(const struct stages *stages, void *state, const float *scores, int rows, int32_t *expert,
                         float *weight) {
    float identity[EXPERTS * EXPERTS] = {0};
    for (int i = 0; i < EXPERTS; i++) identity[i * EXPERTS + i] = 1;
    const struct router router = {EXPERTS, 2, 0.01f, identity, EXPERTS};
    struct routing routing = {.expert = expert, .weight = weight};
    stages->route(state, &router, scores, rows, &routing);
    assert_int_equal(routing.rows, rows);
    assert_int_equal(routing.top_k, 2);
}

// Cases whose answers transformers 5.23 gave; experts that are not named score -9.
static void known_routes(void **unused) {
    (void)unused;
    static const struct {
        float score[4];
        int expert[2];
        float weight[2];
    } CASES[] = {
        {{-9, 1.0f, 0.99f, 0.5f}, {1, 2}, {0.502500f, 1}},          // close: they share
        {{1, 1, 1, 1}, {0, 1}, {0.25f, 0.333333f}},                 // ties: the first
        {{-1, -1.01f, -1.03f, -5}, {0, 1}, {0.502500f, 0.504999f}}, // negative: max(|s|, m)
        {{0, -1e-9f, -0.1f, -3}, {0, 1}, {1, 1}},
        {{0, 0, -9, -9}, {0, 1}, {0.5f, 1}},                        // 0/0 keeps
        {{3, 2.9401f, 2.9399f, 1}, {0, 1}, {0.514970f, 0.500050f}}, // on both sides of 2 · 0.01 of 3
    };
    struct stage_limits limits = limits_of(1, EXPERTS, 8, EXPERTS);
    void *reference = open_reference(&limits);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        float score[EXPERTS], weight[2];
        int32_t expert[2];
        for (int j = 0; j < EXPERTS; j++) score[j] = j < 4 ? CASES[i].score[j] : -9;
        for (int d = -1; d < DEVICE_COUNT; d++) {
            void *state = d < 0 ? reference : open_device(&DEVICES[d], &limits);
            if (!state) continue;
            route_scores(d < 0 ? &reference_stages : &cpu_stages, state, score, 1, expert, weight);
            for (int slot = 0; slot < 2; slot++) {
                assert_int_equal(expert[slot], CASES[i].expert[slot]);
                check("weight", (double)weight[slot], (double)CASES[i].weight[slot], 1e-6);
            }
            if (d >= 0) cpu_stages.close(state);
        }
    }
    reference_stages.close(reference);
}

// Rows of one of several kinds: spread out, on a coarse grid (many ties), all negative, all within a few percent.
static void fill_scores(struct random *random, int kind, float *score, int rows) {
    for (int i = 0; i < rows * EXPERTS; i++) {
        float x = 3 * random_float(random);
        switch (kind) {
        case 0:
            score[i] = x;
            break;
        case 1:
            score[i] = roundf(x);
            break;
        case 2:
            score[i] = -fabsf(x);
            break;
        case 3:
            score[i] = 1 + 0.01f * x;
            break;
        default:
            score[i] = -1 - 0.01f * x;
            break;
        }
    }
}

static void routes(void **unused) {
    (void)unused;
    enum { ROWS = 40 };
    struct random random = {21};
    struct stage_limits limits = limits_of(ROWS, EXPERTS, 8, EXPERTS);
    void *reference = open_reference(&limits);
    for (int d = 0; d < DEVICE_COUNT; d++) {
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        for (int i = 0; i < 100; i++) {
            float score[ROWS * EXPERTS], weight[ROWS * 2], expected_weight[ROWS * 2];
            int32_t expert[ROWS * 2], expected[ROWS * 2];
            int rows = i % 2 ? ROWS : 1 + i % 7;
            fill_scores(&random, i % 5, score, rows);
            route_scores(&reference_stages, reference, score, rows, expected, expected_weight);
            route_scores(&cpu_stages, state, score, rows, expert, weight);
            assert_memory_equal(expert, expected, (size_t)rows * 2 * sizeof *expert);
            for (int j = 0; j < rows * 2; j++)
                check(DEVICES[d].name, (double)weight[j], (double)expected_weight[j], 16 * 0x1p-24);
        }
        cpu_stages.close(state);
    }
    reference_stages.close(reference);
}

// Whatever the scores, an expert comes out that exists; what is not finite shows in the weight.
static void odd_routes(void **unused) {
    (void)unused;
    struct stage_limits limits = limits_of(4, EXPERTS, 8, EXPERTS);
    float score[4 * EXPERTS], weight[8];
    int32_t expert[8];
    for (int j = 0; j < EXPERTS; j++) {
        score[j] = NAN;
        score[EXPERTS + j] = j == 5 ? NAN : (float)j;
        score[2 * EXPERTS + j] = INFINITY;
        score[3 * EXPERTS + j] = -INFINITY;
    }
    void *reference = open_reference(&limits);
    for (int d = -1; d < DEVICE_COUNT; d++) {
        void *state = d < 0 ? reference : open_device(&DEVICES[d], &limits);
        if (!state) continue;
        route_scores(d < 0 ? &reference_stages : &cpu_stages, state, score, 4, expert, weight);
        for (int i = 0; i < 8; i++) assert_in_range(expert[i], 0, EXPERTS - 1);
        assert_true(isnan(weight[0]) && isnan(weight[2]) && isnan(weight[4]) && isnan(weight[6]));
        if (d >= 0) cpu_stages.close(state);
    }
    reference_stages.close(reference);
}

// ---- Experts

struct mixture {
    int hidden, intermediate, experts, rows;
    enum weight_format format;
    struct owned_matrix *gate, *up, *down;
    struct expert *expert;
    struct layer layer;
    struct routing routing;
    float *x, *y; // y: what is there before
};

static struct mixture mixture_of(struct random *random, enum weight_format format, int hidden, int intermediate,
                                 int experts, int rows) {
    struct mixture m = {
        .hidden = hidden, .intermediate = intermediate, .experts = experts, .rows = rows, .format = format};
    size_t count = (size_t)experts, pairs = (size_t)rows * 2;
    m.gate = allocate(count, sizeof *m.gate);
    m.up = allocate(count, sizeof *m.up);
    m.down = allocate(count, sizeof *m.down);
    m.expert = allocate(count, sizeof *m.expert);
    for (int e = 0; e < experts; e++) {
        m.gate[e] = random_matrix(random, format, intermediate, hidden, 1);
        m.up[e] = random_matrix(random, format, intermediate, hidden, 1);
        m.down[e] = random_matrix(random, format, hidden, intermediate, 1);
        m.expert[e] = (struct expert){m.gate[e].matrix, m.up[e].matrix, m.down[e].matrix};
    }
    m.layer = (struct layer){.router = {experts, 2, 0.01f, NULL, hidden}, .experts = m.expert};
    m.routing = (struct routing){rows, 2, allocate(pairs, sizeof(int32_t)), random_floats(random, pairs)};
    for (int r = 0; r < rows; r++) { // the first experts are chosen most, the last perhaps never
        int first = random_below(random, random_below(random, experts) + 1);
        m.routing.expert[2 * r] = first;
        m.routing.expert[2 * r + 1] = (first + 1 + random_below(random, experts - 1)) % experts;
    }
    m.x = random_floats(random, (size_t)rows * (size_t)hidden);
    m.y = random_floats(random, (size_t)rows * (size_t)hidden);
    return m;
}

static void mixture_free(struct mixture *m) {
    for (int e = 0; e < m->experts; e++) {
        free(m->gate[e].memory);
        free(m->up[e].memory);
        free(m->down[e].memory);
    }
    free(m->gate);
    free(m->up);
    free(m->down);
    free(m->expert);
    free(m->routing.expert);
    free(m->routing.weight);
    free(m->x);
    free(m->y);
}

// The values between gate and down, and how far off a device may be there.
static void gated_bounds(const struct mixture *m, enum matmul_way way, const struct expert *expert, const float *seen,
                         double *gated, double *tolerance) {
    for (int i = 0; i < m->intermediate; i++) {
        double g = 0, u = 0, g_absolute = 0, u_absolute = 0;
        for (int k = 0; k < m->hidden; k++) {
            double gate = weight_multiplied(&expert->gate, way, i, k) * (double)seen[k];
            double up = weight_multiplied(&expert->up, way, i, k) * (double)seen[k];
            g += gate;
            u += up;
            g_absolute += fabs(gate);
            u_absolute += fabs(up);
        }
        double silu = g / (1 + exp(-g)); // its slope is nowhere above 1.1
        gated[i] = silu * u;
        tolerance[i] = 1.1 * sum_error(m->hidden, g_absolute) * fabs(u) +
                       fabs(silu) * sum_error(m->hidden, u_absolute) + 8 * 0x1p-24 * fabs(gated[i]);
    }
}

// Half of what the gated value i may be off by when it is rounded once more: by 2^-9 of itself in bf16, by half a step
// of its group in int8.
static double rounding(const struct mixture *m, enum matmul_way way, const double *gated, int i) {
    if (way == MATMUL_BF16) return 0x1p-9 * fabs(gated[i]);
    if (way != MATMUL_PACKED) return 0;
    double largest = 0;
    int first = i / PACKED_GROUP * PACKED_GROUP;
    for (int k = first; k < first + PACKED_GROUP && k < m->intermediate; k++) largest = fmax(largest, fabs(gated[k]));
    return 0.5 / 127 * largest;
}

// What one token's output should be and how far off it may be. In bf16 and int8 the gated values are rounded once more,
// each in its own direction: five standard deviations of such a sum, each value's taken for as large as its bound.
static void check_token(const char *name, const struct mixture *m, const struct cpu *cpu, int row, int step,
                        const float *y) {
    double *gated = allocate((size_t)m->intermediate * 4, sizeof *gated), *tolerance = gated + 2 * m->intermediate;
    enum matmul_way way = matmul_way(cpu, m->format, m->rows);
    float *seen = copy_floats(m->x + (size_t)row * (size_t)m->hidden, (size_t)m->hidden);
    if (way == MATMUL_PACKED) as_packed(cpu, m->x + (size_t)row * (size_t)m->hidden, 1, m->hidden, seen);
    for (int k = 0; way == MATMUL_BF16 && k < m->hidden; k++) seen[k] = float_of_bf16(bf16_of_float(seen[k]));
    for (int slot = 0; slot < 2; slot++)
        gated_bounds(m, way, &m->expert[m->routing.expert[2 * row + slot]], seen, gated + slot * m->intermediate,
                     tolerance + slot * m->intermediate);
    for (int o = row % step; o < m->hidden; o += step) {
        size_t at = (size_t)row * (size_t)m->hidden + (size_t)o;
        double expected = (double)m->y[at], allowed = 8 * 0x1p-24 * fabs(expected);
        for (int slot = 0; slot < 2; slot++) {
            const struct matrix *down = &m->expert[m->routing.expert[2 * row + slot]].down;
            const double *values = gated + slot * m->intermediate;
            double weight = (double)m->routing.weight[2 * row + slot], sum = 0, absolute = 0, inner = 0, squares = 0;
            for (int i = 0; i < m->intermediate; i++) {
                double factor = weight_multiplied(down, way, o, i), off = factor * rounding(m, way, values, i);
                sum += factor * values[i];
                absolute += fabs(factor * values[i]);
                squares += off * off;
                inner += fabs(factor) * tolerance[slot * m->intermediate + i];
            }
            expected += weight * sum;
            allowed += fabs(weight) * (inner + sum_error(m->intermediate, absolute) + 5 * sqrt(squares) +
                                       8 * 0x1p-24 * fabs(sum));
        }
        check(name, (double)y[at], expected, allowed);
    }
    free(seen);
    free(gated);
}

static void experts_on_all(struct random *random, enum weight_format format, int hidden, int intermediate, int experts,
                           int rows, int step) {
    struct mixture m = mixture_of(random, format, hidden, intermediate, experts, rows);
    struct stage_limits limits = limits_of(rows, hidden, intermediate, experts);
    size_t count = (size_t)rows * (size_t)hidden;
    for (int d = 0; d < DEVICE_COUNT; d++) {
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        float *x = copy_floats(m.x, count), *y = copy_floats(m.y, count);
        cpu_stages.experts(state, &m.layer, &m.routing, x, y, rows);
        assert_memory_equal(x, m.x, count * sizeof *x);
        for (int r = 0; r < rows; r += step) check_token(DEVICES[d].name, &m, state, r, step, y);
        free(y);
        free(x);
        cpu_stages.close(state);
    }
    mixture_free(&m);
}

static void experts_of_small_shapes(void **unused) {
    (void)unused;
    static const int SHAPES[][3] = {{1, 1, 2}, {7, 5, 3}, {48, 31, 4}, {64, 96, 8}, {100, 33, 16}, {256, 96, 16}};
    static const int ROWS[] = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 100, 257};
    struct random random = {22};
    for (int s = 0; s < 6; s++)
        for (int r = 0; r < 12; r++)
            for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++)
                if (!SANITIZED || (s + r + format) % 4 == 0)
                    experts_on_all(&random, (enum weight_format)format, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2],
                                   ROWS[r], ROWS[r] > 8 ? 13 : 1);
}

static void experts_of_real_shapes(void **unused) {
    (void)unused;
    struct random random = {23};
    experts_on_all(&random, WEIGHTS_BF16, 4096, 64, 2, 300, 149); // more rows than are multiplied at once
    experts_on_all(&random, WEIGHTS_INT8, 4096, 448, 3, 70, 29);
    if (SANITIZED) return; // a minute there
    experts_on_all(&random, WEIGHTS_BF16, 4096, 448, 4, 30, 17);
    experts_on_all(&random, WEIGHTS_BF16, 4096, 960, 3, 2, 17);
    experts_on_all(&random, WEIGHTS_F32, 4096, 448, 3, 40, 29);
    experts_on_all(&random, WEIGHTS_INT4, 4096, 960, 2, 150, 149);
}

static void reference_experts(void **unused) {
    (void)unused;
    struct random random = {24};
    struct mixture m = mixture_of(&random, WEIGHTS_F32, 20, 12, 5, 9);
    struct stage_limits limits = limits_of(9, 20, 12, 5);
    void *reference = open_reference(&limits);
    float y[9 * 20];
    memcpy(y, m.y, sizeof y);
    reference_stages.experts(reference, &m.layer, &m.routing, m.x, y, 9);
    struct cpu plain = {0}; // multiplies in f32
    for (int r = 0; r < 9; r++) check_token("reference", &m, &plain, r, 1, y);
    reference_stages.close(reference);
    mixture_free(&m);
}

// ---- Company: a token's route and experts are the same, to the bit, alone

// The tokens of m one by one, and in chunks of so many: what they come to in y.
static void run_chunks(void *state, const struct mixture *m, int chunk, float *y) {
    size_t width = (size_t)m->hidden;
    for (int first = 0, rows; first < m->rows; first += rows) {
        rows = m->rows - first < chunk ? m->rows - first : chunk;
        size_t at = (size_t)first * width, pair = 2 * (size_t)first;
        struct routing some = {rows, 2, m->routing.expert + pair, m->routing.weight + pair};
        cpu_stages.route(state, &m->layer.router, m->x + at, rows, &some);
        cpu_stages.experts(state, &m->layer, &some, m->x + at, y + at, rows);
    }
}

static void tokens_do_not_see_each_other(void **unused) {
    (void)unused;
    enum { HIDDEN = 100, INNER = 84, ROWS = 150 };
    static const int CHUNKS[] = {ROWS, 2, 17, 40, 100};
    struct random random = {25};
    struct stage_limits limits = limits_of(ROWS, HIDDEN, INNER, EXPERTS);
    for (int i = 0; i < WEIGHT_FORMAT_COUNT * 3; i++) {
        enum weight_format format = (enum weight_format)(i % WEIGHT_FORMAT_COUNT);
        enum row_kind kind =
            (enum row_kind[]){ROWS_BY_NUMBER, ROWS_OF_ANSWERS, ROWS_OF_PROMPTS}[i / WEIGHT_FORMAT_COUNT];
        struct mixture m =
            mixture_of(&random, format, HIDDEN, INNER, EXPERTS, kind == ROWS_BY_NUMBER ? FEW_ROWS : ROWS);
        float *router = random_floats(&random, EXPERTS * HIDDEN);
        m.layer.router.weight = router;
        size_t y_bytes = (size_t)m.rows * HIDDEN * sizeof(float), pairs = 2 * (size_t)m.rows;
        float *alone = allocate(1, y_bytes), *together = allocate(1, y_bytes);
        for (int d = 0; d < DEVICE_COUNT; d++) {
            void *state = open_device(&DEVICES[d], &limits);
            if (!state) continue;
            int32_t expert[2 * ROWS];
            float weight[2 * ROWS];
            cpu_stages.rows_are(state, kind);
            memcpy(alone, m.y, y_bytes);
            run_chunks(state, &m, 1, alone);
            memcpy(expert, m.routing.expert, pairs * sizeof *expert);
            memcpy(weight, m.routing.weight, pairs * sizeof *weight);
            for (size_t chunk = 0; chunk < sizeof CHUNKS / sizeof *CHUNKS; chunk++) {
                memcpy(together, m.y, y_bytes);
                run_chunks(state, &m, CHUNKS[chunk], together);
                assert_memory_equal(m.routing.expert, expert, pairs * sizeof *expert);
                assert_memory_equal(m.routing.weight, weight, pairs * sizeof *weight);
                assert_memory_equal(together, alone, y_bytes);
            }
            cpu_stages.close(state);
        }
        free(together);
        free(alone);
        free(router);
        mixture_free(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_routes),
        cmocka_unit_test(routes),
        cmocka_unit_test(odd_routes),
        cmocka_unit_test(reference_experts),
        cmocka_unit_test(experts_of_small_shapes),
        cmocka_unit_test(experts_of_real_shapes),
        cmocka_unit_test(tokens_do_not_see_each_other),
    };
    return cmocka_run_group_tests_name("mixture", tests, NULL, NULL);
}
