// Running a device: one queue, one wait.
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

// Of a row in int8: its blocks, and the room of one more for its outliers.
static size_t quantized_bytes(int columns) {
    return (packed_blocks(columns) + 1) * OPENCL_X_BYTES;
}

static bool take_buffers(struct opencl *opencl, struct error *error) {
    size_t rows = (size_t)opencl->limits.tokens_max, slots = rows * ROUTE_TOP_K_MAX;
    size_t hidden = (size_t)opencl->limits.hidden, inner = (size_t)opencl->limits.intermediate;
    size_t tiles = (size_t)opencl_tiles_max(opencl, (int)slots, OPENCL_FEW_ROWS);
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
    opencl_staging_close(opencl);
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
        free(slot->lists);
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

void opencl_describe_anew(struct opencl *opencl) {
    const struct opencl_device *device = &opencl->device;
    const struct opencl_gemm *gemm = &opencl->gemm;
    const char *library = !gemm->on            ? ""
                          : gemm->library.half ? ", prompts by CLBlast in f16"
                                               : ", prompts by CLBlast in f32";
    snprintf(opencl->description, sizeof opencl->description, "%s (%s %s), %s kernels%s%s%s%s%s%s%s%s", device->name,
             device->platform, device->driver, device->level->name, opencl->kernels ? " of " : "",
             opencl->kernels ? opencl->kernels : "", opencl->staging.on ? ", weights staged" : "", library,
             gemm->why_not[0] ? ", without CLBlast: " : "", gemm->why_not, opencl->copied[0] ? ", " : "",
             opencl->copied);
}

void opencl_identify(const struct opencl *opencl, char *out, size_t bytes) {
    const struct opencl_device *device = &opencl->device;
    const struct opencl_gemm *gemm = &opencl->gemm;
    snprintf(out, bytes, "%s (%s %s), %s%s%s%s%s", device->name, device->platform, device->driver,
             device->level->name, opencl->staging.on ? ", staged" : "", gemm->on ? ", CLBlast " : "",
             gemm->on ? gemm->library.build : "", gemm->on && gemm->library.half ? " f16" : "");
}

// Staged weights go through our own kernels, as they are.
static void open_ways(struct opencl *opencl, const struct opencl_options *options) {
    struct opencl_gemm *gemm = &opencl->gemm;
    opencl->staging.on = opencl_staging_wanted(opencl, options);
    if (!opencl->staging.on) {
        opencl_gemm_open(opencl, options);
        return;
    }
    opencl->half_weights = false;
    if (options->products == OPENCL_PRODUCTS_CLBLAST)
        snprintf(gemm->why_not, sizeof gemm->why_not, "it takes no weights that are staged");
}

// What it leaves half open is to be closed.
static int open_all(struct opencl *opencl, const struct opencl_options *options, struct error *error) {
    opencl->limits = *options->limits;
    opencl->weights = options->weights;
    opencl->half_weights = options->half_weights && options->weights == WEIGHTS_BF16;
    opencl->layers_most = options->layers;
    opencl->kernels = options->kernels;
    opencl->wait_seconds = options->wait_seconds > 0 ? options->wait_seconds : WAIT_SECONDS;
    opencl->route = options->route;
    opencl->route_user = options->route_user;
    opencl->span = options->span;
    opencl->span_user = options->span_user;
    opencl->warn = options->warn;
    opencl->warn_user = options->warn_user;
    const struct opencl_wanted wanted = {options->gpu_only, weight_format_packed(options->weights), options->level};
    int code = check_shapes(options->limits, error);
    if (!code) code = opencl_api_load(&opencl->api, error);
    if (!code) code = opencl_device_find(opencl->api, &wanted, &opencl->device, error);
    if (!code) code = open_queue(opencl, error);
    if (!code) open_ways(opencl, options);
    if (!code) code = build_kernels(opencl, error);
    if (!code && !(take_buffers(opencl, error) && opencl_gemm_take_buffers(opencl, error) &&
                   opencl_staging_open(opencl, error)))
        code = (int)error->code;
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
            opencl_describe_anew(opencl);
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

bool opencl_shares_memory(const struct opencl *opencl) {
    return opencl->device.gpu && opencl->device.shared_memory;
}

// Where the host routes, and if the device has IEEE's division.
bool opencl_has_cpus_bits(const struct opencl *opencl) {
    return opencl->route && opencl_uses_dot(opencl->device.level, opencl->weights) && opencl->device.exact_division;
}

struct opencl_counts opencl_counts(const struct opencl *opencl) {
    return opencl->counts;
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
    opencl_describe_anew(opencl);
    forget_spans(opencl, slot);
    return opencl_launch_all(opencl, layer, slot, error);
}

static int begin(struct opencl *opencl, struct opencl_slot *slot, const struct opencl_layer *layer,
                 struct error *error) {
    // without_half() may want x again.
    const cl_map_flags keep_x =
        slot->gemm && opencl->gemm.library.half ? CL_MAP_READ | CL_MAP_WRITE : CL_MAP_WRITE_INVALIDATE_REGION;
    bool begun = hand_over(opencl, &slot->x, error) && hand_over(opencl, &slot->out, error) &&
                 hand_over(opencl, &slot->expert, error) && hand_over(opencl, &slot->weight, error) &&
                 (slot->gemm ? launch_gemm(opencl, layer, slot, error)
                             : opencl_launch_all(opencl, layer, slot, error)) &&
                 map(opencl, &slot->expert, CL_MAP_READ | CL_MAP_WRITE, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->weight, CL_MAP_READ | CL_MAP_WRITE, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->x, keep_x, CL_FALSE, NULL, error) &&
                 map(opencl, &slot->out, CL_MAP_READ, CL_FALSE, &slot->done, error);
    if (!begun) return (int)error->code;
    cl_int rc = CL_CALL(opencl->api, Flush, opencl->queue);
    return rc ? opencl_error(error, rc, "sending commands to the device") : 0;
}

// Whether the host routes: where it has to know the rows' experts, and where all that the device computes of them has
// the CPU's bits, of which other sums of the router's would be the end.
static bool host_routes(const struct opencl *opencl) {
    return opencl->staging.on || (opencl->route && opencl_uses_dot(opencl->device.level, opencl->weights));
}

// What is chosen already, or what the host chooses: into the slot's memory, which is the host's.
static int choose(struct opencl *opencl, struct opencl_slot *slot, const float *x, const struct routing *chosen,
                  struct error *error) {
    const size_t pairs = (size_t)slot->rows * (size_t)slot->top_k;
    struct routing routing = {
        .rows = slot->rows, .top_k = slot->top_k, .expert = slot->expert.host, .weight = slot->weight.host};
    slot->chosen = chosen || host_routes(opencl);
    if (chosen) {
        memcpy(routing.expert, chosen->expert, pairs * sizeof *chosen->expert);
        memcpy(routing.weight, chosen->weight, pairs * sizeof *chosen->weight);
    } else if (slot->chosen) {
        opencl->route(opencl->route_user, &slot->layer->router, x, slot->rows, &routing);
    }
    return opencl->staging.on ? opencl_staging_sort(opencl, slot, &routing, error) : 0;
}

static int begin_rows(struct opencl *opencl, int slot_index, const struct layer *layer, const float *x, int rows,
                      enum row_kind kind, const struct routing *chosen, struct error *error) {
    struct error cause;
    if (!error) error = &cause;
    struct opencl_slot *slot = &opencl->slots[slot_index];
    const struct opencl_layer *on_device = opencl->staging.on ? NULL : find_layer(opencl, layer, error);
    if (!on_device && !opencl->staging.on) return (int)error->code;
    slot->rows = rows;
    slot->top_k = layer->router.top_k;
    if (rows == 0) return 0;
    slot->few = kind == ROWS_BY_NUMBER ? rows <= STAGE_STEADY_ROWS : kind == ROWS_OF_ANSWERS;
    slot->gemm = opencl->gemm.on && !slot->few && !chosen;
    slot->layer = layer;
    slot->host_x = x;
    memcpy(slot->x.host, x, (size_t)rows * (size_t)layer->router.hidden * sizeof *x);
    int code = choose(opencl, slot, x, chosen, error);
    if (code) return code;
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

bool opencl_is_done(const struct opencl *opencl, int slot) {
    cl_int status = CL_QUEUED;
    cl_event event = opencl->slots[slot].done;
    if (!event || opencl->api->GetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL))
        return true;
    return status <= CL_COMPLETE && !opencl_is_silent();
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
