// The tokens added beside a vocabulary ("<|end|>" and its like): finding them in a text as Hugging Face does,
// with the white space that they swallow. Filled by the tokenizer's reader, then read-only: any thread.
#ifndef ENGINE_ADDED_TOKENS_H
#define ENGINE_ADDED_TOKENS_H

#include "engine/id_map.h"

struct added_token {
    char *content; // NUL-terminated, never empty; owned
    size_t bytes;
    int32_t id;
    bool lstrip, rstrip; // swallows the white space before or after it
    bool normalized;     // is looked for in the normalised text
    bool special;        // makes no text
};

// The contents to look for, as a trie. Node 0 is the root.
struct token_trie {
    struct id_map edges; // node, byte -> node
    struct id_map ends;  // node -> index of the token that ends here
    uint32_t nodes;      // beside the root
};

void token_trie_finish(struct token_trie *trie);
bool token_trie_add(struct token_trie *trie, const char *text, size_t bytes, uint32_t index); // false: no memory

// A text as the tokens in it and what lies between. Set up with token_splitter_init, then call next until false.
struct token_splitter {
    const struct token_trie *trie;
    const struct added_token *tokens;
    const char *text;
    size_t bytes;
    size_t search_at; // where to look for the next token
    size_t text_at;   // where the text begins that was not given out yet
    size_t space_end; // the end of the white space that a token has swallowed
    const struct added_token *found; // follows the piece of text that was given out last
    size_t found_stop;
};

struct token_split {
    const struct added_token *token; // NULL: a piece of text, never empty
    size_t start, stop;
};

void token_splitter_init(struct token_splitter *splitter, const struct token_trie *trie,
                         const struct added_token *tokens, const char *text, size_t bytes);
bool token_splitter_next(struct token_splitter *splitter, struct token_split *out);

// Where the white space (Unicode's) that begins at `at` ends.
size_t white_space_end(const char *text, size_t bytes, size_t at);

#endif
