#include "engine/opencl/program.h"

#include "base/buffer.h"
#include "base/checksum.h"
#include "base/file.h"
#include "base/utf8.h"
#include "engine/opencl/mixture.h"
#include "engine/quants/packed.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SOURCES_BYTES_MAX = 4 << 20, LOG_BYTES_MAX = 64 << 10, LOG_LINES = 3, OPTIONS_BYTES = 512, REFUSALS_MAX = 64 };

const char *const OPENCL_KERNEL_NAMES[OPENCL_KERNEL_COUNT] = {
#define KERNEL_NAME(name) #name,
    OPENCL_KERNELS(KERNEL_NAME)
#undef KERNEL_NAME
};

// ---- Sources

// The text of DIRECTORY/name to be freed; NULL without an error: there is no such file.
static int read_source(const char *directory, const char *name, char **out, struct error *error) {
    char path[PATH_MAX];
    size_t bytes;
    *out = NULL;
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return error_set(error, ERROR_ARGUMENT, "%.100s…: expected a shorter path", directory);
    int code = file_load(path, SOURCES_BYTES_MAX, out, &bytes, error);
    return code == ERROR_NOT_FOUND ? 0 : code;
}

// All files as one text; #line tells the compiler, and with it whoever reads its messages, which is which.
static int gather_sources(const char *directory, struct buffer *out, struct error *error) {
    int replaced = 0;
    for (const struct opencl_source *source = OPENCL_SOURCES; source->name; source++) {
        char *own = NULL;
        int code = directory ? read_source(directory, source->name, &own, error) : 0;
        if (code) return code;
        buffer_format(out, "#line 1 \"%s\"\n", source->name);
        buffer_text(out, own ? own : source->text);
        buffer_text(out, "\n");
        replaced += own != NULL;
        free(own);
    }
    if (out->failed) return error_set(error, ERROR_MEMORY, "no room for the OpenCL kernels");
    if (directory && replaced == 0)
        return error_set(error, ERROR_NOT_FOUND, "%s: expected a directory with at least one of the kernels (%s, …)",
                         directory, OPENCL_SOURCES[0].name);
    return 0;
}

// ---- Building

// The first lines of what the compiler said that name an error, or else its first lines.
static void first_lines(const char *log, char *out, size_t bytes) {
    const char *at = strstr(log, "error");
    size_t used = 0;
    int lines = 0;
    while (at && at > log && at[-1] != '\n') at--;
    if (!at) at = log;
    for (; *at && lines < LOG_LINES && used + 1 < bytes; at++) {
        bool line_end = *at == '\n';
        if (line_end) lines++;
        if (line_end && (lines == LOG_LINES || at[1] == 0)) break;
        out[used++] = line_end ? ' ' : *at;
    }
    out[used] = 0;
    if (!utf8_valid(out, used)) snprintf(out, bytes, "(what the compiler said is no text)");
}

static int say_why(const struct opencl_api *api, cl_program program, const struct opencl_device *device, cl_int rc,
                   struct error *error) {
    char lines[512] = "the compiler says nothing";
    size_t bytes = 0;
    char *log = NULL;
    if (CL_CALL(api, GetProgramBuildInfo, program, device->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes) == CL_SUCCESS &&
        bytes > 1 && bytes <= LOG_BYTES_MAX)
        log = calloc(bytes + 1, 1);
    if (log &&
        CL_CALL(api, GetProgramBuildInfo, program, device->id, CL_PROGRAM_BUILD_LOG, bytes, log, NULL) == CL_SUCCESS)
        first_lines(log, lines, sizeof lines);
    free(log);
    return error_set(error, ERROR_FORMAT, "the OpenCL kernels can not be built for %s (%d): %s", device->name, (int)rc,
                     lines);
}

static void write_options(const struct opencl_device *device, const struct opencl_build *wanted,
                          char out[OPTIONS_BYTES]) {
    const enum weight_format weights = wanted->weights;
    snprintf(out, OPTIONS_BYTES,
             "%s -DQUANT=%s -DGROUP=%d -DFEW_ROWS=%d -DFEW_OUTPUTS=%d -DTILE_ROWS=%d -DTILE_OUTPUTS=%d "
             "-DEXPERTS_MAX=%d%s%s%s",
             device->level->options, wanted->half_weights ? "f16" : weight_format_name(weights), OPENCL_GROUP,
             OPENCL_FEW_ROWS, opencl_few_outputs(weights), OPENCL_TILE_ROWS,
             opencl_tile_outputs(device->level, weights), OPENCL_EXPERTS_MAX,
             weight_format_packed(weights) ? " -DPACKED" : "", wanted->half ? " -DHALF" : "",
             device->exact_division ? " -cl-fp32-correctly-rounded-divide-sqrt" : "");
}

static int build(const struct opencl_api *api, cl_context context, const struct opencl_device *device,
                 const struct opencl_build *wanted, const char *text, struct opencl_program *out, struct error *error) {
    const enum weight_format weights = wanted->weights;
    char options[OPTIONS_BYTES];
    cl_int rc;
    write_options(device, wanted, options);
    out->program = CL_MAKE(api, CreateProgramWithSource, &rc, context, 1, &text, NULL);
    if (!out->program) return opencl_error(error, rc, "a program");
    rc = CL_CALL(api, BuildProgram, out->program, 1, &device->id, options, NULL, NULL);
    if (rc == CL_BUILD_PROGRAM_FAILURE || rc == CL_INVALID_BUILD_OPTIONS)
        return say_why(api, out->program, device, rc, error);
    if (rc) return opencl_error(error, rc, "building the kernels");
    for (int i = 0; i < OPENCL_KERNEL_COUNT; i++) {
        if (i == KERNEL_quantize && !opencl_uses_dot(device->level, weights)) continue;
        out->kernel[i] = CL_MAKE(api, CreateKernel, &rc, out->program, OPENCL_KERNEL_NAMES[i]);
        if (!out->kernel[i]) return opencl_error(error, rc, OPENCL_KERNEL_NAMES[i]);
    }
    return 0;
}

// ---- What was refused

// A compiler may take seconds to refuse a level's kernels, and no driver keeps that, as it keeps what it has compiled.
// So it is asked once a process, if it took a lower level then: it was not the compiler that failed.
static struct refusal {
    cl_device_id device;
    uint64_t sum; // of options and text
} refusals[REFUSALS_MAX];
static int refusal_count;
static pthread_mutex_t refusals_lock = PTHREAD_MUTEX_INITIALIZER;

static struct refusal refusal_of(const struct opencl_device *device, const struct opencl_build *wanted,
                                 const char *text) {
    char options[OPTIONS_BYTES];
    write_options(device, wanted, options);
    uint64_t sum = checksum(0, options, strlen(options));
    return (struct refusal){device->id, checksum(sum, text, strlen(text))};
}

static bool is_known(const struct refusal *refusal) {
    bool known = false;
    pthread_mutex_lock(&refusals_lock);
    for (int i = 0; i < refusal_count && !known; i++)
        known = refusals[i].device == refusal->device && refusals[i].sum == refusal->sum;
    pthread_mutex_unlock(&refusals_lock);
    return known;
}

static void keep(const struct refusal *found, int count) {
    pthread_mutex_lock(&refusals_lock);
    for (int i = 0; i < count && refusal_count < REFUSALS_MAX; i++) refusals[refusal_count++] = found[i];
    pthread_mutex_unlock(&refusals_lock);
}

// From the best level on down, to the first that is taken. What is told is what the best one lacks.
static int build_best(const struct opencl_api *api, cl_context context, struct opencl_device *device,
                      const struct opencl_build *wanted, const char *text, struct opencl_program *out,
                      struct error *error) {
    struct refusal found[OPENCL_LEVEL_COUNT], next = refusal_of(device, wanted, text);
    int count = 0;
    while (is_known(&next) && opencl_device_lower(device)) next = refusal_of(device, wanted, text);
    int code = build(api, context, device, wanted, text, out, error);
    while (code == ERROR_FORMAT && opencl_device_lower(device)) {
        struct error lower;
        found[count++] = next;
        opencl_program_finish(api, out);
        next = refusal_of(device, wanted, text);
        code = build(api, context, device, wanted, text, out, &lower);
        if (code && code != ERROR_FORMAT) *error = lower;
    }
    if (!code) keep(found, count);
    return code;
}

int opencl_program_build(const struct opencl_api *api, cl_context context, struct opencl_device *device,
                         const struct opencl_build *wanted, struct opencl_program *out, struct error *error) {
    struct buffer text;
    *out = (struct opencl_program){0};
    buffer_init(&text, SOURCES_BYTES_MAX);
    int code = gather_sources(wanted->directory, &text, error);
    if (!code) code = build_best(api, context, device, wanted, text.data, out, error);
    buffer_finish(&text);
    return code;
}

void opencl_program_finish(const struct opencl_api *api, struct opencl_program *program) {
    for (int i = 0; i < OPENCL_KERNEL_COUNT; i++)
        if (program->kernel[i]) api->ReleaseKernel(program->kernel[i]);
    if (program->program) api->ReleaseProgram(program->program);
    *program = (struct opencl_program){0};
}
