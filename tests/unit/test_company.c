// The engine on the built-in model, on both sets of stages: an answer alone is the answer in company, byte by byte
// and log-probability by log-probability. (tests/unit/test_engine.c shows it of the engine; this, of the kernels.)
// The company is larger than STAGE_STEADY_ROWS, and prompts are computed beside it in chunks, or found in the cache:
// the arithmetic of a row depends on none of that. Some prompts are brief (engine/sequence.h), others begin like them.
#include "engine/engine.h"
#include "engine/stages.h"
#include "tests/sanitized.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { QUESTION_COUNT = 9, COMPANY = 24, ANSWER_TOKENS = SANITIZED ? 12 : 48, TEXT_BYTES = 4096 };

static const char *const QUESTIONS[QUESTION_COUNT] = {
    "What is the capital of France?",
    "Who are you?",
    "Tell me a short story.",
    "What is 3 + 4?",
    "Hello!",
    "What is Tandem?",
    "Give me a JSON object.",
    "What is the capital of France? And what is the capital of Spain, of Portugal, of Italy and of Norway?",
    "Tell me a short story. It should be about a cat, a dog, a house with a red door, and the sea.",
};

struct answer {
    char text[TEXT_BYTES];
    size_t bytes;
    float logprobs[ANSWER_TOKENS];
    int tokens;
};

static size_t lengths[QUESTION_COUNT]; // of prompts

static struct engine *open_engine(const char *stages, enum weight_format weights, enum prefix_mode prefix) {
    struct engine *engine = NULL;
    struct error error = {0};
    struct engine_options options = {.model_dir = "models/demo",
                                     .stages = stages,
                                     .weights = weights,
                                     .threads = 2,
                                     .sequences_max = COMPANY,
                                     .prefix = prefix,
                                     .prefill_tokens_max = 24};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    return engine;
}

// Greedy and warm ones; the last question is long, and its prompt takes many chunks.
static struct engine_job *ask(struct engine *engine, int number) {
    static char long_question[1200];
    for (size_t i = 0; i + 1 < sizeof long_question; i++) long_question[i] = "Is it so? "[i % 10];
    const char *text = number == COMPANY - 1 ? long_question : QUESTIONS[number % QUESTION_COUNT];
    struct chat_message message = {"user", text, strlen(text)};
    struct token_list prompt = {0};
    struct error error = {0};
    assert_int_equal(engine_chat_tokens(engine, &message, 1, &prompt, &error), 0);
    struct engine_request request = {
        .prompt = prompt.ids,
        .prompt_tokens = prompt.count,
        .tokens_max = ANSWER_TOKENS,
        .strip_space = true,
        .want_logprobs = true,
        .sampling = {.temperature = number % 2 ? 1 : 0, .top_p = 1, .repetition_penalty = 1, .seed = (uint64_t)number}};
    struct engine_job *job = NULL;
    if (engine_submit(engine, &request, &job, &error)) fail_msg("%s", error.message);
    if (number < QUESTION_COUNT) lengths[number] = prompt.count;
    token_list_finish(&prompt);
    return job;
}

static void read_answer(struct engine_job *job, struct answer *answer) {
    *answer = (struct answer){0};
    for (struct engine_event *event; (event = engine_job_wait(job)); engine_event_destroy(event)) {
        if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
        assert_true(answer->bytes + event->text_bytes < TEXT_BYTES);
        memcpy(answer->text + answer->bytes, event->text, event->text_bytes);
        answer->bytes += event->text_bytes;
        for (int i = 0; i < event->token_count; i++) answer->logprobs[answer->tokens++] = event->tokens[i].logprob;
    }
    engine_job_release(job);
}

static void check_together(struct engine *engine, const struct answer *alone) {
    static struct answer together;
    struct engine_job *jobs[COMPANY];
    for (int i = 0; i < COMPANY; i++) jobs[i] = ask(engine, i);
    for (int i = 0; i < COMPANY; i++) {
        read_answer(jobs[i], &together);
        assert_string_equal(together.text, alone[i].text);
        assert_int_equal(together.tokens, alone[i].tokens);
        assert_memory_equal(together.logprobs, alone[i].logprobs, sizeof together.logprobs);
    }
}

static void check_company(const char *stages, enum weight_format weights) {
    static struct answer alone[COMPANY];
    struct engine *engine = open_engine(stages, weights, PREFIX_OFF);
    for (int i = 0; i < COMPANY; i++) read_answer(ask(engine, i), &alone[i]);
    for (int i = 0; i < COMPANY; i++) assert_true(alone[i].tokens > 0);
    assert_in_range(lengths[0], 9, STAGE_STEADY_ROWS); // brief, and another one begins with its first tokens …
    assert_true(lengths[QUESTION_COUNT - 2] > STAGE_STEADY_ROWS); // … and is not
    check_together(engine, alone);
    engine_close(engine);

    engine = open_engine(stages, weights, PREFIX_PROMPTS);
    check_together(engine, alone); // some begin alike
    struct engine_stats stats;
    engine_stats(engine, &stats);
    uint64_t computed = stats.prompt_tokens;
    check_together(engine, alone); // and now all prompts are known
    engine_stats(engine, &stats);
    assert_true(stats.prompt_tokens - computed < computed / 2);
    engine_close(engine);
}

#if !SANITIZED // a minute there
static void reference_f32(void **state) {
    (void)state;
    check_company("reference", WEIGHTS_F32);
}
#endif

static void cpu_f32(void **state) {
    (void)state;
    check_company("cpu", WEIGHTS_F32);
}

static void cpu_bf16(void **state) {
    (void)state;
    check_company("cpu", WEIGHTS_BF16);
}

static void cpu_int8(void **state) {
    (void)state;
    check_company("cpu", WEIGHTS_INT8);
}

static void cpu_int4(void **state) {
    (void)state;
    check_company("cpu", WEIGHTS_INT4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if !SANITIZED
        cmocka_unit_test(reference_f32),
#endif
        cmocka_unit_test(cpu_f32),
        cmocka_unit_test(cpu_bf16),
        cmocka_unit_test(cpu_int8),
        cmocka_unit_test(cpu_int4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
