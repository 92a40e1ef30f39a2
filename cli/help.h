// What the program says of itself: `tandem help`, `tandem help TOPIC`, `tandem COMMAND --help`.
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "cli/command.h"

// Prints what is asked for: a command, a topic, or for NULL an overview. Returns the exit code.
int help_print(const char *topic);

// The overview on standard error, for a program that was called without a command. Returns EXIT_USAGE.
int help_complain(void);

// Says that help is on one thing at a time. Returns EXIT_USAGE.
int help_too_much(const char *argument);

// Says that there is no such command, and which may have been meant. Returns EXIT_USAGE.
int help_no_command(const char *name);

// Tells on standard error of variables TANDEM_… in the environment that no command knows: nobody reads them, and one
// may be misspelt. No more than a warning, for others may name their variables like this: Kubernetes does for a
// service.
void help_check_environment(void);

// The man page tandem(1).
void manual_write(struct buffer *out);

// "[DIR] [SETTINGS]": what stands behind the command's name.
void help_write_usage(const struct command *command, struct buffer *out);

#endif
