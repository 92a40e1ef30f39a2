// tandem: finds the command and runs it.
#include "cli/command.h"

#include "api/openapi.h"
#include "api/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *const COMMANDS[] = {&serve_command, &version_command};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof *COMMANDS, HELP_BYTES_MAX = 64 * 1024 };

static int print(struct buffer *text) {
    bool ok = !text->failed && fwrite(text->data, 1, text->bytes, stdout) == text->bytes;
    buffer_finish(text);
    return ok ? 0 : 1;
}

static int print_overview(void) {
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    buffer_text(&text, "Tandem serves small mixture-of-experts models over the OpenAI API.\n\n"
                       "Usage: tandem COMMAND [SETTINGS]\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        buffer_format(&text, "  %-10s %s\n", COMMANDS[i]->name, COMMANDS[i]->summary);
    buffer_format(&text,
                  "  %-10s %s\n\n"
                  "tandem COMMAND --help tells more.\n"
                  "Exit codes: 0 all went well, %d the model can not be loaded, %d a command or setting is wrong,\n"
                  "1 anything else.\n",
                  "help", "this text; help parameters: what a request may say; help openapi: the same for programs", EXIT_BAD_MODEL, EXIT_USAGE);
    return print(&text);
}

static int print_parameters(void) {
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    schema_markdown(&text);
    return print(&text);
}

static int print_openapi(void) {
    struct buffer text;
    buffer_init(&text, OPENAPI_BYTES_MAX);
    openapi_write(&text);
    return print(&text);
}

static int print_help(const struct command *command) {
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    buffer_format(&text, "tandem %s: %s.\n\n", command->name, command->summary);
    command->help(&text);
    return print(&text);
}

static const struct command *find(const char *name) {
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(COMMANDS[i]->name, name) == 0) return COMMANDS[i];
    return NULL;
}

static bool asks_for_help(const char *argument) {
    return strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0;
}

// By default libgomp's threads wait for each other by spinning for milliseconds, which on a machine that has anything
// else to do costs several times the work itself. It reads its settings before main: so set one, unless somebody has
// already, and start again.
static void wait_gently(char **arguments) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "10000", 1) == 0) execv("/proc/self/exe", arguments); // where that fails, go on
}

int main(int count, char **arguments) {
    wait_gently(arguments);
    const char *name = count > 1 ? arguments[1] : "";
    if (strcmp(name, "help") == 0 || asks_for_help(name)) {
        if (count <= 2) return print_overview();
        if (strcmp(arguments[2], "parameters") == 0) return print_parameters();
        if (strcmp(arguments[2], "openapi") == 0) return print_openapi();
        const struct command *about = find(arguments[2]);
        if (about) return print_help(about);
        fprintf(stderr, "tandem: there is no help on `%.60s`; see tandem help\n", arguments[2]);
        return EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0) name = version_command.name;
    const struct command *command = find(name);
    if (!command) {
        if (*name)
            fprintf(stderr, "tandem: there is no command `%.60s`; see tandem help\n", name);
        else
            print_overview();
        return EXIT_USAGE;
    }
    for (int i = 2; i < count; i++)
        if (asks_for_help(arguments[i])) return print_help(command);
    return command->run(count - 2, arguments + 2);
}
