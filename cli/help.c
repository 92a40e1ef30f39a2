#include "cli/help.h"

#include "api/openapi.h"
#include "api/reply.h"
#include "api/schema.h"
#include "base/nearest.h"
#include "base/wrap.h"
#include "server/metrics.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { HELP_BYTES_MAX = 256 * 1024, EXAMPLE_COLUMN = 6 };

// ---- One command

void help_write_usage(const struct command *command, struct buffer *out) {
    if (command->operand) buffer_format(out, " %s", command->operand);
    if (command->table_count) buffer_text(out, " [SETTINGS]");
}

static void write_command(const struct command *command, struct buffer *out) {
    buffer_format(out, "tandem %s: %s.\n\nUsage: tandem %s", command->name, command->summary, command->name);
    help_write_usage(command, out);
    buffer_text(out, "\n");
    if (command->description) {
        buffer_text(out, "\n");
        wrap_text(out, command->description, 0, 0, WRAP_COLUMNS);
        buffer_text(out, "\n");
    }
    if (command->table_count) {
        buffer_text(out, "\n");
        settings_help(command->tables, command->table_count, out);
    }
    if (command->examples) buffer_text(out, "\nExamples\n");
    for (const struct example *example = command->examples; example && example->line; example++) {
        buffer_format(out, "  %s\n%*s", example->line, EXAMPLE_COLUMN, "");
        wrap_text(out, example->what, EXAMPLE_COLUMN, EXAMPLE_COLUMN, WRAP_COLUMNS);
        buffer_text(out, "\n");
    }
}

// ---- Topics

static void write_settings(struct buffer *out) {
    wrap_text(out,
              "A setting is read from a YAML file (serve and health only), then from its environment variable, then "
              "from its flag; the last one wins, and an empty variable counts as unset. Sizes may end in K, M or G, "
              "which count 1024, 1024² and 1024³. Paths in a file are relative to it; ~/ is the home directory.",
              0, 0, WRAP_COLUMNS);
    buffer_text(out, "\n");
    for (const struct command *const *command = COMMANDS; *command; command++) {
        if (!(*command)->table_count) continue;
        buffer_format(out, "\n---- tandem %s\n\n", (*command)->name);
        settings_help((*command)->tables, (*command)->table_count, out);
    }
}

static void write_errors(struct buffer *out) {
    wrap_text(out,
              "An error is answered as OpenAI answers it: an HTTP status, and a JSON object with message, type, param "
              "(the field at fault, or null) and code. In mid-stream it comes as an event. Here stands behind each "
              "status the code, the type, and what has happened.\n\n",
              0, 0, WRAP_COLUMNS);
    api_error_text(out);
}

static void write_exit_codes(struct buffer *out) {
#define WRITE(name, code, when) buffer_format(out, "  %-5d%s\n", code, when);
    EXIT_CODES(WRITE)
#undef WRITE
}

static void write_exit_code_topic(struct buffer *out) {
    buffer_text(out, "A command ends with one of these codes:\n\n");
    write_exit_codes(out);
}

static void write_yaml(struct buffer *out) {
    buffer_text(out, "# Settings of `tandem serve`, each with its words, its range, its default, and the environment\n"
                     "# variable and the flag that say the same and win over this file. All have their defaults here;\n"
                     "# what is left out has it too. `tandem serve --config FILE` reads another file, and without it\n"
                     "# this one, where it lies beside the program: serve says which it has read.\n"
                     "# Sizes may end in K, M or G; paths are relative to this file, ~/ is the home directory.\n"
                     "# This file is what `tandem help yaml` prints.\n\n");
    settings_yaml(serve_command.tables, serve_command.table_count, out);
}

static const struct topic {
    const char *name, *summary;
    void (*write)(struct buffer *out);
} TOPICS[] = {
    {"settings", "all settings, where they are read from, and which wins", write_settings},
    {"parameters", "what a request may say", schema_text},
    {"openapi", "the same, and the answers, for programs", openapi_write},
    {"metrics", "what GET /metrics tells Prometheus", metrics_text},
    {"errors", "what a request is answered with when something is wrong", write_errors},
    {"exit-codes", "what the commands end with", write_exit_code_topic},
    {"yaml", "a file of settings with everything in it, to start from", write_yaml},
    {"man", "all of this as a man page: tandem help man | man -l -", manual_write},
};
enum { TOPIC_COUNT = sizeof TOPICS / sizeof *TOPICS };

static void write_overview(struct buffer *out) {
    buffer_text(out, "Tandem serves small mixture-of-experts models over the OpenAI API.\n\n"
                     "Usage: tandem COMMAND [SETTINGS]\n\nCommands\n");
    for (const struct command *const *command = COMMANDS; *command; command++)
        buffer_format(out, "  %-12s%s\n", (*command)->name, (*command)->summary);
    buffer_text(out, "  help        this; help COMMAND is what COMMAND --help says\n\ntandem help TOPIC\n");
    for (int i = 0; i < TOPIC_COUNT; i++) buffer_format(out, "  %-12s%s\n", TOPICS[i].name, TOPICS[i].summary);
    buffer_text(out, "\nExit codes\n");
    write_exit_codes(out);
}

// ---- Finding what is asked for

static const struct topic *find_topic(const char *name) {
    for (int i = 0; i < TOPIC_COUNT; i++)
        if (strcmp(TOPICS[i].name, name) == 0) return &TOPICS[i];
    return NULL;
}

static int unknown(const char *what, const char *name, const struct nearest *nearest) {
    fprintf(stderr, "tandem: there is no %s `%.60s`; ", what, name);
    if (nearest->word[0]) fprintf(stderr, "did you mean %s? ", nearest->word);
    fprintf(stderr, "tandem help lists them\n");
    return EXIT_USAGE;
}

static void consider_commands(struct nearest *nearest) {
    for (const struct command *const *command = COMMANDS; *command; command++)
        nearest_consider(nearest, (*command)->name, strlen((*command)->name));
}

int help_no_command(const char *name) {
    struct nearest nearest;
    nearest_init(&nearest, name, strlen(name));
    consider_commands(&nearest);
    nearest_consider(&nearest, "help", strlen("help"));
    return unknown("command", name, &nearest);
}

static int no_topic(const char *name) {
    struct nearest nearest;
    nearest_init(&nearest, name, strlen(name));
    consider_commands(&nearest);
    for (int i = 0; i < TOPIC_COUNT; i++) nearest_consider(&nearest, TOPICS[i].name, strlen(TOPICS[i].name));
    return unknown("help on", name, &nearest);
}

// Whether it was written is asked at the end, of all that commands print.
static int print(struct buffer *text, FILE *out) {
    bool failed = text->failed;
    if (failed)
        fprintf(stderr, "tandem help: %s\n", error_text(ERROR_MEMORY));
    else
        fwrite(text->data, 1, text->bytes, out);
    buffer_finish(text);
    return failed ? EXIT_OTHER : EXIT_WELL;
}

int help_print(const char *name) {
    const struct command *command = name ? command_find(name) : NULL;
    const struct topic *topic = name ? find_topic(name) : NULL;
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    if (command)
        write_command(command, &text);
    else if (topic)
        topic->write(&text);
    else if (name)
        return no_topic(name);
    else
        write_overview(&text);
    return print(&text, stdout);
}

int help_complain(void) {
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    write_overview(&text);
    print(&text, stderr);
    return EXIT_USAGE;
}

int help_too_much(const char *argument) {
    fprintf(stderr, "tandem help: `%.60s` is one argument too many: a command or a topic at a time\n", argument);
    return EXIT_USAGE;
}

// ---- The environment

#define PREFIX "TANDEM_"

// Whether a command has a variable of this name; if not, its names are considered for the nearest.
static bool is_known(const char *name, size_t bytes, struct nearest *nearest) {
    for (const struct command *const *command = COMMANDS; *command; command++)
        for (size_t t = 0; t < (*command)->table_count; t++)
            for (const struct setting *row = (*command)->tables[t].rows; row->flag; row++) {
                const char *known = row->environment;
                if (!known) continue;
                if (strlen(known) == bytes && memcmp(known, name, bytes) == 0) return true;
                nearest_consider(nearest, known + strlen(PREFIX), strlen(known) - strlen(PREFIX));
            }
    return false;
}

void help_check_environment(void) {
    for (char *const *variable = environ; *variable; variable++) {
        struct nearest nearest;
        size_t bytes = strcspn(*variable, "=");
        if (strncmp(*variable, PREFIX, strlen(PREFIX)) != 0) continue;
        nearest_init(&nearest, *variable + strlen(PREFIX), bytes - strlen(PREFIX)); // what all share makes none alike
        if (is_known(*variable, bytes, &nearest)) continue;
        fprintf(stderr, "tandem: %.*s in the environment is no setting", (int)bytes, *variable);
        if (nearest.word[0]) fprintf(stderr, "; did you mean " PREFIX "%s?", nearest.word);
        fputs("\n", stderr);
    }
}
