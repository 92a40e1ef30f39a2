// Guesses on the built-in model, on real kernels: an answer of which several tokens were computed in one step is the
// answer without guesses, byte by byte and log-probability by log-probability, in every format of weights.
// (tests/unit/test_guesses.c shows it of the engine; this, of the kernels.) The engine is told what to expect, half of
// it wrong, under a clock in which every step takes the same time, so that it guesses wherever it may.
#include "engine/engine.h"
#include "tests/sanitized.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic double now = 1000;

double clock_seconds(void);
double clock_seconds(void) {
    double before = atomic_load(&now);
    while (!atomic_compare_exchange_weak(&now, &before, before + 1e-3)) continue;
    return before;
}

enum { QUESTIONS = SANITIZED ? 2 : 6, ANSWER_TOKENS = 120, TEXT_BYTES = 4096 };

static const char *const TEXTS[] = {
    "Repeat after me: The lamp is on the table, the book is in the bag, and the key is under the stone.",
    "Tell me a long story about a dog.",
    "Count from one to ten, and then once more.",
    "What is Tandem? What is it for? What can it do? Is it so? Is it so? Is it so? Is it so? Is it so? Is it so?",
    "Give me a JSON object.",
    "Who are you?",
};

struct answer {
    char text[TEXT_BYTES];
    size_t bytes;
    int32_t tokens[ANSWER_TOKENS];
    float logprobs[ANSWER_TOKENS][2]; // the token's, and the most likely one's
    int count;
    struct engine_usage usage;
};

static struct engine *open_engine(const char *stages, enum weight_format weights, enum speculate_mode speculate) {
    struct engine *engine = NULL;
    struct error error = {0};
    struct engine_options options = {.model_dir = "models/demo",
                                     .stages = stages,
                                     .weights = weights,
                                     .threads = 2,
                                     .sequences_max = QUESTIONS,
                                     .prefix = PREFIX_OFF,
                                     .prefill_tokens_max = 1, // prompts take long, so that guesses may cost something
                                     .speculate = speculate};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    return engine;
}

static struct engine_job *ask(struct engine *engine, int number, const int32_t *expected, int expected_tokens) {
    struct chat_message message = {"user", TEXTS[number], strlen(TEXTS[number])};
    struct token_list prompt = {0};
    struct error error = {0};
    assert_int_equal(engine_chat_tokens(engine, &message, 1, &prompt, &error), 0);
    struct engine_request request = {.prompt = prompt.ids,
                                     .prompt_tokens = prompt.count,
                                     .tokens_max = ANSWER_TOKENS,
                                     .strip_space = true,
                                     .ignore_eos = true,
                                     .want_logprobs = true,
                                     .top_logprobs = 1,
                                     .expected = expected,
                                     .expected_tokens = (size_t)expected_tokens,
                                     .sampling = {.temperature = number % 2 ? 1 : 0,
                                                  .top_p = 1,
                                                  .repetition_penalty = number == 2 ? 1.1f : 1,
                                                  .seed = (uint64_t)number}};
    struct engine_job *job = NULL;
    if (engine_submit(engine, &request, &job, &error)) fail_msg("%s", error.message);
    token_list_finish(&prompt);
    return job;
}

static void read_answer(struct engine_job *job, struct answer *answer) {
    memset(answer, 0, sizeof *answer);
    for (struct engine_event *event; (event = engine_job_wait(job)); engine_event_destroy(event)) {
        if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
        assert_true(answer->bytes + event->text_bytes < TEXT_BYTES);
        memcpy(answer->text + answer->bytes, event->text, event->text_bytes);
        answer->bytes += event->text_bytes;
        for (int i = 0; i < event->token_count; i++, answer->count++) {
            answer->tokens[answer->count] = event->tokens[i].token;
            answer->logprobs[answer->count][0] = event->tokens[i].logprob;
            answer->logprobs[answer->count][1] = event->tokens[i].top[0].logprob;
        }
        answer->usage = event->usage;
    }
    engine_job_release(job);
}

static void assert_same(const struct answer *with, const struct answer *without) {
    assert_string_equal(with->text, without->text);
    assert_int_equal(with->count, without->count);
    assert_memory_equal(with->tokens, without->tokens, sizeof with->tokens);
    assert_memory_equal(with->logprobs, without->logprobs, sizeof with->logprobs);
}

static void check_guesses(const char *stages, enum weight_format weights) {
    static struct answer without[QUESTIONS], with;
    int32_t expected[QUESTIONS][ANSWER_TOKENS];
    struct engine *engine = open_engine(stages, weights, SPECULATE_OFF);
    for (int i = 0; i < QUESTIONS; i++) {
        read_answer(ask(engine, i, NULL, 0), &without[i]);
        memcpy(expected[i], without[i].tokens, sizeof expected[i]);
        for (int at = 7 + i; at < ANSWER_TOKENS; at += 11) expected[i][at] = without[i].tokens[at] ^ 1;
    }
    engine_close(engine);

    engine = open_engine(stages, weights, SPECULATE_AUTO);
    size_t right = 0, wrong = 0;
    for (int i = 0; i < QUESTIONS; i++) {
        read_answer(ask(engine, i, expected[i], ANSWER_TOKENS), &with);
        assert_same(&with, &without[i]);
        right += with.usage.guessed_right;
        wrong += with.usage.guessed_wrong;
    }
    assert_true(right > QUESTIONS * ANSWER_TOKENS / 3 && wrong > QUESTIONS * 5);

    struct engine_job *jobs[QUESTIONS]; // guesses of several beside each other
    for (int i = 0; i < QUESTIONS; i++) jobs[i] = ask(engine, i, expected[i], ANSWER_TOKENS);
    right = 0;
    for (int i = 0; i < QUESTIONS; i++) {
        read_answer(jobs[i], &with);
        assert_same(&with, &without[i]);
        right += with.usage.guessed_right;
    }
    assert_true(right > QUESTIONS * 10);
    engine_close(engine);
}

#if !SANITIZED
static void reference_f32(void **state) {
    (void)state;
    check_guesses("reference", WEIGHTS_F32);
}
#endif

static void cpu_f32(void **state) {
    (void)state;
    check_guesses("cpu", WEIGHTS_F32);
}

static void cpu_bf16(void **state) {
    (void)state;
    check_guesses("cpu", WEIGHTS_BF16);
}

static void cpu_int8(void **state) {
    (void)state;
    check_guesses("cpu", WEIGHTS_INT8);
}

static void cpu_int4(void **state) {
    (void)state;
    check_guesses("cpu", WEIGHTS_INT4);
}

#if !SANITIZED
static void plain_int8(void **state) {
    (void)state;
    check_guesses("plain", WEIGHTS_INT8);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_f32),       cmocka_unit_test(cpu_bf16),   cmocka_unit_test(cpu_int8),
        cmocka_unit_test(cpu_int4),
#if !SANITIZED // a minute there
        cmocka_unit_test(reference_f32), cmocka_unit_test(plain_int8),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
