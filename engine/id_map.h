// A hash map from 64-bit keys to 64-bit values, for the tables of the tokenizer. Filled while a file is read,
// then read-only: any thread. Embedded in its owner; all zeros is an empty map.
#ifndef ENGINE_ID_MAP_H
#define ENGINE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_map_entry {
    uint64_t key, value;
    bool used;
};

struct id_map {
    struct id_map_entry *entries; // [capacity]
    size_t capacity;              // 0 or a power of two, at least twice the count
    size_t count;
};

void id_map_finish(struct id_map *map);

// Sets a key's value, over an earlier one. False when out of memory.
bool id_map_put(struct id_map *map, uint64_t key, uint64_t value);

// Whether the key is there; its value goes to *value unless that is NULL.
bool id_map_get(const struct id_map *map, uint64_t key, uint64_t *value);

#endif
