// Cores and memory, from trees of files made here and from the machine itself.
#include "engine/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/tandem-machine-XXXXXX";

// A file below root, with the directories above it.
static void put(const char *path, const char *text) {
    char whole[PATH_MAX];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *slash = whole + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(whole, 0700);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void put_cpu(int cpu, int package, int core) {
    char path[128], text[32];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
    snprintf(text, sizeof text, "%d\n", package);
    put(path, text);
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
    snprintf(text, sizeof text, "%d\n", core);
    put(path, text);
}

static int setup(void **state) {
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

// The CPUs that this test may run on, one after the other.
static int allowed_cpus(int *cpus, int max) {
    cpu_set_t set;
    int count = 0;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE && count < max; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[count++] = cpu;
    return count;
}

static void cores_are_counted_once(void **state) {
    (void)state;
    int cpus[CPU_SETSIZE];
    int count = allowed_cpus(cpus, CPU_SETSIZE);
    assert_int_equal(machine_cores(root), count);               // no topology: every CPU is a core
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, i / 2); // two threads a core
    assert_int_equal(machine_cores(root), (count + 1) / 2);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], i % 2, i / 2); // the same numbers in two packages
    assert_int_equal(machine_cores(root), count);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, 0);
    put_cpu(CPU_SETSIZE - 1, 0, 77); // not ours
    assert_int_equal(machine_cores(root), 1);
    put_cpu(cpus[0], -1, 5); // a virtual machine without a topology says so
    assert_in_range(machine_cores(root), 1, 2);
}

static void the_quota_of_a_container_counts(void **state) {
    (void)state;
    int cpus[CPU_SETSIZE];
    int count = allowed_cpus(cpus, CPU_SETSIZE);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, i);
    put("/sys/fs/cgroup/cpu.max", "max 100000\n");
    assert_int_equal(machine_cores(root), count);
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n"); // half a CPU
    assert_int_equal(machine_cores(root), 1);
    put("/sys/fs/cgroup/cpu.max", "100001 100000\n"); // a bit more than one
    assert_int_equal(machine_cores(root), count < 2 ? count : 2);
    put("/sys/fs/cgroup/cpu.max", "18446744073709551615 1\n");
    assert_int_equal(machine_cores(root), count);
    put("/sys/fs/cgroup/cpu.max", "100 0\n");
    assert_int_equal(machine_cores(root), count);
    put("/sys/fs/cgroup/cpu.max", "0 100000\n");
    assert_int_equal(machine_cores(root), 1);
    put("/sys/fs/cgroup/cpu.max", "");
    assert_int_equal(machine_cores(root), count);
}

static void memory_is_what_is_left(void **state) {
    (void)state;
    assert_int_equal(machine_memory_available(root), 0); // unknown
    put("/proc/meminfo", "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:    900 kB\nBuffers: 1 kB\n");
    assert_int_equal(machine_memory_available(root), 900 * 1024);
    put("/sys/fs/cgroup/memory.max", "max\n");
    put("/sys/fs/cgroup/memory.current", "1000\n");
    assert_int_equal(machine_memory_available(root), 900 * 1024);
    put("/sys/fs/cgroup/memory.max", "11000\n");
    assert_int_equal(machine_memory_available(root), 10000);
    put("/sys/fs/cgroup/memory.current", "12000\n");
    assert_int_equal(machine_memory_available(root), 0);
}

static void the_real_machine_has_some_of_both(void **state) {
    (void)state;
    int cpus[CPU_SETSIZE];
    assert_in_range(machine_cores(""), 1, allowed_cpus(cpus, CPU_SETSIZE));
    assert_true(machine_memory_available("") > 1 << 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cores_are_counted_once),
        cmocka_unit_test(the_quota_of_a_container_counts),
        cmocka_unit_test(memory_is_what_is_left),
        cmocka_unit_test(the_real_machine_has_some_of_both),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
