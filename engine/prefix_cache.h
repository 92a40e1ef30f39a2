// The prefix cache: which KV pages hold the keys and values of which tokens. A request that begins as another did holds
// that one's pages instead of computing them again, while it runs and after it has ended. The engine thread's alone.
//
// Pages form a tree: below a page stand those that go on where it ends. A whole page is found by a hash over the page
// before it (at a text's beginning, over the salt) and its own tokens; both are then compared for real, so a page found
// stands for exactly the tokens from the beginning of the text on. A page whose end is not shared can be copied as far
// as it is. What is kept is never written again: a sequence writes behind the tokens for which a page is known.
//
// A page is free, held by sequences (it counts them), or idle: kept, and held by nobody. Idle pages are given away, the
// longest unused one first, when none is free. Whoever holds a page holds all before it, and gives them back from the
// end: so among idle pages one is always older than those before it, and the oldest is the end of its branch.
#ifndef ENGINE_PREFIX_CACHE_H
#define ENGINE_PREFIX_CACHE_H

#include "engine/kv_cache.h"

enum {
    PREFIX_HASH_WORDS = 3 + KV_PAGE_TOKENS, // the page before it or the salt's two halves, and tokens
    PREFIX_PART_TOKENS_MIN = 8,             // fewer are not worth copying a page
    PREFIX_PARTS_TRIED_MAX = 128, // pages that are looked at for the longest common beginning: the newest ones
};

struct prefix_page {
    int holders;
    bool kept;      // it is in the tree
    int32_t parent; // the page before it; -1: a text begins here. Pages are their numbers, -1 is none
    int32_t child, sibling_before, sibling_behind;
    int32_t next_in_bucket;
    int32_t older, newer;           // of the idle ones
    uint64_t salt;                  // at a text's beginning: only requests with the same share pages
    int count;                      // tokens for which it is known; fewer than all: a part
    int32_t tokens[KV_PAGE_TOKENS]; // [count]
};

struct prefix_cache {
    struct kv_cache *pool;
    bool enabled;                              // else nothing is kept, and nothing found
    struct prefix_page *pages;                 // [pool->pages]
    int32_t *buckets;                          // [bucket_count] whole pages by their hash
    uint32_t bucket_count;                     // a power of two
    uint64_t hash_keys[PREFIX_HASH_WORDS + 1]; // from the seed
    int32_t roots;                             // where texts begin, the newest first
    int32_t oldest, newest;                    // of the idle pages
    int idle;
};

// The pool stays the caller's, but its pages go through here from now on. seed: of the hash; whoever does not know it
// can not choose tokens whose pages all share a bucket. What is found does not depend on it.
int prefix_cache_init(struct prefix_cache *cache, struct kv_cache *pool, bool enabled, uint64_t seed,
                      struct error *error);
void prefix_cache_finish(struct prefix_cache *cache); // takes one that is all zeros too

// Pages that could be taken now, and those that sequences hold.
static inline int prefix_available(const struct prefix_cache *cache) {
    return cache->pool->pages - cache->pool->pages_used + cache->idle;
}
static inline int prefix_held(const struct prefix_cache *cache) {
    return cache->pool->pages_used - cache->idle;
}

int32_t prefix_take(struct prefix_cache *cache);            // a page of one's own; -1: none is left
void prefix_hold(struct prefix_cache *cache, int32_t page); // one that was found: idle, or held by others too
void prefix_give(struct prefix_cache *cache, int32_t page); // gives back what was taken or held

// The whole page that holds tokens [KV_PAGE_TOKENS] behind `parent`; -1: there is none.
int32_t prefix_find(const struct prefix_cache *cache, uint64_t salt, int32_t parent, const int32_t *tokens);

// The page behind `parent` that begins with the most of tokens [count]; *same says with how many. -1: with too few.
int32_t prefix_find_part(const struct prefix_cache *cache, uint64_t salt, int32_t parent, const int32_t *tokens,
                         int count, int *same);

// Makes it known that `page`, which is held, holds tokens [count] behind `parent`, which the same sequence holds.
// Returns the page that stands for them: this one, or the whole one that already does; -1: nothing is kept of it.
int32_t prefix_keep(struct prefix_cache *cache, uint64_t salt, int32_t parent, int32_t page, const int32_t *tokens,
                    int count);

// Forgets everything: a device may have left nonsense in the pages. Whoever holds pages goes on holding them.
void prefix_forget(struct prefix_cache *cache);

#endif
