#include "engine/added_tokens.h"

#include "base/utf8.h"

// ---- The trie

void token_trie_finish(struct token_trie *trie) {
    id_map_finish(&trie->edges);
    id_map_finish(&trie->ends);
    trie->nodes = 0;
}

static uint64_t edge_key(uint64_t node, char byte) {
    return node << 8 | (uint8_t)byte;
}

bool token_trie_add(struct token_trie *trie, const char *text, size_t bytes, uint32_t index) {
    uint64_t node = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint64_t next;
        if (!id_map_get(&trie->edges, edge_key(node, text[i]), &next)) {
            next = ++trie->nodes;
            if (!id_map_put(&trie->edges, edge_key(node, text[i]), next)) return false;
        }
        node = next;
    }
    return id_map_put(&trie->ends, node, index);
}

// The longest token that begins at text[0]; its length, or 0.
static size_t longest_at(const struct token_trie *trie, const char *text, size_t bytes, uint64_t *index) {
    uint64_t node = 0;
    size_t length = 0;
    for (size_t i = 0; i < bytes && id_map_get(&trie->edges, edge_key(node, text[i]), &node); i++)
        if (id_map_get(&trie->ends, node, index)) length = i + 1;
    return length;
}

// ---- White space

size_t white_space_end(const char *text, size_t bytes, size_t at) {
    uint32_t c;
    for (size_t width; (width = utf8_decode(text + at, bytes - at, &c)) && utf8_is_white_space(c);) at += width;
    return at;
}

// Where the white space begins that ends at `at`, no earlier than `from`.
static size_t white_space_start(const char *text, size_t from, size_t at) {
    while (at > from) {
        size_t start = at - 1;
        while (start > from && ((uint8_t)text[start] & 0xc0) == 0x80) start--;
        uint32_t c;
        if (!utf8_decode(text + start, at - start, &c) || !utf8_is_white_space(c)) break;
        at = start;
    }
    return at;
}

// ---- Splitting

void token_splitter_init(struct token_splitter *splitter, const struct token_trie *trie,
                         const struct added_token *tokens, const char *text, size_t bytes) {
    *splitter = (struct token_splitter){.trie = trie, .tokens = tokens, .text = text, .bytes = bytes};
}

// The next token at or behind search_at: the leftmost, and the longest of those that begin there.
static const struct added_token *search(struct token_splitter *splitter, size_t *start, size_t *stop) {
    if (splitter->trie->nodes == 0) return NULL;
    for (size_t at = splitter->search_at; at < splitter->bytes; at++) {
        uint64_t index;
        size_t length = longest_at(splitter->trie, splitter->text + at, splitter->bytes - at, &index);
        if (length == 0) continue;
        *start = at;
        *stop = splitter->search_at = at + length;
        return &splitter->tokens[index];
    }
    return NULL;
}

static bool give_token(struct token_splitter *splitter, const struct added_token *token, size_t start, size_t stop,
                       struct token_split *out) {
    *out = (struct token_split){.token = token, .start = start, .stop = stop};
    splitter->text_at = stop;
    splitter->found = NULL;
    return true;
}

bool token_splitter_next(struct token_splitter *splitter, struct token_split *out) {
    if (splitter->found) return give_token(splitter, splitter->found, splitter->text_at, splitter->found_stop, out);

    size_t start, stop;
    const struct added_token *token = search(splitter, &start, &stop);
    if (!token) {
        *out = (struct token_split){.start = splitter->text_at, .stop = splitter->bytes};
        splitter->text_at = splitter->search_at = splitter->bytes;
        return out->start < out->stop;
    }
    if (token->lstrip) start = white_space_start(splitter->text, splitter->text_at, start);
    if (token->rstrip) {
        // A token of white space may lie in what another has swallowed: do not walk the same run again.
        size_t known = stop < splitter->space_end ? splitter->space_end : stop;
        stop = splitter->space_end = white_space_end(splitter->text, splitter->bytes, known);
    }
    if (splitter->text_at >= start) return give_token(splitter, token, start, stop, out);

    *out = (struct token_split){.start = splitter->text_at, .stop = start};
    splitter->text_at = start;
    splitter->found = token;
    splitter->found_stop = stop;
    return true;
}
