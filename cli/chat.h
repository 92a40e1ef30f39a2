// A conversation with the model, as tandem chat has it. Owned by cli/chat.c; one thread.
#ifndef CLI_CHAT_H
#define CLI_CHAT_H

#include "cli/answer.h"
#include "cli/conversation.h"
#include "cli/line.h"
#include "cli/output.h"
#include "cli/sampling_settings.h"

// Since the start.
struct chat_counts {
    size_t answers, tokens, dropped_turns;
    double seconds;     // in which these tokens were written
    struct answer last; // its usage is all zero before there is one
};

struct chat {
    struct engine *engine;
    const struct sampling_settings *sampling;
    struct line_reader *lines;
    struct conversation conversation;
    struct output output;
    struct chat_counts counts;
    bool leaving;
};

// What the program itself says, in a line on standard error.
void chat_say(const struct chat *chat, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Tokens of messages in the model's chat format; `user` is the engine. Where they are certain to be more than the
// context has, less than their number, but still more than it has.
conversation_measure chat_measure;

// Asks what the user says, and writes the answer as it comes. Both become part of the conversation, the answer as far
// as it came: ERROR_CANCELLED when a signal was noted. After any other error the conversation is without the question.
int chat_ask(struct chat *chat, const char *text, size_t bytes, struct error *error);

#endif
