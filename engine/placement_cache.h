// What was measured of the devices, in a file, so that the next start need not measure again. Such a file can be
// deleted at any time: whatever is wrong with one, the devices are measured anew. Any thread.
#ifndef ENGINE_PLACEMENT_CACHE_H
#define ENGINE_PLACEMENT_CACHE_H

#include "engine/watch.h"

enum { PLACEMENT_CACHE_DAYS_MAX = 7 }; // then it is measured anew: the machine may have been busy that time

// Takes what was measured of the devices, but not what follows from it, from the file of that key in a directory: a
// line of text about all that it depends on. now: seconds since 1970. False: there is none, or it is damaged, too old,
// or from the future; out is as it was.
bool placement_cache_read(const char *directory, const char *key, int64_t now, struct engine_placement *out);

// Writes one, and makes the directory. What fails only costs another measurement.
void placement_cache_write(const char *directory, const char *key, int64_t now, const struct engine_placement *found);

#endif
