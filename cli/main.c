// tandem: finds the command and runs it. The table is the order of help.
#include "cli/help.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct command *const COMMANDS[] = {
    &serve_command,   &chat_command,   &generate_command, &inspect_command, &bench_command,
    &profile_command, &doctor_command, &health_command,   &version_command, NULL};

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

// Where a standard file is closed, the next one that is opened would take its place, and be written to. What takes it
// here fails as it would.
static void hold_standard_files(void) {
    for (int file = STDIN_FILENO; file <= STDERR_FILENO; file++)
        if (fcntl(file, F_GETFD) < 0) open("/dev/null", file == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

// What was printed and could not be written is told, unless the command already has. Those whose reader goes away do
// not come here: SIGPIPE ends them.
static int check_output(const char *name, int exit_code) {
    errno = 0;
    bool failed = fflush(stdout) != 0;
    if (exit_code || !(failed || ferror(stdout))) return exit_code;
    fprintf(stderr, "tandem %s: standard output can not be written%s%s\n", name, errno ? ": " : "",
            errno ? strerror(errno) : "");
    return EXIT_OTHER;
}

int main(int count, char **arguments) {
    wait_gently(arguments);
    hold_standard_files();
    const char *name = count > 1 ? arguments[1] : "";
    if (strcmp(name, "help") == 0 || asks_for_help(name)) return check_output("help", help(count - 2, arguments + 2));
    if (strcmp(name, "--version") == 0) name = version_command.name;
    const struct command *command = command_find(name);
    if (!command && !*name) return help_complain();
    if (!command) return help_no_command(name);
    for (int i = 2; i < count; i++)
        if (asks_for_help(arguments[i])) return check_output(name, help_print(command->name));
    help_check_environment();
    return check_output(name, command->run(count - 2, arguments + 2));
}
