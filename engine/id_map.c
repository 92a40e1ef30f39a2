#include "engine/id_map.h"

#include "base/checked.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 64 };

// Spreads keys whose halves are small numbers over all bits (two rounds of multiply and fold).
static uint64_t mix(uint64_t key) {
    key ^= key >> 32;
    key *= 0xd6e8feb86659fd93u;
    key ^= key >> 32;
    key *= 0xd6e8feb86659fd93u;
    return key ^ key >> 32;
}

// The key's entry, or the free one where it belongs. There always is a free one.
static struct id_map_entry *find(const struct id_map *map, uint64_t key) {
    size_t mask = map->capacity - 1;
    size_t at = (size_t)mix(key) & mask;
    while (map->entries[at].used && map->entries[at].key != key) at = (at + 1) & mask;
    return &map->entries[at];
}

static bool grow(struct id_map *map) {
    struct id_map larger = {.capacity = CAPACITY_MIN, .count = map->count};
    if (map->capacity && !checked_mul(map->capacity, 2, &larger.capacity)) return false;
    larger.entries = calloc(larger.capacity, sizeof *larger.entries);
    if (!larger.entries) return false;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->entries[i].used) *find(&larger, map->entries[i].key) = map->entries[i];
    free(map->entries);
    *map = larger;
    return true;
}

void id_map_finish(struct id_map *map) {
    free(map->entries);
    *map = (struct id_map){0};
}

bool id_map_put(struct id_map *map, uint64_t key, uint64_t value) {
    if (map->count >= map->capacity / 2 && !grow(map)) return false;
    struct id_map_entry *entry = find(map, key);
    map->count += !entry->used;
    *entry = (struct id_map_entry){.key = key, .value = value, .used = true};
    return true;
}

bool id_map_get(const struct id_map *map, uint64_t key, uint64_t *value) {
    if (map->count == 0) return false;
    const struct id_map_entry *entry = find(map, key);
    if (entry->used && value) *value = entry->value;
    return entry->used;
}
