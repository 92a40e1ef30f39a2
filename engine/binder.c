#include "engine/binder.h"

#include "base/checked.h"
#include "base/clock.h"
#include "engine/quants/bf16.h"
#include "engine/quants/f16.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    NAME_BYTES = 192,
    ALIGN_BYTES = 64,        // a cache line, the widest vector
    PIECE_BYTES = 32 << 20,  // converted or read between two looks at the clock
};
static const double QUIET_SECONDS = 1.0;    // loading that takes less says nothing
static const double INTERVAL_SECONDS = 0.1; // between two reports

struct conversion { // a run of elements of one tensor, on its way to a block or staying where it is
    const unsigned char *from;
    enum tensor_type type;
    void *to; // NULL: it stays in the mapping
    enum weight_format format;
    size_t elements;
};

struct binder {
    struct model_storage *storage;
    enum weight_format weights;
    bool *bound; // [checkpoint.tensor_count]
    struct conversion *conversions;
    size_t conversion_count, conversion_capacity;
    uint64_t parameters;
    size_t bytes;
};

void model_storage_finish(struct model_storage *storage) {
    for (size_t i = 0; i < storage->block_count; i++) free(storage->blocks[i]);
    free(storage->blocks);
    checkpoint_close(&storage->checkpoint);
    *storage = (struct model_storage){0};
}

int binder_create(struct binder **out, struct model_storage *storage, enum weight_format weights, struct error *error) {
    struct binder *binder = calloc(1, sizeof *binder);
    bool *bound = calloc(storage->checkpoint.tensor_count + 1, sizeof *bound);
    if (!binder || !bound) {
        free(binder);
        free(bound);
        return error_set(error, ERROR_MEMORY, "out of memory while binding tensors");
    }
    *binder = (struct binder){.storage = storage, .weights = weights, .bound = bound};
    *out = binder;
    return 0;
}

void binder_destroy(struct binder *binder) {
    if (!binder) return;
    free(binder->bound);
    free(binder->conversions);
    free(binder);
}

// ---- Finding and checking

// The files, for messages about a tensor that is in none of them.
static const char *anywhere(const struct binder *binder) {
    const struct checkpoint *checkpoint = &binder->storage->checkpoint;
    return checkpoint->file_count ? checkpoint->files[0].path : "the checkpoint";
}

static void write_shape(char *text, size_t bytes, const size_t *shape, int dimensions) {
    size_t at = (size_t)snprintf(text, bytes, "[");
    for (int i = 0; i < dimensions && at < bytes; i++)
        at += (size_t)snprintf(text + at, bytes - at, "%s%zu", i ? ", " : "", shape[i]);
    if (at < bytes) snprintf(text + at, bytes - at, "]");
}

static bool is_weight(enum tensor_type type) {
    return type == TENSOR_BF16 || type == TENSOR_F16 || type == TENSOR_F32;
}

static int find(struct binder *binder, const struct tensor **out, const int *shape, int dimensions,
                struct error *error, const char *format, va_list args) {
    const struct checkpoint *checkpoint = &binder->storage->checkpoint;
    char name[NAME_BYTES], wanted[96], found[256];
    size_t sizes[TENSOR_DIMENSIONS_MAX];
    vsnprintf(name, sizeof name, format, args);
    for (int i = 0; i < dimensions; i++) sizes[i] = (size_t)shape[i];
    write_shape(wanted, sizeof wanted, sizes, dimensions);

    const struct tensor *tensor = checkpoint_find(checkpoint, name);
    if (!tensor)
        return error_set(error, ERROR_FORMAT, "%s%s: tensor %s: expected with shape %s, found in no file",
                         anywhere(binder), checkpoint->file_count > 1 ? " and its siblings" : "", name, wanted);
    write_shape(found, sizeof found, tensor->shape, tensor->dimensions);
    if (strcmp(wanted, found) != 0)
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: expected shape %s, found %s", tensor->path, name, wanted,
                         found);
    if (!is_weight(tensor->type))
        return error_set(error, ERROR_UNSUPPORTED, "%s: tensor %s: expected dtype BF16, F16 or F32, found %s",
                         tensor->path, name, tensor_type_name(tensor->type));
    if (!binder->bound[tensor - checkpoint->tensors]) {
        binder->bound[tensor - checkpoint->tensors] = true;
        binder->parameters += tensor->bytes / tensor_type_bytes(tensor->type);
    }
    *out = tensor;
    return 0;
}

bool binder_has(const struct binder *binder, const char *format, ...) {
    char name[NAME_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return checkpoint_find(&binder->storage->checkpoint, name) != NULL;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

int binder_finish(const struct binder *binder, const char *const *harmless, struct error *error) {
    const struct checkpoint *checkpoint = &binder->storage->checkpoint;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        const struct tensor *tensor = &checkpoint->tensors[i];
        const char *const *end = harmless;
        while (*end && !ends_with(tensor->name, *end)) end++;
        if (!binder->bound[i] && !*end)
            return error_set(error, ERROR_FORMAT, "%s: tensor %s: expected none of this name in a model of this config",
                             tensor->path, tensor->name);
    }
    return 0;
}

// ---- Binding

static int add_conversion(struct binder *binder, const struct conversion *conversion) {
    if (binder->conversion_count == binder->conversion_capacity) {
        size_t capacity = binder->conversion_capacity ? 2 * binder->conversion_capacity : 256;
        struct conversion *grown = realloc(binder->conversions, capacity * sizeof *grown);
        if (!grown) return ERROR_MEMORY;
        binder->conversions = grown;
        binder->conversion_capacity = capacity;
    }
    binder->conversions[binder->conversion_count++] = *conversion;
    return 0;
}

// Room for a conversion; becomes resident as it is written.
static void *reserve(struct model_storage *storage, size_t bytes) {
    if (storage->block_count == storage->block_capacity) {
        size_t capacity = storage->block_capacity ? 2 * storage->block_capacity : 256;
        void **grown = realloc(storage->blocks, capacity * sizeof *grown);
        if (!grown) return NULL;
        storage->blocks = grown;
        storage->block_capacity = capacity;
    }
    size_t rounded;
    if (!checked_add(bytes, ALIGN_BYTES - 1, &rounded)) return NULL;
    void *block = aligned_alloc(ALIGN_BYTES, rounded / ALIGN_BYTES * ALIGN_BYTES);
    if (block) storage->blocks[storage->block_count++] = block;
    return block;
}

static bool held_as(enum tensor_type type, enum weight_format format) {
    return (type == TENSOR_F32 && format == WEIGHTS_F32) || (type == TENSOR_BF16 && format == WEIGHTS_BF16);
}

// Elements [first, first + elements) of a tensor, as `format`.
static int bind(struct binder *binder, const struct tensor *tensor, size_t first, size_t elements,
                enum weight_format format, const void **out, struct error *error) {
    size_t width = tensor_type_bytes(tensor->type), bytes;
    struct conversion conversion = {
        .from = tensor->data + first * width, .type = tensor->type, .format = format, .elements = elements};
    bool aligned = (uintptr_t)conversion.from % width == 0;
    if (!checked_mul(elements, weight_format_bytes(format), &bytes)) goto no_memory;
    if (!held_as(tensor->type, format) || !aligned) {
        conversion.to = reserve(binder->storage, bytes);
        if (!conversion.to) goto no_memory;
    }
    if (add_conversion(binder, &conversion)) goto no_memory;
    binder->bytes += bytes;
    *out = conversion.to ? conversion.to : conversion.from;
    return 0;
no_memory:
    return error_set(error, ERROR_MEMORY, "%s: tensor %s: out of memory for %zu elements as %s", tensor->path,
                     tensor->name, elements, weight_format_name(format));
}

int binder_matrix(struct binder *binder, struct matrix *out, int rows, int columns, struct error *error,
                  const char *name, ...) {
    const struct tensor *tensor;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){rows, columns}, 2, error, name, args);
    va_end(args);
    if (rc) return rc;
    *out = (struct matrix){.format = binder->weights, .rows = rows, .columns = columns};
    return bind(binder, tensor, 0, (size_t)rows * (size_t)columns, binder->weights, &out->data, error);
}

int binder_floats(struct binder *binder, const float **out, int rows, int columns, struct error *error,
                  const char *name, ...) {
    const struct tensor *tensor;
    const void *data;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){rows, columns}, columns ? 2 : 1, error, name, args);
    va_end(args);
    if (rc) return rc;
    size_t elements = (size_t)rows * (size_t)(columns ? columns : 1);
    rc = bind(binder, tensor, 0, elements, WEIGHTS_F32, &data, error);
    if (!rc) *out = data;
    return rc;
}

int binder_stacked(struct binder *binder, struct matrix *out, const struct stack *stack, struct error *error,
                   const char *name, ...) {
    const struct tensor *tensor;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){stack->parts, stack->part_rows, stack->columns}, 3, error, name, args);
    va_end(args);
    if (rc) return rc;
    size_t row = (size_t)stack->part * (size_t)stack->part_rows + (size_t)stack->first;
    size_t columns = (size_t)stack->columns;
    *out = (struct matrix){.format = binder->weights, .rows = stack->rows, .columns = stack->columns};
    return bind(binder, tensor, row * columns, (size_t)stack->rows * columns, binder->weights, &out->data, error);
}

// ---- Loading

static void convert(const struct conversion *conversion, size_t first, size_t elements) {
    const unsigned char *from = conversion->from + first * tensor_type_bytes(conversion->type);
    if (conversion->format == WEIGHTS_F32) {
        float *to = (float *)conversion->to + first;
        if (conversion->type == TENSOR_BF16) bf16_array_to_f32(from, to, elements);
        if (conversion->type == TENSOR_F16) f16_array_to_f32(from, to, elements);
        if (conversion->type == TENSOR_F32) memcpy(to, from, elements * sizeof *to);
    } else {
        uint16_t *to = (uint16_t *)conversion->to + first;
        if (conversion->type == TENSOR_BF16) memcpy(to, from, elements * sizeof *to);
        if (conversion->type == TENSOR_F16) f16_array_to_bf16(from, to, elements);
        if (conversion->type == TENSOR_F32) bf16_array_from_f32(from, to, elements);
    }
}

// The pages that [from, from + bytes) touches. Neighbours on a shared page lose nothing: it can be read again.
static void advise(const unsigned char *from, size_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)from / page * page;
    uintptr_t end = (uintptr_t)from + bytes;
    madvise((void *)begin, end - begin, advice); // only a hint: a refusal changes no result
}

void binder_load(struct binder *binder, void (*progress)(void *user, const char *what, double share), void *user) {
    double start = clock_seconds(), reported = start + QUIET_SECONDS - INTERVAL_SECONDS;
    uint64_t done = 0;
    for (size_t i = 0; i < binder->conversion_count; i++) {
        const struct conversion *conversion = &binder->conversions[i];
        size_t width = tensor_type_bytes(conversion->type), piece = PIECE_BYTES / width;
        for (size_t first = 0; first < conversion->elements; first += piece) {
            size_t left = conversion->elements - first, count = left < piece ? left : piece;
            const unsigned char *from = conversion->from + first * width;
            if (conversion->to) {
                convert(conversion, first, count);
                advise(from, count * width, MADV_DONTNEED);
            } else {
                advise(from, count * width, MADV_POPULATE_READ);
            }
            done += count;
            double now = clock_seconds();
            if (progress && now - reported >= INTERVAL_SECONDS) {
                progress(user, "loading weights", (double)done / (double)binder->parameters);
                reported = now;
            }
        }
    }
}

uint64_t binder_parameters(const struct binder *binder) {
    return binder->parameters;
}

size_t binder_bytes(const struct binder *binder) {
    return binder->bytes;
}
