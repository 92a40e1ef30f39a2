// The engine on a model of cardboard: slow readers, full queues, numbers that are not finite, shutdown, and many
// threads at once. A failing request never harms another.
#include "tests/unit/fake_model.h"

#include <stdatomic.h>

// ---- Readers

static void a_slow_reader_pauses_alone(void **state) {
    (void)state;
    static int32_t prompts[2][10];
    static struct outcome alone, slow, quick;
    struct engine *engine = open_engine((struct engine_options){0});
    struct engine_request request = request_of(prompts[0], PROMPT_RANDOM, 10, 1, 400);
    struct engine_request other = request_of(prompts[1], PROMPT_RANDOM, 10, 2, 450);
    run_request(engine, &request, &alone);

    struct engine_job *job = submit(engine, &request); // nobody reads it
    run_request(engine, &other, &quick);
    assert_int_equal(quick.token_count, 450);
    uint64_t made = stats_of(engine).completion_tokens - 400 - 450;
    assert_in_range(made, ENGINE_JOB_EVENTS_MAX / 2, ENGINE_JOB_EVENTS_MAX - 1);
    int steps = gate_arrived();
    run_request(engine, &other,
                &quick); // all steps are this one's, which says a token in each: the paused one has none
    assert_int_equal(gate_arrived() - steps, 450);
    assert_int_equal(stats_of(engine).completion_tokens - 400 - 2 * 450, made);
    assert_int_equal(stats_of(engine).running, 1);
    assert_true(engine_job_awaits_reader(job));

    struct engine_event *event = engine_job_next(job); // one event read is not enough to go on …
    slow = (struct outcome){0};
    assert_non_null(event);
    add_event(&slow, event);
    run_request(engine, &other, &quick);
    assert_int_equal(gate_arrived() - steps, 2 * 450);
    int events = 1;
    assert_true(engine_job_awaits_reader(job));
    while (!add_event(&slow, engine_job_wait(job))) events++; // … but going on reading is
    assert_false(engine_job_awaits_reader(job));
    engine_job_release(job);
    assert_int_equal(events, 400);
    assert_string_equal(slow.text, alone.text);
    check_idle(engine);

    job = submit(engine, &request); // a paused one can be cancelled
    while (stats_of(engine).completion_tokens < 400 + 3 * 450 + 400 + 60) usleep(1000);
    engine_job_cancel(job);
    while (stats_of(engine).running > 0) usleep(1000); // nobody reads, and the engine slept: this woke it
    check_idle(engine);
    while (engine_job_awaits_reader(job)) usleep(1000); // its place is free a moment before it ends
    expect_end(job, ERROR_CANCELLED);
    engine_close(engine);
}

struct waker {
    struct engine_job *job;
    atomic_int calls;
    atomic_bool released;
};

static void count_wake(void *user) {
    struct waker *waker = user;
    DEMAND(!atomic_load(&waker->released));
    atomic_fetch_add(&waker->calls, 1);
}

static void wake_comes_when_there_is_something_new(void **state) {
    (void)state;
    int32_t prompt[5];
    struct waker waker = {0};
    struct engine *engine = open_engine((struct engine_options){0});
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 5, 1, 20);
    request.wake = count_wake;
    request.wake_user = &waker;
    struct engine_job *job = submit(engine, &request);
    while (stats_of(engine).running > 0 || stats_of(engine).completion_tokens < 20) usleep(1000);
    usleep(1000);
    assert_int_equal(atomic_load(&waker.calls), 1); // 21 events, and nobody had read the first
    for (int i = 0; i < 20; i++) engine_event_destroy(engine_job_next(job));
    expect_end(job, 0);

    gate_hold(); // read one by one, each wakes
    atomic_store(&waker.calls, 0);
    job = submit(engine, &request);
    for (int i = 0; i < 19; i++) {
        gate_pass(1);
        engine_event_destroy(engine_job_wait(job));
    }
    while (atomic_load(&waker.calls) < 19) usleep(1000); // a waiting reader may be quicker than the call
    gate_pass(1);
    engine_event_destroy(engine_job_wait(job)); // the last token; the end may be there already
    expect_end(job, 0);
    assert_in_range(atomic_load(&waker.calls), 20, 21);

    for (int i = 0; i < 50; i++) { // no call after release, wherever the step is
        struct waker *own = calloc(1, sizeof *own);
        assert_non_null(own);
        request.wake_user = own;
        gate_open();
        job = submit(engine, &request);
        if (i % 2) usleep((unsigned)i * 10);
        engine_job_release(job);
        atomic_store(&own->released, true);
        free(own); // ASan would see a call
    }
    while (stats_of(engine).running + stats_of(engine).waiting > 0) usleep(1000);
    check_idle(engine);
    engine_close(engine);
}

// ---- More than fits

static void the_queue_is_bounded(void **state) {
    (void)state;
    static int32_t prompt[10];
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 2, .queue_max = 3});
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 10, 1, 5);
    for (int round = 0; round < 3; round++) {
        struct engine_job *jobs[5], *none = NULL;
        struct error error;
        gate_hold();
        for (int i = 0; i < 5; i++) jobs[i] = submit(engine, &request);
        for (int i = 0; i < 1000; i++) assert_int_equal(engine_submit(engine, &request, &none, &error), ERROR_BUSY);
        assert_null(none);
        engine_job_cancel(jobs[4]); // one that leaves makes room
        gate_pass(1);
        expect_end(jobs[4], ERROR_CANCELLED);
        jobs[4] = submit(engine, &request);
        assert_int_equal(engine_submit(engine, &request, &none, &error), ERROR_BUSY);
        gate_open();
        for (int i = 0; i < 5; i++) expect_end(jobs[i], 0);
        check_idle(engine);
    }
    engine_close(engine);
}

// 10 pages. A takes 6 as long as it likes to, the head B needs 5 and waits. Behind it are many that need 1: as many
// as there are places go first, then none: B is admitted as soon as A has ended. Nobody runs out half-way.
static void small_ones_overtake_and_the_head_does_not_starve(void **state) {
    (void)state;
    enum { PLACES = 3, SMALL = 8 };
    static int32_t prompts[2 + SMALL][32];
    fake.context = 192;
    struct engine *engine = open_engine((struct engine_options){.kv_tokens = 320, .sequences_max = PLACES});
    struct engine_request a = request_of(prompts[0], PROMPT_RANDOM, 32, 1, -1);
    struct engine_request b = request_of(prompts[1], PROMPT_RANDOM, 32, 2, 128);
    for (int round = 0; round < 2; round++) {
        struct engine_job *first, *head, *small[SMALL];
        int before = gate_arrived();
        gate_hold();
        first = submit(engine, &a);
        gate_await(before + 1);
        head = submit(engine, &b);
        for (int i = 0; i < SMALL; i++) {
            struct engine_request c = request_of(prompts[2 + i], PROMPT_RANDOM, 16, 3, 16);
            small[i] = submit(engine, &c);
        }
        gate_pass(45); // a small one takes 17, and two run at once; A has 160 tokens to say
        gate_await(before + 46);
        for (int i = 0; i < PLACES; i++) expect_end(small[i], 0);
        assert_int_equal(stats_of(engine).running, 1);
        assert_int_equal(stats_of(engine).waiting, 1 + SMALL - PLACES);
        assert_int_equal(stats_of(engine).kv_pages, 10);
        assert_in_range(stats_of(engine).kv_pages_used, 2, 3); // promised are six; taken only those written to

        if (round == 1) { // the next head has been overtaken by nobody
            engine_job_cancel(head);
            gate_pass(1);
            expect_end(head, ERROR_CANCELLED);
            gate_await(before + 47);
            assert_int_equal(stats_of(engine).running, PLACES);
        }
        gate_open();
        expect_end(first, 0);
        if (round == 0) expect_end(head, 0);
        for (int i = PLACES; i < SMALL; i++) expect_end(small[i], 0);
        check_idle(engine);
    }
    engine_close(engine);
    fake.context = 512;
}

// Many leave the line at once; those who stay run in the order in which they came.
static void leaving_keeps_the_order_of_the_line(void **state) {
    (void)state;
    enum { JOBS = 90 };
    static int32_t prompts[JOBS][JOBS];
    struct engine_job *jobs[JOBS];
    struct engine *engine = open_engine((struct engine_options){
        .sequences_max = 1, .queue_max = JOBS, .prefill_tokens_max = JOBS, .prefix = PREFIX_OFF});
    gate_hold();
    for (int i = 0; i < JOBS; i++) { // each is one step, of as many rows as its number says
        struct engine_request request = request_of(prompts[i], PROMPT_RANDOM, (size_t)i + 1, 1, 1);
        jobs[i] = submit(engine, &request);
    }
    gate_await(1);
    for (int i = 1; i < JOBS; i++)
        if (i % 3 != 0) engine_job_cancel(jobs[i]);
    gate_pass(1);
    for (int i = 1; i < JOBS; i++)
        if (i % 3 != 0) expect_end(jobs[i], ERROR_CANCELLED);
    gate_open();
    for (int i = 0; i < JOBS; i += 3) expect_end(jobs[i], 0);
    assert_int_equal(gate_arrived(), JOBS / 3);
    for (int i = 0; i < JOBS / 3; i++) assert_int_equal(fake.steps[i].rows, 3 * i + 1);
    check_idle(engine);
    engine_close(engine);
}

static void many_more_requests_than_places(void **state) {
    (void)state;
    enum { JOBS = 60 };
    static int32_t prompts[JOBS][90];
    static struct outcome outcome;
    struct engine_job *jobs[JOBS];
    struct engine *engine = open_engine(
        (struct engine_options){.sequences_max = 3, .queue_max = JOBS, .kv_tokens = 512, .prefill_tokens_max = 8});
    for (int i = 0; i < JOBS; i++) {
        struct engine_request request =
            request_of(prompts[i], PROMPT_RANDOM, 1 + (size_t)i * 37 % 90, (uint32_t)i, i % 7 ? i % 50 + 1 : -1);
        request.prompt_logprobs = i % 5 == 0;
        jobs[i] = submit(engine, &request);
    }
    for (int i = 0; i < JOBS; i++) {
        finish_job(jobs[i], &outcome);
        assert_int_equal(outcome.end, ENGINE_EVENT_DONE);
        assert_int_equal(outcome.token_count, i % 7 ? (size_t)(i % 50 + 1) : 512 - (1 + (size_t)i * 37 % 90));
    }
    check_idle(engine);
    engine_close(engine);
}

// ---- Numbers that are not finite

static void bad_numbers_fail_alone(void **state) {
    (void)state;
    static int32_t prompts[2][70];
    static struct outcome alone, beside, failed;
    struct engine *engine = open_engine((struct engine_options){.prefill_tokens_max = 16});
    struct engine_request good = request_of(prompts[0], PROMPT_RANDOM, 50, 1, 120);
    run_request(engine, &good, &alone);
    fake.script_prompt = 70;
    for (int kind = 0; kind < 5; kind++) {
        struct engine_request bad = request_of(prompts[1], kind < 3 ? PROMPT_NAN : PROMPT_PROMPT_NAN, 70, 2, 50);
        fake.fails_at = kind < 3 ? (int[]){0, 1, 30}[kind] : 40;
        bad.sampling.temperature = kind % 2 ? 1 : 0;
        bad.prompt_logprobs = kind == 4;
        struct engine_job *first = submit(engine, &good), *second = submit(engine, &bad);
        finish_job(second, &failed);
        assert_int_equal(failed.end, ENGINE_EVENT_ERROR);
        assert_int_equal(failed.error.code, ERROR_NUMERIC);
        assert_int_equal(failed.token_count, kind < 3 ? fake.fails_at : 0);
        assert_int_equal(failed.usage.completion_tokens, failed.token_count);
        finish_job(first, &beside);
        assert_string_equal(beside.text, alone.text);
        check_idle(engine);
        run_request(engine, &good, &beside); // on the pages that the other left, NaN in them
        assert_string_equal(beside.text, alone.text);
    }
    engine_close(engine);
}

// Whoever produced them may have left them in pages that others would go on from: nothing that was kept is trusted.
static void bad_numbers_empty_the_cache(void **state) {
    (void)state;
    static int32_t prompts[2][70];
    struct engine *engine = open_engine((struct engine_options){0});
    struct engine_request good = request_of(prompts[0], PROMPT_RANDOM, 70, 1, 5);
    struct engine_request bad = request_of(prompts[1], PROMPT_PROMPT_NAN, 70, 2, 5);
    fake.fails_at = 40;
    static struct outcome outcome;
    run_request(engine, &good, &outcome);
    assert_int_equal(stats_of(engine).kv_pages_kept, 2); // the rest is not worth it
    run_request(engine, &bad, &outcome);
    assert_int_equal(outcome.error.code, ERROR_NUMERIC);
    assert_int_equal(stats_of(engine).kv_pages_kept, 0);
    run_request(engine, &good, &outcome);
    assert_int_equal(outcome.usage.cached_tokens, 0);
    engine_close(engine);
}

// ---- Opening and closing

static void expect_no_engine(struct engine_options options, int code, const char *part) {
    struct engine *engine = NULL;
    struct error error = {0};
    if (!options.model_dir) options.model_dir = fake_dir;
    assert_int_equal(engine_open(&engine, &options, &error), code);
    assert_null(engine);
    if (!strstr(error.message, part)) fail_msg("%s", error.message);
}

static void bad_openings_name_the_cause(void **state) {
    (void)state;
    expect_no_engine((struct engine_options){.stages = "quantum"}, ERROR_ARGUMENT, "\"quantum\"");
    expect_no_engine((struct engine_options){.sequences_max = -1}, ERROR_ARGUMENT, "sequences_max is -1");
    expect_no_engine((struct engine_options){.sequences_max = 1025}, ERROR_ARGUMENT, "1024");
    expect_no_engine((struct engine_options){.queue_max = -5}, ERROR_ARGUMENT, "queue_max");
    expect_no_engine((struct engine_options){.prefill_tokens_max = 1 << 30}, ERROR_ARGUMENT, "prefill_tokens_max");
    expect_no_engine((struct engine_options){.threads = -2}, ERROR_ARGUMENT, "threads");
    expect_no_engine((struct engine_options){.step_target_seconds = -1}, ERROR_ARGUMENT, "step_target_seconds is -1");
    expect_no_engine((struct engine_options){.step_target_seconds = NAN}, ERROR_ARGUMENT, "step_target_seconds");
    expect_no_engine((struct engine_options){.kv_tokens = SIZE_MAX}, ERROR_ARGUMENT, "18446744073709551615");
    expect_no_engine((struct engine_options){.threads = 13}, ERROR_UNSUPPORTED, "bad luck"); // on the engine thread
    expect_no_engine((struct engine_options){.model_dir = "/nonexistent"}, ERROR_NOT_FOUND, "tokenizer.json");
    fake.refuses_to_open = true;
    expect_no_engine((struct engine_options){.threads = 1}, ERROR_FORMAT, "made of cardboard");
    fake.refuses_to_open = false;
    struct engine *engine = open_engine((struct engine_options){.stages = "reference"});
    engine_close(engine);
}

static void closing_ends_what_runs(void **state) {
    (void)state;
    static int32_t prompts[5][200];
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 3, .prefill_tokens_max = 8});
    struct engine_job *jobs[5];
    gate_hold();
    for (int i = 0; i < 5; i++) { // in decode, in prefill, paused perhaps, and two that wait
        struct engine_request request = request_of(prompts[i], PROMPT_RANDOM, i == 1 ? 200 : 3, (uint32_t)i, 300);
        jobs[i] = submit(engine, &request);
    }
    gate_pass(20);
    gate_await(20);
    gate_open();
    engine_close(engine);
    for (int i = 0; i < 5; i++) { // handles outlive the engine
        engine_job_cancel(jobs[i]);
        expect_end(jobs[i], ERROR_SHUTDOWN);
    }

    engine = open_engine((struct engine_options){0}); // unread, and its handle gone before: nothing is left behind
    struct engine_request request = request_of(prompts[0], PROMPT_RANDOM, 3, 1, 300);
    engine_job_release(submit(engine, &request));
    engine_close(engine);
}

static void looking_never_waits(void **state) {
    (void)state;
    static int32_t prompt[20];
    struct engine *engine = open_engine((struct engine_options){0});
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 20, 1, 3);
    assert_true(stats_of(engine).step_running_seconds == 0);
    gate_hold();
    struct engine_job *job = submit(engine, &request);
    gate_await(1);
    usleep(5000);
    struct engine_stats stats = stats_of(engine); // this returned, though the step hangs
    assert_true(stats.step_running_seconds >= 0.005);
    assert_int_equal(stats.steps, 0);
    assert_int_equal(stats.kv_pages_used, 1);
    struct engine_job *another = submit(engine, &request); // and so does this
    assert_int_equal(stats_of(engine).waiting, 1);
    gate_open();
    expect_end(job, 0);
    expect_end(another, 0);
    assert_int_equal(stats_of(engine).steps, 4); // a prompt, a token beside the other prompt, one for each, one
    assert_true(stats_of(engine).step_running_seconds == 0);
    engine_close(engine);
}

// ---- All at once

enum { THREADS = 4, ROUNDS = 150 };

struct crowd {
    struct engine *engine;
    uint32_t salt;
    int done, cancelled, busy;
};

static void noop(void *user) {
    atomic_fetch_add((atomic_int *)user, 1);
}

// Submits, reads, cancels and walks away, as its dice say.
static void *join_crowd(void *argument) {
    struct crowd *crowd = argument;
    atomic_int woken = 0;
    struct outcome *outcome = malloc(sizeof *outcome);
    DEMAND(outcome);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        int32_t prompt[60];
        uint32_t dice = mix(crowd->salt, round);
        struct engine_request request =
            request_of(prompt, PROMPT_RANDOM, 1 + dice % 60, dice, dice % 11 ? 1 + (int)(dice / 64 % 90) : -1);
        request.wake = noop;
        request.wake_user = &woken;
        request.want_logprobs = dice % 3 == 0;
        struct engine_job *job = NULL;
        struct error error;
        int code = engine_submit(crowd->engine, &request, &job, &error);
        if (code) {
            DEMAND(code == ERROR_BUSY);
            crowd->busy++;
            usleep(500);
            continue;
        }
        if (dice % 5 == 0) usleep(dice % 700);
        if (dice % 7 == 0) {
            engine_job_release(job);
            continue;
        }
        if (dice % 4 == 0) engine_job_cancel(job);
        *outcome = (struct outcome){0};
        while (!add_event(outcome, engine_job_wait(job))) continue;
        engine_job_release(job);
        DEMAND(outcome->end == ENGINE_EVENT_DONE || outcome->error.code == ERROR_CANCELLED);
        crowd->done += outcome->end == ENGINE_EVENT_DONE;
        crowd->cancelled += outcome->end == ENGINE_EVENT_ERROR;
    }
    free(outcome);
    return NULL;
}

static void a_crowd_leaves_nothing_behind(void **state) {
    (void)state;
    static int32_t prompt[30];
    static struct outcome alone, after;
    struct engine *engine = open_engine(
        (struct engine_options){.sequences_max = 3, .queue_max = 1, .kv_tokens = 1024, .prefill_tokens_max = 16});
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 30, 1, 50);
    run_request(engine, &request, &alone);
    pthread_t threads[THREADS];
    struct crowd crowds[THREADS];
    for (int i = 0; i < THREADS; i++) {
        crowds[i] = (struct crowd){.engine = engine, .salt = (uint32_t)i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, join_crowd, &crowds[i]), 0);
    }
    int done = 0, cancelled = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        done += crowds[i].done;
        cancelled += crowds[i].cancelled;
    }
    assert_true(done > ROUNDS && cancelled > 0);
    while (stats_of(engine).running + stats_of(engine).waiting > 0) usleep(1000);
    check_idle(engine);
    run_request(engine, &request, &after);
    assert_string_equal(after.text, alone.text);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_reader_pauses_alone),
        cmocka_unit_test(wake_comes_when_there_is_something_new),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(small_ones_overtake_and_the_head_does_not_starve),
        cmocka_unit_test(leaving_keeps_the_order_of_the_line),
        cmocka_unit_test(many_more_requests_than_places),
        cmocka_unit_test(bad_numbers_fail_alone),
        cmocka_unit_test(bad_numbers_empty_the_cache),
        cmocka_unit_test(bad_openings_name_the_cause),
        cmocka_unit_test(closing_ends_what_runs),
        cmocka_unit_test(looking_never_waits),
        cmocka_unit_test(a_crowd_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
