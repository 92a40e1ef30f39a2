// Prompts' experts by CLBlast: the library itself, where it is, and one made for these tests, which computes on the
// host and can be told to be wrong. Values are held against those of opencl_expected.h, which allow sums in any order;
// in f16, where each number that is stored is rounded by 2^-11 of itself three times over, a row may be off by 2^-7 of
// its size.
#include "engine/opencl/clblast.h"
#include "tests/kernels/opencl_expected.h"

#include <dlfcn.h>

static const char LIBRARY[] = FAKE_CLBLAST;

static void route(void *user, const struct router *router, const float *x, int rows, struct routing *out) {
    reference_stages.route(user, router, x, rows, out);
}

struct opened {
    struct opencl *opencl;
    void *reference;
};

static char warned[256];

static void note_warning(void *user, const char *line) {
    (void)user;
    snprintf(warned, sizeof warned, "%s", line);
}

// said: what the library is told; "real": it is the system's.
static struct opened open_clblast(const struct mixture *m, const char *said, enum opencl_products products,
                                  bool half_weights) {
    struct stage_limits limits = limits_of(m);
    struct opened opened;
    struct error error;
    level = "portable";
    setenv("TANDEM_FAKE_CLBLAST", said, 1);
    assert_int_equal(reference_stages.open(&opened.reference, &limits, &error), 0);
    const struct opencl_options options = {.limits = &limits,
                                           .weights = m->expert[0].gate.format,
                                           .level = level,
                                           .kernels = getenv("TANDEM_TEST_KERNELS"),
                                           .products = products,
                                           .clblast = strcmp(said, "real") == 0 ? NULL : LIBRARY,
                                           .half_weights = half_weights,
                                           .warn = note_warning,
                                           .route = route,
                                           .route_user = opened.reference};
    if (opencl_open(&opened.opencl, &options, &error)) fail_msg("%s", error.message);
    return opened;
}

static void close_all(struct opened *opened) {
    opencl_close(opened->opencl);
    reference_stages.close(opened->reference);
}

static void expect_words(const struct opened *opened, const char *words) {
    if (!strstr(opencl_describe(opened->opencl), words))
        fail_msg("expected \"%s\" in \"%s\"", words, opencl_describe(opened->opencl));
}

// How far a row is off, of its size; against what the same device gives without CLBlast.
static double distance(const struct mixture *m, const struct answer *found, const struct answer *expected, int row) {
    double square = 0, off = 0;
    for (int i = row * m->hidden; i < (row + 1) * m->hidden; i++) {
        double difference = (double)found->y[i] - (double)expected->y[i];
        square += (double)(expected->y[i] - m->y[i]) * (double)(expected->y[i] - m->y[i]);
        off += difference * difference;
    }
    return sqrt(off / square);
}

// The library's events, which are ours to give back.
int __real_clblast_multiply(const struct clblast *clblast, const struct clblast_product *product,
                            cl_command_queue queue, cl_event *done, struct error *error);
int __wrap_clblast_multiply(const struct clblast *clblast, const struct clblast_product *product,
                            cl_command_queue queue, cl_event *done, struct error *error);
int __wrap_clblast_multiply(const struct clblast *clblast, const struct clblast_product *product,
                            cl_command_queue queue, cl_event *done, struct error *error) {
    int code = __real_clblast_multiply(clblast, product, queue, done, error);
    objects_left[OBJECT_event] += done && *done;
    return code;
}

// ---- Right answers

static const int SHAPES[][3] = {{7, 5, 3}, {48, 31, 4}, {101, 33, 16}, {256, 96, 8}};
static const int ROWS[] = {17, 33, 100};

static void products_in_f32(void) {
    struct random random = {51};
    for (int format = WEIGHTS_F32; format < WEIGHT_FORMAT_COUNT; format++)
        for (int i = 0; i < 12; i++) {
            const int *shape = SHAPES[i % 4];
            struct mixture m =
                mixture_of(&random, (enum weight_format)format, shape[0], shape[1], shape[2], ROWS[i % 3], 0);
            struct answer a = answer_for(&m);
            struct opened opened = open_clblast(&m, "single", OPENCL_PRODUCTS_CLBLAST, false);
            expect_words(&opened, "prompts by CLBlast in f32");
            run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &a);
            check_routes(&m, &a, 0);
            for (int r = 0; r < m.rows; r += 3) check_row(&m, &a, r, 1);
            run_rows(opened.opencl, &m, ROWS_OF_ANSWERS, 0, 3, &a); // our own, as ever
            close_all(&opened);
            answer_free(&a);
            mixture_free(&m);
        }
}

static void products_in_f16(void) {
    struct random random = {52};
    for (int i = 0; i < 24; i++) {
        const int *shape = SHAPES[i % 4];
        enum weight_format format = (enum weight_format)(i % WEIGHT_FORMAT_COUNT);
        struct mixture m = mixture_of(&random, format, shape[0], shape[1], shape[2], ROWS[i % 3], 0);
        for (int k = 0; k < m.rows * m.hidden; k++) m.x[k] *= 0.05f; // all in range
        struct answer found = answer_for(&m), expected = answer_for(&m);
        struct opened opened = open_clblast(&m, "", OPENCL_PRODUCTS_CLBLAST, i % 2);
        struct opencl *own = open_for(&m);
        expect_words(&opened, "prompts by CLBlast in f16");
        run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &found);
        run_rows(own, &m, ROWS_OF_PROMPTS, 0, m.rows, &expected);
        check_routes(&m, &found, 0);
        for (int r = 0; r < m.rows; r++) check("distance in f16", distance(&m, &found, &expected, r), 0, 0x1p-7);
        opencl_close(own);
        close_all(&opened);
        answer_free(&found);
        answer_free(&expected);
        mixture_free(&m);
    }
}

// The library itself, as many calls as show that buffers are not written before they have been read.
static void products_of_the_real_one(void) {
    struct random random = {53};
    struct mixture m = mixture_of(&random, WEIGHTS_INT8, 128, 96, 16, 120, 0);
    struct opened opened = open_clblast(&m, "real", OPENCL_PRODUCTS_CLBLAST, false);
    if (strstr(opencl_describe(opened.opencl), "without CLBlast: there is no")) {
        printf("# skipped: %s\n", opencl_describe(opened.opencl));
        skip();
    }
    printf("# %s\n", opencl_describe(opened.opencl));
    for (int i = 0; i < 8; i++) {
        struct answer a = answer_for(&m);
        run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &a);
        for (int r = i % 5; r < m.rows; r += 5) check_row(&m, &a, r, 3);
        answer_free(&a);
    }
    close_all(&opened);
    mixture_free(&m);
}

// ---- What f16 can not hold

static void set_bf16(struct mixture *m, int expert, float value) {
    uint16_t *weights = (uint16_t *)(uintptr_t)m->expert[expert].up.data;
    weights[3] = bf16_of_float(value);
}

// Our own kernels read f16 as they read bf16. One weight beyond it, and all come anew as they were.
static void weights_in_f16(void) {
    struct random random = {54};
    for (int rows = 9; rows <= 45; rows += 36) {
        struct mixture m = mixture_of(&random, WEIGHTS_BF16, 67, 48, 4, rows, 0),
                       wide = mixture_of(&random, WEIGHTS_BF16, 67, 48, 4, rows, 0);
        struct answer a = answer_for(&m), b = answer_for(&wide), again = answer_for(&m);
        struct opened opened = open_clblast(&m, "", OPENCL_PRODUCTS_OWN, true);
        for (int e = 0; e < 4; e++) set_bf16(&wide, e, 65536);
        for (int e = 0; e < 4; e++) set_bf16(&m, e, 65280);    // the largest bf16 that f16 has
        for (int r = 0; r < rows; r++) wide.x[r * 67 + 3] = 1; // so that it counts
        run(opened.opencl, &m, &a);
        for (int r = 0; r < rows; r++) check_row(&m, &a, r, 1);
        run(opened.opencl, &wide, &b);
        for (int r = 0; r < rows; r++) check_row(&wide, &b, r, 1);
        run(opened.opencl, &m, &again);
        for (int r = 0; r < rows; r++) check_row(&m, &again, r, 1);
        close_all(&opened);
        answer_free(&a);
        answer_free(&b);
        answer_free(&again);
        mixture_free(&m);
        mixture_free(&wide);
    }
}

// Values between the products: rows whose gate times up is beyond f16 come out in f32.
static void values_beyond_f16(void) {
    struct random random = {55};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 64, 48, 4, 40, 0);
    for (int k = 0; k < 64; k++) m.x[3 * 64 + k] = 300;
    struct answer a = answer_for(&m);
    struct opened opened = open_clblast(&m, "", OPENCL_PRODUCTS_CLBLAST, false);
    expect_words(&opened, "prompts by CLBlast in f16");
    for (int i = 0; i < 2; i++) {
        memcpy(a.y, m.y, answer_bytes(&m));
        run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &a);
        for (int r = 0; r < m.rows; r++) check_row(&m, &a, r, 1);
    }
    close_all(&opened);
    answer_free(&a);
    mixture_free(&m);
}

// ---- A library that is not believed

static void expect_refused(const char *said, enum opencl_products products, const char *words) {
    struct random random = {56};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 2400, 48, 4, 40, 0);
    struct answer a = answer_for(&m);
    struct opened opened = open_clblast(&m, said, products, false);
    expect_words(&opened, words);
    run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &a);
    for (int r = 0; r < m.rows; r += 7) check_row(&m, &a, r, 1);
    close_all(&opened);
    answer_free(&a);
    mixture_free(&m);
}

static void known_answers(void) {
    expect_refused("wrong", OPENCL_PRODUCTS_CLBLAST, "without CLBlast: CLBlast computes wrongly in f32");
    expect_refused("down", OPENCL_PRODUCTS_CLBLAST, "without CLBlast: CLBlast computes wrongly in f32"); // down's alone
    expect_refused("company", OPENCL_PRODUCTS_CLBLAST, "CLBlast's answer for a row depends on the rows beside it");
    expect_refused("poor", OPENCL_PRODUCTS_CLBLAST, "prompts by CLBlast in f32"); // f16's sums are too inexact
    expect_refused("slow", OPENCL_PRODUCTS_AUTO, "without CLBlast: it is slower");
    expect_refused("fails", OPENCL_PRODUCTS_AUTO, "without CLBlast: CLBlast: a product in f32 failed (-5)");
    expect_refused("fails 20", OPENCL_PRODUCTS_AUTO,
                   "CLBlast: a product in f16 failed (-5)"); // 40 rows' two of 4 experts
}

static void no_library(void) {
    struct random random = {57};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 64, 48, 4, 40, 0);
    struct stage_limits limits = limits_of(&m);
    struct opencl_options options = {.limits = &limits,
                                     .weights = WEIGHTS_BF16,
                                     .products = OPENCL_PRODUCTS_CLBLAST,
                                     .clblast = "/nowhere/libclblast.so.1",
                                     .route = route};
    struct opencl *opencl;
    assert_int_equal(opencl_open(&opencl, &options, NULL), 0);
    assert_non_null(strstr(opencl_describe(opencl), "without CLBlast: there is no /nowhere/libclblast.so.1"));
    opencl_close(opencl);
    options.route = NULL; // nobody tells how many rows an expert has
    options.clblast = LIBRARY;
    assert_int_equal(opencl_open(&opencl, &options, NULL), 0);
    assert_null(strstr(opencl_describe(opencl), "CLBlast"));
    opencl_close(opencl);
    mixture_free(&m);
}

// What is measured of one library is not another one's: its build is in the key of the figures.
static void the_library_is_told(void) {
    struct random random = {61};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 64, 48, 4, 40, 0);
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    char build[BUILD_ID_BYTES], own[BUILD_ID_BYTES], words[512];
    assert_non_null(library);
    build_id_of((uintptr_t)dlsym(library, "CLBlastSgemmBatched"), build);
    build_id(own);
    assert_true(strlen(build) >= 16 && strcmp(build, own) != 0);
    for (int with = 0; with < 2; with++) {
        struct opened opened = open_clblast(&m, "", with ? OPENCL_PRODUCTS_CLBLAST : OPENCL_PRODUCTS_OWN, false);
        opencl_identify(opened.opencl, words, sizeof words);
        if ((strstr(words, build) != NULL) != with) fail_msg("%s", words);
        close_all(&opened);
    }
    dlclose(library);
    mixture_free(&m);
}

// Rows that are floats give other tokens than the CPU's integers do: whoever wants that asks for it.
static void integers_stay_the_cpus(void) {
    struct random random = {60};
    struct mixture m = mixture_of(&random, WEIGHTS_INT4, 64, 48, 4, 40, 0);
    struct stage_limits limits = limits_of(&m);
    void *reference;
    assert_int_equal(reference_stages.open(&reference, &limits, NULL), 0);
    setenv("TANDEM_FAKE_CLBLAST", "", 1);
    for (int products = OPENCL_PRODUCTS_AUTO; products <= OPENCL_PRODUCTS_CLBLAST; products++) {
        const struct opencl_options options = {.limits = &limits,
                                               .weights = WEIGHTS_INT4,
                                               .products = (enum opencl_products)products,
                                               .clblast = LIBRARY,
                                               .route = route,
                                               .route_user = reference};
        struct opencl *opencl;
        struct error error;
        if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
        assert_true((strstr(opencl_describe(opencl), "CLBlast") != NULL) == (products == OPENCL_PRODUCTS_CLBLAST));
        opencl_close(opencl);
    }
    reference_stages.close(reference);
    mixture_free(&m);
}

// ---- Failures

// A library that fails at work: the same call comes out right, somebody is told, and it is not asked again.
static void failure_at_work(void) {
    struct random random = {59};
    struct mixture m = mixture_of(&random, WEIGHTS_INT8, 64, 48, 4, 40, 0);
    for (int half = 0; half < 2; half++) {
        struct answer a = answer_for(&m);
        struct opened opened = open_clblast(&m, half ? "" : "single", OPENCL_PRODUCTS_CLBLAST, false);
        expect_words(&opened, half ? "prompts by CLBlast in f16" : "prompts by CLBlast in f32");
        warned[0] = 0;
        for (int i = 0; i < 2; i++) {
            setenv("TANDEM_FAKE_CLBLAST", i ? "wrong" : "fails", 1);
            memcpy(a.y, m.y, answer_bytes(&m));
            run_rows(opened.opencl, &m, ROWS_OF_PROMPTS, 0, m.rows, &a);
            check_routes(&m, &a, 0);
            for (int r = 0; r < m.rows; r++) check_row(&m, &a, r, 1);
            expect_words(&opened, "without CLBlast: CLBlast: a product in f");
            assert_non_null(strstr(warned, half ? "a product in f16 failed (-5)" : "a product in f32 failed (-5)"));
        }
        close_all(&opened);
        answer_free(&a);
    }
    mixture_free(&m);
}

// Whichever call of either library fails: right rows, or an error and rows as they were.
static void every_call_fails_once(enum opencl_products products) {
    struct random random = {58};
    struct mixture m = mixture_of(&random, WEIGHTS_INT8, 32, 16, 4, 20, 0);
    struct stage_limits limits = limits_of(&m);
    struct answer a = answer_for(&m);
    void *reference;
    struct error error;
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    level = "portable";
    setenv("TANDEM_FAKE_CLBLAST", "single", 1);
    const struct opencl_options options = {.limits = &limits,
                                           .weights = WEIGHTS_INT8,
                                           .level = level,
                                           .products = products,
                                           .clblast = LIBRARY,
                                           .route = route,
                                           .route_user = reference};
    long calls = 1;
    for (long n = 0; n <= calls; n += n < 60 && products != OPENCL_PRODUCTS_AUTO ? 1 : 5) { // 0: none
        struct opencl *opencl;
        opencl_inject(n, OPENCL_FAULT_ONCE);
        int code = opencl_open(&opencl, &options, &error);
        memcpy(a.y, m.y, answer_bytes(&m));
        if (!code) {
            code = opencl_begin(opencl, 0, &m.layer, m.x, m.rows, ROWS_OF_PROMPTS, &error);
            if (!code) code = opencl_end(opencl, 0, a.y, &a.routing, &error);
            if (code) assert_memory_equal(a.y, m.y, answer_bytes(&m));
            for (int r = 0; !code && r < m.rows; r++) check_row(&m, &a, r, 1);
            opencl_close(opencl);
        }
        if (code && (error.code != code || !error.message[0])) fail_msg("call %ld: no cause is told", n);
        nothing_is_left(n);
        if (n == 0) calls = opencl_inject(0, OPENCL_FAULT_ONCE);
    }
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_true(calls > 200);
    reference_stages.close(reference);
    answer_free(&a);
    mixture_free(&m);
}

static void faults_where_it_is_asked_for(void) {
    every_call_fails_once(OPENCL_PRODUCTS_CLBLAST);
}

static void faults_where_it_is_timed(void) {
    every_call_fails_once(OPENCL_PRODUCTS_AUTO);
}

#define CLBLAST_TEST(function) DEVICE_TEST(#function, function, NULL)

int main(void) {
    const struct CMUnitTest tests[] = {
        CLBLAST_TEST(products_in_f32),
        CLBLAST_TEST(products_in_f16),
        CLBLAST_TEST(weights_in_f16),
        CLBLAST_TEST(values_beyond_f16),
        CLBLAST_TEST(known_answers),
        CLBLAST_TEST(no_library),
        CLBLAST_TEST(the_library_is_told),
        CLBLAST_TEST(integers_stay_the_cpus),
        CLBLAST_TEST(failure_at_work),
        CLBLAST_TEST(faults_where_it_is_asked_for),
        CLBLAST_TEST(faults_where_it_is_timed),
        CLBLAST_TEST(products_of_the_real_one),
    };
    tell_device();
    if (getenv("TANDEM_TEST_ONLY")) cmocka_set_test_filter(getenv("TANDEM_TEST_ONLY"));
    return cmocka_run_group_tests_name("opencl_clblast", tests, NULL, NULL);
}
