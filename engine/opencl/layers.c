// The weights of layers as a device sees them. Where it shares the host's memory and a layer's experts lie close
// together, as in a file, the device reads them where they are: one buffer over the pages that they lie in. Otherwise
// they are copied to memory of its own, once.
#include "engine/opencl/mixture.h"
#include "engine/quants/bf16.h"
#include "engine/quants/f16.h"
#include "engine/quants/packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MATRICES = 3, SPREAD_MAX = 4 }; // a span may be larger than its matrices by one part in so many

// ---- The matrices of a layer

struct span {
    uintptr_t first, end; // addresses
    size_t bytes;         // of the matrices in it
};

static const struct matrix *matrix_of(const struct layer *layer, int index) {
    const struct expert *expert = &layer->experts[index / MATRICES];
    const struct matrix *const matrices[MATRICES] = {&expert->gate, &expert->up, &expert->down};
    return matrices[index % MATRICES];
}

static size_t bytes_of(const struct matrix *matrix) {
    return weight_format_bytes(matrix->format, matrix->rows, matrix->columns);
}

// What the kernels count a matrix's beginning in, and what it has to be a multiple of.
static size_t unit_of(enum weight_format format) {
    return weight_format_packed(format) ? 1 : weight_format_bytes(format, 1, 1);
}

static size_t alignment_of(enum weight_format format) {
    return weight_format_packed(format) ? sizeof(uint32_t) : weight_format_bytes(format, 1, 1);
}

static struct span span_of(const struct layer *layer, int count) {
    struct span span = {UINTPTR_MAX, 0, 0};
    for (int i = 0; i < count; i++) {
        const struct matrix *matrix = matrix_of(layer, i);
        uintptr_t at = (uintptr_t)matrix->data;
        size_t bytes = bytes_of(matrix);
        if (at < span.first) span.first = at;
        if (at + bytes > span.end) span.end = at + bytes;
        span.bytes += bytes;
    }
    return span;
}

// What the device has of it: two bytes a weight in f16.
static size_t device_bytes(const struct opencl *opencl, const struct matrix *matrix) {
    if (opencl->half_weights) return (size_t)matrix->rows * (size_t)matrix->columns * sizeof(cl_half);
    return bytes_of(matrix);
}

// ---- Bringing them to the device

static bool upload(struct opencl *opencl, cl_mem buffer, size_t at, const void *from, size_t bytes,
                   struct error *error) {
    cl_int rc =
        CL_CALL(opencl->api, EnqueueWriteBuffer, opencl->queue, buffer, CL_TRUE, at, bytes, from, 0, NULL, NULL);
    return rc == CL_SUCCESS || opencl_error(error, rc, "weights on their way to the device") == 0;
}

// A matrix of bf16 as f16. What f16 can not hold is told in opencl->beyond_half.
static bool upload_half(struct opencl *opencl, cl_mem buffer, size_t at, const struct matrix *matrix,
                        struct error *error) {
    const uint16_t *weights = matrix->data;
    size_t count = (size_t)matrix->rows * (size_t)matrix->columns;
    cl_half *narrow = malloc(count * sizeof *narrow);
    if (!narrow) return error_set(error, ERROR_MEMORY, "out of memory for weights in f16") == 0;
    for (size_t i = 0; i < count; i++) {
        narrow[i] = f16_from_f32(bf16_to_f32(weights[i]));
        opencl->beyond_half |= (narrow[i] & 0x7fff) == 0x7c00 && (weights[i] & 0x7fff) != 0x7f80;
    }
    bool done = !opencl->beyond_half && upload(opencl, buffer, at, narrow, count * sizeof *narrow, error);
    if (opencl->beyond_half) error_set(error, ERROR_UNSUPPORTED, "a weight is too large for f16");
    free(narrow);
    return done;
}

static cl_mem copy(struct opencl *opencl, const void *from, size_t bytes, const char *what, struct error *error) {
    cl_mem buffer = opencl_buffer(opencl, CL_MEM_READ_ONLY, bytes, NULL, what, error);
    if (!buffer || upload(opencl, buffer, 0, from, bytes, error)) return buffer;
    opencl->api->ReleaseMemObject(buffer);
    return NULL;
}

// Whole pages are always there, and start as devices want it that share memory without a copy. Were the host to have no
// access (CL_MEM_HOST_NO_ACCESS), a driver might copy what it can not share, and not tell.
static cl_mem share_span(struct opencl *opencl, const struct layer *layer, int count, struct span span, cl_ulong *start,
                         struct error *error) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = span.first / page * page;
    size_t bytes = (span.end - first + page - 1) / page * page;
    for (int i = 0; i < count; i++) {
        const struct matrix *matrix = matrix_of(layer, i);
        start[i] = ((uintptr_t)matrix->data - first) / unit_of(matrix->format);
    }
    return opencl_buffer(opencl, CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, bytes, (void *)first,
                         "the pages that they lie in", error);
}

static cl_mem copy_span(struct opencl *opencl, const struct layer *layer, int count, struct span span, cl_ulong *start,
                        struct error *error) {
    cl_mem buffer = opencl_buffer(opencl, CL_MEM_READ_ONLY, span.bytes, NULL, "a copy of a layer's weights", error);
    size_t at = 0;
    for (int i = 0; buffer && i < count; i++) {
        const struct matrix *matrix = matrix_of(layer, i);
        start[i] = at / unit_of(matrix->format);
        if (!(opencl->half_weights ? upload_half(opencl, buffer, at, matrix, error)
                                   : upload(opencl, buffer, at, matrix->data, bytes_of(matrix), error))) {
            opencl->api->ReleaseMemObject(buffer);
            return NULL;
        }
        at += device_bytes(opencl, matrix);
    }
    return buffer;
}

// One layer is told of for all that are still to come: they lie alike. The first one comes while the device is tried,
// and whoever has opened it reads the description then; later there is nobody who would.
static void tell_copy(struct opencl *opencl, size_t bytes, const char *why) {
    int left = opencl->layers_most - opencl->layer_count;
    double all = (double)bytes * (left > 1 ? left : 1);
    if (opencl->copied[0]) return;
    snprintf(opencl->copied, sizeof opencl->copied, "weights copied, which takes %.1f %cB more (%.300s)",
             all < 1e9 ? all / 1e6 : all / 1e9, all < 1e9 ? 'M' : 'G', why);
    opencl_describe_anew(opencl);
    if (opencl->layer_count > 0 && opencl->warn) opencl->warn(opencl->warn_user, opencl->copied);
}

static cl_mem place_weights(struct opencl *opencl, const struct layer *layer, int count, cl_ulong *start,
                            struct error *error) {
    struct span span = span_of(layer, count);
    size_t extent = span.end - span.first, alignment = alignment_of(opencl->weights);
    bool aligned = true;
    for (int i = 0; i < count; i++) aligned &= (uintptr_t)matrix_of(layer, i)->data % alignment == 0;
    bool dense = extent <= span.bytes + span.bytes / SPREAD_MAX;
    if (!opencl->device.shared_memory || opencl->half_weights)
        return copy_span(opencl, layer, count, span, start, error);
    struct error refused; // by a driver, maybe, as for files that are mapped for reading only
    cl_mem shared = NULL;
    if (aligned && dense)
        shared = share_span(opencl, layer, count, span, start, &refused);
    else
        error_set(&refused, ERROR_UNSUPPORTED, aligned ? "they lie scattered" : "they are not aligned");
    if (shared) return shared;
    cl_mem copied = copy_span(opencl, layer, count, span, start, error);
    if (copied) tell_copy(opencl, span.bytes, refused.message);
    return copied;
}

static void release(const struct opencl_api *api, cl_mem buffer) {
    if (buffer) api->ReleaseMemObject(buffer);
}

static int place_layer(struct opencl *opencl, const struct layer *layer, struct opencl_layer *out,
                       struct error *error) {
    int experts = layer->router.experts, count = experts * MATRICES;
    cl_ulong start[OPENCL_EXPERTS_MAX * MATRICES];
    if (experts > OPENCL_EXPERTS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "a layer has %d experts; the OpenCL kernels take up to %d", experts,
                         OPENCL_EXPERTS_MAX);
    for (int i = 0; i < count; i++)
        if (matrix_of(layer, i)->format != opencl->weights)
            return error_set(error, ERROR_UNSUPPORTED,
                             "an expert's weights are %s; the OpenCL kernels were built for %s",
                             weight_format_name(matrix_of(layer, i)->format), weight_format_name(opencl->weights));
    *out = (struct opencl_layer){.layer = layer};
    size_t router_bytes = (size_t)experts * (size_t)layer->router.hidden * sizeof(float);
    out->router = copy(opencl, layer->router.weight, router_bytes, "a router", error);
    if (out->router) out->weights = place_weights(opencl, layer, count, start, error);
    if (out->weights) out->start = copy(opencl, start, (size_t)count * sizeof *start, "a layer's plan", error);
    if (out->start && (out->start_at = malloc((size_t)count * sizeof *start))) {
        memcpy(out->start_at, start, (size_t)count * sizeof *start);
        return 0;
    }
    if (out->start) error_set(error, ERROR_MEMORY, "out of memory for a layer's plan");
    release(opencl->api, out->start);
    release(opencl->api, out->weights);
    release(opencl->api, out->router);
    return error ? (int)error->code : ERROR_INTERNAL;
}

// ---- The list of layers

const struct opencl_layer *opencl_layer_find(struct opencl *opencl, const struct layer *layer, struct error *error) {
    for (int i = 0; i < opencl->layer_count; i++) {
        int at = (opencl->layer_next + i) % opencl->layer_count;
        if (opencl->layers[at].layer != layer) continue;
        opencl->layer_next = at + 1;
        return &opencl->layers[at];
    }
    if (opencl->layer_count == opencl->layer_capacity) {
        int capacity = 2 * opencl->layer_capacity + 8;
        struct opencl_layer *layers = realloc(opencl->layers, (size_t)capacity * sizeof *layers);
        if (!layers) {
            error_set(error, ERROR_MEMORY, "out of memory for the device's layers");
            return NULL;
        }
        opencl->layers = layers;
        opencl->layer_capacity = capacity;
    }
    struct opencl_layer *next = &opencl->layers[opencl->layer_count];
    if (place_layer(opencl, layer, next, error)) return NULL;
    opencl->layer_count++;
    return next;
}

void opencl_layers_finish(struct opencl *opencl) {
    for (int i = 0; i < opencl->layer_count; i++) {
        free(opencl->layers[i].start_at);
        if (opencl->lost) continue; // what it has is never given back
        release(opencl->api, opencl->layers[i].start);
        release(opencl->api, opencl->layers[i].weights);
        release(opencl->api, opencl->layers[i].router);
    }
    free(opencl->layers);
    opencl->layers = NULL;
    opencl->copied[0] = 0;
    opencl->layer_count = opencl->layer_capacity = opencl->layer_next = 0;
}
