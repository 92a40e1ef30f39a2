// Tokens back to text, as they come: holds back the bytes of a character until it is whole, so that what is
// given out is always valid UTF-8; bytes that can never complete become U+FFFD. Embedded; one thread.
#ifndef ENGINE_DETOKENIZER_H
#define ENGINE_DETOKENIZER_H

#include "base/buffer.h"
#include "engine/tokenizer.h"

struct detokenizer {
    const struct tokenizer *tokenizer;
    bool strip_space;  // the next text is the first of its answer: one leading space belongs to the tokenizer
    char pending[4];   // the beginning of a character
    int pending_bytes; // 0..3
};

// strip_space as the file's decoder asks for at the start of a text (HF: Strip content=" " start=1).
void detokenizer_init(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, bool strip_space);

// Appends the text that this token makes whole; special tokens make none. False when out of memory.
bool detokenizer_add(struct detokenizer *detokenizer, int32_t id, struct buffer *out);

// The end: what is pending becomes U+FFFD (one for each byte that HF's decoder would replace).
bool detokenizer_flush(struct detokenizer *detokenizer, struct buffer *out);

#endif
