#include "tests/api/fake_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct engine fake = {
    .info =
        {
            .model_name = "fake-model",
            .architecture = "phimoe",
            .weights = "bf16",
            .device = "none",
            .context_tokens = 128,
            .vocab_size = FAKE_VOCAB,
            .token_bytes_max = 7, // FAKE_END's
            .sequences_max = 16,
            .queue_max = 64,
            .parameters = 1000,
            .created = 1700000000,
        },
    .stats = {.running = 2, .waiting = 3},
};

static const struct {
    int32_t id;
    const char *text;
} WORDS[] = {{FAKE_BOS, "<s>"}, {FAKE_END, "<|end|>"}, {FAKE_THE, " the"}, {FAKE_A, "A"}, {FAKE_CAT, " cat"}};

enum { WORD_COUNT = sizeof WORDS / sizeof *WORDS };

const struct engine_info *engine_info(const struct engine *engine) {
    return &engine->info;
}

void engine_stats(struct engine *engine, struct engine_stats *out) {
    *out = engine->stats;
}

const char *finish_reason_text(enum finish_reason reason) {
    return reason == FINISH_STOP ? "stop" : "length";
}

const char *engine_token_text(const struct engine *engine, int32_t id, size_t *bytes) {
    static char single[256];
    (void)engine;
    if (id < 0 || id >= FAKE_VOCAB) return NULL;
    *bytes = 1;
    if (id < 256) {
        single[id] = (char)id;
        return &single[id];
    }
    for (int i = 0; i < WORD_COUNT; i++)
        if (WORDS[i].id == id) {
            *bytes = strlen(WORDS[i].text);
            return WORDS[i].text;
        }
    *bytes = 0;
    return "";
}

void token_list_finish(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

static void add(struct token_list *list, int32_t id) {
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 16;
        list->ids = realloc(list->ids, list->capacity * sizeof *list->ids);
        if (!list->ids) abort();
    }
    list->ids[list->count++] = id;
}

static void encode(const char *text, size_t bytes, bool parse_special, struct token_list *out) {
    for (size_t at = 0; at < bytes;) {
        int32_t id = (unsigned char)text[at];
        size_t width = 1;
        for (int i = 0; i < WORD_COUNT; i++) {
            size_t length = strlen(WORDS[i].text);
            bool special = WORDS[i].id < FAKE_THE;
            if (length <= width || length > bytes - at || (special && !parse_special)) continue;
            if (memcmp(text + at, WORDS[i].text, length) != 0) continue;
            id = WORDS[i].id;
            width = length;
        }
        add(out, id);
        at += width;
    }
}

int engine_text_tokens(const struct engine *engine, const char *text, size_t bytes, bool parse_special,
                       struct token_list *out, struct error *error) {
    (void)engine;
    (void)error;
    if (bytes == 0) return 0;
    char *spaced = malloc(bytes + 1);
    if (!spaced) abort();
    spaced[0] = ' ';
    memcpy(spaced + 1, text, bytes);
    encode(spaced, bytes + 1, parse_special, out);
    free(spaced);
    return 0;
}

int engine_chat_tokens(const struct engine *engine, const struct chat_message *messages, size_t count,
                       struct token_list *out, struct error *error) {
    (void)engine;
    (void)error;
    for (size_t i = 0; i < count; i++) {
        encode(messages[i].role, strlen(messages[i].role), false, out);
        add(out, ':');
        encode(messages[i].content, messages[i].content_bytes, false, out);
        add(out, FAKE_END);
    }
    return 0;
}

struct engine_event fake_text(const char *text) {
    static char copy[256];
    strncpy(copy, text, sizeof copy - 1);
    return (struct engine_event){.type = ENGINE_EVENT_TEXT, .text = copy, .text_bytes = strlen(copy)};
}

// Token i has the log-probability -(i + 1) / 4, and END and itself as alternatives.
struct engine_event fake_tokens(enum engine_event_type type, const char *text, const int32_t *tokens, int count) {
    static struct engine_token list[16];
    static struct token_logprob top[16][2];
    assert_true(count <= 16);
    struct engine_event event = fake_text(text);
    event.type = type;
    event.tokens = list;
    event.token_count = count;
    for (int i = 0; i < count; i++) {
        top[i][0] = (struct token_logprob){FAKE_END, -0.125f};
        top[i][1] = (struct token_logprob){tokens[i], -0.25f * (float)(i + 1)};
        bool nothing_before = type == ENGINE_EVENT_PROMPT && i == 0;
        list[i] = (struct engine_token){tokens[i], nothing_before ? NAN : top[i][1].logprob, nothing_before ? 0 : 2,
                                        nothing_before ? NULL : top[i]};
    }
    return event;
}

struct engine_event fake_done(enum finish_reason finish, size_t completion_tokens) {
    return (struct engine_event){
        .type = ENGINE_EVENT_DONE,
        .finish = finish,
        .usage = {.prompt_tokens = 9,
                  .cached_tokens = 2,
                  .completion_tokens = completion_tokens,
                  .queue_seconds = 0.5,
                  .prompt_seconds = 2,
                  .decode_seconds = 4},
    };
}

struct engine_event fake_error(enum error_code code) {
    struct engine_event event = {.type = ENGINE_EVENT_ERROR};
    error_set_code(&event.error, code);
    return event;
}

struct generation *parse_good(const struct generation_kind *kind, const char *body) {
    struct generation *generation = NULL;
    struct error error = {0};
    int code = generation_parse(kind, &fake, body, strlen(body), &generation, &error);
    if (code != 0) fail_msg("%s was refused: %s", body, error.message);
    assert_non_null(generation);
    return generation;
}

struct error parse_bad(const struct generation_kind *kind, const char *body) {
    struct generation *generation = NULL;
    struct error error = {0};
    int code = generation_parse(kind, &fake, body, strlen(body), &generation, &error);
    if (code == 0) fail_msg("%s was accepted", body);
    assert_null(generation);
    assert_int_equal(code, error.code);
    return error;
}
