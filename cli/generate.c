// tandem generate: a text or tokens in, what the model goes on with out. Without a server.
#include "base/utf8.h"
#include "cli/answer.h"
#include "cli/command.h"
#include "cli/generate_json.h"
#include "cli/interrupt.h"
#include "cli/model_settings.h"
#include "cli/output.h"
#include "cli/sampling_settings.h"
#include "cli/token_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INPUT_BYTES_MAX = 64 * 1024 * 1024, JSON_BYTES_MAX = 1024 * 1024 * 1024 };

// ---- What it takes

struct generate_settings {
    char *prompt, *file, *tokens, *system;
    int top_logprobs;
    bool chat, parse_special, ignore_eos, json, verbose;
};
static struct generate_settings own;
static struct model_settings model;
static struct sampling_settings sampling;

#define AT(member) offsetof(struct generate_settings, member)
static const struct setting ROWS[] = {
    {NULL, "--prompt", NULL, SETTING_TEXT, AT(prompt), 0, 0, NULL, "", "", "the text to go on from"},
    {NULL, "--file", NULL, SETTING_PATH, AT(file), 0, 0, NULL, "", "",
     "a file with that text, or - for standard input; a line end at its end does not count"},
    {NULL, "--tokens", NULL, SETTING_TEXT, AT(tokens), 0, 0, NULL, "", "",
     "instead of a text the ids of its tokens: 1,2,3"},
    {NULL, "--chat", NULL, SETTING_SWITCH, AT(chat), 0, 0, NULL, "false", "",
     "the text is what a user says: the model's chat format goes around it, and the model answers"},
    {NULL, "--system", NULL, SETTING_TEXT, AT(system), 0, 0, NULL, "", "",
     "with --chat: the system's message in front of it"},
    {NULL, "--parse-special", NULL, SETTING_SWITCH, AT(parse_special), 0, 0, NULL, "false", "",
     "where the text spells a special token, as in <|end|>, take it for that token"},
    {NULL, "--ignore-eos", NULL, SETTING_SWITCH, AT(ignore_eos), 0, 0, NULL, "false", "",
     "go on after the model's end of turn"},
    {NULL, "--json", NULL, SETTING_SWITCH, AT(json), 0, 0, NULL, "false", "",
     "print one JSON object at the end instead of the text: text, tokens with their log-probabilities, timings"},
    {NULL, "--top-logprobs", NULL, SETTING_INT, AT(top_logprobs), 0, ENGINE_TOP_LOGPROBS_MAX, NULL, "0", "",
     "with --json: so many of the most likely tokens in each place"},
    {NULL, "--verbose", NULL, SETTING_SWITCH, AT(verbose), 0, 0, NULL, "false", "",
     "say on standard error how long it took, even where that is no terminal"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {
    {ROWS, &own},
    {SAMPLING_SETTINGS, &sampling},
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
};

static const struct example EXAMPLES[] = {
    {"tandem generate --chat --temperature 0 --prompt \"What is the capital of France?\"", "one question, one answer"},
    {"tandem generate --max-tokens 50 --seed 1 < story.txt", "goes on with a text, the same way each time"},
    {"tandem generate --tokens 1,2,3 --max-tokens 1 --top-logprobs 5 --json | jq .tokens",
     "what the model holds for likely after these tokens"},
    {NULL, NULL},
};

// ---- The prompt

struct prompt {
    struct buffer text;
    struct token_list ids;
};

static int read_all(int file, const char *name, struct buffer *out, struct error *error) {
    char bytes[65536];
    for (;;) {
        ssize_t count = read(file, bytes, sizeof bytes);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set(error, ERROR_IO, "%s can not be read: %s", name, strerror(errno));
        if (count == 0) return 0;
        if (buffer_append(out, bytes, (size_t)count)) continue;
        return error_set(error, ERROR_TOO_LARGE, "%s has more than %d MiB, or memory is short", name,
                         INPUT_BYTES_MAX / 1024 / 1024);
    }
}

static int read_file(const char *path, struct buffer *out, struct error *error) {
    if (strcmp(path, "-") == 0) return read_all(STDIN_FILENO, "standard input", out, error);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return error_set(error, ERROR_IO, "%s can not be read: %s", path, strerror(errno));
    int code = read_all(file, path, out, error);
    close(file);
    return code;
}

static void drop_line_end(struct buffer *text) {
    if (text->bytes > 0 && text->data[text->bytes - 1] == '\n') text->bytes--;
    if (text->bytes > 0 && text->data[text->bytes - 1] == '\r') text->bytes--;
}

static int check_text(const struct buffer *text, struct error *error) {
    if (text->bytes == 0) return error_set(error, ERROR_ARGUMENT, "the prompt is empty");
    if (utf8_valid(text->data, text->bytes)) return 0;
    size_t at = 0, width;
    while ((width = utf8_decode(text->data + at, text->bytes - at, NULL)) > 0) at += width;
    return error_set(error, ERROR_ARGUMENT, "the prompt is not UTF-8: byte %zu is 0x%02x", at + 1,
                     (unsigned char)text->data[at]);
}

static int check_settings(const char *operand, struct error *error) {
    int sources = (own.prompt[0] != 0) + (own.file[0] != 0) + (own.tokens[0] != 0) + (operand != NULL);
    if (sources > 1)
        return error_set(error, ERROR_ARGUMENT,
                         "--prompt, --file, --tokens and - exclude each other: give one of them");
    if (sources == 0 && isatty(STDIN_FILENO))
        return error_set(error, ERROR_ARGUMENT,
                         "there is no prompt: give --prompt, --file or --tokens, or pipe one in");
    if (own.tokens[0] && (own.chat || own.parse_special))
        return error_set(error, ERROR_ARGUMENT, "--chat and --parse-special are for texts, --tokens is none");
    if (own.chat && own.parse_special)
        return error_set(error, ERROR_ARGUMENT,
                         "--chat and --parse-special exclude each other: what a user says "
                         "never becomes a special token");
    if (own.system[0] && !own.chat) return error_set(error, ERROR_ARGUMENT, "--system needs --chat");
    if (own.top_logprobs > 0 && !own.json) return error_set(error, ERROR_ARGUMENT, "--top-logprobs needs --json");
    return 0;
}

// What there is to read, before seconds are spent on loading.
static int read_prompt(struct prompt *prompt, struct error *error) {
    int code = 0;
    if (own.tokens[0]) {
        code = token_ids_read(own.tokens, &prompt->ids, error);
        if (code) error_prefix(error, "--tokens");
        return code;
    }
    if (own.prompt[0]) {
        if (!buffer_text(&prompt->text, own.prompt)) code = error_set_code(error, ERROR_MEMORY);
    } else {
        code = read_file(own.file[0] ? own.file : "-", &prompt->text, error);
        drop_line_end(&prompt->text);
    }
    return code ? code : check_text(&prompt->text, error);
}

static int tokenize(const struct engine *engine, struct prompt *prompt, struct error *error) {
    const struct chat_message messages[] = {
        {"system", own.system, strlen(own.system)},
        {"user", prompt->text.data, prompt->text.bytes},
    };
    int vocab = engine_info(engine)->vocab_size, code = 0;
    if (own.chat)
        code = engine_chat_tokens(engine, messages + !own.system[0], 1 + !!own.system[0], &prompt->ids, error);
    else if (!own.tokens[0])
        code =
            engine_text_tokens(engine, prompt->text.data, prompt->text.bytes, own.parse_special, &prompt->ids, error);
    for (size_t i = 0; !code && i < prompt->ids.count; i++)
        if (prompt->ids.ids[i] >= vocab)
            code = error_set(error, ERROR_ARGUMENT, "--tokens has %d, but the model's ids go from 0 to %d",
                             (int)prompt->ids.ids[i], vocab - 1);
    return code;
}

// ---- The answer

struct generation {
    const struct engine *engine;
    struct output output;
    struct buffer text, tokens, json; // with --json
};

static int take(void *user, const struct engine_event *event, struct error *error) {
    struct generation *generation = user;
    if (!own.json) return output_text(&generation->output, event->text, event->text_bytes, error);
    buffer_append(&generation->text, event->text, event->text_bytes);
    for (int i = 0; i < event->token_count; i++)
        generate_json_token(&generation->tokens, generation->engine, &event->tokens[i]);
    if (generation->text.failed || generation->tokens.failed) return error_set_code(error, ERROR_MEMORY);
    return 0;
}

static int print_json(struct generation *generation, const struct engine_request *request, const struct answer *answer,
                      struct error *error) {
    const struct generate_report report = {generation->engine, request, answer, &generation->text, &generation->tokens};
    generate_json(&generation->json, &report);
    if (generation->json.failed) return error_set_code(error, ERROR_MEMORY);
    return output_text(&generation->output, generation->json.data, generation->json.bytes, error);
}

static void print_timings(const struct answer *answer) {
    struct buffer text;
    buffer_init(&text, SIZE_MAX);
    answer_write_timings(answer, &text);
    buffer_text(&text, answer->finish == FINISH_STOP ? ", stopped\n" : ", at the limit\n");
    if (!text.failed) fputs(text.data, stderr);
    buffer_finish(&text);
}

static int generate(struct engine *engine, const struct engine_request *request, struct generation *generation,
                    struct error *error) {
    struct answer answer;
    struct error ignored;
    int code = answer_follow(engine, request, take, generation, &answer, error);
    if (!code && own.json) code = print_json(generation, request, &answer, error);
    // What comes next begins a line; but behind a text that goes on from another, only on a terminal: who puts the two
    // together wants nothing in between or behind.
    if ((generation->output.terminal || own.chat) && generation->output.within_line)
        output_text(&generation->output, "\n", 1, code ? &ignored : error);
    if (!code && (own.verbose || isatty(STDERR_FILENO))) print_timings(&answer);
    return code;
}

static int exit_code(int code, const struct generation *generation, const struct error *error) {
    if (!code || generation->output.closed) return EXIT_WELL; // whoever reads it has had enough
    if (code == ERROR_CANCELLED && interrupt_noted()) return 128 + interrupt_noted();
    return command_fail(&generate_command, error, code == ERROR_ARGUMENT ? EXIT_USAGE : EXIT_OTHER);
}

static int with_prompt(struct prompt *prompt, struct engine_request *request) {
    struct error error = {0};
    struct engine *engine;
    struct generation generation = {0};
    const struct engine_options options = {.sequences_max = 1, .queue_max = 1};
    if (model_settings_open(&model, options, &engine, &error))
        return model_settings_fail(&generate_command, &error);
    generation.engine = engine;
    buffer_init(&generation.text, JSON_BYTES_MAX);
    buffer_init(&generation.tokens, JSON_BYTES_MAX);
    buffer_init(&generation.json, JSON_BYTES_MAX);
    output_init(&generation.output);
    int code = tokenize(engine, prompt, &error);
    if (!code) code = interrupt_set(INTERRUPT_IS_NOTED_ONCE, &error);
    if (!code) {
        request->prompt = prompt->ids.ids;
        request->prompt_tokens = prompt->ids.count;
        code = generate(engine, request, &generation, &error);
    }
    buffer_finish(&generation.json);
    buffer_finish(&generation.tokens);
    buffer_finish(&generation.text);
    engine_close(engine);
    return exit_code(code, &generation, &error);
}

// ---- The command

static int run(int count, char **arguments) {
    struct error error = {0};
    struct prompt prompt = {0};
    const char *operand = NULL;
    struct engine_request request = {0};
    int code = command_begin(&generate_command, count, arguments, &operand);
    buffer_init(&prompt.text, INPUT_BYTES_MAX);
    if (!code && operand && strcmp(operand, "-") != 0) code = command_stray(&generate_command, operand);
    if (!code && (check_settings(operand, &error) || sampling_settings_request(&sampling, &request, &error)))
        code = command_misused(&generate_command, &error);
    if (!code && interrupt_set(INTERRUPT_ENDS, &error)) code = command_fail(&generate_command, &error, EXIT_OTHER);
    if (!code && read_prompt(&prompt, &error)) code = command_fail(&generate_command, &error, EXIT_USAGE);
    if (!code) {
        request.ignore_eos = own.ignore_eos;
        request.strip_space = own.chat;
        request.want_logprobs = own.json;
        request.top_logprobs = own.top_logprobs;
        code = with_prompt(&prompt, &request);
    }
    token_list_finish(&prompt.ids);
    buffer_finish(&prompt.text);
    command_end(&generate_command);
    return code;
}

const struct command generate_command = {
    .name = "generate",
    .summary = "go on with a text, or answer a question, without a server",
    .operand = "[-]",
    .meant = "--prompt",
    .description =
        "The text comes from --prompt, --file or --tokens, else from standard input. Without --chat it goes to the "
        "model as it stands, with no chat format around it. What the model writes goes to standard output as it "
        "comes, and nothing else does, but with --chat the end of its last line; on a terminal, control characters in "
        "it are made visible. Ctrl-C ends it, a reader that goes away ends it without a word.\n\n"
        "Settings mean what the parameters of the same name mean over the API, with the same ranges and defaults, "
        "but for --max-tokens: the same seed gives the same text here and there.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
