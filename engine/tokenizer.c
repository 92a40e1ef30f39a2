#include "engine/tokenizer.h"

#include "engine/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 256 << 20 }; // of one text; the tables of bpe.c count symbols in 32 bits

// ---- Token lists

bool token_list_add(struct token_list *list, int32_t id) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *ids = capacity <= SIZE_MAX / sizeof *ids ? realloc(list->ids, capacity * sizeof *ids) : NULL;
        if (!ids) return false;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return true;
}

void token_list_finish(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

// ---- Opening

int tokenizer_open(struct tokenizer **out, const char *dir, int vocab_size, struct error *error) {
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) return error_set(error, ERROR_MEMORY, "out of memory for the tokenizer");
    int rc = tokenizer_read(tokenizer, dir, vocab_size, error);
    if (rc) {
        tokenizer_close(tokenizer);
        return rc;
    }
    *out = tokenizer;
    return 0;
}

int tokenizer_open_numbers(struct tokenizer **out, int vocab_size, struct error *error) {
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) return error_set(error, ERROR_MEMORY, "out of memory for the tokenizer");
    tokenizer->bos = tokenizer->bos_token = NO_TOKEN;
    buffer_init(&tokenizer->piece_text, (size_t)vocab_size * 16);
    tokenizer->pieces = calloc((size_t)vocab_size, sizeof *tokenizer->pieces);
    tokenizer->size = vocab_size;
    for (int id = 0; tokenizer->pieces && id < vocab_size; id++) {
        struct piece *piece = &tokenizer->pieces[id];
        piece->known = true;
        piece->at = tokenizer->piece_text.bytes;
        buffer_format(&tokenizer->piece_text, " %d", id);
        piece->bytes = tokenizer->piece_text.bytes - piece->at;
    }
    if (!tokenizer->pieces || tokenizer->piece_text.failed) {
        tokenizer_close(tokenizer);
        return error_set(error, ERROR_MEMORY, "out of memory for the texts of %d tokens", vocab_size);
    }
    *out = tokenizer;
    return 0;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    bpe_destroy(tokenizer->bpe);
    free(tokenizer->pieces);
    buffer_finish(&tokenizer->piece_text);
    for (size_t i = 0; i < tokenizer->added_count; i++) free(tokenizer->added[i].content);
    free(tokenizer->added);
    token_trie_finish(&tokenizer->exact);
    token_trie_finish(&tokenizer->normalized);
    json_decref(tokenizer->whole_words);
    free(tokenizer->chat_template);
    free(tokenizer);
}

// ---- Text to tokens
//
// As Hugging Face does it: added tokens cut the text into segments; each segment is normalised by itself (and
// cut at the added tokens that are looked for there), and the rest goes to BPE word by word.

static bool append_marked(const char *text, size_t bytes, struct buffer *out) {
    for (const char *end = text + bytes; text < end;) {
        const char *space = memchr(text, ' ', (size_t)(end - text));
        size_t run = (size_t)((space ? space : end) - text);
        if (!buffer_append(out, text, run)) return false;
        if (space && !buffer_append(out, SPACE_MARK, SPACE_MARK_BYTES)) return false;
        text += run + (space != NULL);
    }
    return true;
}

bool tokenizer_normalize(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct buffer *out) {
    if (bytes == 0) return true;
    if (tokenizer->prepend_mark && !buffer_append(out, SPACE_MARK, SPACE_MARK_BYTES)) return false;
    return tokenizer->replace_spaces ? append_marked(text, bytes, out) : buffer_append(out, text, bytes);
}

static const struct added_token *added_by_id(const struct tokenizer *tokenizer, int32_t id) {
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (tokenizer->added[i].id == id) return &tokenizer->added[i];
    return NULL;
}

static bool encode_word(const struct tokenizer *tokenizer, const char *word, size_t bytes, struct token_list *out) {
    const json_t *whole = tokenizer->whole_words ? json_object_getn(tokenizer->whole_words, word, bytes) : NULL;
    int32_t id = whole ? (int32_t)json_integer_value(whole) : NO_TOKEN;
    // Plain text never becomes an added token, not even where the vocabulary lists it as a word.
    if (id != NO_TOKEN && !tokenizer->pieces[id].added) return token_list_add(out, id);
    return bpe_encode(tokenizer->bpe, word, bytes, out);
}

static bool encode_words(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct token_list *out) {
    if (!tokenizer->split_words) return encode_word(tokenizer, text, bytes, out);
    for (const char *end = text + bytes; text < end;) {
        const char *next = memmem(text + 1, (size_t)(end - text) - 1, SPACE_MARK, SPACE_MARK_BYTES);
        if (!next) next = end;
        if (!encode_word(tokenizer, text, (size_t)(next - text), out)) return false;
        text = next;
    }
    return true;
}

// Normalised text without added tokens. first: nothing stood before it.
static bool encode_normalized(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool first,
                              struct token_list *out) {
    if (bytes == 0) return true;
    if (!tokenizer->metaspace) return encode_words(tokenizer, text, bytes, out);

    struct buffer marked;
    buffer_init(&marked, SIZE_MAX);
    bool prefix = tokenizer->prefix == PREFIX_ALWAYS || (tokenizer->prefix == PREFIX_FIRST && first);
    bool has_mark = text[0] == ' ' || (bytes >= SPACE_MARK_BYTES && memcmp(text, SPACE_MARK, SPACE_MARK_BYTES) == 0);
    bool ok = (!prefix || has_mark || buffer_append(&marked, SPACE_MARK, SPACE_MARK_BYTES)) &&
              append_marked(text, bytes, &marked) && encode_words(tokenizer, marked.data, marked.bytes, out);
    buffer_finish(&marked);
    return ok;
}

// A segment between added tokens (or a text in which none are looked for: plain).
static bool encode_segment(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool plain, bool first,
                           struct token_list *out) {
    struct buffer normal;
    buffer_init(&normal, SIZE_MAX);
    bool ok = tokenizer_normalize(tokenizer, text, bytes, &normal);
    if (ok && plain) {
        ok = encode_normalized(tokenizer, normal.data, normal.bytes, first, out);
    } else if (ok) {
        struct token_splitter splitter;
        struct token_split split;
        token_splitter_init(&splitter, &tokenizer->normalized, tokenizer->added, normal.data, normal.bytes);
        while (ok && token_splitter_next(&splitter, &split))
            ok = split.token ? token_list_add(out, split.token->id)
                             : encode_normalized(tokenizer, normal.data + split.start, split.stop - split.start,
                                                 first && split.start == 0, out);
    }
    buffer_finish(&normal);
    return ok;
}

static bool encode_parsed(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct token_list *out) {
    struct token_splitter splitter;
    struct token_split split;
    token_splitter_init(&splitter, &tokenizer->exact, tokenizer->added, text, bytes);
    while (token_splitter_next(&splitter, &split)) {
        bool ok = split.token ? token_list_add(out, split.token->id)
                              : encode_segment(tokenizer, text + split.start, split.stop - split.start, false,
                                               split.start == 0, out);
        if (!ok) return false;
    }
    return true;
}

static int check_text(size_t bytes, struct error *error) {
    if (bytes <= TEXT_BYTES_MAX) return 0;
    return error_set(error, ERROR_TOO_LARGE, "a text of %zu bytes, where at most %d can be tokenized", bytes,
                     (int)TEXT_BYTES_MAX);
}

static int encoded(bool ok, struct error *error) {
    return ok ? 0 : error_set(error, ERROR_MEMORY, "out of memory while tokenizing");
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool parse_special,
                     struct token_list *out, struct error *error) {
    int rc = check_text(bytes, error);
    if (rc) return rc;
    return encoded(parse_special ? encode_parsed(tokenizer, text, bytes, out)
                                 : encode_segment(tokenizer, text, bytes, true, true, out),
                   error);
}

int tokenizer_encode_after(const struct tokenizer *tokenizer, int32_t special, const char *text, size_t bytes,
                           struct token_list *out, struct error *error) {
    int rc = check_text(bytes, error);
    if (rc) return rc;
    const struct added_token *token = added_by_id(tokenizer, special);
    size_t start = token && token->rstrip ? white_space_end(text, bytes, 0) : 0;
    return encoded(encode_segment(tokenizer, text + start, bytes - start, true, special < 0, out), error);
}

// ---- What the files said

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_bos_token(const struct tokenizer *tokenizer) {
    return tokenizer->bos_token;
}

int32_t tokenizer_special(const struct tokenizer *tokenizer, const char *content) {
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (strcmp(tokenizer->added[i].content, content) == 0) return tokenizer->added[i].id;
    return NO_TOKEN;
}

bool tokenizer_leaves_text_before(const struct tokenizer *tokenizer, int32_t id) {
    const struct added_token *token = added_by_id(tokenizer, id);
    return token && !token->lstrip && !token->normalized;
}

static const struct piece *piece_of(const struct tokenizer *tokenizer, int32_t id) {
    if (id < 0 || id >= tokenizer->size || !tokenizer->pieces[id].known) return NULL;
    return &tokenizer->pieces[id];
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id) {
    const struct piece *piece = piece_of(tokenizer, id);
    return piece && piece->special;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *bytes) {
    const struct piece *piece = piece_of(tokenizer, id);
    if (!piece) return NULL;
    *bytes = piece->bytes;
    return tokenizer->piece_text.data + piece->at;
}

bool tokenizer_encodes(const struct tokenizer *tokenizer) {
    return tokenizer->bpe != NULL;
}

int tokenizer_size(const struct tokenizer *tokenizer) {
    return tokenizer->size;
}

bool tokenizer_strips_space(const struct tokenizer *tokenizer) {
    return tokenizer->strips_space;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer) {
    return tokenizer->chat_template;
}
