// Threads that keep to their cores. They meet hundreds of times a step and wait for each other by spinning. Where other
// programs run, the kernel puts two of them on one CPU now and then, and does not notice: both are busy, one of them
// waiting for the other, for as long as its turn lasts (benchmarks/README.md, "Beside other programs").
//
// Only a team that has a thread for each core is pinned, and only where all cores are alike: then none has to be chosen.
// A smaller team, as in a container with a share of the machine, and one on performance and efficient cores is the
// kernel's to place, which sees what else runs. (Two servers with a thread for each core have two on each.)
//
// OpenMP has to keep the threads it has: all parallel regions are of the whole team, or of the calling thread alone.
// One of another size would end threads, and new ones start where the calling one is.
#include "engine/cpu/cpu.h"
#include "engine/machine.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>

enum { WORD_BITS = 8 * sizeof(unsigned long), WORDS = MACHINE_CPUS_MAX / WORD_BITS };

struct team {
    bool whole;                      // a thread for each core
    int core[MACHINE_CPUS_MAX];      // of each CPU; -1: none of ours
    unsigned long everywhere[WORDS]; // where the calling thread may run otherwise, as cpu_set_t
};

static struct team *find_team(int threads) {
    struct team *team = calloc(1, sizeof *team);
    if (!team) return NULL;
    bool known = sched_getaffinity(0, sizeof team->everywhere, (cpu_set_t *)team->everywhere) == 0;
    team->whole = known && threads > 1 && machine_core_of_cpus("", team->core) == threads &&
                  machine_cores_are_alike("", team->core);
    return team;
}

// Whether it could: one that is refused stays where it may be.
static bool keep_to_core(const struct team *team, int core) {
    unsigned long words[WORDS] = {0};
    cpu_set_t *cpus = (cpu_set_t *)words;
    for (int cpu = 0; cpu < MACHINE_CPUS_MAX; cpu++)
        if (team->core[cpu] == core) CPU_SET_S((size_t)cpu, sizeof words, cpus);
    return sched_setaffinity(0, sizeof words, cpus) == 0;
}

bool cpu_pin(void *state, bool pinned) {
    struct cpu *cpu = state;
    if (!cpu->team) cpu->team = find_team(cpu->limits.threads);
    struct team *team = cpu->team;
    if (!team || !team->whole) return false;
    omp_set_dynamic(0);
    bool kept = pinned;
#pragma omp parallel num_threads(cpu->limits.threads) reduction(&& : kept)
    if (pinned)
        kept = keep_to_core(team, omp_get_thread_num());
    else
        (void)sched_setaffinity(0, sizeof team->everywhere, (cpu_set_t *)team->everywhere);
    return kept;
}

void team_close(struct team *team) {
    free(team);
}
