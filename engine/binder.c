#include "engine/binder.h"

#include "base/checked.h"
#include "base/checksum.h"
#include "base/crew.h"
#include "engine/quants/bf16.h"
#include "engine/quants/f16.h"
#include "engine/quants/packed.h"
#include "engine/weight_cache.h"

#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    NAME_BYTES = 192,
    ALIGN_BYTES = 64,           // a cache line, the widest vector
    PIECE_BYTES = 4 << 20,      // converted or read at once, between two looks at the clock
    ROWS_STEP = PACKED_OUTPUTS, // that pieces begin at a multiple of
};

struct conversion { // of a matrix or vector, or the run of one that stays where it is
    const unsigned char *from;
    enum tensor_type type;
    enum weight_format format;
    int rows, columns;
    bool stays;        // in the mapping
    size_t at;         // else its place in the storage's memory
    const void **slot; // whose pointer that becomes
};

struct binder {
    struct model_storage *storage;
    enum weight_format weights;
    bool *bound; // [checkpoint.tensor_count]
    struct conversion *conversions;
    size_t conversion_count, conversion_capacity;
    uint64_t parameters;
    size_t bytes, converted_bytes, memory_bytes;
    size_t bytes_as[WEIGHT_FORMAT_COUNT]; // what `bytes` would be
    char cache_note[ERROR_MESSAGE_BYTES + 64];
    bool cache_lost;
};

void model_storage_finish(struct model_storage *storage) {
    if (storage->map) munmap(storage->map, storage->map_bytes);
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

static int find(struct binder *binder, const struct tensor **out, const int *shape, int dimensions, struct error *error,
                const char *format, va_list args) {
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

// Whether elements of this type are held so already.
static bool held_as(enum tensor_type type, enum weight_format format) {
    switch (format) {
    case WEIGHTS_F32:
        return type == TENSOR_F32;
    case WEIGHTS_BF16:
        return type == TENSOR_BF16;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        return false;
    }
    return false;
}

// `rows` rows from row `first` of a tensor, taken as one matrix, as `format`.
static int bind(struct binder *binder, const struct tensor *tensor, size_t first, int rows, int columns,
                enum weight_format format, const void **out, struct error *error) {
    size_t width = tensor_type_bytes(tensor->type), bytes = weight_format_bytes(format, rows, columns);
    struct conversion conversion = {.from = tensor->data + first * (size_t)columns * width,
                                    .type = tensor->type,
                                    .format = format,
                                    .rows = rows,
                                    .columns = columns,
                                    .slot = out};
    conversion.stays = held_as(tensor->type, format) && (uintptr_t)conversion.from % width == 0;
    *out = conversion.stays ? conversion.from : NULL;
    if (!conversion.stays) {
        size_t end;
        conversion.at = binder->memory_bytes;
        if (!checked_add(conversion.at, bytes, &end) || !checked_add(end, ALIGN_BYTES - 1, &end)) goto no_memory;
        binder->memory_bytes = end / ALIGN_BYTES * ALIGN_BYTES;
        binder->converted_bytes += bytes;
    }
    if (add_conversion(binder, &conversion)) goto no_memory;
    binder->bytes += bytes;
    return 0;
no_memory:
    return error_set(error, ERROR_MEMORY, "%s: tensor %s: out of memory for it as %s", tensor->path, tensor->name,
                     weight_format_name(format));
}

// fine: as embeddings and heads are held.
static int bind_matrix(struct binder *binder, const struct tensor *tensor, size_t first, int rows, int columns,
                       bool fine, struct matrix *out, struct error *error) {
    enum weight_format format = fine ? weight_format_fine(binder->weights) : binder->weights;
    *out = (struct matrix){.format = format, .rows = rows, .columns = columns};
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) {
        enum weight_format as = fine ? weight_format_fine((enum weight_format)i) : (enum weight_format)i;
        binder->bytes_as[i] += weight_format_bytes(as, rows, columns);
    }
    return bind(binder, tensor, first, rows, columns, format, &out->data, error);
}

int binder_matrix(struct binder *binder, struct matrix *out, int rows, int columns, struct error *error,
                  const char *name, ...) {
    const struct tensor *tensor;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){rows, columns}, 2, error, name, args);
    va_end(args);
    return rc ? rc : bind_matrix(binder, tensor, 0, rows, columns, false, out, error);
}

int binder_words(struct binder *binder, struct matrix *out, int rows, int columns, struct error *error,
                 const char *name, ...) {
    const struct tensor *tensor;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){rows, columns}, 2, error, name, args);
    va_end(args);
    return rc ? rc : bind_matrix(binder, tensor, 0, rows, columns, true, out, error);
}

int binder_floats(struct binder *binder, const float **out, int rows, int columns, struct error *error,
                  const char *name, ...) {
    const struct tensor *tensor;
    va_list args;
    va_start(args, name);
    int rc = find(binder, &tensor, (int[]){rows, columns}, columns ? 2 : 1, error, name, args);
    va_end(args);
    if (rc) return rc;
    if (columns == 0) columns = 1;
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++)
        binder->bytes_as[i] += weight_format_bytes(WEIGHTS_F32, rows, columns);
    return bind(binder, tensor, 0, rows, columns, WEIGHTS_F32, (const void **)out, error);
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
    return bind_matrix(binder, tensor, row, stack->rows, stack->columns, false, out, error);
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

// `count` rows of weights from row `first` on, in blocks: the last ones may reach beyond the matrix.
static void to_blocks(const struct conversion *conversion, int first, int count, unsigned char *to) {
    size_t width = tensor_type_bytes(conversion->type), columns = (size_t)conversion->columns;
    size_t block_bytes = weight_format_bytes(conversion->format, 1, 1);
    for (int row = first; row < first + count; row += PACKED_OUTPUTS)
        for (size_t column = 0; column < columns; column += PACKED_COLUMNS, to += block_bytes) {
            float weights[PACKED_OUTPUTS][PACKED_COLUMNS] = {0};
            size_t some = columns - column < PACKED_COLUMNS ? columns - column : PACKED_COLUMNS;
            for (int o = 0; o < PACKED_OUTPUTS && row + o < conversion->rows; o++)
                to_f32(conversion->type, conversion->from + ((size_t)(row + o) * columns + column) * width, weights[o],
                       some);
            packed_block(conversion->format, weights[0], to);
        }
}

// `count` rows from row `first` on, a multiple of ROWS_STEP.
static void convert(const struct conversion *conversion, int first, int count, unsigned char *memory) {
    size_t skip = (size_t)first * (size_t)conversion->columns, elements = (size_t)count * (size_t)conversion->columns;
    const unsigned char *from = conversion->from + skip * tensor_type_bytes(conversion->type);
    unsigned char *to = memory + conversion->at + weight_format_bytes(conversion->format, first, conversion->columns);
    switch (conversion->format) {
    case WEIGHTS_F32:
        to_f32(conversion->type, from, (float *)(void *)to, elements);
        break;
    case WEIGHTS_BF16:
        to_bf16(conversion->type, from, (uint16_t *)(void *)to, elements);
        break;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        to_blocks(conversion, first, count, to);
        break;
    }
}

// The pages that [from, from + bytes) touches. Neighbours on a shared page lose nothing: it can be read again.
static void advise(const unsigned char *from, size_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)from / page * page;
    uintptr_t end = (uintptr_t)from + bytes;
    madvise((void *)begin, end - begin, advice); // only a hint: a refusal changes no result
}

struct piece { // rows [first, first + count) of a conversion
    const struct conversion *conversion;
    int first, count;
};

// What the threads that load share. Threads of their own, not OpenMP's: its team would stay with the thread that
// opens a model for as long as that lives.
struct loading {
    const struct binder *binder;
    pthread_mutex_t lock; // guards what follows
    size_t at;            // the next piece begins at row `first` of conversion `at`
    int first;
    uint64_t elements; // of all pieces that were taken
};

static int rows_at_once(const struct conversion *conversion) {
    size_t row_bytes = (size_t)conversion->columns * tensor_type_bytes(conversion->type);
    size_t rows = PIECE_BYTES / row_bytes / ROWS_STEP * ROWS_STEP;
    return rows < ROWS_STEP ? ROWS_STEP : rows < INT_MAX ? (int)rows : INT_MAX;
}

static bool take_piece(struct loading *loading, struct piece *out) {
    const struct binder *binder = loading->binder;
    pthread_mutex_lock(&loading->lock);
    bool any = loading->at < binder->conversion_count;
    if (any) {
        const struct conversion *conversion = &binder->conversions[loading->at];
        int most = rows_at_once(conversion), left = conversion->rows - loading->first;
        *out = (struct piece){conversion, loading->first, left < most ? left : most};
        loading->first += out->count;
        loading->elements += (uint64_t)out->count * (uint64_t)conversion->columns;
        if (loading->first == conversion->rows) {
            loading->at++;
            loading->first = 0;
        }
    }
    pthread_mutex_unlock(&loading->lock);
    return any;
}

static void load_piece(const struct loading *loading, const struct piece *piece) {
    const struct conversion *conversion = piece->conversion;
    size_t row_bytes = (size_t)conversion->columns * tensor_type_bytes(conversion->type);
    const unsigned char *from = conversion->from + (size_t)piece->first * row_bytes;
    if (!conversion->stays) convert(conversion, piece->first, piece->count, loading->binder->storage->memory);
    advise(from, (size_t)piece->count * row_bytes, conversion->stays ? MADV_POPULATE_READ : MADV_DONTNEED);
}

static bool load_next(void *work) {
    struct piece piece;
    if (!take_piece(work, &piece)) return false;
    load_piece(work, &piece);
    return true;
}

static double share_taken(void *work) {
    struct loading *loading = work;
    uint64_t all = loading->binder->parameters; // what is bound twice is loaded twice
    pthread_mutex_lock(&loading->lock);
    uint64_t taken = loading->elements;
    pthread_mutex_unlock(&loading->lock);
    return taken < all ? (double)taken / (double)all : 1;
}

// Conversions are where their pointers will look for them.
static void place_conversions(struct binder *binder) {
    for (size_t i = 0; i < binder->conversion_count; i++)
        if (!binder->conversions[i].stays)
            *binder->conversions[i].slot = binder->storage->memory + binder->conversions[i].at;
}

// Room for all conversions, on large pages where there are any; it becomes resident as it is written.
static int take_memory(struct binder *binder, struct error *error) {
    struct model_storage *storage = binder->storage;
    if (storage->memory || binder->memory_bytes == 0) return 0;
    void *memory = mmap(NULL, binder->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return error_set(error, ERROR_MEMORY, "%s: out of memory for %.1f MB of weights as %s", anywhere(binder),
                         (double)binder->memory_bytes / 1e6, weight_format_name(binder->weights));
    madvise(memory, binder->memory_bytes, MADV_HUGEPAGE);
    storage->memory = storage->map = memory;
    storage->memory_bytes = storage->map_bytes = binder->memory_bytes;
    place_conversions(binder);
    return 0;
}

// ---- The cache

enum { SAMPLE_EVERY_BYTES = 4 << 20, SAMPLE_BYTES = 512 };

// Place of a byte among the files, wherever they are mapped.
static uint64_t offset_of(const struct checkpoint *checkpoint, const unsigned char *byte) {
    uint64_t before = 0;
    for (size_t i = 0; i < checkpoint->file_count; before += checkpoint->files[i++].bytes)
        if (byte >= checkpoint->files[i].map && byte < checkpoint->files[i].map + checkpoint->files[i].bytes)
            return before + (uint64_t)(byte - checkpoint->files[i].map);
    return before;
}

// Of what conversions are made from and into: the files' sizes, time and samples of their content, which a training
// step would change everywhere, and each conversion. Reading all of it would take as long as the cache saves.
static uint64_t cache_key(const struct binder *binder) {
    const struct checkpoint *checkpoint = &binder->storage->checkpoint;
    uint64_t key = checksum(0, &checkpoint->modified, sizeof checkpoint->modified);
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        const struct checkpoint_file *file = &checkpoint->files[i];
        key = checksum(key, &file->bytes, sizeof file->bytes);
        for (size_t at = 0; at < file->bytes; at += SAMPLE_EVERY_BYTES)
            key = checksum(key, file->map + at,
                                   file->bytes - at < SAMPLE_BYTES ? file->bytes - at : SAMPLE_BYTES);
        if (file->bytes > SAMPLE_BYTES)
            key = checksum(key, file->map + file->bytes - SAMPLE_BYTES, SAMPLE_BYTES);
    }
    for (size_t i = 0; i < binder->conversion_count; i++) {
        const struct conversion *conversion = &binder->conversions[i];
        const uint64_t facts[] = {conversion->stays ? UINT64_MAX : (uint64_t)conversion->at,
                                  (uint64_t)conversion->format,
                                  (uint64_t)conversion->type,
                                  (uint64_t)conversion->rows,
                                  (uint64_t)conversion->columns,
                                  offset_of(checkpoint, conversion->from)};
        key = checksum(key, facts, sizeof facts);
    }
    return key;
}

// Whether the conversions were found in the cache file.
static bool map_cache(struct binder *binder, const struct binder_loading *how, uint64_t key) {
    struct model_storage *storage = binder->storage;
    struct weight_cache_mapping mapping;
    struct error error;
    int code = weight_cache_map(how->cache, key, binder->memory_bytes, how->threads, &mapping, &error);
    if (code) {
        bool damaged = code != ERROR_NOT_FOUND;
        snprintf(binder->cache_note, sizeof binder->cache_note, "%s%s", damaged ? "made again: " : "",
                 damaged ? error.message : "made");
        return false;
    }
    storage->map = mapping.map;
    storage->map_bytes = mapping.map_bytes;
    storage->memory = mapping.weights;
    storage->memory_bytes = binder->memory_bytes;
    place_conversions(binder);
    snprintf(binder->cache_note, sizeof binder->cache_note, "mapped from %s", how->cache);
    return true;
}

static void tell_writing(void *report, double share) {
    crew_tell(report, share);
}

// What goes wrong here costs the next start some time, and no more.
static void write_cache(struct binder *binder, const struct binder_loading *how, uint64_t key) {
    struct crew_report report = crew_report(how->progress, how->progress_user, "writing the cache", how->quiet_seconds);
    struct error error;
    int code = weight_cache_write(how->cache, key, binder->storage->memory, binder->memory_bytes, tell_writing, &report,
                                  &error);
    binder->cache_lost = code != 0;
    if (binder->cache_lost)
        snprintf(binder->cache_note, sizeof binder->cache_note, "not written: %s", error.message);
    else
        snprintf(binder->cache_note + strlen(binder->cache_note),
                 sizeof binder->cache_note - strlen(binder->cache_note), ": %s", how->cache);
}

int binder_load(struct binder *binder, const struct binder_loading *how, struct error *error) {
    bool cached = how->cache && weight_format_packed(binder->weights) && binder->memory_bytes > 0;
    uint64_t key = cached ? cache_key(binder) : 0;
    if (cached && map_cache(binder, how, key)) return 0;
    if (how->memory_bytes && binder->converted_bytes > how->memory_bytes)
        return error_set(error, ERROR_MEMORY,
                         "%s: holding the weights as %s needs %.1f MB of memory beside the files, and %.1f MB are free",
                         anywhere(binder), weight_format_name(binder->weights), (double)binder->converted_bytes / 1e6,
                         (double)how->memory_bytes / 1e6);
    int code = take_memory(binder, error);
    if (code) return code;
    struct loading loading = {.binder = binder};
    struct crew_report report = crew_report(how->progress, how->progress_user, "loading weights", how->quiet_seconds);
    pthread_mutex_init(&loading.lock, NULL);
    crew_run(how->threads, load_next, &loading, &report, share_taken);
    pthread_mutex_destroy(&loading.lock);
    if (cached) write_cache(binder, how, key);
    return 0;
}

const char *binder_cache_note(const struct binder *binder) {
    return binder->cache_note;
}

bool binder_cache_lost(const struct binder *binder) {
    return binder->cache_lost;
}

uint64_t binder_parameters(const struct binder *binder) {
    return binder->parameters;
}

size_t binder_bytes_as(const struct binder *binder, enum weight_format format) {
    return binder->bytes_as[format];
}

size_t binder_bytes(const struct binder *binder) {
    return binder->bytes;
}

size_t binder_converted_bytes(const struct binder *binder) {
    return binder->converted_bytes;
}
