#include "cli/conversation.h"

#include "api/json.h"
#include "api/messages.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Messages

void conversation_finish(struct conversation *conversation) {
    conversation_drop_last(conversation, conversation->count);
    free(conversation->messages);
    *conversation = (struct conversation){0};
}

static int insert(struct conversation *c, size_t at, const char *role, const char *text, size_t bytes,
                  struct error *error) {
    if (c->count == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 16;
        struct chat_message *more = reallocarray(c->messages, capacity, sizeof *more);
        if (!more) return error_set_code(error, ERROR_MEMORY);
        c->messages = more;
        c->capacity = capacity;
    }
    char *content = malloc(bytes + 1);
    if (!content) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < bytes; i++) content[i] = text[i] ? text[i] : ' ';
    content[bytes] = '\0';
    memmove(&c->messages[at + 1], &c->messages[at], (c->count - at) * sizeof *c->messages);
    c->messages[at] = (struct chat_message){role, content, bytes};
    c->count++;
    return 0;
}

static void drop(struct conversation *c, size_t from, size_t count) {
    for (size_t i = from; i < from + count; i++) free((char *)c->messages[i].content);
    if (count) memmove(&c->messages[from], &c->messages[from + count], (c->count - from - count) * sizeof *c->messages);
    c->count -= count;
}

int conversation_add(struct conversation *conversation, const char *role, const char *text, size_t bytes,
                     struct error *error) {
    return insert(conversation, conversation->count, role, text, bytes, error);
}

void conversation_drop_last(struct conversation *conversation, size_t count) {
    drop(conversation, conversation->count - count, count);
}

bool conversation_has_system(const struct conversation *conversation) {
    return conversation->count > 0 && strcmp(conversation->messages[0].role, "system") == 0;
}

int conversation_set_system(struct conversation *conversation, const char *text, struct error *error) {
    size_t old = conversation_has_system(conversation);
    int code = *text ? insert(conversation, 0, "system", text, strlen(text), error) : 0;
    if (!code) drop(conversation, *text ? 1 : 0, old);
    return code;
}

void conversation_reset(struct conversation *conversation) {
    conversation_drop_last(conversation, conversation->count - conversation_has_system(conversation));
}

// ---- What the context has room for

// Of the system's message and those from `from` on.
static int measure_rest(const struct conversation *c, size_t from, conversation_measure *measure, void *user,
                        size_t *tokens, struct error *error) {
    size_t system = conversation_has_system(c), count = c->count - from;
    struct chat_message *rest = reallocarray(NULL, system + count, sizeof *rest);
    if (!rest) return error_set_code(error, ERROR_MEMORY);
    memcpy(rest, c->messages, system * sizeof *rest);
    memcpy(rest + system, c->messages + from, count * sizeof *rest);
    int code = measure(user, rest, system + count, tokens, error);
    free(rest);
    return code;
}

// Where the turns begin; what stands before the first question belongs to the first turn.
static size_t find_turns(const struct conversation *c, size_t *starts) {
    size_t turns = 0, first = conversation_has_system(c);
    for (size_t i = first; i < c->count; i++)
        if (i == first || strcmp(c->messages[i].role, "user") == 0) starts[turns++] = i;
    return turns;
}

int conversation_fit(struct conversation *conversation, size_t context_tokens, size_t answer_tokens,
                     conversation_measure *measure, void *user, size_t *dropped, struct error *error) {
    *dropped = 0;
    if (conversation->count <= conversation_has_system(conversation)) return 0;
    size_t *starts = reallocarray(NULL, conversation->count, sizeof *starts), tokens = 0; // [turns]
    if (!starts) return error_set_code(error, ERROR_MEMORY);
    size_t turns = find_turns(conversation, starts), low = 0, high = turns - 1; // how many to drop
    int code = measure_rest(conversation, starts[0], measure, user, &tokens, error);
    if (!code && tokens + answer_tokens <= context_tokens) high = 0;
    if (!code && low < high) low = 1;
    while (!code && low < high) {
        size_t middle = low + (high - low) / 2;
        code = measure_rest(conversation, starts[middle], measure, user, &tokens, error);
        if (tokens <= context_tokens / 2)
            high = middle;
        else
            low = middle + 1;
    }
    if (!code && low > 0) code = measure_rest(conversation, starts[low], measure, user, &tokens, error);
    if (!code && tokens >= context_tokens)
        code =
            error_set(error, ERROR_CONTEXT_LENGTH,
                      "this is too long: the last question alone comes to at least %zu tokens, and the context is %zu",
                      tokens, context_tokens);
    if (!code) {
        drop(conversation, starts[0], starts[low] - starts[0]);
        *dropped = low;
    }
    free(starts);
    return code;
}

// ---- Files

enum { OWNER_ONLY = 0600 }; // a conversation is nobody else's business

static void write_messages(const struct conversation *conversation, struct buffer *out) {
    buffer_text(out, "{\"messages\": [");
    for (size_t i = 0; i < conversation->count; i++) {
        const struct chat_message *message = &conversation->messages[i];
        buffer_format(out, "%s\n  {\"role\": \"%s\", \"content\": ", i ? "," : "", message->role);
        json_write_string(out, message->content, message->content_bytes);
        buffer_text(out, "}");
    }
    buffer_text(out, "\n]}\n");
}

int conversation_save(const struct conversation *conversation, const char *path, struct error *error) {
    if (conversation->count == 0) return error_set(error, ERROR_ARGUMENT, "nothing has been said yet");
    struct buffer text;
    buffer_init(&text, SIZE_MAX);
    write_messages(conversation, &text);
    int code = text.failed ? error_set_code(error, ERROR_MEMORY)
                           : file_write(path, text.data, text.bytes, OWNER_ONLY, error);
    buffer_finish(&text);
    return code;
}

// A system's message stands first: the format would take others, but /system would not find them.
static int check_order(const struct chat_message *messages, size_t count, struct error *error) {
    for (size_t i = 1; i < count; i++)
        if (strcmp(messages[i].role, "system") == 0)
            return error_set(error, ERROR_ARGUMENT, "'messages[%zu].role' is system, which only the first may be", i);
    return 0;
}

static int take(struct conversation *conversation, const json_t *object, struct error *error) {
    struct chat_message *messages = NULL;
    size_t count = 0;
    struct arena *arena = arena_create(2 * CONVERSATION_BYTES_MAX);
    if (!arena) return error_set_code(error, ERROR_MEMORY);
    int code = messages_read(arena, json_object_get(object, "messages"), &messages, &count, error);
    if (!code) code = check_order(messages, count, error);
    for (size_t i = 0; !code && i < count; i++)
        code = conversation_add(conversation, messages[i].role, messages[i].content, messages[i].content_bytes, error);
    arena_destroy(arena);
    return code;
}

int conversation_load(struct conversation *conversation, const char *path, struct error *error) {
    char *text;
    size_t bytes;
    int code = file_load_or_pipe(path, CONVERSATION_BYTES_MAX, &text, &bytes, error);
    if (code) return code;
    json_t *object = json_read("The file", text, bytes, error);
    code = object ? take(conversation, object, error) : error->code;
    if (code) error_prefix(error, "%s", path);
    json_decref(object);
    free(text);
    return code;
}
