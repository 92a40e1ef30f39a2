#include "engine/placement.h"

#include "base/clock.h"
#include "engine/opencl/opencl.h"
#include "engine/placement_cost.h"
#include "engine/placement_share.h"

#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double RETRY_SECONDS = 10, RETRY_SECONDS_MAX = 600; // each pause is twice the last one
static const double WORTH = 0.9; // what the device has to save, so that noise does not decide

struct mixture { // that has begun
    const struct layer *layer;
    const float *x;
    int rows;
    enum row_kind kind;
    bool on_device;
    uint64_t shared; // the experts that are the device's, where the CPU has others; 0: all are one's
};

struct placement {
    const struct stages *inner;
    void *state; // of inner
    struct placement_options options;
    char *kernels; // options.kernels
    struct stage_limits limits;
    uint64_t *experts; // [layer_count] those that the device may have, a bit each
    struct placement_share *share;
    bool used[PLACEMENT_PHASES]; // by the device, when it is well
    struct opencl *opencl; // NULL: there is none, or it has failed
    enum row_kind kind; // what rows are at the moment
    struct mixture mixture[STAGE_SLOTS];
    bool worked;                    // the device has computed rightly once
    double well_since, pause_seconds;
    double retry_at; // 0: it is not tried again
    char degraded[ERROR_MESSAGE_BYTES];
    char why[ERROR_MESSAGE_BYTES]; // found.why
    char device[384];              // found.device
    char description[1024];
    struct engine_placement found;
};

bool placement_parse(const char *name, enum placement_way *out) {
#define PLACEMENT_MATCH(way, text, meaning) \
    if (strcmp(name, text) == 0) { \
        *out = way; \
        return true; \
    }
    PLACEMENTS(PLACEMENT_MATCH)
#undef PLACEMENT_MATCH
    return false;
}

bool placement_parse_phase(const char *name, enum placement_experts *out) {
    static const char *const NAMES[] = {[EXPERTS_AUTO] = "auto", [EXPERTS_CPU] = "cpu", [EXPERTS_OPENCL] = "opencl"};
    for (int i = 0; i <= EXPERTS_OPENCL; i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (enum placement_experts)i;
            return true;
        }
    return false;
}

// ---- Failures

static void warn(const struct placement *placement, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void warn(const struct placement *placement, const char *format, ...) {
    char line[ERROR_MESSAGE_BYTES + 128];
    va_list arguments;
    if (!placement->options.warn) return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    placement->options.warn(placement->options.warn_user, line);
}

static double first_pause(const struct placement *placement) {
    return placement->options.retry_seconds > 0 ? placement->options.retry_seconds : RETRY_SECONDS;
}

// All that has begun on the device is the CPU's from now on.
static void fail(struct placement *placement, const struct error *error) {
    double now = clock_seconds();
    bool was_well = placement->opencl && placement->worked;
    opencl_close(placement->opencl);
    placement->opencl = NULL;
    for (int i = 0; i < STAGE_SLOTS; i++) placement->mixture[i].on_device = false;
    snprintf(placement->degraded, sizeof placement->degraded, "%s", error->message);
    if (error->code == ERROR_UNSUPPORTED && !placement->worked) { // it will not come by itself
        placement->retry_at = 0;
        warn(placement, "the experts run on the CPU: %s", error->message);
        return;
    }
    if (was_well && now - placement->well_since > RETRY_SECONDS_MAX) placement->pause_seconds = first_pause(placement);
    placement->retry_at = now + placement->pause_seconds;
    warn(placement, "the experts run on the CPU: %s; OpenCL is tried again in %.0f s", error->message,
         placement->pause_seconds);
    placement->pause_seconds *= 2;
    if (placement->pause_seconds > RETRY_SECONDS_MAX) placement->pause_seconds = RETRY_SECONDS_MAX;
}

// ---- The device

static void add_span(void *user, const char *name, int rows, double began_at, double ended_at) {
    trace_span(user, TRACE_OPENCL, name, rows, began_at, ended_at);
}

static void route_here(void *user, const struct router *router, const float *x, int rows, struct routing *routing) {
    const struct placement *placement = user;
    placement->inner->route(placement->state, router, x, rows, routing);
}

static int measure(const struct placement *placement, struct engine_placement *found, struct error *error) {
    const struct placement_options *options = &placement->options;
    const struct placement_devices devices = {.inner = placement->inner,
                                              .state = placement->state,
                                              .opencl = placement->opencl,
                                              .layers = options->layers,
                                              .layer_count = options->layer_count,
                                              .head = options->head,
                                              .rows_max = placement->limits.tokens_max,
                                              .explain = options->explain};
    return placement_measure(&devices, found, error);
}

// Leaves the device open where that failed half-way, for fail() to close.
static int open_device(struct placement *placement, struct engine_placement *found, struct error *error) {
    const struct placement_options *options = &placement->options;
    bool any = options->way == PLACEMENT_SPLIT || options->experts[PLACEMENT_DECODE] == EXPERTS_OPENCL ||
               options->experts[PLACEMENT_PREFILL] == EXPERTS_OPENCL || options->explain;
    const struct opencl_options wanted = {.limits = &placement->limits,
                                          .weights = options->weights,
                                          .kernels = options->kernels,
                                          .products = options->products,
                                          .route = route_here,
                                          .route_user = placement,
                                          .gpu_only = !any,
                                          .wait_seconds = options->wait_seconds,
                                          .warn = options->warn,
                                          .warn_user = options->warn_user,
                                          .span = options->trace ? add_span : NULL,
                                          .span_user = options->trace};
    int code = opencl_open(&placement->opencl, &wanted, error);
    if (!code) code = measure(placement, found, error);
    if (code) return code;
    placement->worked = true;
    placement->well_since = clock_seconds();
    return 0;
}

// ---- Planning

bool placement_pays(double cpu_seconds, double device_seconds) {
    return device_seconds <= WORTH * cpu_seconds;
}

// Whether anything says that there is a GPU: loading OpenCL's drivers takes time and memory, and where there is none,
// all that they could find is the CPU.
static bool may_have_gpu(const char *root) {
    static const char *const NODES[] = {"/dev/dri/renderD*", "/dev/nvidia[0-9]*", "/dev/mali[0-9]*", "/dev/dxg"};
    bool found = false;
    for (size_t i = 0; !found && i < sizeof NODES / sizeof *NODES; i++) {
        char pattern[PATH_MAX];
        glob_t matches = {0};
        int length = snprintf(pattern, sizeof pattern, "%s%s", root ? root : "", NODES[i]);
        if (length < 0 || (size_t)length >= sizeof pattern) continue;
        found = glob(pattern, GLOB_NOSORT, NULL, &matches) == 0 && matches.gl_pathc > 0;
        globfree(&matches);
    }
    return found;
}

static void describe_cpu(struct placement *placement, const char *why) {
    const char *inner = placement->inner->describe(placement->state);
    snprintf(placement->why, sizeof placement->why, "%s", why);
    snprintf(placement->description, sizeof placement->description, "%s%s%s", inner, why[0] ? "; all on it: " : "",
             why);
}

// "experts in decode on OpenCL: DEVICE (a layer's 1.2 ms for 16 rows; on the CPU 0.8)"
static void describe_split(struct placement *placement) {
    static const char *const WHAT[1 << PLACEMENT_PHASES] = {"nothing", "experts in decode", "experts in prefill",
                                                            "experts"};
    const bool *used = placement->used;
    const char *some = placement->share ? "some " : "";
    char *at = placement->description, *end = at + sizeof placement->description;
    at += snprintf(at, sizeof placement->description, "%.300s; %s%s on OpenCL: %s",
                   placement->inner->describe(placement->state), some,
                   WHAT[(used[PLACEMENT_DECODE] ? 1 : 0) + (used[PLACEMENT_PREFILL] ? 2 : 0)], placement->device);
    for (int i = 0; i < placement->found.point_count && at < end; i++) {
        const struct engine_placement_point *point = &placement->found.points[i];
        at += snprintf(at, (size_t)(end - at), "%s%.1f ms for %d rows, on the CPU %.1f", i ? "; " : " (a layer's ",
                       point->device_seconds * 1e3, point->rows, point->cpu_seconds * 1e3);
    }
    if (at < end && placement->found.point_count > 0) snprintf(at, (size_t)(end - at), ")");
}

static enum placement_phase phase_of(enum row_kind kind, int rows) {
    if (kind == ROWS_BY_NUMBER) return rows <= STAGE_STEADY_ROWS ? PLACEMENT_DECODE : PLACEMENT_PREFILL;
    return kind == ROWS_OF_ANSWERS ? PLACEMENT_DECODE : PLACEMENT_PREFILL;
}

// Who has a phase's experts when both devices are well. All sizes of calls that were measured have to pay.
static bool decide(const struct placement *placement, enum placement_phase phase) {
    const struct placement_options *options = &placement->options;
    if (options->experts[phase] != EXPERTS_AUTO) return options->experts[phase] == EXPERTS_OPENCL;
    if (options->way != PLACEMENT_AUTO) return options->way == PLACEMENT_SPLIT;
    for (int i = 0; i < placement->found.point_count; i++) {
        const struct engine_placement_point *point = &placement->found.points[i];
        if (phase_of(ROWS_BY_NUMBER, point->rows) != phase) continue;
        if (!(point->device_seconds > 0 && placement_pays(point->cpu_seconds, point->device_seconds))) return false;
    }
    return true; // also where nothing could be measured: it is worth trying when it comes back
}

static bool wants_device(const struct placement *placement) {
    const struct placement_options *options = &placement->options;
    bool wanted = options->explain;
    for (int i = 0; i < PLACEMENT_PHASES; i++) {
        if (options->experts[i] == EXPERTS_OPENCL) return true;
        if (options->experts[i] == EXPERTS_CPU || options->way == PLACEMENT_CPU) continue;
        wanted |= options->way == PLACEMENT_SPLIT || may_have_gpu(options->root);
    }
    return wanted;
}

static bool is_asked_for(const struct placement *placement) {
    const struct placement_options *options = &placement->options;
    for (int i = 0; i < PLACEMENT_PHASES; i++)
        if (options->experts[i] == EXPERTS_OPENCL ||
            (options->experts[i] == EXPERTS_AUTO && options->way == PLACEMENT_SPLIT))
            return true;
    return false;
}

static void drop_device(struct placement *placement) {
    opencl_close(placement->opencl);
    placement->opencl = NULL;
}

static void plan(struct placement *placement) {
    struct error error, other;
    describe_cpu(placement, "");
    if (!wants_device(placement)) return;
    int code = open_device(placement, &placement->found, &error);
    if (placement->opencl)
        snprintf(placement->device, sizeof placement->device, "%s", opencl_describe(placement->opencl));
    if (code) {
        placement->found.point_count = 0;
        describe_cpu(placement, error.message);
    }
    for (int i = 0; i < PLACEMENT_PHASES; i++) placement->used[i] = decide(placement, (enum placement_phase)i);
    for (int i = 0; i < placement->found.point_count; i++)
        placement->found.points[i].on_device =
            placement->used[phase_of(ROWS_BY_NUMBER, placement->found.points[i].rows)];
    bool used = placement->used[PLACEMENT_DECODE] || placement->used[PLACEMENT_PREFILL];
    if (code && (is_asked_for(placement) || error.code != ERROR_UNSUPPORTED))
        fail(placement, &error);
    else if (code || !used)
        drop_device(placement);
    if (code && placement->options.explain && measure(placement, &placement->found, &other))
        placement->found.point_count = 0;
    if (!code) describe_split(placement);
}

// ---- Stages

// The device's experts for such a call.
static uint64_t experts_for(const struct placement *placement, const struct layer *layer, int rows) {
    bool used = placement->used[phase_of(placement->kind, rows)];
    return used ? placement->experts[layer - placement->options.layers] : 0;
}

static void inner_rows_are(const struct placement *placement, enum row_kind kind) {
    if (placement->inner->rows_are) placement->inner->rows_are(placement->state, kind);
}

// A device that has failed, and whose pause is over, is tried as at the start.
static void retry(struct placement *placement) {
    struct engine_placement found = {0};
    struct error error;
    inner_rows_are(placement, ROWS_BY_NUMBER);
    int code = open_device(placement, &found, &error);
    inner_rows_are(placement, placement->kind);
    if (code) {
        fail(placement, &error);
        return;
    }
    placement->retry_at = 0;
    placement->degraded[0] = 0;
    warn(placement, "the experts run on OpenCL again: %s", opencl_describe(placement->opencl));
}

static void rows_are(void *state, enum row_kind kind) {
    struct placement *placement = state;
    placement->kind = kind;
    inner_rows_are(placement, kind);
}

static void mixture_begin(void *state, int slot, const struct layer *layer, const float *x, int rows) {
    struct placement *placement = state;
    struct mixture *mixture = &placement->mixture[slot];
    *mixture = (struct mixture){.layer = layer, .x = x, .rows = rows, .kind = placement->kind};
    uint64_t experts = experts_for(placement, layer, rows);
    if (!experts) return;
    if (!placement->opencl && placement->retry_at > 0 && clock_seconds() >= placement->retry_at) retry(placement);
    if (!placement->opencl) return;
    struct error error;
    int code;
    mixture->on_device = true;
    if (experts == placement_all_experts(layer->router.experts)) {
        code = opencl_begin(placement->opencl, slot, layer, x, rows, placement->kind, &error);
    } else {
        struct routing *routing = placement_share_routing(placement->share, slot);
        mixture->shared = experts;
        placement->inner->route(placement->state, &layer->router, x, rows, routing);
        const struct routing chosen = placement_share_only(placement->share, routing, experts);
        code = opencl_begin_chosen(placement->opencl, slot, layer, x, &chosen, placement->kind, &error);
    }
    if (code) fail(placement, &error);
}

// The CPU's experts while the device computes its own; and the device's, should it fail.
static void end_shared(struct placement *placement, int slot, float *y, struct routing *out) {
    const struct mixture *mixture = &placement->mixture[slot];
    const struct routing *routing = placement_share_routing(placement->share, slot);
    struct error error;
    placement_share_compute(placement->share, mixture->layer, routing, ~mixture->shared, mixture->x, y);
    int code = mixture->on_device ? opencl_end(placement->opencl, slot, y, NULL, &error) : 0;
    if (code) fail(placement, &error);
    if (!mixture->on_device)
        placement_share_compute(placement->share, mixture->layer, routing, mixture->shared, mixture->x, y);
    size_t pairs = (size_t)routing->rows * (size_t)routing->top_k;
    out->rows = routing->rows;
    out->top_k = routing->top_k;
    memcpy(out->expert, routing->expert, pairs * sizeof *out->expert);
    memcpy(out->weight, routing->weight, pairs * sizeof *out->weight);
}

static void mixture_end(void *state, int slot, float *y, struct routing *out) {
    struct placement *placement = state;
    const struct mixture *mixture = &placement->mixture[slot];
    struct error error;
    if (mixture->on_device && !mixture->shared) {
        if (opencl_end(placement->opencl, slot, y, out, &error) == 0) return;
        fail(placement, &error);
    }
    inner_rows_are(placement, mixture->kind);
    if (mixture->shared) {
        end_shared(placement, slot, y, out);
    } else {
        placement->inner->route(placement->state, &mixture->layer->router, mixture->x, mixture->rows, out);
        placement->inner->experts(placement->state, mixture->layer, out, mixture->x, y, mixture->rows);
    }
    inner_rows_are(placement, placement->kind);
}

// Halves that are not too small: those would read the experts' weights twice for little work.
static int parts(const void *state, int rows) {
    const struct placement *placement = state;
    return placement->opencl && placement->used[PLACEMENT_PREFILL] && rows / 2 > STAGE_STEADY_ROWS ? 2 : 1;
}

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    const struct placement *placement = state;
    placement->inner->embed(placement->state, table, token, rows, x);
}

static void norm(void *state, const struct norm *norm, const float *x, float *y, int rows) {
    const struct placement *placement = state;
    placement->inner->norm(placement->state, norm, x, y, rows);
}

static void linear(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    const struct placement *placement = state;
    placement->inner->linear(placement->state, linear, x, y, rows, accumulate);
}

static void linears(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows) {
    const struct placement *placement = state;
    placement->inner->linears(placement->state, linears, count, x, y, rows);
}

static void attention(void *state, const struct attention *attention, const struct batch *batch,
                      const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out) {
    const struct placement *placement = state;
    placement->inner->attention(placement->state, attention, batch, cache, layer, q, k, v, out);
}

static void measure_limits(void *state, enum weight_format weights, const void *memory, size_t bytes,
                           struct engine_limits *out) {
    const struct placement *placement = state;
    placement->inner->measure(placement->state, weights, memory, bytes, out);
}

static const char *describe(const void *state) {
    return ((const struct placement *)state)->description;
}

static const struct stages split_stages = {
    .name = "split",
    .describe = describe,
    .measure = measure_limits,
    .rows_are = rows_are,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .linears = linears,
    .attention = attention,
    .mixture_begin = mixture_begin,
    .mixture_end = mixture_end,
    .parts = parts,
};

// ---- Opening and closing

static int open_state(struct placement *placement, struct error *error) {
    const struct placement_options *options = &placement->options;
    placement->experts = calloc((size_t)options->layer_count + 1, sizeof *placement->experts);
    if (options->kernels) placement->kernels = strdup(options->kernels);
    if (!placement->experts || (options->kernels && !placement->kernels))
        return error_set(error, ERROR_MEMORY, "out of memory for the placement");
    placement->options.kernels = placement->kernels;
    int experts = placement->limits.experts;
    int code = placement_read_experts(options->experts_layers, options->experts_opencl, options->layer_count, experts,
                                      placement->experts, error);
    if (!code) code = placement->inner->open(&placement->state, &placement->limits, error);
    if (!code && options->experts_opencl)
        code = placement_share_create(&placement->share, placement->inner, placement->state, &placement->limits, error);
    return code;
}

int placement_open(struct placement **out, const struct placement_options *options, const struct stage_limits *limits,
                   struct error *error) {
    struct placement *placement = calloc(1, sizeof *placement);
    if (!placement) return error_set(error, ERROR_MEMORY, "out of memory for the placement");
    placement->inner = options->inner;
    placement->options = *options;
    placement->limits = *limits;
    placement->pause_seconds = first_pause(placement);
    int code = open_state(placement, error);
    if (code) {
        placement_close(placement);
        return code;
    }
    plan(placement);
    placement->found.device = placement->device;
    placement->found.why = placement->why;
    *out = placement;
    return 0;
}

void placement_close(struct placement *placement) {
    if (!placement) return;
    opencl_close(placement->opencl);
    placement->inner->close(placement->state);
    placement_share_destroy(placement->share);
    free(placement->experts);
    free(placement->kernels);
    free(placement);
}

const struct engine_placement *placement_found(const struct placement *placement) {
    return &placement->found;
}

static bool is_split(const struct placement *placement) {
    return placement->opencl || placement->retry_at > 0;
}

const struct stages *placement_stages(const struct placement *placement) {
    return is_split(placement) ? &split_stages : placement->inner;
}

void *placement_state(struct placement *placement) {
    return is_split(placement) ? placement : placement->state;
}

const char *placement_describe(const struct placement *placement) {
    return placement->description;
}

const char *placement_degraded(const struct placement *placement) {
    return placement->degraded;
}
