#include "engine/prefix_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// The next number of a sequence that looks random: a counter, well mixed.
static uint64_t next_key(uint64_t *state) {
    uint64_t key = *state += UINT64_C(0x9e3779b97f4a7c15);
    key = (key ^ key >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    key = (key ^ key >> 27) * UINT64_C(0x94d049bb133111eb);
    return key ^ key >> 31;
}

int prefix_cache_init(struct prefix_cache *cache, struct kv_cache *pool, bool enabled, uint64_t seed,
                      struct error *error) {
    *cache = (struct prefix_cache){
        .pool = pool, .enabled = enabled, .bucket_count = 1, .roots = -1, .oldest = -1, .newest = -1};
    for (int i = 0; i <= PREFIX_HASH_WORDS; i++) cache->hash_keys[i] = next_key(&seed);
    while (cache->bucket_count < (uint32_t)pool->pages) cache->bucket_count *= 2;
    cache->pages = calloc((size_t)pool->pages, sizeof *cache->pages);
    cache->buckets = malloc(cache->bucket_count * sizeof *cache->buckets);
    if (!cache->pages || !cache->buckets) {
        prefix_cache_finish(cache);
        return error_set(error, ERROR_MEMORY, "no memory for the register of %d KV pages", pool->pages);
    }
    memset(cache->buckets, 0xff, cache->bucket_count * sizeof *cache->buckets); // -1
    return 0;
}

void prefix_cache_finish(struct prefix_cache *cache) {
    free(cache->buckets);
    free(cache->pages);
    *cache = (struct prefix_cache){0};
}

// ---- The idle ones, from the oldest to the newest

static void make_idle(struct prefix_cache *cache, int32_t page) {
    struct prefix_page *own = &cache->pages[page];
    own->older = cache->newest;
    own->newer = -1;
    *(own->older >= 0 ? &cache->pages[own->older].newer : &cache->oldest) = page;
    cache->newest = page;
    cache->idle++;
}

static void make_busy(struct prefix_cache *cache, int32_t page) {
    const struct prefix_page *own = &cache->pages[page];
    *(own->older >= 0 ? &cache->pages[own->older].newer : &cache->oldest) = own->newer;
    *(own->newer >= 0 ? &cache->pages[own->newer].older : &cache->newest) = own->older;
    cache->idle--;
}

// ---- The tree

// The upper half of a sum of products with random numbers of 64 bits: for whoever does not know them, any two different
// pages share a bucket with the probability that chance gives, whatever their tokens are.
static int32_t *bucket_of(const struct prefix_cache *cache, uint64_t salt, int32_t parent, const int32_t *tokens) {
    const uint64_t *keys = cache->hash_keys;
    uint64_t hash = *keys++;
    hash += *keys++ * (uint32_t)parent;
    hash += *keys++ * (parent < 0 ? (uint32_t)salt : 0);
    hash += *keys++ * (parent < 0 ? salt >> 32 : 0);
    for (int i = 0; i < KV_PAGE_TOKENS; i++) hash += keys[i] * (uint32_t)tokens[i];
    return &cache->buckets[hash >> 32 & (cache->bucket_count - 1)];
}

// Whether it stands behind this page, in a text with this salt.
static bool is_behind(const struct prefix_page *page, uint64_t salt, int32_t parent) {
    return page->parent == parent && (parent >= 0 || page->salt == salt);
}

static int32_t *children_of(struct prefix_cache *cache, int32_t parent) {
    return parent >= 0 ? &cache->pages[parent].child : &cache->roots;
}

static void enter_bucket(struct prefix_cache *cache, int32_t page) {
    struct prefix_page *own = &cache->pages[page];
    int32_t *bucket = bucket_of(cache, own->salt, own->parent, own->tokens);
    own->next_in_bucket = *bucket;
    *bucket = page;
}

static void leave_bucket(struct prefix_cache *cache, int32_t page) {
    const struct prefix_page *own = &cache->pages[page];
    int32_t *at = bucket_of(cache, own->salt, own->parent, own->tokens);
    while (*at != page) at = &cache->pages[*at].next_in_bucket;
    *at = own->next_in_bucket;
}

static void enter_tree(struct prefix_cache *cache, uint64_t salt, int32_t parent, int32_t page) {
    struct prefix_page *own = &cache->pages[page];
    int32_t *first = children_of(cache, parent);
    own->kept = true;
    own->salt = salt;
    own->parent = parent;
    own->child = -1;
    own->sibling_before = -1;
    own->sibling_behind = *first;
    own->count = 0;
    if (*first >= 0) cache->pages[*first].sibling_before = page;
    *first = page;
}

static void leave_tree(struct prefix_cache *cache, int32_t page) {
    struct prefix_page *own = &cache->pages[page];
    if (own->count == KV_PAGE_TOKENS) leave_bucket(cache, page);
    *(own->sibling_before >= 0 ? &cache->pages[own->sibling_before].sibling_behind : children_of(cache, own->parent)) =
        own->sibling_behind;
    if (own->sibling_behind >= 0) cache->pages[own->sibling_behind].sibling_before = own->sibling_before;
    own->kept = false;
}

// ---- Taking, holding, giving back

int32_t prefix_take(struct prefix_cache *cache) {
    int32_t page = kv_cache_take(cache->pool);
    if (page < 0 && cache->oldest >= 0) {
        page = cache->oldest;
        assert(cache->pages[page].child < 0);
        make_busy(cache, page);
        leave_tree(cache, page);
    }
    if (page >= 0) cache->pages[page].holders = 1;
    return page;
}

void prefix_hold(struct prefix_cache *cache, int32_t page) {
    if (cache->pages[page].holders++ == 0) make_busy(cache, page);
}

void prefix_give(struct prefix_cache *cache, int32_t page) {
    struct prefix_page *own = &cache->pages[page];
    assert(own->holders > 0);
    if (--own->holders > 0) return;
    if (own->kept)
        make_idle(cache, page);
    else
        kv_cache_give(cache->pool, page);
}

void prefix_forget(struct prefix_cache *cache) {
    for (int32_t page = 0; page < cache->pool->pages; page++) {
        struct prefix_page *own = &cache->pages[page];
        if (!own->kept) continue;
        own->kept = false;
        own->child = -1;
        if (own->holders == 0) kv_cache_give(cache->pool, page);
    }
    memset(cache->buckets, 0xff, cache->bucket_count * sizeof *cache->buckets);
    cache->roots = cache->oldest = cache->newest = -1;
    cache->idle = 0;
}

// ---- Finding and keeping

int32_t prefix_find(const struct prefix_cache *cache, uint64_t salt, int32_t parent, const int32_t *tokens) {
    if (!cache->enabled) return -1;
    int32_t page = *bucket_of(cache, salt, parent, tokens);
    for (; page >= 0; page = cache->pages[page].next_in_bucket) {
        const struct prefix_page *found = &cache->pages[page];
        if (is_behind(found, salt, parent) && memcmp(found->tokens, tokens, sizeof found->tokens) == 0) break;
    }
    return page;
}

static int same_tokens(const int32_t *a, const int32_t *b, int count) {
    int same = 0;
    while (same < count && a[same] == b[same]) same++;
    return same;
}

int32_t prefix_find_part(const struct prefix_cache *cache, uint64_t salt, int32_t parent, const int32_t *tokens,
                         int count, int *same) {
    int32_t best = -1, page = parent >= 0 ? cache->pages[parent].child : cache->roots;
    *same = PREFIX_PART_TOKENS_MIN - 1;
    if (!cache->enabled) return -1;
    for (int tried = 0; page >= 0 && tried < PREFIX_PARTS_TRIED_MAX; tried++) {
        const struct prefix_page *found = &cache->pages[page];
        int most = found->count < count ? found->count : count;
        int agree = is_behind(found, salt, parent) ? same_tokens(found->tokens, tokens, most) : 0;
        if (agree > *same) {
            best = page;
            *same = agree;
        }
        page = found->sibling_behind;
    }
    return best;
}

int32_t prefix_keep(struct prefix_cache *cache, uint64_t salt, int32_t parent, int32_t page, const int32_t *tokens,
                    int count) {
    if (!cache->enabled || (parent >= 0 && !cache->pages[parent].kept)) return -1;
    struct prefix_page *own = &cache->pages[page];
    if (count == KV_PAGE_TOKENS) {
        int32_t other = prefix_find(cache, salt, parent, tokens);
        if (other >= 0) return other;
    } else {
        int same;
        int32_t other = prefix_find_part(cache, salt, parent, tokens, count, &same);
        if (count < PREFIX_PART_TOKENS_MIN || (other >= 0 && same == count)) return -1; // nothing new
    }
    if (!own->kept) enter_tree(cache, salt, parent, page);
    memcpy(own->tokens, tokens, (size_t)count * sizeof *tokens);
    own->count = count;
    if (count == KV_PAGE_TOKENS) enter_bucket(cache, page);
    return page;
}
