// The messages of a conversation, as a request to /v1/chat/completions has them and as `tandem chat` saves them. Pure.
#ifndef API_MESSAGES_H
#define API_MESSAGES_H

#include "base/arena.h"
#include "engine/engine.h"

#include <jansson.h>

// Checks an array of messages. The list lies in the arena; contents may lie in the JSON, which has to live as long.
// What is wrong is named by its place: "messages[2].role". NULL stands for what is absent.
int messages_read(struct arena *arena, const json_t *messages, struct chat_message **out, size_t *out_count,
                  struct error *error);

#endif
