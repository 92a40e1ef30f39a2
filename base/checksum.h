// A number for some bytes: for files that may be damaged, and for telling texts apart. Not against whoever wants two to
// be alike. The same on every machine with the same order of bytes; files rely on it.
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

// Changes with any change of the bytes, but for one in 2^64 or so. Goes on from `sum`.
uint64_t checksum(uint64_t sum, const void *data, size_t bytes);

#endif
