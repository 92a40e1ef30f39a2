// The CPU's threads and the cores that they keep to: where there is one for each core, each has one of its own, and what
// the calling thread starts once it is free again may run everywhere. Skipped where there is only one core.
#include "engine/machine.h"
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <omp.h>
#include <sched.h>

enum { THREADS_MAX = 64 };

static int core_of_cpu[MACHINE_CPUS_MAX];

static int cores_here(void) {
    int cores = machine_core_of_cpus("", core_of_cpu);
    if (cores < 2 || cores > THREADS_MAX) skip();
    return cores;
}

static void *open_for(int threads) {
    const struct stage_limits limits = {.tokens_max = 1, .sequences_max = 1, .context_max = 32, .hidden = 16,
                                        .heads = 1, .kv_heads = 1, .head_dim = 16, .intermediate = 16,
                                        .experts = 2, .vocab = 16, .threads = threads};
    struct error error;
    void *state;
    if (cpu_stages.open(&state, &limits, &error)) fail_msg("%s", error.message);
    return state;
}

// The only core that the calling thread may run on; -1: it is not kept to one.
static int only_core(void) {
    cpu_set_t set;
    int found = -1;
    if (sched_getaffinity(0, sizeof set, &set)) return -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        if (found >= 0 && core_of_cpu[cpu] != found) return -1;
        found = core_of_cpu[cpu];
    }
    return found;
}

static void cores_of_team(int threads, int cores[THREADS_MAX]) {
#pragma omp parallel num_threads(threads)
    cores[omp_get_thread_num()] = only_core();
}

static void each_has_a_core(void **unused) {
    (void)unused;
    int threads = cores_here(), cores[THREADS_MAX];
    cpu_set_t before, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    void *state = open_for(threads);
    for (int round = 0; round < 2; round++) {
        assert_true(cpu_stages.pin(state, true));
        cores_of_team(threads, cores);
        for (int t = 0; t < threads; t++) assert_int_equal(cores[t], t);
        assert_false(cpu_stages.pin(state, false));
        assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
        assert_memory_equal(&after, &before, sizeof before);
    }
    cpu_stages.close(state);
}

static void a_smaller_team_is_the_kernels_to_place(void **unused) {
    (void)unused;
    int threads = cores_here() - 1, cores[THREADS_MAX];
    cpu_set_t before, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    void *state = open_for(threads);
    assert_false(cpu_stages.pin(state, true));
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_memory_equal(&after, &before, sizeof before);
    cores_of_team(threads, cores);
    for (int t = 0; t < threads; t++) assert_int_equal(cores[t], -1);
    cpu_stages.pin(state, false);
    cpu_stages.close(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_smaller_team_is_the_kernels_to_place), // its threads have not been kept to cores before
        cmocka_unit_test(each_has_a_core),
    };
    return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
