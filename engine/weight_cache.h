// Converted weights in a file, so that the next start maps them instead of converting again. A cache can be deleted at
// any time; what is wrong with one costs a conversion and no more. Any thread; files belong to whoever calls.
//
// One file a model and format, NAME.weights: a header with the key of what it was made from, a checksum for each piece
// of the weights, then the weights as they lie in memory.
#ifndef ENGINE_WEIGHT_CACHE_H
#define ENGINE_WEIGHT_CACHE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct weight_cache_mapping {
    void *map; // to be unmapped; NULL: none
    size_t map_bytes;
    unsigned char *weights; // inside it, read-only, at the beginning of a page
};

// Maps the weights of a cache file, having read and checked all of them on so many threads. ERROR_NOT_FOUND: there is
// no file, or it was made from something else. ERROR_FORMAT: it is damaged. ERROR_IO: it can not be read.
int weight_cache_map(const char *path, uint64_t key, size_t bytes, int threads, struct weight_cache_mapping *out,
                     struct error *error);

// Writes one beside the path, and gives it its name once all of it is on the disk; makes the directory. Where another
// process is at it, does nothing. progress: by this thread, the share done; may be NULL.
int weight_cache_write(const char *path, uint64_t key, const void *weights, size_t bytes,
                       void (*progress)(void *user, double share), void *progress_user, struct error *error);

#endif
