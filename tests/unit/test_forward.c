// A batch of answers, brief prompts and longer ones on its way through a model: which of its rows are computed as what,
// whole and cut into parts.
#include "engine/forward.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { ANSWERS = 2, BRIEF = 5, LONG = 9, TOKENS = ANSWERS + BRIEF + LONG, SEQUENCES = 4, VOCAB_MAX = 512 };

// ---- Stages that compute as the reference does, and note the rows of each call for experts

enum { CALLS_MAX = 64 };

static struct {
    enum row_kind kind;
    int rows;
} calls[CALLS_MAX];
static int call_count;
static enum row_kind kind_now;
static struct stages noting;

static void rows_are(void *state, enum row_kind kind) {
    (void)state;
    kind_now = kind;
}

static void experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                    int rows) {
    assert_true(call_count < CALLS_MAX);
    calls[call_count].kind = kind_now;
    calls[call_count++].rows = rows;
    reference_stages.experts(state, layer, routing, x, y, rows);
}

// ---- One batch

static struct model *model;
static struct kv_cache cache;
static struct forward *forward;
static void *state;
static int32_t token[TOKENS], position[TOKENS];
static const int32_t PAGES[SEQUENCES] = {0, 1, 2, 3};
static const struct batch_sequence RUNS[SEQUENCES] = {
    {0, 1, 0, &PAGES[0]},
    {1, 1, 0, &PAGES[1]},
    {ANSWERS, BRIEF, 0, &PAGES[2]},
    {ANSWERS + BRIEF, LONG, 0, &PAGES[3]},
};
static const int32_t OUTPUT[SEQUENCES] = {0, 1, ANSWERS + BRIEF - 1, TOKENS - 1};
static const struct batch BATCH = {.tokens = TOKENS,
                                   .answers = ANSWERS,
                                   .brief = BRIEF,
                                   .token = token,
                                   .position = position,
                                   .sequences = SEQUENCES,
                                   .sequence = RUNS,
                                   .outputs = SEQUENCES,
                                   .output = OUTPUT};

static int open_all(void **unused) {
    (void)unused;
    struct error error;
    const struct model_options options = {.synthetic = "phi-toy-moe", .weights = WEIGHTS_F32};
    if (model_open(&model, &options, &error)) return -1;
    const struct model_config *config = &model->config;
    struct stage_limits limits = model_stage_limits(config);
    limits.tokens_max = TOKENS;
    limits.sequences_max = SEQUENCES;
    limits.threads = 1;
    noting = reference_stages;
    noting.rows_are = rows_are;
    noting.experts = experts;
    for (int s = 0; s < SEQUENCES; s++)
        for (int r = 0; r < RUNS[s].count; r++) {
            position[RUNS[s].first + r] = r;
            token[RUNS[s].first + r] = (RUNS[s].first + r) * 31 % config->vocab;
        }
    if (noting.open(&state, &limits, &error)) return -1;
    if (kv_cache_init(&cache, KV_F32, config->layers, config->kv_heads, config->head_dim, SEQUENCES, &error)) return -1;
    for (int s = 0; s < SEQUENCES; s++) kv_cache_take(&cache);
    return forward_create(&forward, model, &noting, state, TOKENS, SEQUENCES, &error);
}

static int close_all(void **unused) {
    (void)unused;
    forward_destroy(forward);
    kv_cache_finish(&cache);
    noting.close(state);
    model_close(model);
    return 0;
}

// ---- Tests

static void brief_prompts_are_computed_as_answers(void **unused) {
    (void)unused;
    static float logits[SEQUENCES * VOCAB_MAX];
    call_count = 0;
    assert_true(model->config.vocab <= VOCAB_MAX);
    forward_run(forward, &BATCH, &cache, logits);
    assert_int_equal(call_count, 2 * model->config.layers);
    for (int i = 0; i < call_count; i++) {
        assert_int_equal(calls[i].kind, i % 2 ? ROWS_OF_PROMPTS : ROWS_OF_ANSWERS);
        assert_int_equal(calls[i].rows, i % 2 ? LONG : ANSWERS + BRIEF);
    }
    struct engine_choices choices;
    struct error error;
    uint64_t rows_of[EXPERT_COUNTS_EXPERTS_MAX];
    assert_int_equal(expert_counts_copy(forward_counts(forward), &choices, &error), 0);
    for (int l = 0; l < model->config.layers; l++) { // counted as what they are
        assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_ANSWERS, l, rows_of), ANSWERS);
        assert_int_equal(engine_choices_rows(&choices, ENGINE_ROWS_PROMPTS, l, rows_of), BRIEF + LONG);
    }
    engine_choices_finish(&choices);
}

// Whatever is cut out of the batch has its share of each kind, in rows that are those of the whole.
static void parts_of_a_batch(void **unused) {
    (void)unused;
    for (int first = 0; first < TOKENS; first++)
        for (int count = 1; first + count <= TOKENS; count++) {
            struct batch part;
            int answers = 0, brief = 0, row = 0;
            forward_cut(forward, &BATCH, first, count, &part);
            for (int r = first; r < first + count; r++) {
                answers += r < ANSWERS;
                brief += r >= ANSWERS && r < ANSWERS + BRIEF;
            }
            assert_int_equal(part.tokens, count);
            assert_int_equal(part.answers, answers);
            assert_int_equal(part.brief, brief);
            assert_ptr_equal(part.token, token + first);
            for (int s = 0; s < part.sequences; s++) {
                assert_int_equal(part.sequence[s].first, row);
                assert_int_equal(part.sequence[s].position, position[first + row]);
                row += part.sequence[s].count;
            }
            assert_int_equal(row, count);
        }
}

// ---- Broken off

static int asked, wanted_for; // so many times it is wanted

static bool unwanted(void *user) {
    assert_ptr_equal(user, &asked);
    return ++asked > wanted_for;
}

static void what_nobody_wants_is_broken_off(void **unused) {
    (void)unused;
    static float logits[SEQUENCES * VOCAB_MAX];
    struct batch batch = BATCH;
    batch.unwanted = unwanted;
    batch.unwanted_user = &asked;
    int layers = model->config.layers;
    assert_true(layers > 1);
    for (wanted_for = 0; wanted_for < layers; wanted_for++) { // asked between layers, so once less than there are
        asked = call_count = 0;
        logits[0] = -77;
        bool whole = forward_run(forward, &batch, &cache, logits);
        assert_int_equal(whole, wanted_for == layers - 1);
        assert_int_equal(call_count, 2 * (wanted_for + 1));
        assert_int_equal(logits[0] == -77, !whole);
    }
}

static int begun[STAGE_SLOTS], mixtures;

static void mixture_begin(void *unused, int slot, const struct layer *layer, const float *x, int rows, int whole) {
    (void)unused, (void)layer, (void)x, (void)whole;
    assert_int_equal(begun[slot], 0);
    begun[slot] = rows;
    mixtures++;
}

static void mixture_end(void *unused, int slot, float *y, struct routing *routing) {
    (void)unused, (void)y;
    assert_int_equal(begun[slot], routing->rows);
    begun[slot] = 0;
    memset(routing->expert, 0, (size_t)(routing->rows * routing->top_k) * sizeof *routing->expert);
}

static int two_parts(const void *unused, enum row_kind kind, int rows) {
    (void)unused, (void)kind, (void)rows;
    return 2;
}

// No device is left at work on what will never be fetched.
static void what_is_broken_off_ends_on_devices_too(void **unused) {
    (void)unused;
    static float logits[SEQUENCES * VOCAB_MAX];
    struct stages device = noting;
    struct forward *split;
    struct error error;
    struct batch batch = BATCH;
    batch.unwanted = unwanted;
    batch.unwanted_user = &asked;
    device.mixture_begin = mixture_begin;
    device.mixture_end = mixture_end;
    device.parts = two_parts;
    assert_int_equal(forward_create(&split, model, &device, state, TOKENS, SEQUENCES, &error), 0);
    asked = mixtures = wanted_for = 0;
    assert_false(forward_run(split, &batch, &cache, logits));
    assert_true(mixtures > 1);
    for (int slot = 0; slot < STAGE_SLOTS; slot++) assert_int_equal(begun[slot], 0);
    forward_destroy(split);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(brief_prompts_are_computed_as_answers),
        cmocka_unit_test(parts_of_a_batch),
        cmocka_unit_test(what_nobody_wants_is_broken_off),
        cmocka_unit_test(what_is_broken_off_ends_on_devices_too),
    };
    return cmocka_run_group_tests_name("forward", tests, open_all, close_all);
}
