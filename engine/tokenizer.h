// The tokenizer: Hugging Face's tokenizer.json of Llama's kind (BPE over characters with byte fallback, "▁"
// for space), and the special tokens beside it. Read-only once open: any thread.
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "engine/engine.h" // struct token_list

struct tokenizer;

// dir holds tokenizer.json and, where there is one, tokenizer_config.json. vocab_size is the model's: an id at
// or beyond it is an error.
int tokenizer_open(struct tokenizer **out, const char *dir, int vocab_size, struct error *error);
// One without files, for random weights: the text of a token is its number behind a space. Nothing can be encoded.
int tokenizer_open_numbers(struct tokenizer **out, int vocab_size, struct error *error);
bool tokenizer_encodes(const struct tokenizer *tokenizer); // false: it was opened by tokenizer_open_numbers
void tokenizer_close(struct tokenizer *tokenizer); // takes NULL

// Appends to out. text must be valid UTF-8; time grows as n log n.
// parse_special: whether added tokens such as "<|end|>" are recognised in the text.
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool parse_special,
                     struct token_list *out, struct error *error);

// A text that follows directly behind a special token: honours that token's rstrip flag, then encodes the rest
// as plain text. With special < 0, the same as tokenizer_encode without parse_special.
int tokenizer_encode_after(const struct tokenizer *tokenizer, int32_t special, const char *text, size_t bytes,
                           struct token_list *out, struct error *error);

// What add_bos_token, or else the file's post-processor, puts in front of a prompt; -1: nothing.
int32_t tokenizer_bos(const struct tokenizer *tokenizer);

// What tokenizer_config.json names as bos_token, whether or not it goes before a prompt; -1: nothing.
int32_t tokenizer_bos_token(const struct tokenizer *tokenizer);

// Id of an added token by its exact content; -1: none.
int32_t tokenizer_special(const struct tokenizer *tokenizer, const char *content);

// Whether an added token, found in a text, leaves the text before it as it is (no lstrip, not normalized).
bool tokenizer_leaves_text_before(const struct tokenizer *tokenizer, int32_t id);

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

// Bytes of a token inside a running text ("▁the" is " the", <0xE2> is one byte). NULL for an id that the files
// do not know.
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *bytes);

int tokenizer_size(const struct tokenizer *tokenizer); // ids [0, size) are known; the rest up to vocab_size is padding

// Whether the file's decoder drops one space at the start of a text.
bool tokenizer_strips_space(const struct tokenizer *tokenizer);

// chat_template.jinja, or tokenizer_config.json's chat_template ("default" where it names several), or NULL.
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);

// Appends one id; false when out of memory.
bool token_list_add(struct token_list *list, int32_t id);

#endif
