// The functions of libOpenCL that are used, found when they are first needed, and the one place where they can be made
// to fail. The engine thread's, but for the loading itself.
#ifndef ENGINE_OPENCL_API_H
#define ENGINE_OPENCL_API_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include "base/error.h"

#include <stdbool.h>

#define OPENCL_FUNCTIONS(X) \
    X(GetPlatformIDs) \
    X(GetPlatformInfo) \
    X(GetDeviceIDs) \
    X(GetDeviceInfo) \
    X(CreateContext) \
    X(ReleaseContext) \
    X(CreateCommandQueue) \
    X(ReleaseCommandQueue) \
    X(CreateProgramWithSource) \
    X(BuildProgram) \
    X(GetProgramBuildInfo) \
    X(ReleaseProgram) \
    X(CreateKernel) \
    X(SetKernelArg) \
    X(ReleaseKernel) \
    X(CreateBuffer) \
    X(ReleaseMemObject) \
    X(EnqueueReadBuffer) \
    X(EnqueueWriteBuffer) \
    X(EnqueueBarrierWithWaitList) \
    X(EnqueueMapBuffer) \
    X(EnqueueUnmapMemObject) \
    X(EnqueueNDRangeKernel) \
    X(Flush) \
    X(Finish) \
    X(GetEventInfo) \
    X(GetEventProfilingInfo) \
    X(RetainEvent) \
    X(ReleaseEvent)

struct opencl_api {
#define API_MEMBER(name) __typeof__(cl##name) *name;
    OPENCL_FUNCTIONS(API_MEMBER)
#undef API_MEMBER
};

// Loads the library, once; it stays loaded. ERROR_UNSUPPORTED: there is none, or it lacks functions.
int opencl_api_load(const struct opencl_api **out, struct error *error);

// Counts a call; whether it is one that a test wants to fail, or to stay without an answer.
bool opencl_fails(void);
bool opencl_is_silent(void);

// A call that returns its code, and one that leaves it in *rc. Calls that give things back are not counted: they go
// well.
#define CL_CALL(api, name, ...) (opencl_fails() ? CL_OUT_OF_RESOURCES : (api)->name(__VA_ARGS__))
#define CL_MAKE(api, name, rc, ...) \
    (opencl_fails() ? (*(rc) = CL_OUT_OF_RESOURCES, NULL) : (api)->name(__VA_ARGS__, (rc)))

// "what: CL_OUT_OF_RESOURCES (-5)"
int opencl_error(struct error *error, cl_int rc, const char *what);

#endif
