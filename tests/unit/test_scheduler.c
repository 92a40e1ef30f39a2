// The scheduler: exact on small cases, fair over thousands of random ones, and its chunk under a clock that is told.
#include "engine/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void expect_rows(struct scheduler *scheduler, struct scheduler_sequence *sequences, size_t count,
                        const int *expected) {
    int rows[16], sum = 0;
    for (size_t i = 0; i < count; i++) sum += expected[i];
    assert_int_equal(scheduler_next(scheduler, sequences, count, rows), sum);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(rows[i], expected[i]);
        if (sequences[i].prompt_left > 0) sequences[i].prompt_left -= (size_t)rows[i];
    }
    scheduler_measured(scheduler, 0); // a clock that stands still
}
#define EXPECT(scheduler, sequences, ...) \
    expect_rows(scheduler, sequences, sizeof(sequences) / sizeof *(sequences), (const int[]){__VA_ARGS__})

static void nothing_without_work(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 8};
    assert_int_equal(scheduler_next(&scheduler, NULL, 0, NULL), 0);
    struct scheduler_sequence paused[] = {{.prompt_left = 5, .paused = true}, {.paused = true}};
    EXPECT(&scheduler, paused, 0, 0);
}

// One prompt of 20 beside two streams, in chunks of 8: streams have a row in each step.
static void steps_are_mixed(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 8};
    struct scheduler_sequence sequences[] = {{.prompt_left = 0}, {.prompt_left = 20}, {.prompt_left = 0}};
    EXPECT(&scheduler, sequences, 1, 8, 1);
    EXPECT(&scheduler, sequences, 1, 8, 1);
    EXPECT(&scheduler, sequences, 1, 4, 1);
    EXPECT(&scheduler, sequences, 1, 1, 1); // it decodes, too
}

// A quarter of the chunk goes by turns, the rest to the shortest.
static void short_prompts_come_first(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 16};
    struct scheduler_sequence sequences[] = {
        {.prompt_left = 100}, {.prompt_left = 9}, {.prompt_left = 40, .paused = true}, {.prompt_left = 30}};
    EXPECT(&scheduler, sequences, 4, 9, 0, 3);  // the first's turn
    sequences[2].paused = false;                // the second's is over: it decodes
    EXPECT(&scheduler, sequences, 0, 1, 4, 12); // the third's
    EXPECT(&scheduler, sequences, 0, 1, 1, 15); // the fourth's, which is also the shortest
    EXPECT(&scheduler, sequences, 4, 1, 12, 1);
    scheduler.prefill_tokens_max = 2; // a turn is worth one row at least
    EXPECT(&scheduler, sequences, 0, 1, 2, 1);
    EXPECT(&scheduler, sequences, 1, 1, 1, 1);
}

// Three prompts of one client, and one of another, which is longer than each of these, beside a stream.
static void one_does_not_wait_for_many(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 16};
    const struct scheduler_sequence many = {.prompt_left = 10, .client_left = 30};
    struct scheduler_sequence sequences[] = {many, many, many, {.prompt_left = 12, .client_left = 12}, {0}};
    EXPECT(&scheduler, sequences, 4, 0, 0, 12, 1); // a quarter by turns
    EXPECT(&scheduler, sequences, 6, 10, 0, 1, 1);
    EXPECT(&scheduler, sequences, 1, 1, 10, 1, 1);
}

static void some_have_bounds_of_their_own(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 40};
    struct scheduler_sequence sequences[] = {{.prompt_left = 50, .rows_max = 6}, {.prompt_left = 50}};
    EXPECT(&scheduler, sequences, 6, 34);
    EXPECT(&scheduler, sequences, 6, 16);
}

// It is known that steps of prompts take no time to speak of.
#define QUICK .alone_rows = 1, .alone_seconds = 1e-6

// While nobody decodes, prompts of up to a chunk are computed whole, as far as four chunks go.
static void short_prompts_go_together(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 16, QUICK};
    struct scheduler_sequence ten[10];
    for (int i = 0; i < 10; i++) ten[i] = (struct scheduler_sequence){.prompt_left = 8};
    EXPECT(&scheduler, ten, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0);
    EXPECT(&scheduler, ten, 1, 1, 1, 1, 1, 1, 1, 1, 8, 8);

    struct scheduler_sequence mixed[] = {{.prompt_left = 20}, {.prompt_left = 15}, {.prompt_left = 16},
                                         {.prompt_left = 17}, {.prompt_left = 16, .rows_max = 2},
                                         {.prompt_left = 14, .paused = true}};
    scheduler = (struct scheduler){.prefill_tokens_max = 16, QUICK};
    EXPECT(&scheduler, mixed, 4, 15, 16, 0, 0, 0); // the turn's part of the chunk, and who fits whole
    struct scheduler_sequence full[] = {{.prompt_left = 16}, {.prompt_left = 16}, {.prompt_left = 16},
                                        {.prompt_left = 16}, {.prompt_left = 16}};
    scheduler = (struct scheduler){.prefill_tokens_max = 16, QUICK};
    EXPECT(&scheduler, full, 16, 16, 16, 16, 0);
    struct scheduler_sequence unlike[] = {{.prompt_left = 16}, {.prompt_left = 16}, {.prompt_left = 16},
                                          {.prompt_left = 9}, {.prompt_left = 10}};
    scheduler = (struct scheduler){.prefill_tokens_max = 16, QUICK};
    EXPECT(&scheduler, unlike, 16, 16, 0, 9, 10); // as many as go, so the shortest
    struct scheduler_sequence beside[] = {{.prompt_left = 8}, {.prompt_left = 0}, {.prompt_left = 16}};
    EXPECT(&scheduler, beside, 8, 1, 8); // somebody decodes: no more than a chunk
}

// … and as far as the last step lets expect that they take no longer than five seconds; until one has, a chunk.
static void together_for_so_long(void **state) {
    (void)state;
    static const struct {
        int rows; // of the last step, and what it took
        double seconds;
        int together;
    } CASES[] = {{0, 0, 16}, {16, 0.5, 64}, {16, 2, 48}, {16, 2.5, 32}, {16, 10, 16}, {64, 60, 16}};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        struct scheduler scheduler = {
            .prefill_tokens_max = 16, .alone_rows = CASES[c].rows, .alone_seconds = CASES[c].seconds};
        const struct scheduler_sequence five[] = {
            {.prompt_left = 16}, {.prompt_left = 16}, {.prompt_left = 16}, {.prompt_left = 16}, {.prompt_left = 16}};
        int rows[5];
        assert_int_equal(scheduler_next(&scheduler, five, 5, rows), CASES[c].together);
    }
}

// Steps without answers, one after the other, and how many rows the next one may have then.
static void what_tells_most(void **state) {
    (void)state;
    static const struct {
        int rows;
        double seconds;
        int together;
    } STEPS[] = {
        {8, 1.5, 39}, // all that is known
        {40, 4, 53}, // more rows
        {8, 1.5, 53}, // the larger step explains it: rows cost more in small ones
        {40, 6.25, 29}, // the machine has become slower
        {8, 6.5, 16}, // … and much slower: longer than the larger step
        {4, 2, 16}, // nothing new
        {8, 2, 27}, // faster
        {8, 0.8, 64},
        {40, 4, 53},
        {4, 0.3, 64}, // for each row faster than the larger step
    };
    struct scheduler scheduler = {.prefill_tokens_max = 16};
    struct scheduler_sequence ones[70];
    int rows[70];
    for (size_t i = 0; i < 70; i++) ones[i] = (struct scheduler_sequence){.prompt_left = 1};
    for (size_t s = 0; s < sizeof STEPS / sizeof *STEPS; s++) {
        scheduler_next(&scheduler, ones, (size_t)STEPS[s].rows, rows);
        assert_in_range(scheduler.planned, 1, STEPS[s].rows);
        scheduler.planned = STEPS[s].rows; // as if they had all been let in
        scheduler_measured(&scheduler, STEPS[s].seconds);
        assert_int_equal(scheduler_next(&scheduler, ones, 70, rows), STEPS[s].together);
    }
}

static void rows_in_a_step(void **state) {
    (void)state;
    assert_int_equal(scheduler_rows_max(1), 4);
    assert_int_equal(scheduler_rows_max(511), 2044);
    assert_int_equal(scheduler_rows_max(512), 2048);
    assert_int_equal(scheduler_rows_max(1000), 2048);
    assert_int_equal(scheduler_rows_max(2049), 2049);
    assert_int_equal(scheduler_rows_max(65536), 65536);
}

// Others are waited for while nobody decodes and there is room: the next one for a fiftieth of the time that what is at
// hand takes, all of them for a tenth.
static void a_moment_for_others(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 64};
    struct scheduler_sequence sequences[] = {{.prompt_left = 32}, {.paused = true}};
    int rows[2];
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(scheduler_patience(&scheduler, 0, 0) == 0); // nothing is known
    scheduler_measured(&scheduler, 0.5);
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(fabs(scheduler_patience(&scheduler, 0, 0) - 0.01) < 1e-12);
    assert_true(fabs(scheduler_patience(&scheduler, 0.03, 0.004) - 0.006) < 1e-12); // the last came a moment ago
    assert_true(fabs(scheduler_patience(&scheduler, 0.045, 0.004) - 0.005) < 1e-12); // the first, a while
    assert_true(scheduler_patience(&scheduler, 0.045, 0.0101) == 0);
    assert_true(scheduler_patience(&scheduler, 0.0501, 0) == 0);
    sequences[0].prompt_left = 2; // a sixteenth of the rows takes an eighth of the time
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(fabs(scheduler_patience(&scheduler, 0, 0) - 0.00125) < 1e-12);
    sequences[0].prompt_left = 64; // a whole chunk: three more could go along
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(fabs(scheduler_patience(&scheduler, 0, 0) - 0.0168179) < 1e-7);
    struct scheduler_sequence full[4];
    int full_rows[4];
    for (int i = 0; i < 4; i++) full[i] = sequences[0];
    for (int less = 0; less < 2; less++) {
        full[3].prompt_left = 64 - (size_t)less;
        scheduler_next(&scheduler, full, 4, full_rows);
        assert_true((scheduler_patience(&scheduler, 0, 0) == 0) == !less);
    }
    sequences[0].prompt_left = 32;
    sequences[1].paused = false; // who decodes, waits for nobody
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(scheduler_patience(&scheduler, 0, 0) == 0);
    scheduler_measured(&scheduler, 100); // and what such a step takes is not what prompts take
    sequences[1].paused = true;
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(fabs(scheduler_patience(&scheduler, 0, 0) - 0.01) < 1e-12);
    sequences[1].paused = true;
    scheduler_measured(&scheduler, 3600); // who was stopped for an hour does not wait for a minute
    scheduler_next(&scheduler, sequences, 2, rows);
    assert_true(scheduler_patience(&scheduler, 0, 0) == 0.1);
}

// Random arrivals, ends, pauses, bounds and chunks. Who decodes has a row in every step. The chunk is used up while
// there are rows for it, and while nobody decodes, up to four of them. And whoever can run gets, once in as many steps
// as there are places, at least its part of the chunk by turns: so a prompt of any length ends, however many short ones
// come before it.
static void nobody_starves(void **state) {
    (void)state;
    enum { PLACES = 12, SCENARIOS = 3000, STEPS = 200 };
    srandom(7);
    for (int scenario = 0; scenario < SCENARIOS; scenario++) {
        struct scheduler scheduler = {.prefill_tokens_max = 1 + (int)(random() % 300)};
        struct scheduler_sequence sequences[PLACES];
        int waited[PLACES] = {0}, rows[PLACES];
        size_t count = 1 + (size_t)random() % PLACES;
        long arrival = 1 + random() % 30, pause = 1 + random() % 50, end = 1 + random() % 50;
        int share = scheduler.prefill_tokens_max / SCHEDULER_TURN_SHARE;
        for (size_t i = 0; i < count; i++) sequences[i] = (struct scheduler_sequence){.paused = true};
        bool live[PLACES] = {false};

        for (int step = 0; step < STEPS; step++) {
            int decoding = 0, wanted = 0, sum = 0;
            for (size_t i = 0; i < count; i++) {
                if (!live[i] && random() % arrival == 0) {
                    live[i] = true;
                    sequences[i] = (struct scheduler_sequence){.prompt_left = 1 + (size_t)random() % 2000,
                                                               .client_left = (size_t)random() % 4000,
                                                               .rows_max = random() % 5 ? 0 : 1 + (int)random() % 64};
                    waited[i] = 0;
                } else if (live[i] && random() % pause == 0) {
                    sequences[i].paused = !sequences[i].paused;
                    waited[i] = 0;
                }
                if (sequences[i].paused) continue;
                int most = sequences[i].rows_max > 0 ? sequences[i].rows_max : 2000,
                    left = (int)sequences[i].prompt_left;
                decoding += left == 0;
                wanted += left < most ? left : most;
            }

            int total = scheduler_next(&scheduler, sequences, count, rows), chunk = scheduler.prefill_tokens_max;
            int least = wanted < chunk ? wanted : chunk;
            if (decoding > 0)
                assert_int_equal(total, decoding + least);
            else
                assert_in_range(total, least, scheduler_rows_max(chunk));
            for (size_t i = 0; i < count; i++) {
                sum += rows[i];
                if (sequences[i].paused) {
                    assert_int_equal(rows[i], 0);
                    continue;
                }
                int left = (int)sequences[i].prompt_left, bound = sequences[i].rows_max;
                if (left == 0) {
                    assert_int_equal(rows[i], 1);
                    if (random() % end == 0) {
                        live[i] = false;
                        sequences[i].paused = true;
                    }
                    continue;
                }
                assert_true(rows[i] >= 0 && rows[i] <= left && (bound == 0 || rows[i] <= bound));
                int fair = share > 0 ? share : 1;
                if (fair > left) fair = left;
                if (bound > 0 && fair > bound) fair = bound;
                waited[i] = rows[i] >= fair ? 0 : waited[i] + 1;
                assert_true(waited[i] < (int)count);
                sequences[i].prompt_left -= (size_t)rows[i];
            }
            assert_int_equal(sum, total);
            scheduler_measured(&scheduler, 0);
        }
    }
}

// One prompt of 1,000 tokens while in every step a new short one comes that would use up the whole chunk.
static void a_long_prompt_ends_among_short_ones(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 32};
    struct scheduler_sequence sequences[] = {{.prompt_left = 1000}, {0}, {0}};
    int rows[3], steps = 0;
    for (; sequences[0].prompt_left > 0; steps++) {
        assert_true(steps <= 3 * 1000 / 8);
        sequences[1].prompt_left = sequences[2].prompt_left = 32;
        scheduler_next(&scheduler, sequences, 3, rows);
        scheduler_measured(&scheduler, 0);
        sequences[0].prompt_left -= (size_t)rows[0];
    }
    assert_true(steps > 1000 / 32); // it did have to share
}

// ---- The chunk, for a machine on which a step takes so long and so much longer for each row of a prompt

struct machine {
    double base_seconds, row_seconds;
};

// The rows of a prompt without end in the next step, beside a stream; `*seconds` is what the step takes.
static int next_chunk(struct scheduler *scheduler, const struct machine *machine, double *seconds) {
    const struct scheduler_sequence sequences[] = {{.prompt_left = 0}, {.prompt_left = 1000000}};
    int rows[2];
    scheduler_next(scheduler, sequences, 2, rows);
    *seconds = machine->base_seconds + machine->row_seconds * rows[1];
    scheduler_measured(scheduler, *seconds);
    return rows[1];
}

static void the_chunk_follows_the_target(void **state) {
    (void)state;
    static const struct machine MACHINES[] = {{0.01, 0.001}, {0.3, 0.002}, {0, 0.003}, {0.2, 0.0005}};
    for (size_t m = 0; m < sizeof MACHINES / sizeof *MACHINES; m++) {
        const struct machine *machine = &MACHINES[m];
        struct scheduler scheduler = {.prefill_tokens_max = 4096, .step_target_seconds = 0.5};
        double seconds, ideal = (0.5 - machine->base_seconds) / machine->row_seconds;
        assert_int_equal(next_chunk(&scheduler, machine, &seconds), SCHEDULER_CHUNK_MIN);
        for (int i = 0; i < 40; i++) {
            next_chunk(&scheduler, machine, &seconds);
            assert_true(seconds <= 0.5 * 1.001); // from below: never over the target
        }
        assert_true(next_chunk(&scheduler, machine, &seconds) >= 0.95 * ideal);

        struct machine slower = {2 * machine->base_seconds, 2 * machine->row_seconds}; // another program begins
        int before = next_chunk(&scheduler, &slower, &seconds), after = next_chunk(&scheduler, &slower, &seconds);
        assert_true(after <= 0.6 * before || after == SCHEDULER_CHUNK_MIN);
        for (int i = 0; i < 40; i++) next_chunk(&scheduler, &slower, &seconds);
        ideal = (0.5 - slower.base_seconds) / slower.row_seconds;
        if (ideal > SCHEDULER_CHUNK_MIN)
            assert_true(fabs(next_chunk(&scheduler, &slower, &seconds) - ideal) < 0.1 * ideal);
    }
}

// It grows by no more than twice at once, and only by steps that say how long it takes.
static void the_chunk_grows_with_care(void **state) {
    (void)state;
    static const struct {
        int decoding, wanted; // rows of prompts there are
        double seconds;
        int chunk; // of the next step beside an answer
    } STEPS[] = {
        {1, 1000, 0.01, 128}, // 64 of them: fifty times as many would fit
        {1, 100, 0.3, 128},   // not all of it was used: 166 of as many might fit
        {1, 20, 0.6, 64},     // … but too long is too long
        {1, 1000, 0.25, 128},
        {0, 1000, 2, 128}, // all 1,000, without answers: a fourth would fit, without answers
    };
    struct scheduler scheduler = {.prefill_tokens_max = 1000, .step_target_seconds = 0.5};
    int rows[2];
    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++) {
        struct scheduler_sequence sequences[] = {{.prompt_left = (size_t)STEPS[i].wanted},
                                                 {.paused = !STEPS[i].decoding}};
        scheduler_next(&scheduler, sequences, 2, rows);
        scheduler_measured(&scheduler, STEPS[i].seconds);
        sequences[0].prompt_left = 10000;
        sequences[1].paused = false;
        scheduler_next(&scheduler, sequences, 2, rows);
        assert_int_equal(rows[0], STEPS[i].chunk);
    }
}

// What can not be reached, is not paid for with chunks so small that prompts never end.
static void the_chunk_has_bounds(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 256, .step_target_seconds = 0.5};
    double seconds;
    for (int i = 0; i < 20; i++)
        assert_int_equal(next_chunk(&scheduler, &(struct machine){1, 0.01}, &seconds), SCHEDULER_CHUNK_MIN);
    for (int i = 0; i < 20; i++) next_chunk(&scheduler, &(struct machine){0.001, 0.00001}, &seconds);
    assert_int_equal(next_chunk(&scheduler, &(struct machine){0.001, 0.00001}, &seconds), 256);
    scheduler.prefill_tokens_max = 7;
    assert_int_equal(next_chunk(&scheduler, &(struct machine){1, 0.01}, &seconds), 7);
}

static void the_chunk_is_whole_when_nobody_waits(void **state) {
    (void)state;
    int rows[2];
    struct scheduler scheduler = {.prefill_tokens_max = 300, .step_target_seconds = 0.5};
    struct scheduler_sequence alone[] = {{.prompt_left = 10000}, {.paused = true}};
    assert_int_equal(scheduler_next(&scheduler, alone, 2, rows), 300);
    scheduler_measured(&scheduler, 3); // 50 in half a second
    alone[1].paused = false;
    scheduler_next(&scheduler, alone, 2, rows);
    assert_int_equal(rows[0], SCHEDULER_CHUNK_MIN);
    scheduler_measured(&scheduler, 0); // a clock that stands still says nothing
    alone[1].paused = true;
    assert_int_equal(scheduler_next(&scheduler, alone, 2, rows), 300);

    struct scheduler no_target = {.prefill_tokens_max = 300};
    alone[1].paused = false;
    for (int i = 0; i < 5; i++) {
        scheduler_next(&no_target, alone, 2, rows);
        assert_int_equal(rows[0], 300);
        scheduler_measured(&no_target, 100.0 / (i + 1)); // whatever the clock says
    }
}

static void same_input_same_answer(void **state) {
    (void)state;
    struct scheduler_sequence sequences[] = {{.prompt_left = 6}, {.prompt_left = 0}, {.prompt_left = 9}};
    struct scheduler a = {.prefill_tokens_max = 4, .turn = 2}, b = a;
    int first[3], second[3];
    assert_int_equal(scheduler_next(&a, sequences, 3, first), scheduler_next(&b, sequences, 3, second));
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(a.planned_turn, b.planned_turn);
}

// A turn passes with a step, not with a plan: who is planned for, and then waited beside, keeps its place.
static void plans_that_are_dropped_cost_no_turn(void **state) {
    (void)state;
    struct scheduler_sequence sequences[] = {{.prompt_left = 90}, {.prompt_left = 80}, {.prompt_left = 70}};
    struct scheduler scheduler = {.prefill_tokens_max = 8};
    int rows[3], again[3];
    for (int step = 0; step < 4; step++) {
        scheduler_next(&scheduler, sequences, 3, rows);
        assert_true(rows[step % 3] >= 8 / SCHEDULER_TURN_SHARE);
        for (int i = 0; i < 2; i++) {
            scheduler_next(&scheduler, sequences, 3, again);
            assert_memory_equal(rows, again, sizeof rows);
        }
        scheduler_measured(&scheduler, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_without_work),
        cmocka_unit_test(steps_are_mixed),
        cmocka_unit_test(short_prompts_come_first),
        cmocka_unit_test(one_does_not_wait_for_many),
        cmocka_unit_test(some_have_bounds_of_their_own),
        cmocka_unit_test(short_prompts_go_together),
        cmocka_unit_test(together_for_so_long),
        cmocka_unit_test(what_tells_most),
        cmocka_unit_test(rows_in_a_step),
        cmocka_unit_test(a_moment_for_others),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(a_long_prompt_ends_among_short_ones),
        cmocka_unit_test(the_chunk_follows_the_target),
        cmocka_unit_test(the_chunk_grows_with_care),
        cmocka_unit_test(the_chunk_has_bounds),
        cmocka_unit_test(the_chunk_is_whole_when_nobody_waits),
        cmocka_unit_test(same_input_same_answer),
        cmocka_unit_test(plans_that_are_dropped_cost_no_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
