// The engine's forward pass against transformers, number by number: golden files in tests/golden/data, written by
// tools/golden.py (fp32, eager attention, evaluation mode), on toy checkpoints and on the built-in model.
//
// f32: every log-probability within 1e-3, every greedy token the same. The golden prompts are chosen so that rounding
// cannot decide: the best token leads by more than 1e-3, and no routing decision lies within 1e-5 of turning.
// Prompts go through whole and in chunks of 1, 7 and 32, over KV pages in shuffled order; answers are decoded by
// groups of prompts, one row each, and alone.
//
// bf16, of a checkpoint that is bf16 itself as the published ones are: its weights are then exactly the checkpoint's,
// and where activations stay fp32, all that holds for f32 holds to the same bound. That is so for the reference stages,
// and for the fast ones in rows of answers (engine/stages.h), in which prompts go through here too.
//
// Rows of prompts are another matter: where the processor has bf16 instructions, the fast stages round the
// activations of many rows to bf16 (half a unit in 8 bits: relative 2^-9 at most, 2^-9/√3 ≈ 0.0011 in the mean square).
// A layer rounds four inputs (of q, k, v; of o; of gate and up; of down), so L layers move the logits by some
// 0.0011 · √(4L) of their spread: with a spread of 3, 0.01 for 2 layers, 0.016 for 6. Where a routing decision lies
// that near, it turns, and log-probabilities behind it move by tenths: that is the family's own discontinuity, and no
// bound on the largest difference can hold. Hence bounds on the usual: half of all differences within 0.01, nine in ten
// within 0.03 (1.65 of those deviations, and some room), and 19 greedy tokens in 20 the same along the golden path.
#include "base/doubles.h"
#include "engine/binder.h" // struct model_storage
#include "engine/forward.h"
#include "engine/placement.h"
#include "tests/opencl_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_MAX = 1024, NEW_TOKENS = 64, PROMPTS_MAX = 64, FIRST_MAX = 256 };

static const double TOLERANCE_EXACT = 1e-3;
static const double BF16_HALF = 0.01, BF16_NINE_IN_TEN = 0.03, BF16_TOKENS = 0.95;
static const double TOLERANCE_ROPE = 1e-6;
static const double TOLERANCE_ROUTING = 1e-6; // weights are at most 1; softmax over a few values

// ---- Golden files

static json_t *load_golden(const char *name) {
    char path[256];
    json_error_t cause;
    snprintf(path, sizeof path, "tests/golden/data/%s.json", name);
    json_t *json = json_load_file(path, 0, &cause);
    if (!json) fail_msg("%s: %s", path, cause.text);
    return json;
}

static size_t numbers(const json_t *array, double *out, size_t max) {
    size_t count = json_array_size(array);
    assert_in_range(count, 0, max);
    for (size_t i = 0; i < count; i++) out[i] = json_number_value(json_array_get(array, i));
    return count;
}

static int tokens_of(const json_t *array, int32_t *out, size_t max) {
    size_t count = json_array_size(array);
    assert_in_range(count, 0, max);
    for (size_t i = 0; i < count; i++) out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return (int)count;
}

// ---- A model with everything that a forward pass needs

struct session {
    struct model *model;
    const struct stages *stages;
    void *state;
    struct placement *placement; // NULL: the stages are run as they are
    struct forward *forward;
    struct kv_cache cache;
    float *logits; // [PROMPT_MAX][vocab]
    uint32_t random;
    int answer_rows; // chunks of up to so many rows go through as answers do
    double *differences; // of all log-probabilities so far, where they are gathered; NULL where each is judged
    size_t difference_count, difference_capacity;
    int tokens, tokens_same;
    double largest; // difference, where each is judged
};

static void check(int rc, const struct error *error) {
    if (rc) fail_msg("%s", error->message);
}

// The experts on an OpenCL device, all else on the stages given.
static void open_split(struct session *s, enum weight_format weights, const struct stage_limits *limits) {
    struct error error;
    const struct placement_options options = {.way = PLACEMENT_SPLIT,
                                              .inner = s->stages,
                                              .weights = weights,
                                              .layers = s->model->layers,
                                              .layer_count = s->model->config.layers};
    check(placement_open(&s->placement, &options, limits, &error), &error);
    if (placement_degraded(s->placement)[0]) fail_msg("%s", placement_degraded(s->placement));
    s->stages = placement_stages(s->placement);
    s->state = placement_state(s->placement);
}

static void session_open(struct session *s, const char *dir, enum weight_format weights, enum kv_format kv,
                         const struct stages *stages, bool split, int pages) {
    struct error error;
    const struct model_options options = {.dir = dir, .weights = weights};
    if (split) need_opencl();
    *s = (struct session){.stages = stages, .random = 12345};
    check(model_open(&s->model, &options, &error), &error);
    const struct model_config *config = &s->model->config;
    struct stage_limits limits = model_stage_limits(config);
    limits.tokens_max = PROMPT_MAX;
    limits.sequences_max = PROMPTS_MAX;
    limits.threads = 2;
    if (split)
        open_split(s, weights, &limits);
    else
        check(stages->open(&s->state, &limits, &error), &error);
    check(forward_create(&s->forward, s->model, s->stages, s->state, PROMPT_MAX, PROMPT_MAX, &error), &error);
    check(kv_cache_init(&s->cache, kv, config->layers, config->kv_heads, config->head_dim, pages, &error), &error);
    s->logits = calloc((size_t)PROMPT_MAX * (size_t)config->vocab, sizeof *s->logits);
    assert_non_null(s->logits);
}

static void session_close(struct session *s) {
    free(s->logits);
    kv_cache_finish(&s->cache);
    forward_destroy(s->forward);
    if (s->placement)
        assert_string_equal(placement_degraded(s->placement), ""); // the device has computed all of it
    else
        s->stages->close(s->state);
    placement_close(s->placement);
    model_close(s->model);
}

// Pages for so many tokens, in an order that no code can have counted on.
static int32_t *take_pages(struct session *s, int tokens, int *count) {
    *count = kv_cache_pages_for((size_t)tokens);
    int32_t *pages = calloc((size_t)*count, sizeof *pages);
    assert_non_null(pages);
    for (int i = 0; i < *count; i++) {
        pages[i] = kv_cache_take(&s->cache);
        assert_true(pages[i] >= 0);
        s->random = s->random * 1664525 + 1013904223;
        int other = (int)((s->random >> 16) % (uint32_t)(i + 1));
        int32_t page = pages[other];
        pages[other] = pages[i];
        pages[i] = page;
    }
    return pages;
}

static void give_pages(struct session *s, int32_t *pages, int count) {
    for (int i = 0; i < count; i++) kv_cache_give(&s->cache, pages[i]);
    free(pages);
}

// Runs rows of one sequence; afterwards s->logits holds those of the last `outputs` rows.
static void run_rows(struct session *s, const int32_t *tokens, int count, int position, const int32_t *pages,
                     int outputs) {
    int32_t positions[PROMPT_MAX], wanted[PROMPT_MAX];
    for (int i = 0; i < count; i++) positions[i] = position + i;
    for (int i = 0; i < outputs; i++) wanted[i] = count - outputs + i;
    const struct batch_sequence sequence = {.first = 0, .count = count, .position = position, .pages = pages};
    const struct batch batch = {.tokens = count,
                                .answers = count <= s->answer_rows ? count : 0,
                                .token = tokens,
                                .position = positions,
                                .sequences = 1,
                                .sequence = &sequence,
                                .outputs = outputs,
                                .output = wanted};
    forward_run(s->forward, &batch, &s->cache, s->logits);
}

static const float *row_logits(const struct session *s, int row) {
    return s->logits + (size_t)row * (size_t)s->model->config.vocab;
}

// What is to be taken off a row's logits to make them log-probabilities.
static double log_sum(const struct session *s, const float *logits) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < s->model->config.vocab; i++) max = fmax(max, (double)logits[i]);
    for (int i = 0; i < s->model->config.vocab; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

static int32_t best(const struct session *s, const float *logits) {
    int32_t found = 0;
    for (int32_t i = 1; i < s->model->config.vocab; i++)
        if (logits[i] > logits[found]) found = i;
    return found;
}

// ---- One model on one device

struct parity {
    const char *golden, *dir;
    const struct stages *stages;
    enum weight_format weights;
    enum kv_format kv;
    int stride; // of the golden prompts, every so many are run
    const struct chunk *chunks; // how prompts go through; the first is where answers go on
    int chunk_count;
    bool usual; // judged by what is usual, not by the largest difference
    bool split; // the experts on an OpenCL device
};

struct chunk {
    int rows, prompt_max; // longer prompts are left out. Single tokens at far positions come with the answers
};

static const struct chunk ALL_CHUNKS[] = {{PROMPT_MAX, PROMPT_MAX}, {1, 100}, {7, 600}, {32, PROMPT_MAX}};
static const struct chunk STEADY_CHUNKS[] = {{STAGE_STEADY_ROWS, PROMPT_MAX}, {1, 100}, {7, 600}};
static const struct chunk LARGE_CHUNKS[] = {{PROMPT_MAX, PROMPT_MAX}, {32, PROMPT_MAX}};

struct prompt {
    const json_t *golden;
    int32_t tokens[PROMPT_MAX], greedy[NEW_TOKENS];
    double greedy_logprobs[NEW_TOKENS];
    int count;
    int32_t *pages;
    int page_count;
};

static void close_to(double found, double expected, double tolerance, const char *what, int prompt, int at) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("prompt %d, %s %d: expected %.6f, found %.6f", prompt, what, at, expected, found);
}

static void compare(struct session *s, double found, double expected, const char *what, int prompt, int at) {
    if (!s->differences) {
        close_to(found, expected, TOLERANCE_EXACT, what, prompt, at);
        s->largest = fmax(s->largest, fabs(found - expected));
        return;
    }
    assert_in_range(s->difference_count, 0, s->difference_capacity - 1);
    s->differences[s->difference_count++] = fabs(found - expected);
}

static void compare_token(struct session *s, const float *logits, int32_t expected, int prompt, int at) {
    int32_t token = best(s, logits);
    if (!s->differences && token != expected)
        fail_msg("prompt %d, new token %d: expected %d, found %d", prompt, at, expected, token);
    s->tokens++;
    s->tokens_same += token == expected;
}

static void check_first(struct session *s, const float *logits, const struct prompt *prompt, int number) {
    int32_t ids[FIRST_MAX];
    double expected[FIRST_MAX];
    int count = tokens_of(json_object_get(prompt->golden, "first_ids"), ids, FIRST_MAX);
    assert_int_equal(numbers(json_object_get(prompt->golden, "first_logprobs"), expected, FIRST_MAX), count);
    assert_true(count >= 64);
    double sum = log_sum(s, logits);
    for (int i = 0; i < count; i++)
        compare(s, (double)logits[ids[i]] - sum, expected[i], "first new token, id", number, ids[i]);
}

static void compare_row(struct session *s, int row, int32_t token, double expected, const char *what, int prompt,
                        int at) {
    const float *logits = row_logits(s, row);
    compare(s, (double)logits[token] - log_sum(s, logits), expected, what, prompt, at);
}

// The prompt in chunks of so many rows: each of its tokens, then the first new one.
static void check_prompt(struct session *s, const struct prompt *prompt, const int32_t *pages, int number, int rows) {
    double expected[PROMPT_MAX];
    int scored = (int)numbers(json_object_get(prompt->golden, "prompt_logprobs"), expected, PROMPT_MAX);
    assert_int_equal(scored, prompt->count - 1);
    int count = 0;
    for (int at = 0; at < prompt->count; at += count) {
        count = prompt->count - at < rows ? prompt->count - at : rows;
        run_rows(s, prompt->tokens + at, count, at, pages, count);
        for (int i = at; i < at + count && i < scored; i++)
            compare_row(s, i - at, prompt->tokens[i + 1], expected[i], "prompt token", number, i + 1);
    }
    const float *logits = row_logits(s, count - 1);
    check_first(s, logits, prompt, number);
    compare_token(s, logits, prompt->greedy[0], number, 0);
}

static void check_chunks(struct session *s, const struct parity *parity, const struct prompt *prompt, int number) {
    for (int i = 1; i < parity->chunk_count; i++) {
        if (prompt->count > parity->chunks[i].prompt_max) continue;
        int page_count;
        int32_t *pages = take_pages(s, prompt->count, &page_count);
        check_prompt(s, prompt, pages, number, parity->chunks[i].rows);
        give_pages(s, pages, page_count);
    }
    check_prompt(s, prompt, prompt->pages, number, parity->chunks[0].rows);
}

// Decodes `count` prompts together, from number `first` on, along the golden path.
static void check_group(struct session *s, const struct prompt *prompts, int first, int count) {
    for (int step = 1; step < NEW_TOKENS; step++) {
        int32_t tokens[PROMPTS_MAX], positions[PROMPTS_MAX], outputs[PROMPTS_MAX];
        struct batch_sequence sequences[PROMPTS_MAX];
        for (int i = 0; i < count; i++) {
            const struct prompt *prompt = &prompts[first + i];
            tokens[i] = prompt->greedy[step - 1];
            positions[i] = prompt->count + step - 1;
            outputs[i] = i;
            sequences[i] = (struct batch_sequence){i, 1, positions[i], prompt->pages};
        }
        const struct batch batch = {.tokens = count,
                                    .answers = count,
                                    .token = tokens,
                                    .position = positions,
                                    .sequences = count,
                                    .sequence = sequences,
                                    .outputs = count,
                                    .output = outputs};
        forward_run(s->forward, &batch, &s->cache, s->logits);
        for (int i = 0; i < count; i++) {
            const struct prompt *prompt = &prompts[first + i];
            compare_token(s, row_logits(s, i), prompt->greedy[step], first + i, step);
            compare_row(s, i, prompt->greedy[step], prompt->greedy_logprobs[step], "new token", first + i, step);
        }
    }
}

// In groups as the engine decodes them. What a group wrote to the cache, the next round writes again.
static void check_answers(struct session *s, const struct prompt *prompts, int count, int group) {
    for (int first = 0; first < count; first += group)
        check_group(s, prompts, first, count - first < group ? count - first : group);
}

static int load_prompts(const json_t *list, struct prompt *prompts, int stride) {
    assert_in_range(json_array_size(list), 20, PROMPTS_MAX);
    int count = ((int)json_array_size(list) + stride - 1) / stride;
    for (int p = 0; p < count; p++) {
        const json_t *golden = json_array_get(list, (size_t)(p * stride));
        prompts[p].golden = golden;
        prompts[p].count = tokens_of(json_object_get(golden, "tokens"), prompts[p].tokens, PROMPT_MAX);
        assert_int_equal(tokens_of(json_object_get(golden, "greedy"), prompts[p].greedy, NEW_TOKENS), NEW_TOKENS);
        numbers(json_object_get(golden, "greedy_logprobs"), prompts[p].greedy_logprobs, NEW_TOKENS);
    }
    return count;
}

// What README.md's table has its figures from.
static void tell(const struct parity *parity, const char *what) {
    print_message("# %s, %s%s, %s: %s\n", parity->golden, parity->stages->name, parity->split ? " + OpenCL" : "",
                  weight_format_name(parity->weights), what);
}

static void tell_largest(const struct session *s, const struct parity *parity) {
    char what[64];
    snprintf(what, sizeof what, "log-probabilities differ by %.0e at most", s->largest);
    tell(parity, what);
}

static void check_usual(struct session *s, const struct parity *parity) {
    size_t count = s->difference_count;
    doubles_sort(s->differences, count);
    double half = s->differences[count / 2], nine_in_ten = s->differences[count * 9 / 10];
    double same = (double)s->tokens_same / s->tokens;
    char what[160];
    snprintf(what, sizeof what, "half of %zu log-probabilities differ by at most %.4f, nine in ten by %.4f; %.1f %% of "
             "the tokens are the same", count, half, nine_in_ten, 100 * same);
    tell(parity, what);
    if (!(half <= BF16_HALF && nine_in_ten <= BF16_NINE_IN_TEN && same >= BF16_TOKENS)) fail_msg("%s", what);
}

static void equals_transformers(void **state) {
    const struct parity *parity = *state;
    json_t *golden = load_golden(parity->golden);
    struct prompt *prompts = calloc(PROMPTS_MAX, sizeof *prompts);
    assert_non_null(prompts);
    int count = load_prompts(json_object_get(golden, "prompts"), prompts, parity->stride);
    int pages = kv_cache_pages_for(PROMPT_MAX);
    for (int p = 0; p < count; p++) pages += kv_cache_pages_for((size_t)prompts[p].count + NEW_TOKENS);

    struct session session;
    session_open(&session, parity->dir, parity->weights, parity->kv, parity->stages, parity->split, pages);
    if (parity->chunks == STEADY_CHUNKS) session.answer_rows = STAGE_STEADY_ROWS;
    if (parity->usual) {
        session.difference_capacity =
            PROMPTS_MAX * ((size_t)parity->chunk_count * (PROMPT_MAX + FIRST_MAX) + 2 * NEW_TOKENS);
        session.differences = calloc(session.difference_capacity, sizeof(double));
        assert_non_null(session.differences);
    }
    for (int p = 0; p < count; p++) {
        prompts[p].pages = take_pages(&session, prompts[p].count + NEW_TOKENS, &prompts[p].page_count);
        check_chunks(&session, parity, &prompts[p], p);
    }
    check_answers(&session, prompts, count, STAGE_STEADY_ROWS);
    // Plain C knows no groups, and of OpenCL's kernels test_opencl.c asks that a row be the same in each.
    if (parity->stages == &cpu_stages && !parity->split) check_answers(&session, prompts, count, 1);
    if (parity->usual)
        check_usual(&session, parity);
    else
        tell_largest(&session, parity);
    for (int p = 0; p < count; p++) give_pages(&session, prompts[p].pages, prompts[p].page_count);
    free(session.differences);
    session_close(&session);
    free(prompts);
    json_decref(golden);
}

// ---- The golden file is of this model, and the rotary angles are transformers'

static uint32_t crc32_of(const unsigned char *data, size_t bytes) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static void golden_is_of_this_model(const struct parity *parity, const struct model *model, const json_t *golden) {
    uint32_t crc = 0;
    for (size_t i = 0; i < model->storage->checkpoint.file_count; i++)
        crc ^= crc32_of(model->storage->checkpoint.files[i].map, model->storage->checkpoint.files[i].bytes);
    if (json_integer_value(json_object_get(golden, "weights")) != (json_int_t)crc)
        fail_msg("%s was made from other weights than those in %s: run tools/golden.py", parity->golden, parity->dir);
}

static void rope_equals_transformers(void **state) {
    const struct parity *parity = *state;
    struct error error;
    struct model *model;
    const struct model_options options = {.dir = parity->dir, .weights = parity->weights};
    check(model_open(&model, &options, &error), &error);
    json_t *golden = load_golden(parity->golden), *row;
    int half = model->config.head_dim / 2;
    size_t r;
    golden_is_of_this_model(parity, model, golden);
    assert_true(json_array_size(json_object_get(golden, "rope")) >= 6);
    json_array_foreach(json_object_get(golden, "rope"), r, row) {
        double cos[256], sin[256];
        int position = (int)json_integer_value(json_object_get(row, "position"));
        assert_int_equal(numbers(json_object_get(row, "cos"), cos, 256), half);
        assert_int_equal(numbers(json_object_get(row, "sin"), sin, 256), half);
        for (int i = 0; i < half; i++) {
            close_to((double)model->rope_cos[position * half + i], cos[i], TOLERANCE_ROPE, "cosine", position, i);
            close_to((double)model->rope_sin[position * half + i], sin[i], TOLERANCE_ROPE, "sine", position, i);
        }
    }
    json_decref(golden);
    model_close(model);
}

// ---- Routing: sparsemixer itself on chosen scores, which an identity matrix carries into the stage unchanged

static void check_routing(const struct stages *stages, void *device, const json_t *row, size_t number) {
    enum { EXPERTS_MAX = 16 };
    float identity[EXPERTS_MAX * EXPERTS_MAX] = {0}, scores[EXPERTS_MAX], weight[2];
    double values[EXPERTS_MAX], weights[2];
    int32_t expert[2], experts[2];
    int count = (int)numbers(json_object_get(row, "scores"), values, EXPERTS_MAX);
    for (int i = 0; i < count; i++) {
        identity[i * count + i] = 1;
        scores[i] = (float)values[i];
    }
    tokens_of(json_object_get(row, "experts"), experts, 2);
    numbers(json_object_get(row, "weights"), weights, 2);
    const struct router router = {.experts = count,
                                  .top_k = 2,
                                  .jitter = (float)json_number_value(json_object_get(row, "jitter")),
                                  .weight = identity,
                                  .hidden = count};
    struct routing routing = {.rows = 1, .top_k = 2, .expert = expert, .weight = weight};
    stages->route(device, &router, scores, 1, &routing);
    for (int slot = 0; slot < 2; slot++) {
        if (expert[slot] != experts[slot])
            fail_msg("case %zu, slot %d: expected expert %d, found %d", number, slot, experts[slot], expert[slot]);
        close_to((double)weight[slot], weights[slot], TOLERANCE_ROUTING, "weight of slot", (int)number, slot);
    }
}

static void routing_equals_sparsemixer(void **state) {
    const struct stages *stages = ((const struct parity *)*state)->stages;
    const struct stage_limits limits = {.tokens_max = 1, .sequences_max = 1, .context_max = 32, .hidden = 16,
                                        .heads = 1, .kv_heads = 1, .head_dim = 16, .intermediate = 16,
                                        .experts = 16, .vocab = 16, .threads = 2};
    struct error error;
    void *device;
    check(stages->open(&device, &limits, &error), &error);
    json_t *golden = load_golden("routing"), *row;
    size_t r;
    assert_true(json_array_size(json_object_get(golden, "cases")) >= 50);
    json_array_foreach(json_object_get(golden, "cases"), r, row) check_routing(stages, device, row, r);
    json_decref(golden);
    stages->close(device);
}

// ---- All of it

static const struct {
    const char *golden, *dir;
    bool bf16; // the checkpoint's own type
} MODELS[] = {
    {"toy-window", "tests/golden/data/toy-window", true},
    {"toy-sharded", "tests/golden/data/toy-sharded", false},
    {"toy-stacked", "tests/golden/data/toy-stacked", false},
    {"toy-tied", "tests/golden/data/toy-tied", false},
    {"toy-wide", "tests/golden/data/toy-wide", true},
    {"demo", "models/demo", true},
};

static const struct {
    const struct stages *stages;
    bool split;
} STAGES[] = {{&reference_stages, false}, {&cpu_stages, false}, {&cpu_stages, true}};

enum {
    MODEL_COUNT = sizeof MODELS / sizeof *MODELS,
    STAGE_COUNT = sizeof STAGES / sizeof *STAGES,
    TESTS_MAX = MODEL_COUNT * (3 * STAGE_COUNT + 2) + STAGE_COUNT,
};

#ifdef __clang__
static const int EVERY = 3; // prompt: what gcc has built goes through them all
#else
static const int EVERY = 1;
#endif

static struct CMUnitTest tests[TESTS_MAX];
static struct parity parities[TESTS_MAX];
static char names[TESTS_MAX][96];
static size_t test_count;

static void add_test(CMUnitTestFunction function, const struct parity *parity, const char *what) {
    size_t i = test_count++;
    parities[i] = *parity;
    snprintf(names[i], sizeof names[i], "%s %s%s %s", parity->golden, parity->stages ? parity->stages->name : "",
             parity->split ? " + OpenCL" : "", what);
    tests[i] = (struct CMUnitTest){.name = names[i], .test_func = function, .initial_state = &parities[i]};
}

int main(void) {
    for (size_t s = 0; s < STAGE_COUNT; s++)
        if (!STAGES[s].split)
            add_test(routing_equals_sparsemixer, &(struct parity){.golden = "routing", .stages = STAGES[s].stages}, "");
    for (size_t m = 0; m < MODEL_COUNT; m++) {
        struct parity parity = {.golden = MODELS[m].golden, .dir = MODELS[m].dir};
        add_test(rope_equals_transformers, &parity, "rope");
        for (size_t s = 0; s < STAGE_COUNT; s++) {
            bool fast = STAGES[s].stages != &reference_stages;
            bool large = strcmp(parity.golden, "demo") == 0;
            bool slow = large && !fast; // plain C would take a minute over all of it
            parity.stages = STAGES[s].stages;
            parity.split = STAGES[s].split;
            parity.weights = WEIGHTS_F32;
            parity.chunks = ALL_CHUNKS;
            parity.chunk_count = slow ? 1 : sizeof ALL_CHUNKS / sizeof *ALL_CHUNKS;
            // With OpenCL, test_split.c goes on from each prompt; of these, some are short, one has 500 tokens, and one
            // is longer than the window.
            parity.stride = slow || (large && parity.split) ? 3 : EVERY;
            parity.usual = false;
            parity.kv = KV_F32;
            add_test(equals_transformers, &parity, "f32");
            if (fast && !parity.split) {
                parity.kv = KV_F16; // rounded, so judged by what is usual
                parity.usual = true;
                add_test(equals_transformers, &parity, "f32, keys and values in f16");
                parity.kv = KV_F32;
                parity.usual = false;
            }
            bool told = !fast && m > 0; // plain C does the same to every bf16 weight: once is enough
            if (!MODELS[m].bf16 || told) continue;
            parity.weights = WEIGHTS_BF16;
            parity.chunks = STEADY_CHUNKS;
            parity.chunk_count = sizeof STEADY_CHUNKS / sizeof *STEADY_CHUNKS;
            add_test(equals_transformers, &parity, "bf16, few rows");
            parity.chunks = LARGE_CHUNKS;
            parity.chunk_count = sizeof LARGE_CHUNKS / sizeof *LARGE_CHUNKS;
            parity.usual = fast;
            add_test(equals_transformers, &parity, "bf16, many rows");
        }
    }
    return _cmocka_run_group_tests("parity", tests, test_count, NULL, NULL);
}
