#include "engine/kv_room.h"

#include "base/checked.h"
#include "base/smaller.h"
#include "engine/kv_cache.h"

#include <stdint.h>

enum { ALWAYS_SHARE = 4 }; // of the free memory one context may take one part in so many, whatever the weights take

// What a process takes beside weights and cache: activations of the chunks that go together, logits, tokenizer,
// connections. Some 300 MiB with Phi-tiny-MoE and the default settings.
static const size_t SPARE_BYTES = (size_t)512 << 20;

static size_t whole_pages(size_t tokens) {
    size_t up;
    return checked_add(tokens, KV_PAGE_TOKENS - 1, &up) ? up / KV_PAGE_TOKENS * KV_PAGE_TOKENS : tokens;
}

static size_t tokens_in(const struct kv_room *room, size_t bytes) {
    return bytes / room->page_bytes * KV_PAGE_TOKENS;
}

// Beside the weights.
static size_t fitting(const struct kv_room *room) {
    size_t taken;
    if (!checked_add(room->weight_bytes, SPARE_BYTES, &taken) || taken >= room->free_bytes) return 0;
    return tokens_in(room, room->free_bytes - taken);
}

// Whatever the weights take: a context, or what a share of the memory has room for.
static size_t always(const struct kv_room *room) {
    size_t share = tokens_in(room, room->free_bytes / ALWAYS_SHARE);
    return larger_size(KV_PAGE_TOKENS, smaller_size(whole_pages(room->context_tokens), share));
}

size_t kv_room_most(const struct kv_room *room) {
    if (room->free_bytes == 0) return SIZE_MAX;
    return larger_size(fitting(room), always(room));
}

size_t kv_room_standard(const struct kv_room *room) {
    size_t context = whole_pages(room->context_tokens), all;
    if (room->free_bytes == 0) return context;
    if (!checked_mul(context, (size_t)room->sequences, &all)) all = SIZE_MAX;
    size_t half = fitting(room) / 2 / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    size_t one = context <= kv_room_most(room) ? context : always(room);
    return larger_size(smaller_size(all, half), one);
}
