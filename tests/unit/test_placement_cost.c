// What follows from figures.
#include "engine/placement_cost.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
        placement_conclude(&found, &part);
        assert_int_equal(found.halves_from, 0);
        for (int p = 0; p < 3; p++) {
            close_to(found.points[p].cpu_rate, ROWS[p] / (2 * (CASES[i].cpu + CASES[i].rest) + 1));
            close_to(ROWS[p] / found.points[p].split_rate, CASES[i].seconds[p]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_between_what_was_measured),
        cmocka_unit_test(halves_that_pay),
        cmocka_unit_test(what_a_part_of_the_experts_gives),
    };
    return cmocka_run_group_tests_name("placement_cost", tests, NULL, NULL);
}
