// What is taken for how fast a device is, and what follows from figures.
#include "engine/placement_cost.h"
#include "tests/unit/stopped_clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void close_to(double found, double expected) {
    if (!(found - expected < 1e-9 && expected - found < 1e-9)) fail_msg("expected %.9f, found %.9f", expected, found);
}

static const struct placement_part ALL = {1, 16, (const uint64_t[]){0xffff}};

static struct engine_placement figures(int count, const double (*of)[3]) { // rows, device, rest
    struct engine_placement found = {.point_count = count};
    for (int i = 0; i < count; i++)
        found.points[i] = (struct engine_placement_point){
            .rows = (int)of[i][0], .device_seconds = of[i][1], .rest_seconds = of[i][2], .cpu_seconds = 1};
    return found;
}

// ---- The best of several tries

enum { SCRIPT_CALLS = 20 };

static struct {
    double seconds[SCRIPT_CALLS]; // of the experts' calls, one after the other
    int calls;
} script;

static void route_nowhere(void *state, const struct router *router, const float *x, int rows, struct routing *routing) {
    (void)state, (void)router, (void)x, (void)rows, (void)routing;
}

static void experts_by_script(void *state, const struct layer *layer, const struct routing *routing, const float *x,
                              float *y, int rows) {
    (void)state, (void)layer, (void)routing, (void)x, (void)y, (void)rows;
    assert_in_range(script.calls, 0, SCRIPT_CALLS - 1);
    clock_at += script.seconds[script.calls++];
}

// A millisecond more each time.
static void slower_linear(void *state, const struct linear *linear, const float *x, float *y, int rows,
                          bool accumulate) {
    (void)linear, (void)x, (void)y, (void)rows, (void)accumulate;
    double *seconds = state;
    clock_at += *seconds += 1e-3;
}

// The first call warms up; then the least counts, of five more, or as many as a tenth of a second has room for.
static void the_best_of_several_counts(void **unused) {
    (void)unused;
    static const struct {
        double seconds[8], least;
        int calls;
    } CASES[] = {
        {{1e-3, 5e-3, 3e-3, 9e-3, 4e-3, 6e-3}, 3e-3, 6},
        {{9e-3, 5e-3, 30e-3, 20e-3, 60e-3}, 5e-3, 5},
        {{1, 2}, 2, 2}, // at least one
    };
    const struct stages stages = {.route = route_nowhere, .experts = experts_by_script, .linear = slower_linear};
    const struct layer layer = {.router = {.hidden = 4, .experts = 16, .top_k = 2}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        double linear_seconds = 0;
        const struct placement_devices devices = {
            .inner = &stages, .state = &linear_seconds, .layers = &layer, .layer_count = 1, .rows_max = 1};
        struct engine_placement found;
        struct error error;
        memcpy(script.seconds, CASES[i].seconds, sizeof CASES[i].seconds);
        script.calls = 0;
        stop_clock();
        if (placement_measure(&devices, &found, &error)) fail_msg("%s", error.message);
        clock_stopped = false;
        assert_int_equal(found.point_count, 1);
        assert_int_equal(script.calls, CASES[i].calls);
        close_to(found.points[0].cpu_seconds, CASES[i].least);
        close_to(found.points[0].rest_seconds, 5e-3 + 6e-3 + 7e-3 + 8e-3); // q, k, v, o of the second time
    }
}

// Each size is tried twice here, as that takes a tenth of a second; the second time counts. One that takes longer than
// a larger one is tried again, up to six times, and the least it took counts.
static void what_contradicts_is_measured_again(void **unused) {
    (void)unused;
    static const struct {
        double seconds[SCRIPT_CALLS]; // of 1, 8 and 16 rows, twice each, and of those that are tried again
        int calls;
        double least[3];
        bool contradictory;
    } CASES[] = {
        {{1, 1, 1, 2, 1, 3}, 6, {1, 2, 3}, false},
        {{1, 1, 1, 2.4, 1, 2}, 6, {1, 2.4, 2}, false}, // by less than a quarter
        {{1, 1, 1, 4, 1, 2, 9, 2}, 8, {1, 2, 2}, false},
        {{1, 8, 1, 2, 1, 2, 1, 7, 1, 1}, 10, {1, 2, 2}, false}, // at the second try
        {{1, 6, 1, 4, 1, 2, 1, 1, 1, 1.5}, 10, {1, 1.5, 2}, false}, // two of them
        {{1, 1, 1, 9, 1, 2, 1, 8, 1, 7, 1, 3, 1, 5, 1, 6, 1, 7}, 18, {1, 3, 2}, true},
    };
    const struct stages stages = {.route = route_nowhere, .experts = experts_by_script, .linear = slower_linear};
    const struct layer layer = {.router = {.hidden = 4, .experts = 16, .top_k = 2}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        double linear_seconds = 0;
        const struct placement_devices devices = {
            .inner = &stages, .state = &linear_seconds, .layers = &layer, .layer_count = 1, .rows_max = 16};
        struct engine_placement found = {.contradictory = true};
        struct error error;
        memcpy(script.seconds, CASES[i].seconds, sizeof script.seconds);
        script.calls = 0;
        stop_clock();
        if (placement_measure(&devices, &found, &error)) fail_msg("%s", error.message);
        clock_stopped = false;
        if (script.calls != CASES[i].calls) fail_msg("case %zu: %d calls", i, script.calls);
        assert_int_equal(found.point_count, 3);
        for (int p = 0; p < 3; p++) close_to(found.points[p].cpu_seconds, CASES[i].least[p]);
        assert_true(found.contradictory == CASES[i].contradictory);
    }
}

// A prompt may be faster than so few answers: it is computed in another way.
static void kinds_do_not_contradict_each_other(void **unused) {
    (void)unused;
    const struct stages stages = {.route = route_nowhere, .experts = experts_by_script, .linear = slower_linear};
    const struct layer layer = {.router = {.hidden = 4, .experts = 16, .top_k = 2}};
    double linear_seconds = 0;
    const struct placement_devices devices = {
        .inner = &stages, .state = &linear_seconds, .layers = &layer, .layer_count = 1, .rows_max = 33};
    struct engine_placement found;
    struct error error;
    memcpy(script.seconds, (const double[SCRIPT_CALLS]){1, 1, 1, 2, 1, 3, 1, 4, 1, 0.5}, sizeof script.seconds);
    script.calls = 0;
    stop_clock();
    if (placement_measure(&devices, &found, &error)) fail_msg("%s", error.message);
    clock_stopped = false;
    assert_true(script.calls == 10 && found.point_count == 5 && !found.contradictory);
}

// Whichever of its parts it is that takes too long; but of the head there may be more in a smaller call, as of a prompt
// only the last row's is computed.
static void any_part_may_contradict(void **unused) {
    (void)unused;
    static const struct {
        double of[3][5]; // rows; seconds on the CPU, on the device, of all else, of the head
        int at;          // which contradicts; -1: none
    } CASES[] = {
        {{{1, 1, 1, 1, 1}, {8, 2, 2, 2, 2}, {16, 3, 3, 3, 3}}, -1},
        {{{1, 1, 1, 1, 9}, {8, 1, 1, 1, 1}, {16, 1, 1, 1, 1}}, -1},
        {{{1, 1, 1, 1, 1}, {8, 4, 2, 2, 2}, {16, 3, 3, 3, 3}}, 1},
        {{{1, 1, 1, 1, 1}, {8, 2, 4, 2, 2}, {16, 3, 3, 3, 3}}, 1},
        {{{1, 1, 1, 1, 1}, {8, 2, 2, 4, 2}, {16, 3, 3, 3, 3}}, 1},
        {{{1, 1, 4, 1, 1}, {8, 2, 5, 2, 2}, {16, 3, 3, 3, 3}}, 0},
        {{{1, 1, 1, 1, 1}, {8, 32, 32, 32, 2}, {16, 64, 64, 64, 3}}, -1},
        {{{1, 1, 1, 1, 1}, {8, 33, 32, 32, 2}, {16, 64, 64, 64, 3}}, 1},
        {{{1, 1, 1, 1, 1}, {8, 32, 33, 32, 2}, {16, 64, 64, 64, 3}}, 1},
        {{{1, 1, 1, 1, 1}, {8, 8, 8, 8, 2}, {16, 16, 16, 65, 3}}, 2},
        {{{16, 1, 9, 9, 1}, {128, 2, 5, 5, 2}, {512, 3, 5, 5, 3}}, -1}, // answers beside prompts
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct engine_placement found = {.point_count = 3};
        for (int p = 0; p < 3; p++) {
            const double *of = CASES[i].of[p];
            found.points[p] = (struct engine_placement_point){.rows = (int)of[0], .cpu_seconds = of[1],
                                                              .device_seconds = of[2], .rest_seconds = of[3],
                                                              .head_seconds = of[4]};
        }
        const struct engine_placement_point *at = placement_contradiction(&found);
        if (at != (CASES[i].at < 0 ? NULL : &found.points[CASES[i].at])) fail_msg("case %zu", i);
    }
}

// What handing over took belongs to what the device took.
static void the_less_of_two_is_kept(void **unused) {
    (void)unused;
    static const struct {
        double one[5], other[5], kept[5]; // CPU, device, handing over, all else, head
    } CASES[] = {
        {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}, {1, 2, 3, 4, 5}}, {{6, 7, 8, 9, 10}, {1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}},
        {{1, 7, 3, 9, 5}, {6, 2, 8, 4, 10}, {1, 2, 8, 4, 5}}, {{6, 2, 8, 4, 10}, {1, 7, 3, 9, 5}, {1, 2, 8, 4, 5}},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const double *one = CASES[i].one, *other = CASES[i].other, *kept = CASES[i].kept;
        struct engine_placement_point point = {8, one[0], one[1], one[2], one[3], one[4], false, 0, 0};
        const struct engine_placement_point again = {8, other[0], other[1], other[2], other[3], other[4], false, 0, 0};
        placement_keep_less(&point, &again);
        close_to(point.cpu_seconds, kept[0]);
        close_to(point.device_seconds, kept[1]);
        close_to(point.handing_seconds, kept[2]);
        close_to(point.rest_seconds, kept[3]);
        close_to(point.head_seconds, kept[4]);
    }
}

// ---- What follows

static void costs_between_what_was_measured(void **unused) {
    (void)unused;
    static const double OF[][3] = {{8, 3, 1}, {16, 5, 3}, {128, 20, 30}, {512, 80, 120}};
    static const struct {
        bool answers;
        int rows;
        double device, rest, cpu;
    } CASES[] = {{true, 1, 3, 1, 1},   {true, 8, 3, 1, 1},    {true, 10, 3.5, 1.5, 1}, {true, 16, 5, 3, 1},
                 {true, 32, 10, 6, 2}, {false, 8, 20, 30, 1}, {false, 320, 50, 75, 1}, {false, 1024, 160, 240, 2}};
    const struct engine_placement found = figures(4, OF), none = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct placement_costs costs = placement_costs_at(&found, CASES[i].answers, CASES[i].rows);
        close_to(costs.device, CASES[i].device);
        close_to(costs.rest, CASES[i].rest);
        close_to(costs.cpu, CASES[i].cpu);
    }
    close_to(placement_costs_at(&none, true, 8).device, 0);
}

// Two halves take twice the longer of their parts: they pay where both parts grow with the rows and are as long.
static void halves_that_pay(void **unused) {
    (void)unused;
    static const struct {
        double of[4][3];
        int from;
    } CASES[] = {
        {{{1, 1, 1}, {8, 8, 8}, {16, 16, 16}, {32, 32, 32}}, 8},
        {{{1, 1, 1}, {8, 1, 1}, {16, 16, 16}, {32, 32, 32}}, 16},    // 8 take as long as 1: they are read, not computed
        {{{1, 1, 1}, {8, 1.1, 1.1}, {16, 1.2, 1.2}, {32, 1.3, 1.3}}, 0}, // so do all
        {{{1, 0.1, 1}, {8, 0.8, 8}, {16, 1.6, 16}, {32, 3.2, 32}}, 0}, // the device has too little for the CPU to hide
        {{{1, 1, 1}, {8, 8, 8}, {16, 16, 16}, {32, 16, 16}}, 0}, // not where more of them do not pay
        {{{1, 0, 1}, {8, 0, 8}, {16, 0, 16}, {32, 0, 32}}, 0}, // no device
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct engine_placement found = figures(4, CASES[i].of);
        if (placement_halves_from(&found, &ALL) != CASES[i].from)
            fail_msg("case %zu: from %d on", i, placement_halves_from(&found, &ALL));
    }
}

// Two layers of four experts, of which the device has the first layer's half; one row takes a second of the head too.
static void what_a_part_of_the_experts_gives(void **unused) {
    (void)unused;
    static const struct {
        uint64_t of_layer[2];
        double cpu, device, rest; // a layer's, all its experts
        double seconds[3];        // of all layers and the head: 1 answer; 32 answers, 128 rows of a prompt
    } CASES[] = {
        {{0xf, 0xf}, 8, 2, 1, {7, 7, 5.5}}, // a prompt: the device 2 beside 1, and half of a layer's 1 at the ends
        {{0x3, 0x0}, 8, 2, 1, {15, 15, 15.25}}, // the CPU's part is the longer
        {{0x3, 0x3}, 4, 8, 1, {11, 11, 10.5}}, // the device's
        {{0x0, 0x0}, 4, 8, 1, {11, 11, 11}}, // the CPU has all
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        static const int ROWS[] = {1, 32, 128};
        const struct placement_part part = {2, 4, CASES[i].of_layer};
        struct engine_placement found = {.point_count = 3};
        for (int p = 0; p < 3; p++)
            found.points[p] = (struct engine_placement_point){.rows = ROWS[p],
                                                              .cpu_seconds = CASES[i].cpu,
                                                              .device_seconds = CASES[i].device,
                                                              .rest_seconds = CASES[i].rest,
                                                              .head_seconds = 1};
        placement_conclude(&found, &part, 0);
        assert_int_equal(found.halves_from, 0);
        for (int p = 0; p < 3; p++) {
            close_to(found.points[p].cpu_rate, ROWS[p] / (2 * (CASES[i].cpu + CASES[i].rest) + 1));
            close_to(ROWS[p] / found.points[p].split_rate, CASES[i].seconds[p]);
        }
    }
}

// The CPU hands over before it does anything beside the device, and only where that has experts.
static void handing_over_is_the_cpus(void **unused) {
    (void)unused;
    static const struct {
        uint64_t of_layer[1];
        double answer, prompt; // seconds
    } CASES[] = {
        {{0xf}, 4, 4},    // 3 of the device; a prompt: half of the CPU's 2 at the ends
        {{0x3}, 5, 5.75}, // 1.5 of the device; the CPU has 3 of its own as well
        {{0x0}, 7, 7},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct placement_part part = {1, 4, CASES[i].of_layer};
        struct engine_placement found = {.point_count = 2};
        for (int p = 0; p < 2; p++)
            found.points[p] = (struct engine_placement_point){.rows = p ? 128 : 1,
                                                              .cpu_seconds = 6,
                                                              .device_seconds = 3,
                                                              .handing_seconds = 1,
                                                              .rest_seconds = 1};
        placement_conclude(&found, &part, 0);
        close_to(1 / found.points[0].split_rate, CASES[i].answer);
        close_to(128 / found.points[1].split_rate, CASES[i].prompt);
    }
}

// Where somebody says from how many answers on, whether it pays or not; a single one has no halves.
static void halves_as_they_are_asked_for(void **unused) {
    (void)unused;
    static const double OF[][3] = {{1, 3, 1}, {8, 3, 1}, {16, 3, 1}}; // halves take 6 seconds, the whole 4
    static const struct {
        int from;
        double seconds[3];
    } CASES[] = {{0, {4, 4, 4}}, {1, {4, 6, 6}}, {9, {4, 4, 6}}, {17, {4, 4, 4}}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct engine_placement found = figures(3, OF);
        placement_conclude(&found, &ALL, CASES[i].from);
        assert_int_equal(found.halves_from, CASES[i].from);
        for (int p = 0; p < 3; p++) close_to(found.points[p].rows / found.points[p].split_rate, CASES[i].seconds[p]);
    }
}

// What counts is the whole: what passes beside the CPU's work costs nothing, and what the device saves has to be a
// tenth of all there is, in calls of all sizes.
static void the_whole_decides(void **unused) {
    (void)unused;
    static const struct {
        double device[3], cpu[3], rest, head; // 1 answer, 32, and 128 rows of a prompt, in one layer
        bool answers, prompts;
    } CASES[] = {
        {{1, 1, 1}, {2, 2, 2}, 1, 0, true, true},
        {{2.1, 2.1, 2.1}, {2, 2, 2}, 1, 0, false, true}, // slower than the CPU, but beside its rest: 2.6 for 3
        {{2.3, 2.3, 2.3}, {2, 2, 2}, 1, 0, false, false}, // 2.8 for 3
        {{1, 1, 1}, {2, 2, 2}, 9, 0, false, true},       // 10 for 11; 9.5 for 11
        {{1, 1, 1}, {2, 2, 2}, 20, 0, false, false},     // 21 for 22; 20.5 for 22
        {{1, 1, 1}, {2, 2, 2}, 1, 8, false, true},       // the same of the head
        {{1, 3, 1}, {2, 2, 2}, 1, 0, false, true},
        {{3, 1, 1}, {2, 2, 2}, 1, 0, false, true}, // one answer is the phase's, too
        {{1, 1, 0}, {2, 2, 2}, 1, 0, true, false}, // not measured
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        static const int ROWS[] = {1, 32, 128};
        struct engine_placement found = {.point_count = 3};
        for (int p = 0; p < 3; p++)
            found.points[p] = (struct engine_placement_point){.rows = ROWS[p],
                                                              .cpu_seconds = CASES[i].cpu[p],
                                                              .device_seconds = CASES[i].device[p],
                                                              .rest_seconds = CASES[i].rest,
                                                              .head_seconds = CASES[i].head};
        placement_conclude(&found, &ALL, 0);
        if (placement_worth_from(&found, true, false) != CASES[i].answers) fail_msg("answers of case %zu", i);
        if (placement_worth_from(&found, false, false) != CASES[i].prompts) fail_msg("prompts of case %zu", i);
    }
    const struct engine_placement none = {0};
    assert_int_equal(placement_worth_from(&none, true, false), 1);
    assert_int_equal(placement_worth_from(&none, false, false), 1);
}

// Where few answers may be the CPU's and many the device's: from the least size on from which on all sizes pay.
static void how_many_answers_are_worth_it(void **unused) {
    (void)unused;
    static const struct {
        double device[5]; // seconds for 1, 8, 16, 32 answers and for 128 rows of a prompt, where the CPU takes one
        int from;
    } CASES[] = {
        {{0.5, 0.5, 0.5, 0.5, 2}, 1}, {{2, 0.5, 0.5, 0.5, 2}, 8}, {{2, 2, 2, 0.5, 2}, 32},
        {{2, 0.5, 2, 0.5, 2}, 32}, // not from 8 on, as 16 do not pay
        {{0.5, 0.5, 0.5, 2, 0.5}, 0}, {{2, 0.95, 0.5, 0.5, 2}, 16}, {{2, 0.5, 0.5, 0, 2}, 0},
    };
    static const int ROWS[] = {1, 8, 16, 32, 128};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct engine_placement found = {.point_count = 5};
        for (int p = 0; p < 5; p++)
            found.points[p] = (struct engine_placement_point){
                .rows = ROWS[p], .cpu_seconds = 1, .device_seconds = CASES[i].device[p]};
        placement_conclude(&found, &ALL, ENGINE_SEQUENCES_MAX);
        if (placement_worth_from(&found, true, true) != CASES[i].from) fail_msg("case %zu", i);
        assert_int_equal(placement_worth_from(&found, true, false), CASES[i].from == 1);
    }
}

// A part of the experts saves a part of the time.
static void a_few_experts_are_worth_less(void **unused) {
    (void)unused;
    static const double OF[][3] = {{1, 0.2, 0.1}};
    for (int experts = 0; experts <= 4; experts++) {
        const uint64_t mask = (UINT64_C(1) << experts) - 1;
        const struct placement_part part = {1, 16, &mask};
        struct engine_placement found = figures(1, OF);
        placement_conclude(&found, &part, 0);
        assert_true(placement_worth_from(&found, true, false) == (experts >= 2)); // one of sixteen is not a tenth
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_of_several_counts),
        cmocka_unit_test(what_contradicts_is_measured_again),
        cmocka_unit_test(kinds_do_not_contradict_each_other),
        cmocka_unit_test(any_part_may_contradict),
        cmocka_unit_test(the_less_of_two_is_kept),
        cmocka_unit_test(costs_between_what_was_measured),
        cmocka_unit_test(halves_that_pay),
        cmocka_unit_test(what_a_part_of_the_experts_gives),
        cmocka_unit_test(handing_over_is_the_cpus),
        cmocka_unit_test(halves_as_they_are_asked_for),
        cmocka_unit_test(the_whole_decides),
        cmocka_unit_test(how_many_answers_are_worth_it),
        cmocka_unit_test(a_few_experts_are_worth_less),
    };
    return cmocka_run_group_tests_name("placement_cost", tests, NULL, NULL);
}
