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

int command_misused(const struct command *command, const struct error *error) {
    command_fail(command, error, EXIT_USAGE);
    fprintf(stderr, "tandem %s --help tells what it takes\n", command->name);
    return EXIT_USAGE;
}

int command_begin(const struct command *command, int count, char *const *arguments, const char **operand) {
    struct error error = {0};
    for (size_t i = 0; i < command->table_count; i++)
        if (settings_init(&command->tables[i], &error)) return command_fail(command, &error, EXIT_OTHER);
    if (settings_read_environment(command->tables, command->table_count, &error) ||
        settings_read_flags(command->tables, command->table_count, count, arguments, operand, &error))
        return command_misused(command, &error);
    return 0;
}

void command_end(const struct command *command) {
    for (size_t i = 0; i < command->table_count; i++) settings_finish(&command->tables[i]);
}
