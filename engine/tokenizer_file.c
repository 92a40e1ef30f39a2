// Reads tokenizer.json, tokenizer_config.json and chat_template.jinja. Whatever would change the meaning of a
// text and is not implemented is refused by name; every id, piece and merge is checked.

#include "engine/tokenizer_reader.h"

#include "base/file.h"
#include "base/utf8.h"
#include "engine/hf_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TOKENIZER_BYTES_MAX = 64 << 20, // of tokenizer.json
    CONFIG_BYTES_MAX = 16 << 20,    // of tokenizer_config.json
    TEMPLATE_BYTES_MAX = 1 << 20,
    ADDED_BYTES_MAX = 256,          // of an added token's content: bounds the search for tokens at each position
    ADDED_TOKENS_MAX = 4096,
};

// ---- The vocabulary

// The byte that a piece such as "<0xE2>" stands for; -1: it is no such piece.
static int byte_of(const char *text, size_t bytes) {
    static const char HEX[] = "0123456789abcdef";
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int value = 0;
    for (size_t i = 3; i < 5; i++) {
        char lower = text[i] >= 'A' && text[i] <= 'F' ? (char)(text[i] + 'a' - 'A') : text[i];
        const char *digit = lower ? strchr(HEX, lower) : NULL;
        if (!digit) return -1;
        value = value * 16 + (int)(digit - HEX);
    }
    return value;
}

static bool append_piece_text(struct buffer *out, const char *text, size_t bytes) {
    int byte = byte_of(text, bytes);
    if (byte >= 0) return buffer_append(out, &(char){(char)byte}, 1);
    for (const char *end = text + bytes; text < end;) {
        const char *mark = memmem(text, (size_t)(end - text), SPACE_MARK, SPACE_MARK_BYTES);
        size_t run = (size_t)((mark ? mark : end) - text);
        if (!buffer_append(out, text, run) || (mark && !buffer_append(out, " ", 1))) return false;
        text += run + (mark ? SPACE_MARK_BYTES : 0);
    }
    return true;
}

// Notes the text of an id; the caller has checked that the id is in range and free.
static int set_piece(struct reader *reader, int32_t id, const char *text, size_t bytes) {
    struct tokenizer *tokenizer = reader->tokenizer;
    struct piece *piece = &tokenizer->pieces[id];
    piece->at = tokenizer->piece_text.bytes;
    if (!append_piece_text(&tokenizer->piece_text, text, bytes)) return reader_no_memory(reader);
    piece->bytes = tokenizer->piece_text.bytes - piece->at;
    piece->known = true;
    if (id >= tokenizer->size) tokenizer->size = id + 1;
    return 0;
}

static int read_piece(struct reader *reader, const char *text, const json_t *value) {
    struct tokenizer *tokenizer = reader->tokenizer;
    if (!json_is_integer(value))
        return error_set(reader->error, ERROR_FORMAT, "%s: model.vocab: expected an integer, found %s for \"%s\"",
                         reader->path, hf_json_kind(value), text);
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= reader->vocab_size)
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: model.vocab: expected ids from 0 to %d, found %" JSON_INTEGER_FORMAT " for \"%s\"",
                         reader->path, reader->vocab_size - 1, id, text);
    if (tokenizer->pieces[id].known)
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: model.vocab: id %" JSON_INTEGER_FORMAT " occurs twice, the second time for \"%s\"",
                         reader->path, id, text);

    size_t bytes = strlen(text);
    uint32_t character;
    if (bytes && utf8_decode(text, bytes, &character) == bytes) {
        if (!bpe_add_character(tokenizer->bpe, character, (int32_t)id)) return reader_no_memory(reader);
        tokenizer->pieces[id].made = true;
    }
    return set_piece(reader, (int32_t)id, text, bytes);
}

static int read_vocabulary(struct reader *reader) {
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)reader->vocab, text, id) {
        int rc = read_piece(reader, text, id);
        if (rc) return rc;
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        const json_t *value = json_object_get(reader->vocab, name);
        if (!value)
            return error_set(reader->error, ERROR_FORMAT,
                             "%s: model.vocab: expected a piece for each byte, found no %s", reader->path, name);
        bpe_set_byte(reader->tokenizer->bpe, (uint8_t)byte, (int32_t)json_integer_value(value));
    }
    return 0;
}

// ---- Merges

struct merge_side {
    const char *text;
    size_t bytes;
};

static int unknown_merge(const struct reader *reader, size_t rank, const char *why, const char *text, size_t bytes) {
    return error_set(reader->error, ERROR_FORMAT, "%s: model.merges[%zu]: %s \"%.*s\"", reader->path, rank, why,
                     bytes > INT_MAX ? INT_MAX : (int)bytes, text);
}

// "left right", or ["left", "right"]
static int split_merge(const struct reader *reader, size_t rank, const json_t *merge, struct merge_side sides[2]) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' '))
            return unknown_merge(reader, rank, "expected two pieces with a space between, found", text, strlen(text));
        sides[0] = (struct merge_side){text, (size_t)(space - text)};
        sides[1] = (struct merge_side){space + 1, strlen(space + 1)};
        return 0;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *side = json_array_get(merge, i);
        if (json_array_size(merge) != 2 || !json_is_string(side))
            return unknown_merge(reader, rank, "expected two strings, found", hf_json_kind(merge),
                                 strlen(hf_json_kind(merge)));
        sides[i] = (struct merge_side){json_string_value(side), json_string_length(side)};
    }
    return 0;
}

static int find_piece(const struct reader *reader, size_t rank, const char *text, size_t bytes, int32_t *id) {
    const json_t *value = json_object_getn(reader->vocab, text, bytes);
    if (!value) return unknown_merge(reader, rank, "the vocabulary has no piece", text, bytes);
    if (byte_of(text, bytes) >= 0)
        return unknown_merge(reader, rank, "merges with pieces of single bytes are not supported:", text, bytes);
    *id = (int32_t)json_integer_value(value);
    return 0;
}

static int read_merge(struct reader *reader, size_t rank, const json_t *value, struct buffer *joined) {
    struct merge_side sides[2];
    struct bpe_merge merge;
    int rc = split_merge(reader, rank, value, sides);
    if (rc) return rc;
    for (size_t i = 0; i < 2; i++)
        if (sides[i].bytes == 0) return unknown_merge(reader, rank, "expected two pieces, found an empty one", "", 0);

    buffer_clear(joined);
    if (!buffer_append(joined, sides[0].text, sides[0].bytes) || !buffer_append(joined, sides[1].text, sides[1].bytes))
        return reader_no_memory(reader);
    rc = find_piece(reader, rank, sides[0].text, sides[0].bytes, &merge.left);
    if (rc == 0) rc = find_piece(reader, rank, sides[1].text, sides[1].bytes, &merge.right);
    if (rc == 0) rc = find_piece(reader, rank, joined->data, joined->bytes, &merge.result);
    if (rc) return rc;
    if (bpe_has_merge(reader->tokenizer->bpe, merge.left, merge.right))
        return unknown_merge(reader, rank, "this pair was merged before; it makes", joined->data, joined->bytes);

    size_t last = sides[0].bytes - 1;
    while (((uint8_t)sides[0].text[last] & 0xc0) == 0x80) last--;
    if (!utf8_decode(sides[0].text + last, sides[0].bytes - last, &merge.left_last) ||
        !utf8_decode(sides[1].text, sides[1].bytes, &merge.right_first))
        return unknown_merge(reader, rank, "not valid UTF-8:", joined->data, joined->bytes);
    reader->tokenizer->pieces[merge.result].made = true;
    return bpe_add_merge(reader->tokenizer->bpe, &merge) ? 0 : reader_no_memory(reader);
}

static int read_merges(struct reader *reader, const json_t *merges) {
    struct buffer joined;
    buffer_init(&joined, TOKENIZER_BYTES_MAX);
    int rc = 0;
    for (size_t rank = 0; rc == 0 && rank < json_array_size(merges); rank++)
        rc = read_merge(reader, rank, json_array_get(merges, rank), &joined);
    buffer_finish(&joined);
    return rc;
}

static bool is_empty(const json_t *value) {
    return !value || json_is_null(value) || reader_is_text(value, "") ||
           (json_is_number(value) && json_number_value(value) == 0);
}

static int read_model(struct reader *reader, const json_t *model) {
    // Every character has its bytes, so unk_token and fuse_unk never come into play.
    static const char *const KEYS[] = {"type", "dropout", "unk_token", "continuing_subword_prefix",
                                       "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                                       "merges", NULL};
    static const char *const EMPTY[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix", NULL};
    struct tokenizer *tokenizer = reader->tokenizer;
    int rc = reader_expect(reader, model, json_is_object(model), "model", "an object");
    if (rc == 0) rc = reader_refuse_other_keys(reader, model, "model", KEYS);
    if (rc) return rc;
    if (!reader_is_text(json_object_get(model, "type"), "BPE"))
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: model.type: expected \"BPE\", found \"%s\"",
                         reader->path, reader_text_or_kind(json_object_get(model, "type")));
    for (size_t i = 0; EMPTY[i]; i++)
        if (!is_empty(json_object_get(model, EMPTY[i])))
            return error_set(reader->error, ERROR_UNSUPPORTED, "%s: model.%s is not supported", reader->path, EMPTY[i]);

    char where[PATH_BYTES];
    snprintf(where, sizeof where, "%s: model", reader->path);
    bool byte_fallback, ignore_merges;
    rc = hf_json_bool_or(model, where, "byte_fallback", false, &byte_fallback, reader->error);
    if (rc == 0) rc = hf_json_bool_or(model, where, "ignore_merges", false, &ignore_merges, reader->error);
    if (rc) return rc;
    if (!byte_fallback)
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: model.byte_fallback: expected true, found false",
                         reader->path);

    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    rc = reader_expect(reader, vocab, json_is_object(vocab), "model.vocab", "an object");
    if (rc == 0) rc = reader_expect(reader, merges, json_is_array(merges), "model.merges", "an array");
    if (rc) return rc;
    reader->vocab = vocab;
    tokenizer->bpe = bpe_create(json_array_size(merges));
    tokenizer->pieces = calloc((size_t)reader->vocab_size, sizeof *tokenizer->pieces);
    if (!tokenizer->bpe || !tokenizer->pieces) return reader_no_memory(reader);
    if (ignore_merges) tokenizer->whole_words = json_incref(vocab);
    rc = read_vocabulary(reader);
    return rc ? rc : read_merges(reader, merges);
}

// ---- Added tokens

// The place of an added token in the list: that of its content, or a new one at the end. NULL: no memory.
static struct added_token *place_added(struct tokenizer *tokenizer, const char *content, size_t bytes) {
    for (size_t i = 0; i < tokenizer->added_count; i++)
        if (strcmp(tokenizer->added[i].content, content) == 0) return &tokenizer->added[i];
    size_t count = tokenizer->added_count + 1;
    struct added_token *added = realloc(tokenizer->added, count * sizeof *added);
    if (!added) return NULL;
    tokenizer->added = added;
    struct added_token *token = &added[count - 1];
    *token = (struct added_token){.content = strdup(content), .bytes = bytes, .id = NO_TOKEN};
    if (!token->content) return NULL;
    tokenizer->added_count = count;
    return token;
}

// Checks the id of an added token against the vocabulary and its like, and claims it.
static int claim_id(struct reader *reader, struct added_token *token, json_int_t id, const char *where) {
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *listed = json_object_get(reader->vocab, token->content);
    json_int_t owner = token->id != NO_TOKEN ? token->id : listed ? json_integer_value(listed) : id;
    if (owner != id)
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: \"%s\" has the id %" JSON_INTEGER_FORMAT " here and %" JSON_INTEGER_FORMAT " elsewhere",
                         where, token->content, id, owner);
    if (token->id == NO_TOKEN && !listed) {
        if (tokenizer->pieces[id].known)
            return error_set(reader->error, ERROR_FORMAT, "%s: id %" JSON_INTEGER_FORMAT " of \"%s\" is taken", where,
                             id, token->content);
        int rc = set_piece(reader, (int32_t)id, token->content, token->bytes);
        if (rc) return rc;
    }
    token->id = (int32_t)id;
    tokenizer->pieces[id].added = true;
    return 0;
}

// An added token from either file; a later one of the same content changes its flags, as in transformers.
static int read_added(struct reader *reader, const json_t *value, json_int_t id, const char *where) {
    const char *content;
    int rc = hf_json_string(value, where, "content", &content, reader->error);
    if (rc) return rc;
    size_t bytes = strlen(content);
    if (bytes == 0 || bytes > ADDED_BYTES_MAX)
        return error_set(reader->error, ERROR_FORMAT, "%s.content: expected 1 to %d bytes, found %zu", where,
                         ADDED_BYTES_MAX, bytes);
    struct added_token *token = place_added(reader->tokenizer, content, bytes);
    if (!token) return reader_no_memory(reader);

    bool single_word;
    rc = hf_json_bool_or(value, where, "single_word", false, &single_word, reader->error);
    if (rc == 0) rc = hf_json_bool_or(value, where, "lstrip", false, &token->lstrip, reader->error);
    if (rc == 0) rc = hf_json_bool_or(value, where, "rstrip", false, &token->rstrip, reader->error);
    if (rc == 0) rc = hf_json_bool_or(value, where, "special", false, &token->special, reader->error);
    if (rc == 0) rc = hf_json_bool_or(value, where, "normalized", !token->special, &token->normalized, reader->error);
    if (rc) return rc;
    if (single_word)
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: single_word is not supported, found for \"%s\"", where,
                         content);
    rc = claim_id(reader, token, id, where);
    if (rc) return rc;
    // Plain text may not come out as an added token, so none may be what BPE can make.
    if (reader->tokenizer->pieces[id].made)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: an added token that is a single character or made by a merge, which plain text could "
                         "spell, is not supported: \"%s\"", where, content);
    return 0;
}

static int check_added_count(const struct reader *reader, size_t count, const char *key) {
    if (count <= ADDED_TOKENS_MAX) return 0;
    return error_set(reader->error, ERROR_FORMAT, "%s: %s: expected at most %d tokens, found %zu", reader->path, key,
                     ADDED_TOKENS_MAX, count);
}

// tokenizer.json: [{"id": 32007, "content": "<|end|>", …}, …]
static int read_added_tokens(struct reader *reader, const json_t *tokens) {
    if (!tokens || json_is_null(tokens)) return 0;
    int rc = reader_expect(reader, tokens, json_is_array(tokens), "added_tokens", "an array");
    if (rc == 0) rc = check_added_count(reader, json_array_size(tokens), "added_tokens");
    for (size_t i = 0; rc == 0 && i < json_array_size(tokens); i++) {
        char where[PATH_BYTES];
        int64_t id = 0;
        snprintf(where, sizeof where, "%s: added_tokens[%zu]", reader->path, i);
        const json_t *token = json_array_get(tokens, i);
        rc = hf_json_int(token, where, "id", 0, reader->vocab_size - 1, &id, reader->error);
        if (rc == 0) rc = read_added(reader, token, id, where);
    }
    return rc;
}

// tokenizer_config.json: {"32007": {"content": "<|end|>", …}, …}
static int read_added_decoder(struct reader *reader, const json_t *tokens) {
    if (!tokens || json_is_null(tokens)) return 0;
    int rc = reader_expect(reader, tokens, json_is_object(tokens), "added_tokens_decoder", "an object");
    if (rc == 0) rc = check_added_count(reader, json_object_size(tokens), "added_tokens_decoder");
    if (rc) return rc;
    const char *key;
    json_t *token;
    json_object_foreach((json_t *)tokens, key, token) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        if (end == key || *end || errno || id < 0 || id >= reader->vocab_size)
            return error_set(reader->error, ERROR_FORMAT,
                             "%s: added_tokens_decoder: expected ids from 0 to %d, found \"%s\"", reader->path,
                             reader->vocab_size - 1, key);
        char where[PATH_BYTES];
        snprintf(where, sizeof where, "%s: added_tokens_decoder.%lld", reader->path, id);
        rc = read_added(reader, token, id, where);
        if (rc) return rc;
    }
    return 0;
}

// Flags and tries, once every flag has its last word.
static int finish_added(struct reader *reader) {
    struct tokenizer *tokenizer = reader->tokenizer;
    struct buffer normal;
    buffer_init(&normal, TOKENIZER_BYTES_MAX);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < tokenizer->added_count; i++) {
        const struct added_token *token = &tokenizer->added[i];
        tokenizer->pieces[token->id].special = token->special;
        buffer_clear(&normal);
        bool ok = token->normalized
                      ? tokenizer_normalize(tokenizer, token->content, token->bytes, &normal) &&
                            token_trie_add(&tokenizer->normalized, normal.data, normal.bytes, (uint32_t)i)
                      : token_trie_add(&tokenizer->exact, token->content, token->bytes, (uint32_t)i);
        if (!ok) rc = reader_no_memory(reader);
    }
    buffer_finish(&normal);
    return rc;
}

// ---- The token at the beginning

// add_bos_token and bos_token, which have the last word over the post-processor.
static int read_bos(struct reader *reader, const json_t *config) {
    struct tokenizer *tokenizer = reader->tokenizer;
    const json_t *add = json_object_get(config, "add_bos_token");
    bool add_bos, add_eos;
    int rc = hf_json_bool_or(config, reader->path, "add_bos_token", false, &add_bos, reader->error);
    if (rc == 0) rc = hf_json_bool_or(config, reader->path, "add_eos_token", false, &add_eos, reader->error);
    if (rc) return rc;
    if (add_eos)
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: add_eos_token: true is not supported", reader->path);
    const json_t *bos = json_object_get(config, "bos_token");
    if (json_is_object(bos)) bos = json_object_get(bos, "content");
    if (json_is_string(bos)) tokenizer->bos_token = tokenizer_special(tokenizer, json_string_value(bos));
    if (!add || json_is_null(add)) return 0;
    tokenizer->bos = add_bos ? tokenizer->bos_token : NO_TOKEN;
    if (add_bos && tokenizer->bos == NO_TOKEN)
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: bos_token: expected an added token, because add_bos_token is true; found \"%s\"",
                         reader->path, reader_text_or_kind(bos));
    return 0;
}

// ---- The chat template

static int read_template(struct reader *reader, const json_t *value) {
    if (!value || json_is_null(value) || reader->tokenizer->chat_template) return 0;
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) { // [{"name": …, "template": …}, …]
        const json_t *named = json_array_get(value, i);
        if (!reader_is_text(json_object_get(named, "name"), "default")) continue;
        value = json_object_get(named, "template");
    }
    if (!json_is_string(value))
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: chat_template: expected a string, or a list with one named \"default\"; found %s",
                         reader->path, hf_json_kind(value));
    reader->tokenizer->chat_template = strdup(json_string_value(value));
    return reader->tokenizer->chat_template ? 0 : reader_no_memory(reader);
}

// chat_template.jinja, where newer files keep the template; it goes before tokenizer_config.json's.
static int read_template_file(struct reader *reader) {
    char *text;
    size_t bytes;
    int rc = file_load(reader->path, TEMPLATE_BYTES_MAX, &text, &bytes, reader->error);
    if (rc) return rc;
    if (memchr(text, '\0', bytes) || !utf8_valid(text, bytes)) {
        free(text);
        return error_set(reader->error, ERROR_FORMAT, "%s: expected UTF-8 text", reader->path);
    }
    reader->tokenizer->chat_template = text;
    return 0;
}

// ---- The files

static int set_path(struct reader *reader, const char *dir, const char *name) {
    int length = snprintf(reader->path, sizeof reader->path, "%s/%s", dir, name);
    if (length >= 0 && (size_t)length < sizeof reader->path) return 0;
    return error_set(reader->error, ERROR_ARGUMENT, "the path of the model directory is too long: %s", dir);
}

// Whether there is anything by this name; what it is shows when it is opened.
static bool exists(const char *path) {
    return access(path, F_OK) == 0 || errno != ENOENT;
}

static int read_tokenizer_json(struct reader *reader, const json_t *top) {
    // A truncation or padding that a trainer left here is not applied to prompts, in transformers neither.
    static const char *const KEYS[] = {"version", "truncation", "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model", NULL};
    int rc = reader_refuse_other_keys(reader, top, "the top", KEYS);
    if (rc == 0) rc = reader_normalizer(reader, json_object_get(top, "normalizer"));
    if (rc == 0) rc = reader_pre_tokenizer(reader, json_object_get(top, "pre_tokenizer"));
    if (rc == 0) rc = reader_decoder(reader, json_object_get(top, "decoder"));
    if (rc == 0) rc = read_model(reader, json_object_get(top, "model"));
    if (rc == 0) rc = read_added_tokens(reader, json_object_get(top, "added_tokens"));
    if (rc == 0) rc = reader_post_processor(reader, json_object_get(top, "post_processor"));
    return rc;
}

static int read_config(struct reader *reader, const json_t *config) {
    int rc = read_added_decoder(reader, json_object_get(config, "added_tokens_decoder"));
    if (rc == 0) rc = read_bos(reader, config);
    if (rc == 0) rc = read_template(reader, json_object_get(config, "chat_template"));
    return rc;
}

int tokenizer_read(struct tokenizer *tokenizer, const char *dir, int vocab_size, struct error *error) {
    struct reader reader = {.tokenizer = tokenizer, .vocab_size = vocab_size, .error = error};
    json_t *top = NULL, *config = NULL;
    tokenizer->bos = tokenizer->bos_token = NO_TOKEN;
    buffer_init(&tokenizer->piece_text, TOKENIZER_BYTES_MAX);

    int rc = set_path(&reader, dir, "chat_template.jinja");
    if (rc == 0 && exists(reader.path)) rc = read_template_file(&reader);
    if (rc == 0) rc = set_path(&reader, dir, "tokenizer.json");
    if (rc == 0) rc = hf_json_load(reader.path, TOKENIZER_BYTES_MAX, &top, error);
    if (rc == 0) rc = read_tokenizer_json(&reader, top);
    if (rc) goto done;

    rc = set_path(&reader, dir, "tokenizer_config.json");
    if (rc == 0 && exists(reader.path)) {
        rc = hf_json_load(reader.path, CONFIG_BYTES_MAX, &config, error);
        if (rc == 0) rc = read_config(&reader, config);
    }
    if (rc == 0) rc = finish_added(&reader);
done:
    json_decref(config);
    json_decref(top);
    return rc;
}
