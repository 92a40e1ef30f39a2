#include "engine/lookup.h"

#include "base/checked.h"

#include <limits.h>
#include <stdlib.h>

int lookup_create(struct lookup **out, size_t capacity, struct error *error) {
    struct lookup *lookup = calloc(1, sizeof *lookup);
    size_t bytes;
    bool fits = capacity < INT32_MAX && checked_mul(capacity, sizeof(int32_t), &bytes);
    if (lookup && fits) {
        lookup->tokens = calloc(capacity, sizeof *lookup->tokens);
        lookup->before = calloc(capacity, sizeof *lookup->before);
        lookup->capacity = capacity;
    }
    if (!lookup || !lookup->tokens || !lookup->before) {
        lookup_destroy(lookup);
        return error_set(error, ERROR_MEMORY, "no memory for looking up %zu tokens", capacity);
    }
    *out = lookup;
    return 0;
}

void lookup_destroy(struct lookup *lookup) {
    if (!lookup) return;
    free(lookup->before);
    free(lookup->tokens);
    free(lookup);
}

static uint32_t bucket_of(int32_t first, int32_t second) {
    uint32_t hash = ((uint32_t)first * 2654435761u) ^ ((uint32_t)second * 2246822519u);
    return (hash ^ hash >> 15) % LOOKUP_BUCKETS;
}

void lookup_add(struct lookup *lookup, int32_t token) {
    size_t at = lookup->count++;
    lookup->tokens[at] = token;
    if (lookup->matched > 0 && lookup->tokens[lookup->source] == token) {
        lookup->source++;
        if (lookup->matched < INT_MAX) lookup->matched++;
    } else {
        lookup->matched = 0;
    }
    if (at == 0) return;
    int32_t *newest = &lookup->newest[bucket_of(lookup->tokens[at - 1], token)];
    lookup->before[at] = *newest;
    *newest = (int32_t)at + 1;
}

void lookup_expect_beginning(struct lookup *lookup) {
    lookup->source = 0;
    lookup->matched = LOOKUP_MATCH_MAX;
}

// How many tokens that end at a place are the text's last ones.
static int matched_at(const struct lookup *lookup, size_t place) {
    const int32_t *last = &lookup->tokens[lookup->count - 1], *other = &lookup->tokens[place];
    int most = place < LOOKUP_MATCH_MAX ? (int)place + 1 : LOOKUP_MATCH_MAX, matched = 0;
    while (matched < most && last[-matched] == other[-matched]) matched++;
    return matched;
}

// The longest match, the newest of several.
static void search(struct lookup *lookup) {
    lookup->searched = lookup->count;
    int32_t place = lookup->count > 0 ? lookup->before[lookup->count - 1] : 0;
    for (int i = 0; place > 0 && i < LOOKUP_PLACES_MAX && lookup->matched < LOOKUP_MATCH_MAX; i++) {
        int matched = matched_at(lookup, (size_t)place - 1);
        if (matched >= LOOKUP_MATCH_MIN && matched > lookup->matched) {
            lookup->matched = matched;
            lookup->source = (size_t)place;
        }
        place = lookup->before[place - 1];
    }
}

int lookup_guess(struct lookup *lookup, int32_t *out, int most) {
    if (lookup->matched == 0 && lookup->searched != lookup->count) search(lookup);
    if (lookup->matched == 0) return 0;
    for (int i = 0; i < most; i++) {
        size_t at = lookup->source + (size_t)i;
        out[i] = at < lookup->count ? lookup->tokens[at] : out[at - lookup->count];
    }
    return most;
}
