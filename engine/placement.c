#include "engine/placement_private.h"

#include "base/buffer.h"
#include "base/build_id.h"
#include "base/clock.h"
#include "engine/opencl/opencl.h"
#include "engine/placement_cache.h"
#include "engine/placement_cost.h"

#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double RETRY_SECONDS = 10, RETRY_SECONDS_MAX = 600; // each pause is twice the last one

bool placement_parse(const char *name, enum placement_way *out) {
    PLACEMENTS(NAMED_MATCH)
    return false;
}

bool bus_share_parse(const char *name, enum bus_share *out) {
    BUS_SHARES(NAMED_MATCH)
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

void placement_fail(struct placement *placement, const struct error *error) {
    double now = clock_seconds();
    bool was_well = placement->opencl && placement->worked;
    opencl_close(placement->opencl);
    placement->opencl = NULL;
    for (int i = 0; i < STAGE_SLOTS; i++) placement->mixture[i].on_device = false;
    placement->at_work_count = 0;
    bandwidth_end_all(&placement->bus);
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

static bool knows_device(const struct engine_placement *found) {
    return found->point_count > 0 && found->points[0].device_seconds > 0;
}

static void add_span(void *user, const char *name, int rows, double began_at, double ended_at) {
    trace_span(user, TRACE_OPENCL, name, rows, began_at, ended_at);
}

static void route_here(void *user, const struct router *router, const float *x, int rows, struct routing *routing) {
    const struct placement *placement = user;
    placement->inner->route(placement->state, router, x, rows, routing);
}

// All that the figures depend on, the kernels of both devices too, which are in the program.
static void describe_figures(const struct placement *placement, char *out, size_t bytes) {
    const struct placement_options *options = &placement->options;
    const struct stage_limits *limits = &placement->limits;
    char device[512], build[BUILD_ID_BYTES];
    opencl_identify(placement->opencl, device, sizeof device);
    build_id(build);
    snprintf(out, bytes,
             "tandem %s %s; %s; %s; %s; %d layers of %d, %d heads of %d, %d of keys, %d experts of %d, %d words%s; "
             "%d rows",
             TANDEM_VERSION, build, device, placement->inner->describe(placement->state),
             weight_format_name(options->weights), options->layer_count, limits->hidden, limits->heads,
             limits->head_dim, limits->kv_heads, limits->experts, limits->intermediate, limits->vocab,
             options->head ? "" : " apart", limits->tokens_max);
}

// How fast the devices are goes to `found`, unless it has the figures already. Those of an earlier start are believed,
// too, but not that the device still computes rightly.
static int try_devices(const struct placement *placement, struct engine_placement *found, struct error *error) {
    const struct placement_options *options = &placement->options;
    const struct placement_devices devices = {.inner = placement->inner,
                                              .state = placement->state,
                                              .opencl = placement->opencl,
                                              .layers = options->layers,
                                              .layer_count = options->layer_count,
                                              .head = options->head,
                                              .rows_max = placement->limits.tokens_max};
    const struct placement_part part = {
        .layers = options->layer_count, .experts = placement->limits.experts, .of_layer = placement->experts};
    bool known = knows_device(found), keeps = !known && placement->opencl && placement->cache;
    char key[1024];
    if (keeps) {
        describe_figures(placement, key, sizeof key);
        known = placement_cache_read(placement->cache, key, time(NULL), found);
    }
    int code = known ? placement_check(&devices, found, error) : placement_measure(&devices, found, error);
    if (code) return code;
    found->same_bits = found->same_bits && opencl_has_cpus_bits(placement->opencl);
    if (keeps && !known && !found->contradictory) placement_cache_write(placement->cache, key, time(NULL), found);
    placement_conclude(found, &part, options->halves_from);
    return 0;
}

static void share_bus(struct placement *placement, const struct engine_placement *found) {
    const struct placement_options *options = &placement->options;
    bool shared = options->bus_share == BUS_SHARE_ON ||
                  (options->bus_share == BUS_SHARE_AUTO && opencl_shares_memory(placement->opencl));
    bandwidth_init(&placement->bus, !shared                ? 0
                                    : options->bus_bytes > 0 ? options->bus_bytes
                                                             : found->read_bytes);
}

// Those that the device has experts of, and the first, which it is tried with.
static int count_layers(const struct placement *placement) {
    int count = 1;
    for (int l = 1; l < placement->options.layer_count; l++) count += placement->experts[l] != 0;
    return count;
}

// Leaves the device open where that failed half-way, for placement_fail() to close.
static int open_device(struct placement *placement, struct engine_placement *found, struct error *error) {
    const struct placement_options *options = &placement->options;
    bool any = options->way == PLACEMENT_SPLIT || options->experts[PLACEMENT_DECODE] == EXPERTS_OPENCL ||
               options->experts[PLACEMENT_PREFILL] == EXPERTS_OPENCL || options->explain;
    const struct opencl_options wanted = {.limits = &placement->limits,
                                          .weights = options->weights,
                                          .kernels = options->kernels,
                                          .products = options->products,
                                          .where = options->where,
                                          .layers = count_layers(placement),
                                          .route = route_here,
                                          .route_user = placement,
                                          .gpu_only = !any,
                                          .wait_seconds = options->wait_seconds,
                                          .warn = options->warn,
                                          .warn_user = options->warn_user,
                                          .span = options->trace ? add_span : NULL,
                                          .span_user = options->trace};
    int code = opencl_open(&placement->opencl, &wanted, error);
    if (!code) code = try_devices(placement, found, error);
    if (code) return code;
    placement->worked = true;
    placement->well_since = clock_seconds();
    share_bus(placement, found);
    return 0;
}

// ---- Planning

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

// "0.034", "1.2", "400"
static void write_milliseconds(struct buffer *text, double seconds) {
    double milliseconds = seconds * 1e3;
    buffer_format(text, milliseconds < 9.95 ? "%.2g" : "%.0f", milliseconds);
}

// "…; experts in decode on OpenCL: DEVICE; ms for a layer's, there/on the CPU: 1.2/0.8 for 1 row, 2.3/2.0 for 8, …"
static void describe_split(struct placement *placement) {
    static const char *const WHAT[1 << PLACEMENT_PHASES] = {"nothing", "experts in decode", "experts in prefill",
                                                            "experts"};
    const int *from = placement->from;
    const struct engine_placement *found = &placement->found;
    struct buffer text;
    buffer_init(&text, sizeof placement->description);
    buffer_format(&text, "%.300s; %s%s on OpenCL", placement->inner->describe(placement->state),
                  placement->share ? "some " : "",
                  WHAT[(from[PLACEMENT_DECODE] ? 1 : 0) + (from[PLACEMENT_PREFILL] ? 2 : 0)]);
    if (from[PLACEMENT_DECODE] > 1) buffer_format(&text, ", answers from %d at once on", from[PLACEMENT_DECODE]);
    buffer_format(&text, ": %s", placement->device);
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        buffer_text(&text, i ? ", " : "; ms for a layer's, there/on the CPU: ");
        write_milliseconds(&text, point->device_seconds);
        buffer_text(&text, "/");
        write_milliseconds(&text, point->cpu_seconds);
        buffer_format(&text, " for %d%s", point->rows, i ? "" : point->rows > 1 ? " rows" : " row");
    }
    if (found->contradictory) buffer_text(&text, "; these figures contradict each other, and are not kept");
    snprintf(placement->description, sizeof placement->description, "%s", text.data ? text.data : "");
    buffer_finish(&text);
}

enum placement_phase placement_phase_of(enum row_kind kind, int rows) {
    if (kind == ROWS_BY_NUMBER) return rows <= STAGE_STEADY_ROWS ? PLACEMENT_DECODE : PLACEMENT_PREFILL;
    return kind == ROWS_OF_ANSWERS ? PLACEMENT_DECODE : PLACEMENT_PREFILL;
}

static enum placement_phase phase_of_point(const struct engine_placement_point *point) {
    return point->rows <= ENGINE_PLACEMENT_ANSWERS ? PLACEMENT_DECODE : PLACEMENT_PREFILL;
}

// From how many rows on the device has a phase's experts when both are well; 0: it has none.
static int decide(const struct placement *placement, enum placement_phase phase) {
    const struct placement_options *options = &placement->options;
    const bool answers = phase == PLACEMENT_DECODE, by_number = answers && placement->found.same_bits;
    const int least = by_number && options->decode_from > 1 ? options->decode_from : 1;
    const enum placement_experts way = options->way == PLACEMENT_AUTO    ? EXPERTS_AUTO
                                       : options->way == PLACEMENT_SPLIT ? EXPERTS_OPENCL
                                                                         : EXPERTS_CPU;
    const enum placement_experts who = options->experts[phase] == EXPERTS_AUTO ? way : options->experts[phase];
    if (who != EXPERTS_AUTO) return who == EXPERTS_OPENCL ? least : 0;
    int from = placement_worth_from(&placement->found, answers, by_number);
    return from > 0 && from < least ? least : from;
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

// What follows from the figures, or from their absence. True: the device has something to do when it is well.
static bool decide_all(struct placement *placement) {
    struct engine_placement *found = &placement->found;
    for (int i = 0; i < PLACEMENT_PHASES; i++) placement->from[i] = decide(placement, (enum placement_phase)i);
    for (int i = 0; i < found->point_count; i++) {
        int from = placement->from[phase_of_point(&found->points[i])];
        found->points[i].on_device = from > 0 && found->points[i].rows >= from;
    }
    found->answers_from = placement->from[PLACEMENT_DECODE];
    placement->halves_from =
        placement->options.halves_from > 0 ? placement->options.halves_from : found->halves_from;
    return placement->from[PLACEMENT_DECODE] || placement->from[PLACEMENT_PREFILL];
}

// What was asked for and can not be, so that an answer stays the same alone and in company.
static void warn_of_other_bits(const struct placement *placement) {
    if (placement->options.decode_from > 1 && placement->from[PLACEMENT_DECODE] > 0 && !placement->found.same_bits)
        warn(placement, "OpenCL has all answers or none, not those of %d at once and more alone: its bits are not the "
             "CPU's in %s with these kernels", placement->options.decode_from,
             weight_format_name(placement->options.weights));
}

static void plan(struct placement *placement) {
    struct error error, other;
    describe_cpu(placement, "");
    if (!wants_device(placement)) return;
    int code = open_device(placement, &placement->found, &error);
    if (placement->opencl) {
        snprintf(placement->device, sizeof placement->device, "%s", opencl_describe(placement->opencl));
        describe_figures(placement, placement->key, sizeof placement->key);
    }
    if (code) {
        placement->found = (struct engine_placement){0};
        describe_cpu(placement, error.message);
    }
    bool used = decide_all(placement);
    if (code && (is_asked_for(placement) || error.code != ERROR_UNSUPPORTED))
        placement_fail(placement, &error);
    else if (code || !used)
        drop_device(placement);
    if (code && placement->options.explain && try_devices(placement, &placement->found, &other))
        placement->found = (struct engine_placement){0};
    if (code) return;
    warn_of_other_bits(placement);
    describe_split(placement);
}

// Where the first start failed, only now it is known what the device is worth: it may be less than the CPU.
bool placement_retry_due(const struct placement *placement) {
    return placement->retry_at > 0 && clock_seconds() >= placement->retry_at;
}

void placement_retry(struct placement *placement) {
    struct engine_placement found = placement->found;
    struct error error;
    int code = open_device(placement, &found, &error);
    if (code) {
        placement_fail(placement, &error);
        return;
    }
    if (!knows_device(&placement->found)) placement->found = found;
    placement->found.same_bits = found.same_bits; // the driver may be another by now
    bool used = decide_all(placement);
    placement->retry_at = 0;
    placement->degraded[0] = 0;
    if (used) {
        warn(placement, "the experts run on OpenCL now: %s", opencl_describe(placement->opencl));
    } else {
        warn(placement, "OpenCL works again, but the CPU is faster and keeps the experts: %s",
             opencl_describe(placement->opencl));
        drop_device(placement);
    }
    warn_of_other_bits(placement);
}

// ---- Opening and closing

static int open_state(struct placement *placement, struct error *error) {
    const struct placement_options *options = &placement->options;
    placement->experts = calloc((size_t)options->layer_count + 1, sizeof *placement->experts);
    if (options->kernels) placement->kernels = strdup(options->kernels);
    bool keeps = options->cache && !options->kernels; // files of kernels may be others by then
    if (keeps) placement->cache = strdup(options->cache);
    if (!placement->experts || (options->kernels && !placement->kernels) || (keeps && !placement->cache))
        return error_set(error, ERROR_MEMORY, "out of memory for the placement");
    placement->options.kernels = placement->kernels;
    placement->options.cache = placement->cache;
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
    placement->found.key = placement->key;
    *out = placement;
    return 0;
}

void placement_close(struct placement *placement) {
    if (!placement) return;
    opencl_close(placement->opencl);
    placement->inner->close(placement->state);
    placement_share_destroy(placement->share);
    free(placement->experts);
    free(placement->cache);
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
    return is_split(placement) ? &placement_split_stages : placement->inner;
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
