// Counts of the experts that were chosen: as numbers, and as an engine tells them of what it has computed.
#include "engine/expert_counts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// What OpenCL's drivers keep until the process ends is no leak of ours.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\nleak:libhwloc\nleak:_dl_\nleak:libclang";
}

enum { LAYERS = 2, EXPERTS = 16 }; // of phi-toy-moe

static bool near(double found, double expected) {
    return found - expected < 1e-9 && expected - found < 1e-9;
}

static void pairs_are_counted(void **unused) {
    (void)unused;
    struct expert_counts *counts;
    struct engine_choices choices;
    struct engine_balance balance;
    struct error error;
    uint64_t rows_of[4];
    int32_t first[] = {0, 1, 0, 1, 2, 1}, second[] = {3, 0};
    const struct routing prompt = {.rows = 3, .top_k = 2, .expert = first},
                         answer = {.rows = 1, .top_k = 2, .expert = second};
    assert_int_equal(expert_counts_create(&counts, 3, 4, &error), 0);
    expert_counts_balance(counts, &balance);
    assert_true(near(balance.evenness, 0) && near(balance.busiest, 0));
    expert_counts_add(counts, ENGINE_ROWS_PROMPTS, 1, &prompt);
    expert_counts_add(counts, ENGINE_ROWS_ANSWERS, 2, &answer);
    assert_int_equal(expert_counts_copy(counts, &choices, &error), 0);
    assert_int_equal(choices.layers, 3);
    assert_int_equal(choices.experts, 4);

    assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_PROMPTS, 1, rows_of), 3);
    assert_memory_equal(rows_of, ((const uint64_t[]){2, 3, 1, 0}), sizeof rows_of);
    assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_ANSWERS, 2, rows_of), 1);
    assert_memory_equal(rows_of, ((const uint64_t[]){1, 0, 0, 1}), sizeof rows_of);
    assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_ANSWERS, 1, rows_of), 0);
    assert_int_equal(choices.pairs[(3 + 1) * 16 + 0 * 4 + 1], 2); // prompts, layer 1, first 0, second 1
    assert_int_equal(choices.pairs[(3 + 1) * 16 + 1 * 4 + 0], 0);

    // Layer 1 has shares of 1/3, 1/2, 1/6, layer 2 twice 1/2, layer 0 nothing.
    expert_counts_balance(counts, &balance);
    assert_int_equal(balance.rows[ENGINE_ROWS_PROMPTS], 3);
    assert_int_equal(balance.rows[ENGINE_ROWS_ANSWERS], 1);
    assert_true(near(balance.busiest, 1));
    assert_true(near(balance.evenness, (2.749459273997205 / 4 + 0.5) / 2)); // 3^(1/3) 2^(1/2) 6^(1/6)
    engine_choices_finish(&choices);
    expert_counts_destroy(counts);
}

static void evenness(void **unused) {
    (void)unused;
    assert_true(near(engine_choices_evenness((const uint64_t[]){5, 5, 5, 5}, 4), 1));
    assert_true(near(engine_choices_evenness((const uint64_t[]){0, 9, 0, 0}, 4), 0.25));
    assert_true(near(engine_choices_evenness((const uint64_t[]){0, 0, 0, 0}, 4), 0));
}

static void too_many_experts_are_not_counted(void **unused) {
    (void)unused;
    struct expert_counts *counts;
    struct engine_choices choices;
    struct engine_balance balance;
    struct error error;
    int32_t expert[] = {0, 256};
    const struct routing routing = {.rows = 1, .top_k = 2, .expert = expert};
    assert_int_equal(expert_counts_create(&counts, 1, EXPERT_COUNTS_EXPERTS_MAX + 1, &error), 0);
    expert_counts_add(counts, ENGINE_ROWS_PROMPTS, 0, &routing);
    expert_counts_balance(counts, &balance);
    assert_int_equal(balance.rows[ENGINE_ROWS_PROMPTS], 0);
    assert_int_equal(expert_counts_copy(counts, &choices, &error), ERROR_UNSUPPORTED);
    engine_choices_finish(&choices);
    expert_counts_destroy(counts);
}

// A prompt of 40 tokens and an answer of 6 are 40 rows and 5 in every layer: the last token is not read again. A brief
// prompt's rows count as a prompt's, too, whatever they are computed as.
static void check_engine(const char *placement, enum weight_format weights, int prompt_tokens) {
    struct engine *engine;
    struct engine_job *job;
    struct engine_choices choices;
    struct error error;
    int32_t prompt[40];
    for (int i = 0; i < 40; i++) prompt[i] = i * 31 % 512;
    const struct engine_options options = {
        .synthetic = "phi-toy-moe", .weights = weights, .placement = placement, .threads = 1, .kv_tokens = 256,
        .sequences_max = 1};
    const struct engine_request request = {.prompt = prompt, .prompt_tokens = (size_t)prompt_tokens, .tokens_max = 6,
                                           .ignore_eos = true,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1}};
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    assert_int_equal(engine_submit(engine, &request, &job, &error), 0);
    for (struct engine_event *event; (event = engine_job_wait(job));) engine_event_destroy(event);
    engine_job_release(job);
    assert_int_equal(engine_choices(engine, &choices, &error), 0);
    assert_int_equal(choices.layers, LAYERS);
    assert_int_equal(choices.experts, EXPERTS);
    for (int l = 0; l < LAYERS; l++) {
        uint64_t rows_of[EXPERTS], sum = 0;
        assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_ANSWERS, l, rows_of), 5);
        assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_PROMPTS, l, rows_of), prompt_tokens);
        for (int e = 0; e < EXPERTS; e++) sum += rows_of[e];
        assert_int_equal(sum, 2 * prompt_tokens);
    }
    struct engine_balance balance;
    engine_balance(engine, &balance);
    assert_int_equal(balance.rows[ENGINE_ROWS_ANSWERS], 5 * LAYERS);
    assert_int_equal(balance.rows[ENGINE_ROWS_PROMPTS], prompt_tokens * LAYERS);
    assert_true(balance.evenness > 2.0 / EXPERTS && balance.evenness <= 1 && balance.busiest < 1);
    engine_choices_finish(&choices);
    engine_close(engine);
}

static void an_engine_counts(void **unused) {
    (void)unused;
    static const char *const PLACEMENTS[] = {"cpu", "split"}; // where there is no device, the CPU
    for (int i = 0; i < 2; i++) {
        check_engine(PLACEMENTS[i], WEIGHTS_BF16, 40);
        check_engine(PLACEMENTS[i], WEIGHTS_INT8, 40);
        check_engine(PLACEMENTS[i], WEIGHTS_INT8, 12);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_counted),
        cmocka_unit_test(evenness),
        cmocka_unit_test(too_many_experts_are_not_counted),
        cmocka_unit_test(an_engine_counts),
    };
    return cmocka_run_group_tests_name("expert_counts", tests, NULL, NULL);
}
