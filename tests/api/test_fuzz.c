// 20,000 bodies, mutated or thrown together: each gives either an error that makes a valid error object, or a
// generation whose jobs keep the engine's contract and whose answer to arbitrary events is valid JSON in valid UTF-8.
#include "api/json.h"
#include "base/utf8.h"
#include "tests/api/fake_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { ROUNDS = 20000, BODY_BYTES_MAX = 2048 };

static const char *const SEEDS[] = {
    "{\"model\":\"fake-model\",\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":"
    "[{\"type\":\"text\",\"text\":\"a\\u00e9\\ud83d\\ude00\"}],\"name\":\"n\"}],\"temperature\":0.5,\"top_p\":0.9,"
    "\"n\":2,\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_completion_tokens\":5,\"logprobs\":true,"
    "\"top_logprobs\":2,\"stop\":[\"x\",\"yz\"],\"seed\":-4,\"logit_bias\":{\"5\":-100,\"17\":1.5},\"user\":\"u\","
    "\"tools\":[],\"response_format\":{\"type\":\"text\"},\"metadata\":{\"k\":\"v\"}}",
    "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]},{\"role\":\"user\",\"content\":\"hi\"}]"
    "}",
    "{\"prompt\":\"the cat\",\"echo\":true,\"logprobs\":3,\"max_tokens\":1,\"stop\":\"q\",\"top_k\":-1,\"min_p\":0.1}",
    "{\"prompt\":[[1,2,258],[3],[299]],\"n\":3,\"best_of\":3,\"stream\":true,\"echo\":true,\"logprobs\":0,\"seed\":7}",
    "{\"prompt\":[\"a\",\"b<|end|>\"],\"parse_special\":true,\"ignore_eos\":true,\"repeat_penalty\":1.1,\"max_tokens\":"
    "0}",
    "{\"prompt\":[1,2,3],\"presence_penalty\":-2,\"frequency_penalty\":2.0,\"stream\":false,\"suffix\":null}",
};

// What is put in anywhere, and what is put where a value stands.
static const char *const PIECES[] = {"[[", "}}", "\\u0000", "\\ud800", "\xff", "\xe2\x80", "\"", "\\", ",", ":", "\n"};
static const char *const VALUES[] = {
    "null",  "-1",       "0",    "1",    "2",     "16", "0.5", "1.0", "1e308",   "9223372036854775807",
    "\"1\"", "\"text\"", "\"\"", "true", "false", "[]", "{}",  "[1]", "[\"a\"]", "{\"5\":1}",
};

static uint64_t random_state = 0x9e3779b97f4a7c15;

static size_t draw(size_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (size_t)(random_state % below);
}

// Puts a piece in the place of the bytes [at, at + run).
static size_t splice(char *body, size_t bytes, size_t at, size_t run, const char *piece, size_t piece_bytes) {
    if (bytes - run + piece_bytes > BODY_BYTES_MAX) return bytes;
    memmove(body + at + piece_bytes, body + at + run, bytes - at - run);
    memmove(body + at, piece, piece_bytes);
    return bytes - run + piece_bytes;
}

// Another value where one begins: behind a colon, a comma or a bracket.
static size_t replace_value(char *body, size_t bytes, const char *value) {
    size_t at = draw(bytes), end;
    while (at < bytes && !strchr(":,[", body[at])) at++;
    if (at++ >= bytes) return bytes;
    for (end = at; end < bytes && !strchr(",]}", body[end]); end++) continue;
    return splice(body, bytes, at, end - at, value, strlen(value));
}

// One to three edits: a byte changed, a run removed or repeated, something known to hurt put in, another value.
static size_t mutate(char *body, size_t bytes) {
    for (size_t edits = draw(3) + 1; edits > 0 && bytes > 1; edits--) {
        size_t at = draw(bytes), run = draw(bytes - at < 40 ? bytes - at : 40) + 1;
        const char *piece = PIECES[draw(sizeof PIECES / sizeof *PIECES)];
        const char *value = VALUES[draw(sizeof VALUES / sizeof *VALUES)];
        switch (draw(8)) {
        case 0:
            body[at] = (char)draw(256);
            break;
        case 1:
            bytes = splice(body, bytes, at, run, "", 0);
            break;
        case 2:
            bytes = splice(body, bytes, at, 0, body + at, run);
            break;
        case 3:
            bytes = splice(body, bytes, at, 0, piece, strlen(piece));
            break;
        default:
            bytes = replace_value(body, bytes, value);
        }
    }
    return bytes;
}

// A body that parses: the prompt and up to three fields of any kind with any value.
static size_t compose(char *body, bool chat) {
    static const char *const NAMES[] = {
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "stop",
        "logprobs",
        "top_logprobs",
        "echo",
        "ignore_eos",
        "parse_special",
        "best_of",
        "user",
        "metadata",
        "store",
        "tools",
        "tool_choice",
        "response_format",
        "modalities",
        "suffix",
        "min_tokens",
        "prompt",
        "messages",
    };
    char *at = body, *end = body + BODY_BYTES_MAX;
    at += snprintf(at, (size_t)(end - at), "{%s",
                   chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"the\"}]" : "\"prompt\":\"the cat\"");
    for (size_t fields = draw(4); fields > 0; fields--)
        at += snprintf(at, (size_t)(end - at), ",\"%s\":%s", NAMES[draw(sizeof NAMES / sizeof *NAMES)],
                       VALUES[draw(sizeof VALUES / sizeof *VALUES)]);
    at += snprintf(at, (size_t)(end - at), "}");
    return (size_t)(at - body);
}

static json_t *assert_json(const char *text, size_t bytes) {
    assert_true(utf8_valid(text, bytes));
    json_t *json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (!json) fail_msg("no JSON: %.*s", (int)bytes, text);
    return json;
}

static void assert_error(const struct error *error) {
    struct api_reply reply;
    api_reply_init(&reply);
    api_reply_error(&reply, error);
    assert_true(reply.status == 400 || reply.status == 404);
    json_t *json = assert_json(reply.body.data, reply.body.bytes), *object = json_object_get(json, "error");
    assert_int_equal(json_object_size(object), 4);
    assert_true(json_string_length(json_object_get(object, "message")) > 0);
    assert_true(json_is_string(json_object_get(object, "type")));
    assert_non_null(json_object_get(object, "param"));
    assert_non_null(json_object_get(object, "code"));
    json_decref(json);
    buffer_finish(&reply.body);
}

static void assert_request(const struct engine_request *r) {
    assert_true(r->prompt_tokens >= 1 && r->tokens_max >= -1 && (r->tokens_max != 0 || r->prompt_logprobs));
    for (size_t i = 0; i < r->prompt_tokens; i++) assert_true(r->prompt[i] >= 0 && r->prompt[i] < FAKE_VOCAB);
    assert_true(r->sampling.temperature >= 0 && r->sampling.temperature <= 2);
    assert_true(r->sampling.top_p >= 0 && r->sampling.top_p <= 1 && r->sampling.min_p >= 0 && r->sampling.min_p <= 1);
    assert_true(r->sampling.top_k >= 0 && r->sampling.repetition_penalty > 0);
    assert_true(fabsf(r->sampling.presence_penalty) <= 2 && fabsf(r->sampling.frequency_penalty) <= 2);
    assert_true(r->stop_count >= 0 && r->stop_count <= ENGINE_STOPS_MAX);
    for (int i = 0; i < r->stop_count; i++) assert_true(r->stops[i].bytes > 0 && r->stops[i].text);
    for (size_t i = 0; i < r->sampling.bias_count; i++)
        assert_true(r->sampling.bias[i].token >= 0 && r->sampling.bias[i].token < FAKE_VOCAB &&
                    fabsf(r->sampling.bias[i].bias) <= 100);
    assert_true(r->top_logprobs >= 0 && r->top_logprobs <= ENGINE_TOP_LOGPROBS_MAX);
}

static void assert_stream(const struct buffer *out) {
    for (const char *at = out->data, *end; *at; at = end + 2) {
        end = strstr(at, "\n\n");
        assert_true(end && memcmp(at, "data: ", 6) == 0);
        if (memcmp(at, "data: [DONE]", 12) != 0) json_decref(assert_json(at + 6, (size_t)(end - at) - 6));
    }
}

static void answer(struct generation *generation) {
    struct buffer out;
    buffer_init(&out, 16 << 20);
    size_t jobs = generation_jobs(generation);
    assert_true(jobs >= 1 && jobs <= 64);
    for (size_t job = 0; job < jobs; job++) {
        struct engine_request request;
        generation_job(generation, job, &request);
        assert_request(&request);
        const int32_t tokens[] = {(int32_t)draw(FAKE_VOCAB), (int32_t)draw(FAKE_VOCAB)};
        struct engine_event event;
        if (request.prompt_logprobs) {
            event = fake_tokens(ENGINE_EVENT_PROMPT, "", request.prompt,
                                request.prompt_tokens < 16 ? (int)request.prompt_tokens : 16);
            generation_event(generation, job, &event, &out);
        }
        event = fake_tokens(ENGINE_EVENT_TEXT, "t\xc3\xa9\n", tokens, 2);
        generation_event(generation, job, &event, &out);
        event = draw(10) ? fake_done(FINISH_STOP, 2) : fake_error(ERROR_NUMERIC);
        generation_event(generation, job, &event, &out);
    }
    assert_true(generation_complete(generation));
    if (generation_streams(generation)) {
        assert_stream(&out);
    } else {
        struct api_reply reply;
        api_reply_init(&reply);
        generation_result(generation, &reply);
        json_decref(assert_json(reply.body.data, reply.body.bytes));
        buffer_finish(&reply.body);
    }
    buffer_finish(&out);
}

static void any_bodies(void **state) {
    (void)state;
    size_t accepted = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char body[BODY_BYTES_MAX];
        const char *seed = SEEDS[draw(sizeof SEEDS / sizeof *SEEDS)];
        size_t bytes = strlen(seed);
        memcpy(body, seed, bytes);
        bool chat = strstr(seed, "messages") != NULL;
        if (round % 2)
            bytes = compose(body, chat);
        else
            bytes = mutate(body, bytes);
        struct generation *generation = NULL;
        struct error error = {0};
        int code =
            generation_parse(chat ? &chat_generation : &completion_generation, &fake, body, bytes, &generation, &error);
        assert_true((code == 0) == (generation != NULL));
        if (code == 0) {
            answer(generation);
            accepted++;
        } else {
            assert_int_equal(code, error.code);
            assert_error(&error);
        }
        generation_destroy(generation);
    }
    assert_true(accepted > ROUNDS / 20 && accepted < ROUNDS / 2); // both ways were tried
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_bodies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
