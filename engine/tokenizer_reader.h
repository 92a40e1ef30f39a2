// The state of reading a tokenizer's files, shared by tokenizer_file.c and tokenizer_steps.c alone.
#ifndef ENGINE_TOKENIZER_READER_H
#define ENGINE_TOKENIZER_READER_H

#include "engine/tokenizer_private.h"

#include <limits.h>

enum { PATH_BYTES = PATH_MAX + 64 }; // a path and a key behind it, for messages

struct reader {
    struct tokenizer *tokenizer;
    int vocab_size;
    const json_t *vocab;
    char path[PATH_MAX]; // the file being read
    struct error *error;
};

int reader_no_memory(const struct reader *reader); // ERROR_MEMORY

// Whether a value is this string.
bool reader_is_text(const json_t *value, const char *text);

// A string, or a word for what stands in its place.
const char *reader_text_or_kind(const json_t *value);

// ERROR_FORMAT unless `matches`.
int reader_expect(const struct reader *reader, const json_t *value, bool matches, const char *key,
                  const char *expected);

// Refuses keys that we do not know, unless they are null. `known` ends with NULL.
int reader_refuse_other_keys(const struct reader *reader, const json_t *object, const char *where,
                             const char *const *known);

// The steps of tokenizer.json, each of which may be absent or null but the decoder.
int reader_normalizer(struct reader *reader, const json_t *normalizer);
int reader_pre_tokenizer(struct reader *reader, const json_t *step);
int reader_decoder(struct reader *reader, const json_t *decoder);
int reader_post_processor(struct reader *reader, const json_t *step);

#endif
