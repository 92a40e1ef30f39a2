// Who computes what: the choice, what happens when a device fails, and that answers are the same whoever computes them.
// Experts are computed on whatever OpenCL device there is (with PoCL, the CPU).
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/opencl/opencl.h"
#include "engine/placement.h"
#include "tests/sanitized.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// What drivers keep until the process ends is no leak of ours.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\nleak:libhwloc\nleak:_dl_\nleak:libclang";
}

enum { ROWS_MAX = 64, LINES_MAX = 16 };

// ---- A model of random weights, and the placement of its stages

struct warnings {
    int count;
    char lines[LINES_MAX][1024];
};

static void note(void *user, const char *line) {
    struct warnings *warnings = user;
    assert_in_range(warnings->count, 0, LINES_MAX - 1);
    snprintf(warnings->lines[warnings->count++], sizeof warnings->lines[0], "%s", line);
}

static struct model *model;
static struct warnings warnings;

static struct placement *open_placement(enum placement_way way, const char *root) {
    struct error error;
    struct placement *placement;
    const struct model_config *config = &model->config;
    const struct stage_limits limits = {.tokens_max = ROWS_MAX,
                                        .sequences_max = 4,
                                        .context_max = 256,
                                        .hidden = config->hidden,
                                        .heads = config->heads,
                                        .kv_heads = config->kv_heads,
                                        .head_dim = config->head_dim,
                                        .intermediate = config->intermediate,
                                        .experts = config->experts,
                                        .vocab = config->vocab,
                                        .threads = 1};
    const struct placement_options options = {.way = way,
                                              .inner = &reference_stages,
                                              .weights = WEIGHTS_BF16,
                                              .layers = model->layers,
                                              .layer_count = config->layers,
                                              .root = root,
                                              .wait_seconds = 10,
                                              .retry_seconds = 0.01,
                                              .warn = note,
                                              .warn_user = &warnings};
    warnings.count = 0;
    if (placement_open(&placement, &options, &limits, &error)) fail_msg("%s", error.message);
    return placement;
}

// The experts of a layer on some rows, the sum of all that comes out: the same for the same bits.
static double mix(struct placement *placement, int rows) {
    static float x[ROWS_MAX * 64], y[ROWS_MAX * 64], weight[2 * ROWS_MAX];
    static int32_t expert[2 * ROWS_MAX];
    const struct stages *stages = placement_stages(placement);
    void *state = placement_state(placement);
    struct routing routing = {.expert = expert, .weight = weight};
    assert_int_equal(model->config.hidden, 64);
    for (int i = 0; i < rows * 64; i++) {
        x[i] = (float)(i * 37 % 101 - 50) / 40;
        y[i] = 1;
    }
    if (stages->mixture_begin) {
        stages->mixture_begin(state, 0, &model->layers[1], x, rows);
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

static void close_to(double found, double expected) {
    if (!(found - expected < 1e-3 && expected - found < 1e-3)) fail_msg("expected %.6f, found %.6f", expected, found);
}

static int open_model(void **unused) {
    (void)unused;
    struct error error;
    const struct model_options options = {.synthetic = "phi-toy-moe", .weights = WEIGHTS_BF16};
    if (model_open(&model, &options, &error)) {
        printf("# %s\n", error.message);
        return -1;
    }
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    if (placement_degraded(placement)[0]) printf("# there is no OpenCL: %s\n", placement_degraded(placement));
    placement_close(placement);
    return 0;
}

static int close_model(void **unused) {
    (void)unused;
    model_close(model);
    return 0;
}

// Skips a test where there is no device.
static void need_device(void) {
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    bool have = !placement_degraded(placement)[0];
    if (!have) printf("# skipped: %s\n", placement_degraded(placement));
    placement_close(placement);
    if (!have) skip();
}

static int no_faults(void **unused) {
    (void)unused;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    return 0;
}

// ---- Choosing

static void names(void **unused) {
    (void)unused;
    enum placement_way way;
    assert_true(placement_parse("split", &way) && way == PLACEMENT_SPLIT);
    assert_true(placement_parse("auto", &way) && way == PLACEMENT_AUTO);
    assert_false(placement_parse("gpu", &way));
}

static void what_pays(void **unused) {
    (void)unused;
    assert_true(placement_pays(10, 5));
    assert_false(placement_pays(10, 9.5)); // too little to tell from noise
    assert_false(placement_pays(10, 20));
}

static void cpu_is_the_stages_themselves(void **unused) {
    (void)unused;
    struct placement *placement = open_placement(PLACEMENT_CPU, "");
    assert_ptr_equal(placement_stages(placement), &reference_stages);
    assert_string_equal(placement_describe(placement), reference_stages.describe(NULL));
    placement_close(placement);
}

static void auto_without_a_gpu_does_not_look_for_opencl(void **unused) {
    (void)unused;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    struct placement *placement = open_placement(PLACEMENT_AUTO, "/nowhere");
    assert_int_equal(opencl_inject(0, OPENCL_FAULT_ONCE), 0);
    assert_ptr_equal(placement_stages(placement), &reference_stages);
    assert_int_equal(warnings.count, 0);
    assert_string_equal(placement_degraded(placement), "");
    placement_close(placement);
}

// There seems to be a GPU, but what OpenCL has is a CPU: PoCL.
static void auto_does_not_take_a_cpu(void **unused) {
    (void)unused;
    need_device();
    char root[] = "/tmp/tandem-root-XXXXXX", path[128];
    assert_non_null(mkdtemp(root));
    for (const char *const *part = (const char *const[]){"/dev", "/dev/dri", "/dev/dri/renderD128", NULL}; *part;
         part++) {
        snprintf(path, sizeof path, "%s%s", root, *part);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    struct placement *placement = open_placement(PLACEMENT_AUTO, root);
    bool gpu = placement_stages(placement) != &reference_stages;
    if (!gpu && !strstr(placement_describe(placement), "is no GPU") &&
        !strstr(placement_describe(placement), "kernels"))
        fail_msg("%s", placement_describe(placement));
    assert_int_equal(warnings.count, 0);
    placement_close(placement);
    for (const char *const *part = (const char *const[]){"/dev/dri/renderD128", "/dev/dri", "/dev", "", NULL}; *part;
         part++) {
        snprintf(path, sizeof path, "%s%s", root, *part);
        rmdir(path);
    }
}

static void split_takes_whatever_there_is(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    const struct stages *stages = placement_stages(placement);
    assert_non_null(stages->mixture_begin);
    assert_non_null(strstr(placement_describe(placement), "reference: plain C"));
    assert_non_null(strstr(placement_describe(placement), "experts on OpenCL: "));
    assert_int_equal(stages->parts(placement_state(placement), ROWS_OF_PROMPTS, 2 * STAGE_STEADY_ROWS + 1), 1);
    assert_int_equal(stages->parts(placement_state(placement), ROWS_OF_PROMPTS, 2 * STAGE_STEADY_ROWS + 2), 2);
    struct placement *cpu = open_placement(PLACEMENT_CPU, "");
    close_to(mix(placement, 5), mix(cpu, 5));
    close_to(mix(placement, 40), mix(cpu, 40));
    placement_close(cpu);
    placement_close(placement);
}

static int open_with(struct placement_options options, struct placement **out, struct error *error) {
    const struct model_config *config = &model->config;
    const struct stage_limits limits = {.tokens_max = ROWS_MAX, .sequences_max = 4, .context_max = 256,
                                        .hidden = config->hidden, .heads = config->heads, .kv_heads = config->kv_heads,
                                        .head_dim = config->head_dim, .intermediate = config->intermediate,
                                        .experts = config->experts, .vocab = config->vocab, .threads = 1};
    options.inner = &reference_stages;
    options.weights = WEIGHTS_BF16;
    options.layers = model->layers;
    options.layer_count = config->layers;
    options.head = &model->head;
    options.root = "/nowhere";
    return placement_open(out, &options, &limits, error);
}

// How many calls of OpenCL a mixture takes: none where the CPU computes it.
static long calls_for(struct placement *placement, int rows) {
    opencl_inject(0, OPENCL_FAULT_ONCE);
    mix(placement, rows);
    return opencl_inject(0, OPENCL_FAULT_ONCE);
}

static void phases_and_layers(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        struct placement_options options;
        bool few, many;
    } CASES[] = {
        {{.way = PLACEMENT_SPLIT}, true, true},
        {{.way = PLACEMENT_SPLIT, .experts = {EXPERTS_CPU, EXPERTS_AUTO}}, false, true},
        {{.way = PLACEMENT_CPU, .experts = {EXPERTS_OPENCL, EXPERTS_AUTO}}, true, false},
        {{.way = PLACEMENT_AUTO, .experts = {EXPERTS_AUTO, EXPERTS_OPENCL}}, false, true},
        {{.way = PLACEMENT_SPLIT, .experts = {EXPERTS_CPU, EXPERTS_CPU}}, false, false},
        {{.way = PLACEMENT_SPLIT, .experts_layers = "1"}, true, true}, // which is the one that mix() asks for
        {{.way = PLACEMENT_SPLIT, .experts_layers = "0-1"}, true, true},
        {{.way = PLACEMENT_SPLIT, .experts_layers = "0"}, false, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct placement *placement;
        struct error error;
        if (open_with(CASES[i].options, &placement, &error)) fail_msg("%s", error.message);
        bool few = calls_for(placement, 5) > 0, many = calls_for(placement, 40) > 0;
        if (few != CASES[i].few || many != CASES[i].many) fail_msg("case %zu: %d, %d", i, few, many);
        placement_close(placement);
    }
}

// Some experts of each layer on the device, the others on the CPU: the same results, whoever has which, and no
// difference to the bit between a row alone and among others.
static void experts_are_shared_out(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        const char *list;
        bool device;
    } CASES[] = {{"0-7", true},  {"1,3,5,7,9-15", true}, {"0", true},
                 {"0-15", true}, {"0:0-15;1:2-9", true}, {"0:0-3", false}};
    struct placement *cpu = open_placement(PLACEMENT_CPU, "");
    double few = mix(cpu, 5), many = mix(cpu, 40);
    placement_close(cpu);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct placement *placement;
        struct error error;
        const struct placement_options options = {.way = PLACEMENT_SPLIT, .experts_opencl = CASES[i].list};
        if (open_with(options, &placement, &error)) fail_msg("%s", error.message);
        close_to(mix(placement, 5), few);
        close_to(mix(placement, 40), many);
        assert_true((calls_for(placement, 40) > 0) == CASES[i].device);
        assert_non_null(strstr(placement_describe(placement), "some experts on OpenCL"));
        opencl_inject(3, OPENCL_FAULT_ONCE); // and where the device fails
        close_to(mix(placement, 40), many);
        opencl_inject(0, OPENCL_FAULT_ONCE);
        assert_true((placement_degraded(placement)[0] != 0) == CASES[i].device);
        placement_close(placement);
    }
}

static void experts_that_are_none(void **unused) {
    (void)unused;
    static const char *const TEXTS[] = {
        "16", "0-16", "x", "0,", "2:0-7", "0:", ":1", "0:1;;1:1", "0:1,;1:1", "0 1", "1:16"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        struct placement *placement;
        struct error error;
        if (open_with((struct placement_options){.experts_opencl = TEXTS[i]}, &placement, &error) != ERROR_ARGUMENT)
            fail_msg("\"%s\" was taken", TEXTS[i]);
        assert_non_null(strstr(error.message, "from 0 to "));
    }
}

static void layers_that_are_none(void **unused) {
    (void)unused;
    static const char *const TEXTS[] = {"2", "0-2", "1-0", "x", "0,", ",0", "0-", "-1", "0;1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        struct placement *placement;
        struct error error;
        if (open_with((struct placement_options){.experts_layers = TEXTS[i]}, &placement, &error) != ERROR_ARGUMENT)
            fail_msg("\"%s\" was taken", TEXTS[i]);
        assert_non_null(strstr(error.message, "from 0 to 1"));
    }
}

// Explained without a device too; with one, both sides have figures that hang together.
static void what_is_found_is_told(void **unused) {
    (void)unused;
    struct placement *placement;
    struct error error;
    if (open_with((struct placement_options){.explain = true}, &placement, &error)) fail_msg("%s", error.message);
    const struct engine_placement *found = placement_found(placement);
    static const int ROWS[] = {1, 8, 16, 32, ROWS_MAX}; // of 128, as many as there may be
    assert_int_equal(found->point_count, 5);
    assert_false(found->from_cache);
    bool device = found->device[0];
    assert_true(device || found->why[0]);
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        assert_int_equal(point->rows, ROWS[i]);
        assert_true(point->cpu_seconds > 0 && point->rest_seconds > 0 && point->cpu_rate > 0);
        assert_true(point->cpu_rate <
                    point->rows / (model->config.layers * (point->cpu_seconds + point->rest_seconds)));
        assert_true((point->device_seconds > 0) == device && (point->split_rate > 0) == device);
        assert_true(point->handing_seconds <= point->device_seconds);
    }
    placement_close(placement);
}

// ---- What was measured, kept

static void remove_all(const char *directory) {
    char path[512];
    DIR *files = opendir(directory);
    for (const struct dirent *file; files && (file = readdir(files));) {
        snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
        unlink(path);
    }
    closedir(files);
    rmdir(directory);
}

// The second start has the first one's figures, tries the device all the same, and calls it far less often.
static void the_next_start_does_not_measure(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    assert_non_null(mkdtemp(directory));
    struct placement *placement;
    struct error error;
    long calls[3];
    for (int i = 0; i < 3; i++) {
        const struct placement_options options = {
            .way = PLACEMENT_SPLIT, .cache = directory, .kernels = i == 2 ? "cl_kernels" : NULL};
        opencl_inject(0, OPENCL_FAULT_ONCE);
        if (open_with(options, &placement, &error)) fail_msg("%s", error.message);
        calls[i] = opencl_inject(0, OPENCL_FAULT_ONCE);
        const struct engine_placement *found = placement_found(placement);
        assert_int_equal(found->point_count, 5);
        assert_true(found->from_cache == (i == 1)); // kernels of a directory may be others each time
        assert_true(found->points[0].on_device);
        placement_close(placement);
    }
    assert_true(calls[1] < calls[0] && calls[1] > calls[0] / 4);
    remove_all(directory);
}

// ---- The bus

static void read_weights(const struct stages *stages, void *state, int times) {
    static float x[64], y[512];
    for (int i = 0; i < times; i++) stages->linear(state, &model->layers[0].q, x, y, 1, false);
}

// The CPU leaves the device its share, for as long as it computes; one that never answers does not hold it up for long,
// and what it was to compute is computed all the same.
static void the_device_has_its_share(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement, *cpu = open_placement(PLACEMENT_CPU, "");
    struct error error;
    double expected = mix(cpu, 5);
    placement_close(cpu);
    for (int share = BUS_SHARE_AUTO; share <= BUS_SHARE_ON; share++) {
        static float x[5 * 64], y[5 * 64];
        int32_t expert[10];
        float weight[10];
        struct routing routing = {.expert = expert, .weight = weight};
        struct engine_device_work work;
        const struct placement_options options = {.way = PLACEMENT_SPLIT, .bus_share = (enum bus_share)share,
                                                  .bus_bytes = 4e6, .wait_seconds = 3};
        if (open_with(options, &placement, &error)) fail_msg("%s", error.message);
        const struct stages *stages = placement_stages(placement);
        void *state = placement_state(placement);
        read_weights(stages, state, 4);
        stages->device_work(state, &work);
        assert_int_equal(work.holds, 0); // the device is idle
        close_to(mix(placement, 5), expected);

        opencl_inject(1, OPENCL_FAULT_SILENCE);
        stages->mixture_begin(state, 0, &model->layers[1], x, 5);
        read_weights(stages, state, 4);
        stages->device_work(state, &work);
        // The first one had nothing to wait for. A device as slow as under a sanitizer asks for so little that nobody has.
        uint64_t holds = share == BUS_SHARE_ON && !(SANITIZED && work.holds == 0) ? 3 : 0;
        assert_int_equal(work.holds, holds);
        assert_int_equal(work.mixtures, 2);
        assert_true(work.held_seconds < 0.3 && work.beside_seconds > 0);
        stages->mixture_end(state, 0, y, &routing); // it is given up
        opencl_inject(0, OPENCL_FAULT_ONCE);
        assert_non_null(strstr(placement_degraded(placement), "has not answered"));
        read_weights(stages, state, 4);
        stages->device_work(state, &work);
        assert_int_equal(work.holds, holds);
        close_to(mix(placement, 5), expected);
        placement_close(placement);
        usleep(50000); // what it was about to write, it writes
    }
}

// ---- Failures

// Every call fails once: whatever it was, the answer is right, and so is the next one after the pause.
static void a_failure_is_made_good(void **unused) {
    (void)unused;
    need_device();
    struct placement *cpu = open_placement(PLACEMENT_CPU, "");
    double few = mix(cpu, 5), many = mix(cpu, 40);
    placement_close(cpu);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    opencl_inject(0, OPENCL_FAULT_ONCE);
    mix(placement, 5);
    mix(placement, 40);
    long calls = opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
    assert_true(calls > 80);

    int failures = 0, reached = 0; // how many calls there are varies: some only ask whether others are done
    for (long n = 1; n <= calls; n += 3) {
        placement = open_placement(PLACEMENT_SPLIT, "");
        assert_int_equal(warnings.count, 0);
        opencl_inject(n, OPENCL_FAULT_ONCE);
        close_to(mix(placement, 5), few);
        close_to(mix(placement, 40), many);
        reached += opencl_inject(0, OPENCL_FAULT_ONCE) >= n;
        if (placement_degraded(placement)[0]) {
            failures++;
            assert_int_equal(warnings.count, 1);
            assert_non_null(strstr(warnings.lines[0], "CL_OUT_OF_RESOURCES"));
            assert_non_null(strstr(warnings.lines[0], "tried again in"));
            usleep(20000);
            close_to(mix(placement, 5), few);
            assert_string_equal(placement_degraded(placement), "");
            assert_int_equal(warnings.count, 2);
            assert_non_null(strstr(warnings.lines[1], "again"));
        }
        placement_close(placement);
    }
    assert_in_range(failures, reached - 3, reached); // no call goes without being noticed, or nearly none
}

// It fails every time: the pauses grow, requests are computed by the CPU.
static void a_lost_device_is_left_alone(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    double few = mix(placement, 5);
    opencl_inject(1, OPENCL_FAULT_ONWARDS);
    for (int i = 0; i < 50; i++) {
        close_to(mix(placement, 5), few);
        usleep(10000);
    }
    assert_in_range(warnings.count, 3, 8); // after 10, 20, 40, 80, 160 ms, …
    assert_true(placement_degraded(placement)[0]);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
}

static void a_silent_device_is_given_up(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_placement(PLACEMENT_SPLIT, "");
    double few = mix(placement, 5);
    opencl_inject(1, OPENCL_FAULT_SILENCE);
    close_to(mix(placement, 5), few);
    assert_non_null(strstr(placement_degraded(placement), "has not answered"));
    opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
    usleep(100000);
}

// A device whose answers are wrong is found out before it is used: by its kernels here, which leave everything at 7.
static void wrong_results_are_found_out(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-kernels-XXXXXX", path[128];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/scatter.cl", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void scatter(__global const float *a,\n"
          "    __global const int *b, __global const float *c, int hidden, int d, __global float *out) {\n"
          "    if (get_global_id(0) < hidden) out[get_group_id(1) * hidden + get_global_id(0)] = 7; }\n", file);
    fclose(file);
    struct engine *engine;
    struct error error;
    struct engine_options options = {.synthetic = "phi-toy-moe", .weights = WEIGHTS_BF16, .placement = "split",
                                     .cl_kernels = directory, .threads = 1, .warn = note, .warn_user = &warnings};
    warnings.count = 0;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    assert_int_equal(warnings.count, 1);
    assert_non_null(strstr(warnings.lines[0], "computes wrongly"));
    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_non_null(strstr(stats.degraded, "computes wrongly"));
    engine_close(engine);
    unlink(path);
    rmdir(directory);
}

// ---- Whole requests

enum { PROMPT = 40, ANSWER = 6 };

static void ask(struct engine *engine, int32_t answer[ANSWER]) {
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = i * 31 % 512;
    const struct engine_request request = {.prompt = prompt,
                                           .prompt_tokens = PROMPT,
                                           .tokens_max = ANSWER,
                                           .ignore_eos = true,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1}};
    struct engine_job *job;
    struct error error;
    int count = 0;
    if (engine_submit(engine, &request, &job, &error)) fail_msg("%s", error.message);
    for (struct engine_event *event; (event = engine_job_wait(job)); engine_event_destroy(event)) {
        if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
        for (int i = 0; i < event->token_count; i++) {
            assert_in_range(count, 0, ANSWER - 1);
            answer[count++] = event->tokens[i].token;
        }
    }
    assert_int_equal(count, ANSWER);
    engine_job_release(job);
}

static void check_request(const char *placement, const char *experts, const int32_t *expected) {
    int32_t answer[ANSWER];
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = placement, .threads = 1,
                                           .experts_opencl = experts, .kv_tokens = 256, .sequences_max = 1};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    ask(engine, answer);
    engine_close(engine);
    assert_memory_equal(answer, expected, sizeof answer);
}

// The N-th call of a whole life fails, for many N, and then all from N on: the tokens are the CPU's. With
// TANDEM_EVERY_FAULT in the environment, for every N.
static void requests_survive(void **unused) {
    (void)unused;
    need_device();
    int32_t expected[ANSWER];
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = "cpu", .threads = 1,
                                           .kv_tokens = 256, .sequences_max = 1};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    ask(engine, expected);
    engine_close(engine);

    static const char *const EXPERTS[] = {NULL, "0-7"}; // all on the device, and shared out
    for (size_t e = 0; e < sizeof EXPERTS / sizeof *EXPERTS; e++) {
        opencl_inject(0, OPENCL_FAULT_ONCE);
        check_request("split", EXPERTS[e], expected);
        long calls = opencl_inject(0, OPENCL_FAULT_ONCE), step = getenv("TANDEM_EVERY_FAULT") ? 1 : 29;
        assert_true(calls > 500);
        for (int kind = OPENCL_FAULT_ONCE; kind <= OPENCL_FAULT_ONWARDS; kind++)
            for (long n = 1; n <= calls; n += step) {
                opencl_inject(n, (enum opencl_fault)kind);
                check_request("split", EXPERTS[e], expected);
            }
    }
}

// Answers at once in two halves: the tokens of all at once.
enum { TOGETHER = 6 };

struct seen {
    uint64_t mixtures, halves;
    double beside_seconds;
};

static void see(void *user, const struct engine_step *step) {
    struct seen *seen = user;
    if (step->prefill) return;
    seen->mixtures += step->device.mixtures;
    seen->halves += step->device.halves;
    seen->beside_seconds += step->device.beside_seconds;
}

static void ask_together(const char *placement, int halves_from, int32_t out[TOGETHER][ANSWER], struct seen *seen) {
    struct engine *engine;
    struct engine_job *jobs[TOGETHER];
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = placement, .threads = 1,
                                           .halves_from = halves_from, .kv_tokens = 1024, .sequences_max = TOGETHER,
                                           .watch = see, .watch_user = seen};
    *seen = (struct seen){0};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    for (int j = 0; j < TOGETHER; j++) {
        int32_t prompt[PROMPT];
        for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 31 + 77 * j) % 512;
        const struct engine_request request = {.prompt = prompt, .prompt_tokens = PROMPT, .tokens_max = ANSWER,
                                               .ignore_eos = true, .one_by_one = true,
                                               .sampling = {.top_p = 1, .repetition_penalty = 1}};
        if (engine_submit(engine, &request, &jobs[j], &error)) fail_msg("%s", error.message);
    }
    for (int j = 0; j < TOGETHER; j++) {
        int count = 0;
        for (struct engine_event *event; (event = engine_job_wait(jobs[j])); engine_event_destroy(event)) {
            if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
            for (int i = 0; i < event->token_count; i++) out[j][count++] = event->tokens[i].token;
        }
        assert_int_equal(count, ANSWER);
        engine_job_release(jobs[j]);
    }
    engine_close(engine);
}

static void answers_in_halves(void **unused) {
    (void)unused;
    need_device();
    int32_t expected[TOGETHER][ANSWER], whole[TOGETHER][ANSWER], halves[TOGETHER][ANSWER];
    struct seen seen;
    ask_together("cpu", 0, expected, &seen);
    assert_int_equal(seen.mixtures, 0);
    ask_together("split", ENGINE_SEQUENCES_MAX, whole, &seen);
    assert_int_equal(seen.halves, 0);
    ask_together("split", 2, halves, &seen);
    assert_true(seen.halves > 0 && seen.halves % 2 == 0 && seen.halves <= seen.mixtures);
    assert_true(seen.beside_seconds > 0);
    assert_memory_equal(whole, expected, sizeof expected);
    assert_memory_equal(halves, expected, sizeof expected);
}

static void an_unknown_placement_is_refused(void **unused) {
    (void)unused;
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = "gpu"};
    assert_int_equal(engine_open(&engine, &options, &error), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "\"gpu\""));
}

#define DEVICE_TEST(function) cmocka_unit_test_teardown(function, no_faults)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(what_pays),
        cmocka_unit_test(cpu_is_the_stages_themselves),
        cmocka_unit_test(auto_without_a_gpu_does_not_look_for_opencl),
        DEVICE_TEST(auto_does_not_take_a_cpu),
        DEVICE_TEST(split_takes_whatever_there_is),
        DEVICE_TEST(phases_and_layers),
        DEVICE_TEST(experts_are_shared_out),
        cmocka_unit_test(experts_that_are_none),
        cmocka_unit_test(layers_that_are_none),
        cmocka_unit_test(what_is_found_is_told),
        DEVICE_TEST(the_next_start_does_not_measure),
        DEVICE_TEST(the_device_has_its_share),
        DEVICE_TEST(a_failure_is_made_good),
        DEVICE_TEST(a_lost_device_is_left_alone),
        DEVICE_TEST(a_silent_device_is_given_up),
        DEVICE_TEST(wrong_results_are_found_out),
        DEVICE_TEST(requests_survive),
        DEVICE_TEST(answers_in_halves),
        cmocka_unit_test(an_unknown_placement_is_refused),
    };
    return cmocka_run_group_tests_name("placement", tests, open_model, close_model);
}
