// The steps that tokenizer.json puts around the model: normalizer, pre_tokenizer, decoder, post_processor.
// Each known form becomes flags of the tokenizer; any other is refused by name.

#include "engine/tokenizer_reader.h"

#include "engine/hf_json.h"

#include <stdio.h>
#include <string.h>

// ---- Helpers of both files

int reader_no_memory(const struct reader *reader) {
    return error_set(reader->error, ERROR_MEMORY, "%s: out of memory", reader->path);
}

bool reader_is_text(const json_t *value, const char *text) {
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

// A string, or a word for what stands in its place.
const char *reader_text_or_kind(const json_t *value) {
    return json_is_string(value) ? json_string_value(value) : hf_json_kind(value);
}

int reader_expect(const struct reader *reader, const json_t *value, bool matches, const char *key,
                       const char *expected) {
    if (matches) return 0;
    return error_set(reader->error, ERROR_FORMAT, "%s: %s: expected %s, found %s", reader->path, key, expected,
                     hf_json_kind(value));
}

// Refuses keys that we do not know, unless they are null. `known` ends with NULL.
int reader_refuse_other_keys(const struct reader *reader, const json_t *object, const char *where,
                             const char *const *known) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        bool found = json_is_null(value);
        for (size_t i = 0; known[i] && !found; i++) found = strcmp(key, known[i]) == 0;
        if (!found)
            return error_set(reader->error, ERROR_UNSUPPORTED, "%s: %s: the key \"%s\" is not supported", reader->path,
                             where, key);
    }
    return 0;
}

// ---- Before the model

static int unsupported_step(const struct reader *reader, const char *key, const json_t *step) {
    return error_set(reader->error, ERROR_UNSUPPORTED, "%s: %s: a step of type \"%s\" is not supported here",
                     reader->path, key, reader_text_or_kind(json_object_get(step, "type")));
}

// {"type": "Replace", "pattern": {"String": from}, "content": to}
static bool is_replace(const json_t *step, const char *from, const char *to) {
    return reader_is_text(json_object_get(step, "type"), "Replace") &&
           reader_is_text(json_object_get(json_object_get(step, "pattern"), "String"), from) &&
           reader_is_text(json_object_get(step, "content"), to);
}

static int read_normalizer_step(struct reader *reader, const json_t *step) {
    struct tokenizer *tokenizer = reader->tokenizer;
    bool prepend = reader_is_text(json_object_get(step, "type"), "Prepend") &&
                   reader_is_text(json_object_get(step, "prepend"), SPACE_MARK);
    bool replace = is_replace(step, " ", SPACE_MARK);
    if (prepend && !tokenizer->prepend_mark)
        tokenizer->prepend_mark = true;
    else if (replace && !tokenizer->replace_spaces)
        tokenizer->replace_spaces = true;
    else
        return unsupported_step(reader, "normalizer", step);
    return 0;
}

int reader_normalizer(struct reader *reader, const json_t *normalizer) {
    if (!normalizer || json_is_null(normalizer)) return 0;
    if (!reader_is_text(json_object_get(normalizer, "type"), "Sequence"))
        return read_normalizer_step(reader, normalizer);

    const json_t *steps = json_object_get(normalizer, "normalizers");
    int rc = reader_expect(reader, steps, json_is_array(steps), "normalizer.normalizers", "an array");
    for (size_t i = 0; rc == 0 && i < json_array_size(steps); i++)
        rc = read_normalizer_step(reader, json_array_get(steps, i));
    return rc;
}

int reader_pre_tokenizer(struct reader *reader, const json_t *step) {
    static const char *const KEYS[] = {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep",
                                       NULL};
    static const char *const SCHEMES[] = {
        [PREFIX_NEVER] = "never", [PREFIX_FIRST] = "first", [PREFIX_ALWAYS] = "always"};
    struct tokenizer *tokenizer = reader->tokenizer;
    if (!step || json_is_null(step)) return 0;
    if (!reader_is_text(json_object_get(step, "type"), "Metaspace"))
        return unsupported_step(reader, "pre_tokenizer", step);
    if (!reader_is_text(json_object_get(step, "replacement"), SPACE_MARK))
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: pre_tokenizer.replacement: only \"%s\" is supported",
                         reader->path, SPACE_MARK);

    char where[PATH_BYTES];
    snprintf(where, sizeof where, "%s: pre_tokenizer", reader->path);
    bool add_prefix;
    int rc = reader_refuse_other_keys(reader, step, "pre_tokenizer", KEYS);
    if (rc == 0) rc = hf_json_bool_or(step, where, "add_prefix_space", true, &add_prefix, reader->error);
    if (rc == 0) rc = hf_json_bool_or(step, where, "split", true, &tokenizer->split_words, reader->error);
    if (rc) return rc;

    const json_t *scheme = json_object_get(step, "prepend_scheme");
    int prefix = add_prefix ? PREFIX_ALWAYS : PREFIX_NEVER; // older files have no scheme
    if (scheme && !json_is_null(scheme)) {
        for (prefix = PREFIX_ALWAYS; prefix >= 0 && !reader_is_text(scheme, SCHEMES[prefix]);) prefix--;
        if (prefix < 0)
            return error_set(reader->error, ERROR_UNSUPPORTED,
                             "%s: pre_tokenizer.prepend_scheme: expected first, always or never, found \"%s\"",
                             reader->path, reader_text_or_kind(scheme));
    }
    if (!add_prefix && prefix != PREFIX_NEVER)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: pre_tokenizer: add_prefix_space false contradicts prepend_scheme \"%s\"", reader->path,
                         SCHEMES[prefix]);
    if (tokenizer->prepend_mark && prefix != PREFIX_NEVER)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: a normalizer Prepend together with a pre_tokenizer Metaspace that prepends is not "
                         "supported", reader->path);
    tokenizer->metaspace = true;
    tokenizer->prefix = (enum prefix_scheme)prefix;
    return 0;
}

static bool is_strip(const json_t *step, int64_t start) {
    return reader_is_text(json_object_get(step, "type"), "Strip") &&
           reader_is_text(json_object_get(step, "content"), " ") &&
           json_integer_value(json_object_get(step, "start")) == start &&
           json_integer_value(json_object_get(step, "stop")) == 0;
}

// Sequence [Replace "▁" by " ", ByteFallback, Fuse] and perhaps a Strip of one space at the start.
int reader_decoder(struct reader *reader, const json_t *decoder) {
    const json_t *steps = json_object_get(decoder, "decoders");
    size_t count = json_array_size(steps);
    const json_t *last = json_array_get(steps, 3);
    bool known = reader_is_text(json_object_get(decoder, "type"), "Sequence") && (count == 3 || count == 4) &&
                 is_replace(json_array_get(steps, 0), SPACE_MARK, " ") &&
                 reader_is_text(json_object_get(json_array_get(steps, 1), "type"), "ByteFallback") &&
                 reader_is_text(json_object_get(json_array_get(steps, 2), "type"), "Fuse") &&
                 (!last || is_strip(last, 0) || is_strip(last, 1));
    if (!known)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: decoder: only the sequence Replace(\"%s\" by \" \"), ByteFallback, Fuse, Strip(\" \", 0 "
                         "or 1 at the start) is supported", reader->path, SPACE_MARK);
    reader->tokenizer->strips_space = last && is_strip(last, 1);
    return 0;
}

// TemplateProcessing whose "single" is the text itself, or one special token and then the text.
int reader_post_processor(struct reader *reader, const json_t *step) {
    if (!step || json_is_null(step)) return 0;
    if (!reader_is_text(json_object_get(step, "type"), "TemplateProcessing"))
        return unsupported_step(reader, "post_processor", step);
    const json_t *single = json_object_get(step, "single");
    size_t count = json_array_size(single);
    const json_t *first = json_object_get(json_object_get(json_array_get(single, 0), "SpecialToken"), "id");
    const json_t *text = json_object_get(json_object_get(json_array_get(single, count - 1), "Sequence"), "id");
    if (!reader_is_text(text, "A") || count != (first ? 2 : 1))
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: post_processor.single: only the text with at most one special token before it is "
                         "supported", reader->path);
    if (!first) return 0;

    const json_t *special = json_object_get(json_object_get(step, "special_tokens"), reader_text_or_kind(first));
    const json_t *ids = json_object_get(special, "ids"), *id = json_array_get(ids, 0);
    json_int_t value = json_is_integer(id) ? json_integer_value(id) : NO_TOKEN;
    if (json_array_size(ids) != 1 || value < 0 || value >= reader->tokenizer->size ||
        !reader->tokenizer->pieces[value].known)
        return error_set(reader->error, ERROR_FORMAT,
                         "%s: post_processor.special_tokens: expected one known id for \"%s\"", reader->path,
                         reader_text_or_kind(first));
    reader->tokenizer->bos = (int32_t)value;
    return 0;
}
