// tandem: finds the command and runs it. The table is the order of help.
#include "cli/help.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct command *const COMMANDS[] = {&serve_command,  &chat_command,   &generate_command, &inspect_command, &bench_command,
                                         &profile_command, &doctor_command, &health_command, &version_command,  NULL};

static bool asks_for_help(const char *argument) {
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

static int help(int count, char **arguments) {
    if (count > 1) return help_too_much(arguments[1]);
    return help_print(count == 0 || asks_for_help(arguments[0]) ? NULL : arguments[0]);
}

// By default libgomp's threads wait for each other by spinning for milliseconds, which on a machine that has anything
// else to do costs several times the work itself. It reads its settings before main: so set one, unless somebody has
// already, and start again. By its path: /proc/self/exe would be its name in ps and top.
static void wait_gently(char **arguments) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    char program[PATH_MAX];
    if (realpath("/proc/self/exe", program) && setenv("GOMP_SPINCOUNT", "10000", 1) == 0)
        execv(program, arguments); // where that fails, go on
}

int main(int count, char **arguments) {
    wait_gently(arguments);
    const char *name = count > 1 ? arguments[1] : "";
    if (strcmp(name, "help") == 0 || asks_for_help(name)) return help(count - 2, arguments + 2);
    if (strcmp(name, "--version") == 0) name = version_command.name;
    const struct command *command = command_find(name);
    if (!command && !*name) return help_complain();
    if (!command) return help_no_command(name);
    for (int i = 2; i < count; i++)
        if (asks_for_help(arguments[i])) return help_print(command->name);
    help_check_environment();
    return command->run(count - 2, arguments + 2);
}
