// Traffic through the whole engine on a model of cardboard, step by step under a clock of its own: random arrivals,
// departures and slow readers, prompts that begin alike, clients that ask too much. Time passes only with steps.
//
// What has to hold: every answer is what the model alone would have said, to the last token, whatever was shared,
// copied, guessed, forgotten or cancelled around it. Nobody starves, nothing leaks, nothing hangs, and who leaves is gone within
// a step.
#include "tests/unit/fake_model.h"

#include "engine/prefix_cache.h"
#include "engine/scheduler.h"

#include <stdatomic.h>

// ---- The clock, and steps

static _Atomic double now = 1000;

double clock_seconds(void) {
    return atomic_load(&now);
}

static struct engine_stats stats_of(struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    return stats;
}

static bool is_idle(struct engine *engine) {
    struct engine_stats stats = stats_of(engine);
    return stats.running + stats.waiting == 0;
}

// Waits until the engine stands at the gate, before a step that is not let pass yet; false: it has nothing to do.
static int passed;

static bool stands(struct engine *engine) {
    while (gate_arrived() == passed) {
        if (is_idle(engine)) return false;
        usleep(20);
    }
    return true;
}

// Lets one step pass, which takes so long. All it has brought about can be seen then.
static void pass_step(struct engine *engine, double seconds) {
    if (!stands(engine)) return;
    atomic_store(&now, atomic_load(&now) + seconds);
    passed++;
    gate_pass(1);
    stands(engine);
}

// ---- Requests, and what their answers have to be

enum { PROMPT_MAX = 200, ANSWER_MAX = 40, HISTORY_MAX = PROMPT_MAX + ANSWER_MAX };

struct visitor {
    struct engine_job *job; // NULL: free
    int32_t history[HISTORY_MAX];
    int prompt_tokens, tokens_max, told;
    uint64_t salt;
    int steps; // since it came
    bool cancelled;
};

static int32_t likeliest(const float *logits) {
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static void fill_answer(struct visitor *visitor) {
    float logits[VOCAB];
    for (int i = 0; i < visitor->tokens_max; i++) {
        fake_logits(visitor->history, visitor->prompt_tokens + i, logits);
        visitor->history[visitor->prompt_tokens + i] = likeliest(logits);
    }
}

static struct engine_request request_for(const struct visitor *visitor) {
    return (struct engine_request){.prompt = visitor->history,
                                   .prompt_tokens = (size_t)visitor->prompt_tokens,
                                   .tokens_max = visitor->tokens_max,
                                   .salt = visitor->salt,
                                   .sampling = {.temperature = 0, .top_p = 1, .repetition_penalty = 1}};
}

// Letters that go on from `from` as `salt` says.
static void letters(int32_t *out, int from, int to, uint32_t salt) {
    for (int i = from; i < to; i++) out[i] = TOKEN_A + (int32_t)(mix(salt, (uint32_t)i) % 26);
    if (from == 0) out[0] = salt % 2 ? PROMPT_RANDOM : PROMPT_ECHO;
}

static struct engine_event *next_event(struct engine *engine, struct visitor *visitor) {
    struct engine_event *event = engine_job_next(visitor->job);
    return event || !is_idle(engine) ? event : engine_job_wait(visitor->job); // places are free before jobs hear of it
}

// Reads what is there. True at the end, whose event is in *last then, to be destroyed.
static bool read_visitor(struct engine *engine, struct visitor *visitor, struct engine_event **last) {
    for (struct engine_event *event; (event = next_event(engine, visitor)); engine_event_destroy(event)) {
        *last = event;
        if (event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR) return true;
        for (int i = 0; i < event->token_count; i++) {
            assert_true(visitor->told < visitor->tokens_max);
            assert_int_equal(event->tokens[i].token, visitor->history[visitor->prompt_tokens + visitor->told]);
            visitor->told++;
        }
    }
    return false;
}

// Submits one, runs it to its end alone, and says how it was.
static struct engine_usage run_alone(struct engine *engine, struct visitor *visitor) {
    struct error error;
    struct engine_event *last = NULL;
    struct engine_request request = request_for(visitor);
    visitor->told = 0;
    if (engine_submit(engine, &request, &visitor->job, &error)) fail_msg("%s", error.message);
    pass_step(engine, 0.01);
    while (!read_visitor(engine, visitor, &last)) pass_step(engine, 0.01);
    assert_int_equal(last->type, ENGINE_EVENT_DONE);
    assert_int_equal(visitor->told, visitor->tokens_max);
    struct engine_usage usage = last->usage;
    engine_event_destroy(last);
    engine_job_release(visitor->job);
    visitor->job = NULL;
    return usage;
}

static void submit_short(struct engine *engine, struct visitor *visitor, uint64_t salt, uint32_t text) {
    struct error error;
    *visitor = (struct visitor){.prompt_tokens = 5, .tokens_max = 4, .salt = salt};
    letters(visitor->history, 0, 5, text);
    fill_answer(visitor);
    struct engine_request request = request_for(visitor);
    assert_int_equal(engine_submit(engine, &request, &visitor->job, &error), 0);
}

// Whether it has just ended.
static bool ends(struct engine *engine, struct visitor *visitor) {
    struct engine_event *last = NULL;
    if (!visitor->job || !read_visitor(engine, visitor, &last)) return false;
    assert_int_equal(last->type, ENGINE_EVENT_DONE);
    assert_int_equal(visitor->told, visitor->tokens_max);
    engine_event_destroy(last);
    engine_job_release(visitor->job);
    visitor->job = NULL;
    return true;
}

static struct engine *open_held(struct engine_options options) {
    struct engine *engine = open_engine(options);
    passed = 0;
    gate_hold();
    return engine;
}

static void close_idle(struct engine *engine) {
    check_idle(engine);
    struct engine_stats stats = stats_of(engine);
    assert_true(stats.kv_pages_kept <= stats.kv_pages);
    gate_open();
    engine_close(engine);
}

// ---- What is shared

// The second turn of a conversation reads what is new; another client's, or without a cache, everything.
static void a_second_turn_reads_what_is_new(void **state) {
    (void)state;
    static struct visitor visitor;
    static const struct {
        enum prefix_mode mode;
        uint64_t other;
        size_t cached; // of the second turn: whole pages, and the beginning of one
    } CASES[] = {{PREFIX_PROMPTS, 7, 150}, {PREFIX_ANSWERS, 7, 159}, {PREFIX_OFF, 7, 0}, {PREFIX_PROMPTS, 8, 0}};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        struct engine *engine = open_held((struct engine_options){.prefix = CASES[c].mode});
        visitor = (struct visitor){.prompt_tokens = 150, .tokens_max = 10, .salt = 7};
        letters(visitor.history, 0, 150, 1);
        fill_answer(&visitor);
        assert_int_equal(run_alone(engine, &visitor).cached_tokens, 0);
        int rows = fake.steps[0].rows, steps = gate_arrived();
        assert_int_equal(rows, 150);

        visitor.prompt_tokens = 190; // the answer, and the next question behind it
        visitor.salt = CASES[c].other;
        letters(visitor.history, 160, 190, 2);
        fill_answer(&visitor);
        struct engine_usage usage = run_alone(engine, &visitor);
        assert_int_equal(usage.prompt_tokens, 190);
        assert_int_equal(usage.cached_tokens, CASES[c].cached);
        assert_int_equal(fake.steps[steps].rows, 190 - CASES[c].cached);
        assert_int_equal(stats_of(engine).cached_tokens, CASES[c].cached);
        assert_int_equal(stats_of(engine).prompt_tokens, 150 + 190 - CASES[c].cached);

        usage = run_alone(engine, &visitor); // again the same: but for its last token
        assert_int_equal(usage.cached_tokens, CASES[c].mode == PREFIX_OFF ? 0 : 189);
        close_idle(engine);
    }
}

// Of a prompt that is known to its end, in whole pages or not, the last token is computed: it says what comes next.
static void the_last_token_is_always_computed(void **state) {
    (void)state;
    static struct visitor visitor;
    struct engine *engine = open_held((struct engine_options){0});
    for (int length = 2 * KV_PAGE_TOKENS - 1; length <= 2 * KV_PAGE_TOKENS + 12; length++) {
        visitor = (struct visitor){.prompt_tokens = length, .tokens_max = 3};
        letters(visitor.history, 0, length, 100 + (uint32_t)length);
        fill_answer(&visitor);
        assert_int_equal(run_alone(engine, &visitor).cached_tokens, 0);
        size_t part = (size_t)(length - 1) % KV_PAGE_TOKENS;
        size_t cached = (size_t)length - 1 - (part < PREFIX_PART_TOKENS_MIN ? part : 0);
        for (int again = 0; again < 2; again++) assert_int_equal(run_alone(engine, &visitor).cached_tokens, cached);
    }
    close_idle(engine);
}

// Four answers to one prompt, at once: it is computed and held once, and each goes on in pages of its own.
static void several_answers_share_their_prompt(void **state) {
    (void)state;
    enum { N = 4, PROMPT = 5 * KV_PAGE_TOKENS + 20 };
    static struct visitor visitors[N];
    struct engine_event *last = NULL;
    struct engine *engine = open_held((struct engine_options){.prefill_tokens_max = 64});
    for (int i = 0; i < N; i++) {
        visitors[i] = (struct visitor){.prompt_tokens = PROMPT, .tokens_max = 30};
        letters(visitors[i].history, 0, PROMPT, 3);
        fill_answer(&visitors[i]);
        struct engine_request request = request_for(&visitors[i]);
        struct error error;
        assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
    }
    for (int step = 0; step < 3; step++) pass_step(engine, 0.01);
    // 180 tokens in chunks of 64; the others follow page by page, and compute but the last token
    size_t most = 0;
    bool ended[N] = {false};
    for (int left = N; left > 0;) {
        pass_step(engine, 0.01);
        if (stats_of(engine).kv_pages_used > most) most = stats_of(engine).kv_pages_used;
        for (int i = 0; i < N; i++) {
            if (ended[i] || !read_visitor(engine, &visitors[i], &last)) continue;
            ended[i] = true;
            left--;
            assert_int_equal(visitors[i].told, 30);
            assert_int_equal(last->usage.cached_tokens, i == 0 ? 0 : PROMPT - 1);
            engine_event_destroy(last);
            engine_job_release(visitors[i].job);
        }
    }
    assert_int_equal(stats_of(engine).prompt_tokens, PROMPT + N - 1);
    assert_int_equal(most, 5 + N * 2); // whole pages once; each its own for the last 20 tokens and the answer
    close_idle(engine);
}

// The first of them is cancelled in mid-prompt: the next one goes on where it was, and the texts stay right.
static void cancelling_the_one_that_computes(void **state) {
    (void)state;
    static struct visitor visitors[2];
    struct engine_event *last = NULL;
    struct engine *engine = open_held((struct engine_options){.prefill_tokens_max = 32});
    for (int i = 0; i < 2; i++) {
        visitors[i] = (struct visitor){.prompt_tokens = 190, .tokens_max = 5};
        letters(visitors[i].history, 0, 190, 4);
        fill_answer(&visitors[i]);
        struct engine_request request = request_for(&visitors[i]);
        struct error error;
        assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
    }
    for (int step = 0; step < 4; step++) pass_step(engine, 0.01);
    assert_int_equal(stats_of(engine).prompt_tokens, 128);
    engine_job_cancel(visitors[0].job);
    pass_step(engine, 0.01); // the step it stood in
    assert_true(read_visitor(engine, &visitors[0], &last));
    assert_int_equal(last->error.code, ERROR_CANCELLED);
    engine_event_destroy(last);
    while (!read_visitor(engine, &visitors[1], &last)) pass_step(engine, 0.01);
    assert_int_equal(last->usage.cached_tokens, 160); // all that the other had computed
    assert_int_equal(visitors[1].told, 5);
    engine_event_destroy(last);
    for (int i = 0; i < 2; i++) engine_job_release(visitors[i].job);
    close_idle(engine);
}

// A long prompt is under way when a short one comes that begins alike, for a page and a half. It waits until the page
// that they share in part is known, and no longer: not for the rest of the long one.
static void a_short_prompt_does_not_wait_for_the_rest_of_a_long_one(void **state) {
    (void)state;
    enum { CHUNK = 8, SHARED = 2 * KV_PAGE_TOKENS, ALIKE = SHARED - 19 };
    static struct visitor visitors[2];
    struct engine_event *last = NULL;
    struct error error;
    for (int computed = 0; computed <= SHARED + 3 * CHUNK; computed += CHUNK) { // of the long one
        struct engine *engine = open_held((struct engine_options){.prefill_tokens_max = CHUNK});
        visitors[0] = (struct visitor){.prompt_tokens = 190, .tokens_max = 5};
        visitors[1] = (struct visitor){.prompt_tokens = ALIKE + 5, .tokens_max = 1};
        for (int i = 0; i < 2; i++) letters(visitors[i].history, 0, visitors[i].prompt_tokens, 4);
        letters(visitors[1].history, ALIKE, ALIKE + 5, 9);
        visitors[1].history[ALIKE] = TOKEN_MARK; // no letter of the other's
        for (int i = 0; i < 2; i++) fill_answer(&visitors[i]);
        for (int i = 0; i < 2; i++) {
            struct engine_request request = request_for(&visitors[i]);
            assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
            stands(engine);
            while (i == 0 && stats_of(engine).prompt_tokens < (size_t)computed) pass_step(engine, 0.01);
        }
        int steps = 0;
        for (bool ended = false; !ended; steps++) {
            assert_true(steps < 40);
            pass_step(engine, 0.01);
            ended = read_visitor(engine, &visitors[1], &last);
        }
        // One step was named before it came; those that compute the page; its own
        int waits = computed + CHUNK < SHARED ? (SHARED - computed - CHUNK) / CHUNK : 0;
        assert_int_equal(steps, 1 + waits + 1);
        assert_int_equal(last->usage.cached_tokens, ALIKE);
        engine_event_destroy(last);
        while (!read_visitor(engine, &visitors[0], &last)) pass_step(engine, 0.01);
        engine_event_destroy(last);
        for (int i = 0; i < 2; i++) engine_job_release(visitors[i].job);
        close_idle(engine);
    }
}

// Numbers that are not finite come while another request runs: nothing that it has computed by then, or computes later
// on, is kept for others; what is asked after that, is. Parts end in the step with the failure, or behind it.
static void what_runs_beside_bad_numbers_is_not_kept(void **state) {
    (void)state;
    static struct visitor good, bad;
    static const struct {
        int prompt_tokens, chunk, ahead; // steps of the good one before the bad one comes
    } CASES[] = {
        {100, 0, 0},  // its pages are whole in the step in which the bad one fails
        {20, 0, 0},   // a part is
        {20, 0, 2},   // it answers when the bad one fails, and leaves a part
        {31, 0, 2},   // the same, and the page is filled up by the answer
        {100, 32, 2}, // it has pages that were known, and computes more
    };
    struct engine_event *last = NULL;
    struct error error;
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        struct engine *engine = open_held((struct engine_options){.prefill_tokens_max = CASES[c].chunk});
        static struct visitor first; // so that the two others come together
        submit_short(engine, &first, 0, 1);
        stands(engine);
        fake.fails_at = 1;
        bad = (struct visitor){.prompt_tokens = 5, .tokens_max = 1};
        letters(bad.history, 0, 5, 2);
        bad.history[0] = PROMPT_PROMPT_NAN;
        good = (struct visitor){.prompt_tokens = CASES[c].prompt_tokens, .tokens_max = 12};
        letters(good.history, 0, good.prompt_tokens, 3);
        fill_answer(&good);
        struct visitor *order[2] = {CASES[c].ahead ? &good : &bad, CASES[c].ahead ? &bad : &good};
        for (int i = 0; i < 2; i++) {
            struct engine_request request = request_for(order[i]);
            assert_int_equal(engine_submit(engine, &request, &order[i]->job, &error), 0);
            for (int step = 0; i == 0 && step < CASES[c].ahead; step++) pass_step(engine, 0.01);
        }
        bool failed = false, ended = false;
        for (int step = 0; !failed || !ended; step++) {
            assert_true(step < 60);
            pass_step(engine, 0.01);
            ends(engine, &first);
            if (!failed && (failed = read_visitor(engine, &bad, &last))) {
                assert_int_equal(last->error.code, ERROR_NUMERIC);
                engine_event_destroy(last);
            }
            if (!ended && (ended = read_visitor(engine, &good, &last))) engine_event_destroy(last);
        }
        while (first.job) {
            pass_step(engine, 0.01);
            ends(engine, &first);
        }
        engine_job_release(bad.job);
        engine_job_release(good.job);
        assert_int_equal(stats_of(engine).kv_pages_kept, 0);
        assert_int_equal(run_alone(engine, &good).cached_tokens, 0);
        assert_true(run_alone(engine, &good).cached_tokens > 0);
        close_idle(engine);
    }
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
        cmocka_unit_test(a_second_turn_reads_what_is_new),
        cmocka_unit_test(the_last_token_is_always_computed),
        cmocka_unit_test(several_answers_share_their_prompt),
        cmocka_unit_test(cancelling_the_one_that_computes),
        cmocka_unit_test(what_runs_beside_bad_numbers_is_not_kept),
        cmocka_unit_test(a_short_prompt_does_not_wait_for_the_rest_of_a_long_one),
        cmocka_unit_test(places_are_shared_out_among_clients),
        cmocka_unit_test(a_busy_client_does_not_starve),
        cmocka_unit_test(waiting_has_an_end),
        cmocka_unit_test(waiting_ends_in_silence_too),
        cmocka_unit_test(come_back_when_there_is_room),
        cmocka_unit_test(traffic_of_all_kinds),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
