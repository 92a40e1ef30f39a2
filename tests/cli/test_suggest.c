// Where experts are suggested to be computed, from figures made up for two devices and rows made up for each expert.
#include "base/settings_file.h"
#include "cli/suggest.h"
#include "engine/placement_share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 3, EXPERTS = 8, PAIRS = EXPERTS * EXPERTS, POINTS = 4 };

static const double HEAD = 0.5e-3;

// ---- Figures: milliseconds of a layer for calls of 1, 16, 128 and 512 rows

struct figures {
    double cpu[POINTS], device[POINTS], rest[POINTS], handing;
};

static int halves_from; // answers; 0: never
static bool same_bits;  // of answers on both

static struct engine_placement placement_of(const struct figures *figures) {
    static const int ROWS[POINTS] = {1, 16, 128, 512};
    struct engine_placement placement = {
        .device = "a device", .why = "", .point_count = POINTS, .halves_from = halves_from, .same_bits = same_bits};
    for (int i = 0; i < POINTS; i++) {
        struct engine_placement_point *point = &placement.points[i];
        *point = (struct engine_placement_point){.rows = ROWS[i],
                                                 .cpu_seconds = figures->cpu[i] * 1e-3,
                                                 .device_seconds = figures->device[i] * 1e-3,
                                                 .handing_seconds = figures->handing * 1e-3,
                                                 .rest_seconds = figures->rest[i] * 1e-3,
                                                 .head_seconds = HEAD};
    }
    return placement;
}

// ---- Rows: of a layer, what shares of its choices each expert has; evenly where nothing is said

struct counted {
    uint64_t pairs[ENGINE_ROWS_KINDS * LAYERS * PAIRS];
    struct engine_choices choices;
};

static void count_rows(struct counted *counted, int layer, const int shares[EXPERTS]) {
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
        for (int e = 0; e < EXPERTS; e++) { // each as often first as second
            uint64_t *pairs = counted->pairs + (kind * LAYERS + layer) * PAIRS;
            int other = EXPERTS - 1 - e;
            memset(&pairs[e * EXPERTS], 0, EXPERTS * sizeof *pairs);
            pairs[e * EXPERTS + other] = (uint64_t)shares[e] + (uint64_t)shares[other];
        }
}

static void count_evenly(struct counted *counted) {
    static const int EVENLY[EXPERTS] = {1, 1, 1, 1, 1, 1, 1, 1};
    counted->choices = (struct engine_choices){LAYERS, EXPERTS, counted->pairs};
    for (int layer = 0; layer < LAYERS; layer++) count_rows(counted, layer, EVENLY);
}

static struct counted counted;

static struct suggestion suggest(const struct figures *figures, const struct suggest_work *work) {
    const struct engine_placement placement = placement_of(figures);
    struct suggestion suggestion;
    struct error error;
    if (suggest_placement(&placement, &counted.choices, work, &suggestion, &error)) fail_msg("%s", error.message);
    return suggestion;
}

static void expect(const struct suggestion *found, const char *prompts, const char *answers, const char *experts) {
    assert_string_equal(found->who[ENGINE_ROWS_PROMPTS], prompts);
    assert_string_equal(found->who[ENGINE_ROWS_ANSWERS], answers);
    assert_string_equal(found->experts ? found->experts : "all", experts ? experts : "all");
}

static void near(double found, double expected) {
    if (!(fabs(found - expected) <= 1e-9 * expected)) fail_msg("found %.12g, expected %.12g", found, expected);
}

// Ten prompts of 512 tokens and answers of a hundred.
static struct suggest_work some_work(void) {
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, 10);
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 1, 1000);
    return work;
}

// ---- Tests

static void calls_of_many_rows_are_several(void **state) {
    (void)state;
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 1200, 3);
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, 1);
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 8, 0.5);
    assert_true(work.calls[ENGINE_ROWS_PROMPTS][512] == 7 && work.calls[ENGINE_ROWS_PROMPTS][1200 - 1024] == 3);
    assert_true(work.calls[ENGINE_ROWS_PROMPTS][0] == 0 && work.calls[ENGINE_ROWS_ANSWERS][8] == 0.5);
}

static void a_slow_device_gets_nothing(void **state) {
    (void)state;
    const struct figures figures = {{1, 4, 8, 20}, {30, 60, 90, 200}, {1, 2, 4, 10}, 0.2};
    const struct suggest_work work = some_work();
    struct suggestion found = suggest(&figures, &work);
    expect(&found, "cpu", "cpu", NULL);
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++) near(found.seconds[kind], found.cpu_seconds[kind]);
    near(found.cpu_seconds[ENGINE_ROWS_PROMPTS], 10 * (LAYERS * 30e-3 + HEAD));
    near(found.cpu_seconds[ENGINE_ROWS_ANSWERS], 1000 * (LAYERS * 2e-3 + HEAD));
    suggestion_finish(&found);
}

// Fast with prompts, where its time passes beside the CPU's; slow with answers.
static void a_device_for_prompts(void **state) {
    (void)state;
    const struct figures figures = {{1, 4, 8, 20}, {30, 60, 4, 9}, {1, 2, 4, 10}, 0.2};
    const struct suggest_work work = some_work();
    struct suggestion found = suggest(&figures, &work);
    expect(&found, "opencl", "cpu", NULL);
    near(found.seconds[ENGINE_ROWS_PROMPTS], 10 * (LAYERS * 10.2e-3 + HEAD));
    near(found.seconds[ENGINE_ROWS_ANSWERS], found.cpu_seconds[ENGINE_ROWS_ANSWERS]);
    suggestion_finish(&found);
}

// Where the device is better at answers, and they wait for it.
static void a_device_for_answers(void **state) {
    (void)state;
    const struct figures figures = {{8, 16, 20, 30}, {1, 2, 100, 200}, {1, 2, 4, 10}, 0.2};
    const struct suggest_work work = some_work();
    struct suggestion found = suggest(&figures, &work);
    expect(&found, "cpu", "opencl", NULL);
    near(found.seconds[ENGINE_ROWS_ANSWERS], 1000 * (LAYERS * 2e-3 + HEAD));
    suggestion_finish(&found);
}

// Between 1 and 16 rows, and by how many there are of each kind: what answers lose outweighs what prompts gain.
static void work_is_weighed(void **state) {
    (void)state;
    const struct figures figures = {{1, 4, 8, 20}, {8, 2, 4, 9}, {1, 2, 4, 10}, 0.2};
    struct suggest_work work = some_work();
    struct suggestion found = suggest(&figures, &work);
    assert_string_equal(found.who[ENGINE_ROWS_ANSWERS], "cpu"); // one row at a time
    suggestion_finish(&found);
    memset(&work.calls[ENGINE_ROWS_ANSWERS], 0, sizeof work.calls[ENGINE_ROWS_ANSWERS]);
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 16, 60);
    found = suggest(&figures, &work);
    assert_string_equal(found.who[ENGINE_ROWS_ANSWERS], "opencl"); // sixteen
    suggestion_finish(&found);
}

static void what_was_not_measured_is_not_free(void **state) {
    (void)state;
    const struct suggest_work work = some_work();
    for (int missing = 0; missing < 2; missing++) { // all of the device's figures, or one
        struct figures figures = {
            {1, 4, 8, 20}, {missing ? 0.1 : 0, 0, missing ? 1 : 0, missing ? 1 : 0}, {1, 2, 4, 10}, 0};
        struct suggestion found = suggest(&figures, &work);
        expect(&found, "cpu", "cpu", NULL);
        assert_true(found.cpu_seconds[ENGINE_ROWS_PROMPTS] > 0);
        suggestion_finish(&found);
    }
    const struct engine_placement nothing = {.device = "", .why = "there is none"};
    struct suggestion found;
    assert_int_equal(suggest_placement(&nothing, &counted.choices, &work, &found, NULL), 0);
    expect(&found, "auto", "auto", NULL);
    assert_true(found.cpu_seconds[ENGINE_ROWS_PROMPTS] == 0);
    suggestion_finish(&found);
}

static void rows_that_there_were_none_of(void **state) {
    (void)state;
    const struct figures figures = {{1, 4, 8, 20}, {30, 60, 4, 9}, {1, 2, 4, 10}, 0.2};
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, 1);
    struct suggestion found = suggest(&figures, &work);
    expect(&found, "opencl", "auto", NULL);
    assert_true(found.cpu_seconds[ENGINE_ROWS_ANSWERS] == 0);
    suggestion_finish(&found);
}

// Two devices that are equally fast, with little to do beside: half of each layer's experts for each.
static void equals_share_evenly(void **state) {
    (void)state;
    const struct figures figures = {{4, 16, 40, 90}, {4.2, 16.2, 400, 900}, {0.1, 0.2, 4, 10}, 0.2};
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 128, 1);
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 1, 100);
    struct suggestion found = suggest(&figures, &work);
    expect(&found, "cpu", "opencl", "0-3");
    near(found.seconds[ENGINE_ROWS_ANSWERS], 100 * (LAYERS * 2.3e-3 + HEAD));
    suggestion_finish(&found);
}

// What a device gains has to be a tenth of all there is, as for `auto`: here it takes next to no time for the experts.
static void the_margin_is_autos(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const double cpu = i ? 1.5 : 0.8, rest = 10; // 0.87 and 0.93 of the time without the first
        const struct figures figures = {{cpu, 16, 40, 90}, {1e-3, 1e-2, 400, 900}, {rest, rest, rest, rest}, 0};
        struct suggest_work work = {0};
        suggest_add(&work, ENGINE_ROWS_ANSWERS, 1, 100);
        struct suggestion found = suggest(&figures, &work);
        expect(&found, "auto", i ? "opencl" : "cpu", NULL);
        suggestion_finish(&found);
    }
}

// What nobody calls for stays where it is.
static void experts_without_rows(void **state) {
    (void)state;
    static const int SHARES[EXPERTS] = {0, 1, 1, 1, 1, 1, 1, 0};
    const struct figures figures = {{4, 16, 40, 90}, {4, 16, 400, 900}, {0.1, 0.2, 4, 10}, 0};
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 1, 100);
    for (int layer = 0; layer < LAYERS; layer++) count_rows(&counted, layer, SHARES);
    struct suggestion found = suggest(&figures, &work);
    count_evenly(&counted);
    expect(&found, "auto", "opencl", "1-3");
    suggestion_finish(&found);
}

// One that is better at many rows, and worse at few: it gets the busiest, which are others in each layer.
static const struct figures BETTER_AT_MANY = {
    {0.2, 1.6, 6.4, 25.6}, {0.85, 6.4, 7.25, 10.45}, {0.2, 0.2, 0.5, 1}, 0.05};

static void count_unevenly(void) {
    static const int FIRST[EXPERTS] = {1, 1, 30, 1, 1, 30, 1, 1}, OTHER[EXPERTS] = {1, 1, 1, 30, 30, 1, 1, 1};
    count_rows(&counted, 0, FIRST);
    count_rows(&counted, 1, FIRST);
    count_rows(&counted, 2, OTHER);
}

static void the_busiest_go_to_whom_they_suit(void **state) {
    (void)state;
    struct suggest_work work = some_work();
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, 10);
    count_unevenly();
    struct suggestion found = suggest(&BETTER_AT_MANY, &work);
    count_evenly(&counted);
    expect(&found, "opencl", "cpu", "0-1:2,5;2:3-4");
    assert_true(found.seconds[ENGINE_ROWS_PROMPTS] < 0.5 * found.cpu_seconds[ENGINE_ROWS_PROMPTS]);
    near(found.cpu_seconds[ENGINE_ROWS_ANSWERS], 1000 * (LAYERS * 0.4e-3 + HEAD)); // a row reads two, whichever
    suggestion_finish(&found);
}

// What is printed is what a settings file takes, and its list what a placement reads.
static void as_a_settings_file(void **state) {
    (void)state;
    struct settings {
        char *prefill, *decode;
        struct setting_sourced experts;
    } settings = {0};
    static const struct setting ROWS[] = {
        {"engine.experts.prefill", "--p", NULL, SETTING_CHOICE, offsetof(struct settings, prefill), 0, 0,
         "auto cpu opencl", "auto", "", ""},
        {"engine.experts.decode", "--d", NULL, SETTING_CHOICE, offsetof(struct settings, decode), 0, 0,
         "auto cpu opencl", "auto", "", ""},
        {"engine.experts.opencl", "--o", NULL, SETTING_LIST, offsetof(struct settings, experts), 0, 1, NULL, "", "",
         ""},
        {.flag = NULL},
    };
    const struct setting_table table = {ROWS, &settings};
    struct suggest_work work = some_work();
    suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, 10);
    uint64_t experts[LAYERS];
    char path[] = "/tmp/tandem-suggest-XXXXXX";
    struct error error;
    struct buffer yaml;
    buffer_init(&yaml, 4096);
    count_unevenly();
    struct suggestion found = suggest(&BETTER_AT_MANY, &work);
    count_evenly(&counted);
    assert_true(suggestion_yaml(&found, &yaml));
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, yaml.data, yaml.bytes) == (ssize_t)yaml.bytes && close(fd) == 0);
    assert_int_equal(settings_init(&table, &error), 0);
    if (settings_read_file(&table, 1, path, &error)) fail_msg("%s", error.message);
    unlink(path);
    assert_string_equal(settings.prefill, "opencl");
    assert_string_equal(settings.decode, "cpu");
    assert_int_equal(placement_read_experts(NULL, settings.experts.text, LAYERS, EXPERTS, experts, &error), 0);
    assert_true(experts[0] == 0x24 && experts[1] == 0x24 && experts[2] == 0x18);
    settings_finish(&table);
    suggestion_finish(&found);
    buffer_finish(&yaml);
}

// In halves the device's experts of eight answers are hidden behind the rest of a layer.
static void answers_in_halves(void **state) {
    (void)state;
    count_evenly(&counted);
    const struct figures figures = {{1, 4, 8, 20}, {0.2, 0.8, 2, 5}, {1, 2, 4, 10}, 0.1};
    halves_from = 9;
    struct suggest_work work = {0};
    suggest_add(&work, ENGINE_ROWS_ANSWERS, 8, 100);
    struct suggestion whole = suggest(&figures, &work);
    halves_from = 8;
    struct suggestion halves = suggest(&figures, &work);
    halves_from = 0;
    expect(&whole, "auto", "opencl", NULL);
    expect(&halves, "auto", "opencl", NULL);
    double rest = 1 + 7.0 / 15; // of a layer, eight rows being so far from one to sixteen
    near(halves.seconds[ENGINE_ROWS_ANSWERS], 100 * (LAYERS * (0.1 + rest) * 1e-3 + HEAD));
    assert_true(whole.seconds[ENGINE_ROWS_ANSWERS] > halves.seconds[ENGINE_ROWS_ANSWERS]);
    suggestion_finish(&halves);
    suggestion_finish(&whole);
}

// One answer is the CPU's and sixteen the device's, where that changes no bit; of the text's are so many at once that
// either may have them.
static void few_answers_and_many(void **state) {
    (void)state;
    static const struct {
        struct figures figures;
        int at_once, prompts;
        const char *answers;
        int from;
    } CASES[] = {
        {{{1, 8, 8, 20}, {4, 2, 100, 200}, {1, 2, 4, 10}, 0.2}, 1, 0, "opencl", 16},
        {{{1, 8, 8, 20}, {4, 2, 100, 200}, {1, 2, 4, 10}, 0.2}, 20, 0, "opencl", 16},
        {{{1, 8, 8, 20}, {4, 2, 100, 200}, {1, 2, 4, 10}, 0.2}, 14, 0, "opencl", 14}, // the text's, as sixteen
        {{{1, 8, 8, 20}, {0.2, 2, 100, 200}, {1, 2, 4, 10}, 0.1}, 1, 0, "opencl", 0}, // one, too
        {{{1, 8, 8, 20}, {0.2, 9, 100, 200}, {1, 2, 4, 10}, 0.1}, 1, 0, "opencl", 0}, // as few as the text has
        {{{1, 8, 50, 180}, {4, 2, 50, 180}, {1, 2, 4, 10}, 0.2}, 1, 10, "opencl", 16}, // prompts are shared out
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct suggest_work work = {0};
        struct buffer yaml;
        char line[64];
        suggest_add(&work, ENGINE_ROWS_ANSWERS, CASES[i].at_once, 100);
        suggest_add(&work, ENGINE_ROWS_PROMPTS, 512, CASES[i].prompts);
        same_bits = true;
        struct suggestion found = suggest(&CASES[i].figures, &work);
        same_bits = false;
        if (strcmp(found.who[ENGINE_ROWS_ANSWERS], CASES[i].answers) != 0 || found.decode_from != CASES[i].from)
            fail_msg("case %zu: %s from %d", i, found.who[ENGINE_ROWS_ANSWERS], found.decode_from);
        bool gains = found.seconds[ENGINE_ROWS_ANSWERS] < found.cpu_seconds[ENGINE_ROWS_ANSWERS];
        assert_true(gains == (CASES[i].at_once >= 14 || i == 3 || i == 4));
        if (CASES[i].prompts > 0) expect(&found, "opencl", "opencl", "0-3");
        buffer_init(&yaml, 4096);
        assert_true(suggestion_yaml(&found, &yaml));
        snprintf(line, sizeof line, "\n    decode_from: %d\n", CASES[i].from);
        assert_true((strstr(yaml.data, line) != NULL) == (CASES[i].from > 0));
        buffer_finish(&yaml);
        suggestion_finish(&found);
    }
}

// Whatever was measured and counted: nothing is suggested that takes longer than the CPU alone, and lists can be read.
static void whatever_the_figures(void **state) {
    (void)state;
    uint32_t random = 1;
    int lists = 0;
    for (int round = 0; round < 2000; round++) {
        struct figures figures = {.handing = round % 3 * 0.1};
        struct suggest_work work = {0};
        double fast[3] = {0};
        for (int i = 0; i < POINTS; i++)
            for (int j = 0; j < 3; j++) {
                random = random * 1664525 + 1013904223;
                fast[j] += 0.01 + (double)(random >> 24) / 100;
                (j == 0 ? figures.cpu : j == 1 ? figures.device : figures.rest)[i] = fast[j];
            }
        for (int layer = 0; layer < LAYERS; layer++) {
            int shares[EXPERTS];
            for (int e = 0; e < EXPERTS; e++) {
                random = random * 1664525 + 1013904223;
                shares[e] = (int)(random >> 28) - 8 < 0 ? 0 : (int)(random >> 20 & 0xff);
            }
            count_rows(&counted, layer, shares);
        }
        suggest_add(&work, ENGINE_ROWS_PROMPTS, (long)(random >> 20) + 1, 2);
        suggest_add(&work, ENGINE_ROWS_ANSWERS, 1 + round % 20, 300);
        struct suggestion found = suggest(&figures, &work);
        double cpu = 0, both = 0;
        for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++) {
            assert_true(isfinite(found.seconds[kind]) && found.seconds[kind] > 0);
            cpu += found.cpu_seconds[kind];
            both += found.seconds[kind];
        }
        assert_true(both <= cpu * (1 + 1e-12));
        uint64_t experts[LAYERS];
        struct error error;
        if (placement_read_experts(NULL, found.experts, LAYERS, EXPERTS, experts, &error))
            fail_msg("%s", error.message);
        lists += found.experts != NULL;
        suggestion_finish(&found);
    }
    count_evenly(&counted);
    assert_in_range(lists, 200, 1900);
}

static int setup(void **state) {
    (void)state;
    count_evenly(&counted);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_of_many_rows_are_several),
        cmocka_unit_test(a_slow_device_gets_nothing),
        cmocka_unit_test(a_device_for_prompts),
        cmocka_unit_test(a_device_for_answers),
        cmocka_unit_test(work_is_weighed),
        cmocka_unit_test(what_was_not_measured_is_not_free),
        cmocka_unit_test(rows_that_there_were_none_of),
        cmocka_unit_test(equals_share_evenly),
        cmocka_unit_test(the_margin_is_autos),
        cmocka_unit_test(experts_without_rows),
        cmocka_unit_test(the_busiest_go_to_whom_they_suit),
        cmocka_unit_test(as_a_settings_file),
        cmocka_unit_test(answers_in_halves),
        cmocka_unit_test(few_answers_and_many),
        cmocka_unit_test(whatever_the_figures),
    };
    return cmocka_run_group_tests_name("suggest", tests, setup, NULL);
}
