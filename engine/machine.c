#include "engine/machine.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CACHES_MAX = 16, LINE_BYTES = 256 };

// The first line of root/path. False where there is none.
static bool read_line(const char *root, const char *path, char line[LINE_BYTES]) {
    char whole[PATH_MAX];
    if ((size_t)snprintf(whole, sizeof whole, "%s%s", root, path) >= sizeof whole) return false;
    FILE *file = fopen(whole, "re");
    if (!file) return false;
    bool read = fgets(line, LINE_BYTES, file) != NULL;
    fclose(file);
    return read;
}

static bool read_number(const char *root, const char *path, unsigned long long *out) {
    char line[LINE_BYTES];
    return read_line(root, path, line) && sscanf(line, "%llu", out) == 1;
}

// The number behind a word that stands first in a line of a file: "MemAvailable: 900 kB", "active_file 4096".
static bool read_key(const char *root, const char *path, const char *key, unsigned long long *out) {
    char whole[PATH_MAX], line[LINE_BYTES], word[64];
    bool found = false;
    if ((size_t)snprintf(whole, sizeof whole, "%s%s", root, path) >= sizeof whole) return false;
    FILE *file = fopen(whole, "re");
    if (!file) return false;
    while (!found && fgets(line, sizeof line, file))
        found = sscanf(line, "%63s %llu", word, out) == 2 && strcmp(word, key) == 0;
    fclose(file);
    return found;
}

// ---- Cores

// What tells a core from others: its package and its number there. -1 where it is not to be read.
static long long core_of(const char *root, int cpu) {
    char path[128];
    unsigned long long package, core;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
    if (!read_number(root, path, &package) || package > INT_MAX) return -1;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
    if (!read_number(root, path, &core) || core > INT_MAX) return -1;
    return (long long)(package << 31 | core);
}

// CPUs' worth of time that the control group grants, rounded up; INT_MAX without a limit.
static int quota(const char *root) {
    char line[LINE_BYTES];
    unsigned long long time, period;
    if (!read_line(root, "/sys/fs/cgroup/cpu.max", line)) return INT_MAX; // "max 100000" or "150000 100000"
    if (sscanf(line, "%llu %llu", &time, &period) != 2 || period == 0) return INT_MAX;
    unsigned long long cpus = time / period + (time % period > 0);
    if (cpus > INT_MAX) return INT_MAX;
    return cpus > 0 ? (int)cpus : 1;
}

// The level at which a CPU's caches end: 2 or 3; 0 where that is not to be read.
static int last_cache(const char *root, int cpu) {
    unsigned long long level, last = 0;
    for (int index = 0; index < CACHES_MAX; index++) {
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/level", cpu, index);
        if (read_number(root, path, &level) && level > last && level < CACHES_MAX) last = level;
    }
    return (int)last;
}

// Takes the CPUs out whose caches end earlier than others' do.
static void leave_islands_out(const char *root, cpu_set_t *cpus, size_t set_bytes) {
    int last = 0;
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++) {
        int level = CPU_ISSET_S((size_t)cpu, set_bytes, cpus) ? last_cache(root, cpu) : 0;
        if (level > last) last = level;
    }
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++)
        if (CPU_ISSET_S((size_t)cpu, set_bytes, cpus) && last_cache(root, cpu) < last)
            CPU_CLR_S((size_t)cpu, set_bytes, cpus);
}

int machine_core_of_cpus(const char *root, int core[MACHINE_CPUS_MAX]) {
    cpu_set_t *allowed = CPU_ALLOC(MACHINE_CPUS_MAX);
    long long *cores = calloc(MACHINE_CPUS_MAX, sizeof *cores);
    size_t set_bytes = CPU_ALLOC_SIZE(MACHINE_CPUS_MAX);
    int count = 0;
    bool known = allowed && cores && sched_getaffinity(0, set_bytes, allowed) == 0;
    if (known) leave_islands_out(root, allowed, set_bytes);
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++) {
        core[cpu] = -1;
        if (!known || !CPU_ISSET_S((size_t)cpu, set_bytes, allowed)) continue;
        long long name = core_of(root, cpu);
        for (int i = 0; i < count && name >= 0 && core[cpu] < 0; i++)
            if (cores[i] == name) core[cpu] = i;
        if (core[cpu] >= 0) continue;
        core[cpu] = count;
        cores[count++] = name;
    }
    free(cores);
    CPU_FREE(allowed);
    return count;
}

// In units of whatever is known, alike for all CPUs of a machine; 0: nothing is.
static double speed_of(const char *root, int cpu) {
    static const char *const FILES[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
    unsigned long long speed;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, FILES[i]);
        if (read_number(root, path, &speed)) return (double)speed;
    }
    return 0;
}

bool machine_cores_are_alike(const char *root, const int core[MACHINE_CPUS_MAX]) {
    double least = 0, most = 0;
    bool first = true;
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++) {
        if (core[cpu] < 0) continue;
        double speed = speed_of(root, cpu);
        if (first || speed < least) least = speed;
        if (first || speed > most) most = speed;
        first = false;
    }
    return least >= 0.9 * most; // the best ones of a kind are often a little faster
}

int machine_cores(const char *root) {
    int core[MACHINE_CPUS_MAX], count = machine_core_of_cpus(root, core), granted = quota(root);
    if (count > granted) count = granted;
    return count > 0 ? count : 1;
}

int machine_cpus(const char *root) {
    cpu_set_t *allowed = CPU_ALLOC(MACHINE_CPUS_MAX);
    size_t set_bytes = CPU_ALLOC_SIZE(MACHINE_CPUS_MAX);
    bool known = allowed && sched_getaffinity(0, set_bytes, allowed) == 0;
    int count = known ? CPU_COUNT_S(set_bytes, allowed) : 0, granted = quota(root);
    CPU_FREE(allowed);
    return count < granted ? count : granted;
}

// ---- Memory

// Where the kernel tells of control groups and their memory, in both of its versions.
struct groups {
    const char *controller; // in /proc/self/cgroup
    const char *mount, *limit, *used, *inactive, *active;
};
static const struct groups GROUPS[] = {
    {"", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file"},
    {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
     "total_active_file"},
};

static bool is_among(const char *list, size_t bytes, const char *name) {
    size_t name_bytes = strlen(name);
    for (const char *at = list;;) {
        size_t item = strcspn(at, ",:");
        if (item == name_bytes && memcmp(at, name, item) == 0) return true;
        at += item + 1;
        if (at > list + bytes) return false;
    }
}

// This process's group, "/system.slice/tandem.service"; "" for the topmost, or where that is not to be read. What a
// container can not see of the path is not there, and does no harm.
static void find_group(const char *root, const struct groups *groups, char out[PATH_MAX]) {
    char path[PATH_MAX], line[PATH_MAX + 64];
    out[0] = '\0';
    if ((size_t)snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= sizeof path) return;
    FILE *file = fopen(path, "re");
    if (!file) return;
    while (fgets(line, sizeof line, file)) { // "4:cpu,memory:/path", "0::/path"
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group || !is_among(names + 1, (size_t)(group - names - 1), groups->controller)) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, PATH_MAX, "%s", strcmp(group + 1, "/") == 0 ? "" : group + 1);
        break;
    }
    fclose(file);
}

// Bytes that one group may still take. What it has read of files counts as used there, and is given back when needed.
static bool left_in_group(const char *root, const struct groups *groups, const char *group, unsigned long long *out) {
    char path[2 * PATH_MAX];
    unsigned long long limit, used, inactive = 0, active = 0;
    snprintf(path, sizeof path, "%s%s/%s", groups->mount, group, groups->limit);
    if (!read_number(root, path, &limit)) return false; // "max", or no such file
    snprintf(path, sizeof path, "%s%s/%s", groups->mount, group, groups->used);
    if (!read_number(root, path, &used)) return false;
    snprintf(path, sizeof path, "%s%s/memory.stat", groups->mount, group);
    if (!read_key(root, path, groups->inactive, &inactive)) inactive = 0;
    if (!read_key(root, path, groups->active, &active)) active = 0;
    used -= inactive < used ? inactive : used;
    used -= active < used ? active : used;
    *out = limit > used ? limit - used : 0;
    return true;
}

// Where the kernel promises no more memory than there is, mappings are refused beyond its limit.
static unsigned long long left_to_promise(const char *root) {
    unsigned long long mode, limit, promised;
    if (!read_number(root, "/proc/sys/vm/overcommit_memory", &mode) || mode != 2 ||
        !read_key(root, "/proc/meminfo", "CommitLimit:", &limit) ||
        !read_key(root, "/proc/meminfo", "Committed_AS:", &promised))
        return ULLONG_MAX;
    return limit > promised ? (limit - promised) * 1024 : 0;
}

size_t machine_memory_available(const char *root) {
    unsigned long long kib, left;
    if (!read_key(root, "/proc/meminfo", "MemAvailable:", &kib)) return 0;
    unsigned long long available = kib * 1024, promise = left_to_promise(root);
    if (promise < available) available = promise;
    for (size_t i = 0; i < sizeof GROUPS / sizeof *GROUPS; i++) {
        char group[PATH_MAX];
        find_group(root, &GROUPS[i], group);
        for (char *slash = group; slash;) { // this one, and those around it
            if (left_in_group(root, &GROUPS[i], group, &left) && left < available) available = left;
            slash = strrchr(group, '/');
            if (slash) *slash = '\0';
        }
    }
    return available > 0 ? (size_t)available : 1; // 0 would be: unknown
}

size_t machine_cache_bytes(const char *root) {
    size_t most = 0;
    for (int index = 0; index < CACHES_MAX; index++) {
        char path[96], line[LINE_BYTES], unit = 0;
        unsigned long long size;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        if (!read_line(root, path, line) || sscanf(line, "%llu%c", &size, &unit) < 1) continue;
        size_t bytes = (size_t)size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
        if (bytes > most) most = bytes;
    }
    return most;
}
