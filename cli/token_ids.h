// Token ids as a person writes them: "1,2,3". Pure.
#ifndef CLI_TOKEN_IDS_H
#define CLI_TOKEN_IDS_H

#include "engine/engine.h"

// Appends them to the list, which the caller finishes, after an error too. Whether a model has them is not looked at.
int token_ids_read(const char *text, struct token_list *out, struct error *error);

#endif
