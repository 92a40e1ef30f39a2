// tandem chat: a conversation with the model, on a terminal or through a pipe. Without a server.
#include "cli/chat.h"

#include "cli/chat_commands.h"
#include "cli/command.h"
#include "cli/entry.h"
#include "cli/interrupt.h"
#include "cli/model_settings.h"
#include "cli/state.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// ---- What it takes

struct chat_settings {
    char *system, *load, *history;
};
static struct chat_settings own;
static struct model_settings model;
static struct sampling_settings sampling;

#define AT(member) offsetof(struct chat_settings, member)
static const struct setting ROWS[] = {
    {NULL, "--system", NULL, SETTING_TEXT, AT(system), 0, 0, NULL, "", "", "the system's message, in front of all"},
    {NULL, "--load", NULL, SETTING_PATH, AT(load), 0, 0, NULL, "", "",
     "a conversation to go on with, as /save writes it"},
    {NULL, "--history", NULL, SETTING_PATH, AT(history), 0, 0, NULL, "", "",
     "where the lines that were entered on a terminal are kept, or none; without it "
     "$XDG_STATE_HOME/tandem/history, ~/.local/state/tandem/history"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {
    {ROWS, &own},
    {SAMPLING_SETTINGS, &sampling},
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
};

static const struct example EXAMPLES[] = {
    {"tandem chat", "talks with the built-in model"},
    {"tandem chat --system \"You answer in one sentence.\" --temperature 0.3", "sets the tone first"},
    {"tandem chat < questions.txt > answers.txt", "asks a question for each line of a file, in one conversation"},
    {NULL, NULL},
};

// ---- The conversation

// An entry that went wrong does not end the conversation, unless there is nobody left to have it with: where lines are
// edited, an answer that was stopped is followed by the next question.
static int settle(struct chat *chat, int code, bool *failed, struct error *error) {
    bool stopped = code == ERROR_CANCELLED && interrupt_noted();
    if (!code || chat->output.failed) return code;
    if (stopped && (interrupt_noted() == SIGTERM || !line_edits(chat->lines))) return code;
    if (stopped) {
        interrupt_forget();
        chat_say(chat, "stopped");
    } else {
        chat_say(chat, "%s", error->message);
        *failed = true;
    }
    return 0;
}

static int take_entry(struct chat *chat, const struct entry *entry, struct error *error) {
    if (!entry->quoted && entry->text.bytes > 0 && entry->text.data[0] == '/')
        return chat_commands_run(chat, entry->text.data, error);
    for (size_t i = 0; i < entry->text.bytes; i++)
        if (!strchr(" \t\n", entry->text.data[i])) return chat_ask(chat, entry->text.data, entry->text.bytes, error);
    return 0; // nothing but white space
}

// A step of the model can take long, and ends before what was noted is looked at: who asks twice does not wait for it.
static int answer_entry(struct chat *chat, const struct entry *entry, struct error *error) {
    int code = interrupt_set(INTERRUPT_IS_NOTED_ONCE, error);
    if (!code) code = take_entry(chat, entry, error);
    int after = interrupt_set(INTERRUPT_IS_NOTED, code ? NULL : error);
    return code ? code : after;
}

static int interrupted(struct chat *chat, bool empty, struct error *error) {
    if (interrupt_noted() == SIGTERM || !line_edits(chat->lines)) return error_set_code(error, ERROR_CANCELLED);
    interrupt_forget();
    if (empty) chat_say(chat, "Ctrl-D or /quit leaves");
    return 0;
}

// Until the user leaves. *failed: something that was entered could not be done.
static int converse(struct chat *chat, bool *failed, struct error *error) {
    bool colours = output_colours(STDOUT_FILENO);
    const struct entry_prompts prompts = { // libedit drops escapes that nothing follows
        colours ? "\1\033[1m\1>\1\033[0m\1 " : "> ",
        colours ? "\1\033[1m\1|\1\033[0m\1 " : "| ",
    };
    struct entry entry;
    int code = 0;
    entry_init(&entry);
    while (!code && !chat->leaving) {
        bool empty;
        enum line_result result = entry_read(&entry, chat->lines, &prompts, &empty, error);
        if (result == LINE_END) break;
        if (result == LINE_TEXT) code = settle(chat, answer_entry(chat, &entry, error), failed, error);
        if (result == LINE_INTERRUPTED) code = interrupted(chat, empty, error);
        if (result == LINE_FAILED) code = error->code;
    }
    entry_finish(&entry);
    return code;
}

// ---- Beginning and end

static void keep_history(struct chat *chat) {
    char path[PATH_MAX];
    struct error error = {0};
    if (!line_edits(chat->lines) || strcmp(own.history, "none") == 0) return;
    if (!own.history[0] && !state_path(path, "history")) return;
    if (line_keep_history(chat->lines, own.history[0] ? own.history : path, &error))
        chat_say(chat, "what is entered will not be remembered: %s", error.message);
}

static void greet(const struct chat *chat) {
    const struct engine_info *info = engine_info(chat->engine);
    if (line_edits(chat->lines))
        chat_say(chat, "%s, %s, %d tokens of context. /help tells what there is, Ctrl-D leaves.", info->model_name,
                 info->weights, info->context_tokens);
}

static int exit_code(const struct chat *chat, int code, bool failed, const struct error *error) {
    if (!code) return failed && !line_edits(chat->lines) ? EXIT_OTHER : EXIT_WELL;
    if (chat->output.closed) return EXIT_WELL; // whoever reads it has had enough
    if (code == ERROR_CANCELLED && interrupt_noted()) return 128 + interrupt_noted();
    return command_fail(&chat_command, error, EXIT_OTHER);
}

static int with_model(struct chat *chat) {
    struct error error = {0};
    const struct engine_options options = {.sequences_max = 1, .queue_max = 1};
    if (model_settings_open(&model, options, &chat->engine, &error))
        return model_settings_fail(&chat_command, &error);
    bool failed = false;
    int code = interrupt_set(INTERRUPT_IS_NOTED, &error);
    if (!code) {
        output_init(&chat->output);
        keep_history(chat);
        greet(chat);
        code = converse(chat, &failed, &error);
    }
    engine_close(chat->engine);
    return exit_code(chat, code, failed, &error);
}

// What can be wrong without the model, before seconds are spent on loading it.
static int prepare(struct chat *chat) {
    struct error error = {0};
    struct engine_request ignored = {0};
    struct conversation *conversation = &chat->conversation;
    if (sampling_settings_request(&sampling, &ignored, &error)) return command_misused(&chat_command, &error);
    if ((own.load[0] && conversation_load(conversation, own.load, &error)) ||
        (own.system[0] && conversation_set_system(conversation, own.system, &error)))
        return command_fail(&chat_command, &error, EXIT_USAGE);
    if (interrupt_set(INTERRUPT_ENDS, &error) || line_open(&chat->lines, chat_commands_complete, &error))
        return command_fail(&chat_command, &error, EXIT_OTHER);
    return 0;
}

static int run(int count, char **arguments) {
    struct chat chat = {.sampling = &sampling};
    int code = command_begin(&chat_command, count, arguments, NULL);
    if (!code) code = prepare(&chat);
    if (!code) code = with_model(&chat);
    line_close(chat.lines);
    conversation_finish(&chat.conversation);
    command_end(&chat_command);
    return code;
}

const struct command chat_command = {
    .name = "chat",
    .summary = "talk with the model, without a server",
    .meant = "--model",
    .description =
        "The model answers what is entered, and knows what was said before as long as the context has room for it; "
        "what no longer fits is dropped, oldest first, and chat says so. " ENTRY_HELP
        " Ctrl-C stops an answer, or throws away the line; a second one, while the answer is still being stopped, ends "
        "the program. Ctrl-D leaves. On a terminal, lines can be edited, and found again with the arrow keys and "
        "Ctrl-R. Without one, each line of standard input is a question, answers go to standard output and nothing "
        "else does, and the exit code is 1 where one of them could not be given.\n\n" CHAT_COMMANDS_TEXT,
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
