#include "cli/command.h"

#include <stdio.h>
#include <string.h>

const struct command *command_find(const char *name) {
    for (const struct command *const *command = COMMANDS; *command; command++)
        if (strcmp((*command)->name, name) == 0) return *command;
    return NULL;
}

int command_fail(const struct command *command, const struct error *error, int exit_code) {
    fprintf(stderr, "tandem %s: %s\n", command->name, error->message);
    return exit_code;
}

static bool takes(const struct command *command, const char *flag) {
    for (size_t t = 0; t < command->table_count; t++)
        for (const struct setting *row = command->tables[t].rows; row->flag; row++)
            if (strcmp(row->flag, flag) == 0) return true;
    return false;
}

// "--config is one of serve, health": where a flag is that this command has not.
static void tell_whose(const struct command *command, const char *flag) {
    bool found = false;
    for (const struct command *const *other = COMMANDS; *other && !takes(command, flag); other++) {
        if (!takes(*other, flag)) continue;
        if (found)
            fprintf(stderr, ", %s", (*other)->name);
        else
            fprintf(stderr, "tandem %s: %s is one of tandem %s", command->name, flag, (*other)->name);
        found = true;
    }
    if (found) fputs("\n", stderr);
}

int command_misused(const struct command *command, const struct error *error) {
    command_fail(command, error, EXIT_USAGE);
    if (strncmp(error->param, "--", 2) == 0) tell_whose(command, error->param);
    fprintf(stderr, "tandem %s --help tells what it takes\n", command->name);
    return EXIT_USAGE;
}

int command_stray(const struct command *command, const char *argument) {
    struct error error;
    error_set(&error, ERROR_ARGUMENT, "`%.60s` is one argument too many; is it the %s?", argument, command->meant);
    return command_misused(command, &error);
}

int command_begin(const struct command *command, int count, char *const *arguments, const char **operand) {
    struct error error = {0};
    const char *stray = NULL;
    for (size_t i = 0; i < command->table_count; i++)
        if (settings_init(&command->tables[i], &error)) return command_fail(command, &error, EXIT_OTHER);
    if (!operand && command->meant) operand = &stray;
    if (settings_read_environment(command->tables, command->table_count, &error) ||
        settings_read_flags(command->tables, command->table_count, count, arguments, operand, &error))
        return command_misused(command, &error);
    return stray ? command_stray(command, stray) : 0;
}

void command_end(const struct command *command) {
    for (size_t i = 0; i < command->table_count; i++) settings_finish(&command->tables[i]);
}
