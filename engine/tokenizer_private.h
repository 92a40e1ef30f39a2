// What a tokenizer is made of: shared by tokenizer.c, which uses it, and tokenizer_file.c, which reads it.
#ifndef ENGINE_TOKENIZER_PRIVATE_H
#define ENGINE_TOKENIZER_PRIVATE_H

#include "base/buffer.h"
#include "engine/added_tokens.h"
#include "engine/bpe.h"
#include "engine/tokenizer.h"

#include <jansson.h>

#define SPACE_MARK "\xe2\x96\x81" // "▁", U+2581: how pieces write a space

enum { SPACE_MARK_BYTES = 3, NO_TOKEN = -1 };

enum prefix_scheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };

struct piece { // of one id
    size_t at, bytes; // its bytes in a running text, in tokenizer.piece_text
    bool known;       // false: the file has no such id
    bool made;        // a single character or the result of a merge: what BPE can come up with
    bool added;       // an added token, which plain text never becomes
    bool special;     // makes no text
};

struct tokenizer {
    struct bpe *bpe;
    struct piece *pieces; // [size]
    int size;
    struct buffer piece_text;

    struct added_token *added; // [added_count]
    size_t added_count;
    struct token_trie exact;      // tokens that are looked for in the text as it stands
    struct token_trie normalized; // those that are looked for in the normalised text

    // normalizer
    bool prepend_mark;   // "▁" in front of each text that is not empty
    bool replace_spaces; // " " becomes "▁"
    // pre_tokenizer
    bool metaspace;            // " " becomes "▁", and the prefix:
    enum prefix_scheme prefix; // "▁" in front of texts that do not begin with it
    bool split_words;          // no merge reaches over the start of a "▁"
    // model
    json_t *whole_words; // ignore_merges: the vocabulary, in which a whole word is looked up first; else NULL
    // decoder
    bool strips_space; // one space at the start of a text is dropped

    int32_t bos;       // goes before a prompt, or NO_TOKEN
    int32_t bos_token; // what tokenizer_config.json calls so, or NO_TOKEN
    char *chat_template; // or NULL
};

// Reads dir's files into a tokenizer that is all zeros; whatever it leaves there, tokenizer_close frees.
int tokenizer_read(struct tokenizer *tokenizer, const char *dir, int vocab_size, struct error *error);

// Appends the normalised form of a text.
bool tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct buffer *out);

#endif
