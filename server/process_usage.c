#include "server/process_usage.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double seconds_of(clockid_t clock) {
    struct timespec now;
    return clock_gettime(clock, &now) == 0 ? (double)now.tv_sec + 1e-9 * (double)now.tv_nsec : 0;
}

// The file counts from the start of the system, in ticks, in the 20th field behind the program's name, which may itself
// hold spaces and brackets.
static double start_seconds(void) {
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *at = strrchr(text, ')');
    for (int field = 0; at && field < 20; field++) at = strchr(at + 1, ' ');
    unsigned long long ticks;
    if (!at || sscanf(at, " %llu", &ticks) != 1) return 0;
    double age = seconds_of(CLOCK_BOOTTIME) - (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return seconds_of(CLOCK_REALTIME) - age;
}

static void read_memory(struct process_usage *out) {
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return;
    size_t whole, resident, page = (size_t)sysconf(_SC_PAGESIZE);
    if (fscanf(file, "%zu %zu", &whole, &resident) == 2) {
        out->virtual_bytes = whole * page;
        out->resident_bytes = resident * page;
    }
    fclose(file);
}

// Linux tells their number as the folder's size, since 6.2; before that they have to be counted.
static size_t open_files(void) {
    static const char folder[] = "/proc/self/fd";
    struct stat info;
    if (stat(folder, &info) == 0 && info.st_size > 0) return (size_t)info.st_size;
    DIR *files = opendir(folder);
    if (!files) return 0;
    size_t count = 0;
    for (struct dirent *file; (file = readdir(files));) count += file->d_name[0] != '.';
    closedir(files);
    return count - 1; // the folder's own
}

void process_usage_read(struct process_usage *out) {
    *out = (struct process_usage){.start_seconds = start_seconds(), .open_files = open_files()};
    read_memory(out);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        out->cpu_seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) out->files_max = (size_t)files.rlim_cur;
}
