#include "engine/binder.h"

#include "base/checked.h"
#include "base/clock.h"
#include "engine/quants/bf16.h"
#include "engine/quants/f16.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    NAME_BYTES = 192,
    ALIGN_BYTES = 64,        // a cache line, the widest vector
    PIECE_BYTES = 32 << 20,  // converted or read at once, between two looks at the clock
    THREADS_MAX = 64,        // that load: beyond these, the disk or the memory is what takes time
};
static const double INTERVAL_SECONDS = 0.1; // between two reports of progress

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
    uint64_t parameters, matrix_elements;
    size_t bytes, converted_bytes;
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

// Whether elements of this type are held so already.
static bool held_as(enum tensor_type type, enum weight_format format) {
    switch (format) {
    case WEIGHTS_F32: return type == TENSOR_F32;
    case WEIGHTS_BF16: return type == TENSOR_BF16;
    }
    return false;
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
        binder->converted_bytes += bytes; // cannot overflow: all of it is reserved
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
    binder->matrix_elements += (uint64_t)rows * (uint64_t)columns;
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
    binder->matrix_elements += (uint64_t)stack->rows * columns;
    return bind(binder, tensor, row * columns, (size_t)stack->rows * columns, binder->weights, &out->data, error);
}

// ---- Loading

static void to_f32(enum tensor_type type, const unsigned char *from, float *to, size_t elements) {
    if (type == TENSOR_BF16) bf16_array_to_f32(from, to, elements);
    if (type == TENSOR_F16) f16_array_to_f32(from, to, elements);
    if (type == TENSOR_F32) memcpy(to, from, elements * sizeof *to);
}

static void to_bf16(enum tensor_type type, const unsigned char *from, uint16_t *to, size_t elements) {
    if (type == TENSOR_BF16) memcpy(to, from, elements * sizeof *to);
    if (type == TENSOR_F16) f16_array_to_bf16(from, to, elements);
    if (type == TENSOR_F32) bf16_array_from_f32(from, to, elements);
}

static void convert(const struct conversion *conversion, size_t first, size_t elements) {
    const unsigned char *from = conversion->from + first * tensor_type_bytes(conversion->type);
    switch (conversion->format) {
    case WEIGHTS_F32: to_f32(conversion->type, from, (float *)conversion->to + first, elements); break;
    case WEIGHTS_BF16: to_bf16(conversion->type, from, (uint16_t *)conversion->to + first, elements); break;
    }
}

// The pages that [from, from + bytes) touches. Neighbours on a shared page lose nothing: it can be read again.
static void advise(const unsigned char *from, size_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)from / page * page;
    uintptr_t end = (uintptr_t)from + bytes;
    madvise((void *)begin, end - begin, advice); // only a hint: a refusal changes no result
}

struct piece { // elements [first, first + count) of a conversion
    const struct conversion *conversion;
    size_t first, count;
};

// What the threads that load share. Threads of their own, not OpenMP's: its team would stay with the thread that
// opens a model for as long as that lives.
struct loading {
    const struct binder *binder;
    pthread_mutex_t lock; // guards what follows
    size_t at, first;     // the next piece begins at element `first` of conversion `at`
    uint64_t elements;    // of all pieces that were taken
};

static bool take_piece(struct loading *loading, struct piece *out) {
    const struct binder *binder = loading->binder;
    pthread_mutex_lock(&loading->lock);
    bool any = loading->at < binder->conversion_count;
    if (any) {
        const struct conversion *conversion = &binder->conversions[loading->at];
        size_t most = PIECE_BYTES / tensor_type_bytes(conversion->type), left = conversion->elements - loading->first;
        *out = (struct piece){conversion, loading->first, left < most ? left : most};
        loading->first += out->count;
        loading->elements += out->count;
        if (loading->first == conversion->elements) {
            loading->at++;
            loading->first = 0;
        }
    }
    pthread_mutex_unlock(&loading->lock);
    return any;
}

static void load_piece(const struct piece *piece) {
    const struct conversion *conversion = piece->conversion;
    size_t width = tensor_type_bytes(conversion->type);
    const unsigned char *from = conversion->from + piece->first * width;
    if (conversion->to) convert(conversion, piece->first, piece->count);
    advise(from, piece->count * width, conversion->to ? MADV_DONTNEED : MADV_POPULATE_READ);
}

static void *load_pieces(void *argument) {
    struct piece piece;
    while (take_piece(argument, &piece)) load_piece(&piece);
    return NULL;
}

static double share_taken(struct loading *loading) {
    uint64_t all = loading->binder->parameters; // what is bound twice is loaded twice
    pthread_mutex_lock(&loading->lock);
    uint64_t taken = loading->elements;
    pthread_mutex_unlock(&loading->lock);
    return taken < all ? (double)taken / (double)all : 1;
}

static void load_and_tell(struct loading *loading, const struct binder_loading *how) {
    double reported = clock_seconds() + how->quiet_seconds - INTERVAL_SECONDS;
    struct piece piece;
    while (take_piece(loading, &piece)) {
        load_piece(&piece);
        double now = clock_seconds();
        if (!how->progress || now - reported < INTERVAL_SECONDS) continue;
        how->progress(how->progress_user, "loading weights", share_taken(loading));
        reported = now;
    }
}

int binder_load(struct binder *binder, const struct binder_loading *how, struct error *error) {
    if (how->memory_bytes && binder->converted_bytes > how->memory_bytes)
        return error_set(error, ERROR_MEMORY,
                         "%s: holding the weights as %s needs %.1f MB of memory beside the files, and %.1f MB are free",
                         anywhere(binder), weight_format_name(binder->weights), (double)binder->converted_bytes / 1e6,
                         (double)how->memory_bytes / 1e6);
    struct loading loading = {.binder = binder};
    pthread_mutex_init(&loading.lock, NULL);
    pthread_t helpers[THREADS_MAX];
    int wanted = how->threads < THREADS_MAX ? how->threads - 1 : THREADS_MAX - 1, started = 0;
    while (started < wanted && pthread_create(&helpers[started], NULL, load_pieces, &loading) == 0) started++;
    load_and_tell(&loading, how); // all of it where no helper could be started
    for (int i = 0; i < started; i++) pthread_join(helpers[i], NULL);
    pthread_mutex_destroy(&loading.lock);
    return 0;
}

uint64_t binder_parameters(const struct binder *binder) {
    return binder->parameters;
}

uint64_t binder_matrix_elements(const struct binder *binder) {
    return binder->matrix_elements;
}

size_t binder_bytes(const struct binder *binder) {
    return binder->bytes;
}

size_t binder_converted_bytes(const struct binder *binder) {
    return binder->converted_bytes;
}
