// A device that fails, at every call of the library in turn, and from one on; one that never answers; kernels from a
// directory; what is refused. Whatever goes wrong, the rows are right or as they were, a cause is told, and nothing is
// left on the device.
#include "engine/opencl/mixture.h"
#include "engine/opencl/sources.h"
#include "tests/kernels/opencl_data.h"

#include <sys/stat.h>
#include <unistd.h>

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
    struct answer right = answer_for(&m);
    struct opencl *opencl = open_for(&m);
    run(opencl, &m, &right);
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
            nothing_is_left(n);
            survived += code == 0;
        }
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_true(survived <
                10); // words of a device, a buffer that is copied instead of shared: little can go without harm
    assert_int_equal(whole_life(&m, &right, 0, &error), 0);
    answer_free(&right);
    mixture_free(&m);
}

static void a_silent_device_is_given_up(void) {
    struct random random = {41};
    struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, 0);
    struct answer right = answer_for(&m);
    struct error error;
    opencl_inject(1, OPENCL_FAULT_SILENCE);
    assert_int_equal(whole_life(&m, &right, 0.05, &error), ERROR_TIMEOUT);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    answer_free(&right);
    some_is_left();
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
    run(opencl, &m, &a);
    for (int i = 0; i < m.rows * m.hidden; i++) check("seven", (double)(a.y[i] - m.y[i]), 7, 1e-5);
    opencl_close(opencl);
    answer_free(&a);
    mixture_free(&m);
    snprintf(path, sizeof path, "%s/scatter.cl", directory);
    unlink(path);
    rmdir(directory);
}

// Kernels that only some levels' compilers take: what stands in front of one of the built-in files refuses the others.
static void refuse_where(const char *directory, const char *condition) {
    const struct opencl_source *source = OPENCL_SOURCES;
    while (strcmp(source->name, "scatter.cl") != 0) source++;
    size_t bytes = strlen(source->text) + strlen(condition) + 64;
    char *text = allocate(bytes, 1);
    snprintf(text, bytes, "#if %s\n#error lacks what it promised\n#endif\n%s", condition, source->text);
    write_file(directory, "scatter.cl", text);
    free(text);
}

static void a_compiler_that_refuses_a_level(void) {
    static const struct {
        const char *refused, *got[2]; // the next level below that is left, on a device without sub-groups and with
    } CASES[] = {
        {"0", {"emulated dot", "emulated sub-group dot"}},
        {"defined SUB_GROUPS", {"emulated dot", "emulated dot"}},
        {"defined SUB_GROUPS && defined DOT", {"emulated dot", "emulated dot"}},
        {"defined DOT", {"portable", "sub-group"}},
        {"defined SUB_GROUPS || defined DOT", {"portable", "portable"}},
    };
    char directory[] = "/tmp/tandem-kernels-XXXXXX", path[256];
    struct random random = {45};
    struct mixture m = mixture_of(&random, WEIGHTS_INT8, 32, 16, 4, 5, 0);
    struct stage_limits limits = limits_of(&m);
    struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_INT8};
    struct answer right = answer_for(&m), a = answer_for(&m);
    struct opencl *opencl;
    struct error error;
    assert_non_null(mkdtemp(directory));
    if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
    bool whole = strncmp(opencl->device.level->name, "emulated", strlen("emulated")) == 0; // no more than PoCL has
    bool sub_groups = opencl->device.level->sub_groups;
    opencl_close(opencl);

    for (size_t i = 0; whole && i < sizeof CASES / sizeof *CASES; i++) {
        refuse_where(directory, CASES[i].refused);
        options.kernels = NULL; // the level that is to come, by name
        options.level = CASES[i].got[sub_groups];
        if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
        memcpy(right.y, m.y, answer_bytes(&m));
        run(opencl, &m, &right);
        opencl_close(opencl);
        options.kernels = directory;
        options.level = NULL;
        if (opencl_open(&opencl, &options, &error)) fail_msg("case %zu: %s", i, error.message);
        assert_string_equal(opencl->device.level->name, CASES[i].got[sub_groups]);
        memcpy(a.y, m.y, answer_bytes(&m));
        run(opencl, &m, &a);
        assert_memory_equal(a.y, right.y, answer_bytes(&m));
        opencl_close(opencl);
    }

    refuse_where(directory, "1"); // none is left: what is told is what the best one lacks
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_FORMAT);
    assert_non_null(strstr(error.message, "lacks what it promised"));
    refuse_where(directory, "defined DOT"); // the only one that will do
    options.level = "emulated dot";
    assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_FORMAT);
    answer_free(&right);
    answer_free(&a);
    mixture_free(&m);
    snprintf(path, sizeof path, "%s/scatter.cl", directory);
    unlink(path);
    rmdir(directory);
}

// The compiler is not asked again for what it has refused, unless the text is another or there is nothing else.
static void what_is_refused_is_known(void) {
    char directory[] = "/tmp/tandem-kernels-XXXXXX", path[256];
    const struct mixture m = {.hidden = 32, .inner = 16, .experts = 4, .rows = 5};
    struct stage_limits limits = limits_of(&m);
    struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_INT8, .kernels = directory};
    struct opencl *opencl;
    struct error error;
    long calls[4];
    assert_non_null(mkdtemp(directory));
    for (int i = 0; i < 4; i++) {
        refuse_where(directory, i < 2 ? "defined DOT && 1" : i == 2 ? "defined DOT && 2" : "0"); // texts of its own
        opencl_inject(0, OPENCL_FAULT_ONCE);
        if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
        assert_true(opencl->device.level->dot == (i == 3));
        calls[i] = opencl_inject(0, OPENCL_FAULT_ONCE);
        opencl_close(opencl);
    }
    if (!(calls[1] < calls[0] && calls[1] < calls[2]))
        fail_msg("%ld calls, %ld, and %ld for another text", calls[0], calls[1], calls[2]);

    options.level = "emulated dot"; // what it lacks is told each time
    refuse_where(directory, "defined DOT");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(opencl_open(&opencl, &options, &error), ERROR_FORMAT);
        assert_non_null(strstr(error.message, "lacks what it promised"));
    }
    snprintf(path, sizeof path, "%s/scatter.cl", directory);
    unlink(path);
    rmdir(directory);
}

// Weights are read where they lie, or copied where a driver does not want their pages, or they lie too far apart; that
// is told, with the memory that it takes. The rows are the same.
static void weights_that_are_copied(void) {
    static const struct {
        bool refused;
        size_t gap;
        const char *told;
    } CASES[] = {
        {false, 0, NULL},
        {true, 0, "weights copied, which takes 3.0 GB more (the pages that they lie in: CL_INVALID_HOST_PTR (-37))"},
        {false, 2000, "weights copied, which takes 3.0 GB more (they lie scattered)"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct random random = {46};
        struct mixture m = mixture_of(&random, WEIGHTS_BF16, 32, 16, 4, 5, CASES[i].gap);
        struct stage_limits limits = limits_of(&m);
        const struct opencl_options options = { // as many layers as make 3 GB of 12 matrices
            .limits = &limits, .weights = WEIGHTS_BF16, .layers = 3000000000 / (12 * 32 * 16 * 2)};
        struct answer a = answer_for(&m);
        static float expected[5 * 32];
        struct opencl *opencl;
        struct error error;
        host_pages_are_refused = CASES[i].refused;
        if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
        assert_null(strstr(opencl_describe(opencl), "copied")); // not yet
        run(opencl, &m, &a);
        host_pages_are_refused = false;
        bool told = strstr(opencl_describe(opencl), CASES[i].told ? CASES[i].told : "copied");
        if (told != (CASES[i].told != NULL)) fail_msg("case %zu: %s", i, opencl_describe(opencl));
        if (i == 0) memcpy(expected, a.y, sizeof expected);
        assert_memory_equal(a.y, expected, sizeof expected);
        opencl_close(opencl);
        answer_free(&a);
        mixture_free(&m);
    }
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
    assert_int_equal(opencl_open(&opencl, &options, &error), 0);
    assert_int_equal(opencl_begin(opencl, 0, &m.layer, m.x, 2, ROWS_BY_NUMBER, &error), ERROR_UNSUPPORTED);
    opencl_close(opencl);
    mixture_free(&m);
}

#define FAULT_TEST(function) DEVICE_TEST(#function, function, NULL)

int main(void) {
    const struct CMUnitTest tests[] = {
        FAULT_TEST(every_call_fails_once),  FAULT_TEST(a_silent_device_is_given_up),
        FAULT_TEST(kernels_of_a_directory), FAULT_TEST(a_compiler_that_refuses_a_level),
        FAULT_TEST(what_is_refused_is_known), FAULT_TEST(weights_that_are_copied), FAULT_TEST(too_much_is_refused),
    };
    tell_device();
    return cmocka_run_group_tests_name("opencl_faults", tests, NULL, NULL);
}
