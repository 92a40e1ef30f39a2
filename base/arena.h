// An arena: memory that is taken piece by piece and given back all at once, with the request it belongs to.
// One owner, one thread at a time. Pieces are aligned for any object and start out as zeros.
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena; // created empty; the limit bounds the sum of all pieces

struct arena *arena_create(size_t limit_bytes); // NULL: out of memory
void arena_destroy(struct arena *arena);        // takes NULL

// count pieces of size bytes each. NULL when memory or the limit is exhausted, or the product overflows.
void *arena_alloc(struct arena *arena, size_t count, size_t size);

// A copy with a NUL behind it, so that text without inner NULs is a C string too. NULL as arena_alloc.
char *arena_copy(struct arena *arena, const char *bytes, size_t count);

#define ARENA_NEW(arena, type) ((type *)arena_alloc((arena), 1, sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_alloc((arena), (count), sizeof(type)))

#endif
