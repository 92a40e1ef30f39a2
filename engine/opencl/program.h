// The kernels: embedded in the program (cl_kernels/), or read from a directory instead, built for one device.
#ifndef ENGINE_OPENCL_PROGRAM_H
#define ENGINE_OPENCL_PROGRAM_H

#include "engine/opencl/device.h"
#include "engine/opencl/sources.h"
#include "engine/weights.h"

#define OPENCL_KERNELS(X) \
    X(route) \
    X(lists) X(quantize) X(gate_up_few) X(gate_up_many) X(down_few) X(down_many) X(scatter) X(gather) X(unpack) \
        X(gate_all) X(scatter_real)

enum opencl_kernel {
#define KERNEL_ENUM(name) KERNEL_##name,
    OPENCL_KERNELS(KERNEL_ENUM)
#undef KERNEL_ENUM
    OPENCL_KERNEL_COUNT
};
extern const char *const OPENCL_KERNEL_NAMES[OPENCL_KERNEL_COUNT];

struct opencl_program {
    cl_program program;
    cl_kernel kernel[OPENCL_KERNEL_COUNT]; // NULL: one that this level has no use for
};

// What they are built for.
struct opencl_build {
    enum weight_format weights;
    bool half_weights; // held in f16
    bool half;         // CLBlast multiplies f16
    const char *directory; // see struct opencl_options
};
// Builds all kernels, at the best of the device's levels whose kernels its compiler takes, which becomes its level. A
// failure's message has the first lines of the compiler's.
int opencl_program_build(const struct opencl_api *api, cl_context context, struct opencl_device *device,
                         const struct opencl_build *wanted, struct opencl_program *out, struct error *error);
void opencl_program_finish(const struct opencl_api *api, struct opencl_program *program); // takes one half built

#endif
