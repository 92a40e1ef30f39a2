#include "base/arena.h"

#include "base/checked.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 16 * 1024 };

struct block {
    struct block *next;
    size_t used, capacity;
    alignas(max_align_t) unsigned char data[];
};

struct arena {
    struct block *blocks; // the newest first; only the newest is filled further
    size_t taken, limit;  // bytes
};

struct arena *arena_create(size_t limit_bytes) {
    struct arena *arena = calloc(1, sizeof *arena);
    if (arena) arena->limit = limit_bytes;
    return arena;
}

void arena_destroy(struct arena *arena) {
    if (!arena) return;
    for (struct block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(arena);
}

void *arena_alloc(struct arena *arena, size_t count, size_t size) {
    const size_t align = alignof(max_align_t);
    size_t bytes, taken;
    if (!checked_mul(count, size, &bytes) || !checked_add(bytes, align - 1, &bytes)) return NULL;
    bytes = bytes / align * align;
    if (!checked_add(arena->taken, bytes, &taken) || taken > arena->limit) return NULL;

    struct block *block = arena->blocks;
    if (!block || block->capacity - block->used < bytes) {
        size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES, whole;
        if (!checked_add(capacity, sizeof *block, &whole)) return NULL;
        block = calloc(1, whole);
        if (!block) return NULL;
        block->capacity = capacity;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    void *piece = block->data + block->used;
    block->used += bytes;
    arena->taken = taken;
    return piece;
}

char *arena_copy(struct arena *arena, const char *bytes, size_t count) {
    size_t whole;
    if (!checked_add(count, 1, &whole)) return NULL;
    char *copy = arena_alloc(arena, whole, 1);
    if (copy && count) memcpy(copy, bytes, count);
    return copy;
}
