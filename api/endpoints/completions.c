// POST /v1/completions: text or tokens in, text out, in OpenAI's older form. With echo and logprobs it scores
// prompts, which is what evaluation harnesses ask of it.
#include "api/generation_kind.h"
#include "api/json.h"
#include "api/logprobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// ---- Reading

static const char PROMPT_KINDS[] = "a string, an array of strings, an array of token ids, or an array of those";

static int read_text(struct generation *generation, const json_t *text, struct prompt *out, struct error *error) {
    const char *value = json_string_value(text);
    size_t bytes = json_string_length(text), certain = bytes;
    if (generation->parameters.parse_special) certain = generation_certain_bytes(value, bytes, SPACE_ANYWHERE);
    int code = generation_check_bytes(generation, "prompt", certain, error);
    if (code != 0) return code;
    if (generation->parameters.echo) {
        out->echo = (struct text_span){arena_copy(generation->arena, value, bytes), bytes};
        if (!out->echo.text) return error_set_code(error, ERROR_MEMORY);
    }
    code =
        engine_text_tokens(generation->engine, value, bytes, generation->parameters.parse_special, &out->list, error);
    if (code != 0) return code;
    if (out->list.count == 0) return error_set_param(error, ERROR_ARGUMENT, "prompt", "'prompt' must not be empty");
    out->tokens = out->list.ids;
    out->token_count = out->list.count;
    return ERROR_NONE;
}

// The text of a prompt given as ids, as a tokenizer would decode it: the space that it puts in front of a text's
// first word does not count.
static int decode(struct generation *generation, struct prompt *prompt, struct error *error) {
    size_t total = 0, bytes = 0;
    for (size_t i = 0; i < prompt->token_count; i++)
        if (engine_token_text(generation->engine, prompt->tokens[i], &bytes)) total += bytes;
    char *text = arena_alloc(generation->arena, total + 1, 1), *at = text;
    if (!text) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < prompt->token_count; i++) {
        const char *piece = engine_token_text(generation->engine, prompt->tokens[i], &bytes);
        if (!piece) continue;
        memcpy(at, piece, bytes);
        at += bytes;
    }
    bool space = total > 0 && text[0] == ' ';
    prompt->echo = (struct text_span){text + space, total - space};
    return ERROR_NONE;
}

static int read_ids(struct generation *generation, const json_t *ids, struct prompt *out, struct error *error) {
    int vocab_size = engine_info(generation->engine)->vocab_size;
    size_t count = json_array_size(ids);
    if (count == 0) return error_set_param(error, ERROR_ARGUMENT, "prompt", "'prompt' must not be empty");
    int32_t *tokens = ARENA_ARRAY(generation->arena, int32_t, count);
    if (!tokens) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        if (!schema_whole_number(json_array_get(ids, i), &id))
            return schema_mismatch(error, "prompt", PROMPT_KINDS, json_array_get(ids, i));
        if (id < 0 || id >= vocab_size)
            return error_set_param(error, ERROR_ARGUMENT, "prompt",
                                   "'prompt' must have token ids between 0 and %d, got %" PRId64, vocab_size - 1, id);
        tokens[i] = (int32_t)id;
    }
    out->tokens = tokens;
    out->token_count = count;
    return generation->parameters.echo ? decode(generation, out, error) : ERROR_NONE;
}

static int read_prompt(struct generation *generation, const json_t *value, struct prompt *out, struct error *error) {
    if (json_is_string(value)) return read_text(generation, value, out, error);
    if (json_is_array(value)) return read_ids(generation, value, out, error);
    return schema_mismatch(error, "prompt", PROMPT_KINDS, value);
}

static int read_prompts(struct generation *generation, struct error *error) {
    const json_t *value = generation->parameters.prompt;
    if (!value) return error_set_param(error, ERROR_ARGUMENT, "prompt", "'prompt' is required");
    const json_t *first = json_array_get(value, 0);
    bool several = json_is_string(first) || json_is_array(first);
    bool none = json_is_array(value) && !first;
    int code = generation_add_prompts(generation, "prompt", several ? json_array_size(value) : !none, error);
    if (code != 0) return code;
    if (!several) return read_prompt(generation, value, &generation->prompts[0], error);
    for (size_t i = 0; i < generation->prompt_count; i++) {
        const json_t *prompt = json_array_get(value, i);
        if (json_typeof(prompt) != json_typeof(first)) return schema_mismatch(error, "prompt", PROMPT_KINDS, prompt);
        code = read_prompt(generation, prompt, &generation->prompts[i], error);
        if (code != 0) return code;
    }
    return ERROR_NONE;
}

// ---- Writing

enum { TOKENS, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET }; // the lists
static const char *const LIST_NAMES[LOGPROB_LISTS] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

static size_t characters(const char *text, size_t bytes) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

// Moves the offset past a token. A prompt's tokens are found in its text: the tokenizer's own leading space and
// special tokens in front of it are not there.
static void advance(struct choice *choice, const char *piece, size_t bytes, bool of_prompt) {
    if (of_prompt) {
        const struct text_span *echo = &choice->prompt->echo;
        const char *rest = echo->text + choice->echoed_bytes;
        size_t left = echo->bytes - choice->echoed_bytes;
        bool here = bytes <= left && memcmp(piece, rest, bytes) == 0;
        if (!here && bytes > 0 && piece[0] == ' ') {
            piece++;
            bytes--;
            here = bytes <= left && memcmp(piece, rest, bytes) == 0;
        }
        if (!here) return;
        choice->echoed_bytes += bytes;
    }
    choice->offset += characters(piece, bytes);
}

static void write_pair(const struct engine *engine, int32_t token, float logprob, struct buffer *out) {
    logprobs_write_token(out, engine, token);
    buffer_text(out, ":");
    logprobs_write_value(out, logprob);
}

// Whether two tokens are spelled the same ("A" and the byte 0x41): an object has room for one of them.
static bool same_text(const struct engine *engine, int32_t a, int32_t b) {
    size_t a_bytes = 0, b_bytes = 0;
    const char *a_text = engine_token_text(engine, a, &a_bytes), *b_text = engine_token_text(engine, b, &b_bytes);
    if (!a_text || !b_text) return !a_text && !b_text;
    return a_bytes == b_bytes && memcmp(a_text, b_text, a_bytes) == 0;
}

// The most likely tokens and, always, the one that stands there. Of tokens spelled the same the likelier is told.
static void write_top(const struct engine *engine, const struct engine_token *token, struct buffer *out) {
    bool listed = false;
    buffer_text(out, "{");
    for (int i = 0; i < token->top_count; i++) {
        bool again = false;
        for (int j = 0; j < i; j++) again |= same_text(engine, token->top[j].token, token->top[i].token);
        if (again) continue;
        if (i > 0) buffer_text(out, ",");
        write_pair(engine, token->top[i].token, token->top[i].logprob, out);
        listed |= same_text(engine, token->top[i].token, token->token);
    }
    if (!listed) {
        if (token->top_count > 0) buffer_text(out, ",");
        write_pair(engine, token->token, token->logprob, out);
    }
    buffer_text(out, "}");
}

static void add_logprob(const struct generation *generation, struct choice *choice, const struct engine_token *token,
                        bool of_prompt) {
    const struct engine *engine = generation->engine;
    struct buffer *lists = choice->logprobs;
    const struct text_span *echo = &choice->prompt->echo;
    if (!of_prompt && choice->echoed_bytes < echo->bytes) { // the answer begins where the prompt's text ends
        choice->offset += characters(echo->text + choice->echoed_bytes, echo->bytes - choice->echoed_bytes);
        choice->echoed_bytes = echo->bytes;
    }
    for (int list = 0; list < LOGPROB_LISTS; list++)
        if (lists[list].bytes > 0) buffer_text(&lists[list], ",");
    logprobs_write_token(&lists[TOKENS], engine, token->token);
    logprobs_write_value(&lists[TOKEN_LOGPROBS], token->logprob);
    if (token->logprob == token->logprob)
        write_top(engine, token, &lists[TOP_LOGPROBS]);
    else
        buffer_text(&lists[TOP_LOGPROBS], "null"); // NAN: the first token follows upon nothing
    buffer_format(&lists[TEXT_OFFSET], "%zu", choice->offset);

    size_t bytes = 0;
    const char *piece = engine_token_text(engine, token->token, &bytes);
    if (piece) advance(choice, piece, bytes, of_prompt);
}

static void write_logprobs(const struct generation *generation, const struct choice *choice, struct buffer *out) {
    if (!generation->parameters.logprobs) {
        buffer_text(out, "null");
        return;
    }
    for (int list = 0; list < LOGPROB_LISTS; list++) {
        buffer_format(out, "%s\"%s\":[", list ? "," : "{", LIST_NAMES[list]);
        buffer_append(out, choice->logprobs[list].data, choice->logprobs[list].bytes);
        buffer_text(out, "]");
    }
    buffer_text(out, "}");
}

static void write_choice(const struct generation *generation, const struct choice *choice, const char *text,
                         size_t bytes, const char *finish, struct buffer *out) {
    buffer_format(out, "{\"index\":%zu,\"text\":", choice->index);
    json_write_string(out, text, bytes);
    buffer_text(out, ",\"logprobs\":");
    write_logprobs(generation, choice, out);
    buffer_text(out, ",\"finish_reason\":");
    if (finish)
        json_write_text(out, finish);
    else
        buffer_text(out, "null");
    buffer_text(out, "}");
}

static void write_piece(const struct generation *generation, const struct choice *choice, const char *text,
                        size_t bytes, struct buffer *out) {
    write_choice(generation, choice, text, bytes, NULL, out);
}

static void write_last(const struct choice *choice, struct buffer *out) {
    buffer_format(out, "{\"index\":%zu,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"%s\"}", choice->index,
                  finish_reason_text(choice->finish));
}

static void write_whole(const struct generation *generation, const struct choice *choice, struct buffer *out) {
    write_choice(generation, choice, choice->text.data, choice->text.bytes, finish_reason_text(choice->finish), out);
}

const struct generation_kind completion_generation = {
    .endpoint = FOR_COMPLETION,
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .read_prompts = read_prompts,
    .add_logprob = add_logprob,
    .write_piece = write_piece,
    .write_last = write_last,
    .write_whole = write_whole,
};
