// A model of cardboard behind engine/model.h, so that the engine can be tested without weights, to the last token.
// It keeps each token that it is given in the KV page of its position, and makes the next logits from nothing but
// what it finds in the pages of that sequence: a page in wrong hands changes the text. Around it everything is real:
// tokenizer (of a tokenizer.json written here), detokenizer, stop strings, sampler, scheduler, KV cache, threads.
//
// The first token of a prompt says how the answer goes on: see enum below. A gate can stop the engine before a step.
#ifndef TESTS_UNIT_FAKE_MODEL_H
#define TESTS_UNIT_FAKE_MODEL_H

#include "engine/architectures/architecture.h"
#include "engine/engine.h"
#include "engine/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// For what the engine thread calls: a failed cmocka assertion may only leave the test's own thread.
#define DEMAND(condition) \
    do { \
        if (condition) break; \
        fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
        abort(); \
    } while (0)

enum { // the vocabulary
    TOKEN_BYTE_0 = 3,
    TOKEN_MARK = 259, // "▁", a space
    TOKEN_A = 260,    // to z
    TOKEN_ENDOFTEXT = 300,
    TOKEN_ASSISTANT = 301,
    TOKEN_SYSTEM = 306,
    TOKEN_END = 307,
    TOKEN_USER = 310,
    VOCAB = 320,
    FAKE_LAYERS = 2,
    FAKE_HEAD_DIM = 4,
};

enum {                               // first token of a prompt
    PROMPT_RANDOM = TOKEN_A,         // logits from a hash of everything before: letters and spaces, never an end
    PROMPT_SCRIPT = TOKEN_A + 1,     // the answer is fake.script, again and again
    PROMPT_NAN = TOKEN_A + 2,        // as random, but NaN for the answer's token number fake.fails_at
    PROMPT_PROMPT_NAN = TOKEN_A + 3, // as random, but NaN from position fake.fails_at on
    PROMPT_ECHO = TOKEN_A + 4,       // most likely what stood ECHO tokens before, but for one time in ECHO_WRONG
};

enum { ECHO = 23, ECHO_WRONG = 12 };

enum { STEPS_MAX = 1 << 16 };

struct fake_step {
    int rows, answers, brief, sequences, outputs;
};

static struct {
    int context;
    const int32_t *script;           // [script_count]
    int script_count, script_prompt; // tokens of the prompt of PROMPT_SCRIPT and PROMPT_NAN
    int fails_at;
    bool refuses_to_open;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held; // steps wait for permits
    int permits;
    int arrived; // steps that have begun
    struct fake_step steps[STEPS_MAX];
} fake = {.context = 512, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

// ---- The gate, and what went through it

static inline void gate_set(bool held, int permits) {
    pthread_mutex_lock(&fake.lock);
    fake.held = held;
    fake.permits = permits;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void gate_hold(void) {
    gate_set(true, 0);
}

static inline void gate_pass(int steps) {
    gate_set(true, steps);
}

static inline void gate_open(void) {
    gate_set(false, 0);
}

static inline int gate_arrived(void) {
    pthread_mutex_lock(&fake.lock);
    int arrived = fake.arrived;
    pthread_mutex_unlock(&fake.lock);
    return arrived;
}

// Until so many steps have begun since the model was opened. The last of them, held, has not run yet.
static inline void gate_await(int arrived) {
    pthread_mutex_lock(&fake.lock);
    while (fake.arrived < arrived) pthread_cond_wait(&fake.changed, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
}

static void gate_enter(const struct batch *batch) {
    pthread_mutex_lock(&fake.lock);
    if (fake.arrived < STEPS_MAX)
        fake.steps[fake.arrived] = (struct fake_step){
            batch->tokens, batch->answers, batch->brief, batch->sequences, batch->outputs};
    fake.arrived++;
    pthread_cond_broadcast(&fake.changed);
    while (fake.held && fake.permits == 0) pthread_cond_wait(&fake.changed, &fake.lock);
    if (fake.held) fake.permits--;
    pthread_mutex_unlock(&fake.lock);
}

// ---- The model

static const struct architecture fake_architecture = {.name = "fake"};

int model_open(struct model **out, const struct model_options *options, struct error *error) {
    if (fake.refuses_to_open) return error_set(error, ERROR_FORMAT, "%s: made of cardboard", options->dir);
    struct model *model = calloc(1, sizeof *model);
    DEMAND(model);
    model->architecture = &fake_architecture;
    model->config = (struct model_config){.layers = FAKE_LAYERS,
                                          .hidden = 8,
                                          .heads = 2,
                                          .kv_heads = 1,
                                          .head_dim = FAKE_HEAD_DIM,
                                          .experts = 2,
                                          .experts_per_token = 2,
                                          .vocab = VOCAB,
                                          .context = fake.context,
                                          .window = fake.context,
                                          .eos = {TOKEN_END, TOKEN_ENDOFTEXT},
                                          .eos_count = 2};
    model->weights = options->weights;
    model->parameters = 1234;
    model->created = 5678;
    fake.arrived = 0;
    *out = model;
    return 0;
}

void model_close(struct model *model) {
    free(model);
}

static void *block_of(const struct kv_cache *cache, int layer, const int32_t *pages, int position, int part) {
    return kv_cache_block(cache, layer, pages[position / KV_PAGE_TOKENS], part, 0);
}

// Keys hold the token, values its position as far as f16 is exact, in every layer and every element.
enum { POSITIONS_TOLD = 2048 };

static void write_position(const struct kv_cache *cache, const int32_t *pages, int position, float token) {
    float where = (float)(position % POSITIONS_TOLD);
    for (int layer = 0; layer < FAKE_LAYERS; layer++)
        for (int part = 0; part < 2; part++) {
            float row[FAKE_HEAD_DIM];
            for (int i = 0; i < FAKE_HEAD_DIM; i++) row[i] = part == 0 ? token : where;
            kv_cache_put(cache, block_of(cache, layer, pages, position, part), position % KV_PAGE_TOKENS, row);
        }
}

static int32_t read_position(const struct kv_cache *cache, const int32_t *pages, int position) {
    float token = NAN, where = (float)(position % POSITIONS_TOLD);
    for (int layer = 0; layer < FAKE_LAYERS; layer++)
        for (int part = 0; part < 2; part++) {
            float row[FAKE_HEAD_DIM];
            kv_cache_get(cache, block_of(cache, layer, pages, position, part), position % KV_PAGE_TOKENS, row);
            if (layer == 0 && part == 0) token = row[0];
            for (int i = 0; i < FAKE_HEAD_DIM; i++) DEMAND(row[i] == (part == 0 ? token : where));
        }
    return (int32_t)token;
}

static uint32_t mix(uint32_t hash, uint32_t value) {
    hash = (hash ^ value) * 2654435761u;
    return hash ^ hash >> 15;
}

// The logits after history[0..count).
static void fake_logits(const int32_t *history, int count, float *logits) {
    uint32_t hash = 1;
    for (int i = 0; i < count; i++) hash = mix(hash, (uint32_t)history[i]);
    for (int i = 0; i < VOCAB; i++) {
        bool letter = i >= TOKEN_MARK && i < TOKEN_A + 26;
        logits[i] = letter ? (float)(mix(hash, (uint32_t)i) % 1000) / 200 : -30;
    }
    if (history[0] == PROMPT_ECHO && count > ECHO && hash % ECHO_WRONG != 0) logits[history[count - ECHO]] += 7;
    int answered = count - fake.script_prompt;
    if (history[0] == PROMPT_SCRIPT && answered >= 0)
        for (int i = 0; i < VOCAB; i++) logits[i] = i == fake.script[answered % fake.script_count] ? 20 : 0;
    bool fails = (history[0] == PROMPT_NAN && answered == fake.fails_at) ||
                 (history[0] == PROMPT_PROMPT_NAN && count > fake.fails_at);
    if (fails) logits[TOKEN_A + 5] = NAN;
}

struct forward {
    int tokens_max, outputs_max;
};

int forward_create(struct forward **out, const struct model *model, const struct stages *stages, void *stages_state,
                   int tokens_max, int outputs_max, struct error *error) {
    (void)model, (void)stages, (void)stages_state, (void)error;
    *out = calloc(1, sizeof **out);
    DEMAND(*out);
    **out = (struct forward){tokens_max, outputs_max};
    return 0;
}

const struct expert_counts *forward_counts(const struct forward *forward) {
    (void)forward;
    return NULL;
}

void forward_destroy(struct forward *forward) {
    free(forward);
}

bool forward_run(struct forward *forward, const struct batch *batch, const struct kv_cache *cache, float *logits) {
    DEMAND(batch->tokens >= 1 && batch->tokens <= forward->tokens_max);
    DEMAND(batch->outputs >= 0 && batch->outputs <= forward->outputs_max);
    gate_enter(batch);
    if (batch->unwanted(batch->unwanted_user)) return false;

    int32_t *history = calloc((size_t)fake.context, sizeof *history);
    DEMAND(history);
    int next_row = 0, next_output = 0;
    const int32_t *poisoned_pages = NULL; // of the sequence whose newest key is nonsense since this step
    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *run = &batch->sequence[s];
        DEMAND(run->first == next_row);
        DEMAND(run->first + run->count <= batch->answers || run->first >= batch->answers);
        DEMAND(run->first >= batch->answers || run->count == 1);
        DEMAND(run->count >= 1 && run->position + run->count <= fake.context);
        next_row += run->count;
        bool poisoned = false;
        for (int i = 0; i < run->count; i++) {
            int row = run->first + i, position = run->position + i;
            DEMAND(batch->position[row] == position);
            write_position(cache, run->pages, position, (float)batch->token[row]);
            if (next_output == batch->outputs || batch->output[next_output] != row) continue;
            float *out = logits + (size_t)next_output++ * VOCAB;
            if (run->pages == poisoned_pages) { // a guess behind it
                for (int j = 0; j < VOCAB; j++) out[j] = NAN;
                continue;
            }
            for (int p = 0; p <= position; p++) history[p] = read_position(cache, run->pages, p);
            fake_logits(history, position + 1, out);
            poisoned |= isnan(out[TOKEN_A + 5]);
        }
        if (poisoned) poisoned_pages = run->pages;
        if (poisoned) write_position(cache, run->pages, run->position + run->count - 1, NAN); // as a device would
    }
    DEMAND(next_row == batch->tokens);
    DEMAND(next_output == batch->outputs);
    free(history);
    return true;
}

// ---- Its stages: opened and closed, never called

static const char *describe(const void *state) {
    return state;
}

static int open_stages(void **state, const struct stage_limits *limits, struct error *error) {
    if (limits->threads == 13) return error_set(error, ERROR_UNSUPPORTED, "thirteen threads bring bad luck");
    *state = strdup("cardboard");
    return 0;
}

static void close_stages(void *state) {
    free(state);
}

static bool unpacks(const void *state, enum weight_format weights) {
    (void)state;
    return weights == WEIGHTS_INT8 || weights == WEIGHTS_INT4;
}

const struct stages cpu_stages = {
    "cpu", .describe = describe, .open = open_stages, .close = close_stages, .unpacks = unpacks};
const struct stages reference_stages = {"reference", .describe = describe, .open = open_stages, .close = close_stages};

// ---- The tokenizer's files

static char fake_dir[] = "/tmp/tandem-engine-XXXXXX";

static void write_tokenizer(void) {
    char path[64];
    snprintf(path, sizeof path, "%s/tokenizer.json", fake_dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"version\": \"1.0\", \"added_tokens\": [", file);
    static const struct {
        int id;
        const char *text;
    } SPECIALS[] = {{TOKEN_ENDOFTEXT, "<|endoftext|>"},
                    {TOKEN_ASSISTANT, "<|assistant|>"},
                    {TOKEN_SYSTEM, "<|system|>"},
                    {TOKEN_END, "<|end|>"},
                    {TOKEN_USER, "<|user|>"}};
    for (size_t i = 0; i < sizeof SPECIALS / sizeof *SPECIALS; i++)
        fprintf(file,
                "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true, "
                "\"normalized\": false, \"special\": true}",
                i ? ", " : "", SPECIALS[i].id, SPECIALS[i].text);
    fputs("], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"▁\"}, "
          "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"▁\"}]}, \"pre_tokenizer\": null, "
          "\"post_processor\": null, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
          "\"pattern\": {\"String\": \"▁\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
          "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}, \"model\": {\"type\": \"BPE\", "
          "\"dropout\": null, \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {"
          "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2",
          file);
    for (int i = 0; i < 256; i++) fprintf(file, ", \"<0x%02X>\": %d", (unsigned)i, TOKEN_BYTE_0 + i);
    fprintf(file, ", \"▁\": %d", TOKEN_MARK);
    for (int i = 0; i < 26; i++) fprintf(file, ", \"%c\": %d", 'a' + i, TOKEN_A + i);
    fputs("}, \"merges\": []}}", file);
    assert_int_equal(fclose(file), 0);
}

static int fake_setup(void **state) {
    (void)state;
    if (!mkdtemp(fake_dir)) return -1;
    write_tokenizer();
    return 0;
}

static int fake_teardown(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/tokenizer.json", fake_dir);
    unlink(path);
    return rmdir(fake_dir);
}

// ---- Requests

static inline struct engine *open_engine(struct engine_options options) {
    struct engine *engine = NULL;
    struct error error = {0};
    options.model_dir = fake_dir;
    options.threads = 1;
    gate_open();
    int code = engine_open(&engine, &options, &error);
    if (code) fail_msg("%s", error.message);
    return engine;
}

// A prompt of so many tokens: how to answer, then letters that depend on `salt`.
static struct engine_request request_of(int32_t *prompt, int kind, size_t tokens, uint32_t salt, int tokens_max) {
    prompt[0] = kind;
    for (size_t i = 1; i < tokens; i++) prompt[i] = TOKEN_A + (int32_t)(mix(salt, (uint32_t)i) % 26);
    return (struct engine_request){.prompt = prompt,
                                   .prompt_tokens = tokens,
                                   .tokens_max = tokens_max,
                                   .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = salt}};
}

// The answer to one that says fake.script.
static inline struct engine_request script_request(int32_t *prompt, const int32_t *script, int count, int tokens_max) {
    fake.script = script;
    fake.script_count = count;
    fake.script_prompt = 3;
    return request_of(prompt, PROMPT_SCRIPT, 3, 1, tokens_max);
}

static inline struct engine_job *submit(struct engine *engine, const struct engine_request *request) {
    struct engine_job *job = NULL;
    struct error error = {0};
    int code = engine_submit(engine, request, &job, &error);
    if (code) fail_msg("%s", error.message);
    return job;
}

// Everything that a job said.
struct outcome {
    char text[16384];
    size_t bytes;
    int32_t tokens[4096];
    float logprobs[4096];
    int token_count;
    int events;
    enum engine_event_type end;
    enum finish_reason finish;
    struct engine_usage usage;
    struct error error;
};

// Adds an event and destroys it; true for the last one.
static inline bool add_event(struct outcome *outcome, struct engine_event *event) {
    outcome->events++;
    if (event->type == ENGINE_EVENT_TEXT) {
        assert_true(outcome->bytes + event->text_bytes < sizeof outcome->text);
        assert_int_equal(event->text[event->text_bytes], '\0');
        memcpy(outcome->text + outcome->bytes, event->text, event->text_bytes + 1);
        outcome->bytes += event->text_bytes;
        for (int i = 0; i < event->token_count; i++) {
            assert_true(outcome->token_count < 4096);
            outcome->logprobs[outcome->token_count] = event->tokens[i].logprob;
            outcome->tokens[outcome->token_count++] = event->tokens[i].token;
        }
    }
    bool last = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
    if (last) {
        outcome->end = event->type;
        outcome->finish = event->finish;
        outcome->usage = event->usage;
        outcome->error = event->error;
    }
    engine_event_destroy(event);
    return last;
}

// Reads a job to its end and releases it.
static inline void finish_job(struct engine_job *job, struct outcome *outcome) {
    struct engine_event *event;
    *outcome = (struct outcome){0};
    while ((event = engine_job_wait(job)))
        if (add_event(outcome, event)) break;
    assert_non_null(event); // there was an end
    assert_null(engine_job_wait(job));
    assert_null(engine_job_next(job));
    engine_job_release(job);
}

static inline void run_request(struct engine *engine, const struct engine_request *request, struct outcome *outcome) {
    finish_job(submit(engine, request), outcome);
}

// Reads a job to its end, which has to be this one, and releases it.
static inline void expect_end(struct engine_job *job, int code) {
    static struct outcome outcome;
    finish_job(job, &outcome);
    assert_int_equal(outcome.end, code ? ENGINE_EVENT_ERROR : ENGINE_EVENT_DONE);
    assert_int_equal(outcome.error.code, code);
}

static inline struct engine_stats stats_of(struct engine *engine) {
    struct engine_stats stats;
    engine_stats(engine, &stats);
    return stats;
}

static inline void check_idle(struct engine *engine) {
    struct engine_stats stats = stats_of(engine);
    assert_int_equal(stats.running, 0);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.kv_pages_used, 0);
}

#endif
