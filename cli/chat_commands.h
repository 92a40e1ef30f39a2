// What begins with a slash in tandem chat. One thread.
#ifndef CLI_CHAT_COMMANDS_H
#define CLI_CHAT_COMMANDS_H

#include "cli/chat.h"

// One row a command: its name, which is run_NAME's too, what stands behind it, what it does.
#define CHAT_COMMANDS(X) \
    X(help, "", "tells what there is") \
    X(reset, "", "forgets what was said; the system's message stays") \
    X(system, " [TEXT]", "puts a system's message in front, - takes it away; without TEXT shows it") \
    X(save, " FILE", "writes the conversation as the JSON that /v1/chat/completions takes") \
    X(load, " FILE", "goes on with a conversation that was saved") \
    X(stats, "", "counts tokens, and how fast they came") \
    X(quit, "", "leaves, as Ctrl-D does")

// The same for a help text, in one paragraph.
#define CHAT_COMMAND_TEXT(name, operand, what) " /" #name operand ": " what "."
#define CHAT_COMMANDS_TEXT "In a conversation:" CHAT_COMMANDS(CHAT_COMMAND_TEXT)

// Runs what was entered, which begins with a slash.
int chat_commands_run(struct chat *chat, const char *entered, struct error *error);

// What is missing behind the beginning of a command; NULL where no or more than one command begins like this.
const char *chat_commands_complete(const char *text, size_t bytes);

#endif
