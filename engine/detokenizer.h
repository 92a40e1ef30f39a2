// Tokens back to text, as they come: holds back the bytes of a character until it is whole, so that what is
// given out is always valid UTF-8; each byte that can never complete one becomes U+FFFD. Embedded; one thread.
//
// The text is that of Hugging Face's decoder without special tokens, but for one case: where a run of byte
// tokens is not valid UTF-8 as a whole, Hugging Face replaces every byte of the run, also its valid characters.
// A stream cannot know what a run will become, so here valid characters stay.
#ifndef ENGINE_DETOKENIZER_H
#define ENGINE_DETOKENIZER_H

#include "base/buffer.h"
#include "engine/tokenizer.h"

struct detokenizer {
    const struct tokenizer *tokenizer;
    bool strip_space;  // the next text is the first of its answer: one leading space belongs to the tokenizer
    char pending[4];   // the beginning of a character
    int pending_bytes; // 0..3 between calls
};

// strip_space: whether one space at the start of the text is dropped; tokenizer_strips_space says whether the
// file's decoder does so where a text begins (a continued text keeps it).
void detokenizer_init(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, bool strip_space);

// Appends the text that this token makes whole; special tokens and unknown ids make none. False when out of memory.
bool detokenizer_add(struct detokenizer *detokenizer, int32_t id, struct buffer *out);

// The end: each pending byte becomes U+FFFD.
bool detokenizer_flush(struct detokenizer *detokenizer, struct buffer *out);

#endif
