#include "base/smaller.h"
#include "base/utf8.h"
#include "cli/chat.h"
#include "cli/interrupt.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void chat_say(const struct chat *chat, const char *format, ...) {
    struct buffer visible;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (bytes < 0) return;
    bool colours = output_colours(STDERR_FILENO);
    buffer_init(&visible, SIZE_MAX);
    output_visible(&visible, text, (size_t)bytes < sizeof text ? (size_t)bytes : sizeof text - 1);
    if (!visible.failed)
        fprintf(stderr, "%s%s%s%s\n", line_edits(chat->lines) ? "" : "tandem chat: ", colours ? "\033[2m" : "",
                visible.data ? visible.data : "", colours ? "\033[0m" : "");
    buffer_finish(&visible);
}

// ---- Room

int chat_measure(void *user, const struct chat_message *messages, size_t count, size_t *tokens, struct error *error) {
    const struct engine *engine = user;
    const struct engine_info *info = engine_info(engine);
    struct token_list list = {0};
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += messages[i].content_bytes;
    *tokens = bytes / (size_t)info->token_bytes_max;
    if (*tokens > (size_t)info->context_tokens) return 0; // a loaded conversation can have megabytes
    int code = engine_chat_tokens(engine, messages, count, &list, error);
    *tokens = list.count;
    token_list_finish(&list);
    return code;
}

// Tokens that a conversation and its next answer may have.
static size_t room(const struct chat *chat) {
    const struct engine_info *info = engine_info(chat->engine);
    return smaller_size((size_t)info->context_tokens, info->kv_tokens);
}

static int make_room(struct chat *chat, struct error *error) {
    size_t dropped = 0, answer = room(chat) / 4;
    if (chat->sampling->max_tokens > 0) answer = smaller_size(answer, (size_t)chat->sampling->max_tokens);
    int code = conversation_fit(&chat->conversation, room(chat), answer, chat_measure, chat->engine, &dropped, error);
    chat->counts.dropped_turns += dropped;
    if (dropped)
        chat_say(chat, "the conversation has outgrown the context of %zu tokens: the oldest %zu turn%s no longer in it",
                 room(chat), dropped, dropped == 1 ? " is" : "s are");
    return code;
}

// ---- The answer

struct telling {
    struct output *output;
    struct buffer text;
};

static int take(void *user, const struct engine_event *event, struct error *error) {
    struct telling *telling = user;
    if (event->text_bytes && !buffer_append(&telling->text, event->text, event->text_bytes))
        return error_set_code(error, ERROR_MEMORY);
    return output_text(telling->output, event->text, event->text_bytes, error);
}

static int follow(struct chat *chat, const struct token_list *prompt, struct telling *telling, struct answer *answer,
                  struct error *error) {
    struct engine_request request = {0};
    int code = sampling_settings_request(chat->sampling, &request, error), left = (int)(room(chat) - prompt->count);
    if (code) return code;
    request.prompt = prompt->ids;
    request.prompt_tokens = prompt->count;
    request.strip_space = true;
    if (request.tokens_max < 0 || request.tokens_max > left) request.tokens_max = left;
    return answer_follow(chat->engine, &request, take, telling, answer, error);
}

static void count_answer(struct chat_counts *counts, const struct answer *answer) {
    counts->answers++;
    counts->tokens += answer->usage.completion_tokens;
    counts->seconds += answer->usage.decode_seconds;
    counts->last = *answer;
}

// The model's turn. What it said is added to the conversation as far as it came.
static int answer_question(struct chat *chat, const struct token_list *prompt, struct error *error) {
    struct telling telling = {.output = &chat->output};
    struct answer answer = {0};
    struct error ignored;
    buffer_init(&telling.text, SIZE_MAX);
    int code = follow(chat, prompt, &telling, &answer, error);
    bool cut = code == ERROR_CANCELLED && interrupt_noted();
    if (cut || !code) {
        if (telling.text.bytes == 0 || chat->output.within_line) output_text(&chat->output, "\n", 1, &ignored);
        int lost = conversation_add(&chat->conversation, "assistant", telling.text.data, telling.text.bytes, error);
        if (lost) code = lost;
        count_answer(&chat->counts, &answer);
    }
    if (!code && answer.finish == FINISH_LENGTH)
        chat_say(chat, prompt->count + answer.usage.completion_tokens >= room(chat)
                           ? "the answer breaks off here: the context is full"
                           : "the answer breaks off here: it has as many tokens as --max-tokens allows");
    buffer_finish(&telling.text);
    return code;
}

int chat_ask(struct chat *chat, const char *text, size_t bytes, struct error *error) {
    struct conversation *conversation = &chat->conversation;
    struct token_list prompt = {0};
    if (!utf8_valid(text, bytes)) return error_set(error, ERROR_ARGUMENT, "what was entered is not UTF-8");
    int code = conversation_add(conversation, "user", text, bytes, error);
    if (code) return code;
    code = make_room(chat, error);
    if (!code) code = engine_chat_tokens(chat->engine, conversation->messages, conversation->count, &prompt, error);
    if (!code) code = answer_question(chat, &prompt, error);
    token_list_finish(&prompt);
    if (code && code != ERROR_CANCELLED) conversation_drop_last(conversation, 1);
    return code;
}
