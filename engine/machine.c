#include "engine/machine.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CPUS_MAX = 4096, LINE_BYTES = 256 };

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

int machine_cores(const char *root) {
    cpu_set_t *allowed = CPU_ALLOC(CPUS_MAX);
    long long *cores = calloc(CPUS_MAX, sizeof *cores);
    size_t set_bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    int count = 0;
    if (allowed && cores && sched_getaffinity(0, set_bytes, allowed) == 0) {
        for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
            if (!CPU_ISSET_S((size_t)cpu, set_bytes, allowed)) continue;
            long long core = core_of(root, cpu);
            bool known = false;
            for (int i = 0; i < count && core >= 0 && !known; i++) known = cores[i] == core;
            if (!known) cores[count++] = core;
        }
    }
    free(cores);
    CPU_FREE(allowed);
    int granted = quota(root);
    if (count > granted) count = granted;
    return count > 0 ? count : 1;
}

// ---- Memory

size_t machine_memory_available(const char *root) {
    char path[PATH_MAX], line[LINE_BYTES];
    unsigned long long kib, available = 0, limit, used;
    if ((size_t)snprintf(path, sizeof path, "%s/proc/meminfo", root) >= sizeof path) return 0;
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) available = kib * 1024;
    fclose(file);

    if (read_number(root, "/sys/fs/cgroup/memory.max", &limit) &&
        read_number(root, "/sys/fs/cgroup/memory.current", &used)) {
        unsigned long long left = limit > used ? limit - used : 0;
        if (left < available) available = left;
    }
    return (size_t)available;
}
