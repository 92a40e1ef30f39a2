#include "base/block.h"

#include "base/checked.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    ALIGN_BYTES = 64, // a cache line, and the widest vector
    LARGE_PAGE_BYTES = 2 << 20,
};

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
    bool large = total >= 2 * LARGE_PAGE_BYTES;
    size_t align = large ? LARGE_PAGE_BYTES : ALIGN_BYTES;
    if (!checked_add(total > 0 ? total : 1, align - 1, &total)) return NULL;
    char *block = aligned_alloc(align, total / align * align);
    if (!block) return NULL;
    if (large) madvise(block, total / align * align, MADV_HUGEPAGE); // it may say no: then pages are small
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(parts[i].member, &(char *){block + at}, sizeof block); // whatever the pointer points to
        pass(&parts[i], &at);
    }
    return block;
}
