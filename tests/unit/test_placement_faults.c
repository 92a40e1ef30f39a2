// What happens when a device fails: its work is done by the CPU, it is tried again later, and nothing is left on it.
// The clock is the test's where pauses count.
#include "tests/sanitized.h"
#include "tests/unit/placement_rig.h"

static int clock_goes(void **unused) {
    clock_stopped = false;
    return no_faults(unused);
}
#define FAULT_TEST(function) cmocka_unit_test_teardown(function, clock_goes)

// ---- Failures

// Every call fails once: whatever it was, the answer is right, and so is the next one after the pause.
static void a_failure_is_made_good(void **unused) {
    (void)unused;
    need_device();
    double few = mix_on_cpu(5), many = mix_on_cpu(40);
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    mix(placement, 5);
    mix(placement, 40);
    long calls = opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
    assert_true(calls > 80);

    int failures = 0, reached = 0; // how many calls there are varies: some only ask whether others are done
    for (long n = 1; n <= calls; n += SANITIZED ? 9 : 3) {
        placement = open_placement(PLACEMENT_SPLIT);
        assert_int_equal(warnings.count, 0);
        stop_clock(); // or it is tried again between the two
        opencl_inject(n, OPENCL_FAULT_ONCE);
        same_sum(mix(placement, 5), few);
        same_sum(mix(placement, 40), many);
        reached += opencl_inject(0, OPENCL_FAULT_ONCE) >= n;
        if (placement_degraded(placement)[0]) {
            failures++;
            assert_int_equal(warnings.count, 1);
            assert_non_null(strstr(warnings.lines[0], "CL_OUT_OF_RESOURCES"));
            assert_non_null(strstr(warnings.lines[0], "tried again in"));
            clock_at += 0.011;
            same_sum(mix(placement, 5), few);
            assert_string_equal(placement_degraded(placement), "");
            assert_int_equal(warnings.count, 2);
            assert_non_null(strstr(warnings.lines[1], "run on OpenCL now"));
        }
        placement_close(placement);
        nothing_is_left(n);
        clock_stopped = false;
    }
    assert_in_range(failures, reached - 3, reached); // no call goes without being noticed, or nearly none
}

// It fails every time: the pauses grow, and the CPU computes.
static void a_lost_device_is_left_alone(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    double few = mix(placement, 5);
    stop_clock();
    opencl_inject(1, OPENCL_FAULT_ONWARDS);
    for (int i = 0; i < 50; i++) {
        same_sum(mix(placement, 5), few);
        clock_at += 0.011;
    }
    assert_int_equal(warnings.count, 6); // at once, and after 10, 20, 40, 80, 160 ms more
    assert_true(placement_degraded(placement)[0]);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
}

// After ten seconds, by a clock that goes on by a tenth of one each time the device is asked how far it is.
static void a_silent_device_is_given_up(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    double few = mix(placement, 5);
    stop_clock();
    clock_step = 0.1;
    opencl_inject(1, OPENCL_FAULT_SILENCE);
    same_sum(mix(placement, 5), few);
    assert_non_null(strstr(placement_degraded(placement), "has not answered for 10."));
    opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(placement);
    some_is_left();
    usleep(100000); // what it was about to write, it writes
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

// ---- Back again

// How many calls of OpenCL it takes to open one, and a mixture.
static long calls_to_open(struct placement_options options) {
    opencl_inject(0, OPENCL_FAULT_ONCE);
    struct placement *placement = open_well(options);
    mix(placement, 5);
    placement_close(placement);
    return opencl_inject(0, OPENCL_FAULT_ONCE);
}

// How fast it is has not changed: it is only tried whether it computes rightly.
static void one_that_is_back_is_not_measured_again(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    keep_figures(directory, &(struct pace){{1, 1}, {2, 2}, 1});
    long measured = calls_to_open((struct placement_options){.way = PLACEMENT_SPLIT});
    long tried = calls_to_open((struct placement_options){.way = PLACEMENT_SPLIT, .cache = directory});
    assert_true(tried < measured - 40);
    remove_all(directory);
    struct placement *placement = open_placement(PLACEMENT_SPLIT);
    const struct engine_placement before = *placement_found(placement);
    stop_clock();
    opencl_inject(1, OPENCL_FAULT_ONCE);
    mix(placement, 5);
    assert_true(placement_degraded(placement)[0]);
    clock_at += 0.011;
    long again = calls_for(placement, 5);
    assert_string_equal(placement_degraded(placement), "");
    if (again > tried) fail_msg("%ld calls, %ld to open it with figures, %ld without", again, tried, measured);
    assert_memory_equal(&before, placement_found(placement), sizeof before);
    placement_close(placement);
}

// A start that fails leaves nothing known, and what is to be known is found out once the device works.
static void one_that_failed_at_first_is_measured(void **unused) {
    (void)unused;
    need_device();
    stop_clock(); // so that every start measures as often
    clock_step = 1e-6;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    placement_close(open_placement(PLACEMENT_SPLIT));
    long calls = opencl_inject(0, OPENCL_FAULT_ONCE), step = calls / 12;
    double few = mix_on_cpu(5), many = mix_on_cpu(40);
    int failures = 0, faults = 0; // a busy machine may measure more often at one start, or less
    for (long n = calls / 4; n < calls; n += step) { // before, it is looked for: where there is none, none comes
        opencl_inject(n, OPENCL_FAULT_ONCE);
        struct placement *placement = open_placement(PLACEMENT_SPLIT);
        faults += opencl_inject(0, OPENCL_FAULT_ONCE) >= n;
        const struct engine_placement *found = placement_found(placement);
        bool failed = placement_degraded(placement)[0];
        assert_int_equal(found->point_count, failed ? 0 : POINTS);
        same_sum(mix(placement, 5), few);
        clock_at += 0.011;
        same_sum(mix(placement, 40), many);
        assert_string_equal(placement_degraded(placement), "");
        assert_int_equal(found->point_count, POINTS);
        for (int i = 0; i < POINTS; i++) {
            const struct engine_placement_point *point = &found->points[i];
            assert_true(point->device_seconds > 0 && point->split_rate > 0 && point->on_device);
        }
        failures += failed;
        placement_close(placement);
        nothing_is_left(n);
    }
    clock_stopped = false;
    assert_true(failures > 0 && 3 * failures >= 2 * faults);
}

// Who has what is decided then: here by the figures of a start before the one that failed.
static void figures_that_come_late_decide(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        struct pace pace;
        bool few, many;
    } CASES[] = {
        {{{1, 1}, {2, 2}, 1}, true, true},
        {{{1, 3}, {2, 2}, 1}, true, false},
        {{{3, 1}, {2, 2}, 1}, false, true},
        {{{3, 3}, {2, 2}, 1}, false, false},
        {{{2.1, 2.1}, {2, 2}, 1}, false, true}, // a prompt's pass beside all else
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char directory[] = "/tmp/tandem-cache-XXXXXX";
        keep_figures(directory, &CASES[i].pace);
        const struct placement_options options = {.explain = true, .cache = directory}; // auto
        opencl_inject(0, OPENCL_FAULT_ONCE);
        placement_close(open_well(options));
        opencl_inject(opencl_inject(0, OPENCL_FAULT_ONCE) * 3 / 4, OPENCL_FAULT_ONCE);
        struct placement *placement = open_well(options);
        opencl_inject(0, OPENCL_FAULT_ONCE);
        assert_true(placement_degraded(placement)[0] && warnings.count == 1);
        stop_clock();
        clock_at += 0.011;
        mix(placement, 5); // goes by what is decided while it begins
        assert_int_equal(work_of(placement).mixtures, CASES[i].few);
        assert_string_equal(placement_degraded(placement), "");
        assert_int_equal(warnings.count, 2);
        bool any = CASES[i].few || CASES[i].many;
        assert_non_null(strstr(warnings.lines[1], any ? "run on OpenCL now" : "the CPU is faster"));
        bool few = calls_for(placement, 5) > 0, many = calls_for(placement, 40) > 0;
        if (few != CASES[i].few || many != CASES[i].many) fail_msg("case %zu: %d, %d", i, few, many);
        assert_true(placement_found(placement)->from_cache);
        placement_close(placement);
        clock_stopped = false;
        remove_all(directory);
    }
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

static void check_request(const char *experts, const char *cache, const int32_t *expected) {
    int32_t answer[ANSWER];
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = "split", .threads = 1,
                                           .cache = cache, .experts_opencl = experts, .kv_tokens = 256,
                                           .sequences_max = 1};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    ask(engine, answer);
    engine_close(engine);
    assert_memory_equal(answer, expected, sizeof answer);
}

// The N-th call of a whole life fails, for many N, and then all from N on: the tokens are the CPU's. With
// TANDEM_EVERY_FAULT in the environment, for every N. Figures are kept: measuring is nothing but many mixtures.
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
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    assert_non_null(mkdtemp(directory));
    stop_clock(); // figures that contradict each other are not kept
    check_request(NULL, directory, expected);
    clock_stopped = false;
    for (size_t e = 0; e < sizeof EXPERTS / sizeof *EXPERTS; e++) {
        opencl_inject(0, OPENCL_FAULT_ONCE);
        check_request(EXPERTS[e], directory, expected);
        long calls = opencl_inject(0, OPENCL_FAULT_ONCE), step = getenv("TANDEM_EVERY_FAULT") ? 1 : SANITIZED ? 97 : 29;
        assert_true(calls > 500);
        for (int kind = OPENCL_FAULT_ONCE; kind <= OPENCL_FAULT_ONWARDS; kind++)
            for (long n = 1; n <= calls; n += step) {
                opencl_inject(n, (enum opencl_fault)kind);
                check_request(EXPERTS[e], directory, expected);
                nothing_is_left(n);
            }
    }
    remove_all(directory);
}

// A device that has failed in one request is tried again before a step of a later one.
static void an_engine_tries_again(void **unused) {
    (void)unused;
    need_device();
    int32_t first[ANSWER], later[ANSWER];
    struct engine *engine;
    struct engine_stats stats;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .placement = "split", .threads = 1,
                                           .kv_tokens = 256, .sequences_max = 1, .warn = note, .warn_user = &warnings};
    warnings.count = 0;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    stop_clock();
    opencl_inject(1, OPENCL_FAULT_ONWARDS);
    ask(engine, first);
    engine_stats(engine, &stats);
    assert_true(stats.degraded[0]);
    assert_int_equal(warnings.count, 1);
    opencl_inject(0, OPENCL_FAULT_ONCE);
    ask(engine, later); // not yet
    assert_memory_equal(later, first, sizeof first);
    engine_stats(engine, &stats);
    assert_true(stats.degraded[0]);
    clock_at += 11;
    ask(engine, later);
    assert_memory_equal(later, first, sizeof first);
    engine_stats(engine, &stats);
    assert_string_equal(stats.degraded, "");
    assert_int_equal(warnings.count, 2);
    assert_non_null(strstr(warnings.lines[1], "run on OpenCL now"));
    assert_true(stats.step_running_seconds == 0);
    engine_close(engine);
}

static void count_answers(void *user, const struct engine_step *step) { // that are the device's
    if (!step->prefill) *(uint64_t *)user += step->device.mixtures;
}

// Few answers may be the CPU's and many the device's only as long as both have the same bits: one that comes back with
// others has all of them, which is told.
static void one_that_is_back_may_have_other_bits(void **unused) {
    (void)unused;
    need_device();
    int32_t answer[ANSWER];
    uint64_t answers = 0;
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-toy-moe", .weights = WEIGHTS_INT8, .placement = "split",
                                           .threads = 1, .experts_decode_from = 4, .kv_tokens = 256,
                                           .sequences_max = 1, .warn = note, .warn_user = &warnings,
                                           .watch = count_answers, .watch_user = &answers};
    warnings.count = 0;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    bool same = engine_placement(engine)->same_bits;
    if (same) {
        stop_clock();
        ask(engine, answer);
        assert_int_equal(answers, 0);
        opencl_inject(1, OPENCL_FAULT_ONWARDS);
        ask(engine, answer);
        opencl_inject(0, OPENCL_FAULT_ONCE);
        division_is_inexact = true;
        clock_at += 11;
        ask(engine, answer);
        division_is_inexact = false;
        assert_true(answers > 0);
        assert_int_equal(warnings.count, 3);
        assert_non_null(strstr(warnings.lines[1], "run on OpenCL now"));
        assert_non_null(strstr(warnings.lines[2], "all answers or none"));
    }
    engine_close(engine);
    if (!same) skip(); // nor has it at first, here
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAULT_TEST(a_failure_is_made_good),
        FAULT_TEST(a_lost_device_is_left_alone),
        FAULT_TEST(a_silent_device_is_given_up),
        FAULT_TEST(wrong_results_are_found_out),
        FAULT_TEST(one_that_is_back_is_not_measured_again),
        FAULT_TEST(one_that_failed_at_first_is_measured),
        FAULT_TEST(figures_that_come_late_decide),
        FAULT_TEST(requests_survive),
        FAULT_TEST(an_engine_tries_again),
        FAULT_TEST(one_that_is_back_may_have_other_bits),
    };
    return cmocka_run_group_tests_name("placement_faults", tests, open_model, close_model);
}
