// Byte-pair encoding over characters: a text becomes the ids of its characters (the ids of its bytes where a
// character has none), then the pair of neighbours with the smallest rank is merged, the leftmost first among
// equals, until no pair is left that merges. The same as Hugging Face's BPE model with byte fallback.
//
// Filled by the tokenizer's reader, which owns it and has checked what it adds; then read-only: any thread.
#ifndef ENGINE_BPE_H
#define ENGINE_BPE_H

#include "engine/engine.h" // struct token_list

struct bpe;

// For at most merges_max merges. NULL: out of memory.
struct bpe *bpe_create(size_t merges_max);
void bpe_destroy(struct bpe *bpe); // takes NULL

bool bpe_add_character(struct bpe *bpe, uint32_t code_point, int32_t id); // false: out of memory
void bpe_set_byte(struct bpe *bpe, uint8_t byte, int32_t id);             // all 256 before anything is encoded

// The next merge in order of rank. left_last and right_first are the characters that meet in it: a text is cut
// where no merge can ever join its two sides. Neither side may be the id of a byte.
struct bpe_merge {
    int32_t left, right, result;
    uint32_t left_last, right_first;
};
bool bpe_add_merge(struct bpe *bpe, const struct bpe_merge *merge); // false: out of memory
bool bpe_has_merge(const struct bpe *bpe, int32_t left, int32_t right);

// Appends the ids of text, which is valid UTF-8. Time grows as n log n. False when out of memory.
bool bpe_encode(const struct bpe *bpe, const char *text, size_t bytes, struct token_list *out);

#endif
