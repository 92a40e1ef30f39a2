#include "engine/bpe.h"

#include "base/checked.h"
#include "base/utf8.h"
#include "engine/id_map.h"
#include "engine/tokenizer.h"

#include <stdlib.h>

struct bpe {
    struct id_map characters; // code point -> id
    struct id_map merges;     // left, right -> rank
    struct id_map joints;     // two characters between which some merge may join -> nothing
    int32_t *results;         // [merges_max] by rank: the id that the merge makes
    size_t merge_count;
    int32_t bytes[256];
};

// ---- Filling

struct bpe *bpe_create(size_t merges_max) {
    struct bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) return NULL;
    bpe->results = calloc(merges_max ? merges_max : 1, sizeof *bpe->results);
    if (!bpe->results) {
        free(bpe);
        return NULL;
    }
    return bpe;
}

void bpe_destroy(struct bpe *bpe) {
    if (!bpe) return;
    id_map_finish(&bpe->characters);
    id_map_finish(&bpe->merges);
    id_map_finish(&bpe->joints);
    free(bpe->results);
    free(bpe);
}

static uint64_t pair_key(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

bool bpe_add_character(struct bpe *bpe, uint32_t code_point, int32_t id) {
    return id_map_put(&bpe->characters, code_point, (uint64_t)id);
}

void bpe_set_byte(struct bpe *bpe, uint8_t byte, int32_t id) {
    bpe->bytes[byte] = id;
}

bool bpe_add_merge(struct bpe *bpe, const struct bpe_merge *merge) {
    size_t rank = bpe->merge_count;
    if (!id_map_put(&bpe->merges, pair_key((uint32_t)merge->left, (uint32_t)merge->right), rank)) return false;
    if (!id_map_put(&bpe->joints, pair_key(merge->left_last, merge->right_first), 0)) return false;
    bpe->results[rank] = merge->result;
    bpe->merge_count++;
    return true;
}

bool bpe_has_merge(const struct bpe *bpe, int32_t left, int32_t right) {
    return id_map_get(&bpe->merges, pair_key((uint32_t)left, (uint32_t)right), NULL);
}

// ---- Merging one word: characters between which nothing is known to keep them apart

enum { NO_ID = -1 };

struct symbol {
    int32_t id; // NO_ID once merged into its left neighbour
    int32_t previous, next; // indexes of neighbours, -1 at the ends
};

// Working memory of one call. A candidate is a merge that was possible when it was noted: its rank above the
// index of its left symbol, so that the smallest number is the next to be done.
struct work {
    struct symbol *symbols;
    size_t symbol_count, symbol_capacity;
    uint64_t *heap; // a binary heap, smallest first
    size_t heap_count, heap_capacity;
};

// The larger array, or NULL; the old one stays valid then.
static void *enlarge(void *array, size_t item_bytes, size_t *capacity, size_t wanted) {
    size_t larger = *capacity ? *capacity : 256, bytes;
    while (larger < wanted)
        if (!checked_mul(larger, 2, &larger)) return NULL;
    if (!checked_mul(larger, item_bytes, &bytes)) return NULL;
    void *moved = realloc(array, bytes);
    if (moved) *capacity = larger;
    return moved;
}

static bool push_symbol(struct work *work, int32_t id) {
    if (work->symbol_count >= INT32_MAX) return false;
    if (work->symbol_count == work->symbol_capacity) {
        struct symbol *symbols =
            enlarge(work->symbols, sizeof *symbols, &work->symbol_capacity, work->symbol_count + 1);
        if (!symbols) return false;
        work->symbols = symbols;
    }
    int32_t at = (int32_t)work->symbol_count++;
    work->symbols[at] = (struct symbol){.id = id, .previous = at - 1, .next = -1};
    if (at > 0) work->symbols[at - 1].next = at;
    return true;
}

// Each merge takes one candidate out and puts at most two in, so twice the symbols is room enough.
static bool reserve_heap(struct work *work) {
    size_t wanted;
    if (!checked_mul(work->symbol_count, 2, &wanted)) return false;
    if (wanted <= work->heap_capacity) return true;
    uint64_t *heap = enlarge(work->heap, sizeof *heap, &work->heap_capacity, wanted);
    if (!heap) return false;
    work->heap = heap;
    return true;
}

static void heap_push(struct work *work, uint64_t candidate) {
    size_t at = work->heap_count++;
    while (at > 0 && work->heap[(at - 1) / 2] > candidate) {
        work->heap[at] = work->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    work->heap[at] = candidate;
}

static uint64_t heap_pop(struct work *work) {
    uint64_t *heap = work->heap, top = heap[0];
    uint64_t last = heap[--work->heap_count];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < work->heap_count) {
        if (child + 1 < work->heap_count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

// The rank of the merge of a symbol with its right neighbour; false where there is none.
static bool rank_at(const struct bpe *bpe, const struct work *work, int32_t at, uint64_t *rank) {
    const struct symbol *left = &work->symbols[at];
    if (left->next < 0) return false;
    uint32_t right = (uint32_t)work->symbols[left->next].id;
    return id_map_get(&bpe->merges, pair_key((uint32_t)left->id, right), rank);
}

static void note_candidate(const struct bpe *bpe, struct work *work, int32_t at) {
    uint64_t rank;
    if (at >= 0 && rank_at(bpe, work, at, &rank)) heap_push(work, rank << 32 | (uint32_t)at);
}

static void merge_at(struct work *work, int32_t at, int32_t id) {
    struct symbol *left = &work->symbols[at], *right = &work->symbols[left->next];
    left->id = id;
    left->next = right->next;
    if (left->next >= 0) work->symbols[left->next].previous = at;
    right->id = NO_ID;
}

// Merges the collected symbols, appends what is left of them and forgets them.
static bool finish_word(const struct bpe *bpe, struct work *work, struct token_list *out) {
    if (work->symbol_count == 0) return true;
    if (!reserve_heap(work)) return false;
    for (size_t i = 0; i + 1 < work->symbol_count; i++) note_candidate(bpe, work, (int32_t)i);

    while (work->heap_count > 0) {
        uint64_t candidate = heap_pop(work), rank;
        int32_t at = (int32_t)(candidate & UINT32_MAX);
        int32_t result = bpe->results[candidate >> 32];
        if (work->symbols[at].id == NO_ID || !rank_at(bpe, work, at, &rank)) continue;
        // A candidate is stale when the pair has changed. Like Hugging Face, go by what the pair now here makes:
        // "ab"+"c" may take the turn that "a"+"bc" once noted.
        if (bpe->results[rank] != result) continue;
        merge_at(work, at, result);
        note_candidate(bpe, work, work->symbols[at].previous);
        note_candidate(bpe, work, at);
    }
    for (int32_t at = 0; at >= 0; at = work->symbols[at].next)
        if (!token_list_add(out, work->symbols[at].id)) return false;
    work->symbol_count = 0;
    return true;
}

// ---- A text

static bool add_bytes(const struct bpe *bpe, const char *text, size_t bytes, struct token_list *out) {
    for (size_t i = 0; i < bytes; i++)
        if (!token_list_add(out, bpe->bytes[(uint8_t)text[i]])) return false;
    return true;
}

// Cuts the text where no merge has its two characters meet, and around characters that become bytes: nothing
// can merge across, so what lies between the cuts merges by itself as it would within the whole.
static bool encode_text(const struct bpe *bpe, struct work *work, const char *text, size_t bytes,
                        struct token_list *out) {
    uint32_t before = 0, character;
    for (size_t at = 0, width; at < bytes; at += width, before = character) {
        width = utf8_decode(text + at, bytes - at, &character);
        if (width == 0) return false;
        uint64_t id;
        bool known = id_map_get(&bpe->characters, character, &id);
        bool cut = !known || (work->symbol_count && !id_map_get(&bpe->joints, pair_key(before, character), NULL));
        if (cut && !finish_word(bpe, work, out)) return false;
        if (!(known ? push_symbol(work, (int32_t)id) : add_bytes(bpe, text + at, width, out))) return false;
    }
    return finish_word(bpe, work, out);
}

bool bpe_encode(const struct bpe *bpe, const char *text, size_t bytes, struct token_list *out) {
    struct work work = {0};
    bool ok = encode_text(bpe, &work, text, bytes, out);
    free(work.symbols);
    free(work.heap);
    return ok;
}
