// tandem doctor: why a GPU is not used, and what to do about it.
#include "base/plural.h"
#include "base/wrap.h"
#include "cli/command.h"
#include "engine/inspect.h"

#include <errno.h>
#include <glob.h>
#include <grp.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INDENT = 6, TEXT_BYTES = 256 };

struct doctor_settings {
    char *root;
};
static struct doctor_settings own;
static const struct setting ROWS[] = {
    {NULL, "--root", NULL, SETTING_TEXT, offsetof(struct doctor_settings, root), 0, 0, NULL, "", "",
     "look at the files below this directory, instead of /; OpenCL itself is this machine's all the same"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {{ROWS, &own}};
static const struct example EXAMPLES[] = {
    {"tandem doctor", "is there a GPU that can be used? If not, what is missing?"},
    {"docker run --rm --device /dev/dri tandem-gpu doctor", "the same inside a container, whose image the first names"},
    {NULL, NULL},
};

// GPUs of which more is known: the least that they need.
static const struct {
    const char *ids[8]; // of PCI, as /sys shows them; up to NULL
    const char *name;
    int kernel[2], driver[2]; // versions of Linux, and of Intel's compute runtime
} KNOWN[] = {
    {{"0x7d40", "0x7d45", "0x7d55", "0x7d60", "0x7dd5", NULL}, "Arc graphics of Meteor Lake", {6, 7}, {23, 43}},
};
enum { KNOWN_COUNT = sizeof KNOWN / sizeof *KNOWN };

// Releases whose package of Intel's driver, intel-opencl-icd, is of this version; 0: there is none, as their apt
// indexes had it in November 2026. Of others nothing is known, and the package is named all the same.
static const struct {
    const char *id; // as in /etc/os-release
    int version[2], driver[2];
} RELEASES[] = {
    {"debian", {12, 0}, {22, 43}},
    {"debian", {13, 0}, {0, 0}},
    {"ubuntu", {22, 4}, {22, 14}},
    {"ubuntu", {24, 4}, {23, 43}},
};
enum { RELEASE_COUNT = sizeof RELEASES / sizeof *RELEASES };

// ---- Telling

static int problems;

static void tell(const char *mark, const char *format, va_list arguments) {
    char line[4 * TEXT_BYTES];
    struct buffer lines;
    vsnprintf(line, sizeof line, format, arguments);
    buffer_init(&lines, 1 << 16);
    wrap_text(&lines, line, INDENT, INDENT, WRAP_COLUMNS);
    printf("%-5s %s\n", mark, lines.data ? lines.data : line);
    buffer_finish(&lines);
}

__attribute__((format(printf, 1, 2))) static void well(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    tell("ok", format, arguments);
    va_end(arguments);
}

__attribute__((format(printf, 1, 2))) static void problem(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    tell("!", format, arguments);
    va_end(arguments);
    problems++;
}

// ---- Files

static void path_of(char out[PATH_MAX], const char *path) {
    if (snprintf(out, PATH_MAX, "%s%s", own.root, path) >= PATH_MAX) out[0] = 0;
}

// A file's first line, without its end; "" where there is none.
static void read_line(const char *path, char out[TEXT_BYTES]) {
    char whole[PATH_MAX];
    path_of(whole, path);
    out[0] = 0;
    FILE *file = fopen(whole, "re");
    if (!file) return;
    if (!fgets(out, TEXT_BYTES, file)) out[0] = 0;
    out[strcspn(out, "\n")] = 0;
    fclose(file);
}

// What /etc/os-release says of a key, without quotes; "": nothing.
static void read_release(const char *key, char out[TEXT_BYTES]) {
    char path[PATH_MAX], line[TEXT_BYTES];
    size_t length = strlen(key);
    path_of(path, "/etc/os-release");
    out[0] = 0;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0 || line[length] != '=') continue;
        const char *at = line + length + 1 + (line[length + 1] == '"');
        snprintf(out, TEXT_BYTES, "%.*s", (int)strcspn(at, "\"\n"), at);
    }
    if (file) fclose(file);
}

static bool exists(const char *path) {
    char whole[PATH_MAX];
    path_of(whole, path);
    return access(whole, F_OK) == 0;
}

static bool is_container(void) {
    return exists("/.dockerenv") || exists("/run/.containerenv");
}

// ---- The GPU

struct gpu {
    char node[TEXT_BYTES]; // "/dev/dri/renderD128"; "": there is none
    int known;             // row of KNOWN, or -1
    gid_t group;
    bool usable; // this process may open the node
};

static void find_gpu(struct gpu *gpu) {
    char pattern[PATH_MAX], path[PATH_MAX], id[TEXT_BYTES];
    glob_t nodes = {0};
    *gpu = (struct gpu){.known = -1};
    path_of(pattern, "/dev/dri/renderD*");
    if (glob(pattern, 0, NULL, &nodes) == 0)
        snprintf(gpu->node, sizeof gpu->node, "%s", nodes.gl_pathv[0] + strlen(own.root));
    globfree(&nodes);
    if (!gpu->node[0]) return;
    snprintf(path, sizeof path, "/sys/class/drm/%s/device/device", strrchr(gpu->node, '/') + 1);
    read_line(path, id);
    for (int k = 0; k < KNOWN_COUNT; k++)
        for (const char *const *known = KNOWN[k].ids; *known; known++)
            if (strcmp(id, *known) == 0) gpu->known = k;
}

// The image that docker/Dockerfile makes on its own base has no OpenCL in it.
static void tell_image(void) {
    printf("      docker build -f docker/Dockerfile --build-arg BASE=ubuntu:24.04 -t tandem-gpu .\n");
}

// What makes a container that computes on the GPU. ~/models and the cache are as in README.md.
static void tell_docker(const struct gpu *gpu) {
    char group[64] = "$(getent group render | cut -d: -f3)";
    if (gpu->node[0]) snprintf(group, sizeof group, "%u", (unsigned)gpu->group);
    tell_image();
    printf("      docker run --rm --device /dev/dri --group-add %s \\\n"
           "        -p 127.0.0.1:8080:8080 -v ~/models:/models:ro \\\n"
           "        -v tandem-cache:/var/cache/tandem tandem-gpu\n",
           group);
}

static void check_node(struct gpu *gpu) {
    char path[PATH_MAX];
    struct stat status;
    if (!gpu->node[0]) {
        problem("There is no /dev/dri/renderD…: no GPU, no driver of the kernel for it%s",
                is_container() ? ", or it was not passed into this container. With a GPU, start it like this:"
                               : "; `lspci` says whether there is a GPU, and `dmesg` what the kernel made of it.");
        if (is_container()) tell_docker(gpu);
        return;
    }
    path_of(path, gpu->node);
    if (stat(path, &status)) {
        problem("%s: %s", gpu->node, strerror(errno));
        return;
    }
    gpu->group = status.st_gid;
    if (access(path, R_OK | W_OK) == 0) {
        well("%s can be read and written%s%s.", gpu->node, gpu->known >= 0 ? ": " : "",
             gpu->known >= 0 ? KNOWN[gpu->known].name : "");
        gpu->usable = true;
        return;
    }
    const struct group *group = getgrgid(status.st_gid);
    if (is_container()) {
        problem("%s may not be used by this user. Start the container with its group:", gpu->node);
        tell_docker(gpu);
    } else if (group) {
        problem("%s is for members of the group %s. `sudo usermod -aG %s $USER`, and log in again.", gpu->node,
                group->gr_name, group->gr_name);
    } else {
        problem("%s is for members of the group with number %u, which has no name here.", gpu->node,
                (unsigned)status.st_gid);
    }
}

// ---- Versions

// Whether text has a version like 6.7 in front, and one that is at least that.
static bool is_at_least(const char *text, const int least[2]) {
    int major = 0, minor = 0;
    if (sscanf(text, "%d.%d", &major, &minor) < 2) return false;
    return major != least[0] ? major > least[0] : minor >= least[1];
}

static void check_kernel(const struct gpu *gpu) {
    char release[TEXT_BYTES];
    read_line("/proc/sys/kernel/osrelease", release);
    if (gpu->known < 0) return;
    const int *least = KNOWN[gpu->known].kernel;
    if (is_at_least(release, least))
        well("Linux %s knows this GPU.", release);
    else
        problem(
            "Linux %s is older than %d.%d, which this GPU needs. Install a newer kernel (Debian's backports have one).",
            release, least[0], least[1]);
}

// ---- OpenCL

// "12" is 12.0.
static bool is_version(const char *text, const int version[2]) {
    int major = 0, minor = 0;
    return sscanf(text, "%d.%d", &major, &minor) >= 1 && major == version[0] && minor == version[1];
}

static bool is_older(const int version[2], const int than[2]) {
    return version[0] != than[0] ? version[0] < than[0] : version[1] < than[1];
}

// How to get a driver of Intel's here that knows the GPU.
static void write_remedy(const struct gpu *gpu, char out[2 * TEXT_BYTES]) {
    static const char ELSEWHERE[] = "Take Intel's own, from github.com/intel/compute-runtime/releases, or a container "
                                    "of Ubuntu 24.04";
    char id[TEXT_BYTES], version[TEXT_BYTES], name[TEXT_BYTES];
    int release = -1;
    read_release("ID", id);
    read_release("VERSION_ID", version);
    read_release("PRETTY_NAME", name);
    for (int r = 0; r < RELEASE_COUNT; r++)
        if (strcmp(id, RELEASES[r].id) == 0 && is_version(version, RELEASES[r].version)) release = r;
    if (strcmp(id, "debian") != 0 && strcmp(id, "ubuntu") != 0)
        snprintf(out, 2 * TEXT_BYTES, "Intel's driver is called intel-opencl-icd, or intel-compute-runtime.");
    else if (release >= 0 && RELEASES[release].driver[0] == 0)
        snprintf(out, 2 * TEXT_BYTES, "%.60s has no package of Intel's driver. %s.", name, ELSEWHERE);
    else if (release >= 0 && gpu->known >= 0 && is_older(RELEASES[release].driver, KNOWN[gpu->known].driver))
        snprintf(out, 2 * TEXT_BYTES, "%.60s's intel-opencl-icd, %d.%d, does not know this GPU. %s.", name,
                 RELEASES[release].driver[0], RELEASES[release].driver[1], ELSEWHERE);
    else
        snprintf(out, 2 * TEXT_BYTES, "For Intel's GPUs: `sudo apt install intel-opencl-icd`.");
}

// A problem that another driver solves. Nobody installs one in a container: that gets it with its image.
__attribute__((format(printf, 2, 3))) static void problem_of_driver(const struct gpu *gpu, const char *format, ...) {
    char what[2 * TEXT_BYTES], remedy[2 * TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (is_container()) {
        problem("%s An image with Intel's driver is made from Tandem's sources like this:", what);
        tell_image();
        return;
    }
    write_remedy(gpu, remedy);
    problem("%s %s", what, remedy);
}

static void check_icds(const struct gpu *gpu) {
    char pattern[PATH_MAX], library[TEXT_BYTES];
    glob_t files = {0};
    path_of(pattern, "/etc/OpenCL/vendors/*.icd");
    if (glob(pattern, 0, NULL, &files) != 0)
        problem_of_driver(gpu, "/etc/OpenCL/vendors names no driver for OpenCL.");
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i] + strlen(own.root);
        read_line(path, library);
        well("%s names the driver %s.", path, library);
    }
    globfree(&files);
}

static void check_device(const struct engine_opencl_device *device, const struct gpu *gpu) {
    bool intel = strstr(device->platform, "Intel") != NULL;
    const int *least = gpu->known >= 0 ? KNOWN[gpu->known].driver : NULL;
    if (device->refused)
        problem("%s (%s %s) %s.", device->name, device->platform, device->driver, device->refused);
    else if (device->gpu && intel && least && !is_at_least(device->driver, least))
        problem_of_driver(gpu, "The driver of %s is %s; its GPU needs %d.%d or newer.", device->name, device->driver,
                          least[0], least[1]);
    else if (device->gpu)
        well("%s (%s %s) gets the %s kernels.", device->name, device->platform, device->driver, device->kernels);
    else
        well("%s (%s %s) is a CPU: only --placement split takes it, and it is slower than the CPU's own kernels.",
             device->name, device->platform, device->driver);
}

static void check_opencl(const struct gpu *gpu) {
    struct engine_opencl_device devices[ENGINE_OPENCL_DEVICES_MAX];
    struct error error = {0};
    int count = 0, gpus = 0;
    if (engine_opencl_devices(devices, &count, &error)) {
        problem("%s.", error.message);
        return;
    }
    for (int i = 0; i < count; i++) {
        check_device(&devices[i], gpu);
        gpus += devices[i].gpu && !devices[i].refused;
    }
    if (gpus > 0) return;
    if (gpu->known >= 0)
        problem_of_driver(gpu, "OpenCL does not see the GPU, %s, whose driver has to be %d.%d or newer.",
                          KNOWN[gpu->known].name, KNOWN[gpu->known].driver[0], KNOWN[gpu->known].driver[1]);
    else if (gpu->node[0])
        problem_of_driver(gpu, "OpenCL sees no GPU.");
    else
        problem("OpenCL sees no GPU.");
}

static void check_memory(void) {
    struct engine_machine machine = engine_machine();
    if (machine.memory_bytes == 0) return;
    double gigabytes = (double)machine.memory_bytes / 1e9;
    if (gigabytes < 4)
        problem(
            "%.1f GB of memory are free for this process; Phi-tiny-MoE takes 7.5 GB in bf16. In a container, --memory "
            "sets the limit.",
            gigabytes);
    else
        well("%.1f GB of memory are free for this process.", gigabytes);
}

// ---- The command

static void conclude(void) {
    if (problems == 0)
        printf("\nAll is well: --placement auto measures both devices at start and uses the GPU\n"
               "where it is faster; `tandem inspect --placement` shows what it finds.\n");
    else
        printf("\n%d of these %s in the GPU's way. Without it the CPU computes everything:\n"
               "requests are answered all the same.\n",
               problems, plural_are((size_t)problems));
}

static int examine(void) {
    struct gpu gpu;
    find_gpu(&gpu);
    check_node(&gpu);
    check_kernel(&gpu);
    check_icds(&gpu);
    check_opencl(&gpu);
    check_memory();
    conclude();
    if (gpu.usable && !is_container()) {
        printf("\nIn a container, which brings its own driver, this GPU is used like this:\n");
        tell_docker(&gpu);
    }
    return problems == 0 ? EXIT_WELL : EXIT_OTHER;
}

static int run(int count, char **arguments) {
    int exit_code = command_begin(&doctor_command, count, arguments, NULL);
    if (!exit_code) exit_code = examine();
    command_end(&doctor_command);
    return exit_code;
}

const struct command doctor_command = {
    .name = "doctor",
    .summary = "find out why a GPU is not used, and what to do about it",
    .description =
        "Looks at the GPU's device, who may use it, the kernel, OpenCL's drivers and memory, in the order in "
        "which they are needed. The exit code is 0 when a GPU can be used, and 1 when something is in its way.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
