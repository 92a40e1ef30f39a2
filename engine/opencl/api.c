#include "engine/opencl/api.h"

#include "engine/opencl/opencl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// ---- Loading

#define LIBRARY "libOpenCL.so.1"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct opencl_api loaded;
static struct error failure;

// The library is never unloaded: what it starts (threads, handlers of exit) would outlive it.
static void load(void) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error_set(&failure, ERROR_UNSUPPORTED,
                  "there is no " LIBRARY " here (Debian's and Ubuntu's ocl-icd-libopencl1)");
        return;
    }
#define API_FIND(name) \
    *(void **)&loaded.name = dlsym(library, "cl" #name); \
    if (!loaded.name) error_set(&failure, ERROR_UNSUPPORTED, LIBRARY " has no cl" #name);
    OPENCL_FUNCTIONS(API_FIND)
#undef API_FIND
}

// ---- Faults

static struct {
    bool read; // the environment has been looked at
    long calls, first;
    enum opencl_fault kind;
} faults;

long opencl_inject(long first, enum opencl_fault kind) {
    long calls = faults.calls;
    faults.read = true;
    faults.calls = 0;
    faults.first = first;
    faults.kind = kind;
    return calls;
}

static void read_environment(void) {
    const char *text = getenv("TANDEM_OPENCL_FAULT");
    char *end;
    faults.read = true;
    if (!text) return;
    faults.first = strtol(text, &end, 10);
    faults.kind = *end == '+' ? OPENCL_FAULT_ONWARDS : *end == '?' ? OPENCL_FAULT_SILENCE : OPENCL_FAULT_ONCE;
}

bool opencl_fails(void) {
    if (!faults.read) read_environment();
    faults.calls++;
    if (faults.first <= 0 || faults.kind == OPENCL_FAULT_SILENCE) return false;
    return faults.calls == faults.first || (faults.calls > faults.first && faults.kind == OPENCL_FAULT_ONWARDS);
}

bool opencl_is_silent(void) {
    return faults.kind == OPENCL_FAULT_SILENCE && faults.first > 0 && faults.calls >= faults.first;
}

// ---- Both

int opencl_api_load(const struct opencl_api **out, struct error *error) {
    pthread_once(&once, load);
    if (failure.code) {
        if (error) *error = failure;
        return failure.code;
    }
    *out = &loaded;
    return 0;
}

// The codes that a running program can meet, and what kind of failure each is.
static const struct {
    cl_int code;
    const char *name;
    enum error_code kind;
} CODES[] = {
    {CL_DEVICE_NOT_FOUND, "CL_DEVICE_NOT_FOUND", ERROR_UNSUPPORTED},
    {CL_DEVICE_NOT_AVAILABLE, "CL_DEVICE_NOT_AVAILABLE", ERROR_INTERNAL},
    {CL_COMPILER_NOT_AVAILABLE, "CL_COMPILER_NOT_AVAILABLE", ERROR_UNSUPPORTED},
    {CL_MEM_OBJECT_ALLOCATION_FAILURE, "CL_MEM_OBJECT_ALLOCATION_FAILURE", ERROR_MEMORY},
    {CL_OUT_OF_RESOURCES, "CL_OUT_OF_RESOURCES", ERROR_INTERNAL},
    {CL_OUT_OF_HOST_MEMORY, "CL_OUT_OF_HOST_MEMORY", ERROR_MEMORY},
    {CL_MAP_FAILURE, "CL_MAP_FAILURE", ERROR_INTERNAL},
    {CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST", ERROR_INTERNAL},
    {CL_INVALID_KERNEL_NAME, "CL_INVALID_KERNEL_NAME", ERROR_FORMAT},
    {CL_INVALID_KERNEL_ARGS, "CL_INVALID_KERNEL_ARGS", ERROR_FORMAT},
    {CL_INVALID_ARG_SIZE, "CL_INVALID_ARG_SIZE", ERROR_FORMAT},
    {CL_INVALID_ARG_INDEX, "CL_INVALID_ARG_INDEX", ERROR_FORMAT},
    {CL_INVALID_WORK_GROUP_SIZE, "CL_INVALID_WORK_GROUP_SIZE", ERROR_FORMAT},
    {CL_INVALID_BUFFER_SIZE, "CL_INVALID_BUFFER_SIZE", ERROR_MEMORY},
    {CL_INVALID_HOST_PTR, "CL_INVALID_HOST_PTR", ERROR_INTERNAL},
};

int opencl_error(struct error *error, cl_int rc, const char *what) {
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (CODES[i].code == rc) return error_set(error, CODES[i].kind, "%s: %s (%d)", what, CODES[i].name, (int)rc);
    return error_set(error, ERROR_INTERNAL, "%s: error %d of OpenCL", what, (int)rc);
}
