// Where the program finds what came with it.
#ifndef CLI_PLACE_H
#define CLI_PLACE_H

#include <limits.h>
#include <stddef.h>

// The first of `places` (relative to the directory that the program is in, or absolute) in which a file `name` can be
// read; the place goes to `out`, without "..". NULL where there is none.
const char *place_find(char out[PATH_MAX], const char *const *places, size_t count, const char *name);

#endif
