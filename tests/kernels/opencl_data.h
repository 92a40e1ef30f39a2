// A layer, its answer on an OpenCL device, and what is expected of it: for the tests of engine/opencl.
#ifndef TESTS_KERNELS_OPENCL_DATA_H
#define TESTS_KERNELS_OPENCL_DATA_H

#include "engine/opencl/opencl.h"
#include "tests/kernels/stage_data.h"
#include "tests/opencl_objects.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

// What drivers keep until the process ends is no leak of ours.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\nleak:libhwloc\nleak:_dl_\nleak:libclang\nleak:libclblast";
}

// ---- A layer

struct mixture {
    int hidden, inner, experts, rows;
    void *memory; // of all experts' weights
    struct expert *expert;
    float *router; // [experts][hidden]
    struct layer layer;
    float *x, *y; // [rows][hidden]; y: what is there before
};

static inline struct stage_limits limits_of(const struct mixture *m) {
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

// Some outputs of gate and up are much larger than the rest, so that what comes of them has outliers.
static inline struct owned_matrix weights_of(struct random *random, enum weight_format format, int rows, int columns,
                                             bool uneven) {
    size_t count = (size_t)rows * (size_t)columns;
    float *weights = random_floats(random, count);
    for (int o = 7; uneven && o < rows; o += 29)
        for (int k = 0; k < columns; k++) weights[(size_t)o * (size_t)columns + (size_t)k] *= 8;
    struct owned_matrix owned = {.matrix = {format, rows, columns, weights}, .memory = weights};
    if (format == WEIGHTS_F32) return owned;
    if (weight_format_packed(format)) {
        owned = packed_matrix(format, rows, columns, weights);
    } else {
        uint16_t *narrow = allocate(count, sizeof *narrow);
        for (size_t i = 0; i < count; i++) narrow[i] = bf16_of_float(weights[i]);
        owned.matrix.data = owned.memory = narrow;
    }
    free(weights);
    return owned;
}

// In one piece of memory, as in a file, with a gap in front of each matrix, in steps of what it is aligned to; a large
// one scatters them. Every other row has outliers, the more the wider it is: beyond 400 columns more than are kept
// apart.
static inline struct mixture mixture_of(struct random *random, enum weight_format format, int hidden, int inner,
                                        int experts, int rows, size_t gap) {
    struct mixture m = {.hidden = hidden, .inner = inner, .experts = experts, .rows = rows};
    size_t step = weight_format_packed(format) ? 64 : weight_format_bytes(format, 1, 1), at = 64;
    size_t most = weight_format_bytes(format, inner, hidden), other = weight_format_bytes(format, hidden, inner);
    if (other > most) most = other;
    // Whole pages, from within the first: what a device is given of them is theirs to their ends.
    size_t whole = (at + (most + gap * step) * (size_t)experts * 3 + 4095) / 4096 * 4096;
    m.memory = aligned_alloc(4096, whole);
    assert_non_null(m.memory);
    memset(m.memory, 0xff, whole); // NaN where no matrix is: nobody may read there
    m.expert = allocate((size_t)experts, sizeof *m.expert);
    for (int e = 0; e < experts; e++) {
        struct matrix *matrices[] = {&m.expert[e].gate, &m.expert[e].up, &m.expert[e].down};
        for (int i = 0; i < 3; i++) {
            struct owned_matrix owned =
                weights_of(random, format, i == 2 ? hidden : inner, i == 2 ? inner : hidden, i != 2);
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
    m.layer = (struct layer){.router = {experts, 2, 0.01f, m.router, hidden}, .experts = m.expert};
    m.x = random_floats(random, (size_t)rows * (size_t)hidden);
    for (int r = 1; r < rows; r += 2)
        for (int i = 0; i < hidden / 20; i++) m.x[r * hidden + random_below(random, hidden)] *= 50;
    m.y = random_floats(random, (size_t)rows * (size_t)hidden);
    return m;
}

static inline void mixture_free(struct mixture *m) {
    free(m->memory);
    free(m->expert);
    free(m->router);
    free(m->x);
    free(m->y);
}

// ---- The device

static const char *level; // of the kernels that are tested; NULL: the best

// TANDEM_TEST_KERNELS: a directory of kernels to test instead of those in the program, see tools/mutate_kernels.py.
static inline struct opencl *open_for(const struct mixture *m) {
    struct opencl *opencl;
    struct error error;
    struct stage_limits limits = limits_of(m);
    const struct opencl_options options = {.limits = &limits,
                                           .weights = m->expert[0].gate.format,
                                           .level = level,
                                           .kernels = getenv("TANDEM_TEST_KERNELS")};
    if (opencl_open(&opencl, &options, &error)) fail_msg("%s", error.message);
    return opencl;
}

struct answer {
    int32_t *expert;
    float *weight, *y;
    struct routing routing;
};

static inline struct answer answer_for(const struct mixture *m) {
    struct answer a = {.expert = allocate((size_t)m->rows * 2, sizeof(int32_t)),
                       .weight = allocate((size_t)m->rows * 2, sizeof(float)),
                       .y = copy_floats(m->y, (size_t)m->rows * (size_t)m->hidden)};
    a.routing = (struct routing){.expert = a.expert, .weight = a.weight};
    return a;
}

static inline void answer_free(struct answer *a) {
    free(a->expert);
    free(a->weight);
    free(a->y);
}

// Rows from `first` on, into their places in the answer.
static inline void run_rows(struct opencl *opencl, const struct mixture *m, enum row_kind kind, int first, int rows,
                            struct answer *a) {
    struct error error;
    size_t at = (size_t)first * (size_t)m->hidden;
    struct routing some = {.expert = a->expert + 2 * first, .weight = a->weight + 2 * first};
    if (opencl_begin(opencl, 0, &m->layer, m->x + at, rows, kind, &error)) fail_msg("%s", error.message);
    if (opencl_end(opencl, 0, a->y + at, &some, &error)) fail_msg("%s", error.message);
    assert_int_equal(some.rows, rows);
    assert_int_equal(some.top_k, 2);
}

static inline void run(struct opencl *opencl, const struct mixture *m, struct answer *a) {
    run_rows(opencl, m, ROWS_BY_NUMBER, 0, m->rows, a);
}

static inline size_t answer_bytes(const struct mixture *m) {
    return (size_t)m->rows * (size_t)m->hidden * sizeof(float);
}

static inline void check(const char *what, double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s: found %.9g, expected %.9g ± %.3g", what, found, expected, tolerance);
}

// ---- Tests that need a device

struct device_test {
    void (*run)(void);
    const char *level; // of the kernels; NULL: the best
};

// Runs a test, unless there is no device, or none for kernels of this level; it leaves nothing on it.
static inline void on_device(void **state) {
    const struct device_test *test = *state;
    const struct mixture m = {.hidden = 8, .inner = 8, .experts = 2, .rows = 2};
    struct stage_limits limits = limits_of(&m);
    level = test->level;
    const struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_F32, .level = level};
    struct opencl *opencl;
    struct error error = {0};
    count_objects();
    int code = opencl_open(&opencl, &options, &error);
    bool half_a_library = level && strstr(error.message, "in kernel library"); // PoCL 5.0 lacks what it promises
    if (code == ERROR_UNSUPPORTED || (code && half_a_library)) {
        printf("# skipped: %s\n", error.message);
        skip();
    }
    if (code) fail_msg("%s", error.message);
    opencl_close(opencl);
    test->run();
    nothing_is_left(0);
}

static inline void tell_device(void) {
    const struct mixture m = {.hidden = 8, .inner = 8, .experts = 2, .rows = 2};
    struct stage_limits limits = limits_of(&m);
    const struct opencl_options options = {.limits = &limits, .weights = WEIGHTS_F32};
    struct opencl *opencl;
    struct error error;
    if (opencl_open(&opencl, &options, &error)) return;
    printf("# %s\n", opencl_describe(opencl));
    opencl_close(opencl);
}

#define DEVICE_TEST(name, function, level) {name, on_device, NULL, NULL, &(struct device_test){function, level}}

#endif
