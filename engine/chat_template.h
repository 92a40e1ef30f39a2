// Chat formats. A template that tokenizer_config.json carries is recognised, never executed: one row a known
// format, told apart by the special tokens it uses. Pure; any thread.
#ifndef ENGINE_CHAT_TEMPLATE_H
#define ENGINE_CHAT_TEMPLATE_H

#include "engine/tokenizer.h"

struct chat_template;

// The format of this tokenizer's chat_template; an error names the file when it is none that we know.
// Without a template but with Phi-3's special tokens, it is Phi-3's.
int chat_template_find(const struct tokenizer *tokenizer, const struct chat_template **out, struct error *error);
const char *chat_template_name(const struct chat_template *format);

// Appends the prompt for the assistant's next turn. Contents are encoded as plain text, never as special tokens.
int chat_template_render(const struct chat_template *format, const struct tokenizer *tokenizer,
                         const struct chat_message *messages, size_t count, struct token_list *out,
                         struct error *error);

#endif
