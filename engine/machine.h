// What this process may use of the machine. Reads /proc and /sys; pure otherwise.
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>

// root is put in front of every path: "" for the real machine, a directory for tests.

// How many threads compute best: physical cores among the CPUs that this thread may run on, within the control group's
// quota; at least 1. Where the topology is not to be read, every CPU counts as a core.
//
// Performance and efficient cores count alike: work is dealt out in small shares, so that the slower ones take fewer.
// Those of a low-power island do not count (two of a Core Ultra 9 185H's sixteen). They are known by their caches,
// which end before the one that all others share: what the others have computed comes to them by way of memory, and
// wherever threads meet, several times a layer, all would wait for that. It is reasoned, not measured: no such machine
// was there.
int machine_cores(const char *root);

// CPUs that this thread may run on, within the same quota, two where a core has two threads: more threads than these
// take turns. 0: unknown.
int machine_cpus(const char *root);

enum { MACHINE_CPUS_MAX = 4096 };

// Which core each CPU belongs to, of the cores that machine_cores() counts before the quota: 0, 1 and so on; -1: none.
// Returns how many cores there are; 0: unknown.
int machine_core_of_cpus(const char *root, int core[MACHINE_CPUS_MAX]);
// Whether all of those are about as fast, by what the kernel knows of them; true also where it knows nothing.
bool machine_cores_are_alike(const char *root, const int core[MACHINE_CPUS_MAX]);

// Bytes of memory that can be taken without swapping, within the limits of the control group and of those around it (in
// both versions), and of what a kernel that does not overcommit will promise; 0: unknown.
size_t machine_memory_available(const char *root);

// Bytes of the largest cache of the first CPU; 0: unknown.
size_t machine_cache_bytes(const char *root);

#endif
