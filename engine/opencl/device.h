// Which OpenCL devices there are, and the one that is used. The engine thread's.
#ifndef ENGINE_OPENCL_DEVICE_H
#define ENGINE_OPENCL_DEVICE_H

#include "engine/opencl/api.h"

struct opencl_device {
    cl_device_id id;
    char name[128], platform[128], driver[64];
    bool gpu;
    bool shared_memory;  // with the host: a buffer may lie where the host's data lies
    bool exact_division; // when asked for
    bool fp16;           // computes in f16
    size_t alloc_bytes_max, memory_bytes;
    unsigned levels;                  // a bit for each row of OPENCL_LEVELS that it may get
    const struct opencl_level *level; // the last of them
};

// What kernels a device gets: the last row of this table all of whose extensions it has, and whose kernels its compiler
// takes.
struct opencl_level {
    const char *name;          // for a person
    const char *extensions[4]; // that it takes; up to NULL
    const char *options;       // for the kernels' build
    bool sub_groups;           // of 16
    bool dot; // products of four bytes: for weights that are integers, whose rows then are as the CPU's
};
enum { OPENCL_LEVEL_COUNT = 6 };
extern const struct opencl_level OPENCL_LEVELS[OPENCL_LEVEL_COUNT];

// Gives up a device's level for the best one below it. False: there is none.
bool opencl_device_lower(struct opencl_device *device);

struct opencl_wanted {
    bool gpu_only;
    bool integers;     // weights are
    const char *level; // see struct opencl_options
};

// The best device that has what the kernels need: a GPU before all others, then the one with most compute units.
// ERROR_UNSUPPORTED says what there is instead.
int opencl_device_find(const struct opencl_api *api, const struct opencl_wanted *wanted, struct opencl_device *out,
                       struct error *error);

#endif
