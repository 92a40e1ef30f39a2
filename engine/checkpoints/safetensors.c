// safetensors: 8 bytes of header length (little-endian), a JSON header {name: {dtype, shape, data_offsets}}, then
// the data without holes. Several files are tied together by model.safetensors.index.json.
#include "base/checked.h"
#include "base/file.h"
#include "engine/checkpoints/checkpoint.h"
#include "engine/hf_json.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    LENGTH_BYTES = 8,
    HEADER_BYTES_MAX = 32 << 20, // Phi-3.5-MoE's is 0.2 MB
    INDEX_BYTES_MAX = 32 << 20,
    TENSORS_MAX = 200000, // Phi-3.5-MoE has 1,900
    FILES_MAX = 256,
    NAMES_BYTES_MAX = 64 << 20,
};

static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";

static int out_of_memory(const char *path, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: out of memory while reading", path);
}

// dir/name; NULL: out of memory. How long a path may be is left to the system.
static const char *join(struct checkpoint *checkpoint, const char *dir, const char *name) {
    size_t bytes = strlen(dir) + strlen(name) + 2;
    char *path = arena_alloc(checkpoint->arena, bytes, 1);
    if (path) snprintf(path, bytes, "%s/%s", dir, name);
    return path;
}

// ---- One tensor's entry

static bool parse_type(const char *name, enum tensor_type *out) {
    TENSOR_TYPES(NAMED_MATCH)
    return false;
}

// An element of an array of sizes.
static bool parse_size(const json_t *array, size_t at, size_t *out) {
    const json_t *value = json_array_get(array, at);
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

// The shape, and the bytes that it asks for.
static int parse_shape(const char *path, struct tensor *tensor, const json_t *shape, size_t *bytes,
                       struct error *error) {
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_DIMENSIONS_MAX)
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: shape: expected an array of at most %d sizes, found %s",
                         path, tensor->name, TENSOR_DIMENSIONS_MAX,
                         json_is_array(shape) ? "a longer one" : hf_json_kind(shape));
    tensor->dimensions = (int)json_array_size(shape);
    *bytes = tensor_type_bytes(tensor->type);
    for (int i = 0; i < tensor->dimensions; i++) {
        size_t *size = &tensor->shape[i];
        if (!parse_size(shape, (size_t)i, size))
            return error_set(
                error, ERROR_FORMAT, "%s: tensor %s: shape: expected sizes of at least 0, found %s", path, tensor->name,
                json_is_integer(json_array_get(shape, (size_t)i)) ? "a negative one"
                                                                  : hf_json_kind(json_array_get(shape, (size_t)i)));
        if (!checked_mul(*bytes, *size, bytes))
            return error_set(error, ERROR_FORMAT, "%s: tensor %s: shape: its product is beyond 64 bits", path,
                             tensor->name);
    }
    return 0;
}

// data: what follows the header.
static int parse_tensor(const struct checkpoint_file *file, const unsigned char *data, size_t data_bytes,
                        struct tensor *tensor, const json_t *entry, struct error *error) {
    const char *path = file->path;
    if (!json_is_object(entry))
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: expected an object, found %s", path, tensor->name,
                         hf_json_kind(entry));
    const json_t *dtype = json_object_get(entry, "dtype");
    const char *type = json_string_value(dtype);
    if (!type)
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: dtype: expected a string, found %s", path, tensor->name,
                         hf_json_kind(dtype));
    if (!parse_type(type, &tensor->type))
        return error_set(error, ERROR_UNSUPPORTED, "%s: tensor %s: dtype: expected one such as BF16, found \"%.40s\"",
                         path, tensor->name, type);

    size_t bytes = 0;
    int rc = parse_shape(path, tensor, json_object_get(entry, "shape"), &bytes, error);
    if (rc) return rc;

    const json_t *offsets = json_object_get(entry, "data_offsets");
    size_t begin, end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !parse_size(offsets, 0, &begin) ||
        !parse_size(offsets, 1, &end))
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: data_offsets: expected two sizes of at least 0", path,
                         tensor->name);
    if (begin > end || !checked_range(begin, end - begin, data_bytes))
        return error_set(error, ERROR_FORMAT,
                         "%s: tensor %s: data_offsets: expected a range within the %zu bytes of data, found [%zu, %zu]",
                         path, tensor->name, data_bytes, begin, end);
    if (end - begin != bytes)
        return error_set(error, ERROR_FORMAT, "%s: tensor %s: expected %zu bytes for its shape and dtype %s, found %zu",
                         path, tensor->name, bytes, type, end - begin);
    tensor->path = path;
    tensor->data = data + begin;
    tensor->bytes = bytes;
    return 0;
}

// ---- One file

// Whether the tensors of a header lie as they have to (from the first byte on, without holes), but end behind the data.
static bool ends_too_early(json_t *header, size_t data_bytes, size_t *promised) {
    size_t sum = 0, begin, end;
    const char *name;
    json_t *entry;
    *promised = 0;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        const json_t *offsets = json_object_get(entry, "data_offsets");
        if (!parse_size(offsets, 0, &begin) || !parse_size(offsets, 1, &end) || begin > end ||
            !checked_add(sum, end - begin, &sum))
            return false;
        if (end > *promised) *promised = end;
    }
    return *promised > data_bytes && *promised == sum;
}

static int cut_short(const char *path, size_t found, size_t least, struct error *error) {
    return error_set(error, ERROR_FORMAT,
                     "%s: the file ends too early: it has %zu bytes, and its header tells of %zu; download it again",
                     path, found, least);
}

static int compare_data(const void *left, const void *right) {
    const struct tensor *a = left, *b = right;
    if (a->data != b->data) return a->data < b->data ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes); // an empty tensor lies before its neighbour
}

// The format's own rule: tensors cover the data from its first byte to its last, none overlap.
static int check_layout(const struct checkpoint_file *file, const unsigned char *data, size_t data_bytes,
                        struct tensor *tensors, size_t count, struct error *error) {
    qsort(tensors, count, sizeof *tensors, compare_data);
    const unsigned char *at = data;
    for (size_t i = 0; i < count; at += tensors[i].bytes, i++)
        if (tensors[i].data != at)
            return error_set(error, ERROR_FORMAT,
                             "%s: tensor %s: expected to begin at byte %td of the data, where the one before it ends, "
                             "found %td",
                             file->path, tensors[i].name, at - data, tensors[i].data - data);
    if (at != data + data_bytes)
        return error_set(error, ERROR_FORMAT, "%s: expected %td bytes of data for its tensors, found %zu", file->path,
                         at - data, data_bytes);
    return 0;
}

static int add_tensors(struct checkpoint *checkpoint, const struct checkpoint_file *file, const unsigned char *data,
                       size_t data_bytes, json_t *header, struct error *error) {
    size_t count = json_object_size(header) - (json_object_get(header, "__metadata__") != NULL);
    if (count > TENSORS_MAX - checkpoint->tensor_count)
        return error_set(error, ERROR_FORMAT, "%s: expected at most %d tensors in a model", file->path, TENSORS_MAX);
    struct tensor *tensors =
        realloc(checkpoint->tensors, (checkpoint->tensor_count + count + 1) * sizeof *checkpoint->tensors);
    if (!tensors) return out_of_memory(file->path, error);
    checkpoint->tensors = tensors;

    struct tensor *tensor = tensors + checkpoint->tensor_count;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        *tensor = (struct tensor){.name = arena_copy(checkpoint->arena, name, strlen(name))};
        if (!tensor->name) return out_of_memory(file->path, error);
        int rc = parse_tensor(file, data, data_bytes, tensor, entry, error);
        if (rc) return rc;
        tensor++;
    }
    int rc = check_layout(file, data, data_bytes, tensors + checkpoint->tensor_count, count, error);
    if (rc) return rc;
    checkpoint->tensor_count += count;
    return 0;
}

static int read_header(struct checkpoint *checkpoint, const struct checkpoint_file *file, struct error *error) {
    if (file->bytes < LENGTH_BYTES)
        return error_set(error, ERROR_FORMAT, "%s: expected at least %d bytes, found %zu", file->path, LENGTH_BYTES,
                         file->bytes);
    static const char POINTER[] = "version https://git-lfs";
    if (file->bytes >= sizeof POINTER && memcmp(file->map, POINTER, sizeof POINTER - 1) == 0)
        return error_set(error, ERROR_FORMAT,
                         "%s: expected weights, found a pointer of git-lfs to them; `git lfs pull` in "
                         "its directory fetches the weights",
                         file->path);
    uint64_t length;
    memcpy(&length, file->map, sizeof length);
    length = le64toh(length);
    size_t room = file->bytes - LENGTH_BYTES;
    if (length > room && length <= HEADER_BYTES_MAX)
        return cut_short(file->path, file->bytes, LENGTH_BYTES + length, error);
    if (length > room || length > HEADER_BYTES_MAX)
        return error_set(error, ERROR_FORMAT, "%s: expected a header of at most %zu bytes, found a length of %" PRIu64,
                         file->path, room < HEADER_BYTES_MAX ? room : HEADER_BYTES_MAX, length);

    const unsigned char *text = file->map + LENGTH_BYTES;
    json_t *header;
    int rc = hf_json_parse((const char *)text, length, file->path, &header, error);
    if (rc) return rc;
    size_t promised;
    rc = ends_too_early(header, room - length, &promised)
             ? cut_short(file->path, file->bytes, LENGTH_BYTES + length + promised, error)
             : add_tensors(checkpoint, file, text + length, room - length, header, error);
    json_decref(header);
    return rc;
}

// Maps a file and adds its tensors. checkpoint->files has room for it.
static int add_file(struct checkpoint *checkpoint, const char *dir, const char *name, struct error *error) {
    const char *path = join(checkpoint, dir, name);
    if (!path) return out_of_memory(dir, error);
    struct file opened;
    int rc = file_open(&opened, path, PTRDIFF_MAX, error);
    if (rc) return rc;

    struct checkpoint_file *file = &checkpoint->files[checkpoint->file_count++];
    *file = (struct checkpoint_file){.path = path, .bytes = opened.bytes};
    if (opened.bytes) {
        void *map = mmap(NULL, opened.bytes, PROT_READ, MAP_PRIVATE, opened.fd, 0);
        if (map == MAP_FAILED) {
            rc = error_set(error, ERROR_IO, "%s: %zu bytes cannot be mapped: %s", path, opened.bytes, strerror(errno));
            goto done;
        }
        file->map = map;
    }
    if (opened.modified > checkpoint->modified) checkpoint->modified = opened.modified;
    rc = read_header(checkpoint, file, error);
done:
    close(opened.fd);
    return rc;
}

// ---- The model's files

static int compare_names(const void *left, const void *right) {
    return strcmp(((const struct tensor *)left)->name, ((const struct tensor *)right)->name);
}

static int sort_by_name(struct checkpoint *checkpoint, struct error *error) {
    struct tensor *tensors = checkpoint->tensors;
    qsort(tensors, checkpoint->tensor_count, sizeof *tensors, compare_names);
    for (size_t i = 1; i < checkpoint->tensor_count; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return error_set(error, ERROR_FORMAT, "%s: tensor %s: expected in one file only, found in %s too",
                             tensors[i].path, tensors[i].name, tensors[i - 1].path);
    return 0;
}

static bool plain_file_name(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length <= NAME_MAX && !strpbrk(name, "/\\") && !strstr(name, "..") && name[0] != '.';
}

// The names of the index's files, each once; the strings belong to the index.
static int list_files(const json_t *map, const char *path, const char **names, size_t *count, struct error *error) {
    const char *tensor;
    json_t *value;
    *count = 0;
    json_object_foreach((json_t *)map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !plain_file_name(name))
            return error_set(error, ERROR_FORMAT,
                             "%s: weight_map: %.80s: expected a file name without a path, found %.80s", path, tensor,
                             name ? name : hf_json_kind(value));
        size_t i = 0;
        while (i < *count && strcmp(names[i], name) != 0) i++;
        if (i < *count) continue;
        if (*count == FILES_MAX)
            return error_set(error, ERROR_FORMAT, "%s: weight_map: expected at most %d files", path, FILES_MAX);
        names[(*count)++] = name;
    }
    if (*count == 0) return error_set(error, ERROR_FORMAT, "%s: weight_map: expected at least one tensor", path);
    return 0;
}

// Index and files must agree in both directions.
static int check_index(const struct checkpoint *checkpoint, const json_t *map, const char *path, struct error *error) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        const struct tensor *tensor = checkpoint_find(checkpoint, name);
        const char *file = json_string_value(value);
        if (!tensor)
            return error_set(error, ERROR_FORMAT, "%s: tensor %.80s: expected in %s, found in no file", path, name,
                             file);
        if (strcmp(strrchr(tensor->path, '/') + 1, file) != 0)
            return error_set(error, ERROR_FORMAT, "%s: tensor %.80s: expected in %s, found in %s", path, name, file,
                             tensor->path);
    }
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        if (!json_object_get(map, checkpoint->tensors[i].name))
            return error_set(error, ERROR_FORMAT, "%s: tensor %.80s: found in %s, missing from weight_map", path,
                             checkpoint->tensors[i].name, checkpoint->tensors[i].path);
    return 0;
}

static int open_indexed(struct checkpoint *checkpoint, const char *dir, const char *path, const json_t *index,
                        struct error *error) {
    const json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map))
        return error_set(error, ERROR_FORMAT, "%s: weight_map: expected an object, found %s", path, hf_json_kind(map));
    const char **names = calloc(FILES_MAX, sizeof *names);
    size_t count = 0;
    int rc = names ? list_files(map, path, names, &count, error) : out_of_memory(path, error);
    if (rc) goto done;
    checkpoint->files = calloc(count, sizeof *checkpoint->files);
    if (!checkpoint->files) rc = out_of_memory(path, error);
    for (size_t i = 0; !rc && i < count; i++) rc = add_file(checkpoint, dir, names[i], error);
    if (!rc) rc = sort_by_name(checkpoint, error);
    if (!rc) rc = check_index(checkpoint, map, path, error);
done:
    free(names);
    return rc;
}

static int open_single(struct checkpoint *checkpoint, const char *dir, struct error *error) {
    checkpoint->files = calloc(1, sizeof *checkpoint->files);
    if (!checkpoint->files) return out_of_memory(dir, error);
    int rc = add_file(checkpoint, dir, SINGLE, error);
    return rc ? rc : sort_by_name(checkpoint, error);
}

int safetensors_open(struct checkpoint *out, const char *dir, struct error *error) {
    struct checkpoint checkpoint = {.arena = arena_create(NAMES_BYTES_MAX)};
    if (!checkpoint.arena) return out_of_memory(dir, error);
    json_t *index = NULL;
    int rc;

    const char *path = join(&checkpoint, dir, SINGLE);
    const char *index_path = join(&checkpoint, dir, INDEX);
    if (!path || !index_path) {
        rc = out_of_memory(dir, error);
    } else if (access(path, F_OK) == 0 || errno != ENOENT) { // as transformers: the single file goes first
        rc = open_single(&checkpoint, dir, error);
    } else {
        rc = hf_json_load(index_path, INDEX_BYTES_MAX, &index, error);
        if (rc == ERROR_NOT_FOUND) error_set(error, rc, "%s: expected %s or %s, found neither", dir, SINGLE, INDEX);
        if (!rc) rc = open_indexed(&checkpoint, dir, index_path, index, error);
    }
    json_decref(index);
    if (rc) {
        checkpoint_close(&checkpoint);
        return rc;
    }
    *out = checkpoint;
    return 0;
}
