#include "engine/opencl/device.h"

#include "engine/inspect.h"
#include "engine/opencl/mixture.h"

#include <stdlib.h>
#include <string.h>

enum { PLATFORMS_MAX = 16, DEVICES_MAX = 16, LOCAL_BYTES_MIN = 32 << 10 };
enum { PLATFORM_NOT_FOUND = -1001 }; // libOpenCL's own: there is no driver

#define SUB_GROUPS "cl_intel_subgroups", "cl_intel_required_subgroup_size"
#define DOT "cl_khr_integer_dot_product"

// Emulated: without the instruction, for the sake of the same tokens as the CPU's.
const struct opencl_level OPENCL_LEVELS[OPENCL_LEVEL_COUNT] = {
    {"portable", {NULL}, "-cl-std=CL1.2", .sub_groups = false},
    {"sub-group", {SUB_GROUPS, NULL}, "-cl-std=CL1.2 -DSUB_GROUPS", .sub_groups = true},
    {"emulated dot", {NULL}, "-cl-std=CL1.2 -DDOT -DDOT_EMULATED", .dot = true},
    {"emulated sub-group dot",
     {SUB_GROUPS, NULL},
     "-cl-std=CL1.2 -DSUB_GROUPS -DDOT -DDOT_EMULATED",
     .sub_groups = true,
     .dot = true},
    {"dot", {DOT, NULL}, "-cl-std=CL3.0 -DDOT", .dot = true}, // the instruction came with OpenCL C 3.0
    {"sub-group dot", {SUB_GROUPS, DOT, NULL}, "-cl-std=CL3.0 -DSUB_GROUPS -DDOT", .sub_groups = true, .dot = true},
};

// ---- What a device says of itself

static bool text_of(const struct opencl_api *api, cl_device_id id, cl_device_info what, char *out, size_t bytes) {
    out[0] = 0;
    return CL_CALL(api, GetDeviceInfo, id, what, bytes, out, NULL) == CL_SUCCESS;
}

static bool has_word(const char *words, const char *word) {
    size_t length = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == 0)) return true;
    return false;
}

// wanted: the only one that will do, or NULL.
static unsigned levels_of(const char *extensions, const struct opencl_wanted *wanted) {
    unsigned levels = 0;
    for (unsigned i = 0; i < OPENCL_LEVEL_COUNT; i++) {
        bool all = wanted->level ? strcmp(wanted->level, OPENCL_LEVELS[i].name) == 0
                                 : wanted->integers || !OPENCL_LEVELS[i].dot;
        for (const char *const *needed = OPENCL_LEVELS[i].extensions; *needed; needed++)
            all = all && has_word(extensions, *needed);
        levels |= (unsigned)all << i;
    }
    return levels;
}

static const struct opencl_level *best_of(unsigned levels) {
    for (int i = OPENCL_LEVEL_COUNT - 1; i >= 0; i--)
        if (levels >> i & 1) return &OPENCL_LEVELS[i];
    return NULL;
}

bool opencl_device_lower(struct opencl_device *device) {
    unsigned levels = device->levels & ~(1u << (device->level - OPENCL_LEVELS));
    const struct opencl_level *next = best_of(levels);
    if (!next) return false;
    device->levels = levels;
    device->level = next;
    return true;
}

struct features {
    cl_device_type type;
    cl_bool available, compiler, little_endian, shared_memory;
    cl_uint units;
    cl_ulong local_bytes, alloc_bytes_max, memory_bytes;
    size_t group_max;
    cl_device_fp_config floats;
};

static bool read_features(const struct opencl_api *api, cl_device_id id, struct features *out) {
    const struct {
        cl_device_info what;
        size_t bytes;
        void *to;
    } WANTED[] = {
        {CL_DEVICE_TYPE, sizeof out->type, &out->type},
        {CL_DEVICE_AVAILABLE, sizeof out->available, &out->available},
        {CL_DEVICE_COMPILER_AVAILABLE, sizeof out->compiler, &out->compiler},
        {CL_DEVICE_ENDIAN_LITTLE, sizeof out->little_endian, &out->little_endian},
        {CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof out->shared_memory, &out->shared_memory},
        {CL_DEVICE_MAX_COMPUTE_UNITS, sizeof out->units, &out->units},
        {CL_DEVICE_LOCAL_MEM_SIZE, sizeof out->local_bytes, &out->local_bytes},
        {CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof out->alloc_bytes_max, &out->alloc_bytes_max},
        {CL_DEVICE_GLOBAL_MEM_SIZE, sizeof out->memory_bytes, &out->memory_bytes},
        {CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof out->group_max, &out->group_max},
        {CL_DEVICE_SINGLE_FP_CONFIG, sizeof out->floats, &out->floats},
    };
    *out = (struct features){0};
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++)
        if (CL_CALL(api, GetDeviceInfo, id, WANTED[i].what, WANTED[i].bytes, WANTED[i].to, NULL)) return false;
    return true;
}

// "OpenCL 1.2 …", "OpenCL 3.0 …"
static bool is_new_enough(const char *version) {
    const char *number = strncmp(version, "OpenCL ", 7) == 0 ? version + 7 : "0";
    return strtol(number, NULL, 10) > 1 || strncmp(number, "1.2", 3) == 0;
}

// Why it will not do; NULL: it will.
static const char *read_device(const struct opencl_api *api, cl_device_id id, const struct opencl_wanted *wanted,
                               struct opencl_device *out, cl_uint *units) {
    static char extensions[16 << 10];
    char version[128];
    struct features features;
    *out = (struct opencl_device){.id = id};
    if (!text_of(api, id, CL_DEVICE_NAME, out->name, sizeof out->name)) return "does not tell its name";
    text_of(api, id, CL_DRIVER_VERSION, out->driver, sizeof out->driver);
    text_of(api, id, CL_DEVICE_VERSION, version, sizeof version);
    text_of(api, id, CL_DEVICE_EXTENSIONS, extensions, sizeof extensions);
    if (!read_features(api, id, &features)) return "does not tell what it can do";
    if (!features.available) return "is not available";
    if (!features.compiler) return "has no compiler";
    if (!is_new_enough(version)) return "is older than OpenCL 1.2";
    if (!features.little_endian) return "is not little-endian";
    if (features.group_max < OPENCL_GROUP) return "takes too small work groups";
    if (features.local_bytes < LOCAL_BYTES_MIN) return "has too little local memory";
    out->gpu = (features.type & CL_DEVICE_TYPE_GPU) != 0;
    if (wanted->gpu_only && !out->gpu) return "is no GPU";
    out->shared_memory = features.shared_memory;
    out->exact_division = (features.floats & CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT) != 0;
    out->fp16 = has_word(extensions, "cl_khr_fp16");
    out->alloc_bytes_max = features.alloc_bytes_max;
    out->memory_bytes = features.memory_bytes;
    out->levels = levels_of(extensions, wanted);
    out->level = best_of(out->levels);
    if (!out->level) return "lacks what these kernels need";
    *units = features.units;
    return NULL;
}

// ---- Looking at all of them

typedef void visitor(void *user, const struct opencl_device *device, cl_uint units, const char *refused);

struct look {
    struct opencl_wanted wanted;
    visitor *visit;
    void *user;
};

static int look_at_all(const struct opencl_api *api, const struct look *look, cl_uint *platforms_found,
                       struct error *error) {
    cl_platform_id platforms[PLATFORMS_MAX];
    cl_uint platform_count = 0;
    cl_int rc = CL_CALL(api, GetPlatformIDs, PLATFORMS_MAX, platforms, &platform_count);
    if (rc == PLATFORM_NOT_FOUND || (rc == CL_SUCCESS && platform_count == 0))
        return error_set(error, ERROR_UNSUPPORTED, "OpenCL has no platform here: no driver (ICD) is installed");
    if (rc) return opencl_error(error, rc, "asking for platforms");
    if (platform_count > PLATFORMS_MAX) platform_count = PLATFORMS_MAX;
    *platforms_found = platform_count;
    for (cl_uint p = 0; p < platform_count; p++) {
        cl_device_id devices[DEVICES_MAX];
        cl_uint count = 0, units = 0;
        struct opencl_device device;
        if (CL_CALL(api, GetDeviceIDs, platforms[p], CL_DEVICE_TYPE_ALL, DEVICES_MAX, devices, &count)) continue;
        if (count > DEVICES_MAX) count = DEVICES_MAX;
        for (cl_uint d = 0; d < count; d++) {
            const char *refused = read_device(api, devices[d], &look->wanted, &device, &units);
            if (CL_CALL(api, GetPlatformInfo, platforms[p], CL_PLATFORM_NAME, sizeof device.platform, device.platform,
                        NULL))
                device.platform[0] = 0;
            look->visit(look->user, &device, units, refused);
        }
    }
    return 0;
}

// ---- Choosing

struct search {
    struct opencl_device best;
    cl_uint best_units;
    bool found;
    int refused_count;
    struct error refused; // the first that would not do: "NAME is no GPU"
};

static void compare(void *user, const struct opencl_device *device, cl_uint units, const char *refused) {
    struct search *search = user;
    if (refused) {
        if (search->refused_count++ == 0)
            error_set(&search->refused, ERROR_UNSUPPORTED, "%s %s", device->name, refused);
        return;
    }
    bool better = device->gpu != search->best.gpu ? device->gpu : units > search->best_units;
    if (search->found && !better) return;
    search->best = *device;
    search->best_units = units;
    search->found = true;
}

int opencl_device_find(const struct opencl_api *api, const struct opencl_wanted *wanted, struct opencl_device *out,
                       struct error *error) {
    struct search search = {0};
    cl_uint platform_count = 0;
    const struct look look = {*wanted, compare, &search};
    int code = look_at_all(api, &look, &platform_count, error);
    *out = search.best;
    if (code || search.found) return code;
    if (search.refused_count == 0)
        return error_set(error, ERROR_UNSUPPORTED, "none of OpenCL's %u platforms here has a device",
                         (unsigned)platform_count);
    return error_set(error, ERROR_UNSUPPORTED, "none of OpenCL's %d devices here will do: %.200s%s",
                     search.refused_count, search.refused.message, search.refused_count > 1 ? ", …" : "");
}

// ---- Telling of all of them

struct listing {
    struct engine_opencl_device *devices;
    int count;
};

static void list_device(void *user, const struct opencl_device *device, cl_uint units, const char *refused) {
    struct listing *listing = user;
    (void)units;
    if (listing->count == ENGINE_OPENCL_DEVICES_MAX) return;
    struct engine_opencl_device *out = &listing->devices[listing->count++];
    *out = (struct engine_opencl_device){.gpu = device->gpu, .refused = refused};
    memcpy(out->name, device->name, sizeof out->name);
    memcpy(out->platform, device->platform, sizeof out->platform);
    memcpy(out->driver, device->driver, sizeof out->driver);
    out->kernels = device->level ? device->level->name : "";
}

int engine_opencl_devices(struct engine_opencl_device out[ENGINE_OPENCL_DEVICES_MAX], int *count, struct error *error) {
    const struct opencl_api *api;
    struct listing listing = {.devices = out};
    const struct look look = {.wanted = {.integers = true}, .visit = list_device, .user = &listing};
    cl_uint platform_count;
    int code = opencl_api_load(&api, error);
    if (!code) code = look_at_all(api, &look, &platform_count, error);
    *count = listing.count;
    return code;
}
