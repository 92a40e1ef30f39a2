#include "cli/place.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The directory of the program's file; false where the system does not tell.
static bool program_directory(char out[PATH_MAX]) {
    ssize_t bytes = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (bytes <= 0) return false;
    out[bytes] = '\0';
    *strrchr(out, '/') = '\0'; // the link is absolute
    return true;
}

const char *place_find(char out[PATH_MAX], const char *const *places, size_t count, const char *name) {
    char program[PATH_MAX], path[2 * PATH_MAX];
    if (!program_directory(program)) program[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        int bytes = places[i][0] == '/' ? snprintf(path, sizeof path, "%s", places[i])
                                        : snprintf(path, sizeof path, "%s/%s", program, places[i]);
        if (bytes < 0 || (size_t)bytes >= sizeof path || !realpath(path, out)) continue;
        bytes = snprintf(path, sizeof path, "%s/%s", out, name);
        if (bytes > 0 && (size_t)bytes < sizeof path && access(path, R_OK) == 0) return out;
    }
    return NULL;
}
