#include "base/block.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN_BYTES = 64 }; // a cache line, and the widest vector

// Moves *at behind a part. False where it overflows.
static bool pass(const struct block_part *part, size_t *at) {
    size_t bytes;
    return checked_mul(part->rows, part->columns, &bytes) && checked_mul(bytes, part->size, &bytes) &&
           checked_add(bytes, ALIGN_BYTES - 1, &bytes) && checked_add(*at, bytes / ALIGN_BYTES * ALIGN_BYTES, at);
}

void *block_create(const struct block_part *parts, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        if (!pass(&parts[i], &total)) return NULL;
    char *block = aligned_alloc(ALIGN_BYTES, total ? total : ALIGN_BYTES);
    if (!block) return NULL;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(parts[i].member, &(char *){block + at}, sizeof block); // whatever the pointer points to
        pass(&parts[i], &at);
    }
    return block;
}
