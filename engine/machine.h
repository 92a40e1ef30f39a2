// What this process may use of the machine. Reads /proc and /sys; pure otherwise.
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include <stddef.h>

// root is put in front of every path: "" for the real machine, a directory for tests.

// Physical cores among the CPUs that this thread may run on, within the control group's quota; at least 1. Where
// the topology is not to be read, every CPU counts as a core.
int machine_cores(const char *root);

// Bytes of memory that can be taken without swapping, within the control group's limit; 0: unknown.
size_t machine_memory_available(const char *root);

#endif
