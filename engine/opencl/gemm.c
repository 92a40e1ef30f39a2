// The experts of many rows by CLBlast. A library's products want to know their number of rows, so the host routes and
// sorts here, and the device does the rest: gathers, multiplies expert by expert, and scatters.
//
// Weights that are not the kind of numbers that is multiplied are unpacked, a matrix's worth at a time, into one of two
// buffers, on a queue of its own: those of the next expert while the product of this one runs. Events tie both queues.
#include "engine/opencl/mixture.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/smaller.h"
#include "engine/quants/packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRY_ROWS = 256, TIMED_ROWS = 128 };
static const size_t TIMED_BYTES_MAX = (size_t)512 << 20; // of weights

bool opencl_products_parse(const char *name, enum opencl_products *out) {
    OPENCL_PRODUCTS(NAMED_MATCH)
    return false;
}

// ---- Opening

// It multiplies rows in floats. Where our own kernels multiply the CPU's integers, that would turn tokens, and has to
// be asked for.
static bool is_wanted(const struct opencl_options *options, const struct opencl_device *device) {
    if (!options->route || options->products == OPENCL_PRODUCTS_OWN) return false;
    if (options->products == OPENCL_PRODUCTS_CLBLAST) return true;
    return !opencl_uses_dot(device->level, options->weights) &&
           (options->clblast || device->gpu); // it takes seconds to build itself for a CPU
}

// In f16 if that is exact enough, else in f32.
static int try_library(struct opencl *opencl, const char *path, bool half_first, struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    int rows = opencl->limits.tokens_max < TRY_ROWS ? opencl->limits.tokens_max : TRY_ROWS;
    const int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate;
    const int shapes[][2] = {{inner, hidden}, {hidden, inner}}; // gate's and up's, and down's
    int code = clblast_load(&gemm->library, path, error);
    for (int half = half_first; !code && half >= 0; half--) {
        gemm->library.half = half;
        for (int i = 0; !code && i < 2; i++)
            code = clblast_known_answers(&gemm->library, opencl->api, opencl->context, opencl->queue, rows,
                                         shapes[i][0], shapes[i][1], error);
        if (!code) return 0;
        if (half) code = 0;
    }
    return code;
}

void opencl_gemm_open(struct opencl *opencl, const struct opencl_options *options) {
    struct opencl_gemm *gemm = &opencl->gemm;
    struct error error;
    cl_int rc;
    if (!is_wanted(options, &opencl->device)) return;
    if (try_library(opencl, options->clblast, opencl->device.fp16 || options->clblast, &error)) {
        snprintf(gemm->why_not, sizeof gemm->why_not, "%s", error.message);
        return;
    }
    gemm->queue = CL_MAKE(opencl->api, CreateCommandQueue, &rc, opencl->context, opencl->device.id, 0);
    if (!gemm->queue) {
        opencl_error(&error, rc, "a second queue");
        snprintf(gemm->why_not, sizeof gemm->why_not, "%s", error.message);
        return;
    }
    gemm->on = true;
    // Where weights are copied to the device anyway, they may as well be what is multiplied.
    opencl->half_weights = gemm->library.half && opencl->weights == WEIGHTS_BF16 && !opencl->device.shared_memory;
}

static cl_mem take(struct opencl *opencl, size_t rows, size_t columns, struct error *error) {
    size_t bytes, real = opencl->gemm.library.half ? 2 : 4;
    if (!checked_mul(rows, columns, &bytes) || !checked_mul(bytes, real, &bytes)) {
        error_set(error, ERROR_MEMORY, "buffers of %zu by %zu are too large", rows, columns);
        return NULL;
    }
    return opencl_buffer(opencl, CL_MEM_READ_WRITE, bytes, NULL, "a buffer for CLBlast", error);
}

bool opencl_gemm_take_buffers(struct opencl *opencl, struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    size_t slots = (size_t)opencl->limits.tokens_max * ROUTE_TOP_K_MAX;
    size_t hidden = (size_t)opencl->limits.hidden, inner = (size_t)opencl->limits.intermediate;
    if (!gemm->on) return true;
    gemm->products = take(opencl, 2 * slots, inner, error);
    if (gemm->products) gemm->gated = take(opencl, slots, inner, error);
    if (gemm->gated) gemm->rows = take(opencl, slots, hidden, error);
    for (int i = 0; gemm->rows && i < 2; i++)
        if (!(gemm->unpacked[i] = take(opencl, 2 * inner, hidden, error))) return false;
    if (!gemm->rows) return false;
    for (int i = 0; i < STAGE_SLOTS; i++) {
        int32_t *sorted = calloc(3 * slots, sizeof *sorted);
        opencl->slots[i].sorted = sorted;
        opencl->slots[i].sorted_weight = calloc(slots, sizeof *opencl->slots[i].sorted_weight);
        if (!sorted || !opencl->slots[i].sorted_weight)
            return error_set(error, ERROR_MEMORY, "out of memory for sorting rows") == 0;
    }
    return true;
}

static void forget(const struct opencl_api *api, cl_event *event) {
    if (*event) api->ReleaseEvent(*event);
    *event = NULL;
}

void opencl_gemm_close(struct opencl *opencl) {
    struct opencl_gemm *gemm = &opencl->gemm;
    cl_mem buffers[] = {gemm->products, gemm->gated, gemm->rows, gemm->unpacked[0], gemm->unpacked[1]};
    if (gemm->queue) opencl->api->Finish(gemm->queue);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (buffers[i]) opencl->api->ReleaseMemObject(buffers[i]);
    for (int i = 0; i < 2; i++) forget(opencl->api, &gemm->read[i]);
    if (gemm->queue) opencl->api->ReleaseCommandQueue(gemm->queue);
    gemm->products = gemm->gated = gemm->rows = gemm->unpacked[0] = gemm->unpacked[1] = NULL;
    gemm->queue = NULL;
}

// ---- Sorting

void opencl_sort_slots(const int32_t *expert, int slots, int experts, int32_t *slot_at, int32_t *place_of, int *first) {
    int next[OPENCL_EXPERTS_MAX];
    memset(first, 0, ((size_t)experts + 1) * sizeof *first);
    for (int i = 0; i < slots; i++)
        if (expert[i] >= 0) first[expert[i] + 1]++;
    for (int e = 0; e < experts; e++) first[e + 1] += first[e];
    memcpy(next, first, (size_t)experts * sizeof *next);
    for (int i = 0; i < slots; i++) {
        place_of[i] = expert[i] >= 0 ? next[expert[i]]++ : -1;
        if (place_of[i] >= 0) slot_at[place_of[i]] = i;
    }
}

static bool send(struct opencl *opencl, cl_mem to, const void *from, int count, struct error *error) {
    cl_int rc = CL_CALL(opencl->api, EnqueueWriteBuffer, opencl->queue, to, CL_FALSE, 0, (size_t)count * 4, from, 0,
                        NULL, NULL);
    return rc == CL_SUCCESS || opencl_error(error, rc, "routes on their way to the device") == 0;
}

// ---- Products

struct part {         // of the experts' work: gate and up, or down
    int which, count; // the first of an expert's matrices, and how many
    int outputs, columns;
    cl_mem from, to;
    size_t from_width, to_width, to_apart; // to_apart: between what two matrices give
};

// The weights of one expert, unpacked into one of the two buffers as soon as what was there has been multiplied.
static bool unpack(struct opencl *opencl, const struct opencl_layer *layer, const struct part *part, cl_int expert,
                   int buffer, struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    cl_event done = NULL;
    for (int i = 0; i < part->count; i++) {
        const cl_int which = part->which + i, columns = part->columns;
        const cl_ulong at = (cl_ulong)i * (cl_ulong)part->outputs * (cl_ulong)columns;
        const struct opencl_argument arguments[] = {OPENCL_ARGUMENT(layer->weights),
                                                    OPENCL_ARGUMENT(layer->start),
                                                    OPENCL_ARGUMENT(expert),
                                                    OPENCL_ARGUMENT(which),
                                                    OPENCL_ARGUMENT(columns),
                                                    OPENCL_ARGUMENT(gemm->unpacked[buffer]),
                                                    OPENCL_ARGUMENT(at)};
        bool last = i == part->count - 1;
        if (!opencl_launch(opencl, gemm->queue, KERNEL_unpack, ((columns + 3) / 4 + OPENCL_GROUP - 1) / OPENCL_GROUP,
                           part->outputs, arguments, OPENCL_COUNT(arguments), i == 0 ? gemm->read[buffer] : NULL,
                           last ? &done : NULL, error))
            return false;
    }
    cl_int rc = CL_CALL(opencl->api, Flush, gemm->queue);
    if (!rc) rc = CL_CALL(opencl->api, EnqueueBarrierWithWaitList, opencl->queue, 1, &done, NULL);
    forget(opencl->api, &done);
    return rc == CL_SUCCESS || opencl_error(error, rc, "unpacking an expert") == 0;
}

static bool multiply(struct opencl *opencl, const struct opencl_layer *layer, const struct part *part, const int *first,
                     struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    const bool direct =
        opencl->half_weights ? gemm->library.half : opencl->weights == WEIGHTS_F32 && !gemm->library.half;
    for (int e = 0; e < layer->layer->router.experts; e++) {
        const int buffer = gemm->turn, rows = first[e + 1] - first[e];
        if (rows == 0) continue;
        if (!direct && !unpack(opencl, layer, part, e, buffer, error)) return false;
        size_t a_at[2], b_at[2], c_at[2];
        for (int i = 0; i < part->count; i++) {
            a_at[i] = (size_t)first[e] * part->from_width;
            b_at[i] = direct ? (size_t)layer->start_at[3 * e + part->which + i]
                             : (size_t)i * (size_t)part->outputs * (size_t)part->columns;
            c_at[i] = (size_t)i * part->to_apart + (size_t)first[e] * part->to_width;
        }
        const struct clblast_product product = {(size_t)rows,
                                                (size_t)part->outputs,
                                                (size_t)part->columns,
                                                part->from,
                                                direct ? layer->weights : gemm->unpacked[buffer],
                                                part->to,
                                                a_at,
                                                b_at,
                                                c_at,
                                                (size_t)part->count};
        forget(opencl->api, &gemm->read[buffer]);
        if (clblast_multiply(&gemm->library, &product, opencl->queue, direct ? NULL : &gemm->read[buffer], error))
            return false;
        cl_int rc = CL_CALL(opencl->api, Flush, opencl->queue); // the other queue waits for it
        if (rc) return opencl_error(error, rc, "sending products to the device") == 0;
        gemm->turn = 1 - gemm->turn;
    }
    return true;
}

bool opencl_gemm_launch(struct opencl *opencl, const struct opencl_layer *layer, struct opencl_slot *slot,
                        const float *x, struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    const struct router *router = &layer->layer->router;
    const cl_int hidden = router->hidden, inner = layer->layer->experts[0].gate.rows, top_k = router->top_k;
    const cl_int slots = slot->rows * top_k;
    const size_t most = (size_t)opencl->limits.tokens_max * ROUTE_TOP_K_MAX;
    int32_t *expert = slot->sorted, *slot_at = expert + most, *place_of = slot_at + most;
    int first[OPENCL_EXPERTS_MAX + 1];
    struct routing routing = {.expert = expert, .weight = slot->sorted_weight};
    opencl->route(opencl->route_user, router, x, slot->rows, &routing);
    opencl_sort_slots(expert, slots, router->experts, slot_at, place_of, first);

    const struct part gate_up = {
        0, 2, inner, hidden, gemm->rows, gemm->products, (size_t)hidden, (size_t)inner, (size_t)slots * (size_t)inner};
    const struct part down = {2, 1, hidden, inner, gemm->gated, gemm->rows, (size_t)inner, (size_t)hidden, 0};
    const struct opencl_argument gather[] = {OPENCL_ARGUMENT(slot->x.buffer), OPENCL_ARGUMENT(opencl->slot_at),
                                             OPENCL_ARGUMENT(hidden), OPENCL_ARGUMENT(top_k),
                                             OPENCL_ARGUMENT(gemm->rows)};
    const struct opencl_argument gate_all[] = {OPENCL_ARGUMENT(gemm->products), OPENCL_ARGUMENT(slots),
                                               OPENCL_ARGUMENT(inner), OPENCL_ARGUMENT(gemm->gated)};
    const struct opencl_argument scatter[] = {OPENCL_ARGUMENT(gemm->rows),
                                              OPENCL_ARGUMENT(opencl->place_of),
                                              OPENCL_ARGUMENT(slot->weight.buffer),
                                              OPENCL_ARGUMENT(hidden),
                                              OPENCL_ARGUMENT(top_k),
                                              OPENCL_ARGUMENT(slot->out.buffer)};
    const int hidden_groups = (hidden + OPENCL_GROUP - 1) / OPENCL_GROUP,
              inner_groups = (inner + OPENCL_GROUP - 1) / OPENCL_GROUP;
    return send(opencl, slot->expert.buffer, expert, slots, error) &&
           send(opencl, slot->weight.buffer, slot->sorted_weight, slots, error) &&
           send(opencl, opencl->slot_at, slot_at, slots, error) &&
           send(opencl, opencl->place_of, place_of, slots, error) &&
           opencl_launch_of(opencl, slot, KERNEL_gather, hidden_groups, slots, gather, OPENCL_COUNT(gather), error) &&
           multiply(opencl, layer, &gate_up, first, error) &&
           opencl_launch_of(opencl, slot, KERNEL_gate_all, inner_groups, slots, gate_all, OPENCL_COUNT(gate_all),
                            error) &&
           multiply(opencl, layer, &down, first, error) &&
           opencl_launch_of(opencl, slot, KERNEL_scatter_real, hidden_groups, slot->rows, scatter,
                            OPENCL_COUNT(scatter), error);
}

// ---- Which is faster

// A layer whose weights are zeros, with all the experts that the memory is for, and so many rows that an expert has as
// many as in a prompt of TIMED_ROWS: unpacking its weights is paid by its rows.
struct zeros {
    void *weights;
    float *router, *x, *y;
    int rows;
    struct expert expert[OPENCL_EXPERTS_MAX];
    struct layer layer;
    struct routing routing;
};

static void zeros_finish(struct zeros *zeros) {
    free(zeros->weights);
    free(zeros->router);
    free(zeros->x);
    free(zeros->y);
    free(zeros->routing.expert);
    free(zeros->routing.weight);
}

// Row r goes to expert r and the next one, as the router's experts look for one number each: all have about as many.
static void spread(struct zeros *zeros, int experts, int hidden) {
    for (int e = 0; e < experts; e++) zeros->router[e * hidden + e % hidden] = 1;
    for (int r = 0; r < zeros->rows; r++) {
        zeros->x[r * hidden + (r + 1) % experts % hidden] = 1;
        zeros->x[r * hidden + r % experts % hidden] = 2;
    }
}

static bool zeros_create(struct zeros *zeros, const struct opencl *opencl) {
    const struct stage_limits *limits = &opencl->limits;
    const size_t in = weight_format_bytes(opencl->weights, limits->intermediate, limits->hidden);
    const size_t out = weight_format_bytes(opencl->weights, limits->hidden, limits->intermediate);
    const size_t fit = TIMED_BYTES_MAX / (2 * in + out);
    const int top_k = smaller(limits->experts, ROUTE_TOP_K_MAX);
    const int experts = fit >= (size_t)limits->experts ? limits->experts : (int)fit > top_k ? (int)fit : top_k;
    const int rows = (smaller(limits->tokens_max, TIMED_ROWS) * experts + limits->experts - 1) / limits->experts;
    const size_t count = (size_t)rows * (size_t)limits->hidden;
    const size_t bytes = ((2 * in + out) * (size_t)experts + 4095) / 4096 * 4096;
    *zeros = (struct zeros){.weights = aligned_alloc(4096, bytes),
                            .router = calloc((size_t)experts * (size_t)limits->hidden, sizeof(float)),
                            .x = calloc(count, sizeof(float)),
                            .y = calloc(count, sizeof(float)),
                            .rows = rows,
                            .routing = {.expert = calloc((size_t)rows * ROUTE_TOP_K_MAX, sizeof(int32_t)),
                                        .weight = calloc((size_t)rows * ROUTE_TOP_K_MAX, sizeof(float))}};
    if (!zeros->weights || !zeros->router || !zeros->x || !zeros->y || !zeros->routing.expert || !zeros->routing.weight)
        return false;
    memset(zeros->weights, 0, bytes);
    for (int e = 0; e < experts; e++) {
        const char *at = (const char *)zeros->weights + (size_t)e * (2 * in + out);
        const struct matrix gate = {opencl->weights, limits->intermediate, limits->hidden, at};
        const struct matrix down = {opencl->weights, limits->hidden, limits->intermediate, at + 2 * in};
        zeros->expert[e] = (struct expert){.gate = gate, .up = gate, .down = down};
        zeros->expert[e].up.data = at + in;
    }
    spread(zeros, experts, limits->hidden);
    zeros->layer =
        (struct layer){.router = {experts, top_k, 0.01f, zeros->router, limits->hidden}, .experts = zeros->expert};
    return true;
}

// The second of two runs; less than 0: one has failed.
static double time_way(struct opencl *opencl, struct zeros *zeros, bool gemm, struct error *error) {
    double seconds = -1;
    opencl->gemm.on = gemm;
    for (int i = 0; i < 2; i++) {
        double began_at = clock_seconds();
        int code = opencl_begin(opencl, 0, &zeros->layer, zeros->x, zeros->rows, ROWS_OF_PROMPTS, error);
        if (!code) code = opencl_end(opencl, 0, zeros->y, &zeros->routing, error);
        if (code) return -1;
        seconds = clock_seconds() - began_at;
    }
    return seconds;
}

int opencl_gemm_choose(struct opencl *opencl, const struct opencl_options *options, struct error *error) {
    struct opencl_gemm *gemm = &opencl->gemm;
    struct zeros zeros;
    if (!gemm->on || options->products != OPENCL_PRODUCTS_AUTO) return 0;
    if (!zeros_create(&zeros, opencl)) {
        zeros_finish(&zeros);
        return error_set(error, ERROR_MEMORY, "out of memory for trying CLBlast");
    }
    double own = time_way(opencl, &zeros, false, error),
           library = own < 0 ? own : time_way(opencl, &zeros, true, error);
    if (opencl->lost) return (int)error->code; // it may still read the zeros
    opencl->api->Finish(gemm->queue);
    opencl->api->Finish(opencl->queue);
    opencl_layers_finish(opencl);
    zeros_finish(&zeros);
    opencl->counts = (struct opencl_counts){0};
    if (library < 0) return (int)error->code;
    if (library < own) return 0;
    return error_set(error, ERROR_UNSUPPORTED, "it is slower, %.2f ms for %d rows, %.2f ms without", library * 1e3,
                     zeros.rows, own * 1e3);
}
