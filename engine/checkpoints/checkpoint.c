#include "engine/checkpoints/checkpoint.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *tensor_type_name(enum tensor_type type) {
    switch (type) {
#define TENSOR_CASE(name, text, bytes) \
    case name: return text;
        TENSOR_TYPES(TENSOR_CASE)
#undef TENSOR_CASE
    }
    return "unknown";
}

size_t tensor_type_bytes(enum tensor_type type) {
    switch (type) {
#define TENSOR_CASE(name, text, bytes) \
    case name: return bytes;
        TENSOR_TYPES(TENSOR_CASE)
#undef TENSOR_CASE
    }
    return 0;
}

void checkpoint_close(struct checkpoint *checkpoint) {
    for (size_t i = 0; i < checkpoint->file_count; i++)
        if (checkpoint->files[i].map) munmap(checkpoint->files[i].map, checkpoint->files[i].bytes);
    free(checkpoint->files);
    free(checkpoint->tensors);
    arena_destroy(checkpoint->arena);
    *checkpoint = (struct checkpoint){0};
}

static int compare_to_name(const void *name, const void *tensor) {
    return strcmp(name, ((const struct tensor *)tensor)->name);
}

const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name) {
    if (checkpoint->tensor_count == 0) return NULL;
    return bsearch(name, checkpoint->tensors, checkpoint->tensor_count, sizeof *checkpoint->tensors, compare_to_name);
}
