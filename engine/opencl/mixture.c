// Running a device: five kernels a call, two more where rows are quantized; one queue, one wait.
//
// A slot's buffers are mapped, the host's, while it is free. opencl_begin copies x in and hands them over; the last
// commands of its call map them again, so that no call ever waits for another one's, and the host waits in opencl_end
// alone.
#include "engine/opencl/mixture.h"

#include "base/checked.h"
#include "base/clock.h"
#include "engine/quants/packed.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double WAIT_SECONDS = 60, SPIN_SECONDS = 100e-6;
static const long NAP_NANOSECONDS = 50000;

// ---- Memory

cl_mem opencl_buffer(struct opencl *opencl, cl_mem_flags flags, size_t bytes, void *host, const char *what,
                     struct error *error) {
    if (bytes > opencl->device.alloc_bytes_max) {
        error_set(error, ERROR_MEMORY, "%s: %zu bytes at once, and the device gives %zu", what, bytes,
                  opencl->device.alloc_bytes_max);
        return NULL;
    }
    cl_int rc;
    cl_mem buffer = CL_MAKE(opencl->api, CreateBuffer, &rc, opencl->context, flags, bytes, host);
    if (!buffer) opencl_error(error, rc, what);
    return buffer;
}

static bool take(struct opencl *opencl, cl_mem *out, size_t rows, size_t columns, struct error *error) {
    size_t bytes;
    if (!checked_mul(rows, columns, &bytes) || !checked_mul(bytes, 4, &bytes)) { // ints or floats
        error_set(error, ERROR_MEMORY, "buffers of %zu by %zu are too large", rows, columns);
        return false;
    }
    *out = opencl_buffer(opencl, CL_MEM_READ_WRITE, bytes, NULL, "a buffer", error);
    return *out != NULL;
}

static bool map(struct opencl *opencl, struct opencl_shared *shared, cl_map_flags flags, cl_bool wait, cl_event *done,
                struct error *error) {
    cl_int rc;
    shared->host = CL_MAKE(opencl->api, EnqueueMapBuffer, &rc, opencl->queue, shared->buffer, wait, flags, 0,
                           shared->bytes, 0, NULL, done);
    return shared->host || opencl_error(error, rc, "mapping a buffer") == 0;
}

static bool hand_over(struct opencl *opencl, struct opencl_shared *shared, struct error *error) {
    cl_int rc = CL_CALL(opencl->api, EnqueueUnmapMemObject, opencl->queue, shared->buffer, shared->host, 0, NULL, NULL);
    if (rc) return opencl_error(error, rc, "handing a buffer over") == 0;
    shared->host = NULL;
    return true;
}

static bool take_shared(struct opencl *opencl, struct opencl_shared *out, size_t rows, size_t columns,
                        struct error *error) {
    if (!checked_mul(rows, columns, &out->bytes) || !checked_mul(out->bytes, 4, &out->bytes)) {
        error_set(error, ERROR_MEMORY, "buffers of %zu by %zu are too large", rows, columns);
        return false;
    }
    out->buffer =
        opencl_buffer(opencl, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, out->bytes, NULL, "a shared buffer", error);
    return out->buffer && map(opencl, out, CL_MAP_READ | CL_MAP_WRITE, CL_TRUE, NULL, error);
}

static int tiles_max(const struct opencl *opencl, int slots, int tile_rows) {
    int most = slots / tile_rows + opencl->limits.experts;
    return most < slots ? most : slots;
}

// Of a row in int8: its blocks, and the room of one more for its outliers.
static size_t quantized_bytes(int columns) {
    return (packed_blocks(columns) + 1) * OPENCL_X_BYTES;
}

static bool take_buffers(struct opencl *opencl, struct error *error) {
    size_t rows = (size_t)opencl->limits.tokens_max, slots = rows * ROUTE_TOP_K_MAX;
    size_t hidden = (size_t)opencl->limits.hidden, inner = (size_t)opencl->limits.intermediate;
    size_t tiles = (size_t)tiles_max(opencl, (int)slots, OPENCL_FEW_ROWS);
    for (int i = 0; i < STAGE_SLOTS; i++) {
        struct opencl_slot *slot = &opencl->slots[i];
        if (!take_shared(opencl, &slot->x, rows, hidden, error) ||
            !take_shared(opencl, &slot->out, rows, hidden, error) ||
            !take_shared(opencl, &slot->expert, slots, 1, error) ||
            !take_shared(opencl, &slot->weight, slots, 1, error))
            return false;
    }
    if (opencl_uses_dot(opencl->device.level, opencl->weights) &&
        (!take(opencl, &opencl->quantized_x, rows, quantized_bytes(opencl->limits.hidden) / 4, error) ||
         !take(opencl, &opencl->quantized_gated, slots, quantized_bytes(opencl->limits.intermediate) / 4, error)))
        return false;
    return take(opencl, &opencl->slot_at, slots, 1, error) && take(opencl, &opencl->place_of, slots, 1, error) &&
           take(opencl, &opencl->tiles, 1 + 3 * tiles, 1, error) && take(opencl, &opencl->gated, slots, inner, error) &&
           take(opencl, &opencl->mixed, slots, hidden, error);
}

// ---- Opening and closing

static void release(const struct opencl *opencl, cl_mem buffer) {
    if (buffer) opencl->api->ReleaseMemObject(buffer);
}

static void forget_spans(struct opencl *opencl, struct opencl_slot *slot) {
    for (int i = 0; i < slot->span_count; i++) opencl->api->ReleaseEvent(slot->spans[i].event);
    slot->span_count = 0;
}

void opencl_close(struct opencl *opencl) {
    if (!opencl) return;
    if (opencl->lost) { // it may still write to all of it, and whoever gives it back might wait for ever
        opencl_layers_finish(opencl);
        free(opencl);
        return;
    }
    if (opencl->queue) opencl->api->Finish(opencl->queue);
    opencl_gemm_close(opencl);
    opencl_layers_finish(opencl);
    release(opencl, opencl->mixed);
    release(opencl, opencl->quantized_gated);
    release(opencl, opencl->quantized_x);
    release(opencl, opencl->gated);
    release(opencl, opencl->tiles);
    release(opencl, opencl->place_of);
    release(opencl, opencl->slot_at);
    for (int i = 0; i < STAGE_SLOTS; i++) {
        struct opencl_slot *slot = &opencl->slots[i];
        if (slot->done) opencl->api->ReleaseEvent(slot->done);
        forget_spans(opencl, slot);
        free(slot->sorted);
        free(slot->sorted_weight);
        struct opencl_shared *shared[] = {&slot->x, &slot->out, &slot->expert, &slot->weight};
        for (size_t s = 0; s < sizeof shared / sizeof *shared; s++) {
            if (shared[s]->host)
                opencl->api->EnqueueUnmapMemObject(opencl->queue, shared[s]->buffer, shared[s]->host, 0, NULL, NULL);
            release(opencl, shared[s]->buffer);
        }
    }
    opencl_program_finish(opencl->api, &opencl->program);
    if (opencl->queue) opencl->api->ReleaseCommandQueue(opencl->queue);
    if (opencl->context) opencl->api->ReleaseContext(opencl->context);
    free(opencl);
}

static int open_queue(struct opencl *opencl, struct error *error) {
    cl_int rc;
    opencl->context = CL_MAKE(opencl->api, CreateContext, &rc, NULL, 1, &opencl->device.id, NULL, NULL);
    if (!opencl->context) return opencl_error(error, rc, "a context");
    opencl->queue = CL_MAKE(opencl->api, CreateCommandQueue, &rc, opencl->context, opencl->device.id,
                            opencl->span ? CL_QUEUE_PROFILING_ENABLE : 0);
    return opencl->queue ? 0 : opencl_error(error, rc, "a queue");
}

static int check_shapes(const struct stage_limits *limits, struct error *error) {
    if (limits->experts <= OPENCL_EXPERTS_MAX) return 0;
    return error_set(error, ERROR_UNSUPPORTED, "a layer has %d experts; the OpenCL kernels take up to %d",
                     limits->experts, OPENCL_EXPERTS_MAX);
}

static int build_kernels(struct opencl *opencl, struct error *error) {
    const struct opencl_build wanted = {.weights = opencl->weights,
                                        .half_weights = opencl->half_weights,
                                        .half = opencl->gemm.on && opencl->gemm.library.half,
                                        .directory = opencl->kernels};
    return opencl_program_build(opencl->api, opencl->context, &opencl->device, &wanted, &opencl->program, error);
}

static void describe(struct opencl *opencl) {
    const struct opencl_device *device = &opencl->device;
    const struct opencl_gemm *gemm = &opencl->gemm;
    const char *library = !gemm->on            ? ""
                          : gemm->library.half ? ", prompts by CLBlast in f16"
                                               : ", prompts by CLBlast in f32";
    snprintf(opencl->description, sizeof opencl->description, "%s (%s %s), %s kernels%s%s%s%s%s", device->name,
             device->platform, device->driver, device->level->name, opencl->kernels ? " of " : "",
             opencl->kernels ? opencl->kernels : "", library, gemm->why_not[0] ? ", without CLBlast: " : "",
             gemm->why_not);
}

// What it leaves half open is to be closed.
static int open_all(struct opencl *opencl, const struct opencl_options *options, struct error *error) {
    opencl->limits = *options->limits;
    opencl->weights = options->weights;
    opencl->half_weights = options->half_weights && options->weights == WEIGHTS_BF16;
    opencl->kernels = options->kernels;
    opencl->wait_seconds = options->wait_seconds > 0 ? options->wait_seconds : WAIT_SECONDS;
    opencl->span = options->span;
    opencl->span_user = options->span_user;
    opencl->warn = options->warn;
    opencl->warn_user = options->warn_user;
    const struct opencl_wanted wanted = {options->gpu_only, weight_format_packed(options->weights), options->level};
    int code = check_shapes(options->limits, error);
    if (!code) code = opencl_api_load(&opencl->api, error);
    if (!code) code = opencl_device_find(opencl->api, &wanted, &opencl->device, error);
    if (!code) code = open_queue(opencl, error);
    if (!code) opencl_gemm_open(opencl, options);
    if (!code) code = build_kernels(opencl, error);
    if (!code && !(take_buffers(opencl, error) && opencl_gemm_take_buffers(opencl, error))) code = (int)error->code;
    if (!code) code = opencl_gemm_choose(opencl, options, error);
    opencl->gemm.chosen = !code;
    return code;
}

// Where CLBlast fails or is slower, all is opened anew without it, so that nothing is left that was made for it.
int opencl_open(struct opencl **out, const struct opencl_options *options, struct error *error) {
    struct opencl_options wanted = *options;
    struct error cause;
    char why_not[ERROR_MESSAGE_BYTES] = "";
    if (!error) error = &cause;
    for (;;) {
        struct opencl *opencl = calloc(1, sizeof *opencl);
        if (!opencl) return error_set(error, ERROR_MEMORY, "out of memory for OpenCL");
        snprintf(opencl->gemm.why_not, sizeof opencl->gemm.why_not, "%s", why_not);
        int code = open_all(opencl, &wanted, error);
        if (!code) {
            describe(opencl);
            *out = opencl;
            return 0;
        }
        bool by_library = opencl->gemm.on && !opencl->lost;
        opencl_close(opencl);
        if (!by_library) return code;
        wanted.products = OPENCL_PRODUCTS_OWN;
        snprintf(why_not, sizeof why_not, "%s", error->message);
    }
}

const char *opencl_describe(const struct opencl *opencl) {
    return opencl->description;
}

struct opencl_counts opencl_counts(const struct opencl *opencl) {
    return opencl->counts;
}

// ---- Launching

bool opencl_launch(struct opencl *opencl, cl_command_queue queue, enum opencl_kernel which, int across, int down,
                   const struct opencl_argument *arguments, size_t count, cl_event after, cl_event *done,
                   struct error *error) {
    cl_kernel kernel = opencl->program.kernel[which];
    const char *name = OPENCL_KERNEL_NAMES[which];
    const size_t items[2] = {(size_t)across * OPENCL_GROUP, (size_t)down}, group[2] = {OPENCL_GROUP, 1};
    for (size_t i = 0; i < count; i++) {
        cl_int rc = CL_CALL(opencl->api, SetKernelArg, kernel, (cl_uint)i, arguments[i].bytes, arguments[i].value);
        if (rc) return opencl_error(error, rc, name) == 0;
    }
    cl_int rc = CL_CALL(opencl->api, EnqueueNDRangeKernel, queue, kernel, 2, NULL, items, group, after ? 1 : 0,
                        after ? &after : NULL, done);
    return rc == CL_SUCCESS || opencl_error(error, rc, name) == 0;
}

bool opencl_launch_of(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel which, int across, int down,
                      const struct opencl_argument *arguments, size_t count, struct error *error) {
    struct opencl_span *span = opencl->span ? &slot->spans[slot->span_count] : NULL;
    if (!opencl_launch(opencl, opencl->queue, which, across, down, arguments, count, NULL, span ? &span->event : NULL,
                       error))
        return false;
    if (!span) return true;
    span->name = OPENCL_KERNEL_NAMES[which];
    span->enqueued_at = clock_seconds();
    slot->span_count++;
    return true;
}

int opencl_few_outputs(enum weight_format weights) {
    return weight_format_packed(weights) ? OPENCL_FEW_OUTPUTS_PACKED : OPENCL_FEW_OUTPUTS;
}

int opencl_tile_outputs(const struct opencl_level *level, enum weight_format weights) {
    return level->sub_groups || opencl_uses_dot(level, weights) ? 16 : 32;
}

bool opencl_uses_dot(const struct opencl_level *level, enum weight_format weights) {
    return level->dot && weight_format_packed(weights);
}

static int groups_for(int count, int each) {
    return (count + each - 1) / each;
}

static bool launch_all(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                       struct error *error) {
    const struct layer *layer = on_device->layer;
    const cl_int hidden = layer->router.hidden, inner = layer->experts[0].gate.rows, experts = layer->router.experts;
    const cl_int top_k = layer->router.top_k, slots = slot->rows * top_k;
    const cl_float jitter = layer->router.jitter;
    const bool few = slot->few;
    const cl_int tile_rows = few ? OPENCL_FEW_ROWS : OPENCL_TILE_ROWS;
    const int outputs =
        few ? opencl_few_outputs(opencl->weights) : opencl_tile_outputs(opencl->device.level, opencl->weights);
    const bool dot = opencl_uses_dot(opencl->device.level, opencl->weights);
    const cl_mem x = dot ? opencl->quantized_x : slot->x.buffer, gated = dot ? opencl->quantized_gated : opencl->gated;
    const int tiles = tiles_max(opencl, slots, tile_rows);

#define ARGUMENT OPENCL_ARGUMENT
    const struct opencl_argument route[] = {
        ARGUMENT(on_device->router),   ARGUMENT(slot->x.buffer),      ARGUMENT(hidden), ARGUMENT(experts),
        ARGUMENT(top_k),               ARGUMENT(jitter),              ARGUMENT(slot->expert.buffer),
        ARGUMENT(slot->weight.buffer),
    };
    const struct opencl_argument lists[] = {
        ARGUMENT(slot->expert.buffer), ARGUMENT(slots),            ARGUMENT(experts),       ARGUMENT(tile_rows),
        ARGUMENT(opencl->slot_at),     ARGUMENT(opencl->place_of), ARGUMENT(opencl->tiles),
    };
    const struct opencl_argument quantize_x[] = {ARGUMENT(slot->x.buffer), ARGUMENT(hidden),
                                                 ARGUMENT(opencl->quantized_x)};
    const struct opencl_argument gate_up[] = {
        ARGUMENT(on_device->weights), ARGUMENT(on_device->start), ARGUMENT(opencl->tiles),
        ARGUMENT(opencl->slot_at),    ARGUMENT(x),                ARGUMENT(hidden),
        ARGUMENT(inner),              ARGUMENT(top_k),            ARGUMENT(opencl->gated),
    };
    const struct opencl_argument quantize_gated[] = {ARGUMENT(opencl->gated), ARGUMENT(inner),
                                                     ARGUMENT(opencl->quantized_gated)};
    const struct opencl_argument down[] = {
        ARGUMENT(on_device->weights), ARGUMENT(on_device->start), ARGUMENT(opencl->tiles), ARGUMENT(gated),
        ARGUMENT(hidden),             ARGUMENT(inner),            ARGUMENT(opencl->mixed),
    };
    const struct opencl_argument scatter[] = {
        ARGUMENT(opencl->mixed), ARGUMENT(opencl->place_of), ARGUMENT(slot->weight.buffer),
        ARGUMENT(hidden),        ARGUMENT(top_k),            ARGUMENT(slot->out.buffer),
    };
#undef ARGUMENT
#define LAUNCH(kernel, across, down, arguments) \
    opencl_launch_of(opencl, slot, kernel, across, down, arguments, OPENCL_COUNT(arguments), error)
    return (slot->chosen || LAUNCH(KERNEL_route, slot->rows, 1, route)) && LAUNCH(KERNEL_lists, 1, 1, lists) &&
           (!dot || LAUNCH(KERNEL_quantize, slot->rows, 1, quantize_x)) &&
           LAUNCH(few ? KERNEL_gate_up_few : KERNEL_gate_up_many, groups_for(inner, outputs), tiles, gate_up) &&
           (!dot || LAUNCH(KERNEL_quantize, slots, 1, quantize_gated)) &&
           LAUNCH(few ? KERNEL_down_few : KERNEL_down_many, groups_for(hidden, outputs), tiles, down) &&
           LAUNCH(KERNEL_scatter, groups_for(hidden, OPENCL_GROUP), slot->rows, scatter);
#undef LAUNCH
}

// ---- Telling when kernels ran

// A device has a clock of its own; what both clocks say of one moment, when a command was enqueued, ties them together,
// and that all has ended by now. What the device does not tell is left out.
static void tell_spans(struct opencl *opencl, struct opencl_slot *slot) {
    double now = clock_seconds();
    for (int i = 0; i < slot->span_count; i++) {
        const struct opencl_span *span = &slot->spans[i];
        static const cl_profiling_info MOMENTS[] = {CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_START,
                                                    CL_PROFILING_COMMAND_END};
        cl_ulong at[3] = {0};
        bool told = true;
        for (int m = 0; m < 3; m++)
            told &=
                opencl->api->GetEventProfilingInfo(span->event, MOMENTS[m], sizeof at[m], &at[m], NULL) == CL_SUCCESS;
        opencl->api->ReleaseEvent(span->event);
        if (!told) continue;
        double began_at = span->enqueued_at + (double)(at[1] - at[0]) * 1e-9;
        double ended_at = span->enqueued_at + (double)(at[2] - at[0]) * 1e-9,
               late = ended_at > now ? ended_at - now : 0;
        opencl->span(opencl->span_user, span->name, slot->rows, began_at - late, ended_at - late);
    }
    slot->span_count = 0;
}

// ---- A call

// A weight beyond f16 shows when its layer comes to the device: then all layers come anew, in bf16. What has been
// enqueued keeps what it reads.
static const struct opencl_layer *find_layer(struct opencl *opencl, const struct layer *layer, struct error *error) {
    const struct opencl_layer *found = opencl_layer_find(opencl, layer, error);
    if (found || !opencl->beyond_half) return found;
    opencl->beyond_half = opencl->half_weights = false;
    opencl_layers_finish(opencl);
    opencl_program_finish(opencl->api, &opencl->program);
    return build_kernels(opencl, error) == 0 ? opencl_layer_find(opencl, layer, error) : NULL;
}

// What CLBlast fails at is computed by our own kernels, this call from its beginning, and all that follow. What has
// been enqueued of it comes first in the queue, and all that it writes is written again.
static bool launch_gemm(struct opencl *opencl, const struct opencl_layer *layer, struct opencl_slot *slot,
                        struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    char line[ERROR_MESSAGE_BYTES + 128];
    if (opencl_gemm_launch(opencl, layer, slot, slot->host_x, error)) return true;
    if (!gemm->chosen) return false;
    gemm->on = slot->gemm = false;
    snprintf(gemm->why_not, sizeof gemm->why_not, "%s", error->message);
    snprintf(line, sizeof line, "our own kernels multiply prompts from now on: %s", error->message);
    if (opencl->warn) opencl->warn(opencl->warn_user, line);
    describe(opencl);
    forget_spans(opencl, slot);
    return launch_all(opencl, layer, slot, error);
}

static int begin(struct opencl *opencl, struct opencl_slot *slot, const struct opencl_layer *layer,
                 struct error *error) {
    // without_half() may want x again.
    const cl_map_flags keep_x =
        slot->gemm && opencl->gemm.library.half ? CL_MAP_READ | CL_MAP_WRITE : CL_MAP_WRITE_INVALIDATE_REGION;
    bool begun = hand_over(opencl, &slot->x, error) && hand_over(opencl, &slot->out, error) &&
                 hand_over(opencl, &slot->expert, error) && hand_over(opencl, &slot->weight, error) &&
                 (slot->gemm ? launch_gemm(opencl, layer, slot, error) : launch_all(opencl, layer, slot, error)) &&
                 map(opencl, &slot->expert, CL_MAP_READ | CL_MAP_WRITE, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->weight, CL_MAP_READ | CL_MAP_WRITE, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->x, keep_x, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->out, CL_MAP_READ, CL_FALSE, &slot->done, error);
    if (!begun) return (int)error->code;
    cl_int rc = CL_CALL(opencl->api, Flush, opencl->queue);
    return rc ? opencl_error(error, rc, "sending commands to the device") : 0;
}

static int begin_rows(struct opencl *opencl, int slot_index, const struct layer *layer, const float *x, int rows,
                      enum row_kind kind, const struct routing *chosen, struct error *error) {
    struct error cause;
    if (!error) error = &cause;
    struct opencl_slot *slot = &opencl->slots[slot_index];
    const struct opencl_layer *on_device = find_layer(opencl, layer, error);
    if (!on_device) return (int)error->code;
    slot->rows = rows;
    slot->top_k = layer->router.top_k;
    if (rows == 0) return 0;
    slot->few = kind == ROWS_BY_NUMBER ? rows <= STAGE_STEADY_ROWS : kind == ROWS_OF_ANSWERS;
    slot->chosen = chosen != NULL;
    slot->gemm = opencl->gemm.on && !slot->few && !chosen;
    slot->layer = layer;
    slot->host_x = x;
    memcpy(slot->x.host, x, (size_t)rows * (size_t)layer->router.hidden * sizeof *x);
    if (chosen) {
        const size_t pairs = (size_t)rows * (size_t)slot->top_k;
        memcpy(slot->expert.host, chosen->expert, pairs * sizeof *chosen->expert);
        memcpy(slot->weight.host, chosen->weight, pairs * sizeof *chosen->weight);
    }
    opencl->counts.mixtures++;
    return begin(opencl, slot, on_device, error);
}

int opencl_begin(struct opencl *opencl, int slot, const struct layer *layer, const float *x, int rows,
                 enum row_kind kind, struct error *error) {
    return begin_rows(opencl, slot, layer, x, rows, kind, NULL, error);
}

int opencl_begin_chosen(struct opencl *opencl, int slot, const struct layer *layer, const float *x,
                        const struct routing *chosen, enum row_kind kind, struct error *error) {
    return begin_rows(opencl, slot, layer, x, chosen->rows, kind, chosen, error);
}

static int take_routing(const struct opencl *opencl, const struct opencl_slot *slot, struct routing *routing,
                        struct error *error) {
    const int32_t *expert = slot->expert.host;
    const size_t pairs = (size_t)slot->rows * (size_t)slot->top_k;
    routing->rows = slot->rows;
    routing->top_k = slot->top_k;
    for (size_t i = 0; i < pairs; i++)
        if (expert[i] < 0 || expert[i] >= opencl->limits.experts)
            return error_set(error, ERROR_INTERNAL, "the device chose expert %d of %d", (int)expert[i],
                             opencl->limits.experts);
    memcpy(routing->expert, expert, pairs * sizeof *routing->expert);
    memcpy(routing->weight, slot->weight.host, pairs * sizeof *routing->weight);
    return 0;
}

// Until the device has done all of a slot's commands. Asks instead of waiting: who waits for a device that hangs,
// hangs.
static int wait_for(struct opencl *opencl, cl_event event, struct error *error) {
    double began_at = clock_seconds(), waited = 0;
    opencl->counts.waits++;
    if (opencl_fails())
        return opencl_error(error, CL_OUT_OF_RESOURCES, "asking the device how far it is"); // once a wait
    for (;;) {
        cl_int status = CL_QUEUED;
        cl_int rc = opencl->api->GetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
        if (rc) return opencl_error(error, rc, "asking the device how far it is");
        if (status < 0) return opencl_error(error, status, "the device gave up");
        waited = clock_seconds() - began_at;
        if (status == CL_COMPLETE && !opencl_is_silent()) break;
        if (waited > opencl->wait_seconds) {
            opencl->lost = true;
            return error_set(error, ERROR_TIMEOUT, "the device has not answered for %.1f seconds", waited);
        }
        if (waited < SPIN_SECONDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP_NANOSECONDS}, NULL);
    }
    opencl->counts.wait_seconds += waited;
    return 0;
}

static int finish(struct opencl *opencl, struct opencl_slot *slot, struct error *error) {
    int code = wait_for(opencl, slot->done, error);
    if (code) return code;
    opencl->api->ReleaseEvent(slot->done);
    slot->done = NULL;
    tell_spans(opencl, slot);
    return 0;
}

static bool all_finite(const float *x, size_t count) {
    float odd = 0;
    for (size_t i = 0; i < count; i++) odd += x[i] * 0;
    return odd == 0;
}

// Values between the products may be beyond f16, where f32 has room.
static int without_half(struct opencl *opencl, struct opencl_slot *slot, struct error *error) {
    const struct opencl_layer *layer = find_layer(opencl, slot->layer, error);
    if (!layer) return (int)error->code;
    slot->gemm = false;
    int code = begin(opencl, slot, layer, error);
    return code ? code : finish(opencl, slot, error);
}

int opencl_end(struct opencl *opencl, int slot_index, float *y, struct routing *routing, struct error *error) {
    struct opencl_slot *slot = &opencl->slots[slot_index];
    const size_t count = (size_t)slot->rows * (size_t)opencl->limits.hidden;
    if (slot->rows == 0) return routing ? take_routing(opencl, slot, routing, error) : 0;
    int code = finish(opencl, slot, error);
    if (!code && slot->gemm && opencl->gemm.library.half && !all_finite(slot->out.host, count))
        code = without_half(opencl, slot, error);
    if (!code && routing) code = take_routing(opencl, slot, routing, error);
    if (code) return code;
    const float *out = slot->out.host;
    for (size_t i = 0; i < count; i++) y[i] += out[i];
    return 0;
}
