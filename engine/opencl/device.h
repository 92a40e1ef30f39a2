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
    size_t alloc_bytes_max;
    const struct opencl_level *level;
};

// What kernels a device gets: the last row of this table all of whose extensions it has.
struct opencl_level {
    const char *name;          // for a person
    const char *extensions[4]; // that it takes; up to NULL
    const char *options;       // for the kernels' build
    int tile_outputs;          // what a work group computes in calls of many rows
};

// The best device that has what the kernels need: a GPU before all others, then the one with most compute units. level:
// see struct opencl_options. ERROR_UNSUPPORTED says what there is instead.
int opencl_device_find(const struct opencl_api *api, bool gpu_only, const char *level, struct opencl_device *out,
                       struct error *error);

#endif
