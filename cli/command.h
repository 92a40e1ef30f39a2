// The commands of the tandem program: one row each in main.c, one file each beside it.
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "base/buffer.h"

// Exit codes beside 0 and 1. A second Ctrl-C or SIGTERM ends with 130 or 143.
enum { EXIT_BAD_MODEL = 2, EXIT_USAGE = 64 };

struct command {
    const char *name, *summary;
    int (*run)(int count, char **arguments); // those behind the command's name; returns the exit code
    void (*help)(struct buffer *out);        // what --help says below the summary
};

extern const struct command serve_command, version_command;

#endif
