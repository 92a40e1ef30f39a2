// Visitors of the whole engine on a model of cardboard, step by step under a clock of its own: time passes only with
// steps. A visitor knows what its answer has to be, to the last token: what the model alone would have said. Failures
// end the test.
#ifndef TESTS_UNIT_VISITORS_H
#define TESTS_UNIT_VISITORS_H

#include "tests/unit/fake_model.h"

#include <stdatomic.h>

// ---- The clock, and steps

static _Atomic double now = 1000;

double clock_seconds(void) {
    return atomic_load(&now);
}

static inline bool is_idle(struct engine *engine) {
    struct engine_stats stats = stats_of(engine);
    return stats.running + stats.waiting == 0;
}

// Waits until the engine stands at the gate, before a step that is not let pass yet; false: it has nothing to do.
static int passed;

static inline bool stands(struct engine *engine) {
    while (gate_arrived() == passed) {
        if (is_idle(engine)) return false;
        usleep(20);
    }
    return true;
}

// Lets one step pass, which takes so long. All it has brought about can be seen then.
static inline void pass_step(struct engine *engine, double seconds) {
    if (!stands(engine)) return;
    atomic_store(&now, atomic_load(&now) + seconds);
    passed++;
    gate_pass(1);
    stands(engine);
}

// ---- Requests, and what their answers have to be

enum { PROMPT_MAX = 200, ANSWER_MAX = 40, HISTORY_MAX = PROMPT_MAX + ANSWER_MAX };

struct visitor {
    struct engine_job *job; // NULL: free
    int32_t history[HISTORY_MAX];
    int prompt_tokens, tokens_max, told;
    uint64_t salt;
    int steps; // since it came
    bool cancelled;
};

static inline int32_t likeliest(const float *logits) {
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static inline void fill_answer(struct visitor *visitor) {
    float logits[VOCAB];
    for (int i = 0; i < visitor->tokens_max; i++) {
        fake_logits(visitor->history, visitor->prompt_tokens + i, logits);
        visitor->history[visitor->prompt_tokens + i] = likeliest(logits);
    }
}

static inline struct engine_request request_for(const struct visitor *visitor) {
    return (struct engine_request){.prompt = visitor->history,
                                   .prompt_tokens = (size_t)visitor->prompt_tokens,
                                   .tokens_max = visitor->tokens_max,
                                   .salt = visitor->salt,
                                   .client = visitor->salt,
                                   .sampling = {.temperature = 0, .top_p = 1, .repetition_penalty = 1}};
}

// Letters that go on from `from` as `salt` says.
static inline void letters(int32_t *out, int from, int to, uint32_t salt) {
    for (int i = from; i < to; i++) out[i] = TOKEN_A + (int32_t)(mix(salt, (uint32_t)i) % 26);
    if (from == 0) out[0] = PROMPT_RANDOM;
}

static inline struct engine_event *next_event(struct engine *engine, struct visitor *visitor) {
    struct engine_event *event = engine_job_next(visitor->job);
    return event || !is_idle(engine) ? event : engine_job_wait(visitor->job); // places are free before jobs hear of it
}

// Reads what is there. True at the end, whose event is in *last then, to be destroyed.
static inline bool read_visitor(struct engine *engine, struct visitor *visitor, struct engine_event **last) {
    for (struct engine_event *event; (event = next_event(engine, visitor)); engine_event_destroy(event)) {
        *last = event;
        if (event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR) return true;
        for (int i = 0; i < event->token_count; i++) {
            assert_true(visitor->told < visitor->tokens_max);
            assert_int_equal(event->tokens[i].token, visitor->history[visitor->prompt_tokens + visitor->told]);
            visitor->told++;
        }
    }
    return false;
}

// Submits one, runs it to its end alone, and says how it was.
static inline struct engine_usage run_alone(struct engine *engine, struct visitor *visitor) {
    struct error error;
    struct engine_event *last = NULL;
    struct engine_request request = request_for(visitor);
    visitor->told = 0;
    if (engine_submit(engine, &request, &visitor->job, &error)) fail_msg("%s", error.message);
    pass_step(engine, 0.01);
    while (!read_visitor(engine, visitor, &last)) pass_step(engine, 0.01);
    assert_int_equal(last->type, ENGINE_EVENT_DONE);
    assert_int_equal(visitor->told, visitor->tokens_max);
    struct engine_usage usage = last->usage;
    engine_event_destroy(last);
    engine_job_release(visitor->job);
    visitor->job = NULL;
    return usage;
}

static inline void submit_short(struct engine *engine, struct visitor *visitor, uint64_t salt, uint32_t text) {
    struct error error;
    *visitor = (struct visitor){.prompt_tokens = 5, .tokens_max = 4, .salt = salt};
    letters(visitor->history, 0, 5, text);
    fill_answer(visitor);
    struct engine_request request = request_for(visitor);
    assert_int_equal(engine_submit(engine, &request, &visitor->job, &error), 0);
}

// Whether it has just ended.
static inline bool ends(struct engine *engine, struct visitor *visitor) {
    struct engine_event *last = NULL;
    if (!visitor->job || !read_visitor(engine, visitor, &last)) return false;
    assert_int_equal(last->type, ENGINE_EVENT_DONE);
    assert_int_equal(visitor->told, visitor->tokens_max);
    engine_event_destroy(last);
    engine_job_release(visitor->job);
    visitor->job = NULL;
    return true;
}

static inline struct engine *open_held(struct engine_options options) {
    struct engine *engine = open_engine(options);
    passed = 0;
    gate_hold();
    return engine;
}

static inline void close_idle(struct engine *engine) {
    check_idle(engine);
    struct engine_stats stats = stats_of(engine);
    assert_true(stats.kv_pages_kept <= stats.kv_pages);
    gate_open();
    engine_close(engine);
}

#endif
