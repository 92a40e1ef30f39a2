#include "cli/chat_commands.h"

#include "base/nearest.h"
#include "base/plural.h"
#include "base/wrap.h"
#include "cli/entry.h"

#include <string.h>

enum { TEXT_COLUMN = 18 };

typedef int run_command(struct chat *chat, const char *operand, struct error *error);
#define DECLARE(name, operand, what) static run_command run_##name;
CHAT_COMMANDS(DECLARE)
#undef DECLARE

static const struct chat_command {
    const char *name, *operand, *what;
    run_command *run;
} ROWS[] = {
#define ROW(name, operand, what) {"/" #name, operand, what, run_##name},
    CHAT_COMMANDS(ROW)
#undef ROW
};
enum { ROW_COUNT = sizeof ROWS / sizeof *ROWS };

static int print(struct chat *chat, struct buffer *text, struct error *error) {
    int code =
        text->failed ? error_set_code(error, ERROR_MEMORY) : output_text(&chat->output, text->data, text->bytes, error);
    buffer_finish(text);
    return code;
}

// ---- The commands

static int run_help(struct chat *chat, const char *operand, struct error *error) {
    (void)operand;
    struct buffer text;
    buffer_init(&text, SIZE_MAX);
    for (const struct chat_command *command = ROWS; command < ROWS + ROW_COUNT; command++) {
        size_t before = text.bytes;
        buffer_format(&text, "  %s%s", command->name, command->operand);
        buffer_format(&text, "%*s", (int)(TEXT_COLUMN - (text.bytes - before)), "");
        wrap_text(&text, command->what, TEXT_COLUMN, TEXT_COLUMN, WRAP_COLUMNS);
        buffer_text(&text, "\n");
    }
    buffer_text(&text, "\n");
    wrap_text(&text, ENTRY_HELP " Ctrl-C stops an answer, Ctrl-D leaves.", 0, 0, WRAP_COLUMNS);
    buffer_text(&text, "\n");
    return print(chat, &text, error);
}

static int run_reset(struct chat *chat, const char *operand, struct error *error) {
    (void)operand;
    (void)error;
    conversation_reset(&chat->conversation);
    chat_say(chat, "forgotten");
    return 0;
}

static int run_system(struct chat *chat, const char *operand, struct error *error) {
    struct conversation *conversation = &chat->conversation;
    if (!*operand && !conversation_has_system(conversation)) {
        chat_say(chat, "there is no system's message; /system TEXT gives one");
    } else if (!*operand) {
        const struct chat_message *message = &conversation->messages[0];
        struct buffer text;
        buffer_init(&text, SIZE_MAX);
        buffer_append(&text, message->content, message->content_bytes);
        buffer_text(&text, "\n");
        return print(chat, &text, error);
    } else {
        bool none = strcmp(operand, "-") == 0;
        int code = conversation_set_system(conversation, none ? "" : operand, error);
        if (code) return code;
        chat_say(chat, none ? "there is no system's message now" : "this is the system's message now");
    }
    return 0;
}

static int run_save(struct chat *chat, const char *operand, struct error *error) {
    int code = conversation_save(&chat->conversation, operand, error);
    if (!code) chat_say(chat, "%zu message%s %s in %s", chat->conversation.count, plural(chat->conversation.count),
                        plural_are(chat->conversation.count), operand);
    return code;
}

static int run_load(struct chat *chat, const char *operand, struct error *error) {
    struct conversation loaded = {0};
    int code = conversation_load(&loaded, operand, error);
    if (code) {
        conversation_finish(&loaded);
        return code;
    }
    conversation_finish(&chat->conversation);
    chat->conversation = loaded;
    chat_say(chat, "going on with %zu message%s of %s", loaded.count, plural(loaded.count), operand);
    return 0;
}

static int run_stats(struct chat *chat, const char *operand, struct error *error) {
    (void)operand;
    const struct engine_info *info = engine_info(chat->engine);
    const struct chat_counts *counts = &chat->counts;
    struct buffer text;
    size_t tokens = 0;
    int code = chat->conversation.count == 0
                   ? 0
                   : chat_measure(chat->engine, chat->conversation.messages, chat->conversation.count, &tokens, error);
    if (code) return code;
    buffer_init(&text, SIZE_MAX);
    buffer_format(&text, "model         %s, %s, on %d threads\n", info->model_name, info->weights, info->threads);
    buffer_format(&text, "conversation  %zu message%s, %zu token%s; the context has %d\n", chat->conversation.count,
                  plural(chat->conversation.count), tokens, plural(tokens), info->context_tokens);
    if (counts->dropped_turns)
        buffer_format(&text, "no longer in  %zu turn%s\n", counts->dropped_turns, plural(counts->dropped_turns));
    if (counts->answers) {
        buffer_text(&text, "last answer   ");
        answer_write_timings(&counts->last, &text);
        buffer_format(&text, "\nall answers   %zu, of %zu token%s in %.2f s\n", counts->answers, counts->tokens,
                      plural(counts->tokens), counts->seconds);
    }
    return print(chat, &text, error);
}

static int run_quit(struct chat *chat, const char *operand, struct error *error) {
    (void)operand;
    (void)error;
    chat->leaving = true;
    return 0;
}

// ---- Finding them

static int unknown(const char *name, size_t bytes, struct error *error) {
    struct nearest nearest;
    nearest_init(&nearest, name, bytes);
    for (size_t i = 0; i < ROW_COUNT; i++) nearest_consider(&nearest, ROWS[i].name, strlen(ROWS[i].name));
    return error_set(
        error, ERROR_ARGUMENT,
        "there is no %.*s; %s%s%s/help lists what there is. What is no command has a space in front of the slash",
        bytes < 40 ? (int)bytes : 40, name, nearest.word[0] ? "did you mean " : "", nearest.word,
        nearest.word[0] ? "? " : "");
}

int chat_commands_run(struct chat *chat, const char *entered, struct error *error) {
    size_t bytes = strcspn(entered, " \t\n");
    const char *operand = entered + bytes + strspn(entered + bytes, " \t\n");
    for (const struct chat_command *command = ROWS; command < ROWS + ROW_COUNT; command++) {
        if (strlen(command->name) != bytes || memcmp(command->name, entered, bytes) != 0) continue;
        if (*operand && !command->operand[0])
            return error_set(error, ERROR_ARGUMENT, "%s takes nothing behind it", command->name);
        if (!*operand && command->operand[0] && !strchr(command->operand, '['))
            return error_set(error, ERROR_ARGUMENT, "%s needs a%s", command->name, command->operand);
        return command->run(chat, operand, error);
    }
    return unknown(entered, bytes, error);
}

const char *chat_commands_complete(const char *text, size_t bytes) {
    const char *found = NULL;
    for (size_t i = 0; bytes > 0 && i < ROW_COUNT; i++) {
        const char *name = ROWS[i].name;
        if (strncmp(name, text, bytes) != 0) continue;
        if (found) return NULL;
        found = name + bytes;
    }
    return found;
}
