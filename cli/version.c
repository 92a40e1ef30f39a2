#include "cli/command.h"

#include <stdio.h>

static int run(int count, char **arguments) {
    int exit_code = command_begin(&version_command, count, arguments, NULL);
    if (exit_code) return exit_code;
    printf("tandem %s\n", TANDEM_VERSION);
    return 0;
}

const struct command version_command = {.name = "version", .summary = "print the version", .run = run};
