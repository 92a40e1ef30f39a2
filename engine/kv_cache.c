#include "engine/kv_cache.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

size_t kv_cache_page_bytes(int layers, int kv_heads, int head_dim) {
    size_t bytes = 2 * KV_PAGE_TOKENS * sizeof(float);
    if (layers < 1 || kv_heads < 1 || head_dim < 1) return 0;
    if (!checked_mul(bytes, (size_t)layers, &bytes)) return 0;
    if (!checked_mul(bytes, (size_t)kv_heads, &bytes)) return 0;
    if (!checked_mul(bytes, (size_t)head_dim, &bytes)) return 0;
    return bytes;
}

int kv_cache_init(struct kv_cache *cache, int layers, int kv_heads, int head_dim, int pages, struct error *error) {
    *cache = (struct kv_cache){.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .pages = pages};
    size_t page_bytes = kv_cache_page_bytes(layers, kv_heads, head_dim);
    if (page_bytes == 0 || pages < 1 || !checked_mul(page_bytes, (size_t)pages, &cache->data_bytes))
        return error_set(error, ERROR_ARGUMENT,
                         "a KV cache of %d pages for %d layers, %d heads and a head size of %d is not possible", pages,
                         layers, kv_heads, head_dim);

    cache->free_pages = calloc((size_t)pages, sizeof *cache->free_pages);
    cache->taken = calloc((size_t)pages, sizeof *cache->taken);
    // Only what is written becomes resident, so the reservation may be larger than what will ever be used.
    void *data =
        mmap(NULL, cache->data_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data != MAP_FAILED) cache->data = data;
    if (!cache->free_pages || !cache->taken || !cache->data) {
        int cause = errno;
        size_t bytes = cache->data_bytes;
        kv_cache_finish(cache);
        return error_set(error, ERROR_MEMORY, "no room for a KV cache of %zu MiB (%d pages of %d tokens): %s",
                         bytes >> 20, pages, KV_PAGE_TOKENS, strerror(cause));
    }
    for (int i = 0; i < pages; i++) cache->free_pages[i] = pages - 1 - i; // page 0 is taken first
    return 0;
}

void kv_cache_finish(struct kv_cache *cache) {
    if (cache->data) munmap(cache->data, cache->data_bytes);
    free(cache->taken);
    free(cache->free_pages);
    *cache = (struct kv_cache){0};
}

int32_t kv_cache_take(struct kv_cache *cache) {
    if (cache->pages_used == cache->pages) return -1;
    cache->pages_used++;
    int32_t page = cache->free_pages[cache->pages - cache->pages_used]; // the one given back last: still resident
    cache->taken[page] = true;
    return page;
}

bool kv_cache_give(struct kv_cache *cache, int32_t page) {
    if (page < 0 || page >= cache->pages || !cache->taken[page]) return false;
    cache->taken[page] = false;
    cache->free_pages[cache->pages - cache->pages_used] = page;
    cache->pages_used--;
    return true;
}

void kv_cache_copy(const struct kv_cache *cache, int32_t from, int32_t to) {
    size_t layer_bytes = cache->data_bytes / (size_t)cache->layers / (size_t)cache->pages;
    for (int layer = 0; layer < cache->layers; layer++)
        memcpy(kv_cache_block(cache, layer, to, 0, 0), kv_cache_block(cache, layer, from, 0, 0), layer_bytes);
}
