// Completions, from a body to the bytes of the answer, streamed and whole.
#include "tests/api/streams.h"

static void prompts(void **state) {
    (void)state;
    struct engine_request request;
    struct generation *generation = parse_good(&completion_generation, "{\"prompt\":\"the cat\"}");
    generation_job(generation, 0, &request);
    assert_int_equal(request.prompt_tokens, 2);
    assert_true(request.prompt[0] == FAKE_THE && request.prompt[1] == FAKE_CAT);
    generation_destroy(generation);

    generation = parse_good(&completion_generation, "{\"prompt\":[7,299.0,0]}");
    assert_int_equal(generation_jobs(generation), 1);
    generation_job(generation, 0, &request);
    assert_int_equal(request.prompt_tokens, 3);
    assert_true(request.prompt[0] == 7 && request.prompt[1] == 299 && request.prompt[2] == 0);
    generation_destroy(generation);

    generation = parse_good(&completion_generation, "{\"prompt\":[\"a\",\"bc\"],\"n\":2,\"best_of\":2,\"seed\":9}");
    assert_int_equal(generation_jobs(generation), 4);
    for (size_t job = 0; job < 4; job++) {
        generation_job(generation, job, &request);
        assert_int_equal(request.prompt_tokens, job < 2 ? 2 : 3);
        assert_int_equal(request.sampling.seed, 9 + job % 2); // as if its prompt were alone
    }
    generation_destroy(generation);

    generation = parse_good(&completion_generation, "{\"prompt\":[[1],[2,3],[4]]}");
    assert_int_equal(generation_jobs(generation), 3);
    generation_job(generation, 1, &request);
    assert_true(request.prompt_tokens == 2 && request.prompt[1] == 3);
    generation_destroy(generation);

    generation = parse_good(&completion_generation, "{\"prompt\":\"a<|end|>\"}");
    generation_job(generation, 0, &request);
    assert_int_equal(request.prompt_tokens, 9); // plain text
    generation_destroy(generation);
    generation = parse_good(&completion_generation, "{\"prompt\":\"a<|end|>\",\"parse_special\":true}");
    generation_job(generation, 0, &request);
    assert_int_equal(request.prompt[2], FAKE_END);
    generation_destroy(generation);

#define KINDS "'prompt' must be a string, an array of strings, an array of token ids, or an array of those, got "
    static const char *const BAD[][2] = {
        {"\"\"", "'prompt' must not be empty"},
        {"[]", "'prompt' must not be empty"},
        {"[[]]", "'prompt' must not be empty"},
        {"[\"a\",\"\"]", "'prompt' must not be empty"},
        {"5", KINDS "5"},
        {"{}", KINDS "an object"},
        {"[1,\"a\"]", KINDS "\"a\""},
        {"[\"a\",1]", KINDS "1"},
        {"[[1],\"a\"]", KINDS "\"a\""},
        {"[[1],[1.5]]", KINDS "1.5"},
        {"[null]", KINDS "null"},
        {"[[[1]]]", KINDS "an array of 1"},
        {"[300]", "'prompt' must have token ids between 0 and 299, got 300"},
        {"[-1]", "'prompt' must have token ids between 0 and 299, got -1"},
        {"[9223372036854775807]", "'prompt' must have token ids between 0 and 299, got 9223372036854775807"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char body[128];
        snprintf(body, sizeof body, "{\"prompt\":%s}", BAD[i][0]);
        struct error error = parse_bad(&completion_generation, body);
        assert_string_equal(error.message, BAD[i][1]);
        assert_string_equal(error.param, "prompt");
    }
    assert_string_equal(parse_bad(&completion_generation, "{\"n\":16,\"prompt\":[[1],[1],[1],[1],[1]]}").message,
                        "5 prompts with 'n' = 16 ask for more than 64 answers in one request");
    generation_destroy(parse_good(&completion_generation, "{\"n\":16,\"prompt\":[[1],[1],[1],[1]]}"));
}

static void completion_whole(void **state) {
    (void)state;
    struct generation *generation = parse_good(&completion_generation, "{\"prompt\":[\"a\",\"b\"],\"n\":2}");
    assert_memory_equal(generation_id(generation), "cmpl-", 5);
    for (size_t job = 4; job-- > 0;) {
        char text[] = {'t', (char)('0' + job), '\0'};
        send(generation, job, fake_text(text), NULL);
        struct engine_event done = fake_done(job == 1 ? FINISH_LENGTH : FINISH_STOP, 3);
        done.usage.cached_tokens = (size_t[]){1, 0, 0, 1}[job]; // one of each two has read the whole prompt
        send(generation, job, done, NULL);
    }
    json_t *result = read_result(generation, 200);
    assert_json(json_object_get(result, "object"), "\"text_completion\"");
    assert_json(json_object_get(result, "choices"),
                "[{\"index\":0,\"text\":\"t0\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
                "{\"index\":1,\"text\":\"t1\",\"logprobs\":null,\"finish_reason\":\"length\"},"
                "{\"index\":2,\"text\":\"t2\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
                "{\"index\":3,\"text\":\"t3\",\"logprobs\":null,\"finish_reason\":\"stop\"}]");
    const json_t *usage = json_object_get(result, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 4);
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 12);
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 16);
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(details, "cached_tokens")), 0);
    assert_string_equal(generation_summary(generation).finish, "length");
    json_decref(result);
    generation_destroy(generation);
}

static const int32_t PROMPT[] = {FAKE_THE, FAKE_CAT, 0xc3, 0xa9};
static const int32_t ANSWER[] = {FAKE_THE};

// What lm-evaluation-harness asks: echo, logprobs and one token.
static void scoring(void **state) {
    (void)state;
    static const char *const BODIES[] = {
        "{\"prompt\":\"the cat\xc3\xa9\",\"echo\":true,\"logprobs\":1,\"max_tokens\":1}",
        "{\"prompt\":[258,260,195,169],\"echo\":true,\"logprobs\":1,\"max_tokens\":1}",
    };
    for (int i = 0; i < 2; i++) {
        struct generation *generation = parse_good(&completion_generation, BODIES[i]);
        struct engine_request request;
        generation_job(generation, 0, &request);
        assert_int_equal(request.prompt_tokens, 4);
        assert_memory_equal(request.prompt, PROMPT, sizeof PROMPT);
        assert_true(request.prompt_logprobs && request.want_logprobs && request.top_logprobs == 1);
        send(generation, 0, fake_tokens(ENGINE_EVENT_PROMPT, "", PROMPT, 4), NULL);
        send(generation, 0, fake_tokens(ENGINE_EVENT_TEXT, " the", ANSWER, 1), NULL);
        send(generation, 0, fake_done(FINISH_LENGTH, 1), NULL);
        json_t *result = read_result(generation, 200);
        assert_json(
            choice_of(result),
            "{\"index\":0,\"text\":\"the cat\xc3\xa9 the\",\"finish_reason\":\"length\",\"logprobs\":{"
            "\"tokens\":[\" the\",\" cat\",\"bytes:\\\\xc3\",\"bytes:\\\\xa9\",\" the\"],"
            "\"token_logprobs\":[null,-0.5,-0.75,-1,-0.25],"
            "\"top_logprobs\":[null,{\"<|end|>\":-0.125,\" cat\":-0.5},{\"<|end|>\":-0.125,\"bytes:\\\\xc3\":-0.75},"
            "{\"<|end|>\":-0.125,\"bytes:\\\\xa9\":-1},{\"<|end|>\":-0.125,\" the\":-0.25}],"
            "\"text_offset\":[0,3,7,8,8]}}");
        json_decref(result);
        generation_destroy(generation);
    }
}

static void no_new_tokens(void **state) {
    (void)state;
    struct engine_request request;
    struct generation *generation =
        parse_good(&completion_generation, "{\"prompt\":\"the cat\",\"echo\":true,\"max_tokens\":0}");
    generation_job(generation, 0, &request);
    assert_true(request.tokens_max == 0 && request.prompt_logprobs && !request.want_logprobs);
    send(generation, 0, fake_tokens(ENGINE_EVENT_PROMPT, "", PROMPT, 2), NULL);
    send(generation, 0, fake_done(FINISH_LENGTH, 0), NULL);
    json_t *result = read_result(generation, 200);
    assert_json(choice_of(result), "{\"index\":0,\"text\":\"the cat\",\"logprobs\":null,\"finish_reason\":\"length\"}");
    json_decref(result);
    generation_destroy(generation);
}

static void completion_stream(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    struct generation *generation =
        parse_good(&completion_generation,
                   "{\"prompt\":\"the cat\xc3\xa9\",\"echo\":true,\"logprobs\":0,\"max_tokens\":2,\"stream\":true}");
    send(generation, 0, fake_tokens(ENGINE_EVENT_PROMPT, "", PROMPT, 2), &out);
    send(generation, 0, fake_tokens(ENGINE_EVENT_TEXT, " the", ANSWER, 1), &out);
    send(generation, 0, fake_done(FINISH_STOP, 1), &out);
    struct stream stream = read_stream(&out);
    assert_true(stream.done);
    assert_int_equal(stream.count, 4);
    assert_json(json_object_get(choice_of(stream.events[0]), "text"), "\"the cat\xc3\xa9\"");
    assert_json(json_object_get(choice_of(stream.events[1]), "text"), "\"\"");
    assert_json(json_object_get(json_object_get(choice_of(stream.events[1]), "logprobs"), "tokens"),
                "[\" the\",\" cat\"]");
    assert_json(
        choice_of(stream.events[2]),
        "{\"index\":0,\"text\":\" the\",\"finish_reason\":null,\"logprobs\":{\"tokens\":[\" the\"],"
        "\"token_logprobs\":[-0.25],\"top_logprobs\":[{\"<|end|>\":-0.125,\" the\":-0.25}],\"text_offset\":[8]}}");
    assert_json(choice_of(stream.events[3]),
                "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}");
    free_stream(&stream);
    generation_destroy(generation);
    buffer_finish(&out);
}

// "A" the word and 0x41 the byte: one key, the likelier's value.
static void tokens_of_one_spelling(void **state) {
    (void)state;
    struct generation *generation = parse_good(&completion_generation, "{\"prompt\":\"x\",\"logprobs\":3}");
    struct token_logprob top[3] = {{FAKE_A, -0.5f}, {'A', -1}, {'B', -2}};
    struct engine_token token = {.token = 'A', .logprob = -1, .top_count = 3, .top = top};
    struct engine_event event = {.type = ENGINE_EVENT_TEXT, .tokens = &token, .token_count = 1};
    generation_event(generation, 0, &event, NULL);
    send(generation, 0, fake_done(FINISH_STOP, 1), NULL);
    json_t *result = read_result(generation, 200);
    assert_json(json_object_get(json_object_get(choice_of(result), "logprobs"), "top_logprobs"),
                "[{\"A\":-0.5,\"B\":-2}]");
    json_decref(result);
    generation_destroy(generation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts),
        cmocka_unit_test(completion_whole),
        cmocka_unit_test(scoring),
        cmocka_unit_test(no_new_tokens),
        cmocka_unit_test(completion_stream),
        cmocka_unit_test(tokens_of_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
