// Models of random weights, the steps that a watched engine tells of, and the limits that it measures.
#include "engine/engine.h"
#include "engine/machine.h"
#include "engine/synthetic.h"
#include "engine/watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { // of phi-toy-moe
    LAYERS = 2,
    HIDDEN = 64,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = 32,
    WIDTH = 48,
    EXPERTS = 16,
    VOCAB = 512,
    PROMPT = 300,
    ANSWER = 30,
};

// ---- Weights

static void make_checkpoint(struct checkpoint *out, enum weight_format weights, int threads) {
    const struct architecture *architecture;
    struct model_config config;
    struct error error;
    *out = (struct checkpoint){0};
    assert_int_equal(synthetic_config("phi-toy-moe", &architecture, &config, &error), 0);
    const struct model_options options = {.synthetic = "phi-toy-moe", .weights = weights, .threads = threads};
    assert_int_equal(synthetic_checkpoint(out, &config, &options, &error), 0);
}

static void threads_do_not_change_weights(void **state) {
    (void)state;
    struct checkpoint one, three;
    make_checkpoint(&one, WEIGHTS_BF16, 1);
    make_checkpoint(&three, WEIGHTS_BF16, 3);
    assert_int_equal(one.tensor_count, three.tensor_count);
    for (size_t i = 0; i < one.tensor_count; i++) {
        assert_string_equal(one.tensors[i].name, three.tensors[i].name);
        assert_int_equal(one.tensors[i].bytes, three.tensors[i].bytes);
        assert_memory_equal(one.tensors[i].data, three.tensors[i].data, one.tensors[i].bytes);
    }
    checkpoint_close(&three);
    checkpoint_close(&one);
}

// 32,768 numbers spread evenly: their mean is within 5 standard deviations of 0, their variance within 5 % of 1 / 64.
static void weights_are_spread(void **state) {
    (void)state;
    struct checkpoint checkpoint;
    make_checkpoint(&checkpoint, WEIGHTS_F32, 2);
    const struct tensor *head = checkpoint_find(&checkpoint, "lm_head.weight");
    const struct tensor *embedding = checkpoint_find(&checkpoint, "model.embed_tokens.weight");
    assert_non_null(head);
    assert_non_null(embedding);
    assert_true(memcmp(head->data, embedding->data, head->bytes) != 0);
    const float *weight = (const float *)(const void *)head->data;
    double sum = 0, squares = 0;
    for (int i = 0; i < VOCAB * HIDDEN; i++) {
        sum += (double)weight[i];
        squares += (double)weight[i] * (double)weight[i];
    }
    assert_true(fabs(sum / (VOCAB * HIDDEN)) < 5 * sqrt(1.0 / HIDDEN / (VOCAB * HIDDEN)));
    assert_true(fabs(squares / (VOCAB * HIDDEN) * HIDDEN - 1) < 0.05);
    checkpoint_close(&checkpoint);
}

// ---- Answers

struct answer {
    int32_t token[ANSWER];
    float logprob[ANSWER];
    int count;
};

static struct engine *open_toy(struct engine_options options) {
    struct engine *engine = NULL;
    struct error error = {0};
    options.synthetic = "phi-toy-moe";
    options.weights = WEIGHTS_BF16;
    options.threads = 2;
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    return engine;
}

static struct answer generate(struct engine *engine) {
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 7919 + 13) % VOCAB;
    const struct engine_request request = {.prompt = prompt,
                                           .prompt_tokens = PROMPT,
                                           .tokens_max = ANSWER,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                                           .ignore_eos = true,
                                           .want_logprobs = true};
    struct engine_job *job;
    struct error error;
    assert_int_equal(engine_submit(engine, &request, &job, &error), 0);
    struct answer answer = {.count = 0};
    for (bool ended = false; !ended;) {
        struct engine_event *event = engine_job_wait(job);
        assert_true(event->type == ENGINE_EVENT_TEXT || event->type == ENGINE_EVENT_DONE);
        assert_true((event->text_bytes > 0) == (event->token_count > 0)); // each token is written as its number
        for (int i = 0; i < event->token_count; i++) {
            answer.token[answer.count] = event->tokens[i].token;
            answer.logprob[answer.count++] = event->tokens[i].logprob;
        }
        ended = event->type == ENGINE_EVENT_DONE;
        engine_event_destroy(event);
    }
    engine_job_release(job);
    assert_int_equal(answer.count, ANSWER);
    return answer;
}

struct told {
    int steps, prompt_tokens, answer_tokens;
    struct engine_step prefill, decode; // the last of each
    double worst;                       // difference between a step's seconds and its stages'
};

static void hear(void *user, const struct engine_step *step) {
    struct told *told = user;
    double sum = 0;
    for (int i = 0; i < ENGINE_STAGE_COUNT; i++) sum += step->stages[i].seconds;
    if (fabs(sum - step->seconds) > told->worst) told->worst = fabs(sum - step->seconds);
    told->steps++;
    *(step->prefill ? &told->prompt_tokens : &told->answer_tokens) += step->tokens;
    *(step->prefill ? &told->prefill : &told->decode) = *step;
}

// What follows is told by the engine thread: it has told all once it has measured, or been closed.
static void watching_changes_nothing(void **state) {
    (void)state;
    struct told told = {0};
    struct engine *alone = open_toy((struct engine_options){0});
    struct engine *watched = open_toy((struct engine_options){.watch = hear, .watch_user = &told});
    struct answer a = generate(alone), b = generate(watched);
    assert_memory_equal(a.token, b.token, sizeof a.token);
    assert_memory_equal(a.logprob, b.logprob, sizeof a.logprob);
    engine_close(watched);
    engine_close(alone);

    assert_int_equal(told.steps, ANSWER); // the first token comes from the prompt's step
    assert_int_equal(told.prompt_tokens, PROMPT);
    assert_int_equal(told.answer_tokens, ANSWER - 1);
    assert_true(told.worst < 1e-9);
}

static void expect_work(const struct engine_step *step, enum engine_stage stage, double bytes, double operations) {
    if (step->stages[stage].bytes != bytes || step->stages[stage].operations != operations)
        fail_msg("stage %d: found %g bytes and %g operations, expected %g and %g", (int)stage,
                 step->stages[stage].bytes, step->stages[stage].operations, bytes, operations);
}

static void bytes_and_operations_are_counted(void **state) {
    (void)state;
    struct told told = {0};
    struct engine *engine = open_toy((struct engine_options){.watch = hear, .watch_user = &told});
    generate(engine);
    engine_close(engine);

    // The last step decodes the last but one of the answer's tokens: every key up to its own is seen.
    const double qkv = LAYERS * HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD_DIM, output = LAYERS * HIDDEN * HEADS * HEAD_DIM;
    const double keys = PROMPT + ANSWER - 1, expert = 3.0 * HIDDEN * WIDTH;
    expect_work(&told.decode, ENGINE_STAGE_QKV, 2 * qkv, 2 * qkv);
    expect_work(&told.decode, ENGINE_STAGE_OUTPUT, 2 * output, 2 * output);
    expect_work(&told.decode, ENGINE_STAGE_HEAD, 2.0 * VOCAB * HIDDEN, 2.0 * VOCAB * HIDDEN);
    expect_work(&told.decode, ENGINE_STAGE_ROUTE, 4.0 * LAYERS * EXPERTS * HIDDEN, 2.0 * LAYERS * EXPERTS * HIDDEN);
    expect_work(&told.decode, ENGINE_STAGE_EXPERTS, LAYERS * 2 * 2 * expert, LAYERS * 2 * 2 * expert);
    expect_work(&told.decode, ENGINE_STAGE_ATTENTION, LAYERS * keys * 2 * KV_HEADS * HEAD_DIM * 2,
                LAYERS * keys * 4 * HEADS * HEAD_DIM);

    // A prompt sees each key once for all its rows, and its tokens go to every expert.
    const double pairs = PROMPT * (PROMPT + 1) / 2.0;
    expect_work(&told.prefill, ENGINE_STAGE_QKV, 2 * qkv, 2 * qkv * PROMPT);
    expect_work(&told.prefill, ENGINE_STAGE_EXPERTS, LAYERS * EXPERTS * 2 * expert, LAYERS * 2 * 2 * expert * PROMPT);
    expect_work(&told.prefill, ENGINE_STAGE_ATTENTION, LAYERS * (double)PROMPT * 2 * KV_HEADS * HEAD_DIM * 2,
                LAYERS * pairs * 4 * HEADS * HEAD_DIM);
    expect_work(&told.prefill, ENGINE_STAGE_HEAD, 2.0 * VOCAB * HIDDEN, 2.0 * VOCAB * HIDDEN);
}

// ---- What is refused

static void only_known_shapes(void **state) {
    (void)state;
    struct engine *engine;
    struct error error;
    assert_int_equal(engine_open(&engine, &(struct engine_options){.synthetic = "phi-huge-moe"}, &error),
                     ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "phi-huge-moe"));
    assert_non_null(strstr(error.message, "phi-tiny-moe, phi-mini-moe, phi-toy-moe"));
}

static void no_more_than_is_free(void **state) {
    (void)state;
    size_t free_bytes = machine_memory_available("");
    if (free_bytes == 0 || free_bytes > (size_t)30e9) skip(); // it would fit, or nobody knows
    struct engine *engine;
    struct error error;
    const struct engine_options options = {.synthetic = "phi-mini-moe", .weights = WEIGHTS_F32};
    assert_int_equal(engine_open(&engine, &options, &error), ERROR_MEMORY);
    assert_non_null(strstr(error.message, "phi-mini-moe: its weights take 30.6 GB of memory, and "));
}

static void no_text(void **state) {
    (void)state;
    struct engine *engine = open_toy((struct engine_options){0});
    struct token_list list = {0};
    struct error error;
    const struct chat_message message = {"user", "hello", 5};
    assert_int_equal(engine_text_tokens(engine, "hello", 5, true, &list, &error), ERROR_UNSUPPORTED);
    assert_int_equal(engine_chat_tokens(engine, &message, 1, &list, &error), ERROR_UNSUPPORTED);
    size_t bytes;
    assert_memory_equal(engine_token_text(engine, 57, &bytes), " 57", 3); // its number in its place
    assert_int_equal(bytes, 3);
    assert_null(engine_token_text(engine, 512, &bytes));
    assert_string_equal(engine_info(engine)->model_name, "phi-toy-moe");
    engine_close(engine);
}

// ---- Limits

static void limits_are_measured(void **state) {
    (void)state;
    enum { BYTES = 32 << 20 };
    char *memory = malloc(BYTES);
    assert_non_null(memory);
    memset(memory, 1, BYTES);
    struct engine_limits limits = {0};
    struct error error;
    struct engine *engine = open_toy((struct engine_options){0});
    generate(engine); // answers are computed otherwise than prompts, and were last
    assert_int_equal(engine_measure(engine, memory, BYTES, &limits, &error), 0);
    assert_true(limits.read_bytes > 0 && limits.f32 > 0 && limits.bf16 >= 0 && limits.int8 >= 0);
    bool bf16 = strcmp(limits.arithmetic, "bf16") == 0;
    assert_true(bf16 ? limits.bf16 > 0 : limits.bf16 == 0 && strcmp(limits.arithmetic, "f32") == 0);
    assert_true(limits.arithmetic_peak == (bf16 ? limits.bf16 : limits.f32) && limits.arithmetic_peak > 0);
    engine_close(engine);

    engine = open_toy((struct engine_options){.stages = "reference"});
    assert_int_equal(engine_measure(engine, memory, BYTES, &limits, &error), ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "reference"));
    engine_close(engine);
    free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_change_weights),
        cmocka_unit_test(weights_are_spread),
        cmocka_unit_test(watching_changes_nothing),
        cmocka_unit_test(bytes_and_operations_are_counted),
        cmocka_unit_test(only_known_shapes),
        cmocka_unit_test(no_more_than_is_free),
        cmocka_unit_test(no_text),
        cmocka_unit_test(limits_are_measured),
    };
    return cmocka_run_group_tests_name("synthetic", tests, NULL, NULL);
}
