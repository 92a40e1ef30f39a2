#include "engine/profile.h"

#include "base/clock.h"
#include "engine/stage_bytes.h"

#include <stdlib.h>
#include <string.h>

struct profile_mixture { // that has begun
    const struct layer *layer;
    const float *x;
    int rows;
};

struct profile {
    const struct stages *inner;
    void *state; // of inner
    struct stage_limits limits;
    struct trace *trace; // NULL: none is kept
    bool *chosen;  // [limits.experts]
    struct profile_mixture mixture[STAGE_SLOTS];
    bool attended; // attention has run in this layer: the next product is its output
    double forward_began_at, forward_seconds;
    int forward_rows;
    struct engine_device_work device_before; // this step
    bool shown; // step has been told: start anew
    struct engine_step step;
};

int profile_create(struct profile **out, const struct stages *inner, void *inner_state,
                   const struct stage_limits *limits, struct trace *trace, struct error *error) {
    struct profile *profile = calloc(1, sizeof *profile);
    bool *chosen = calloc((size_t)limits->experts + 1, sizeof *chosen);
    if (!profile || !chosen) {
        free(chosen);
        free(profile);
        return error_set(error, ERROR_MEMORY, "out of memory for the profile");
    }
    *profile = (struct profile){
        .inner = inner, .state = inner_state, .limits = *limits, .chosen = chosen, .trace = trace};
    *out = profile;
    return 0;
}

void profile_destroy(struct profile *profile) {
    if (!profile) return;
    free(profile->chosen);
    free(profile);
}

// ---- Steps

void profile_begin(struct profile *profile, const struct batch *batch) {
    if (profile->shown) {
        profile->step = (struct engine_step){0};
        profile->forward_seconds = 0;
        profile->shown = false;
    }
    profile->step.tokens += batch->tokens;
    profile->forward_rows = batch->tokens;
    profile->forward_began_at = clock_seconds();
}

static void add_device_work(struct profile *profile) {
    struct engine_device_work now = {0}, *to = &profile->step.device;
    const struct engine_device_work *before = &profile->device_before;
    if (!profile->inner->device_work) return;
    profile->inner->device_work(profile->state, &now);
    to->mixtures += now.mixtures - before->mixtures;
    to->halves += now.halves - before->halves;
    to->waits += now.waits - before->waits;
    to->wait_seconds += now.wait_seconds - before->wait_seconds;
    to->beside_seconds += now.beside_seconds - before->beside_seconds;
    to->holds += now.holds - before->holds;
    to->held_seconds += now.held_seconds - before->held_seconds;
    profile->device_before = now;
}

void profile_end(struct profile *profile, bool whole) {
    double now = clock_seconds();
    profile->shown = !whole;
    profile->forward_seconds += now - profile->forward_began_at;
    add_device_work(profile);
    trace_span(profile->trace, TRACE_STEPS, "step", profile->forward_rows, profile->forward_began_at, now);
}

const struct engine_step *profile_step(struct profile *profile, double seconds, bool prefill, int answers) {
    struct engine_step *step = &profile->step;
    if (profile->shown || step->tokens == 0) return NULL;
    double in_stages = 0;
    for (int i = 0; i < ENGINE_STAGE_BETWEEN; i++) in_stages += step->stages[i].seconds;
    step->stages[ENGINE_STAGE_BETWEEN].seconds = profile->forward_seconds - in_stages;
    step->stages[ENGINE_STAGE_SAMPLE].seconds = seconds - profile->forward_seconds;
    step->seconds = seconds;
    step->prefill = prefill;
    step->answers = answers;
    profile->shown = true;
    return step;
}

// ---- Stages

static const char *const STAGE_NAMES[] = {ENGINE_STAGES(NAMED_NAME)};

// `name` is what the timeline calls it.
static void add_as(struct profile *profile, enum engine_stage stage, const char *name, int rows, double began_at,
                   double bytes, double operations) {
    struct engine_stage_work *work = &profile->step.stages[stage];
    double now = clock_seconds();
    work->seconds += now - began_at;
    work->bytes += bytes;
    work->operations += operations;
    trace_span(profile->trace, TRACE_CPU, name, rows, began_at, now);
}

static void add(struct profile *profile, enum engine_stage stage, int rows, double began_at, double bytes,
                double operations) {
    add_as(profile, stage, STAGE_NAMES[stage], rows, began_at, bytes, operations);
}

static double elements(const struct matrix *matrix) {
    return (double)matrix->rows * matrix->columns;
}

static const char *describe(const void *state) {
    const struct profile *profile = state;
    return profile->inner->describe(profile->state);
}

static void rows_are(void *state, enum row_kind kind) {
    struct profile *profile = state;
    if (profile->inner->rows_are) profile->inner->rows_are(profile->state, kind);
}

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    struct profile *profile = state;
    double began_at = clock_seconds();
    profile->inner->embed(profile->state, table, token, rows, x);
    add(profile, ENGINE_STAGE_EMBED, rows, began_at, rows * stage_bytes_matrix(table) / table->rows, 0);
}

static void norm(void *state, const struct norm *norm, const float *x, float *y, int rows) {
    struct profile *profile = state;
    double began_at = clock_seconds();
    profile->inner->norm(profile->state, norm, x, y, rows);
    add(profile, ENGINE_STAGE_NORM, rows, began_at, 2.0 * norm->width * sizeof(float), 0);
}

// Which product it is, is told by what came before: attention's output, or else the head.
static void linear(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    struct profile *profile = state;
    const struct matrix *weight = &linear->weight;
    enum engine_stage stage = profile->attended ? ENGINE_STAGE_OUTPUT : ENGINE_STAGE_HEAD;
    profile->attended = false;
    double began_at = clock_seconds();
    profile->inner->linear(profile->state, linear, x, y, rows, accumulate);
    add(profile, stage, rows, began_at, stage_bytes_matrix(weight), 2 * elements(weight) * rows);
}

static void linears(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows) {
    struct profile *profile = state;
    double began_at = clock_seconds(), bytes = 0, operations = 0;
    profile->inner->linears(profile->state, linears, count, x, y, rows);
    for (int i = 0; i < count; i++) {
        bytes += stage_bytes_matrix(&linears[i]->weight);
        operations += 2 * elements(&linears[i]->weight) * rows;
    }
    add(profile, ENGINE_STAGE_QKV, rows, began_at, bytes, operations);
}

static void attention(void *state, const struct attention *attention, const struct batch *batch,
                      const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out) {
    struct profile *profile = state;
    double began_at = clock_seconds();
    profile->inner->attention(profile->state, attention, batch, cache, layer, q, k, v, out);
    profile->attended = true;
    const struct stage_keys keys = stage_keys(attention, batch);
    add(profile, ENGINE_STAGE_ATTENTION, batch->tokens, began_at, stage_bytes_keys(attention, cache, keys.read),
        keys.seen * 4 * attention->heads * attention->head_dim);
}

static void route(void *state, const struct router *router, const float *x, int rows, struct routing *routing) {
    struct profile *profile = state;
    double began_at = clock_seconds(), weights = (double)router->experts * router->hidden;
    profile->inner->route(profile->state, router, x, rows, routing);
    add(profile, ENGINE_STAGE_ROUTE, rows, began_at, weights * sizeof(float), 2 * weights * rows);
}

static void add_experts(struct profile *profile, const struct layer *layer, const struct routing *routing,
                        const char *name, double began_at) {
    double bytes = 0, operations = 0;
    memset(profile->chosen, 0, (size_t)profile->limits.experts * sizeof *profile->chosen);
    for (int i = 0; i < routing->rows * routing->top_k; i++) {
        const struct expert *expert = &layer->experts[routing->expert[i]];
        operations += 2 * (elements(&expert->gate) + elements(&expert->up) + elements(&expert->down));
        if (profile->chosen[routing->expert[i]]) continue;
        profile->chosen[routing->expert[i]] = true;
        bytes += stage_bytes_expert(expert);
    }
    add_as(profile, ENGINE_STAGE_EXPERTS, name, routing->rows, began_at, bytes, operations);
}

static void experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                    int rows) {
    struct profile *profile = state;
    double began_at = clock_seconds();
    profile->inner->experts(profile->state, layer, routing, x, y, rows);
    add_experts(profile, layer, routing, STAGE_NAMES[ENGINE_STAGE_EXPERTS], began_at);
}

// Of the time that another device takes, what counts is the caller's: for handing over, and for waiting at the end.
static void mixture_begin(void *state, int slot, const struct layer *layer, const float *x, int rows, int whole) {
    struct profile *profile = state;
    double began_at = clock_seconds();
    profile->mixture[slot] = (struct profile_mixture){layer, x, rows};
    if (profile->inner->mixture_begin) profile->inner->mixture_begin(profile->state, slot, layer, x, rows, whole);
    add_as(profile, ENGINE_STAGE_EXPERTS, "handing over", rows, began_at, 0, 0);
}

static void mixture_end(void *state, int slot, float *y, struct routing *out) {
    struct profile *profile = state;
    const struct profile_mixture *mixture = &profile->mixture[slot];
    if (profile->inner->mixture_end) {
        double began_at = clock_seconds(),
               weights = (double)mixture->layer->router.experts * mixture->layer->router.hidden;
        profile->inner->mixture_end(profile->state, slot, y, out);
        add_experts(profile, mixture->layer, out, "waiting for experts", began_at);
        profile->step.stages[ENGINE_STAGE_ROUTE].bytes += weights * sizeof(float);
        profile->step.stages[ENGINE_STAGE_ROUTE].operations += 2 * weights * mixture->rows;
    } else {
        route(state, &mixture->layer->router, mixture->x, mixture->rows, out);
        experts(state, mixture->layer, out, mixture->x, y, mixture->rows);
    }
}

static void device_work(const void *state, struct engine_device_work *out) {
    const struct profile *profile = state;
    *out = (struct engine_device_work){0};
    if (profile->inner->device_work) profile->inner->device_work(profile->state, out);
}

static int parts(const void *state, enum row_kind kind, int rows) {
    const struct profile *profile = state;
    return profile->inner->parts ? profile->inner->parts(profile->state, kind, rows) : 1;
}

const struct stages profile_stages = {
    .name = "profile",
    .describe = describe,
    .rows_are = rows_are,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .linears = linears,
    .attention = attention,
    .route = route,
    .experts = experts,
    .mixture_begin = mixture_begin,
    .mixture_end = mixture_end,
    .parts = parts,
    .device_work = device_work,
};
