// A checkpoint: the tensors that a model's files hold, found and checked for themselves, not yet given a
// meaning. Files stay mapped for as long as the checkpoint lives; whoever opened it owns it. Read-only once open.
// A file that is cut short while it is mapped ends the process: reading a page that is gone raises SIGBUS, and there
// is nothing to go on with. To replace a model, write it beside the old one and rename it: the old one lives on.
#ifndef ENGINE_CHECKPOINTS_CHECKPOINT_H
#define ENGINE_CHECKPOINTS_CHECKPOINT_H

#include "base/arena.h"
#include "base/error.h"
#include "base/named.h"

#include <stddef.h>
#include <stdint.h>

// Element types that a file may name: name in the file, bytes an element.
#define TENSOR_TYPES(X) \
    X(TENSOR_BF16, "BF16", 2) \
    X(TENSOR_F16, "F16", 2) \
    X(TENSOR_F32, "F32", 4) \
    X(TENSOR_F64, "F64", 8) \
    X(TENSOR_F8_E4M3, "F8_E4M3", 1) \
    X(TENSOR_F8_E5M2, "F8_E5M2", 1) \
    X(TENSOR_BOOL, "BOOL", 1) \
    X(TENSOR_U8, "U8", 1) \
    X(TENSOR_I8, "I8", 1) \
    X(TENSOR_U16, "U16", 2) \
    X(TENSOR_I16, "I16", 2) \
    X(TENSOR_U32, "U32", 4) \
    X(TENSOR_I32, "I32", 4) \
    X(TENSOR_U64, "U64", 8) \
    X(TENSOR_I64, "I64", 8)

enum tensor_type {
    TENSOR_TYPES(NAMED_VALUE)
};
enum { TENSOR_TYPE_COUNT = 0 TENSOR_TYPES(NAMED_ONE) };

const char *tensor_type_name(enum tensor_type type);
size_t tensor_type_bytes(enum tensor_type type);

enum { TENSOR_DIMENSIONS_MAX = 8 };

struct tensor {
    const char *name;
    const char *path; // of the file that holds it
    enum tensor_type type;
    int dimensions;
    size_t shape[TENSOR_DIMENSIONS_MAX];
    const unsigned char *data; // in the mapping; may start at any byte
    size_t bytes;              // product of the shape × size of the type
};

struct checkpoint_file {
    const char *path;
    unsigned char *map;
    size_t bytes;
};

struct checkpoint {
    struct arena *arena; // names and paths
    struct checkpoint_file *files;
    size_t file_count;
    struct tensor *tensors; // sorted by name, no name twice
    size_t tensor_count;
    int64_t modified; // the newest file's time, seconds since 1970
};

// model.safetensors in dir, or else the files that model.safetensors.index.json names.
int safetensors_open(struct checkpoint *out, const char *dir, struct error *error);

void checkpoint_close(struct checkpoint *checkpoint); // takes one that is all zeros too

const struct tensor *checkpoint_find(const struct checkpoint *checkpoint, const char *name); // NULL: none

#endif
