// Many buffers in one block of memory: taken and freed at once, each at its own cache line. Any thread.
#ifndef BASE_BLOCK_H
#define BASE_BLOCK_H

#include <stddef.h>

struct block_part {
    void *member;               // the pointer to set
    size_t rows, columns, size; // that many elements of that many bytes
};

// A block for all parts, each pointer set to its place in it; becomes resident where it is written, by the system's
// large pages from some megabytes on, if it has them. NULL: out of memory, or a size beyond 64 bits; the pointers are
// left alone then. The caller frees it.
void *block_create(const struct block_part *parts, size_t count);

#endif
