// What the program says of itself: `tandem help`, `tandem help TOPIC`, `tandem COMMAND --help`.
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "cli/command.h"

// The commands that help is about, and what is asked for: a command, a topic, or NULL for an overview. Prints and returns
// the exit code.
int help_print(const struct command *const *commands, size_t command_count, const char *topic);

// Says that there is no such command, and which may have been meant. Returns EXIT_USAGE.
int help_no_command(const struct command *const *commands, size_t command_count, const char *name);

#endif
