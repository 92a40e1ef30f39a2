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

static void who_shares_a_core(void **state) {
    (void)state;
    int cpus[CPU_SETSIZE], core[MACHINE_CPUS_MAX];
    int count = allowed_cpus(cpus, CPU_SETSIZE);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, 7 - i / 2 % 8); // two threads a core, numbered backwards
    put("/sys/fs/cgroup/cpu.max", "100000 100000\n");                   // a quota makes threads fewer, not cores
    int cores = machine_core_of_cpus(root, core), seen = 0;
    assert_int_equal(cores, (count < 16 ? count + 1 : 17) / 2);
    for (int i = 0; i < count && i < 16; i++) assert_int_equal(core[cpus[i]], i / 2);
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++) seen += core[cpu] >= 0;
    assert_int_equal(seen, count);
    assert_int_equal(machine_cpus(root), 1); // of the quota
    put("/sys/fs/cgroup/cpu.max", "");
    assert_int_equal(machine_cpus(root), count);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, i);
}

static void put_speed(int cpu, const char *file, const char *speed) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
    put(path, speed);
}

// Where the kernel says nothing, they are; cores of the best of one kind may be a little faster.
static void cores_of_two_kinds_are_told(void **state) {
    (void)state;
    static const char *const FILES[] = {"cpufreq/cpuinfo_max_freq", "cpu_capacity"};
    int core[MACHINE_CPUS_MAX];
    memset(core, -1, sizeof core);
    for (int cpu = 3; cpu < 6; cpu++) core[cpu] = cpu - 3;
    assert_true(machine_cores_are_alike(root, core));
    for (int file = 0; file < 2; file++) {
        put_speed(2, FILES[file], "1\n"); // none of ours
        for (int cpu = 3; cpu < 6; cpu++) put_speed(cpu, FILES[file], "5000000\n");
        assert_true(machine_cores_are_alike(root, core));
        put_speed(4, FILES[file], "5100000\n");
        assert_true(machine_cores_are_alike(root, core));
        put_speed(5, FILES[file], "3800000\n");
        assert_false(machine_cores_are_alike(root, core));
        put_speed(5, FILES[file], ""); // of one nothing is known
        assert_false(machine_cores_are_alike(root, core));
        for (int cpu = 2; cpu < 6; cpu++) put_speed(cpu, FILES[file], "");
    }
}

static void put_caches(int cpu, int last) {
    char path[96], text[16];
    for (int level = 1; level <= 3; level++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/level", cpu, level);
        snprintf(text, sizeof text, "%d\n", level);
        put(path, level <= last ? text : "");
    }
}

// As on a Core Ultra, whose low-power cores have no third cache.
static void cores_without_the_shared_cache_are_left_out(void **state) {
    (void)state;
    int cpus[CPU_SETSIZE];
    int count = allowed_cpus(cpus, CPU_SETSIZE);
    for (int i = 0; i < count; i++) put_cpu(cpus[i], 0, i);
    for (int i = 0; i < count; i++) put_caches(cpus[i], 2); // nobody has one: all are alike
    assert_int_equal(machine_cores(root), count);
    put_caches(CPU_SETSIZE - 1, 3); // not ours
    assert_int_equal(machine_cores(root), count);
    for (int with = 1; with <= count; with++) {
        put_caches(cpus[count - with], 3);
        assert_int_equal(machine_cores(root), with);
    }
    put_caches(cpus[0], 0); // of one nothing is to be read
    assert_int_equal(machine_cores(root), count > 1 ? count - 1 : 1);
    for (int i = 0; i < count; i++) put_caches(cpus[i], 0);
    assert_int_equal(machine_cores(root), count);
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
    put("/sys/fs/cgroup/memory.current", "5000\n");
    put("/sys/fs/cgroup/memory.stat", "anon 3000\ninactive_file 500\nactive_file 1500\nfile 9000\n");
    assert_int_equal(machine_memory_available(root), 8000); // files that were read can be read again
    put("/sys/fs/cgroup/memory.stat", "inactive_file 5000\nactive_file 1500000\n");
    assert_int_equal(machine_memory_available(root), 11000);
    put("/sys/fs/cgroup/memory.stat", "");
    put("/sys/fs/cgroup/memory.current", "12000\n");
    assert_int_equal(machine_memory_available(root), 1); // nothing, which is known
    put("/sys/fs/cgroup/memory.max", "max\n");
}

// As a systemd unit with MemoryMax has it, in a slice with less; and in the first version's hierarchy.
static void every_group_around_counts(void **state) {
    (void)state;
    put("/proc/self/cgroup", "4:cpu,memory:/box/inner\n1:name=systemd:/memory\n0::/system.slice/tandem.service\n");
    assert_int_equal(machine_memory_available(root), 900 * 1024);
    put("/sys/fs/cgroup/system.slice/tandem.service/memory.max", "50000\n");
    put("/sys/fs/cgroup/system.slice/tandem.service/memory.current", "10000\n");
    assert_int_equal(machine_memory_available(root), 40000);
    put("/sys/fs/cgroup/system.slice/memory.max", "60000\n");
    put("/sys/fs/cgroup/system.slice/memory.current", "30000\n");
    assert_int_equal(machine_memory_available(root), 30000);
    put("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "70000\n");
    put("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "50000\n");
    assert_int_equal(machine_memory_available(root), 20000);
    put("/sys/fs/cgroup/memory/box/inner/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/box/inner/memory.usage_in_bytes", "50000\n");
    put("/sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 3000\ntotal_active_file 1000\nactive_file 7\n");
    assert_int_equal(machine_memory_available(root), 24000);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "12000\n"); // as a container sees its own
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "2000\n");
    assert_int_equal(machine_memory_available(root), 10000);
    put("/proc/self/cgroup", "nonsense\n5\n:\n0:\n");
    assert_int_equal(machine_memory_available(root), 10000);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(machine_memory_available(root), 900 * 1024);
}

static void no_more_is_promised_than_there_is(void **state) {
    (void)state;
    put("/proc/meminfo", "MemAvailable:    900 kB\nCommitLimit:     500 kB\nCommitted_AS:    100 kB\n");
    put("/proc/sys/vm/overcommit_memory", "0\n");
    assert_int_equal(machine_memory_available(root), 900 * 1024);
    put("/proc/sys/vm/overcommit_memory", "2\n");
    assert_int_equal(machine_memory_available(root), 400 * 1024);
    put("/proc/meminfo", "MemAvailable:    900 kB\nCommitLimit:     500 kB\nCommitted_AS:    501 kB\n");
    assert_int_equal(machine_memory_available(root), 1);
}

static void the_largest_cache_is_found(void **state) {
    (void)state;
    assert_int_equal(machine_cache_bytes(root), 0);
    put("/sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n");
    put("/sys/devices/system/cpu/cpu0/cache/index3/size", "24M\n");
    put("/sys/devices/system/cpu/cpu0/cache/index2/size", "2048K\n");
    put("/sys/devices/system/cpu/cpu0/cache/index4/size", "\n");
    assert_int_equal(machine_cache_bytes(root), 24 << 20);
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
        cmocka_unit_test(who_shares_a_core),
        cmocka_unit_test(cores_of_two_kinds_are_told),
        cmocka_unit_test(cores_without_the_shared_cache_are_left_out),
        cmocka_unit_test(the_quota_of_a_container_counts),
        cmocka_unit_test(memory_is_what_is_left),
        cmocka_unit_test(every_group_around_counts),
        cmocka_unit_test(no_more_is_promised_than_there_is),
        cmocka_unit_test(the_largest_cache_is_found),
        cmocka_unit_test(the_real_machine_has_some_of_both),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
