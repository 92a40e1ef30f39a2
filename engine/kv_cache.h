// The KV cache: a pool of pages of KV_PAGE_TOKENS positions that sequences draw from and give back.
// The engine thread alone touches it. Memory is reserved at creation and becomes resident when first written.
// What lies at a position that its sequence has not written is what an earlier owner left there, NaN for all one
// knows: a stage reads no such position, not even to multiply it by 0.
#ifndef ENGINE_KV_CACHE_H
#define ENGINE_KV_CACHE_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_PAGE_TOKENS = 32 };
#define KV_F16_MAX 65504.0f // the largest of f16: keys and values beyond it are held as this, NaN and infinity as NaN

struct kv_cache {
    enum kv_format format;
    int layers, kv_heads, head_dim;
    size_t row_bytes;   // of one position's values
    size_t block_bytes; // of a page's keys or values of one head
    int pages;          // capacity
    int pages_used;
    int32_t *free_pages; // stack of the free ones, [pages - pages_used]
    bool *taken;        // [pages]
    unsigned char *data; // [pages][layers][kv_heads][2: keys, values] blocks
    size_t data_bytes;
};

int kv_cache_init(struct kv_cache *cache, enum kv_format format, int layers, int kv_heads, int head_dim, int pages,
                  struct error *error);
void kv_cache_finish(struct kv_cache *cache); // takes one that is all zeros too

// Bytes of one page, over all layers; 0 when the product overflows.
size_t kv_cache_page_bytes(enum kv_format format, int layers, int kv_heads, int head_dim);

// Takes a page; -1 when none is free.
int32_t kv_cache_take(struct kv_cache *cache);

// Gives it back. False, and nothing has changed, for a page that is not taken or does not exist: a caller's bug.
bool kv_cache_give(struct kv_cache *cache, int32_t page);

// Copies what a page holds, of all layers, to another that is taken too.
void kv_cache_copy(const struct kv_cache *cache, int32_t from, int32_t to);

// Pages that so many tokens need.
static inline int kv_cache_pages_for(size_t tokens) {
    return (int)((tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS);
}

// Keys (part 0) or values (part 1) of one page and head: [KV_PAGE_TOKENS][head_dim] of the format, then, if it has
// scales, [KV_PAGE_TOKENS] floats.
static inline void *kv_cache_block(const struct kv_cache *cache, int layer, int32_t page, int part, int kv_head) {
    size_t head = ((size_t)page * (size_t)cache->layers + (size_t)layer) * (size_t)cache->kv_heads + (size_t)kv_head;
    return cache->data + (head * 2 + (size_t)part) * cache->block_bytes;
}

// Of a block: the values of one position, and the scales.
static inline void *kv_cache_row(const struct kv_cache *cache, void *block, int position) {
    return (unsigned char *)block + (size_t)position * cache->row_bytes;
}
static inline float *kv_cache_scales(const struct kv_cache *cache, void *block) {
    return kv_cache_row(cache, block, KV_PAGE_TOKENS);
}

// One position's values into and out of a block, in plain C.
void kv_cache_put(const struct kv_cache *cache, void *block, int position, const float *x);
void kv_cache_get(const struct kv_cache *cache, void *block, int position, float *x);

#endif
