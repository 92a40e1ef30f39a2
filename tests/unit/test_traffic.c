// Traffic through the whole engine: random arrivals, departures and slow readers, prompts that begin alike, clients
// that ask too much.
//
// What has to hold: every answer is what the model alone would have said, to the last token, whatever was shared,
// copied, guessed, forgotten or cancelled around it. Nobody starves, nothing leaks, nothing hangs, and who leaves is
// gone within a step.
#include "tests/unit/visitors.h"

#include "engine/job.h"
#include "engine/scheduler.h"

// Where a test says so, the engine's sleep ends when the clock of the tests has gone so far, whatever the time is.
static _Atomic bool sleeps_by_clock;
static _Atomic double sleeps_until; // 0: it does not, or not by this clock
bool __real_job_bell_wait_for(struct job_bell *bell, double seconds);
bool __wrap_job_bell_wait_for(struct job_bell *bell, double seconds);

bool __wrap_job_bell_wait_for(struct job_bell *bell, double seconds) {
    if (!atomic_load(&sleeps_by_clock)) return __real_job_bell_wait_for(bell, seconds);
    double until = clock_seconds() + seconds;
    bool rung = false;
    atomic_store(&sleeps_until, until);
    while (!rung && clock_seconds() < until) rung = __real_job_bell_wait_for(bell, 0.0005);
    atomic_store(&sleeps_until, 0);
    return rung;
}

// ---- Who comes first

// A client who asks for twenty answers at once, and one who asks for two at a time: of two places each has one.
static void places_are_shared_out_among_clients(void **state) {
    (void)state;
    enum { FLOOD = 20, MODEST = 6 };
    static struct visitor flood[FLOOD], modest[2];
    int asked = 0, served = 0, flood_ended = 0;
    struct engine *engine = open_held((struct engine_options){.sequences_max = 2, .prefix = PREFIX_OFF});
    for (int i = 0; i < FLOOD; i++) submit_short(engine, &flood[i], 1, (uint32_t)i);
    pass_step(engine, 0.01);
    while (flood_ended < FLOOD) {
        for (int i = 0; i < 2; i++)
            if (!modest[i].job && asked < MODEST) submit_short(engine, &modest[i], 2, 100 + (uint32_t)asked++);
        pass_step(engine, 0.01);
        for (int i = 0; i < 2; i++) served += ends(engine, &modest[i]);
        for (int i = 0; i < FLOOD; i++) flood_ended += ends(engine, &flood[i]);
        if (served < MODEST) assert_true(flood_ended <= 2 + served + 1); // two were first, then one each
    }
    assert_int_equal(served, MODEST);
    close_idle(engine);
}

// One client after the other comes who has nothing running yet: the head, whose client has, is passed over for so long
// …
static void a_busy_client_does_not_starve(void **state) {
    (void)state;
    enum { PLACES = 2, NEW = 12 };
    static struct visitor busy[2], fresh[NEW];
    struct engine *engine = open_held((struct engine_options){.sequences_max = PLACES, .prefix = PREFIX_OFF});
    struct error error;
    busy[0] = (struct visitor){.prompt_tokens = 5, .tokens_max = ANSWER_MAX, .salt = 1};
    letters(busy[0].history, 0, 5, 1);
    fill_answer(&busy[0]);
    struct engine_request request = request_for(&busy[0]);
    assert_int_equal(engine_submit(engine, &request, &busy[0].job, &error), 0);
    submit_short(engine, &fresh[0], 2, 2);
    pass_step(engine, 0.01);
    submit_short(engine, &busy[1], 1, 3);
    for (int i = 1; i < NEW; i++) submit_short(engine, &fresh[i], 2 + (uint64_t)i, 4);
    int ended = 0;
    while (busy[1].job) {
        pass_step(engine, 0.01);
        for (int i = 0; i < NEW; i++) ended += ends(engine, &fresh[i]);
        ends(engine, &busy[1]);
        assert_false(ends(engine, &busy[0])); // it is still busy
    }
    assert_int_equal(ended, 1 + PLACES); // … as there are places
    while (busy[0].job || ended < NEW) {
        pass_step(engine, 0.01);
        for (int i = 0; i < NEW; i++) ended += ends(engine, &fresh[i]);
        ends(engine, &busy[0]);
    }
    close_idle(engine);
}

// Whoever comes while a step runs waits for its end, which holds nobody up; but somebody who is left behind then is, for
// want of a place or of pages.
static void held_up_is_who_is_left_behind(void **state) {
    (void)state;
    static struct visitor visitors[3];
    for (int pages = 0; pages < 2; pages++) {
        struct engine *engine = open_held((struct engine_options){
            .sequences_max = pages ? 3 : 2, .kv_tokens = pages ? 2 * KV_PAGE_TOKENS : 0, .prefix = PREFIX_OFF});
        for (int i = 0; i < 3; i++) {
            submit_short(engine, &visitors[i], 1, (uint32_t)i);
            stands(engine);
            assert_int_equal(stats_of(engine).waiting, i > 0);
            assert_false(stats_of(engine).held_up);
            if (i > 0) pass_step(engine, 0.01);
            assert_int_equal(stats_of(engine).held_up, i == 2);
        }
        while (visitors[0].job || visitors[1].job || visitors[2].job) {
            pass_step(engine, 0.01);
            for (int i = 0; i < 3; i++) ends(engine, &visitors[i]);
            assert_int_equal(stats_of(engine).held_up, stats_of(engine).waiting == 1);
        }
        close_idle(engine);
    }
}

// One client asks for twelve answers at once, another for one: that one's prompt does not stand behind theirs.
static void who_asks_once_does_not_stand_behind_many(void **state) {
    (void)state;
    enum { MANY = 12, CHUNK = 10 };
    static struct visitor stream, many[MANY], one;
    struct engine *engine = open_held((struct engine_options){
        .sequences_max = MANY + 2, .prefill_tokens_max = CHUNK, .prefix = PREFIX_OFF});
    struct engine_event *last = NULL;
    struct error error;
    stream = (struct visitor){.prompt_tokens = 5, .tokens_max = ANSWER_MAX, .salt = 9};
    letters(stream.history, 0, 5, 1);
    fill_answer(&stream);
    struct engine_request request = request_for(&stream);
    assert_int_equal(engine_submit(engine, &request, &stream.job, &error), 0);
    pass_step(engine, 0.01);
    for (int i = 0; i < MANY; i++) submit_short(engine, &many[i], 1, 2);
    pass_step(engine, 0.01); // all have a place now
    assert_int_equal(stats_of(engine).running, MANY + 1);
    submit_short(engine, &one, 2, 3);
    pass_step(engine, 0.01); // the one that stood at the gate
    assert_false(read_visitor(engine, &one, &last));
    assert_int_equal(one.told, 0);
    pass_step(engine, 0.01);
    assert_false(read_visitor(engine, &one, &last));
    assert_int_equal(one.told, 1);
    while (!is_idle(engine)) {
        pass_step(engine, 0.01);
        ends(engine, &stream);
        ends(engine, &one);
        for (int i = 0; i < MANY; i++) ends(engine, &many[i]);
    }
    close_idle(engine);
}

// When the engine's wait for company is over, by the tests' clock.
static double company_until(void) {
    double until = 0;
    while (until == 0 || isinf(until)) until = atomic_load(&sleeps_until); // for ever: until the bell rings
    return until;
}

// After a rest, the first to come is held back for a moment, until so many have come as make a chunk; they are computed
// in one step. Who leaves meanwhile is gone at once. The moment lasts as long as the clock of the tests says.
static void who_comes_together_goes_together(void **state) {
    (void)state;
    enum { CHUNK = 20, COMING = 4 };
    static struct visitor first, leaving, coming[COMING], alone;
    struct engine_event *last = NULL;
    atomic_store(&sleeps_by_clock, true);
    struct engine *engine = open_held(
        (struct engine_options){.sequences_max = 8, .prefill_tokens_max = CHUNK, .prefix = PREFIX_OFF});
    submit_short(engine, &first, 1, 1);
    pass_step(engine, 1000); // prompts of five took so long
    while (!ends(engine, &first)) pass_step(engine, 0.01);

    submit_short(engine, &leaving, 1, 2);
    usleep(20000);
    assert_int_equal(gate_arrived(), passed); // it is held back
    engine_job_cancel(leaving.job);
    while (!read_visitor(engine, &leaving, &last)) usleep(20);
    assert_int_equal(last->error.code, ERROR_CANCELLED);
    engine_event_destroy(last);
    engine_job_release(leaving.job);

    for (int i = 0; i < COMING; i++) {
        assert_int_equal(gate_arrived(), passed);
        submit_short(engine, &coming[i], 1, 3 + (uint32_t)i);
        if (i < COMING - 1) usleep(5000);
    }
    assert_true(stands(engine));
    assert_int_equal(fake.steps[passed].rows, 5 * COMING);
    int ended = 0;
    pass_step(engine, 1000);
    while (ended < COMING) {
        pass_step(engine, 0.01);
        for (int i = 0; i < COMING; i++) ended += ends(engine, &coming[i]);
    }

    submit_short(engine, &alone, 1, 9); // nobody else comes: a fiftieth of 1,000 s would be felt
    double until = company_until();
    assert_true(fabs(until - clock_seconds() - SCHEDULER_WAIT_SECONDS_MAX) < 1e-9);
    assert_int_equal(gate_arrived(), passed);
    atomic_store(&now, until);
    while (!ends(engine, &alone)) pass_step(engine, 0.01);
    atomic_store(&sleeps_by_clock, false);
    close_idle(engine);
}

// It goes on beyond a chunk, as long as there is room and it is known that more take no longer than they may; and the
// more have come, the longer the others are waited for.
static void four_chunks_go_together(void **state) {
    (void)state;
    enum { CHUNK = 20, COMING = 4 * CHUNK / 5 };
    static struct visitor first, coming[COMING];
    atomic_store(&sleeps_by_clock, true);
    struct engine *engine = open_held(
        (struct engine_options){.sequences_max = COMING + 1, .prefill_tokens_max = CHUNK, .prefix = PREFIX_OFF});
    submit_short(engine, &first, 1, 1);
    pass_step(engine, 0.1); // five rows
    while (!ends(engine, &first)) pass_step(engine, 0.01);

    for (int i = 0; i < COMING; i++) {
        if (i == 0) usleep(5000); // it sleeps by now
        assert_int_equal(gate_arrived(), passed);
        submit_short(engine, &coming[i], 1, 2 + (uint32_t)i);
        if (i < COMING - 1) usleep(2000);
    }
    assert_true(stands(engine));
    assert_int_equal(fake.steps[passed].rows, 5 * COMING);
    pass_step(engine, 1.6);
    int ended = 0;
    while (ended < COMING) {
        pass_step(engine, 0.01);
        for (int i = 0; i < COMING; i++) ended += ends(engine, &coming[i]);
    }

    double began = clock_seconds();
    // A fiftieth of what five rows take, if eighty take 1.6 s; of what ten take, from when the second came.
    static const double UNTIL[] = {0.004, 0.001 + 0.0067272};
    for (int i = 0; i < 2; i++) {
        submit_short(engine, &coming[i], 1, 50 + (uint32_t)i);
        while (stats_of(engine).running < i + 1) usleep(20);
        while (fabs(company_until() - began - UNTIL[i]) > 1e-6) usleep(20); // or it hangs
        atomic_store(&now, began + 0.001);
    }
    atomic_store(&now, began + 0.0078);
    assert_true(stands(engine));
    assert_int_equal(fake.steps[passed].rows, 10);
    for (ended = 0; ended < 2; pass_step(engine, 0.01))
        for (int i = 0; i < 2; i++) ended += ends(engine, &coming[i]);
    atomic_store(&sleeps_by_clock, false);
    close_idle(engine);
}

// Who takes the last place has nobody to wait for.
static void nobody_else_could_come(void **state) {
    (void)state;
    static struct visitor one, other;
    atomic_store(&sleeps_by_clock, true);
    struct engine *engine =
        open_held((struct engine_options){.sequences_max = 1, .prefill_tokens_max = 20, .prefix = PREFIX_OFF});
    submit_short(engine, &one, 1, 1);
    pass_step(engine, 1);
    while (!ends(engine, &one)) pass_step(engine, 0.01);
    submit_short(engine, &other, 1, 2);
    assert_true(stands(engine)); // or it hangs: the clock stands still
    while (!ends(engine, &other)) pass_step(engine, 0.01);
    atomic_store(&sleeps_by_clock, false);
    close_idle(engine);
}

// A client who has filled the line gives places up to another, the newest first, until both have as many; what runs and
// who waits longest stay. Nobody gets more than that by asking again, and nobody takes a place of his own.
static void a_full_line_is_shared_out(void **state) {
    (void)state;
    enum { LINE = 6 };
    static struct visitor first[1 + LINE], second[LINE];
    struct error error;
    struct engine_event *last = NULL;
    struct engine *engine =
        open_held((struct engine_options){.sequences_max = 1, .queue_max = LINE, .prefix = PREFIX_OFF});
    for (int i = 0; i < 1 + LINE; i++) submit_short(engine, &first[i], 1, (uint32_t)i);
    struct engine_request request = request_for(&first[0]);
    struct engine_job *none;
    assert_int_equal(engine_submit(engine, &request, &none, &error), ERROR_BUSY);
    for (int i = 0; i < LINE / 2; i++) submit_short(engine, &second[i], 2, 100 + (uint32_t)i);
    for (uint64_t client = 1; client <= 2; client++) {
        request.client = client;
        assert_int_equal(engine_submit(engine, &request, &none, &error), ERROR_BUSY);
        assert_true(error.retry_seconds > 0);
    }
    assert_int_equal(stats_of(engine).waiting + stats_of(engine).running, 1 + LINE);
    pass_step(engine, 0.01);
    for (int i = 0; i < LINE / 2; i++) { // they hear of it within a step
        struct visitor *out = &first[LINE - i];
        assert_true(read_visitor(engine, out, &last));
        assert_int_equal(last->error.code, ERROR_BUSY);
        assert_non_null(strstr(last->error.message, "gave way"));
        assert_true(last->error.retry_seconds > 0);
        engine_event_destroy(last);
        engine_job_release(out->job);
        out->job = NULL;
    }
    int ended = 0;
    while (ended < 1 + LINE) {
        pass_step(engine, 0.01);
        for (int i = 0; i < 1 + LINE; i++) ended += ends(engine, &first[i]);
        for (int i = 0; i < LINE; i++) ended += ends(engine, &second[i]);
    }
    close_idle(engine);
}

// Three wait behind a reader who does not read. Their time passes while the engine sleeps, and they hear of it.
static void waiting_has_an_end(void **state) {
    (void)state;
    static struct visitor slow, waiting[3];
    struct engine_event *last = NULL;
    struct error error;
    struct engine *engine =
        open_engine((struct engine_options){.sequences_max = 1, .queue_max = 3, .queue_seconds_max = 30});
    int32_t prompt[4];
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 4, 1, 400);
    assert_int_equal(engine_submit(engine, &request, &slow.job, &error), 0);
    while (stats_of(engine).running == 0) usleep(20);
    double began = atomic_load(&now);
    for (int i = 0; i < 3; i++) {
        atomic_store(&now, began + i);
        waiting[i] = (struct visitor){.prompt_tokens = 5, .tokens_max = 4};
        letters(waiting[i].history, 0, 5, 1);
        request = request_for(&waiting[i]);
        assert_int_equal(engine_submit(engine, &request, &waiting[i].job, &error), 0);
    }
    assert_int_equal(engine_submit(engine, &request, &slow.job, &error), ERROR_BUSY);
    assert_true(error.retry_seconds > 0);
    for (int i = 0; i < 3; i++) {
        atomic_store(&now, began + i + 30.5);
        struct engine_job *ring; // a sleeper who was told another time has to look again
        int code = engine_submit(engine, &request, &ring, &error);
        if (!code) engine_job_release(ring);
        while (!(last = engine_job_next(waiting[i].job))) usleep(20);
        assert_int_equal(last->type, ENGINE_EVENT_ERROR);
        assert_int_equal(last->error.code, ERROR_BUSY);
        assert_non_null(strstr(last->error.message, "waited 30.5 s"));
        assert_true(last->error.retry_seconds > 0);
        assert_true(last->usage.queue_seconds > 30);
        engine_event_destroy(last);
        engine_job_release(waiting[i].job);
        if (i < 2) assert_null(engine_job_next(waiting[i + 1].job));
    }
    engine_job_release(slow.job);
    while (stats_of(engine).running + stats_of(engine).waiting > 0) usleep(20);
    check_idle(engine);
    engine_close(engine);
}

// No bell rings, nobody else comes: the engine wakes by itself.
static void waiting_ends_in_silence_too(void **state) {
    (void)state;
    static struct visitor waiting;
    struct engine_event *last = NULL;
    struct engine_job *slow;
    struct error error;
    struct engine *engine = open_engine((struct engine_options){.sequences_max = 1, .queue_seconds_max = 0.2});
    int32_t prompt[4];
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 4, 1, 400);
    assert_int_equal(engine_submit(engine, &request, &slow, &error), 0);
    while (stats_of(engine).completion_tokens < ENGINE_JOB_EVENTS_MAX - 3) usleep(20); // its reader does not read
    submit_short(engine, &waiting, 1, 1);
    usleep(20000); // so that it sleeps by now; where it does not, it need not be woken
    atomic_store(&now, atomic_load(&now) + 0.3);
    while (!(last = engine_job_next(waiting.job))) usleep(20);
    assert_int_equal(last->error.code, ERROR_BUSY);
    engine_event_destroy(last);
    engine_job_release(waiting.job);
    engine_job_release(slow);
    while (stats_of(engine).running > 0) usleep(20);
    check_idle(engine);
    engine_close(engine);
}

// The time to come back follows the pace at which answers end: here one in each step of a second.
static void come_back_when_there_is_room(void **state) {
    (void)state;
    enum { JOBS = 20 };
    static struct visitor visitors[JOBS];
    struct engine_job *none = NULL;
    struct error error;
    struct engine *engine =
        open_held((struct engine_options){.sequences_max = 1, .queue_max = JOBS - 1, .prefix = PREFIX_OFF});
    for (int i = 0; i < JOBS; i++) {
        visitors[i] = (struct visitor){.prompt_tokens = 5, .tokens_max = 1};
        letters(visitors[i].history, 0, 5, (uint32_t)i);
        struct engine_request request = request_for(&visitors[i]);
        assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
    }
    struct engine_request request = request_for(&visitors[0]);
    pass_step(engine, 1);
    for (int i = 0; i < 10; i++) {
        struct engine_job *more;
        pass_step(engine, 1);
        assert_int_equal(engine_submit(engine, &request, &more, &error), 0); // the place of the one that has ended
        engine_job_release(more);
    }
    for (int i = 1; i <= 5; i++) {
        while (engine_submit(engine, &request, &none, &error) == 0) engine_job_release(none);
        assert_int_equal(error.code, ERROR_BUSY);
        assert_true(fabs(error.retry_seconds - i) < 0.3);
    }
    for (int i = 0; i < JOBS; i++) engine_job_release(visitors[i].job);
    while (stats_of(engine).running + stats_of(engine).waiting > 0) pass_step(engine, 1);
    close_idle(engine);
}

// ---- All at once

struct mix_of { // of traffic
    int sequences_max, queue_max, chunk, kv_pages;
    enum prefix_mode prefix;
    double target_seconds;
    int arrival, leave; // each step, one time in so many
    enum speculate_mode speculate;
};

enum { VISITORS = 24, STEPS = 1500 };

static int dice(int sides) {
    return (int)(random() % sides);
}

// Three conversations and a system prompt that half of all have in common.
static void dress(struct visitor *visitor) {
    *visitor = (struct visitor){.prompt_tokens = 1 + dice(dice(2) ? PROMPT_MAX : 20),
                                .tokens_max = 1 + dice(ANSWER_MAX),
                                .salt = (uint64_t)dice(3)};
    int common = dice(2) ? dice(visitor->prompt_tokens + 1) : 0;
    letters(visitor->history, 0, visitor->prompt_tokens, (uint32_t)random());
    letters(visitor->history, 0, common, (uint32_t)dice(3));
    visitor->history[0] = dice(3) ? PROMPT_ECHO : PROMPT_RANDOM;
    fill_answer(visitor);
}

static void arrive(struct engine *engine, struct visitor *visitor) {
    struct error error;
    dress(visitor);
    struct engine_request request = request_for(visitor);
    int code = engine_submit(engine, &request, &visitor->job, &error);
    if (!code) return;
    assert_int_equal(code, ERROR_BUSY);
    assert_true(error.retry_seconds >= 0.1 && error.retry_seconds <= 60);
    visitor->job = NULL;
}

// One of those present, after a step. Who wants to be read, is; who has left, is gone; who waits, waits not for ever.
static void attend(struct engine *engine, struct visitor *visitor, const struct mix_of *mix, int bound, int *ended) {
    if (!visitor->job) return;
    if (++visitor->steps > bound) fail_msg("one has been here for %d steps", visitor->steps);
    if (!visitor->cancelled && dice(mix->leave) == 0) {
        visitor->cancelled = true;
        engine_job_cancel(visitor->job);
        if (dice(2)) { // without a word
            engine_job_release(visitor->job);
            visitor->job = NULL;
        }
        return;
    }
    struct engine_event *last = NULL;
    if (!read_visitor(engine, visitor, &last)) {
        assert_false(visitor->cancelled); // it has had its step
        return;
    }
    if (last->type == ENGINE_EVENT_DONE) {
        assert_int_equal(visitor->told, visitor->tokens_max);
        assert_true(last->usage.cached_tokens < last->usage.prompt_tokens);
        (*ended)++;
    } else if (last->error.code == ERROR_BUSY) {
        assert_non_null(strstr(last->error.message, "gave way"));
        assert_int_equal(visitor->told, 0);
    } else {
        assert_true(visitor->cancelled);
        assert_int_equal(last->error.code, ERROR_CANCELLED);
    }
    engine_event_destroy(last);
    engine_job_release(visitor->job);
    visitor->job = NULL;
}

// The steps within which anybody must have ended: those that may go before it in the line, and then its own, at the
// share of a chunk that its turn gives it. Generous, but a bound: who starves, exceeds any.
static int patience(const struct mix_of *mix) {
    int turn = mix->chunk / SCHEDULER_TURN_SHARE > 0 ? mix->chunk / SCHEDULER_TURN_SHARE : 1;
    int own = (PROMPT_MAX / turn + 1) * mix->sequences_max + ANSWER_MAX;
    return own * (2 + (mix->queue_max + mix->sequences_max * 2));
}

static void run_traffic(const struct mix_of *mix, unsigned seed) {
    static struct visitor visitors[VISITORS];
    memset(visitors, 0, sizeof visitors);
    srandom(seed);
    struct engine *engine = open_held((struct engine_options){.sequences_max = mix->sequences_max,
                                                              .queue_max = mix->queue_max,
                                                              .prefill_tokens_max = mix->chunk,
                                                              .kv_tokens = (size_t)mix->kv_pages * KV_PAGE_TOKENS,
                                                              .step_target_seconds = mix->target_seconds,
                                                              .prefix = mix->prefix,
                                                              .speculate = mix->speculate});
    int ended = 0, bound = patience(mix), widest = 0; // rows of answers in a step
    bool open = true;
    for (int step = 0; open; step++) {
        bool present = false;
        for (int i = 0; i < VISITORS; i++) {
            if (!visitors[i].job && step < STEPS && dice(mix->arrival) == 0) arrive(engine, &visitors[i]);
            present |= visitors[i].job != NULL;
        }
        struct fake_step next = gate_arrived() > passed ? fake.steps[passed] : (struct fake_step){0};
        widest = next.rows == next.answers && next.rows > widest ? next.rows : widest;
        pass_step(engine, 0.01 + 0.0005 * next.answers + 0.005 * (next.rows - next.answers));
        for (int i = 0; i < VISITORS; i++) attend(engine, &visitors[i], mix, bound, &ended);
        struct engine_stats stats = stats_of(engine);
        assert_true(stats.kv_pages_used + stats.kv_pages_kept <= stats.kv_pages);
        assert_in_range(stats.running, 0, mix->sequences_max);
        assert_in_range(stats.running + stats.waiting, 0, mix->sequences_max + mix->queue_max);
        open = step < STEPS || present;
        assert_true(step < STEPS + bound);
    }
    assert_true(ended > 20);
    struct engine_stats stats = stats_of(engine);
    assert_true(stats.guessed_right <= stats.guessed_tokens);
    if (mix->speculate == SPECULATE_AUTO) {
        assert_true(stats.guessed_right > 100 && stats.guessed_right < stats.guessed_tokens);
        assert_true(widest > mix->sequences_max || mix->sequences_max > 4);
    } else {
        assert_int_equal(stats.guessed_tokens, 0);
        assert_true(widest <= mix->sequences_max);
    }
    gate_open();
    while (stats_of(engine).running + stats_of(engine).waiting > 0) usleep(20);
    check_idle(engine);
    engine_close(engine);
}

static void traffic_of_all_kinds(void **state) {
    (void)state;
    static const struct mix_of MIXES[] = {
        {4, 8, 24, 40, PREFIX_PROMPTS, 0, 30, 200, SPECULATE_OFF},    // a busy day
        {4, 8, 24, 12, PREFIX_PROMPTS, 0, 10, 60, SPECULATE_OFF},     // few pages: the longest need most of them
        {8, 4, 100, 20, PREFIX_ANSWERS, 0.03, 10, 40, SPECULATE_OFF}, // answers are kept, and chunks are fitted
        {20, 30, 7, 60, PREFIX_PROMPTS, 0, 5, 300, SPECULATE_OFF},    // far too much to do, in small chunks
        {3, 20, 200, 8, PREFIX_OFF, 0.02, 20, 100, SPECULATE_OFF},    // nothing is kept
        {2, 2, 16, 9, PREFIX_ANSWERS, 0, 4, 12, SPECULATE_OFF},       // most leave before their end
        {1, 2, 200, 30, PREFIX_ANSWERS, 0, 4, 300, SPECULATE_AUTO}, // one at a time, and guesses
        {2, 4, 100, 20, PREFIX_PROMPTS, 0, 8, 100, SPECULATE_AUTO}, // two, and few pages
        {4, 8, 24, 40, PREFIX_ANSWERS, 0.05, 30, 200, SPECULATE_AUTO}, // more
    };
    for (size_t m = 0; m < sizeof MIXES / sizeof *MIXES; m++)
        for (unsigned seed = 1; seed <= 3; seed++) run_traffic(&MIXES[m], seed);
}
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_are_shared_out_among_clients),
        cmocka_unit_test(a_busy_client_does_not_starve),
        cmocka_unit_test(held_up_is_who_is_left_behind),
        cmocka_unit_test(who_asks_once_does_not_stand_behind_many),
        cmocka_unit_test(who_comes_together_goes_together),
        cmocka_unit_test(four_chunks_go_together),
        cmocka_unit_test(nobody_else_could_come),
        cmocka_unit_test(a_full_line_is_shared_out),
        cmocka_unit_test(waiting_has_an_end),
        cmocka_unit_test(waiting_ends_in_silence_too),
        cmocka_unit_test(come_back_when_there_is_room),
        cmocka_unit_test(traffic_of_all_kinds),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
