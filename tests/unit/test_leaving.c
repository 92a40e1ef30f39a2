// Requests that are cancelled, in the engine on a model of cardboard: what they held is free within a step, and a step
// that runs for nobody else is broken off.
#include "tests/unit/fake_model.h"

// Holds the engine in a step, cancels, and lets only that step pass: the job must have ended by then.
static void cancel_frees_within_a_step(void **state) {
    (void)state;
    enum { QUEUED, PREFILL, DECODE, PHASES };
    static int32_t prompts[3][300];
    static struct outcome alone, beside;
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 2, .prefill_tokens_max = 32});
    struct engine_request stream = request_of(prompts[0], PROMPT_RANDOM, 40, 1, 80);
    struct engine_request victim = request_of(prompts[1], PROMPT_RANDOM, 300, 2, 100);
    run_request(engine, &stream, &alone);

    for (int phase = 0; phase < PHASES; phase++) {
        int before = gate_arrived();
        gate_hold();
        struct engine_job *first = submit(engine, &stream), *filler = NULL;
        gate_await(before + 1); // the stream's prompt
        if (phase == QUEUED) {
            struct engine_request other = request_of(prompts[2], PROMPT_RANDOM, 10, 3, 400);
            filler = submit(engine, &other);
            gate_pass(1);
            gate_await(before + 2); // both places are taken now
        }
        struct engine_job *job = submit(engine, &victim);
        int steps = (int[]){1, 4, 40}[phase]; // the prompt takes ten chunks
        int arrived = gate_arrived();
        gate_pass(steps);
        gate_await(arrived + steps);
        struct engine_stats stats = stats_of(engine);
        assert_int_equal(stats.running, 2);
        assert_int_equal(stats.waiting, phase == QUEUED);
        int pages = (int)stats.kv_pages_used;
        if (phase == PREFILL) assert_in_range(stats.prompt_tokens % 1000, 32, 999);

        engine_job_cancel(job);
        engine_job_cancel(job); // any number of times
        gate_pass(1);
        expect_end(job, ERROR_CANCELLED); // while the gate holds the step after
        stats = stats_of(engine);
        assert_int_equal(stats.waiting, 0);
        assert_int_equal(stats.running, phase == QUEUED ? 2 : 1);
        if (phase != QUEUED) assert_true((int)stats.kv_pages_used <= pages - (phase == PREFILL ? 2 : 9));

        if (filler) engine_job_release(filler); // leaves without a word
        gate_open();
        finish_job(first, &beside);
        assert_string_equal(beside.text, alone.text);
        while (stats_of(engine).running > 0) usleep(1000);
        check_idle(engine);
    }
    engine_close(engine);
}

// A step is broken off when all have left for whom it runs, and only then; nothing of it counts.
static void a_step_for_nobody_is_broken_off(void **state) {
    (void)state;
    static int32_t prompts[2][100];
    static struct outcome alone, after;
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 2, .prefill_tokens_max = 16});
    struct engine_request requests[2];
    for (int i = 0; i < 2; i++) requests[i] = request_of(prompts[i], PROMPT_RANDOM, 40, (uint32_t)i + 1, 20);
    run_request(engine, &requests[0], &alone);
    for (int leave = 1; leave <= 2; leave++)
        for (int steps = 1; steps < 10; steps += 8) { // in mid-prompt, and among answers
            struct engine_job *jobs[2];
            int before = gate_arrived();
            gate_hold();
            for (int i = 0; i < 2; i++) jobs[i] = submit(engine, &requests[i]);
            gate_pass(steps);
            gate_await(before + steps + 1);
            struct engine_stats stats = stats_of(engine);
            for (int i = 0; i < leave; i++) engine_job_cancel(jobs[i]);
            gate_open();
            if (leave == 1) finish_job(jobs[1], &after);
            for (int i = 0; i < leave; i++) expect_end(jobs[i], ERROR_CANCELLED);
            while (stats_of(engine).running > 0) usleep(1000);
            struct engine_stats now = stats_of(engine);
            assert_int_equal(now.steps == stats.steps, leave == 2);
            if (leave == 2) assert_int_equal(now.prompt_tokens + now.completion_tokens,
                                             stats.prompt_tokens + stats.completion_tokens);
            run_request(engine, &requests[0], &after);
            assert_string_equal(after.text, alone.text);
        }
    check_idle(engine);
    engine_close(engine);
}

// Four answers to one prompt: three wait for what the first computes, and leave with it.
static void who_waits_may_leave_too(void **state) {
    (void)state;
    enum { N = 4 };
    static int32_t prompt[100];
    struct engine *engine = open_engine((struct engine_options){.sequences_max = N, .prefill_tokens_max = 16});
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 90, 1, 5);
    struct engine_job *jobs[N];
    gate_hold();
    for (int i = 0; i < N; i++) jobs[i] = submit(engine, &request);
    gate_pass(1);
    gate_await(2); // in the second chunk, where all have their places
    struct engine_stats stats = stats_of(engine);
    assert_int_equal(stats.running, N);
    for (int i = 0; i < N; i++) engine_job_cancel(jobs[i]);
    gate_open();
    for (int i = 0; i < N; i++) expect_end(jobs[i], ERROR_CANCELLED);
    assert_int_equal(stats_of(engine).steps, stats.steps);
    check_idle(engine);
    engine_close(engine);
}

// Two begin alike, and have no part in a step: nobody waits for that one when its client has left.
static void who_waits_for_another_step_holds_up_none(void **state) {
    (void)state;
    static int32_t prompts[3][100];
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 3, .prefill_tokens_max = 16});
    struct engine_job *jobs[3];
    gate_hold();
    for (int i = 0; i < 3; i++) {
        struct engine_request request = request_of(prompts[i], PROMPT_RANDOM, i ? 90 : 60, i ? 2 : 1, 5);
        jobs[i] = submit(engine, &request);
        if (i == 0) gate_await(1);
    }
    gate_pass(2); // in the second chunk the second one has a quarter; in the third it is the first one's turn
    gate_await(3);
    assert_int_equal(stats_of(engine).running, 3);
    assert_int_equal(fake.steps[1].sequences, 2);
    assert_int_equal(fake.steps[2].sequences, 1);
    engine_job_cancel(jobs[0]);
    gate_pass(1);
    gate_await(4);
    assert_int_equal(stats_of(engine).steps, 2);
    gate_open();
    for (int i = 0; i < 3; i++) engine_job_cancel(jobs[i]);
    for (int i = 0; i < 3; i++) expect_end(jobs[i], ERROR_CANCELLED);
    check_idle(engine);
    engine_close(engine);
}

static void cancel_after_the_end_changes_nothing(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t prompt[5];
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 5, 1, 3);
    struct engine_job *job = submit(engine, &request);
    while (stats_of(engine).completion_tokens < 3 || stats_of(engine).running > 0) usleep(1000);
    engine_job_cancel(job);
    expect_end(job, 0);
    engine_job_release(NULL);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancel_frees_within_a_step),
        cmocka_unit_test(a_step_for_nobody_is_broken_off),
        cmocka_unit_test(who_waits_may_leave_too),
        cmocka_unit_test(who_waits_for_another_step_holds_up_none),
        cmocka_unit_test(cancel_after_the_end_changes_nothing),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
