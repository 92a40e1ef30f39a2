// Which KV cache the memory has room for: the arithmetic that opening a model, looking at one and refusing a size
// share. Pure; any thread.
#ifndef ENGINE_KV_ROOM_H
#define ENGINE_KV_ROOM_H

#include <stddef.h>

struct kv_room {
    size_t free_bytes;     // memory that is free before the model is opened; 0: unknown
    size_t weight_bytes;   // of the model once it is open, mapped or held
    size_t page_bytes;     // of one page of the cache, not 0
    size_t context_tokens; // of the model
    int sequences;         // that may run at once
};

// Tokens of the largest cache that fits beside the weights, whole pages. One context is always among what fits unless
// it is more than a quarter of the free memory: weights that are files can be read again. SIZE_MAX where nothing is
// known.
size_t kv_room_most(const struct kv_room *room);

// Tokens of the cache where nobody asks for a size: all sequences at full length, or half of what fits beside the
// weights, so that other programs have the other half; but one context if that fits.
size_t kv_room_standard(const struct kv_room *room);

#endif
