// Weights that are copied for each call, two experts' by turns: the same results as with weights that stay, to the bit;
// when that is chosen; and a device that fails at any call of it.
#include "engine/opencl/mixture.h"
#include "tests/kernels/opencl_data.h"

static void route(void *user, const struct router *router, const float *x, int rows, struct routing *out) {
    reference_stages.route(user, router, x, rows, out);
}

static struct opencl *open_at(const struct mixture *m, enum opencl_weights where, void *reference) {
    struct opencl *opencl;
    struct error error;
    struct stage_limits limits = limits_of(m);
    const struct opencl_options options = {.limits = &limits,
                                           .weights = m->expert[0].gate.format,
                                           .level = level,
                                           .where = where,
                                           .route = route,
                                           .route_user = reference};
    if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
    assert_true((strstr(opencl_describe(opencl), "weights staged") != NULL) == (where == OPENCL_WEIGHTS_STAGED));
    return opencl;
}

static void *open_reference(const struct mixture *m) {
    struct stage_limits limits = limits_of(m);
    struct error error;
    void *reference;
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    return reference;
}

// Three calls at once, of all rows, with the same choice: `kind` says which kernels.
static void run_chosen(struct opencl *opencl, const struct mixture *m, const struct routing *chosen,
                       enum row_kind kind, float *const y[STAGE_SLOTS]) {
    struct error error;
    for (int s = 0; s < STAGE_SLOTS; s++)
        if (opencl_begin_chosen(opencl, s, &m->layer, m->x, chosen, kind, &error)) fail_msg("%s", error.message);
    for (int s = 0; s < STAGE_SLOTS; s++)
        if (opencl_end(opencl, s, y[s], NULL, &error)) fail_msg("%s", error.message);
}

static void staged_is_resident(void) {
    static const struct {
        enum weight_format format;
        int hidden, inner, experts, rows;
    } CASES[] = {
        {WEIGHTS_BF16, 40, 24, 5, 17}, {WEIGHTS_F32, 33, 17, 4, 9},     {WEIGHTS_INT8, 128, 64, 6, 50},
        {WEIGHTS_INT4, 128, 64, 6, 50}, {WEIGHTS_INT8, 64, 64, 16, 150}, {WEIGHTS_BF16, 32, 16, 64, 7},
    };
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        struct random random = {60 + (uint32_t)c};
        struct mixture m = mixture_of(&random, CASES[c].format, CASES[c].hidden, CASES[c].inner, CASES[c].experts,
                                      CASES[c].rows, 0);
        void *reference = open_reference(&m);
        struct opencl *staged = open_at(&m, OPENCL_WEIGHTS_STAGED, reference);
        struct opencl *resident = open_at(&m, OPENCL_WEIGHTS_RESIDENT, reference);
        struct answer chosen = answer_for(&m), own = answer_for(&m);
        route(reference, &m.layer.router, m.x, m.rows, &chosen.routing);
        size_t bytes = answer_bytes(&m);
        float *y[2][STAGE_SLOTS];
        for (int some = 0; some < 2; some++) { // then without the experts of odd numbers
            for (int i = 0; some && i < 2 * m.rows; i++)
                if (chosen.expert[i] % 2) chosen.expert[i] = -1;
            for (int kind = ROWS_OF_ANSWERS; kind <= ROWS_OF_PROMPTS; kind++) {
                for (int i = 0; i < 2 * STAGE_SLOTS; i++) y[i % 2][i / 2] = copy_floats(m.y, bytes / sizeof(float));
                run_chosen(staged, &m, &chosen.routing, (enum row_kind)kind, y[0]);
                run_chosen(resident, &m, &chosen.routing, (enum row_kind)kind, y[1]);
                assert_true(memcmp(y[1][0], m.y, bytes) != 0);
                for (int s = 0; s < STAGE_SLOTS; s++) assert_memory_equal(y[0][s], y[1][s], bytes);
                if (!some) { // routed by itself, which is the reference's way
                    memcpy(own.y, m.y, bytes);
                    run_rows(staged, &m, (enum row_kind)kind, 0, m.rows, &own);
                    assert_memory_equal(own.y, y[1][0], bytes);
                    assert_memory_equal(own.expert, chosen.expert, 2 * (size_t)m.rows * sizeof *own.expert);
                    assert_memory_equal(own.weight, chosen.weight, 2 * (size_t)m.rows * sizeof *own.weight);
                }
                for (int i = 0; i < 2 * STAGE_SLOTS; i++) free(y[i % 2][i / 2]);
            }
        }
        answer_free(&own);
        answer_free(&chosen);
        opencl_close(resident);
        opencl_close(staged);
        reference_stages.close(reference);
        mixture_free(&m);
    }
}

// Layers one after the other through the same two buffers, of which each has to be read before it is filled again.
static void layers_take_turns(void) {
    enum { LAYERS = 3, ROUNDS = 4 };
    struct mixture m[LAYERS];
    struct answer expected[LAYERS];
    struct random random = {70};
    for (int l = 0; l < LAYERS; l++) m[l] = mixture_of(&random, WEIGHTS_INT8, 128, 64, 8, 12, 0);
    void *reference = open_reference(&m[0]);
    struct opencl *resident = open_at(&m[0], OPENCL_WEIGHTS_RESIDENT, reference);
    for (int l = 0; l < LAYERS; l++) {
        expected[l] = answer_for(&m[l]);
        run_rows(resident, &m[l], ROWS_OF_ANSWERS, 0, m[l].rows, &expected[l]);
        expected[l].routing.rows = m[l].rows;
        expected[l].routing.top_k = 2;
    }
    opencl_close(resident);
    struct opencl *staged = open_at(&m[0], OPENCL_WEIGHTS_STAGED, reference);
    for (int i = 0; i < ROUNDS; i++) {
        struct error error;
        struct answer found[LAYERS];
        for (int l = 0; l < LAYERS; l++)
            if (opencl_begin_chosen(staged, l, &m[l].layer, m[l].x, &expected[l].routing, ROWS_OF_ANSWERS, &error))
                fail_msg("%s", error.message);
        for (int l = 0; l < LAYERS; l++) {
            found[l] = answer_for(&m[l]);
            if (opencl_end(staged, l, found[l].y, NULL, &error)) fail_msg("%s", error.message);
            assert_memory_equal(found[l].y, expected[l].y, answer_bytes(&m[l]));
            answer_free(&found[l]);
        }
    }
    assert_int_equal(opencl_counts(staged).waits, LAYERS * ROUNDS); // one for each call, as with weights that stay
    opencl_close(staged);
    reference_stages.close(reference);
    for (int l = 0; l < LAYERS; l++) {
        answer_free(&expected[l]);
        mixture_free(&m[l]);
    }
}

// 16 layers' 16 experts of 3 · 4096 · 448 bytes, and scales: 1.5 GB in int8.
static void what_does_not_fit_is_staged(void) {
    static const struct {
        bool shared;
        size_t memory, alloc;
        enum opencl_weights where;
        bool route, staged;
    } CASES[] = {
        {false, (size_t)8 << 30, (size_t)2 << 30, OPENCL_WEIGHTS_AUTO, true, false},
        {false, (size_t)1 << 30, (size_t)1 << 30, OPENCL_WEIGHTS_AUTO, true, true}, // too little memory
        {false, (size_t)1 << 30, (size_t)1 << 30, OPENCL_WEIGHTS_AUTO, false, false}, // nobody would route
        {true, (size_t)1 << 30, (size_t)1 << 30, OPENCL_WEIGHTS_AUTO, true, false}, // which is the host's
        {true, (size_t)8 << 30, (size_t)64 << 20, OPENCL_WEIGHTS_AUTO, true, true}, // a layer is more than one buffer
        {true, (size_t)8 << 30, (size_t)2 << 30, OPENCL_WEIGHTS_STAGED, true, true},
        {false, (size_t)1 << 30, (size_t)1 << 30, OPENCL_WEIGHTS_RESIDENT, true, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct opencl opencl = {
            .limits = {.hidden = 4096, .intermediate = 448, .experts = 16},
            .weights = WEIGHTS_INT8,
            .device = {
                .shared_memory = CASES[i].shared, .memory_bytes = CASES[i].memory, .alloc_bytes_max = CASES[i].alloc}};
        const struct opencl_options options = {
            .where = CASES[i].where, .layers = 16, .route = CASES[i].route ? route : NULL};
        if (opencl_staging_wanted(&opencl, &options) != CASES[i].staged) fail_msg("case %zu", i);
    }
}

// Opens, runs twice and closes; 0, or the first error. y is right, or as it was.
static int whole_life(struct mixture *m, const struct answer *right, void *reference, struct error *error) {
    struct opencl *opencl;
    struct stage_limits limits = limits_of(m);
    const struct opencl_options options = {.limits = &limits,
                                           .weights = m->expert[0].gate.format,
                                           .where = OPENCL_WEIGHTS_STAGED,
                                           .route = route,
                                           .route_user = reference};
    struct answer a = answer_for(m);
    size_t bytes = answer_bytes(m);
    int code = opencl_open(&opencl, &options, error);
    bool open = !code;
    for (int i = 0; !code && i < 2; i++) {
        memcpy(a.y, m->y, bytes);
        code = opencl_begin(opencl, 0, &m->layer, m->x, m->rows, ROWS_OF_ANSWERS, error);
        if (!code) code = opencl_end(opencl, 0, a.y, &a.routing, error);
        assert_memory_equal(a.y, code ? m->y : right->y, bytes);
    }
    if (open) opencl_close(opencl);
    answer_free(&a);
    return code;
}

static void every_call_fails(void) {
    struct random random = {80};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, 0);
    void *reference = open_reference(&m);
    struct opencl *opencl = open_at(&m, OPENCL_WEIGHTS_STAGED, reference);
    struct answer right = answer_for(&m);
    struct error error;
    run_rows(opencl, &m, ROWS_OF_ANSWERS, 0, m.rows, &right);
    opencl_close(opencl);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_int_equal(whole_life(&m, &right, reference, &error), 0);
    long calls = opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_true(calls > 200);
    int survived = 0;
    for (int kind = OPENCL_FAULT_ONCE; kind <= OPENCL_FAULT_ONWARDS; kind++)
        for (long n = 60; n <= calls; n += kind == OPENCL_FAULT_ONCE ? 1 : 7) { // those before are test_opencl_faults'
            error = (struct error){0};
            opencl_inject(n, (enum opencl_fault)kind);
            int code = whole_life(&m, &right, reference, &error);
            if (code && (error.code != code || !error.message[0])) fail_msg("call %ld: no cause is told", n);
            nothing_is_left(n);
            survived += code == 0;
        }
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_int_equal(survived, 0); // here no call is one that can be done without
    assert_int_equal(whole_life(&m, &right, reference, &error), 0);
    answer_free(&right);
    reference_stages.close(reference);
    mixture_free(&m);
}

static void other_weights_are_refused(void) {
    struct random random = {81};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 8, 8, 4, 2, 0), other;
    void *reference = open_reference(&m);
    struct opencl *opencl = open_at(&m, OPENCL_WEIGHTS_STAGED, reference);
    struct error error;
    other = mixture_of(&random, WEIGHTS_F32, 8, 8, 4, 2, 0);
    assert_int_equal(opencl_begin(opencl, 0, &other.layer, m.x, 2, ROWS_BY_NUMBER, &error), ERROR_UNSUPPORTED);
    opencl_close(opencl);
    reference_stages.close(reference);
    mixture_free(&other);
    mixture_free(&m);
}

#define STAGING_TEST(function, level) DEVICE_TEST(#function " " level, function, level)
#define BEST_TEST(function) DEVICE_TEST(#function, function, NULL)

int main(void) {
    const struct CMUnitTest tests[] = {
        BEST_TEST(staged_is_resident),
        STAGING_TEST(staged_is_resident, "portable"),
        STAGING_TEST(staged_is_resident, "sub-group"),
        BEST_TEST(layers_take_turns),
        BEST_TEST(what_does_not_fit_is_staged),
        BEST_TEST(every_call_fails),
        BEST_TEST(other_weights_are_refused),
    };
    tell_device();
    return cmocka_run_group_tests_name("opencl_staging", tests, NULL, NULL);
}
