#include "engine/kv_cache.h"

#include "base/checked.h"
#include "engine/quants/f16.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct {
    size_t value_bytes, scale_bytes;
} FORMATS[] = {
#define KV_ROW(format, name, bytes, scale_bytes) {bytes, scale_bytes},
    KV_FORMATS(KV_ROW)
#undef KV_ROW
};

bool kv_format_parse(const char *name, enum kv_format *out) {
    KV_FORMATS(NAMED_MATCH)
    return false;
}

// 0 when it overflows.
static size_t block_bytes(enum kv_format format, int head_dim) {
    size_t bytes;
    if (!checked_mul(FORMATS[format].value_bytes, (size_t)head_dim, &bytes)) return 0;
    if (!checked_add(bytes, FORMATS[format].scale_bytes, &bytes)) return 0;
    return checked_mul(bytes, KV_PAGE_TOKENS, &bytes) ? bytes : 0;
}

size_t kv_cache_page_bytes(enum kv_format format, int layers, int kv_heads, int head_dim) {
    size_t bytes = 2;
    if (layers < 1 || kv_heads < 1 || head_dim < 1) return 0;
    if (!checked_mul(bytes, (size_t)layers, &bytes)) return 0;
    if (!checked_mul(bytes, (size_t)kv_heads, &bytes)) return 0;
    return checked_mul(bytes, block_bytes(format, head_dim), &bytes) ? bytes : 0;
}

int kv_cache_init(struct kv_cache *cache, enum kv_format format, int layers, int kv_heads, int head_dim, int pages,
                  struct error *error) {
    *cache = (struct kv_cache){
        .format = format, .layers = layers, .kv_heads = kv_heads, .head_dim = head_dim, .pages = pages};
    size_t page_bytes = kv_cache_page_bytes(format, layers, kv_heads, head_dim);
    if (page_bytes == 0 || pages < 1 || !checked_mul(page_bytes, (size_t)pages, &cache->data_bytes))
        return error_set(error, ERROR_ARGUMENT,
                         "a KV cache of %d pages for %d layers, %d heads and a head size of %d is not possible", pages,
                         layers, kv_heads, head_dim);

    cache->row_bytes = FORMATS[format].value_bytes * (size_t)head_dim;
    cache->block_bytes = block_bytes(format, head_dim);
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
    // In large pages of the system, if it has them: all layers of a page of ours lie together, so little more than what
    // is written becomes resident.
    madvise(cache->data, cache->data_bytes, MADV_HUGEPAGE);
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
    memcpy(kv_cache_block(cache, 0, to, 0, 0), kv_cache_block(cache, 0, from, 0, 0),
           cache->data_bytes / (size_t)cache->pages);
}

// ---- Values

static void put_int8(const float *x, int count, int8_t *to, float *scale) {
    float most = 0, odd = 0;
    for (int i = 0; i < count; i++) {
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
        odd += x[i] * 0; // NaN as soon as one is not finite: it is to be noticed
    }
    float inverse = odd == 0 && most > 0 ? 127 / most : 0;
    for (int i = 0; i < count; i++) to[i] = (int8_t)(odd == 0 ? rintf(x[i] * inverse) : 0);
    *scale = odd == 0 ? most / 127 : NAN;
}

static uint16_t put_f16(float x) {
    if (x - x != 0) return f16_from_f32(NAN); // not finite
    return f16_from_f32(fminf(fmaxf(x, -KV_F16_MAX), KV_F16_MAX));
}

void kv_cache_put(const struct kv_cache *cache, void *block, int position, const float *x) {
    void *row = kv_cache_row(cache, block, position);
    uint16_t *half = row;
    switch (cache->format) {
    case KV_F32:
        memcpy(row, x, cache->row_bytes);
        break;
    case KV_F16:
        for (int i = 0; i < cache->head_dim; i++) half[i] = put_f16(x[i]);
        break;
    case KV_INT8:
        put_int8(x, cache->head_dim, row, kv_cache_scales(cache, block) + position);
        break;
    }
}

void kv_cache_get(const struct kv_cache *cache, void *block, int position, float *x) {
    const void *row = kv_cache_row(cache, block, position);
    const uint16_t *half = row;
    const int8_t *whole = row;
    switch (cache->format) {
    case KV_F32:
        memcpy(x, row, cache->row_bytes);
        break;
    case KV_F16:
        for (int i = 0; i < cache->head_dim; i++) x[i] = f16_to_f32(half[i]);
        break;
    case KV_INT8:
        for (int i = 0; i < cache->head_dim; i++) x[i] = kv_cache_scales(cache, block)[position] * (float)whole[i];
        break;
    }
}
