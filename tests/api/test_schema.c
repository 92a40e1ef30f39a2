// Every field of a request: at its boundaries, beyond them, of the wrong type, unknown.
#include "api/json.h"
#include "base/wrap.h"
#include "api/schema.h"
#include "tests/api/fake_engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAT(fields) "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]," fields "}"
#define COMPLETION(fields) "{\"prompt\":\"Hi\"," fields "}"

static struct engine_request request_of(const struct generation_kind *kind, const char *body) {
    struct generation *generation = parse_good(kind, body);
    struct engine_request request;
    generation_job(generation, 0, &request);
    request.prompt = NULL; // these die with the generation
    memset(request.stops, 0, sizeof request.stops);
    request.sampling.bias = NULL;
    generation_destroy(generation);
    return request;
}

static void assert_refused(const struct generation_kind *kind, const char *body, enum error_code code,
                           const char *param, const char *message) {
    struct error error = parse_bad(kind, body);
    assert_string_equal(error.message, message);
    assert_string_equal(error.param, param);
    assert_int_equal(error.code, code);
}

#define REFUSED_CHAT(fields, param, message) \
    assert_refused(&chat_generation, CHAT(fields), ERROR_ARGUMENT, param, message)
#define REFUSED_COMPLETION(fields, param, message) \
    assert_refused(&completion_generation, COMPLETION(fields), ERROR_ARGUMENT, param, message)

static void defaults(void **state) {
    (void)state;
    struct engine_request chat = request_of(&chat_generation, CHAT("\"model\":\"fake-model\""));
    assert_int_equal(chat.tokens_max, -1);
    assert_true(chat.sampling.temperature == 1 && chat.sampling.top_p == 1 && chat.sampling.min_p == 0);
    assert_true(chat.sampling.repetition_penalty == 1 && chat.sampling.top_k == 0);
    assert_true(chat.sampling.presence_penalty == 0 && chat.sampling.frequency_penalty == 0);
    assert_true(chat.sampling.bias_count == 0 && chat.stop_count == 0);
    assert_false(chat.ignore_eos || chat.want_logprobs || chat.prompt_logprobs || chat.top_logprobs);
    assert_true(chat.strip_space);

    struct engine_request completion = request_of(&completion_generation, "{\"prompt\":\"Hi\"}");
    assert_int_equal(completion.tokens_max, 16);
    assert_false(completion.strip_space);
    // A seed of its own each time.
    assert_true(request_of(&completion_generation, "{\"prompt\":\"Hi\"}").sampling.seed != completion.sampling.seed);
}

static void null_is_absent(void **state) {
    (void)state;
    struct engine_request chat = request_of(
        &chat_generation, CHAT("\"model\":null,\"temperature\":null,\"max_tokens\":null,\"stop\":null,\"seed\":null,"
                               "\"logit_bias\":null,\"stream\":null,\"stream_options\":null,\"logprobs\":null,"
                               "\"top_logprobs\":null,\"tools\":null,\"response_format\":null,\"n\":null,\"user\":null,"
                               "\"audio\":null,\"no_such_field\":null"));
    assert_int_equal(chat.tokens_max, -1);
    assert_true(chat.sampling.temperature == 1);
    assert_refused(&chat_generation, "{\"messages\":null}", ERROR_ARGUMENT, "messages", "'messages' is required");
    assert_refused(&completion_generation, "{\"prompt\":null}", ERROR_ARGUMENT, "prompt", "'prompt' is required");
}

// Numbers: the lowest and the highest that are taken, and what is said beyond and beside them.
static void numbers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double low, high;
        bool whole;
        const char *expected;
    } FIELDS[] = {
        {"temperature", 0, 2, false, "a number between 0 and 2"},
        {"top_p", 0, 1, false, "a number between 0 and 1"},
        {"min_p", 0, 1, false, "a number between 0 and 1"},
        {"presence_penalty", -2, 2, false, "a number between -2 and 2"},
        {"frequency_penalty", -2, 2, false, "a number between -2 and 2"},
        {"repetition_penalty", 0.1, 10, false, "a number between 0.1 and 10"},
        {"repeat_penalty", 0.1, 10, false, "a number between 0.1 and 10"},
        {"top_k", -1, INT32_MAX, true, "an integer between -1 and 2147483647"},
        {"n", 1, 16, true, "an integer between 1 and 16"},
        {"max_tokens", 1, INT32_MAX, true, "an integer between 1 and 2147483647"},
        {"max_completion_tokens", 1, INT32_MAX, true, "an integer between 1 and 2147483647"},
    };
    static const char *const WRONG[][2] = {
        {"1e308", "1e+308"},
        {"-1e308", "-1e+308"},
        {"9223372036854775807", "9223372036854775807"},
        {"\"1\"", "\"1\""},
        {"true", "true"},
        {"[]", "an array of 0"},
        {"{}", "an object"},
        {"[1, 2]", "an array of 2"},
        {"-9223372036854775808", "-9223372036854775808"},
    };
    char body[256], message[256];
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        for (int high = 0; high < 2; high++) {
            double edge = high ? FIELDS[i].high : FIELDS[i].low, step = FIELDS[i].whole ? 1 : 0.05;
            snprintf(body, sizeof body, CHAT("\"%s\":%.12g"), FIELDS[i].name, edge);
            generation_destroy(parse_good(&chat_generation, body));
            double beyond = high ? edge + step : edge - step;
            snprintf(body, sizeof body, CHAT("\"%s\":%.12g"), FIELDS[i].name, beyond);
            snprintf(message, sizeof message, "'%s' must be %s, got %.12g", FIELDS[i].name, FIELDS[i].expected, beyond);
            assert_refused(&chat_generation, body, ERROR_ARGUMENT, FIELDS[i].name, message);
        }
        for (size_t w = 0; w < sizeof WRONG / sizeof *WRONG; w++) {
            snprintf(body, sizeof body, CHAT("\"%s\":%s"), FIELDS[i].name, WRONG[w][0]);
            snprintf(message, sizeof message, "'%s' must be %s, got %s", FIELDS[i].name, FIELDS[i].expected,
                     WRONG[w][1]);
            assert_refused(&chat_generation, body, ERROR_ARGUMENT, FIELDS[i].name, message);
        }
        if (!FIELDS[i].whole) continue;
        snprintf(body, sizeof body, CHAT("\"%s\":1.0"), FIELDS[i].name); // JSON knows one kind of number
        generation_destroy(parse_good(&chat_generation, body));
        snprintf(body, sizeof body, CHAT("\"%s\":1.5"), FIELDS[i].name);
        parse_bad(&chat_generation, body);
    }
}

static void values_arrive(void **state) {
    (void)state;
    struct engine_request chat = request_of(
        &chat_generation,
        CHAT("\"temperature\":0.5,\"top_p\":0.25,\"top_k\":7,\"min_p\":0.125,\"repetition_penalty\":1.5,"
             "\"presence_penalty\":-0.5,\"frequency_penalty\":0.75,\"seed\":42,\"max_tokens\":9,\"ignore_eos\":true,"
             "\"logprobs\":true,\"top_logprobs\":20,\"logit_bias\":{\"0\":-100,\"299\":100,\"5\":0.5},\"stop\":\"x\""));
    assert_true(chat.sampling.temperature == 0.5f && chat.sampling.top_p == 0.25f && chat.sampling.min_p == 0.125f);
    assert_true(chat.sampling.top_k == 7 && chat.sampling.repetition_penalty == 1.5f);
    assert_true(chat.sampling.presence_penalty == -0.5f && chat.sampling.frequency_penalty == 0.75f);
    assert_true(chat.sampling.seed == 42 && chat.sampling.bias_count == 3);
    assert_int_equal(chat.tokens_max, 9);
    assert_int_equal(chat.stop_count, 1);
    assert_int_equal(chat.top_logprobs, 20);
    assert_true(chat.ignore_eos && chat.want_logprobs);
    assert_int_equal(request_of(&chat_generation, CHAT("\"top_k\":-1")).sampling.top_k, 0);
    assert_int_equal(request_of(&chat_generation, CHAT("\"max_completion_tokens\":5")).tokens_max, 5);
    assert_int_equal(request_of(&completion_generation, COMPLETION("\"max_tokens\":0")).tokens_max, 0);
    assert_true(request_of(&chat_generation, CHAT("\"repeat_penalty\":2")).sampling.repetition_penalty == 2);
}

static void same_field_by_two_names(void **state) {
    (void)state;
    generation_destroy(parse_good(&chat_generation, CHAT("\"max_tokens\":5,\"max_completion_tokens\":5")));
    REFUSED_CHAT("\"max_tokens\":5,\"max_completion_tokens\":6", "max_tokens",
                 "'max_tokens' (5) and 'max_completion_tokens' (6) mean the same and differ; give one of them");
    REFUSED_CHAT("\"repetition_penalty\":1.5,\"repeat_penalty\":1.25", "repetition_penalty",
                 "'repetition_penalty' (1.5) and 'repeat_penalty' (1.25) mean the same and differ; give one of them");
}

static void seeds(void **state) {
    (void)state;
    assert_true(request_of(&chat_generation, CHAT("\"seed\":-1")).sampling.seed == UINT64_MAX);
    assert_true(request_of(&chat_generation, CHAT("\"seed\":-9223372036854775808")).sampling.seed == 1ull << 63);
    assert_true(request_of(&chat_generation, CHAT("\"seed\":0")).sampling.seed == 0);
    assert_true(request_of(&chat_generation, CHAT("\"seed\":3.0")).sampling.seed == 3);
    REFUSED_CHAT("\"seed\":0.5", "seed", "'seed' must be an integer of 64 bits, got 0.5");
    REFUSED_CHAT("\"seed\":1e308", "seed", "'seed' must be an integer of 64 bits, got 1e+308");
}

static void stops(void **state) {
    (void)state;
    assert_int_equal(request_of(&chat_generation, CHAT("\"stop\":[\"a\",\"b\",\"c\",\"d\"]")).stop_count, 4);
    assert_int_equal(request_of(&chat_generation, CHAT("\"stop\":[]")).stop_count, 0);
    struct generation *generation = parse_good(&chat_generation, CHAT("\"stop\":[\"one\",\"zw\\u00f6lf\"]"));
    struct engine_request request;
    generation_job(generation, 0, &request);
    assert_memory_equal(request.stops[0].text, "one", 3);
    assert_int_equal(request.stops[1].bytes, 6);
    assert_memory_equal(request.stops[1].text, "zw\xc3\xb6lf", 6);
    generation_destroy(generation);

    REFUSED_CHAT("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop",
                 "'stop' must be a string or an array of at most 4 strings, got an array of 5");
    REFUSED_CHAT("\"stop\":\"\"", "stop",
                 "'stop' must be a string or an array of at most 4 strings, none of them empty, got \"\"");
    REFUSED_CHAT("\"stop\":[\"a\",3]", "stop",
                 "'stop' must be a string or an array of at most 4 strings, none of them empty, got 3");
    char body[2048];
    snprintf(body, sizeof body, CHAT("\"stop\":\"%01024d\""), 0);
    generation_destroy(parse_good(&chat_generation, body));
    snprintf(body, sizeof body, CHAT("\"stop\":\"%01025d\""), 0);
    assert_refused(&chat_generation, body, ERROR_ARGUMENT, "stop",
                   "'stop' has a string of 1025 bytes, at most 1024 are allowed");
}

static void logit_bias(void **state) {
    (void)state;
    struct generation *generation = parse_good(&chat_generation, CHAT("\"logit_bias\":{\"0\":-100,\"299\":1}"));
    struct engine_request request;
    generation_job(generation, 0, &request);
    assert_int_equal(request.sampling.bias_count, 2);
    assert_true(request.sampling.bias[0].token == 0 && request.sampling.bias[0].bias == -100);
    assert_true(request.sampling.bias[1].token == 299 && request.sampling.bias[1].bias == 1);
    generation_destroy(generation);
    generation_destroy(parse_good(&chat_generation, CHAT("\"logit_bias\":{}")));

    static const char *const KEYS[] = {"foo", "300", "-1", "01", "", "1.0", " 1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        char body[256], message[256];
        snprintf(body, sizeof body, CHAT("\"logit_bias\":{\"%s\":0}"), KEYS[i]);
        snprintf(message, sizeof message, "'logit_bias' must have token ids between 0 and 299 as keys, got \"%s\"",
                 KEYS[i]);
        assert_refused(&chat_generation, body, ERROR_ARGUMENT, "logit_bias", message);
    }
    REFUSED_CHAT("\"logit_bias\":{\"1\":100.5}", "logit_bias",
                 "'logit_bias' must be an object of numbers between -100 and 100, got 100.5");
    REFUSED_CHAT("\"logit_bias\":{\"1\":\"1\"}", "logit_bias",
                 "'logit_bias' must be an object of numbers between -100 and 100, got \"1\"");
    REFUSED_CHAT("\"logit_bias\":[]", "logit_bias",
                 "'logit_bias' must be an object from token ids to numbers, got an array of 0");
}

static void logprobs(void **state) {
    (void)state;
    REFUSED_CHAT("\"top_logprobs\":2", "top_logprobs", "'top_logprobs' requires 'logprobs' to be true");
    generation_destroy(parse_good(&chat_generation, CHAT("\"logprobs\":false,\"top_logprobs\":0")));
    REFUSED_CHAT("\"logprobs\":true,\"top_logprobs\":21", "top_logprobs",
                 "'top_logprobs' must be an integer between 0 and 20, got 21");
    REFUSED_CHAT("\"logprobs\":3", "logprobs", "'logprobs' must be true or false, got 3");
    REFUSED_COMPLETION("\"logprobs\":true", "logprobs", "'logprobs' must be an integer between 0 and 20, got true");
    REFUSED_COMPLETION("\"logprobs\":21", "logprobs", "'logprobs' must be an integer between 0 and 20, got 21");
    REFUSED_COMPLETION("\"top_logprobs\":1", "top_logprobs", "Unrecognized request argument supplied: top_logprobs");
    struct engine_request request = request_of(&completion_generation, COMPLETION("\"logprobs\":0"));
    assert_true(request.want_logprobs && request.top_logprobs == 0 && !request.prompt_logprobs);
    request = request_of(&completion_generation, COMPLETION("\"logprobs\":1,\"echo\":true"));
    assert_true(request.prompt_logprobs && !request.ignore_eos);
    // Scoring: the one new token must be told of even when it is the end of turn.
    request = request_of(&completion_generation, COMPLETION("\"logprobs\":1,\"echo\":true,\"max_tokens\":1"));
    assert_true(request.ignore_eos);
}

static void streaming(void **state) {
    (void)state;
    REFUSED_CHAT("\"stream_options\":{\"include_usage\":true}", "stream_options",
                 "'stream_options.include_usage' is only allowed when 'stream' is true");
    generation_destroy(parse_good(&chat_generation, CHAT("\"stream\":false,\"stream_options\":{}")));
    generation_destroy(parse_good(&chat_generation, CHAT("\"stream_options\":{\"include_usage\":false}")));
    REFUSED_CHAT("\"stream_options\":{\"other\":true},\"stream\":true", "stream_options.other",
                 "Unrecognized request argument supplied: stream_options.other");
    REFUSED_CHAT("\"stream_options\":{\"include_usgae\":true},\"stream\":true", "stream_options.include_usgae",
                 "Unrecognized request argument supplied: stream_options.include_usgae; did you mean include_usage?");
    REFUSED_CHAT("\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage",
                 "'stream_options.include_usage' must be true or false, got 1");
    REFUSED_CHAT("\"stream\":\"true\"", "stream", "'stream' must be true or false, got \"true\"");
    struct generation *generation = parse_good(
        &chat_generation,
        CHAT("\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":false,\"x\":null},\"stream\":true"));
    assert_true(generation_streams(generation));
    generation_destroy(generation);
}

// A text of `bytes`: `front` of spaces, then of letters.
static char *long_body(const char *format, int front, int bytes) {
    char *text = malloc((size_t)bytes + 1), *body = malloc((size_t)bytes + 256);
    assert_true(text && body);
    memset(text, 'x', (size_t)bytes);
    memset(text, ' ', (size_t)front);
    text[bytes] = '\0';
    snprintf(body, (size_t)bytes + 256, format, text);
    free(text);
    return body;
}

// What can not fit 128 tokens of 7 bytes at most is not even tokenized; one byte less is the engine's to judge.
static void texts_beyond_the_context(void **state) {
    (void)state;
    static const struct {
        const struct generation_kind *kind;
        const char *format, *param;
        int front;
    } cases[] = {
        {&chat_generation, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}", "messages", 0},
        {&completion_generation, "{\"prompt\":\"%s\"}", "prompt", 0},
        {&completion_generation, "{\"prompt\":[\"x\",\"%s\"]}", "prompt", 0},
        // White space that a special token may swallow counts for nothing.
        {&chat_generation, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}", "messages", 500},
        {&completion_generation, "{\"parse_special\":true,\"prompt\":\"%s\"}", "prompt", 500},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *body = long_body(cases[i].format, cases[i].front, cases[i].front + 128 * 7);
        generation_destroy(parse_good(cases[i].kind, body));
        free(body);
        body = long_body(cases[i].format, cases[i].front, cases[i].front + 128 * 7 + 1);
        char message[128];
        snprintf(message, sizeof message,
                 "'%s' has at least 129 tokens (897 bytes), but the model's context is 128 tokens", cases[i].param);
        assert_refused(cases[i].kind, body, ERROR_CONTEXT_LENGTH, cases[i].param, message);
        free(body);
    }
}

// More answers than the server ever has places for: not a matter of coming back later.
static void more_answers_than_places(void **state) {
    (void)state;
    struct engine_info before = fake.info;
    fake.info.sequences_max = 1;
    fake.info.queue_max = 2;
    generation_destroy(parse_good(&chat_generation, CHAT("\"n\":3")));
    REFUSED_CHAT("\"n\":4", "n",
                 "4 answers are asked for at once ('n' = 4, prompts: 1); this server has places for 3 (1 that decode "
                 "and 2 that wait)");
    assert_refused(&completion_generation, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\"]}", ERROR_ARGUMENT, "prompt",
                   "4 answers are asked for at once ('n' = 1, prompts: 4); this server has places for 3 (1 that decode "
                   "and 2 that wait)");
    fake.info = before;
}

static void models(void **state) {
    (void)state;
    assert_refused(&chat_generation, CHAT("\"model\":\"gpt-4o\""), ERROR_MODEL_NOT_FOUND, "model",
                   "The model 'gpt-4o' does not exist; this server has 'fake-model'");
    REFUSED_CHAT("\"model\":7", "model", "'model' must be a string, got 7");
}

static void without_effect(void **state) {
    (void)state;
    generation_destroy(parse_good(
        &chat_generation,
        CHAT("\"user\":\"u\",\"safety_identifier\":\"s\",\"metadata\":{\"a\":\"b\"},\"store\":true,\"service_tier\":"
             "\"auto\",\"prompt_cache_key\":\"k\",\"prompt_cache_options\":{},\"prompt_cache_retention\":\"24h\","
             "\"cache_prompt\":true,"
             "\"parallel_tool_calls\":true")));
    REFUSED_CHAT("\"user\":7", "user", "'user' must be a string, got 7");
    REFUSED_CHAT("\"metadata\":\"x\"", "metadata", "'metadata' must be an object, got \"x\"");
}

static void predictions(void **state) {
    (void)state;
    generation_destroy(parse_good(&chat_generation, CHAT("\"prediction\":null")));
    generation_destroy(parse_good(&chat_generation, CHAT("\"prediction\":{\"type\":\"content\",\"content\":\"\"}")));
    REFUSED_CHAT("\"prediction\":7", "prediction", "'prediction' must be an object of type content, got 7");
    REFUSED_CHAT("\"prediction\":{\"content\":\"x\"}", "prediction.type", "'prediction.type' is required");
    REFUSED_CHAT("\"prediction\":{\"type\":\"x\"}", "prediction.type",
                 "'prediction.type' must be \"content\", got \"x\"");
    REFUSED_CHAT("\"prediction\":{\"type\":\"content\"}", "prediction.content", "'prediction.content' is required");
    REFUSED_CHAT("\"prediction\":{\"type\":\"content\",\"contents\":\"x\"}", "prediction.contents",
                 "Unrecognized request argument supplied: prediction.contents; did you mean content?");
    REFUSED_CHAT("\"prediction\":{\"type\":\"content\",\"content\":\"\",\"strict\":true}", "prediction.strict",
                 "Unrecognized request argument supplied: prediction.strict");
    REFUSED_CHAT("\"prediction\":{\"type\":\"content\",\"content\":7}", "prediction.content",
                 "'prediction.content' must be a string or an array of parts, got 7");
}

static void refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *name, *neutral, *asking;
        bool completion;
    } FIELDS[] = {
        {"tools", "[]", "[{\"type\":\"function\"}]", false},
        {"tool_choice", "\"none\"", "\"required\"", false},
        {"tool_choice", "\"auto\"", "{\"type\":\"function\"}", false},
        {"functions", "[]", "[{}]", false},
        {"function_call", "\"none\"", "{\"name\":\"f\"}", false},
        {"response_format", "{\"type\":\"text\"}", "{\"type\":\"json_object\"}", false},
        {"response_format", "null", "{\"type\":\"json_schema\",\"json_schema\":{}}", false},
        {"modalities", "[\"text\"]", "[\"text\",\"audio\"]", false},
        {"audio", "null", "{\"format\":\"wav\"}", false},
        {"web_search_options", "null", "{}", false},
        {"moderation", "null", "{}", false},
        {"reasoning_effort", "\"none\"", "\"low\"", false},
        {"verbosity", "\"medium\"", "\"low\"", false},
        {"suffix", "\"\"", "\" end\"", true},
        {"best_of", "1", "2", true},
        {"typical_p", "1.0", "0.5", true},
        {"min_tokens", "0", "5", true},
        {"skip_special_tokens", "true", "false", true},
    };
    char body[256];
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        const struct generation_kind *kind = FIELDS[i].completion ? &completion_generation : &chat_generation;
        const char *form = FIELDS[i].completion ? COMPLETION("\"%s\":%s") : CHAT("\"%s\":%s");
        snprintf(body, sizeof body, form, FIELDS[i].name, FIELDS[i].neutral);
        generation_destroy(parse_good(kind, body));
        snprintf(body, sizeof body, form, FIELDS[i].name, FIELDS[i].asking);
        struct error error = parse_bad(kind, body);
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        assert_string_equal(error.param, FIELDS[i].name);
        assert_non_null(strstr(error.message, FIELDS[i].name));
    }
    assert_refused(&chat_generation, CHAT("\"tools\":[{}]"), ERROR_UNSUPPORTED, "tools",
                   "'tools' is refused: tool calls are not supported");
    REFUSED_CHAT("\"echo\":true", "echo", "Unrecognized request argument supplied: echo");
    REFUSED_COMPLETION("\"tools\":[]", "tools", "Unrecognized request argument supplied: tools");
    REFUSED_CHAT("\"temprature\":1", "temprature",
                 "Unrecognized request argument supplied: temprature; did you mean temperature?");
    REFUSED_COMPLETION("\"max_token\":1", "max_token",
                       "Unrecognized request argument supplied: max_token; did you mean max_tokens?");
    REFUSED_COMPLETION("\"massages\":1", "massages", "Unrecognized request argument supplied: massages"); // chat's
    generation_destroy(parse_good(&chat_generation, CHAT("\"temprature\":null"))); // asks for nothing
}

static void bodies(void **state) {
    (void)state;
    static const struct {
        const char *body, *message;
    } BAD[] = {
        {"", "The body is empty, a JSON object was expected"},
        {"[]", "The body must be a JSON object, got an array"},
        {"7", "The body must be a JSON object, got a number"},
        {"null", "The body must be a JSON object, got null"},
        {"true", "The body must be a JSON object, got a boolean"},
        {"\"{}\"", "The body must be a JSON object, got a string"},
        {"nul", "The body is not valid JSON: it does not parse"},
        {"{\"n\":1,\"n\":2}", "The body is not valid JSON: a key is given twice"},
        {"{\"n\":1} x", "The body is not valid JSON: something follows the object"},
        {"{\"n\":1", "The body is not valid JSON: it ends too early"},
        {"{\"n\":\"\xff\"}", "The body is not valid JSON: it is not valid UTF-8"},
        {"{\"n\":\"\\ud800\"}", "The body is not valid JSON: a surrogate (\\ud800 to \\udfff) stands alone"},
        {"{\"n\":\"\\u0000\"}", "The body is not valid JSON: NUL characters (\\u0000) are not allowed"},
        {"{\"n\":9223372036854775808}", "The body is not valid JSON: a number is too large"},
        {"{\"n\":1e309}", "The body is not valid JSON: a number is too large"},
        {"{\"n\":\"\\udc00\\ud800\"}", "The body is not valid JSON: a surrogate (\\ud800 to \\udfff) stands alone"},
        {"'{\"n\":1}'", "The body is not valid JSON: a single quote (') stands where only double quotes (\") can; some "
                        "shells pass on those around it"},
        {"{'n':1}", "The body is not valid JSON: a single quote (') stands where only double quotes (\") can; some "
                        "shells pass on those around it"},
        {"{\"n\":'x'}", "The body is not valid JSON: a single quote (') stands where only double quotes (\") can; some "
                        "shells pass on those around it"},
        {"{\"stream\":True}",
         "The body is not valid JSON: it is true, false and null in JSON, not True, False and None"},
        {"{\"n\":1,  }", "The body is not valid JSON: a comma stands before a closing bracket"},
        {"{\"n\":[1,]}", "The body is not valid JSON: a comma stands before a closing bracket"},
        {"{\"n\":[1 }", "The body is not valid JSON: it does not parse"},
        {"{\"n\":NaN}", "The body is not valid JSON: it does not parse"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct error error = parse_bad(&chat_generation, BAD[i].body);
        char *place = strstr(error.message, " (line 1, column "); // which column is the parser's business
        if (place) *place = '\0';
        assert_string_equal(error.message, BAD[i].message);
        assert_string_equal(error.param, "");
        assert_int_equal(error.code, ERROR_ARGUMENT);
    }
}

// count times a piece, between the two ends of a body.
static struct error refused_pile(const char *front, const char *piece, size_t count, const char *back) {
    size_t bytes = strlen(piece);
    char *body = malloc(strlen(front) + bytes * count + strlen(back) + 1);
    assert_non_null(body);
    memcpy(body, front, strlen(front));
    for (size_t i = 0; i < count; i++) memcpy(body + strlen(front) + i * bytes, piece, bytes);
    memcpy(body + strlen(front) + bytes * count, back, strlen(back) + 1);
    struct error error = parse_bad(&chat_generation, body);
    free(body);
    return error;
}

static void bounds(void **state) {
    (void)state;
    assert_string_equal(refused_pile("{\"metadata\":", "[", 64, "").message, "The body nests deeper than 64 levels");
    assert_string_equal(refused_pile("{\"metadata\":", "[", 63, "").message,
                        "The body is not valid JSON: it ends too early (line 1, column 75)");
    assert_string_equal(refused_pile("", "[", 1000000, "").message, "The body nests deeper than 64 levels");
    assert_string_equal(refused_pile("{\"messages\":[", "[],", 32767, "1]}").message,
                        "The body holds 32769 objects and arrays, at most 32768 are allowed");
    assert_string_equal(refused_pile("{\"messages\":[", "1,", 524288, "1]}").message,
                        "The body holds more than 524288 values");
    // Brackets in a string are text.
    assert_string_equal(refused_pile("{\"model\":\"\\\"", "[", 65, "\"}").message,
                        "The model '\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[' does not exist; "
                        "this server has 'fake-model'");
    assert_string_equal(
        refused_pile("{\"", "x", 100000, "\":1}").param,
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
}

static void documentation(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    schema_text(&out);
    assert_false(out.failed);
    assert_non_null(strstr(out.data, "\n  temperature               a number between 0 and 2, default: 1\n"));
    assert_non_null(
        strstr(out.data, "\n  max_tokens (completions)  an integer between 0 and 2147483647, default: 16\n"));
    assert_non_null(strstr(out.data, "\n  user                      a string\n"));
    assert_non_null(strstr(out.data, "\n  tools (chat)              only one of [[]]\n"
                                     "                            tool calls are not supported\n"));
    assert_non_null(strstr(out.data, "\n  moderation (chat)         no value\n"));
    for (const char *line = out.data; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > WRAP_COLUMNS) fail_msg("too long for a terminal: %.120s", line);
    assert_null(strstr(out.data, "nan"));
    buffer_finish(&out);
}

// Whether the server keeps to it is tried in tests/e2e/test_openapi.py.
static void documentation_for_programs(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    schema_openapi(FOR_COMPLETION, 2, &out);
    assert_false(out.failed);
    assert_memory_equal(out.data, "  type: object\n  required:\n    - prompt\n  additionalProperties: ", 64);
    assert_non_null(strstr(out.data,
                           "\n    max_tokens: {\"type\": [\"integer\", \"null\"], \"minimum\": 0, \"maximum\": "
                           "2147483647, \"description\": \"New tokens at most; 0: only the prompt, for "
                           "echo. Default: 16.\"}\n"));
    assert_non_null(strstr(out.data,
                           "\n    temperature: {\"type\": [\"number\", \"null\"], \"minimum\": 0, \"maximum\": "
                           "2, \"default\": 1, "));
    assert_non_null(strstr(out.data, "\n    echo: {\"type\": [\"boolean\", \"null\"], \"default\": false, "));
    assert_non_null(
        strstr(out.data, "\n    user: {\"type\": [\"string\", \"null\"], \"description\": \"Without effect."));
    assert_non_null(strstr(out.data, "\n    suffix: {\"enum\": [\"\", null], \"description\": \"Else refused: "));
    assert_null(strstr(out.data, " messages: "));
    assert_null(strstr(out.data, "nan"));
    buffer_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(null_is_absent),
        cmocka_unit_test(numbers),
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(same_field_by_two_names),
        cmocka_unit_test(seeds),
        cmocka_unit_test(stops),
        cmocka_unit_test(logit_bias),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(streaming),
        cmocka_unit_test(texts_beyond_the_context),
        cmocka_unit_test(more_answers_than_places),
        cmocka_unit_test(models),
        cmocka_unit_test(without_effect),
        cmocka_unit_test(predictions),
        cmocka_unit_test(refused_by_name),
        cmocka_unit_test(bodies),
        cmocka_unit_test(bounds),
        cmocka_unit_test(documentation),
        cmocka_unit_test(documentation_for_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
