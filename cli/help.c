#include "cli/help.h"

#include "api/schema.h"
#include "base/nearest.h"
#include "base/wrap.h"

#include <stdio.h>
#include <string.h>

enum { HELP_BYTES_MAX = 256 * 1024, COLUMNS = 100 };

struct commands {
    const struct command *const *rows;
    size_t count;
};

// ---- The program, and one command

static void write_overview(const struct commands *commands, struct buffer *out);

static void write_parameters(const struct commands *commands, struct buffer *out) {
    (void)commands;
    schema_markdown(out);
}

static const struct topic {
    const char *name, *summary;
    void (*write)(const struct commands *commands, struct buffer *out);
} TOPICS[] = {
    {"parameters", "what a request may say", write_parameters},
};
enum { TOPIC_COUNT = sizeof TOPICS / sizeof *TOPICS };

static void write_overview(const struct commands *commands, struct buffer *out) {
    buffer_text(out, "Tandem serves small mixture-of-experts models over the OpenAI API.\n\n"
                     "Usage: tandem COMMAND [SETTINGS]\n\n");
    for (size_t i = 0; i < commands->count; i++)
        buffer_format(out, "  %-11s %s\n", commands->rows[i]->name, commands->rows[i]->summary);
    buffer_format(out, "  %-11s %s\n\n", "help TOPIC", "a command, or one of these:");
    for (int i = 0; i < TOPIC_COUNT; i++) buffer_format(out, "    %-11s %s\n", TOPICS[i].name, TOPICS[i].summary);
    buffer_format(out,
                  "\ntandem COMMAND --help tells more.\n"
                  "Exit codes: 0 all went well, %d the model can not be loaded, %d a command or setting is wrong,\n"
                  "1 anything else.\n",
                  EXIT_BAD_MODEL, EXIT_USAGE);
}

static void write_usage(const struct command *command, struct buffer *out) {
    buffer_format(out, "tandem %s", command->name);
    if (command->operand) buffer_format(out, " %s", command->operand);
    if (command->table_count) buffer_text(out, " [SETTINGS]");
}

static void write_command(const struct command *command, struct buffer *out) {
    buffer_format(out, "tandem %s: %s.\n\nUsage: ", command->name, command->summary);
    write_usage(command, out);
    buffer_text(out, "\n");
    if (command->description) {
        buffer_text(out, "\n");
        wrap_text(out, command->description, 0, 0, COLUMNS);
        buffer_text(out, "\n");
    }
    if (command->table_count) {
        buffer_text(out, "\n");
        settings_help(command->tables, command->table_count, out);
    }
    if (command->examples) buffer_text(out, "\nExamples\n");
    for (const struct example *example = command->examples; example && example->line; example++)
        buffer_format(out, "  %s\n      %s\n", example->line, example->what);
}

// ---- Finding what is asked for

static const struct command *find_command(const struct commands *commands, const char *name) {
    for (size_t i = 0; i < commands->count; i++)
        if (strcmp(commands->rows[i]->name, name) == 0) return commands->rows[i];
    return NULL;
}

static const struct topic *find_topic(const char *name) {
    for (int i = 0; i < TOPIC_COUNT; i++)
        if (strcmp(TOPICS[i].name, name) == 0) return &TOPICS[i];
    return NULL;
}

static void end_with_nearest(const struct nearest *nearest) {
    if (nearest->word)
        fprintf(stderr, "; did you mean %s? See tandem help\n", nearest->word);
    else
        fprintf(stderr, "; see tandem help\n");
}

int help_no_command(const struct command *const *commands, size_t command_count, const char *name) {
    struct nearest nearest = {.written = name};
    for (size_t i = 0; i < command_count; i++) nearest_consider(&nearest, commands[i]->name);
    nearest_consider(&nearest, "help");
    fprintf(stderr, "tandem: there is no command `%.60s`", name);
    end_with_nearest(&nearest);
    return EXIT_USAGE;
}

static int no_topic(const struct commands *commands, const char *name) {
    struct nearest nearest = {.written = name};
    for (size_t i = 0; i < commands->count; i++) nearest_consider(&nearest, commands->rows[i]->name);
    for (int i = 0; i < TOPIC_COUNT; i++) nearest_consider(&nearest, TOPICS[i].name);
    fprintf(stderr, "tandem: there is no help on `%.60s`", name);
    end_with_nearest(&nearest);
    return EXIT_USAGE;
}

static int print(struct buffer *text) {
    bool ok = !text->failed && fwrite(text->data, 1, text->bytes, stdout) == text->bytes && fflush(stdout) == 0;
    buffer_finish(text);
    return ok ? 0 : 1;
}

int help_print(const struct command *const *commands, size_t command_count, const char *name) {
    const struct commands all = {commands, command_count};
    const struct command *command = name ? find_command(&all, name) : NULL;
    const struct topic *topic = name ? find_topic(name) : NULL;
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    if (command)
        write_command(command, &text);
    else if (topic)
        topic->write(&all, &text);
    else if (name)
        return no_topic(&all, name);
    else
        write_overview(&all, &text);
    return print(&text);
}
