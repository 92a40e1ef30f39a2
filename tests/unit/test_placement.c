// Who computes what: the choice, and that answers are the same whoever computes them. Experts are computed on whatever
// OpenCL device there is (with PoCL, the CPU).
#include "tests/unit/placement_rig.h"

#include <stdatomic.h>
#include <sys/stat.h>

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
    assert_true(engine_placement_pays(10, 5));
    assert_false(engine_placement_pays(10, 9.5)); // too little to tell from noise
    assert_false(engine_placement_pays(10, 20));
    assert_false(engine_placement_pays(0, 0)); // there is no such work
}

static void cpu_is_the_stages_themselves(void **unused) {
    (void)unused;
    struct placement *placement = open_placement(PLACEMENT_CPU);
    assert_ptr_equal(placement_stages(placement), &reference_stages);
    assert_string_equal(placement_describe(placement), reference_stages.describe(NULL));
    placement_close(placement);
}

static void auto_without_a_gpu_does_not_look_for_opencl(void **unused) {
    (void)unused;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    struct placement *placement = open_placement(PLACEMENT_AUTO);
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
    struct placement *placement = open_well((struct placement_options){.way = PLACEMENT_AUTO, .root = root});
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
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    const struct stages *stages = placement_stages(placement);
    assert_non_null(stages->mixture_begin);
    assert_non_null(strstr(placement_describe(placement), "reference: plain C"));
    assert_non_null(strstr(placement_describe(placement), "experts on OpenCL: "));
    assert_int_equal(stages->parts(placement_state(placement), ROWS_OF_PROMPTS, ENGINE_PLACEMENT_HALVES - 1), 1);
    assert_int_equal(stages->parts(placement_state(placement), ROWS_OF_PROMPTS, ENGINE_PLACEMENT_HALVES), 2);
    same_sum(mix(placement, 5), mix_on_cpu(5));
    same_sum(mix(placement, 40), mix_on_cpu(40));
    placement_close(placement);
}

// What takes memory that nobody asked for is told with the device.
static void copies_are_told(void **unused) {
    (void)unused;
    need_device();
    const struct engine_options options = {.model_dir = "models/demo", .placement = "split", .threads = 1};
    static const char *const TOLD = "weights copied, which takes ";
    for (int refused = 0; refused < 2; refused++) {
        struct engine *engine;
        struct error error;
        host_pages_are_refused = refused;
        if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
        host_pages_are_refused = false;
        assert_true((strstr(engine_info(engine)->device, TOLD) != NULL) == refused);
        assert_true((strstr(engine_placement(engine)->device, TOLD) != NULL) == refused);
        engine_close(engine);
    }
}

// Of the layers that are the device's, and of the first, which it is tried with.
static void copies_are_of_the_devices_layers(void **unused) {
    (void)unused;
    need_device();
    static const char *const LAYERS[] = {NULL, "0-1", "2,5", "3"};
    static const int COUNTS[] = {6, 2, 3, 2};
    double first = 0;
    for (size_t i = 0; i < sizeof COUNTS / sizeof *COUNTS; i++) {
        const struct engine_options options = {.model_dir = "models/demo", .placement = "split",
                                               .experts_layers = LAYERS[i], .threads = 1};
        struct engine *engine;
        struct error error;
        double amount = 0;
        char unit = 0;
        host_pages_are_refused = true;
        if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
        host_pages_are_refused = false;
        const char *told = strstr(engine_placement(engine)->device, "which takes ");
        assert_non_null(told);
        assert_int_equal(sscanf(told, "which takes %lf %cB more", &amount, &unit), 2);
        assert_int_equal(unit, 'M');
        if (i == 0) first = amount;
        close_to(amount, first * COUNTS[i] / COUNTS[0], 0.11);
        engine_close(engine);
    }
}

// Two digits of what is less than ten, and no powers of ten.
static void figures_are_told_in_whole_milliseconds(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    keep_figures(directory, &(struct pace){{400, 1234.5}, {9.96, 0.034}, 1});
    struct placement *placement = open_well((struct placement_options){.way = PLACEMENT_SPLIT, .cache = directory});
    const char *told = placement_describe(placement);
    assert_non_null(strstr(told, "there/on the CPU: 400/10 for 1 row, 400/10 for 8, "));
    assert_non_null(strstr(told, ", 1234/0.034 for 64"));
    placement_close(placement);
    remove_all(directory);
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
        struct placement *placement = open_well(CASES[i].options);
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
    double few = mix_on_cpu(5), many = mix_on_cpu(40);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct placement *placement =
            open_well((struct placement_options){.way = PLACEMENT_SPLIT, .experts_opencl = CASES[i].list});
        same_sum(mix(placement, 5), few);
        same_sum(mix(placement, 40), many);
        assert_true((calls_for(placement, 40) > 0) == CASES[i].device);
        assert_non_null(strstr(placement_describe(placement), "some experts on OpenCL"));
        opencl_inject(3, OPENCL_FAULT_ONCE); // and where the device fails
        same_sum(mix(placement, 40), many);
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
    struct placement *placement = open_well((struct placement_options){.explain = true});
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

// ---- Whole requests

enum { PROMPT = 40, ANSWER = 6, TOGETHER = 6 };

struct told {
    int32_t token[ANSWER];
    float logprob[ANSWER];
};

// Answers `first` to `last`, at once; each has a token more than the one before it. held: what makes the engine wait
// until it has them all; NULL: it starts with the first, and may be done with it before the last one comes.
static void ask_at_once(struct engine *engine, int first, int last, atomic_bool *held, struct told out[TOGETHER]) {
    struct engine_job *jobs[TOGETHER];
    struct error error;
    for (int j = first; j <= last; j++) {
        int32_t prompt[PROMPT];
        for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 31 + 77 * j) % 512;
        const struct engine_request request = {.prompt = prompt, .prompt_tokens = PROMPT, .tokens_max = ANSWER + j,
                                               .ignore_eos = true, .one_by_one = true, .want_logprobs = true,
                                               .sampling = {.top_p = 1, .repetition_penalty = 1}};
        if (engine_submit(engine, &request, &jobs[j], &error)) fail_msg("%s", error.message);
    }
    if (held) atomic_store(held, false);
    for (int j = first; j <= last; j++) {
        int count = 0;
        for (struct engine_event *event; (event = engine_job_wait(jobs[j])); engine_event_destroy(event)) {
            if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
            for (int i = 0; i < event->token_count; i++, count++) {
                if (count >= ANSWER) continue;
                out[j].token[count] = event->tokens[i].token;
                out[j].logprob[count] = event->tokens[i].logprob;
            }
        }
        assert_int_equal(count, ANSWER + j);
        engine_job_release(jobs[j]);
    }
}

// A driver that takes the pages of the first layer, which the device is tried with, and no others': what the start has
// told is not the whole.
static void copies_are_told_later(void **unused) {
    (void)unused;
    need_device();
    const struct engine_options options = {.model_dir = "models/demo", .placement = "split", .threads = 1,
                                           .kv_tokens = 1024, .warn = note, .warn_user = &warnings};
    struct engine *engine;
    struct error error;
    struct told told[TOGETHER];
    warnings.count = 0;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    assert_null(strstr(engine_placement(engine)->device, "weights copied"));
    host_pages_are_refused = true;
    ask_at_once(engine, 0, 0, NULL, told);
    host_pages_are_refused = false;
    engine_close(engine);
    assert_int_equal(warnings.count, 1);
    assert_non_null(strstr(warnings.lines[0], "weights copied, which takes "));
}

// Answers at once in two halves: the tokens of all at once.
struct seen {
    atomic_bool held; // as in struct watched
    uint64_t mixtures, halves;
    double beside_seconds;
};

static void see(void *user, const struct engine_step *step) {
    struct seen *seen = user;
    while (atomic_load(&seen->held)) usleep(1000);
    if (step->prefill) return;
    seen->mixtures += step->device.mixtures;
    seen->halves += step->device.halves;
    seen->beside_seconds += step->device.beside_seconds;
}

static void ask_together(const char *placement, int halves_from, struct told out[TOGETHER], struct seen *seen) {
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = placement, .threads = 1,
                                           .halves_from = halves_from, .kv_tokens = 1024, .sequences_max = TOGETHER,
                                           .watch = see, .watch_user = seen};
    *seen = (struct seen){.held = true};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    ask_at_once(engine, 0, TOGETHER - 1, &seen->held, out);
    engine_close(engine);
}

static void answers_in_halves(void **unused) {
    (void)unused;
    need_device();
    struct told expected[TOGETHER], whole[TOGETHER], halves[TOGETHER];
    struct seen seen;
    ask_together("cpu", 0, expected, &seen);
    assert_int_equal(seen.mixtures, 0);
    ask_together("split", ENGINE_SEQUENCES_MAX, whole, &seen);
    assert_int_equal(seen.halves, 0);
    ask_together("split", 2, halves, &seen);
    assert_true(seen.halves > 0 && seen.halves % 2 == 0 && seen.halves <= seen.mixtures);
    assert_true(seen.beside_seconds > 0);
    for (int j = 0; j < TOGETHER; j++) {
        assert_memory_equal(whole[j].token, expected[j].token, sizeof whole[j].token);
        assert_memory_equal(halves[j].token, expected[j].token, sizeof halves[j].token);
    }
}

// ---- Few answers on the CPU, many on the device

enum { FROM = 4 };

struct watched {
    atomic_bool held; // the engine, before its first step is over
    int few, many;    // steps of answers only
    bool wrong;       // the device had few, or not many
};

static void watch(void *user, const struct engine_step *step) {
    struct watched *watched = user;
    while (atomic_load(&watched->held)) usleep(1000);
    if (step->prefill) return;
    bool many = step->tokens >= FROM;
    *(many ? &watched->many : &watched->few) += 1;
    watched->wrong |= (step->device.mixtures > 0) != many;
}

static struct engine *open_from(enum weight_format weights, const char *stages, struct watched *watched) {
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .weights = weights, .placement = "split",
                                           .stages = stages, .threads = 1, .experts_decode_from = FROM,
                                           .halves_from = FROM + 1, .kv_tokens = 1024, .sequences_max = TOGETHER,
                                           .prefix = PREFIX_OFF, .watch = watch, .watch_user = watched, .warn = note,
                                           .warn_user = &warnings};
    *watched = (struct watched){.few = 0};
    warnings.count = 0;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    return engine;
}

// In int8 and int4 the devices' bits are the same: an answer is alone, on the CPU, what it is in company, on the
// device, to the bit. Those in halves are the device's as well, though a half has too few for it. The last ones end
// alone.
static void few_answers_are_the_cpus(void **unused) {
    (void)unused;
    need_device();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) skip(); // plain C has other bits
    for (enum weight_format weights = WEIGHTS_INT8; weights <= WEIGHTS_INT4; weights++) {
        struct told alone[TOGETHER], together[TOGETHER];
        struct watched watched;
        struct engine *engine = open_from(weights, NULL, &watched);
        assert_true(engine_placement(engine)->same_bits);
        assert_int_equal(engine_placement(engine)->answers_from, FROM);
        assert_non_null(strstr(engine_info(engine)->device, "answers from 4 at once on"));
        for (int j = 0; j < TOGETHER; j++) ask_at_once(engine, j, j, NULL, alone);
        atomic_store(&watched.held, true);
        ask_at_once(engine, 0, TOGETHER - 1, &watched.held, together);
        engine_close(engine);
        assert_true(watched.few > TOGETHER && watched.many > 0 && !watched.wrong);
        assert_int_equal(warnings.count, 0);
        assert_memory_equal(alone, together, sizeof alone);
    }
}

// Where the bits are others, in other formats or with plain C, the device has all answers, which is told.
static void other_bits_keep_answers_together(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        enum weight_format weights;
        const char *stages;
    } CASES[] = {{WEIGHTS_BF16, NULL}, {WEIGHTS_INT8, "reference"}, {WEIGHTS_INT8, "plain"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct watched watched;
        struct told told[TOGETHER];
        struct engine *engine = open_from(CASES[i].weights, CASES[i].stages, &watched);
        assert_false(engine_placement(engine)->same_bits);
        assert_int_equal(engine_placement(engine)->answers_from, 1);
        ask_at_once(engine, 0, 0, NULL, told);
        engine_close(engine);
        assert_true(watched.few > 0 && watched.wrong); // the device's
        assert_int_equal(warnings.count, 1);
        assert_non_null(strstr(warnings.lines[0], "all answers or none"));
    }
    placement_close(open_well((struct placement_options){
        .way = PLACEMENT_SPLIT, .decode_from = FROM, .experts = {[PLACEMENT_DECODE] = EXPERTS_CPU}}));
    assert_int_equal(warnings.count, 0); // it has none
}

static void an_unknown_placement_is_refused(void **unused) {
    (void)unused;
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = "gpu"};
    assert_int_equal(engine_open(&engine, &options, &error), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "\"gpu\""));
}

// Beside a device too, plain C has no limits to measure.
static void what_has_no_limits_says_so(void **unused) {
    (void)unused;
    need_device();
    static const uint64_t memory[1024];
    struct engine *engine;
    struct error error;
    struct engine_limits limits;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .stages = "reference", .placement = "split"};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    assert_int_equal(engine_measure(engine, memory, sizeof memory, &limits, &error), ERROR_UNSUPPORTED);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(what_pays),
        cmocka_unit_test(cpu_is_the_stages_themselves),
        cmocka_unit_test(auto_without_a_gpu_does_not_look_for_opencl),
        DEVICE_TEST(auto_does_not_take_a_cpu),
        DEVICE_TEST(split_takes_whatever_there_is),
        DEVICE_TEST(copies_are_told),
        DEVICE_TEST(copies_are_of_the_devices_layers),
        DEVICE_TEST(copies_are_told_later),
        DEVICE_TEST(figures_are_told_in_whole_milliseconds),
        DEVICE_TEST(phases_and_layers),
        DEVICE_TEST(experts_are_shared_out),
        cmocka_unit_test(experts_that_are_none),
        cmocka_unit_test(layers_that_are_none),
        cmocka_unit_test(what_is_found_is_told),
        DEVICE_TEST(answers_in_halves),
        DEVICE_TEST(few_answers_are_the_cpus),
        DEVICE_TEST(other_bits_keep_answers_together),
        cmocka_unit_test(an_unknown_placement_is_refused),
        DEVICE_TEST(what_has_no_limits_says_so),
    };
    return cmocka_run_group_tests_name("placement", tests, open_model, close_model);
}
