// POST /v1/chat/completions: messages in, a message out.
#include "api/generation_kind.h"
#include "api/json.h"
#include "api/logprobs.h"
#include "api/messages.h"
#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

// ---- Reading

struct role {
    const char *name, *meaning; // meaning: the role of the model's chat format
};
static const struct role ROLES[] = {
    {"system", "system"},
    {"developer", "system"},
    {"user", "user"},
    {"assistant", "assistant"},
};

static int read_role(const json_t *message, const char *where, const char **out, struct error *error) {
    char field[ERROR_PARAM_BYTES];
    snprintf(field, sizeof field, "%s.role", where);
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role))
        return error_set_param(error, ERROR_ARGUMENT, field, "'%s' is required: system, developer, user or assistant",
                               field);
    for (size_t i = 0; i < sizeof ROLES / sizeof *ROLES; i++) {
        if (strcmp(json_string_value(role), ROLES[i].name) != 0) continue;
        *out = ROLES[i].meaning;
        return ERROR_NONE;
    }
    return schema_mismatch(error, field, "system, developer, user or assistant", role);
}

static int check_part(const json_t *part, const char *name, struct error *error) {
    const json_t *type = json_object_get(part, "type");
    if (!json_is_string(type)) return schema_mismatch(error, name, "an object with a type", part);
    if (strcmp(json_string_value(type), "text") != 0)
        return error_set_param(error, ERROR_UNSUPPORTED, name, "'%s' has the type '%.40s', only text is supported",
                               name, json_string_value(type));
    if (!json_is_string(json_object_get(part, "text")))
        return schema_mismatch(error, name, "an object with a string 'text'", part);
    for (void *at = json_object_iter((json_t *)part); at; at = json_object_iter_next((json_t *)part, at)) {
        const char *key = json_object_iter_key(at);
        if (strcmp(key, "type") != 0 && strcmp(key, "text") != 0 && !json_is_null(json_object_iter_value(at)))
            return error_set_param(error, ERROR_UNSUPPORTED, name, "'%s.%.40s' is not supported", name, key);
    }
    return ERROR_NONE;
}

// One text of the parts, with a line break between two.
static int join_parts(struct arena *arena, const json_t *parts, const char *field, struct chat_message *out,
                      struct error *error) {
    size_t count = json_array_size(parts), bytes = count;
    if (count == 0) return schema_mismatch(error, field, "a string or an array of at least one part", parts);
    for (size_t i = 0; i < count; i++) {
        char name[ERROR_PARAM_BYTES + 32];
        snprintf(name, sizeof name, "%s[%zu]", field, i);
        const json_t *part = json_array_get(parts, i);
        int code = check_part(part, name, error);
        if (code != 0) return code;
        bytes += json_string_length(json_object_get(part, "text"));
    }
    char *joined = arena_alloc(arena, bytes + 1, 1), *at = joined;
    if (!joined) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < count; i++) {
        const json_t *text = json_object_get(json_array_get(parts, i), "text");
        if (i > 0) *at++ = '\n';
        memcpy(at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out->content = joined;
    out->content_bytes = (size_t)(at - joined);
    return ERROR_NONE;
}

static int read_content(struct arena *arena, const json_t *message, const char *where, struct chat_message *out,
                        struct error *error) {
    char field[ERROR_PARAM_BYTES];
    snprintf(field, sizeof field, "%s.content", where);
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) {
        out->content = json_string_value(content);
        out->content_bytes = json_string_length(content);
        return ERROR_NONE;
    }
    if (json_is_array(content)) return join_parts(arena, content, field, out, error);
    if (content && !json_is_null(content))
        return schema_mismatch(error, field, "a string or an array of parts", content);
    if (strcmp(out->role, "assistant") != 0)
        return error_set_param(error, ERROR_ARGUMENT, field, "'%s' is required", field);
    out->content = ""; // an earlier answer that was empty: clients send it back as null
    out->content_bytes = 0;
    return ERROR_NONE;
}

// Keys beside role and content: what an answer of ours carries and clients send back, as long as it is empty.
static int check_keys(const json_t *message, const char *where, struct error *error) {
    for (void *at = json_object_iter((json_t *)message); at; at = json_object_iter_next((json_t *)message, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || json_is_null(value)) continue;
        char field[ERROR_PARAM_BYTES];
        snprintf(field, sizeof field, "%s.%.40s", where, key);
        if (strcmp(key, "name") == 0) {
            if (json_is_string(value)) continue;
            return schema_mismatch(error, field, "a string", value);
        }
        bool list = strcmp(key, "tool_calls") == 0 || strcmp(key, "annotations") == 0;
        if (list && json_is_array(value) && json_array_size(value) == 0) continue;
        struct nearest nearest;
        nearest_init(&nearest, key, strlen(key));
        nearest_consider(&nearest, "role", strlen("role"));
        nearest_consider(&nearest, "content", strlen("content"));
        bool like = nearest.word[0];
        return error_set_param(error, ERROR_UNSUPPORTED, field, "'%s' is not supported%s%s%s", field,
                               like ? "; did you mean " : "", nearest.word, like ? "?" : "");
    }
    return ERROR_NONE;
}

static int read_message(struct arena *arena, const json_t *message, size_t index, struct chat_message *out,
                        struct error *error) {
    char where[32];
    snprintf(where, sizeof where, "messages[%zu]", index);
    if (!json_is_object(message)) return schema_mismatch(error, where, "an object", message);
    int code = read_role(message, where, &out->role, error);
    if (code == 0) code = check_keys(message, where, error);
    if (code == 0) code = read_content(arena, message, where, out, error);
    return code;
}

int messages_read(struct arena *arena, const json_t *messages, struct chat_message **out, size_t *out_count,
                  struct error *error) {
    if (!messages) return error_set_param(error, ERROR_ARGUMENT, "messages", "'messages' is required");
    size_t count = json_array_size(messages);
    if (!json_is_array(messages) || count == 0)
        return schema_mismatch(error, "messages", "an array of at least one message", messages);
    struct chat_message *list = ARENA_ARRAY(arena, struct chat_message, count);
    if (!list) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < count; i++) {
        int code = read_message(arena, json_array_get(messages, i), i, &list[i], error);
        if (code != 0) return code;
    }
    *out = list;
    *out_count = count;
    return ERROR_NONE;
}

// Of all messages. Each begins behind a special token, which may swallow white space.
static size_t certain_bytes(const struct chat_message *messages, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += generation_certain_bytes(messages[i].content, messages[i].content_bytes, SPACE_IN_FRONT);
    return sum;
}

// What the answer is expected to be, as a text of its own.
static int read_prediction(struct generation *generation, struct prompt *prompt, struct error *error) {
    const json_t *prediction = generation->parameters.prediction;
    static const char *const members[] = {"type", "content"};
    struct chat_message expected = {.role = ""};
    if (!prediction) return ERROR_NONE;
    if (!json_is_object(prediction))
        return schema_mismatch(error, "prediction", "an object of type content", prediction);
    int code = schema_check_members(error, "prediction", prediction, members);
    if (code != 0) return code;
    const json_t *type = json_object_get(prediction, "type");
    if (!type)
        return error_set_param(error, ERROR_ARGUMENT, "prediction.type", "'prediction.type' is required");
    if (!json_is_string(type) || strcmp(json_string_value(type), "content") != 0)
        return schema_mismatch(error, "prediction.type", "\"content\"", type);
    code = read_content(generation->arena, prediction, "prediction", &expected, error);
    if (code == 0)
        code = generation_check_bytes(
            generation, "prediction",
            generation_certain_bytes(expected.content, expected.content_bytes, SPACE_ANYWHERE), error);
    if (code != 0) return code;
    return engine_text_tokens(generation->engine, expected.content, expected.content_bytes, false, &prompt->expected,
                              error);
}

static int read_prompts(struct generation *generation, struct error *error) {
    struct chat_message *list;
    size_t count;
    int code = messages_read(generation->arena, generation->parameters.messages, &list, &count, error);
    if (code == 0) code = generation_add_prompts(generation, "messages", 1, error);
    if (code == 0) code = generation_check_bytes(generation, "messages", certain_bytes(list, count), error);
    if (code != 0) return code;
    struct prompt *prompt = &generation->prompts[0];
    code = engine_chat_tokens(generation->engine, list, count, &prompt->list, error);
    prompt->tokens = prompt->list.ids;
    prompt->token_count = prompt->list.count;
    return code == 0 ? read_prediction(generation, prompt, error) : code;
}

// ---- Writing

static void write_alternative(const struct engine *engine, int32_t token, float logprob, struct buffer *out) {
    buffer_text(out, "{\"token\":");
    logprobs_write_token(out, engine, token);
    buffer_text(out, ",\"logprob\":");
    logprobs_write_value(out, logprob);
    buffer_text(out, ",\"bytes\":");
    logprobs_write_bytes(out, engine, token);
}

static void add_logprob(const struct generation *generation, struct choice *choice, const struct engine_token *token,
                        bool of_prompt) {
    (void)of_prompt; // chat has no echo
    struct buffer *out = &choice->logprobs[0];
    if (out->bytes > 0) buffer_text(out, ",");
    write_alternative(generation->engine, token->token, token->logprob, out);
    buffer_text(out, ",\"top_logprobs\":[");
    for (int i = 0; i < token->top_count; i++) {
        if (i > 0) buffer_text(out, ",");
        write_alternative(generation->engine, token->top[i].token, token->top[i].logprob, out);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}

static void write_logprobs(const struct generation *generation, const struct choice *choice, struct buffer *out) {
    if (!generation->parameters.logprobs) {
        buffer_text(out, "null");
        return;
    }
    buffer_text(out, "{\"content\":[");
    buffer_append(out, choice->logprobs[0].data, choice->logprobs[0].bytes);
    buffer_text(out, "],\"refusal\":null}");
}

static void write_first(const struct choice *choice, struct buffer *out) {
    buffer_format(out,
                  "{\"index\":%zu,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
                  "\"logprobs\":null,\"finish_reason\":null}",
                  choice->index);
}

static void write_piece(const struct generation *generation, const struct choice *choice, const char *text,
                        size_t bytes, struct buffer *out) {
    buffer_format(out, "{\"index\":%zu,\"delta\":{\"content\":", choice->index);
    json_write_string(out, text, bytes);
    buffer_text(out, "},\"logprobs\":");
    write_logprobs(generation, choice, out);
    buffer_text(out, ",\"finish_reason\":null}");
}

static void write_last(const struct choice *choice, struct buffer *out) {
    buffer_format(out, "{\"index\":%zu,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}", choice->index,
                  finish_reason_text(choice->finish));
}

static void write_whole(const struct generation *generation, const struct choice *choice, struct buffer *out) {
    buffer_format(out, "{\"index\":%zu,\"message\":{\"role\":\"assistant\",\"content\":", choice->index);
    json_write_string(out, choice->text.data, choice->text.bytes);
    buffer_text(out, ",\"refusal\":null},\"logprobs\":");
    write_logprobs(generation, choice, out);
    buffer_format(out, ",\"finish_reason\":\"%s\"}", finish_reason_text(choice->finish));
}

const struct generation_kind chat_generation = {
    .endpoint = FOR_CHAT,
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .read_prompts = read_prompts,
    .add_logprob = add_logprob,
    .write_first = write_first,
    .write_piece = write_piece,
    .write_last = write_last,
    .write_whole = write_whole,
};
