// A conversation: a system message or none, then what was said. Owns its texts. One thread.
#ifndef CLI_CONVERSATION_H
#define CLI_CONVERSATION_H

#include "engine/engine.h"

enum { CONVERSATION_BYTES_MAX = 64 * 1024 * 1024 }; // of a file

struct conversation {
    struct chat_message *messages; // [count]; a role is a constant, a content malloc'ed
    size_t count, capacity;
};
void conversation_finish(struct conversation *conversation); // one that is all zero, too

// A copy of the text, in which a NUL becomes a space: a file, like a request, may hold none.
int conversation_add(struct conversation *conversation, const char *role, const char *text, size_t bytes,
                     struct error *error);
void conversation_drop_last(struct conversation *conversation, size_t count); // messages

// The system's message; "": none.
int conversation_set_system(struct conversation *conversation, const char *text, struct error *error);
bool conversation_has_system(const struct conversation *conversation);

void conversation_reset(struct conversation *conversation); // drops all but the system's message

// Tells how many tokens messages come to in a model's chat format.
typedef int conversation_measure(void *user, const struct chat_message *messages, size_t count, size_t *tokens,
                                 struct error *error);

// Drops the oldest turns (a turn begins with a user's message) where they leave less than `answer_tokens` of the
// context free: so many at once that the rest takes half of the context at most, or else every further question would
// cost a turn. The system's message and the last turn stay in any case. *dropped: turns. ERROR_CONTEXT_LENGTH: these
// two alone leave no room for a single token; nothing was dropped.
int conversation_fit(struct conversation *conversation, size_t context_tokens, size_t answer_tokens,
                     conversation_measure *measure, void *user, size_t *dropped, struct error *error);

// {"messages": [...]}, as a request to /v1/chat/completions takes it. Other members of the file's object are left out.
int conversation_save(const struct conversation *conversation, const char *path, struct error *error);
// Into an empty conversation. The error names the file, and what is wrong by its place.
int conversation_load(struct conversation *conversation, const char *path, struct error *error);

#endif
