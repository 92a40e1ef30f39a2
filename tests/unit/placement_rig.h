// What the tests of placement share: a model of random weights, placements of its stages on whatever OpenCL device
// there is (with PoCL, the CPU), and figures of the devices that a test makes up, so that nothing depends on how fast
// they are.
#ifndef TESTS_UNIT_PLACEMENT_RIG_H
#define TESTS_UNIT_PLACEMENT_RIG_H

#include "engine/engine.h"
#include "engine/model.h"
#include "engine/opencl/opencl.h"
#include "engine/placement.h"
#include "engine/placement_cache.h"
#include "tests/opencl_device.h"
#include "tests/opencl_objects.h"
#include "tests/unit/stopped_clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// What drivers keep until the process ends is no leak of ours.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\nleak:libhwloc\nleak:_dl_\nleak:libclang";
}

enum { ROWS_MAX = 64, LINES_MAX = 16, POINTS = 5 };

static inline void close_to(double found, double expected, double tolerance) {
    if (!(found - expected < tolerance && expected - found < tolerance))
        fail_msg("expected %.9f, found %.9f", expected, found);
}

// Of sums of what experts make of rows, which are some thousand floats around 1.
static inline void same_sum(double found, double expected) {
    close_to(found, expected, 1e-3);
}

// ---- The model

struct warnings {
    int count;
    char lines[LINES_MAX][1024];
};
static struct warnings warnings;
static struct model *model;

static inline void note(void *user, const char *line) {
    struct warnings *told = user;
    assert_in_range(told->count, 0, LINES_MAX - 1);
    snprintf(told->lines[told->count++], sizeof told->lines[0], "%s", line);
}

static inline int open_model(void **unused) {
    (void)unused;
    struct error error;
    count_objects();
    const struct model_options options = {.synthetic = "phi-toy-moe", .weights = WEIGHTS_BF16};
    if (model_open(&model, &options, &error) == 0) return 0;
    printf("# %s\n", error.message);
    return -1;
}

static inline int close_model(void **unused) {
    (void)unused;
    model_close(model);
    return 0;
}

// ---- Its placement

static inline int open_with(struct placement_options options, struct placement **out, struct error *error) {
    const struct model_config *config = &model->config;
    struct stage_limits limits = model_stage_limits(config);
    limits.tokens_max = ROWS_MAX;
    limits.sequences_max = 4;
    limits.context_max = 256;
    limits.threads = 1;
    options.inner = &reference_stages;
    options.weights = WEIGHTS_BF16;
    options.layers = model->layers;
    options.layer_count = config->layers;
    options.head = &model->head;
    if (!options.root) options.root = "/nowhere";
    options.wait_seconds = 10;
    options.retry_seconds = 0.01;
    options.warn = note;
    options.warn_user = &warnings;
    warnings.count = 0;
    return placement_open(out, &options, &limits, error);
}

static inline struct placement *open_well(struct placement_options options) {
    struct placement *placement;
    struct error error;
    if (open_with(options, &placement, &error)) fail_msg("%s", error.message);
    return placement;
}

static inline struct placement *open_placement(enum placement_way way) {
    return open_well((struct placement_options){.way = way});
}

// Skips a test where there is no device; one that is there works.
static inline void need_device(void) {
    need_opencl();
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    if (placement_degraded(placement)[0]) fail_msg("%s", placement_degraded(placement));
    placement_close(placement);
}

static inline int no_faults(void **unused) {
    (void)unused;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    nothing_is_left(0);
    return 0;
}
#define DEVICE_TEST(function) cmocka_unit_test_teardown(function, no_faults)

// ---- Running a mixture

static inline void fill_rows(float *x, int rows) {
    assert_int_equal(model->config.hidden, 64);
    for (int i = 0; i < rows * 64; i++) x[i] = (float)(i * 37 % 101 - 50) / 40;
}

// The experts of a layer on some rows, the sum of all that comes out: the same for the same bits.
static inline double mix(struct placement *placement, int rows) {
    static float x[ROWS_MAX * 64], y[ROWS_MAX * 64], weight[2 * ROWS_MAX];
    static int32_t expert[2 * ROWS_MAX];
    const struct stages *stages = placement_stages(placement);
    void *state = placement_state(placement);
    struct routing routing = {.expert = expert, .weight = weight};
    fill_rows(x, rows);
    for (int i = 0; i < rows * 64; i++) y[i] = 1;
    if (placement_retry_due(placement)) placement_retry(placement); // as before every step
    if (stages->mixture_begin) {
        stages->mixture_begin(state, 0, &model->layers[1], x, rows, rows);
        stages->mixture_end(state, 0, y, &routing);
    } else {
        stages->route(state, &model->layers[1].router, x, rows, &routing);
        stages->experts(state, &model->layers[1], &routing, x, y, rows);
    }
    assert_int_equal(routing.rows, rows);
    double sum = 0;
    for (int i = 0; i < rows * 64; i++) sum += (double)y[i];
    return sum;
}

static inline double mix_on_cpu(int rows) {
    struct placement *cpu = open_placement(PLACEMENT_CPU);
    double sum = mix(cpu, rows);
    placement_close(cpu);
    return sum;
}

static inline struct engine_device_work work_of(struct placement *placement) {
    struct engine_device_work work = {0};
    const struct stages *stages = placement_stages(placement);
    if (stages->device_work) stages->device_work(placement_state(placement), &work); // or the CPU has it all
    return work;
}

// How many calls of OpenCL a mixture takes: none where the CPU computes it.
static inline long calls_for(struct placement *placement, int rows) {
    opencl_inject(0, OPENCL_FAULT_ONCE);
    mix(placement, rows);
    return opencl_inject(0, OPENCL_FAULT_ONCE);
}

// ---- Figures in files

static inline void remove_all(const char *directory) {
    char path[512];
    DIR *files = opendir(directory);
    for (const struct dirent *file; files && (file = readdir(files));) {
        snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
        unlink(path);
    }
    if (files) closedir(files);
    rmdir(directory);
}

// The one file in a directory, as text.
static inline size_t load_only_file(const char *directory, char path[512], char *text, size_t room) {
    DIR *files = opendir(directory);
    assert_non_null(files);
    path[0] = '\0';
    for (const struct dirent *file; (file = readdir(files));)
        if (file->d_name[0] != '.') snprintf(path, 512, "%s/%s", directory, file->d_name);
    closedir(files);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t bytes = fread(text, 1, room - 1, file);
    fclose(file);
    text[bytes] = '\0';
    return bytes;
}

// What a start would have measured where all sizes of calls take so long, in milliseconds; [0] of answers, [1] of
// prompts.
struct pace {
    double device[2], cpu[2], rest;
};

static inline struct engine_placement figures_of(const struct pace *pace) {
    static const int ROWS[POINTS] = {1, 8, 16, ENGINE_PLACEMENT_ANSWERS, ROWS_MAX};
    struct engine_placement found = {.point_count = POINTS};
    for (int i = 0; i < POINTS; i++) {
        bool prompts = ROWS[i] > ENGINE_PLACEMENT_ANSWERS;
        found.points[i] = (struct engine_placement_point){.rows = ROWS[i],
                                                          .device_seconds = 1e-3 * pace->device[prompts],
                                                          .cpu_seconds = 1e-3 * pace->cpu[prompts],
                                                          .rest_seconds = 1e-3 * pace->rest};
    }
    return found;
}

// Makes a directory (from a template of mkdtemp's) whose figures the next start believes. A start writes the key that
// they have to have; it measures by a clock that stands still, for what contradicts itself is not kept.
static inline void keep_figures(char *directory, const struct pace *pace) {
    char path[512], text[4096];
    assert_non_null(mkdtemp(directory));
    stop_clock();
    placement_close(open_well((struct placement_options){.way = PLACEMENT_SPLIT, .cache = directory}));
    clock_stopped = false;
    load_only_file(directory, path, text, sizeof text);
    char *key = strchr(text, '\n');
    assert_non_null(key);
    *strchr(++key, '\n') = '\0';
    const struct engine_placement figures = figures_of(pace);
    placement_cache_write(directory, key, time(NULL), &figures);
}

#endif
