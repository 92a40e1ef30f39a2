// What this process uses of the system, as the system tells it. Any thread; some tens of microseconds.
#ifndef SERVER_PROCESS_USAGE_H
#define SERVER_PROCESS_USAGE_H

#include <stddef.h>

struct process_usage {    // 0: can not be told
    double start_seconds; // when it started, since 1970
    double cpu_seconds;   // of all threads, user and system
    size_t resident_bytes, virtual_bytes;
    size_t open_files, files_max;
};
void process_usage_read(struct process_usage *out);

#endif
