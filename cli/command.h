// The commands of the tandem program: one row each in main.c, one file each beside it. What help and the man page say
// of a command comes from its struct.
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "base/settings.h"

// Exit codes, and when a command ends with them.
#define EXIT_CODES(X) \
    X(EXIT_WELL, 0, "all went well") \
    X(EXIT_OTHER, 1, "anything else went wrong; a message says what") \
    X(EXIT_BAD_MODEL, 2, "the model can not be loaded") \
    X(EXIT_USAGE, 64, "a command, a setting or a file of settings is wrong") \
    X(EXIT_INTERRUPTED, 130, "ended by Ctrl-C; with serve, by a second one") \
    X(EXIT_TERMINATED, 143, "ended by SIGTERM; with serve, by a second one")

enum {
#define EXIT_ENUM(name, code, when) name = (code),
    EXIT_CODES(EXIT_ENUM)
#undef EXIT_ENUM
};

struct example {
    const char *line, *what; // "tandem serve --port 9000", "serves the built-in model on another port"
};

struct command {
    const char *name;
    const char *summary;     // what it does, in one line: "load a model and serve the OpenAI API"
    const char *operand;     // the argument that is no flag: "[DIR]"; NULL: it takes none
    const char *meant;       // what one that it does not take was meant for: "--model"; NULL: nobody knows
    const char *description; // paragraphs, lines wrapped where they are printed, an empty line in between; may be NULL
    const struct setting_table *tables; // the settings it takes, with their targets; NULL: none
    size_t table_count;
    const struct example *examples;          // up to one whose line is NULL; NULL: none
    int (*run)(int count, char **arguments); // those behind the command's name; returns the exit code
};

// Defaults, environment and flags into the command's tables. Returns 0, or the exit code of what is wrong, which has
// been said on standard error. `operand` as in settings_read_flags.
int command_begin(const struct command *command, int count, char *const *arguments, const char **operand);
void command_end(const struct command *command); // frees what the tables hold; after a failed begin too

// "tandem NAME: message" on standard error; returns exit_code.
int command_fail(const struct command *command, const struct error *error, int exit_code);
// The same for what is wrong with the settings, and says where they are listed. Returns EXIT_USAGE.
int command_misused(const struct command *command, const struct error *error);

// The same for an argument that it does not take.
int command_stray(const struct command *command, const char *argument);

// The commands there are; ends with NULL.
extern const struct command *const COMMANDS[];
const struct command *command_find(const char *name); // NULL: there is none

extern const struct command bench_command, chat_command, doctor_command, generate_command, health_command,
    inspect_command, profile_command, serve_command, version_command;

#endif
