// What requests share of their prompts, through the whole engine: pages that were computed before, or are being
// computed now, are taken and not computed again, and no answer differs for it.
#include "tests/unit/visitors.h"

#include "engine/prefix_cache.h"

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

// Whoever begins as another one does waits for what he computes of that, and for no more: then all the rest goes
// together, as all of it does where nothing is kept.
static void who_begins_alike_waits_once(void **state) {
    (void)state;
    enum { N = 16 };
    static const struct {
        enum prefix_mode mode;
        int head, tail; // tokens that all have, and each has for itself
        size_t computed;
    } CASES[] = {
        {PREFIX_PROMPTS, 12, 20, 32 + (N - 1) * 20},
        {PREFIX_PROMPTS, KV_PAGE_TOKENS + 9, 20, KV_PAGE_TOKENS + 29 + (N - 1) * 20},
        {PREFIX_PROMPTS, 50, 0, 50 + N - 1}, // several answers to one prompt
        {PREFIX_OFF, 50, 20, N * 70},
        {PREFIX_OFF, 50, 0, N * 50},
    };
    static struct visitor visitors[N];
    struct engine_event *last = NULL;
    struct error error;
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        int head = CASES[c].head, prompt = head + CASES[c].tail;
        struct engine *engine = open_held((struct engine_options){
            .sequences_max = N, .prefill_tokens_max = N * PROMPT_MAX, .prefix = CASES[c].mode});
        int step = gate_arrived();
        for (int i = 0; i < N; i++) {
            visitors[i] = (struct visitor){.prompt_tokens = prompt, .tokens_max = 1};
            letters(visitors[i].history, 0, head, 7);
            letters(visitors[i].history, head, prompt, 10 + (uint32_t)i);
            fill_answer(&visitors[i]);
            struct engine_request request = request_for(&visitors[i]);
            assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
        }
        while (stands(engine)) pass_step(engine, 0.01);
        assert_in_range(gate_arrived() - step, 1, 2); // the first one may begin when it comes
        assert_int_equal(stats_of(engine).prompt_tokens, CASES[c].computed);
        for (int i = 0; i < N; i++) {
            assert_true(read_visitor(engine, &visitors[i], &last));
            assert_int_equal(visitors[i].told, 1);
            engine_event_destroy(last);
            engine_job_release(visitors[i].job);
        }
        close_idle(engine);
    }
}

// One question begins as one of another client's many does, and waits for it: that one goes when the question would,
// and not behind a third client's prompt.
static void who_is_waited_for_goes_sooner(void **state) {
    (void)state;
    enum { STREAM, THIRD, LEADER, MANY, ONE, N, HEAD = 20 };
    static const struct {
        int tokens, head;
        uint64_t client;
    } CASES[N] = {[STREAM] = {5, 0, 9}, [THIRD] = {150, 0, 3}, [LEADER] = {30, HEAD, 1}, [MANY] = {190, 0, 1},
                  [ONE] = {HEAD + 5, HEAD, 2}};
    static struct visitor visitors[N];
    struct error error;
    struct engine *engine = open_held((struct engine_options){.sequences_max = N, .prefill_tokens_max = 16});
    for (int i = 0; i < N; i++) {
        visitors[i] = (struct visitor){.prompt_tokens = CASES[i].tokens, .tokens_max = i == STREAM ? ANSWER_MAX : 1};
        letters(visitors[i].history, 0, CASES[i].tokens, 20 + (uint32_t)i);
        letters(visitors[i].history, 0, CASES[i].head, 7);
        fill_answer(&visitors[i]);
        struct engine_request request = request_for(&visitors[i]);
        request.client = CASES[i].client;
        assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
        if (i == STREAM) pass_step(engine, 0.01);
    }
    pass_step(engine, 0.01); // the one that stood at the gate: all have a place now
    for (int step = 0; visitors[ONE].job; step++) {
        assert_true(step < 5); // two or three for the other's 30 tokens, one for its own
        pass_step(engine, 0.01);
        for (int i = 0; i < N; i++) ends(engine, &visitors[i]);
    }
    while (!is_idle(engine)) {
        pass_step(engine, 0.01);
        for (int i = 0; i < N; i++) ends(engine, &visitors[i]);
    }
    close_idle(engine);
}

// Pages that nobody holds are there for whoever comes, and for whoever finds his prompt in them: once, not twice.
static void pages_that_are_found_are_not_free_too(void **state) {
    (void)state;
    enum { PAGES = 9 };
    static struct visitor first, busy, again;
    struct error error;
    struct engine_event *last = NULL;
    struct engine *engine = open_held((struct engine_options){
        .sequences_max = 2, .kv_tokens = (size_t)PAGES * KV_PAGE_TOKENS, .prefill_tokens_max = 200});
    first = (struct visitor){.prompt_tokens = 3 * KV_PAGE_TOKENS + 4, .tokens_max = 4};
    letters(first.history, 0, first.prompt_tokens, 1);
    fill_answer(&first);
    run_alone(engine, &first); // leaves three pages
    busy = (struct visitor){.prompt_tokens = 4 * KV_PAGE_TOKENS, .tokens_max = KV_PAGE_TOKENS}; // five in the end
    letters(busy.history, 0, busy.prompt_tokens, 2);
    fill_answer(&busy);
    again = first;
    again.told = 0;
    again.tokens_max = ANSWER_MAX; // five, three of which are there: nine have no room for all of that
    fill_answer(&again);
    struct engine_request request = request_for(&busy);
    assert_int_equal(engine_submit(engine, &request, &busy.job, &error), 0);
    pass_step(engine, 0.01);
    request = request_for(&again);
    assert_int_equal(engine_submit(engine, &request, &again.job, &error), 0);
    for (bool ended = false; !ended;) {
        assert_int_equal(again.told, 0);
        pass_step(engine, 0.01);
        ended = ends(engine, &busy);
        if (!ended) assert_false(read_visitor(engine, &again, &last));
    }
    while (!ends(engine, &again)) pass_step(engine, 0.01);
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

// Where weights are unpacked for prompts, one of up to 16 tokens is computed in the arithmetic of answers, a longer one in
// that of prompts: so neither takes over what the other has left, but where an answer's is taken over too.
static void prompts_share_with_their_own_kind(void **state) {
    (void)state;
    static struct visitor visitor;
    static const int LENGTHS[] = {16, 19, 16, 10, 19, 17};
    static const struct {
        enum weight_format weights;
        enum prefix_mode mode;
        size_t cached[sizeof LENGTHS / sizeof *LENGTHS];
    } CASES[] = {
        {WEIGHTS_INT8, PREFIX_PROMPTS, {0, 0, 15, 9, 18, 16}},
        {WEIGHTS_INT4, PREFIX_ANSWERS, {0, 16, 15, 9, 18, 16}},
        {WEIGHTS_BF16, PREFIX_PROMPTS, {0, 16, 15, 9, 18, 16}},
    };
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        struct engine *engine =
            open_held((struct engine_options){.weights = CASES[c].weights, .prefix = CASES[c].mode});
        bool unpacked = CASES[c].weights != WEIGHTS_BF16;
        for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
            int length = LENGTHS[i], step = gate_arrived();
            visitor = (struct visitor){.prompt_tokens = length, .tokens_max = 3};
            letters(visitor.history, 0, length, 5);
            fill_answer(&visitor);
            assert_int_equal(run_alone(engine, &visitor).cached_tokens, CASES[c].cached[i]);
            assert_int_equal(fake.steps[step].rows, (size_t)length - CASES[c].cached[i]);
            assert_int_equal(fake.steps[step].brief, unpacked && length <= 16 ? fake.steps[step].rows : 0);
            assert_int_equal(fake.steps[step].answers, 0);
        }
        close_idle(engine);
    }
}

// Behind those who answer, in front of longer prompts, wherever their places are.
static void brief_prompts_go_with_answers(void **state) {
    (void)state;
    enum { N = 4 };
    static struct visitor visitors[N];
    static const int LENGTHS[N] = {40, 5, 100, 16};
    struct engine_event *last = NULL;
    struct error error;
    struct engine *engine = open_held((struct engine_options){.weights = WEIGHTS_INT8, .prefix = PREFIX_OFF});
    for (int i = 0; i < N; i++) {
        visitors[i] = (struct visitor){.prompt_tokens = LENGTHS[i], .tokens_max = 4};
        letters(visitors[i].history, 0, LENGTHS[i], 10 + (uint32_t)i);
        fill_answer(&visitors[i]);
        struct engine_request request = request_for(&visitors[i]);
        assert_int_equal(engine_submit(engine, &request, &visitors[i].job, &error), 0);
        if (i == 0) pass_step(engine, 0.01); // it answers when the others come
    }
    int step = gate_arrived();
    for (int left = N; left > 0; pass_step(engine, 0.01))
        for (int i = 0; i < N; i++) {
            if (!visitors[i].job || !read_visitor(engine, &visitors[i], &last)) continue;
            assert_int_equal(visitors[i].told, 4);
            engine_event_destroy(last);
            engine_job_release(visitors[i].job);
            visitors[i].job = NULL;
            left--;
        }
    int brief = 0, together = 0;
    for (; step < gate_arrived(); step++) {
        brief += fake.steps[step].brief;
        together += fake.steps[step].brief == 21 && fake.steps[step].answers == 1 && fake.steps[step].rows == 122;
    }
    assert_int_equal(brief, 21);
    assert_int_equal(together, 1);
    close_idle(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_turn_reads_what_is_new),
        cmocka_unit_test(the_last_token_is_always_computed),
        cmocka_unit_test(several_answers_share_their_prompt),
        cmocka_unit_test(who_begins_alike_waits_once),
        cmocka_unit_test(who_is_waited_for_goes_sooner),
        cmocka_unit_test(pages_that_are_found_are_not_free_too),
        cmocka_unit_test(cancelling_the_one_that_computes),
        cmocka_unit_test(what_runs_beside_bad_numbers_is_not_kept),
        cmocka_unit_test(a_short_prompt_does_not_wait_for_the_rest_of_a_long_one),
        cmocka_unit_test(prompts_share_with_their_own_kind),
        cmocka_unit_test(brief_prompts_go_with_answers),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
