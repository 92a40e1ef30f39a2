// Chat, from a body to the bytes of the answer, streamed and whole; and how answers of either kind fail.
#include "tests/api/streams.h"

#include <math.h>
#include <stdio.h>

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

static const char TWO_TOKENS_USAGE[] = "{\"prompt_tokens\":8,\"completion_tokens\":2,\"total_tokens\":10,"
                                       "\"prompt_tokens_details\":{\"cached_tokens\":2,\"audio_tokens\":0},"
                                       "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
                                       "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}";
static const char TWO_TOKENS_TIMINGS[] =
    "{\"queue_seconds\":0.5,\"prompt_tokens\":8,\"cached_tokens\":2,\"prompt_seconds\":2.0,\"prompt_tokens_per_"
    "second\":3.0,"
    "\"completion_tokens\":2,\"decode_seconds\":4.0,\"decode_tokens_per_second\":0.25}";

// ---- Predictions

static void check_foretold(const char *prediction, const int32_t *expected, size_t count) {
    char body[512];
    struct engine_request request;
    snprintf(body, sizeof body, "{" HI ",\"n\":2,\"prediction\":%s}", prediction);
    struct generation *generation = parse_good(&chat_generation, body);
    for (size_t job = 0; job < 2; job++) {
        generation_job(generation, job, &request);
        assert_int_equal(request.expected_tokens, count);
        if (count > 0) assert_memory_equal(request.expected, expected, count * sizeof *expected);
    }
    generation_destroy(generation);
}

static void a_prediction_is_a_text_of_its_own(void **state) {
    (void)state;
    static const int32_t WHOLE[] = {' ', 'A', FAKE_CAT}, PARTS[] = {' ', 'A', '\n', FAKE_CAT};
    check_foretold("null", NULL, 0);
    check_foretold("{\"type\":\"content\",\"content\":\"\"}", NULL, 0);
    check_foretold("{\"type\":\"content\",\"content\":\"A cat\"}", WHOLE, 3);
    check_foretold("{\"type\":\"content\",\"content\":[{\"type\":\"text\",\"text\":\"A\"},"
                   "{\"type\":\"text\",\"text\":\" cat\"}]}",
                   PARTS, 4);
}

// Guesses count whether somebody has sent a prediction or not: those of all choices together.
static void guesses_are_told(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"n\":2}");
    struct buffer out;
    buffer_init(&out, 1024);
    for (size_t job = 0; job < 2; job++) {
        struct engine_event done = fake_done(FINISH_STOP, 5);
        done.usage.guessed_right = 3 + job;
        done.usage.guessed_wrong = 10 * job + 1;
        send(generation, job, done, &out);
    }
    json_t *result = read_result(generation, 200);
    assert_json(json_object_get(json_object_get(result, "usage"), "completion_tokens_details"),
                "{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":7,"
                "\"rejected_prediction_tokens\":12}");
    json_decref(result);
    buffer_finish(&out);
    generation_destroy(generation);
}

// ---- Chat

static void chat_whole(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI "}");
    assert_false(generation_streams(generation));
    assert_int_equal(generation_jobs(generation), 1);
    assert_memory_equal(generation_id(generation), "chatcmpl-", 9);
    struct buffer out;
    buffer_init(&out, 1024);
    send(generation, 0, fake_text("Hel"), &out);
    assert_false(generation_complete(generation));
    send(generation, 0, fake_text("lo \xc3\xa9\n\""), &out);
    send(generation, 0, fake_done(FINISH_STOP, 2), &out);
    assert_true(generation_complete(generation));
    assert_int_equal(out.bytes, 0);

    json_t *result = read_result(generation, 200);
    assert_string_equal(json_string_value(json_object_get(result, "id")), generation_id(generation));
    assert_true(json_integer_value(json_object_get(result, "created")) > 1700000000);
    assert_json(json_object_get(result, "object"), "\"chat.completion\"");
    assert_json(json_object_get(result, "model"), "\"fake-model\"");
    assert_memory_equal(json_string_value(json_object_get(result, "system_fingerprint")), "fp_", 3);
    assert_json(
        json_object_get(result, "choices"),
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello \xc3\xa9\\n\\\"\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}]");
    assert_json(json_object_get(result, "usage"), TWO_TOKENS_USAGE);
    assert_json(json_object_get(result, "timings"), TWO_TOKENS_TIMINGS);
    json_decref(result);

    struct generation_summary summary = generation_summary(generation);
    assert_string_equal(summary.finish, "stop");
    assert_int_equal(summary.prompt_tokens, 8);
    assert_int_equal(summary.completion_tokens, 2);
    assert_true(summary.tokens_per_second == 0.25); // what the timings say
    generation_destroy(generation);
}

static void chat_stream(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    struct generation *generation =
        parse_good(&chat_generation, "{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_true(generation_streams(generation));
    send(generation, 0, fake_text(""), &out); // the role, and nothing more
    send(generation, 0, fake_text("Hel"), &out);
    send(generation, 0, fake_text(""), &out);
    send(generation, 0, fake_text("lo\nyou"), &out);
    assert_null(strstr(out.data, "[DONE]"));
    send(generation, 0, fake_done(FINISH_LENGTH, 2), &out);
    assert_true(generation_complete(generation));

    struct stream stream = read_stream(&out);
    assert_true(stream.done);
    assert_int_equal(stream.count, 5);
    for (size_t i = 0; i < stream.count; i++) {
        assert_string_equal(json_string_value(json_object_get(stream.events[i], "id")), generation_id(generation));
        assert_json(json_object_get(stream.events[i], "object"), "\"chat.completion.chunk\"");
        if (i < 4) assert_json(json_object_get(stream.events[i], "usage"), "null");
        if (i < 4) assert_null(json_object_get(stream.events[i], "timings"));
    }
    assert_json(choice_of(stream.events[0]),
                "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
                "\"finish_reason\":null}");
    assert_json(choice_of(stream.events[1]),
                "{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"logprobs\":null,\"finish_reason\":null}");
    assert_json(choice_of(stream.events[2]),
                "{\"index\":0,\"delta\":{\"content\":\"lo\\nyou\"},\"logprobs\":null,\"finish_reason\":null}");
    assert_json(choice_of(stream.events[3]),
                "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}");
    assert_json(json_object_get(stream.events[4], "choices"), "[]");
    assert_json(json_object_get(stream.events[4], "usage"), TWO_TOKENS_USAGE);
    assert_json(json_object_get(stream.events[4], "timings"), TWO_TOKENS_TIMINGS);
    free_stream(&stream);
    generation_destroy(generation);
    buffer_finish(&out);
}

static void chat_stream_without_usage(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"stream\":true}");
    send(generation, 0, fake_done(FINISH_STOP, 0), &out); // an empty answer
    struct stream stream = read_stream(&out);
    assert_true(stream.done);
    assert_int_equal(stream.count, 2);
    assert_null(json_object_get(stream.events[0], "usage"));
    assert_null(json_object_get(stream.events[1], "usage"));
    assert_null(json_object_get(stream.events[0], "timings"));
    assert_non_null(json_object_get(stream.events[1], "timings"));
    size_t bytes = out.bytes;
    send(generation, 0, fake_text("late"), &out); // nothing follows the end
    struct error error = {.code = ERROR_TIMEOUT};
    generation_fail(generation, &error, &out);
    assert_int_equal(out.bytes, bytes);
    free_stream(&stream);
    generation_destroy(generation);
    buffer_finish(&out);
}

// Three choices whose events come in any order: each has its role first and its end last, and the texts of the
// stream are those of the whole answer.
static void chat_choices(void **state) {
    (void)state;
    static const struct {
        size_t job;
        const char *text; // NULL: done
    } SCRIPT[] = {{1, "b1"}, {0, "a1"}, {1, "b2"}, {1, NULL}, {1, "late"}, {2, NULL}, {0, "a2"}, {0, NULL}};
    struct buffer out, nothing;
    buffer_init(&out, 1 << 20);
    buffer_init(&nothing, 1 << 20);
    struct generation *streamed = parse_good(&chat_generation, "{" HI ",\"n\":3,\"seed\":5,\"stream\":true}");
    struct generation *whole = parse_good(&chat_generation, "{" HI ",\"n\":3,\"seed\":5}");
    assert_int_equal(generation_jobs(streamed), 3);
    for (size_t job = 0; job < 3; job++) {
        struct engine_request request;
        generation_job(streamed, job, &request);
        assert_int_equal(request.sampling.seed, 5 + job);
        assert_int_equal(request.prompt_tokens, 8);
    }
    for (size_t i = 0; i < sizeof SCRIPT / sizeof *SCRIPT; i++) {
        assert_false(generation_complete(streamed));
        struct engine_event event = SCRIPT[i].text ? fake_text(SCRIPT[i].text) : fake_done(FINISH_STOP, 2);
        generation_event(streamed, SCRIPT[i].job, &event, &out);
        generation_event(whole, SCRIPT[i].job, &event, &nothing);
    }
    struct stream stream = read_stream(&out);
    assert_true(stream.done);
    char texts[3][16] = {"", "", ""};
    int roles[3] = {0}, ends[3] = {0}, timings = 0;
    for (size_t i = 0; i < stream.count; i++) {
        const json_t *choice = choice_of(stream.events[i]), *delta = json_object_get(choice, "delta");
        size_t index = (size_t)json_integer_value(json_object_get(choice, "index"));
        assert_true(index < 3 && !ends[index]);
        if (json_object_get(delta, "role")) assert_int_equal(roles[index]++, 0);
        assert_int_equal(roles[index], 1);
        const char *text = json_string_value(json_object_get(delta, "content"));
        if (text) strncat(texts[index], text, 8);
        ends[index] += json_is_string(json_object_get(choice, "finish_reason"));
        if (json_object_get(stream.events[i], "timings")) timings++;
    }
    json_t *result = read_result(whole, 200);
    for (size_t i = 0; i < 3; i++) {
        const json_t *choice = json_array_get(json_object_get(result, "choices"), i);
        assert_int_equal(ends[i], 1);
        assert_int_equal(json_integer_value(json_object_get(choice, "index")), i);
        assert_string_equal(json_string_value(json_object_get(json_object_get(choice, "message"), "content")),
                            texts[i]);
    }
    assert_string_equal(texts[0], "a1a2");
    assert_int_equal(timings, 1);
    const json_t *usage = json_object_get(result, "usage"); // the prompt counts once
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 8);
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 6);
    json_decref(result);
    free_stream(&stream);
    generation_destroy(streamed);
    generation_destroy(whole);
    buffer_finish(&out);
}

static const char CHAT_LOGPROBS[] =
    "{\"content\":["
    "{\"token\":\" the\",\"logprob\":-0.25,\"bytes\":[32,116,104,101],\"top_logprobs\":["
    "{\"token\":\"<|end|>\",\"logprob\":-0.125,\"bytes\":[60,124,101,110,100,124,62]},"
    "{\"token\":\" the\",\"logprob\":-0.25,\"bytes\":[32,116,104,101]}]},"
    "{\"token\":\"bytes:\\\\xc3\",\"logprob\":-0.5,\"bytes\":[195],\"top_logprobs\":["
    "{\"token\":\"<|end|>\",\"logprob\":-0.125,\"bytes\":[60,124,101,110,100,124,62]},"
    "{\"token\":\"bytes:\\\\xc3\",\"logprob\":-0.5,\"bytes\":[195]}]}],\"refusal\":null}";

static void chat_logprobs(void **state) {
    (void)state;
    const int32_t tokens[] = {FAKE_THE, 0xc3};
    struct buffer out;
    buffer_init(&out, 1 << 20);
    for (int stream = 0; stream < 2; stream++) {
        struct generation *generation =
            parse_good(&chat_generation, stream ? "{" HI ",\"logprobs\":true,\"top_logprobs\":2,\"stream\":true}"
                                                : "{" HI ",\"logprobs\":true,\"top_logprobs\":2}");
        send(generation, 0, fake_tokens(ENGINE_EVENT_TEXT, "the", tokens, 2), &out);
        send(generation, 0, fake_text("\xc3\xa9"), &out);
        send(generation, 0, fake_done(FINISH_STOP, 2), &out);
        if (stream) {
            struct stream read = read_stream(&out);
            assert_int_equal(read.count, 4);
            assert_json(json_object_get(choice_of(read.events[0]), "logprobs"), "null");
            assert_json(json_object_get(choice_of(read.events[1]), "logprobs"), CHAT_LOGPROBS);
            assert_json(json_object_get(choice_of(read.events[2]), "logprobs"), "{\"content\":[],\"refusal\":null}");
            assert_json(json_object_get(choice_of(read.events[3]), "logprobs"), "null");
            free_stream(&read);
        } else {
            json_t *result = read_result(generation, 200);
            assert_json(json_object_get(choice_of(result), "logprobs"), CHAT_LOGPROBS);
            json_decref(result);
        }
        generation_destroy(generation);
    }
    buffer_finish(&out);
}

static void infinite_logprobs(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"logprobs\":true}");
    struct engine_token tokens[2] = {{.token = 'a', .logprob = -INFINITY}, {.token = -1, .logprob = -10000}};
    struct engine_event event = {.type = ENGINE_EVENT_TEXT, .tokens = tokens, .token_count = 2};
    generation_event(generation, 0, &event, NULL);
    send(generation, 0, fake_done(FINISH_STOP, 2), NULL);
    json_t *result = read_result(generation, 200);
    assert_json(json_object_get(choice_of(result), "logprobs"),
                "{\"content\":[{\"token\":\"a\",\"logprob\":-9999,\"bytes\":[97],\"top_logprobs\":[]},"
                "{\"token\":\"\",\"logprob\":-9999,\"bytes\":null,\"top_logprobs\":[]}],\"refusal\":null}");
    json_decref(result);
    generation_destroy(generation);
}

// The fake's form of the messages: role:content<end>.
static void assert_messages(const char *messages, const char *expected) {
    char body[1024], text[256] = "";
    snprintf(body, sizeof body, "{\"messages\":%s}", messages);
    struct generation *generation = parse_good(&chat_generation, body);
    struct engine_request request;
    generation_job(generation, 0, &request);
    for (size_t i = 0; i < request.prompt_tokens; i++) {
        size_t bytes;
        const char *piece = engine_token_text(&fake, request.prompt[i], &bytes);
        strncat(text, piece, bytes);
    }
    assert_string_equal(text, expected);
    generation_destroy(generation);
}

static void messages(void **state) {
    (void)state;
    assert_messages("[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\",\"name\":\"n\"},"
                    "{\"role\":\"assistant\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"\"}]",
                    "system:S<|end|>user:U<|end|>assistant:A<|end|>user:<|end|>");
    assert_messages("[{\"role\":\"developer\",\"content\":\"D\"}]", "system:D<|end|>");
    assert_messages("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":"
                    "\"b\",\"x\":null}]}]",
                    "user:a\nb<|end|>");
    // An answer as a client sends it back.
    assert_messages("[{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":[],\"annotations\":[],"
                    "\"audio\":null}]",
                    "assistant:<|end|>");

    static const struct {
        const char *messages;
        enum error_code code;
        const char *param, *message;
    } BAD[] = {
        {"[]", ERROR_ARGUMENT, "messages", "'messages' must be an array of at least one message, got an array of 0"},
        {"\"Hi\"", ERROR_ARGUMENT, "messages", "'messages' must be an array of at least one message, got \"Hi\""},
        {"[7]", ERROR_ARGUMENT, "messages[0]", "'messages[0]' must be an object, got 7"},
        {"[{\"content\":\"x\"}]", ERROR_ARGUMENT, "messages[0].role",
         "'messages[0].role' is required: system, developer, user or assistant"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"tool\",\"content\":\"x\"}]", ERROR_ARGUMENT,
         "messages[1].role", "'messages[1].role' must be system, developer, user or assistant, got \"tool\""},
        {"[{\"role\":\"user\"}]", ERROR_ARGUMENT, "messages[0].content", "'messages[0].content' is required"},
        {"[{\"role\":\"user\",\"content\":null}]", ERROR_ARGUMENT, "messages[0].content",
         "'messages[0].content' is required"},
        {"[{\"role\":\"user\",\"content\":5}]", ERROR_ARGUMENT, "messages[0].content",
         "'messages[0].content' must be a string or an array of parts, got 5"},
        {"[{\"role\":\"user\",\"content\":[]}]", ERROR_ARGUMENT, "messages[0].content",
         "'messages[0].content' must be a string or an array of at least one part, got an array of 0"},
        {"[{\"role\":\"user\",\"content\":[\"a\"]}]", ERROR_ARGUMENT, "messages[0].content[0]",
         "'messages[0].content[0]' must be an object with a type, got \"a\""},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", ERROR_ARGUMENT, "messages[0].content[0]",
         "'messages[0].content[0]' must be an object with a string 'text', got an object"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]", ERROR_UNSUPPORTED,
         "messages[0].content[0]", "'messages[0].content[0]' has the type 'image_url', only text is supported"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"cache\":1}]}]", ERROR_UNSUPPORTED,
         "messages[0].content[0]", "'messages[0].content[0].cache' is not supported"},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", ERROR_UNSUPPORTED, "messages[0].tool_calls",
         "'messages[0].tool_calls' is not supported"},
        {"[{\"role\":\"user\",\"contents\":\"x\"}]", ERROR_UNSUPPORTED, "messages[0].contents",
         "'messages[0].contents' is not supported; did you mean content?"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":5}]", ERROR_ARGUMENT, "messages[0].name",
         "'messages[0].name' must be a string, got 5"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char body[512];
        snprintf(body, sizeof body, "{\"messages\":%s}", BAD[i].messages);
        struct error error = parse_bad(&chat_generation, body);
        assert_string_equal(error.message, BAD[i].message);
        assert_string_equal(error.param, BAD[i].param);
        assert_int_equal(error.code, BAD[i].code);
    }
    assert_string_equal(parse_bad(&chat_generation, "{}").message, "'messages' is required");
}

// ---- Failures

static void failing_job(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"n\":2,\"stream\":true}");
    send(generation, 0, fake_text("Hel"), &out);
    send(generation, 1, fake_error(ERROR_NUMERIC), &out);
    assert_true(generation_complete(generation));
    send(generation, 0, fake_text("lo"), &out);
    send(generation, 0, fake_done(FINISH_STOP, 2), &out);
    struct stream stream = read_stream(&out);
    assert_false(stream.done);
    assert_int_equal(stream.count, 3);
    assert_json(stream.events[2],
                "{\"error\":{\"message\":\"The model produced numbers that are not finite\","
                "\"type\":\"server_error\",\"param\":null,\"code\":\"numeric_error\",\"status\":500}}");
    assert_string_equal(generation_summary(generation).finish, "error");
    assert_int_equal(generation_summary(generation).error.code, ERROR_NUMERIC);
    free_stream(&stream);
    json_t *result = read_result(generation, 500); // what a stream answers that has sent nothing yet
    json_decref(result);
    generation_destroy(generation);
    buffer_finish(&out);
}

static void failing_from_outside(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI "}");
    struct error error = {0};
    error_set(&error, ERROR_BUSY, "the queue is full");
    generation_fail(generation, &error, NULL);
    assert_true(generation_complete(generation));
    struct api_reply reply;
    api_reply_init(&reply);
    generation_result(generation, &reply);
    assert_int_equal(reply.status, 429);
    assert_true(reply.retry_after_seconds > 0);
    assert_string_equal(reply.body.data, "{\"error\":{\"message\":\"The queue is full\",\"type\":\"rate_limit_error\","
                                         "\"param\":null,\"code\":\"rate_limit_exceeded\"}}");
    buffer_finish(&reply.body);
    generation_destroy(generation);
}

// A stream's buffer that can not take an event: the error event stands there instead of a torn one.
static void no_room(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"stream\":true}");
    struct buffer out;
    buffer_init(&out, 700);
    for (int i = 0; i < 20 && !generation_complete(generation); i++) send(generation, 0, fake_text("some text"), &out);
    assert_true(generation_complete(generation));
    struct stream stream = read_stream(&out);
    assert_true(stream.count >= 2);
    assert_non_null(json_object_get(stream.events[stream.count - 1], "error"));
    free_stream(&stream);
    generation_destroy(generation);
    buffer_finish(&out);
}

// More answer than may be held: the request fails, by name.
static void too_large(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, "{" HI ",\"n\":16}");
    const size_t bytes = API_REPLY_BYTES_MAX / 16 + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, 'x', bytes);
    struct engine_event event = {.type = ENGINE_EVENT_TEXT, .text = text, .text_bytes = bytes};
    generation_event(generation, 3, &event, NULL);
    free(text);
    assert_true(generation_complete(generation));
    json_t *result = read_result(generation, 413);
    json_decref(result);
    generation_destroy(generation);
}
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prediction_is_a_text_of_its_own),
        cmocka_unit_test(guesses_are_told),
        cmocka_unit_test(chat_whole),
        cmocka_unit_test(chat_stream),
        cmocka_unit_test(chat_stream_without_usage),
        cmocka_unit_test(chat_choices),
        cmocka_unit_test(chat_logprobs),
        cmocka_unit_test(infinite_logprobs),
        cmocka_unit_test(messages),
        cmocka_unit_test(failing_job),
        cmocka_unit_test(failing_from_outside),
        cmocka_unit_test(no_room),
        cmocka_unit_test(too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
