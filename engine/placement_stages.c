// The stages of both devices: the experts are begun on the device, all else is the CPU's. Where the device and the CPU
// share the memory bus, the CPU asks before it reads much.
#include "engine/placement_private.h"

#include "base/clock.h"
#include "engine/placement_cost.h"
#include "engine/quants/packed.h"
#include "engine/stage_bytes.h"

#include <sched.h>
#include <string.h>
#include <time.h>

static const double SPIN_SECONDS = 100e-6;
static const long NAP_NANOSECONDS = 50000;

static void inner_rows_are(const struct placement *placement, enum row_kind kind) {
    if (placement->inner->rows_are) placement->inner->rows_are(placement->state, kind);
}

// The CPU has all but the experts of those.
static bool unpacks(const void *state, enum weight_format weights) {
    const struct placement *placement = state;
    return placement->inner->unpacks && placement->inner->unpacks(placement->state, weights);
}

static void rows_are(void *state, enum row_kind kind) {
    struct placement *placement = state;
    placement->kind = kind;
    inner_rows_are(placement, kind);
}

// ---- The bus

// A device that is longer at its experts of a layer than the CPU is at all else has its share of the bus first. Where
// the CPU is the longer one, waiting would only make it longer.
static void note_begin(struct placement *placement, int slot) {
    const struct mixture *mixture = &placement->mixture[slot];
    const struct layer *layer = mixture->layer;
    bool answers = placement_phase_of(mixture->kind, mixture->rows) == PLACEMENT_DECODE;
    const struct placement_costs costs = placement_costs_at(&placement->found, answers, mixture->rows);
    double chosen = stage_experts_chosen(&layer->router, mixture->rows), share = 1;
    if (mixture->shared) {
        const struct routing *routing = placement_share_routing(placement->share, slot);
        chosen = placement_share_chosen(routing, mixture->shared);
        share = chosen / placement_share_chosen(routing, UINT64_MAX);
    }
    double device = share * costs.device, cpu = costs.rest + (1 - share) * costs.cpu;
    double bytes = device > cpu ? chosen * stage_bytes_expert(&layer->experts[0]) : 0;
    placement->at_work[placement->at_work_count++] = slot;
    placement->work.mixtures++;
    if (mixture->kind == ROWS_OF_ANSWERS && slot == 1) placement->work.halves += 2; // answers come first
    bandwidth_begin(&placement->bus, clock_seconds(), bytes, device);
}

// The mixture that began first is done, or has failed.
static void note_end(struct placement *placement) {
    placement->at_work_count--;
    memmove(placement->at_work, placement->at_work + 1, (size_t)placement->at_work_count * sizeof *placement->at_work);
    bandwidth_end(&placement->bus, clock_seconds());
}

static bool is_at_work(struct placement *placement) {
    while (placement->at_work_count > 0 && opencl_is_done(placement->opencl, placement->at_work[0]))
        note_end(placement);
    return placement->at_work_count > 0;
}

// Until the device has had its share of the bus, or has nothing more to do.
static void hold(struct placement *placement, double bytes) {
    double began_at = clock_seconds(), now = began_at, wait = bandwidth_ask(&placement->bus, began_at, bytes);
    if (wait <= 0) return;
    while (now - began_at < wait && is_at_work(placement)) {
        if (now - began_at < SPIN_SECONDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP_NANOSECONDS}, NULL);
        now = clock_seconds();
    }
    placement->work.holds++;
    placement->work.held_seconds += now - began_at;
    trace_span(placement->options.trace, TRACE_CPU, "waiting for the bus", 0, began_at, now);
}

// Around a stage of the CPU's, which reads so many bytes. 0: it has the machine for itself.
static double enter(struct placement *placement, double bytes) {
    if (!is_at_work(placement)) return 0;
    hold(placement, bytes);
    return is_at_work(placement) ? clock_seconds() : 0;
}

static void leave(struct placement *placement, double entered_at) {
    if (entered_at > 0) placement->work.beside_seconds += clock_seconds() - entered_at;
}

// ---- Mixtures

// Whether so many rows at once are the device's, when it is well.
static bool is_devices(const struct placement *placement, enum row_kind kind, int rows) {
    int from = placement->from[placement_phase_of(kind, rows)];
    return from > 0 && rows >= from;
}

static void mixture_begin(void *state, int slot, const struct layer *layer, const float *x, int rows, int whole) {
    struct placement *placement = state;
    struct mixture *mixture = &placement->mixture[slot];
    *mixture = (struct mixture){.layer = layer, .x = x, .rows = rows, .kind = placement->kind};
    bool devices = is_devices(placement, placement->kind, whole);
    uint64_t experts = devices ? placement->experts[layer - placement->options.layers] : 0;
    mixture->wanted = experts != 0;
    if (!experts || !placement->opencl) return;
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
    if (code)
        placement_fail(placement, &error);
    else
        note_begin(placement, slot);
}

// Has the device's rows of a slot, which is the one that began first. False: they are the CPU's to compute.
static bool take_back(struct placement *placement, int slot, float *y, struct routing *out) {
    struct error error;
    if (!placement->mixture[slot].on_device) return false;
    double began_at = clock_seconds();
    int code = opencl_end(placement->opencl, slot, y, out, &error);
    if (code) {
        placement_fail(placement, &error);
        return false;
    }
    placement->work.waits++;
    placement->work.wait_seconds += clock_seconds() - began_at;
    if (placement->at_work_count > 0 && placement->at_work[0] == slot) note_end(placement);
    return true;
}

// Where the device has a mixture, the CPU's part of it has the same bits. In int8 and int4 they multiply the same
// integers, as the CPU always does for answers, but not for prompts if it has AMX.
static void same_arithmetic(const struct placement *placement, const struct mixture *mixture) {
    if (mixture->wanted && weight_format_packed(placement->options.weights)) inner_rows_are(placement, ROWS_OF_ANSWERS);
}

// The CPU's experts while the device computes its own; and the device's, should it fail. All are added up before they
// are added to y, as where one device has computed both of a row.
static void end_shared(struct placement *placement, int slot, float *y, struct routing *out) {
    const struct mixture *mixture = &placement->mixture[slot];
    const struct routing *routing = placement_share_routing(placement->share, slot);
    double bytes = placement_share_chosen(routing, ~mixture->shared) * stage_bytes_expert(&mixture->layer->experts[0]);
    float *sum = placement_share_sum(placement->share, mixture->rows);
    double entered_at = enter(placement, bytes);
    same_arithmetic(placement, mixture);
    placement_share_compute(placement->share, mixture->layer, routing, ~mixture->shared, mixture->x, sum);
    leave(placement, entered_at);
    if (!take_back(placement, slot, sum, NULL))
        placement_share_compute(placement->share, mixture->layer, routing, mixture->shared, mixture->x, sum);
    size_t count = (size_t)mixture->rows * (size_t)mixture->layer->router.hidden;
    for (size_t i = 0; i < count; i++) y[i] += sum[i];
    size_t pairs = (size_t)routing->rows * (size_t)routing->top_k;
    out->rows = routing->rows;
    out->top_k = routing->top_k;
    memcpy(out->expert, routing->expert, pairs * sizeof *out->expert);
    memcpy(out->weight, routing->weight, pairs * sizeof *out->weight);
}

static void mixture_end(void *state, int slot, float *y, struct routing *out) {
    struct placement *placement = state;
    const struct mixture *mixture = &placement->mixture[slot];
    if (!mixture->shared && take_back(placement, slot, y, out)) return;
    inner_rows_are(placement, mixture->kind);
    if (mixture->shared) {
        end_shared(placement, slot, y, out);
    } else {
        placement->inner->route(placement->state, &mixture->layer->router, mixture->x, mixture->rows, out);
        same_arithmetic(placement, mixture);
        placement->inner->experts(placement->state, mixture->layer, out, mixture->x, y, mixture->rows);
    }
    inner_rows_are(placement, placement->kind);
}

_Static_assert(ENGINE_PLACEMENT_HALVES / 2 > (int)STAGE_STEADY_ROWS, "a half of a prompt has work enough");

// Halves read all weights twice. Of a prompt's rows they have work enough, unless they are small; of answers it depends
// on what the devices were measured to take.
static int parts(const void *state, enum row_kind kind, int rows) {
    const struct placement *placement = state;
    if (!placement->opencl || !is_devices(placement, kind, rows)) return 1;
    if (kind != ROWS_OF_ANSWERS) return rows >= ENGINE_PLACEMENT_HALVES ? 2 : 1;
    return placement->halves_from > 0 && rows >= placement->halves_from && rows > 1 ? 2 : 1;
}

static void device_work(const void *state, struct engine_device_work *out) {
    *out = ((const struct placement *)state)->work;
}

// ---- All else

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    const struct placement *placement = state;
    placement->inner->embed(placement->state, table, token, rows, x);
}

static void norm(void *state, const struct norm *norm, const float *x, float *y, int rows) {
    const struct placement *placement = state;
    placement->inner->norm(placement->state, norm, x, y, rows);
}

static void linear(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    struct placement *placement = state;
    double entered_at = enter(placement, stage_bytes_matrix(&linear->weight));
    placement->inner->linear(placement->state, linear, x, y, rows, accumulate);
    leave(placement, entered_at);
}

static void linears(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows) {
    struct placement *placement = state;
    double bytes = 0;
    for (int i = 0; i < count; i++) bytes += stage_bytes_matrix(&linears[i]->weight);
    double entered_at = enter(placement, bytes);
    placement->inner->linears(placement->state, linears, count, x, y, rows);
    leave(placement, entered_at);
}

static void attention(void *state, const struct attention *attention, const struct batch *batch,
                      const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out) {
    struct placement *placement = state;
    double entered_at =
        enter(placement, stage_bytes_keys(attention, cache, stage_keys(attention, batch).read));
    placement->inner->attention(placement->state, attention, batch, cache, layer, q, k, v, out);
    leave(placement, entered_at);
}

static void measure_limits(void *state, enum weight_format weights, const void *memory, size_t bytes,
                           struct engine_limits *out) {
    const struct placement *placement = state;
    if (placement->inner->measure) placement->inner->measure(placement->state, weights, memory, bytes, out);
}

static bool pin(void *state, bool pinned) {
    const struct placement *placement = state;
    return placement->inner->pin && placement->inner->pin(placement->state, pinned);
}

static const char *describe(const void *state) {
    return ((const struct placement *)state)->description;
}

const struct stages placement_split_stages = {
    .name = "split",
    .describe = describe,
    .measure = measure_limits,
    .pin = pin,
    .rows_are = rows_are,
    .unpacks = unpacks,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .linears = linears,
    .attention = attention,
    .mixture_begin = mixture_begin,
    .mixture_end = mixture_end,
    .parts = parts,
    .device_work = device_work,
};
