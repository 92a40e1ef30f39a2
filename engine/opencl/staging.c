// Experts whose weights do not stay on the device: because it has too little memory of its own for all of them, or
// takes no buffer as large as a layer's. Two buffers take turns: while the kernels read one expert's weights from the
// one, the next expert's are copied to the other on a queue of their own. Events tie both queues; the host waits for
// neither.
//
// Which experts are wanted has to be known before their weights are sent, so the host routes and sorts. The kernels are
// those of weights that stay, in calls of one expert each, and so are their results, to the bit.
#include "engine/opencl/mixture.h"

#include "engine/quants/packed.h"

#include <stdlib.h>
#include <string.h>

enum { MATRICES = 3, TILE_FIELDS = 3 }; // of an expert; expert, first place, places
static const double RESIDENT_SHARE = 0.75; // of the device's memory: the rest is for rows, and for others

bool opencl_weights_parse(const char *name, enum opencl_weights *out) {
    OPENCL_WEIGHTS(NAMED_MATCH)
    return false;
}

// ---- Opening

static size_t matrix_bytes(const struct opencl *opencl, bool down) {
    const struct stage_limits *limits = &opencl->limits;
    return down ? weight_format_bytes(opencl->weights, limits->hidden, limits->intermediate)
                : weight_format_bytes(opencl->weights, limits->intermediate, limits->hidden);
}

bool opencl_staging_wanted(const struct opencl *opencl, const struct opencl_options *options) {
    const struct opencl_device *device = &opencl->device;
    double layer = (double)opencl->limits.experts *
                   (double)(2 * matrix_bytes(opencl, false) + matrix_bytes(opencl, true));
    if (!options->route) return false;
    if (options->where != OPENCL_WEIGHTS_AUTO) return options->where == OPENCL_WEIGHTS_STAGED;
    return layer > (double)device->alloc_bytes_max ||
           (!device->shared_memory && layer * options->layers > RESIDENT_SHARE * (double)device->memory_bytes);
}

static int tile_rows_of(const struct opencl_slot *slot) {
    return slot->few ? OPENCL_FEW_ROWS : OPENCL_TILE_ROWS;
}

// Ints of the longest list of one expert's tiles, behind their count.
static size_t list_length(const struct opencl *opencl) {
    size_t rows = (size_t)opencl->limits.tokens_max;
    return 1 + TILE_FIELDS * ((rows + OPENCL_FEW_ROWS - 1) / OPENCL_FEW_ROWS);
}

static bool take_host(struct opencl *opencl, struct error *error) {
    size_t slots = (size_t)opencl->limits.tokens_max * ROUTE_TOP_K_MAX;
    size_t lists = (size_t)opencl->limits.experts * list_length(opencl);
    for (int i = 0; i < STAGE_SLOTS; i++) {
        struct opencl_slot *slot = &opencl->slots[i];
        slot->sorted = calloc(2 * slots, sizeof *slot->sorted);
        slot->lists = calloc(lists, sizeof *slot->lists);
        if (!slot->sorted || !slot->lists)
            return error_set(error, ERROR_MEMORY, "out of memory for sorting rows") == 0;
    }
    return true;
}

// Where the matrices of any expert begin in a buffer: gate and up behind it, or down.
static bool take_start(struct opencl *opencl, struct error *error) {
    cl_ulong start[OPENCL_EXPERTS_MAX * MATRICES] = {0};
    size_t unit = weight_format_packed(opencl->weights) ? 1 : weight_format_bytes(opencl->weights, 1, 1);
    size_t bytes = (size_t)opencl->limits.experts * MATRICES * sizeof *start;
    for (int e = 0; e < opencl->limits.experts; e++) start[MATRICES * e + 1] = matrix_bytes(opencl, false) / unit;
    struct opencl_staging *staging = &opencl->staging;
    staging->start = opencl_buffer(opencl, CL_MEM_READ_ONLY, bytes, NULL, "a plan of staged weights", error);
    if (!staging->start) return false;
    cl_int rc = CL_CALL(opencl->api, EnqueueWriteBuffer, opencl->queue, staging->start, CL_TRUE, 0, bytes, start, 0,
                        NULL, NULL);
    return rc == CL_SUCCESS || opencl_error(error, rc, "a plan of staged weights") == 0;
}

bool opencl_staging_open(struct opencl *opencl, struct error *error) {
    struct opencl_staging *staging = &opencl->staging;
    cl_int rc;
    if (!staging->on) return true;
    staging->queue = CL_MAKE(opencl->api, CreateCommandQueue, &rc, opencl->context, opencl->device.id, 0);
    if (!staging->queue) return opencl_error(error, rc, "a second queue") == 0;
    size_t gate_up = 2 * matrix_bytes(opencl, false), down = matrix_bytes(opencl, true);
    for (int i = 0; i < 2; i++) {
        staging->weights[i] = opencl_buffer(opencl, CL_MEM_READ_ONLY, gate_up > down ? gate_up : down, NULL,
                                            "a buffer for an expert's weights", error);
        if (!staging->weights[i]) return false;
    }
    for (int e = 0; e < opencl->limits.experts; e++) {
        staging->tiles[e] = opencl_buffer(opencl, CL_MEM_READ_ONLY, list_length(opencl) * sizeof(int32_t), NULL,
                                          "a list of tiles", error);
        if (!staging->tiles[e]) return false;
    }
    return take_start(opencl, error) && take_host(opencl, error);
}

void opencl_staging_close(struct opencl *opencl) {
    struct opencl_staging *staging = &opencl->staging;
    const struct opencl_api *api = opencl->api;
    if (!staging->queue) return;
    api->Flush(staging->queue); // each of the queues may wait for the other
    api->Flush(opencl->queue);
    api->Finish(staging->queue);
    api->Finish(opencl->queue);
    for (int i = 0; i < 2; i++) {
        if (staging->read[i]) api->ReleaseEvent(staging->read[i]);
        if (staging->weights[i]) api->ReleaseMemObject(staging->weights[i]);
    }
    for (int e = 0; e < opencl->limits.experts; e++)
        if (staging->tiles[e]) api->ReleaseMemObject(staging->tiles[e]);
    if (staging->start) api->ReleaseMemObject(staging->start);
    api->ReleaseCommandQueue(staging->queue);
    staging->queue = NULL;
}

// ---- Sorting

int opencl_staging_sort(struct opencl *opencl, struct opencl_slot *slot, const struct routing *routing,
                        struct error *error) {
    const struct expert *experts = slot->layer->experts;
    const int count = slot->layer->router.experts, slots = slot->rows * slot->top_k, tile_rows = tile_rows_of(slot);
    const size_t most = (size_t)opencl->limits.tokens_max * ROUTE_TOP_K_MAX;
    int first[OPENCL_EXPERTS_MAX + 1];
    if (experts[0].gate.format != opencl->weights)
        return error_set(error, ERROR_UNSUPPORTED, "an expert's weights are %s; the OpenCL kernels were built for %s",
                         weight_format_name(experts[0].gate.format), weight_format_name(opencl->weights));
    opencl_sort_slots(routing->expert, slots, count, slot->sorted, slot->sorted + most, first);
    for (int e = 0; e < count; e++) {
        int32_t *list = slot->lists + (size_t)e * list_length(opencl), *tile = list + 1;
        for (int at = first[e]; at < first[e + 1]; at += tile_rows, tile += TILE_FIELDS) {
            int left = first[e + 1] - at;
            tile[0] = e;
            tile[1] = at;
            tile[2] = left < tile_rows ? left : tile_rows;
        }
        list[0] = (int32_t)((tile - list - 1) / TILE_FIELDS);
    }
    return 0;
}

// ---- A call

static bool send(struct opencl *opencl, cl_mem to, const int32_t *from, size_t count, struct error *error) {
    cl_int rc = CL_CALL(opencl->api, EnqueueWriteBuffer, opencl->queue, to, CL_FALSE, 0, count * sizeof *from, from, 0,
                        NULL, NULL);
    return rc == CL_SUCCESS || opencl_error(error, rc, "places on their way to the device") == 0;
}

// Copies some of an expert's matrices into the buffer whose turn it is, as soon as what was there has been read; what
// the kernels' queue is given next waits for that.
static bool copy(struct opencl *opencl, const struct matrix *const *matrices, int count, struct error *error) {
    struct opencl_staging *staging = &opencl->staging;
    cl_event *read = &staging->read[staging->turn], done = NULL;
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        size_t bytes = weight_format_bytes(matrices[i]->format, matrices[i]->rows, matrices[i]->columns);
        bool wait = i == 0 && *read;
        cl_int rc = CL_CALL(opencl->api, EnqueueWriteBuffer, staging->queue, staging->weights[staging->turn], CL_FALSE,
                            at, bytes, matrices[i]->data, wait ? 1 : 0, wait ? read : NULL,
                            i == count - 1 ? &done : NULL);
        if (rc) return opencl_error(error, rc, "an expert's weights on their way to the device") == 0;
        at += bytes;
    }
    if (*read) opencl->api->ReleaseEvent(*read);
    *read = NULL;
    cl_int rc = CL_CALL(opencl->api, Flush, staging->queue);
    if (!rc) rc = CL_CALL(opencl->api, EnqueueBarrierWithWaitList, opencl->queue, 1, &done, NULL);
    opencl->api->ReleaseEvent(done);
    return rc == CL_SUCCESS || opencl_error(error, rc, "waiting for an expert's weights") == 0;
}

// Enqueues a kernel that reads the buffer whose turn it is, which then is the other's.
static bool multiply(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel kernel, int across, int tiles,
                     const struct opencl_argument *arguments, size_t count, struct error *error) {
    struct opencl_staging *staging = &opencl->staging;
    if (!opencl_launch_and_tell(opencl, slot, kernel, across, tiles, arguments, count, &staging->read[staging->turn],
                                error))
        return false;
    staging->turn = 1 - staging->turn;
    cl_int rc = CL_CALL(opencl->api, Flush, opencl->queue); // the other queue waits for it
    return rc == CL_SUCCESS || opencl_error(error, rc, "sending commands to the device") == 0;
}

bool opencl_staging_gate_up(struct opencl *opencl, struct opencl_slot *slot, cl_mem x, int across,
                            struct error *error) {
    struct opencl_staging *staging = &opencl->staging;
    const struct layer *layer = slot->layer;
    const cl_int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate, top_k = slot->top_k;
    const size_t most = (size_t)opencl->limits.tokens_max * ROUTE_TOP_K_MAX;
    const size_t slots = (size_t)slot->rows * (size_t)slot->top_k;
    if (!send(opencl, opencl->slot_at, slot->sorted, slots, error) ||
        !send(opencl, opencl->place_of, slot->sorted + most, slots, error))
        return false;
    for (int e = 0; e < layer->router.experts; e++) {
        const int32_t *list = slot->lists + (size_t)e * list_length(opencl);
        const struct matrix *const matrices[] = {&layer->experts[e].gate, &layer->experts[e].up};
        if (list[0] == 0) continue;
        if (!send(opencl, staging->tiles[e], list, 1 + TILE_FIELDS * (size_t)list[0], error) ||
            !copy(opencl, matrices, 2, error))
            return false;
        const struct opencl_argument arguments[] = {
            OPENCL_ARGUMENT(staging->weights[staging->turn]), OPENCL_ARGUMENT(staging->start),
            OPENCL_ARGUMENT(staging->tiles[e]),               OPENCL_ARGUMENT(opencl->slot_at),
            OPENCL_ARGUMENT(x),                               OPENCL_ARGUMENT(hidden),
            OPENCL_ARGUMENT(inner),                           OPENCL_ARGUMENT(top_k),
            OPENCL_ARGUMENT(opencl->gated)};
        if (!multiply(opencl, slot, slot->few ? KERNEL_gate_up_few : KERNEL_gate_up_many, across, list[0], arguments,
                      OPENCL_COUNT(arguments), error))
            return false;
    }
    return true;
}

bool opencl_staging_down(struct opencl *opencl, struct opencl_slot *slot, cl_mem gated, int across,
                         struct error *error) {
    struct opencl_staging *staging = &opencl->staging;
    const struct layer *layer = slot->layer;
    const cl_int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate;
    for (int e = 0; e < layer->router.experts; e++) {
        const int32_t *list = slot->lists + (size_t)e * list_length(opencl);
        const struct matrix *const matrices[] = {&layer->experts[e].down};
        if (list[0] == 0) continue;
        if (!copy(opencl, matrices, 1, error)) return false;
        const struct opencl_argument arguments[] = {
            OPENCL_ARGUMENT(staging->weights[staging->turn]), OPENCL_ARGUMENT(staging->start),
            OPENCL_ARGUMENT(staging->tiles[e]),               OPENCL_ARGUMENT(gated),
            OPENCL_ARGUMENT(hidden),                          OPENCL_ARGUMENT(inner),
            OPENCL_ARGUMENT(opencl->mixed)};
        if (!multiply(opencl, slot, slot->few ? KERNEL_down_few : KERNEL_down_many, across, list[0], arguments,
                      OPENCL_COUNT(arguments), error))
            return false;
    }
    return true;
}
