// Guesses in the engine, on a model of cardboard that mostly repeats itself, under a clock in which every step takes
// the same time: so guessing always pays, and is done whenever there is room. Whatever a request asks for, the answer
// is the one without guesses.
#include "tests/unit/fake_model.h"

#include "engine/prefix_cache.h"

#include <stdatomic.h>

// Time passes a little whenever somebody looks; what a step's rows take is not in it. A prompt of many chunks takes
// long enough for its answer to be guessed at from the beginning.
static _Atomic double now = 1000;

double clock_seconds(void) {
    double before = atomic_load(&now);
    while (!atomic_compare_exchange_weak(&now, &before, before + 1e-3)) continue;
    return before;
}

enum { PROMPT = 300, ANSWER = 200 };

static struct engine *open_with_chunks(enum speculate_mode mode, int chunk) {
    return open_engine((struct engine_options){
        .sequences_max = 4, .prefill_tokens_max = chunk, .speculate = mode, .prefix = PREFIX_OFF});
}

static struct engine *open_guessing(enum speculate_mode mode) {
    return open_with_chunks(mode, 4);
}

static void assert_same(const struct outcome *with, const struct outcome *without) {
    assert_int_equal(with->end, without->end);
    assert_int_equal(with->finish, without->finish);
    assert_int_equal(with->error.code, without->error.code);
    assert_int_equal(with->token_count, without->token_count);
    assert_memory_equal(with->tokens, without->tokens, (size_t)with->token_count * sizeof *with->tokens);
    assert_memory_equal(with->logprobs, without->logprobs, (size_t)with->token_count * sizeof *with->logprobs);
    assert_int_equal(with->bytes, without->bytes);
    assert_string_equal(with->text, without->text);
    assert_int_equal(with->usage.completion_tokens, without->usage.completion_tokens);
    assert_int_equal(without->usage.guessed_right + without->usage.guessed_wrong, 0);
    assert_true(with->usage.guessed_right < with->usage.completion_tokens);
}

// ---- Every way of asking

static const struct logit_bias BIAS[] = {{TOKEN_A + 7, 4}, {TOKEN_A + 9, -100}};

static struct engine_request request_number(int number, int32_t *prompt) {
    struct engine_request request = request_of(prompt, PROMPT_ECHO, PROMPT, (uint32_t)number, ANSWER);
    struct sampling *sampling = &request.sampling;
    request.want_logprobs = true;
    request.top_logprobs = number % 3;
    sampling->temperature = (float[]){0, 0, 1, 0.7f, 1, 1, 1, 0}[number % 8];
    if (number % 8 == 1) sampling->repetition_penalty = 1.2f;
    if (number % 8 == 4) {
        sampling->presence_penalty = 0.3f;
        sampling->frequency_penalty = 0.1f;
    }
    if (number % 8 == 5) {
        sampling->bias = BIAS;
        sampling->bias_count = sizeof BIAS / sizeof *BIAS;
    }
    if (number % 8 == 6) {
        sampling->top_k = 5;
        sampling->top_p = 0.9f;
        sampling->min_p = 0.05f;
    }
    if (number % 8 == 7) request.tokens_max = 150 + number;
    return request;
}

static void answers_are_the_same_whatever_is_asked_for(void **state) {
    (void)state;
    enum { REQUESTS = 40 };
    static int32_t prompts[REQUESTS][PROMPT];
    static struct outcome without[REQUESTS], with;
    struct engine *engine = open_guessing(SPECULATE_OFF);
    for (int i = 0; i < REQUESTS; i++) {
        struct engine_request request = request_number(i, prompts[i]);
        run_request(engine, &request, &without[i]);
    }
    int steps_without = gate_arrived();
    assert_int_equal(stats_of(engine).guessed_tokens, 0);
    engine_close(engine);

    size_t right = 0, wrong = 0;
    engine = open_guessing(SPECULATE_AUTO);
    for (int i = 0; i < REQUESTS; i++) {
        struct engine_request request = request_number(i, prompts[i]);
        run_request(engine, &request, &with);
        assert_same(&with, &without[i]);
        right += with.usage.guessed_right;
        wrong += with.usage.guessed_wrong;
    }
    int steps_with = gate_arrived();
    assert_true(right > 1000 && wrong > 100);
    assert_int_equal(steps_with, steps_without - (int)right); // each right guess is a step less
    assert_int_equal(stats_of(engine).guessed_right, right);
    assert_int_equal(stats_of(engine).guessed_tokens, right + wrong);

    struct engine_job *jobs[REQUESTS]; // and in company
    for (int i = 0; i < REQUESTS; i++) {
        struct engine_request request = request_number(i, prompts[i]);
        jobs[i] = submit(engine, &request);
    }
    for (int i = 0; i < REQUESTS; i++) {
        finish_job(jobs[i], &with);
        assert_same(&with, &without[i]);
    }
    check_idle(engine);
    engine_close(engine);
}

static void one_who_wants_no_guesses_gets_none(void **state) {
    (void)state;
    int32_t prompt[PROMPT];
    static struct outcome outcome;
    struct engine *engine = open_guessing(SPECULATE_AUTO);
    struct engine_request request = request_number(0, prompt);
    request.one_by_one = true;
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.usage.guessed_right + outcome.usage.guessed_wrong, 0);
    request.one_by_one = false;
    run_request(engine, &request, &outcome);
    assert_true(outcome.usage.guessed_right > 0);
    engine_close(engine);
}

// The answer ends where it ends, wherever in a step that is: at its last token, at an end-of-turn token, at a stop
// string that begins in one guess and ends in another.
static void answers_end_where_they_end(void **state) {
    (void)state;
    enum { PERIOD = 7, ENDS = 40 };
    static struct outcome without, with;
    static int32_t script[ANSWER], prompt[PROMPT];
    size_t right = 0;
    struct engine *plain = open_guessing(SPECULATE_OFF);
    for (int way = 0; way < 3; way++)
        for (int end = 60; end < 60 + ENDS; end++) {
            for (int i = 0; i < ANSWER; i++) script[i] = TOKEN_A + i % PERIOD;
            if (way == 1) script[end] = TOKEN_END;
            if (way == 2) script[end] = TOKEN_A + 20; // "u"
            fake.script = script;
            fake.script_count = ANSWER;
            fake.script_prompt = PROMPT;
            struct engine_request request = request_of(prompt, PROMPT_SCRIPT, PROMPT, 1, way == 0 ? end : ANSWER);
            request.sampling.temperature = 0;
            if (way == 2) { // the "u" and what comes around it
                static char stop[4];
                snprintf(stop, sizeof stop, "%cu", 'a' + (end - 1) % PERIOD);
                request.stops[0] = (struct text_span){stop, 2};
                request.stop_count = 1;
            }
            run_request(plain, &request, &without);
            assert_int_equal(without.token_count, way == 2 ? end + 1 : end);
            static struct engine *guessing;
            guessing = open_guessing(SPECULATE_AUTO); // the cardboard's script is one at a time
            run_request(guessing, &request, &with);
            assert_same(&with, &without);
            right += with.usage.guessed_right;
            check_idle(guessing);
            engine_close(guessing);
        }
    assert_true(right > 1000);
    engine_close(plain);
}

// ---- Drawn answers

// The token behind a guess, drawn many times with other seeds. How often each comes is as likely as the model says: the
// sum of squares over expectation is below a bound that it exceeds once in 10^6 (Wilson and Hilferty's formula).
static void drawn_tokens_are_as_likely_as_the_model_says(void **state) {
    (void)state;
    enum { DRAWS = 2000, TOKENS = 4, LENGTH = 240, CHUNK = 2 }; // whose time pays twice for a guess
    static int32_t prompt[PROMPT];
    static struct outcome outcome;
    int counts[VOCAB] = {0}, right = 0, first = -1;
    struct engine *engine = open_with_chunks(SPECULATE_AUTO, CHUNK);
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, LENGTH, 5, TOKENS);
    static int32_t expected[TOKENS] = {TOKEN_A + 3, TOKEN_A + 1, TOKEN_A + 4, TOKEN_A + 1};
    float logits[VOCAB];
    fake_logits(prompt, LENGTH,
                logits); // the first token is drawn with the prompt; the second is the one that is guessed
    for (int i = 0; i < VOCAB; i++)
        if (first < 0 || logits[i] > logits[first]) first = i;
    prompt[LENGTH] = first;
    fake_logits(prompt, LENGTH + 1, logits);
    for (int i = 0; i < VOCAB; i++)
        if (logits[i] > logits[expected[1]]) expected[1] = i; // a guess that is right now and then
    expected[0] = first;
    request.expected = expected;
    request.expected_tokens = TOKENS;
    int drawn = 0;
    for (uint64_t seed = 0; drawn < DRAWS; seed++) {
        assert_true(seed < 40000);
        request.sampling.seed = seed;
        run_request(engine, &request, &outcome);
        if (outcome.tokens[0] != first) continue; // another text
        counts[outcome.tokens[1]]++;
        drawn++;
        right += outcome.usage.guessed_right > 0;
    }
    double total = 0, sum = 0;
    int kinds = 0;
    for (int i = 0; i < VOCAB; i++) total += exp((double)logits[i]);
    for (int i = 0; i < VOCAB; i++) {
        double wanted = DRAWS * exp((double)logits[i]) / total;
        if (wanted < 5) continue; // too few to tell
        sum += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
        kinds++;
    }
    double free_kinds = kinds, part = 2 / (9 * free_kinds);
    double bound = free_kinds * pow(1 - part + 4.753 * sqrt(part), 3);
    if (sum > bound) fail_msg("chi-square is %.1f over %d tokens, beyond %.1f", sum, kinds, bound);
    if (right <= DRAWS / 50) fail_msg("%d guesses were right", right);
    engine_close(engine);
}

// ---- What goes wrong

// The logits behind a guess are not finite. Where the guess is wrong nobody asks for them; where it is right, the
// request fails there as it would have without.
static void numbers_that_are_not_finite(void **state) {
    (void)state;
    static int32_t prompt[PROMPT];
    static struct outcome without, with;
    struct engine *plain = open_guessing(SPECULATE_OFF), *guessing;
    for (int at = 1; at < 60; at += 7) {
        struct engine_request request = request_of(prompt, PROMPT_NAN, PROMPT, 3, ANSWER);
        fake.script_prompt = PROMPT;
        fake.fails_at = at;
        request.sampling.temperature = 0;
        run_request(plain, &request, &without);
        assert_int_equal(without.error.code, ERROR_NUMERIC);
        assert_int_equal(without.token_count, at);
        for (int wrong_from = 0; wrong_from < 70; wrong_from += 3) {
            int32_t expected[70];
            for (int i = 0; i < 70; i++) expected[i] = i < at && i < wrong_from ? without.tokens[i] : TOKEN_MARK;
            request.expected = expected;
            request.expected_tokens = 70;
            guessing = open_guessing(SPECULATE_AUTO);
            run_request(guessing, &request, &with);
            assert_same(&with, &without);
            check_idle(guessing);
            engine_close(guessing);
        }
    }
    engine_close(plain);
}

// Who does not read is guessed for as far as there is room for events, and then paused as ever.
static void a_slow_reader_has_room(void **state) {
    (void)state;
    static int32_t prompt[PROMPT];
    static struct outcome without, with;
    struct engine *engine = open_guessing(SPECULATE_OFF);
    struct engine_request request = request_number(0, prompt);
    run_request(engine, &request, &without);
    engine_close(engine);
    for (int round = 0; round < 20; round++) {
        engine = open_guessing(SPECULATE_AUTO);
        struct engine_job *job = submit(engine, &request);
        for (int wait = 0; wait < round; wait++) { // read some, then leave it alone for a while
            struct engine_event *event = engine_job_wait(job);
            assert_int_equal(event->type, ENGINE_EVENT_TEXT);
            assert_int_equal(event->tokens[0].token, without.tokens[wait]);
            engine_event_destroy(event);
        }
        for (uint64_t made = 0, idle = 0; idle < 5; idle = made == stats_of(engine).completion_tokens ? idle + 1 : 0) {
            made = stats_of(engine).completion_tokens;
            usleep(500);
        }
        with = (struct outcome){0};
        while (!add_event(&with, engine_job_wait(job))) continue;
        engine_job_release(job);
        assert_int_equal(with.token_count, without.token_count - round);
        assert_memory_equal(with.tokens, without.tokens + round, (size_t)with.token_count * sizeof *with.tokens);
        check_idle(engine);
        engine_close(engine);
    }
}

// Cancelled in any step, one with guesses too: gone within it.
static void cancelling_among_guesses(void **state) {
    (void)state;
    static int32_t prompt[PROMPT];
    static struct outcome outcome;
    struct engine *engine = open_guessing(SPECULATE_AUTO);
    struct engine_request request = request_number(0, prompt);
    int wide = 0;
    for (int after = 0; after < 30; after++) {
        int before = gate_arrived(), prompt_steps = PROMPT / 4;
        gate_hold();
        struct engine_job *job = submit(engine, &request);
        gate_await(before + 1);
        for (int i = 0; i < prompt_steps + after; i++) { // one by one, reading, so that nothing is paused
            gate_pass(1);
            gate_await(before + 2 + i);
            for (struct engine_event *event; (event = engine_job_next(job));) engine_event_destroy(event);
        }
        wide += fake.steps[gate_arrived() - 1].answers > 1;
        engine_job_cancel(job);
        gate_pass(1);
        finish_job(job, &outcome);
        assert_int_equal(outcome.error.code, ERROR_CANCELLED);
        while (stats_of(engine).running > 0) usleep(100);
        check_idle(engine);
        gate_open();
    }
    assert_true(wide > 3);
    engine_close(engine);
}

// What was guessed wrong is in nobody's prefix: the next turn, and one that goes on with the wrong guesses themselves,
// get the answers that they get in an engine that has never guessed.
static void wrong_guesses_are_kept_for_nobody(void **state) {
    (void)state;
    static int32_t prompt[PROMPT], turn[PROMPT + 80];
    static struct outcome first, with, without;
    struct engine_options options = {.prefill_tokens_max = 4, .speculate = SPECULATE_AUTO, .prefix = PREFIX_ANSWERS};
    for (int tokens = 33; tokens < 33 + KV_PAGE_TOKENS; tokens += 3) {
        struct engine *engine = open_engine(options);
        struct engine_request request = request_of(prompt, PROMPT_ECHO, PROMPT, 9, tokens);
        int32_t wrong[64];
        for (int i = 0; i < 64; i++) wrong[i] = TOKEN_MARK;
        request.sampling.temperature = 0;
        request.expected = wrong;
        request.expected_tokens = 64;
        run_request(engine, &request, &first);
        assert_int_equal(first.token_count, tokens);
        for (int way = 0; way < 2; way++) {
            memcpy(turn, prompt, sizeof prompt);
            memcpy(turn + PROMPT, first.tokens, (size_t)tokens * sizeof *turn);
            for (int i = PROMPT + tokens; i < PROMPT + 80; i++) turn[i] = TOKEN_A + i % 26;
            if (way == 1) // from half of the answer on what was guessed
                for (int i = PROMPT + tokens / 2; i < PROMPT + 80; i++) turn[i] = TOKEN_MARK;
            struct engine_request next = {.prompt = turn,
                                          .prompt_tokens = PROMPT + 80,
                                          .tokens_max = 20,
                                          .sampling = {.top_p = 1, .repetition_penalty = 1}};
            struct engine *fresh = open_engine((struct engine_options){.prefix = PREFIX_OFF});
            run_request(fresh, &next, &without);
            engine_close(fresh);
            run_request(engine, &next, &with);
            assert_same(&with, &without);
            assert_true(with.usage.cached_tokens >= PROMPT / KV_PAGE_TOKENS * KV_PAGE_TOKENS);
            assert_true(with.usage.cached_tokens <= (size_t)(PROMPT + (way ? tokens / 2 : tokens - 1)));
        }
        check_idle(engine);
        engine_close(engine);
    }
}

static void a_prediction_is_checked(void **state) {
    (void)state;
    static int32_t prompt[4], expected[1000];
    struct engine *engine = open_guessing(SPECULATE_AUTO);
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 4, 1, 5);
    struct engine_job *job;
    struct error error;
    request.expected = expected;
    request.expected_tokens = 1000;
    assert_int_equal(engine_submit(engine, &request, &job, &error), ERROR_ARGUMENT);
    assert_string_equal(error.param, "prediction");
    request.expected_tokens = 3;
    expected[2] = VOCAB;
    assert_int_equal(engine_submit(engine, &request, &job, &error), ERROR_ARGUMENT);
    expected[2] = -1;
    assert_int_equal(engine_submit(engine, &request, &job, &error), ERROR_ARGUMENT);
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_same_whatever_is_asked_for),
        cmocka_unit_test(one_who_wants_no_guesses_gets_none),
        cmocka_unit_test(answers_end_where_they_end),
        cmocka_unit_test(drawn_tokens_are_as_likely_as_the_model_says),
        cmocka_unit_test(numbers_that_are_not_finite),
        cmocka_unit_test(a_slow_reader_has_room),
        cmocka_unit_test(cancelling_among_guesses),
        cmocka_unit_test(wrong_guesses_are_kept_for_nobody),
        cmocka_unit_test(a_prediction_is_checked),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
