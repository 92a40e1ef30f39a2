// tandem bench --guess, over answers that a test writes: what the engine never should, it says.
#include "cli/bench_guess.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS = 5, NO_TOKEN = -1 };

static struct { // the engine: asked for an answer, it gives TOKENS tokens one by one, and then the end
    int asked, told; // answers; tokens of the one that is asked for now
    int odd;         // the answer, counted from 1, that is cut short, or has another token; 0: none
    int cut, other;  // after so many tokens; this one
    int released;
} engine;

static struct engine_token token;
static struct engine_event event;

const struct engine_info *__wrap_engine_info(const struct engine *unused);
int __wrap_engine_submit(struct engine *unused, const struct engine_request *request, struct engine_job **out,
                         struct error *error);
struct engine_event *__wrap_engine_job_wait(struct engine_job *job);
void __wrap_engine_job_release(struct engine_job *job);
void __wrap_engine_event_destroy(struct engine_event *unused);

const struct engine_info *__wrap_engine_info(const struct engine *unused) {
    (void)unused;
    static const struct engine_info INFO = {.vocab_size = 100};
    return &INFO;
}

int __wrap_engine_submit(struct engine *unused, const struct engine_request *request, struct engine_job **out,
                         struct error *error) {
    (void)unused;
    (void)error;
    assert_int_equal(request->prompt_tokens, BENCH_GUESS_PROMPT_TOKENS);
    engine.asked++;
    engine.told = 0;
    *out = NULL;
    return 0;
}

struct engine_event *__wrap_engine_job_wait(struct engine_job *job) {
    (void)job;
    bool odd = engine.asked == engine.odd;
    memset(&event, 0, sizeof event);
    if (engine.told == (odd ? engine.cut : TOKENS)) {
        event.type = ENGINE_EVENT_DONE;
        event.usage.decode_seconds = 1;
        return &event;
    }
    token.token = 10 + engine.told + (odd && engine.told == engine.other);
    engine.told++;
    event.type = ENGINE_EVENT_TEXT;
    event.tokens = &token;
    event.token_count = 1;
    return &event;
}

void __wrap_engine_job_release(struct engine_job *job) {
    (void)job;
    engine.released++;
}

void __wrap_engine_event_destroy(struct engine_event *unused) {
    assert_ptr_equal(unused, &event);
}

static int guess(int odd, int cut, int other, struct bench_guesses *out, struct error *error) {
    struct bench bench = {.synthetic = true, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct engine_step step = {.answers = 1, .tokens = 3, .seconds = 0.5};
    memset(&engine, 0, sizeof engine);
    engine.odd = odd;
    engine.cut = cut;
    engine.other = other;
    bench_guess_watch(&bench, &step);
    bench_guess_watch(&bench, &step);
    int code = bench_guess(&bench, 1, out, error);
    assert_int_equal(engine.asked, engine.released);
    return code;
}

static void answers_are_timed(void **state) {
    (void)state;
    struct bench_guesses found;
    struct error error;
    assert_int_equal(guess(0, 0, 0, &found, &error), 0);
    assert_int_equal(engine.asked, 1 + 2 * BENCH_GUESS_ROWS); // to know the answer; then without guesses and with
    for (int i = 0; i < BENCH_GUESS_ROWS; i++) assert_int_equal(found.rows[i].tokens, TOKENS - 1);
    assert_int_equal(found.steps.count[3], 2);
    json_t *json = bench_guess_json(&found), *steps = json_object_get(json, "steps");
    assert_int_equal(json_array_size(steps), 1);
    assert_float_equal(json_real_value(json_object_get(json_array_get(steps, 0), "ms")), 500, 1e-9);
    json_decref(json);
}

static void answers_that_differ_are_told(void **state) {
    (void)state;
    struct bench_guesses found;
    struct error error;
    for (int odd = 2; odd <= 1 + 2 * BENCH_GUESS_ROWS; odd++) {
        assert_int_equal(guess(odd, TOKENS, 3, &found, &error), ERROR_INTERNAL);
        assert_non_null(strstr(error.message, "token 3 of an answer is another"));
        assert_int_equal(guess(odd, TOKENS + 1, NO_TOKEN, &found, &error), ERROR_INTERNAL);
        assert_non_null(strstr(error.message, "token 5 of an answer is another"));
        for (int cut = 0; cut < TOKENS; cut++) {
            assert_int_equal(guess(odd, cut, NO_TOKEN, &found, &error), ERROR_INTERNAL);
            assert_non_null(strstr(error.message, "an answer of 5 tokens ends after"));
            assert_int_equal(engine.asked, odd); // at once
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_timed),
        cmocka_unit_test(answers_that_differ_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
