// Objects of OpenCL that are made and never given back, which LeakSanitizer can not see: the functions of the library's
// table (engine/opencl/api.h) are replaced by ones that count. What a library beside it makes, as CLBlast its events,
// counts where the test says so.
#ifndef TESTS_OPENCL_OBJECTS_H
#define TESTS_OPENCL_OBJECTS_H

#include "engine/opencl/api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>

#define OBJECT_KINDS(X) X(context) X(queue) X(program) X(kernel) X(buffer) X(mapping) X(event)

enum object_kind {
#define OBJECT_ENUM(kind) OBJECT_##kind,
    OBJECT_KINDS(OBJECT_ENUM)
#undef OBJECT_ENUM
    OBJECT_KIND_COUNT
};

static long objects_left[OBJECT_KIND_COUNT];
static bool host_pages_are_refused; // as a driver may, whose device shares the host's memory
static bool division_is_inexact;    // as in a driver that takes the option for IEEE's no more
static struct opencl_api uncounted;

// ---- The functions

#define COUNTED_MAKER(kind, function, type, parameters, ...) \
    static inline type counted_##function parameters { \
        type made = uncounted.function(__VA_ARGS__); \
        objects_left[OBJECT_##kind] += made != NULL; \
        return made; \
    }
#define COUNTED_RELEASE(kind, function, type) \
    static inline cl_int counted_##function(type object) { \
        cl_int rc = uncounted.function(object); \
        objects_left[OBJECT_##kind] -= rc == CL_SUCCESS; \
        return rc; \
    }
#define COUNTED_ENQUEUE(function, parameters, ...) \
    static inline cl_int counted_##function parameters { \
        cl_int rc = uncounted.function(__VA_ARGS__); \
        objects_left[OBJECT_event] += rc == CL_SUCCESS && event; \
        return rc; \
    }

typedef void notify_function(const char *, const void *, size_t, void *);
COUNTED_MAKER(context, CreateContext, cl_context,
              (const cl_context_properties *properties, cl_uint count, const cl_device_id *ids, notify_function *notify,
               void *user, cl_int *rc),
              properties, count, ids, notify, user, rc)
COUNTED_MAKER(queue, CreateCommandQueue, cl_command_queue,
              (cl_context context, cl_device_id id, cl_command_queue_properties properties, cl_int *rc), context, id,
              properties, rc)
COUNTED_MAKER(program, CreateProgramWithSource, cl_program,
              (cl_context context, cl_uint count, const char **texts, const size_t *bytes, cl_int *rc), context, count,
              texts, bytes, rc)
COUNTED_MAKER(kernel, CreateKernel, cl_kernel, (cl_program program, const char *name, cl_int *rc), program, name, rc)
COUNTED_RELEASE(context, ReleaseContext, cl_context)
COUNTED_RELEASE(queue, ReleaseCommandQueue, cl_command_queue)
COUNTED_RELEASE(program, ReleaseProgram, cl_program)
COUNTED_RELEASE(kernel, ReleaseKernel, cl_kernel)
COUNTED_RELEASE(buffer, ReleaseMemObject, cl_mem)
COUNTED_RELEASE(event, ReleaseEvent, cl_event)
COUNTED_ENQUEUE(EnqueueReadBuffer,
                (cl_command_queue queue, cl_mem buffer, cl_bool wait, size_t at, size_t bytes, void *to, cl_uint count,
                 const cl_event *after, cl_event *event),
                queue, buffer, wait, at, bytes, to, count, after, event)
COUNTED_ENQUEUE(EnqueueWriteBuffer,
                (cl_command_queue queue, cl_mem buffer, cl_bool wait, size_t at, size_t bytes, const void *from,
                 cl_uint count, const cl_event *after, cl_event *event),
                queue, buffer, wait, at, bytes, from, count, after, event)
COUNTED_ENQUEUE(EnqueueBarrierWithWaitList,
                (cl_command_queue queue, cl_uint count, const cl_event *after, cl_event *event), queue, count, after,
                event)
COUNTED_ENQUEUE(EnqueueNDRangeKernel,
                (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *from, const size_t *items,
                 const size_t *group, cl_uint count, const cl_event *after, cl_event *event),
                queue, kernel, dimensions, from, items, group, count, after, event)

static inline cl_mem counted_CreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes, void *host,
                                          cl_int *rc) {
    if (host_pages_are_refused && (flags & CL_MEM_USE_HOST_PTR)) {
        *rc = CL_INVALID_HOST_PTR;
        return NULL;
    }
    cl_mem made = uncounted.CreateBuffer(context, flags, bytes, host, rc);
    objects_left[OBJECT_buffer] += made != NULL;
    return made;
}

static inline cl_int counted_GetDeviceInfo(cl_device_id id, cl_device_info what, size_t bytes, void *out,
                                           size_t *needed) {
    cl_int rc = uncounted.GetDeviceInfo(id, what, bytes, out, needed);
    if (division_is_inexact && rc == CL_SUCCESS && what == CL_DEVICE_SINGLE_FP_CONFIG && out)
        *(cl_device_fp_config *)out &= ~(cl_device_fp_config)CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT;
    return rc;
}

static inline cl_int counted_RetainEvent(cl_event event) {
    cl_int rc = uncounted.RetainEvent(event);
    objects_left[OBJECT_event] += rc == CL_SUCCESS;
    return rc;
}

static inline void *counted_EnqueueMapBuffer(cl_command_queue queue, cl_mem buffer, cl_bool wait, cl_map_flags flags,
                                             size_t at, size_t bytes, cl_uint count, const cl_event *after,
                                             cl_event *event, cl_int *rc) {
    void *host = uncounted.EnqueueMapBuffer(queue, buffer, wait, flags, at, bytes, count, after, event, rc);
    objects_left[OBJECT_mapping] += host != NULL;
    objects_left[OBJECT_event] += host && event;
    return host;
}

static inline cl_int counted_EnqueueUnmapMemObject(cl_command_queue queue, cl_mem buffer, void *host, cl_uint count,
                                                   const cl_event *after, cl_event *event) {
    cl_int rc = uncounted.EnqueueUnmapMemObject(queue, buffer, host, count, after, event);
    objects_left[OBJECT_mapping] -= rc == CL_SUCCESS;
    objects_left[OBJECT_event] += rc == CL_SUCCESS && event;
    return rc;
}

// ---- What a test calls

// From now on; before anything is made.
static inline void count_objects(void) {
    const struct opencl_api *loaded;
    struct error error;
    if (uncounted.CreateContext || opencl_api_load(&loaded, &error)) return;
    struct opencl_api *api = (struct opencl_api *)(uintptr_t)loaded; // it is no constant, but for whoever uses it
    uncounted = *api;
#define COUNTED(function) api->function = counted_##function;
    COUNTED(GetDeviceInfo)
    COUNTED(CreateContext)
    COUNTED(ReleaseContext)
    COUNTED(CreateCommandQueue)
    COUNTED(ReleaseCommandQueue)
    COUNTED(CreateProgramWithSource)
    COUNTED(ReleaseProgram)
    COUNTED(CreateKernel)
    COUNTED(ReleaseKernel)
    COUNTED(CreateBuffer)
    COUNTED(ReleaseMemObject)
    COUNTED(EnqueueReadBuffer)
    COUNTED(EnqueueWriteBuffer)
    COUNTED(EnqueueBarrierWithWaitList)
    COUNTED(EnqueueMapBuffer)
    COUNTED(EnqueueUnmapMemObject)
    COUNTED(EnqueueNDRangeKernel)
    COUNTED(RetainEvent)
    COUNTED(ReleaseEvent)
#undef COUNTED
}

// All devices are closed. call: the one that failed, for whoever reads it.
static inline void nothing_is_left(long call) {
    static const char *const NAMES[OBJECT_KIND_COUNT] = {
#define OBJECT_NAME(kind) #kind,
        OBJECT_KINDS(OBJECT_NAME)
#undef OBJECT_NAME
    };
    for (int kind = 0; kind < OBJECT_KIND_COUNT; kind++) {
        long left = objects_left[kind];
        objects_left[kind] = 0; // what follows has nothing to do with it
        if (left) fail_msg("call %ld: %s: %ld left", call, NAMES[kind], left);
    }
}

// A device that did not answer keeps what it has, a context at least; it is no concern of what follows.
static inline void some_is_left(void) {
    assert_true(objects_left[OBJECT_context] == 1 && objects_left[OBJECT_buffer] > 0);
    for (int kind = 0; kind < OBJECT_KIND_COUNT; kind++) objects_left[kind] = 0;
}

#endif
