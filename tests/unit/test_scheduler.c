// The scheduler: exact on small cases, and fair over thousands of random ones.
#include "engine/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static void nothing_without_work(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 8};
    assert_int_equal(scheduler_next(&scheduler, NULL, 0).kind, SCHEDULE_NOTHING);
    struct scheduler_sequence paused[] = {{.prompt_left = 5, .paused = true}, {.paused = true}};
    assert_int_equal(scheduler_next(&scheduler, paused, 2).kind, SCHEDULE_NOTHING);
}

// One prompt of 20 beside a stream, in chunks of 8: the two kinds take turns.
static void steps_take_turns(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 8};
    struct scheduler_sequence sequences[] = {{.prompt_left = 20}, {.prompt_left = 0}};
    const int expected[] = {0, 8, 0, 8, 0, 4, 0, 0}; // 0: a decode step
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct schedule next = scheduler_next(&scheduler, sequences, 2);
        assert_int_equal(next.kind, expected[i] ? SCHEDULE_PREFILL : SCHEDULE_DECODE);
        if (next.kind != SCHEDULE_PREFILL) continue;
        assert_int_equal(next.sequence, 0);
        assert_int_equal(next.tokens, expected[i]);
        sequences[0].prompt_left -= (size_t)next.tokens;
    }
}

static void prompts_take_turns(void **state) {
    (void)state;
    struct scheduler scheduler = {.prefill_tokens_max = 4};
    struct scheduler_sequence sequences[] = {{6, false}, {0, true}, {9, false}, {100, true}, {1, false}};
    const struct {
        size_t sequence;
        int tokens;
    } expected[] = {{0, 4}, {2, 4}, {4, 1}, {0, 2}, {2, 4}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct schedule next = scheduler_next(&scheduler, sequences, 5);
        if (next.kind == SCHEDULE_DECODE) next = scheduler_next(&scheduler, sequences, 5);
        assert_int_equal(next.kind, SCHEDULE_PREFILL);
        assert_int_equal(next.sequence, expected[i].sequence);
        assert_int_equal(next.tokens, expected[i].tokens);
        sequences[next.sequence].prompt_left -= (size_t)next.tokens;
    }
}

// Random arrivals, ends, pauses and chunk sizes. Whoever can run is served in bounded time: one that decodes in
// every second step at least, one of P prompts that could run in the meantime in 2 P steps.
static void nobody_starves(void **state) {
    (void)state;
    enum { PLACES = 12, SCENARIOS = 3000, STEPS = 200 };
    srandom(7);
    for (int scenario = 0; scenario < SCENARIOS; scenario++) {
        struct scheduler scheduler = {.prefill_tokens_max = 1 + (int)(random() % 300)};
        struct scheduler_sequence sequences[PLACES];
        int waited[PLACES] = {0};
        size_t count = 1 + (size_t)random() % PLACES;
        long arrival = 1 + random() % 30, pause = 1 + random() % 50, end = 1 + random() % 50;
        for (size_t i = 0; i < count; i++) sequences[i] = (struct scheduler_sequence){.paused = true};
        bool live[PLACES] = {false};

        for (int step = 0; step < STEPS; step++) {
            bool decodes = false, prefills = false;
            for (size_t i = 0; i < count; i++) {
                if (!live[i] && random() % arrival == 0) {
                    live[i] = true;
                    sequences[i] = (struct scheduler_sequence){.prompt_left = 1 + (size_t)random() % 2000};
                    waited[i] = 0;
                } else if (live[i] && random() % pause == 0) {
                    sequences[i].paused = !sequences[i].paused;
                    waited[i] = 0;
                }
                if (sequences[i].paused) continue;
                *(sequences[i].prompt_left > 0 ? &prefills : &decodes) = true;
            }

            struct schedule next = scheduler_next(&scheduler, sequences, count);
            if (!decodes && !prefills) {
                assert_int_equal(next.kind, SCHEDULE_NOTHING);
                continue;
            }
            assert_true(next.kind == SCHEDULE_DECODE ? decodes : prefills);
            if (next.kind == SCHEDULE_PREFILL) {
                assert_true(next.sequence < count && live[next.sequence] && !sequences[next.sequence].paused);
                assert_in_range(next.tokens, 1, scheduler.prefill_tokens_max);
                assert_true((size_t)next.tokens <= sequences[next.sequence].prompt_left);
            }
            for (size_t i = 0; i < count; i++) {
                if (sequences[i].paused) continue;
                bool decoding = sequences[i].prompt_left == 0;
                bool served =
                    decoding ? next.kind == SCHEDULE_DECODE : next.kind == SCHEDULE_PREFILL && next.sequence == i;
                waited[i] = served ? 0 : waited[i] + 1;
                assert_true(waited[i] <= (decoding ? 1 : 2 * (int)count));
                if (served && !decoding) {
                    sequences[i].prompt_left -= (size_t)next.tokens;
                } else if (served && random() % end == 0) {
                    live[i] = false;
                    sequences[i].paused = true;
                }
            }
        }
    }
}

static void same_input_same_answer(void **state) {
    (void)state;
    struct scheduler_sequence sequences[] = {{6, false}, {0, false}, {9, false}};
    struct scheduler a = {.prefill_tokens_max = 4, .decoded_last = true, .turn = 2}, b = a;
    struct schedule first = scheduler_next(&a, sequences, 3), second = scheduler_next(&b, sequences, 3);
    assert_int_equal(first.kind, second.kind);
    assert_int_equal(first.sequence, second.sequence);
    assert_int_equal(first.tokens, second.tokens);
    assert_int_equal(a.turn, b.turn);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_without_work),   cmocka_unit_test(steps_take_turns),
        cmocka_unit_test(prompts_take_turns),     cmocka_unit_test(nobody_starves),
        cmocka_unit_test(same_input_same_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
