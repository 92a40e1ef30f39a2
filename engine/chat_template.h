// Chat formats. A template that the model's files carry is recognised, never executed: it is read as words,
// strings and white space, and accepted as Phi-3's format
//
//     <|system|>\n{content}<|end|>\n<|user|>\n{content}<|end|>\n<|assistant|>\n
//
// when it is made of nothing but what that format needs. What differs between the published templates of the
// family is taken from it: a <s> in front, whether there is a system role, whether an empty system message
// counts. A word, a marker or a default text that the format does not know is refused by name. Pure; any thread.
#ifndef ENGINE_CHAT_TEMPLATE_H
#define ENGINE_CHAT_TEMPLATE_H

#include "engine/tokenizer.h"

struct chat_template;

// The format of this tokenizer's chat_template; an error says what in it is not known. Without a template but
// with Phi-3's special tokens, it is Phi-3's. What it points to is constant.
int chat_template_find(const struct tokenizer *tokenizer, const struct chat_template **out, struct error *error);
const char *chat_template_name(const struct chat_template *format);

// Appends the prompt for the assistant's next turn. Contents are encoded as plain text, never as special tokens.
// A role that the format does not have is refused by name.
int chat_template_render(const struct chat_template *format, const struct tokenizer *tokenizer,
                         const struct chat_message *messages, size_t count, struct token_list *out,
                         struct error *error);
// What ends an assistant's turn: <|end|>, and what a model writes when it has missed that, <|endoftext|> or the next
// <|assistant|>, as far as the tokenizer has them. Adds those that are not among ends[0..count) yet and returns how
// many there are then; max is the room.
int chat_template_add_ends(const struct tokenizer *tokenizer, int32_t *ends, int count, int max);

#endif
