// The engine on a model of cardboard: what comes out of requests, alone and in company.
#include "tests/unit/fake_model.h"

#include "base/utf8.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

#define IDS(...) ((const int32_t[]){__VA_ARGS__})

static int32_t letter(char c) {
    return TOKEN_A + c - 'a';
}

static int32_t byte_token(unsigned char byte) {
    return TOKEN_BYTE_0 + byte;
}

// Spells a word of letters; its length.
static int spell(const char *word, int32_t *out) {
    int count = 0;
    for (; *word; word++) out[count++] = *word == ' ' ? TOKEN_MARK : letter(*word);
    return count;
}

// ---- One request

static void an_answer_is_complete(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t prompt[100];
    struct outcome outcome;
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 100, 5, 40);
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.end, ENGINE_EVENT_DONE);
    assert_int_equal(outcome.finish, FINISH_LENGTH);
    assert_int_equal(outcome.token_count, 40);
    assert_int_equal(outcome.bytes, 40); // each token is a letter or a space
    for (int i = 0; i < 40; i++)
        assert_int_equal(outcome.text[i], outcome.tokens[i] == TOKEN_MARK ? ' ' : 'a' + outcome.tokens[i] - TOKEN_A);
    assert_true(isnan(outcome.logprobs[0])); // not asked for
    assert_int_equal(outcome.usage.prompt_tokens, 100);
    assert_int_equal(outcome.usage.completion_tokens, 40);
    assert_int_equal(outcome.usage.cached_tokens, 0);
    assert_true(outcome.usage.queue_seconds >= 0 && outcome.usage.prompt_seconds > 0 &&
                outcome.usage.decode_seconds > 0);
    check_idle(engine);

    struct engine_stats stats;
    engine_stats(engine, &stats);
    assert_int_equal(stats.prompt_tokens, 100);
    assert_int_equal(stats.completion_tokens, 40);
    assert_int_equal(stats.steps, 40); // the first token comes from the prompt's step
    engine_close(engine);
}

static void info_tells_what_runs(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){.kv_tokens = 1000, .weights = WEIGHTS_BF16});
    const struct engine_info *info = engine_info(engine);
    assert_string_equal(info->model_name, strrchr(fake_dir, '/') + 1);
    assert_string_equal(info->architecture, "fake");
    assert_string_equal(info->weights, "bf16");
    assert_string_equal(info->device, "cardboard");
    assert_int_equal(info->context_tokens, 512);
    assert_int_equal(info->vocab_size, VOCAB);
    assert_int_equal(info->token_bytes_max, strlen("<|assistant|>"));
    assert_int_equal(info->sequences_max, ENGINE_SEQUENCES_STANDARD);
    assert_int_equal(info->queue_max, ENGINE_QUEUE_STANDARD);
    assert_int_equal(info->threads, 1);
    assert_int_equal(info->kv_tokens, 1024); // whole pages
    assert_int_equal(info->parameters, 1234);
    assert_int_equal(info->created, 5678);
    assert_true(info->load_seconds > 0);
    engine_close(engine);

    engine = open_engine((struct engine_options){.sequences_max = 3});
    assert_int_equal(engine_info(engine)->kv_tokens, 3 * 512); // all of them at full length
    engine_close(engine);
    engine_close(NULL);
}

static void text_and_tokens(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    struct token_list list = {0};
    struct error error;
    assert_int_equal(engine_text_tokens(engine, "ab", 2, false, &list, &error), 0);
    assert_int_equal(list.count, 3);
    assert_memory_equal(list.ids, IDS(TOKEN_MARK, letter('a'), letter('b')), sizeof(int32_t[3]));
    token_list_finish(&list);
    struct chat_message message = {"user", "a", 1};
    assert_int_equal(engine_chat_tokens(engine, &message, 1, &list, &error), 0);
    assert_int_equal(list.ids[0], TOKEN_USER);
    assert_int_equal(list.ids[list.count - 1], TOKEN_ASSISTANT);
    token_list_finish(&list);
    size_t bytes;
    assert_memory_equal(engine_token_text(engine, TOKEN_END, &bytes), "<|end|>", 7);
    assert_int_equal(bytes, 7);
    assert_null(engine_token_text(engine, -1, &bytes));
    engine_close(engine);
    assert_string_equal(finish_reason_text(FINISH_STOP), "stop");
    assert_string_equal(finish_reason_text(FINISH_LENGTH), "length");
}

static void the_seed_decides(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t prompt[9];
    static struct outcome first, again, other;
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 9, 5, 60);
    run_request(engine, &request, &first);
    run_request(engine, &request, &again);
    request.sampling.seed++;
    run_request(engine, &request, &other);
    assert_string_equal(first.text, again.text);
    assert_string_not_equal(first.text, other.text);
    engine_close(engine);
}

// ---- Where an answer ends

static void an_answer_ends_with_its_turn(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    const int32_t script[] = {letter('o'), letter('k'), TOKEN_SYSTEM, letter('x'), TOKEN_END, letter('y')};
    int32_t prompt[3];
    struct outcome outcome;
    struct engine_request request = script_request(prompt, script, 6, 50);
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.finish, FINISH_STOP);
    assert_string_equal(outcome.text, "okx"); // a special token inside makes no text, but it is told
    assert_int_equal(outcome.token_count, 4); // the one that ends is not
    assert_memory_equal(outcome.tokens, script, 4 * sizeof *script);
    assert_int_equal(outcome.usage.completion_tokens, 4);

    request.ignore_eos = true;
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.finish, FINISH_LENGTH);
    assert_int_equal(outcome.token_count, 50);
    assert_memory_equal(outcome.text, "okxyokxyok", 10);

    const int32_t at_once[] = {TOKEN_ENDOFTEXT, TOKEN_ASSISTANT}; // the second is the chat format's, not the config's
    for (int i = 0; i < 2; i++) {
        request = script_request(prompt, &at_once[i], 1, 1);
        run_request(engine, &request, &outcome);
        assert_int_equal(outcome.finish, FINISH_STOP);
        assert_int_equal(outcome.token_count, 0);
        assert_int_equal(outcome.events, 1);
    }
    check_idle(engine);
    engine_close(engine);
}

static void stop_strings_never_leak(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t script[32], prompt[3];
    struct outcome outcome;
    struct engine_request request = script_request(prompt, script, spell("hello world ", script), 12);
    request.stops[0] = (struct text_span){"low", 3}; // never comes
    request.stops[1] = (struct text_span){"wor", 3};
    request.stop_count = 2;
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "hello ");
    assert_int_equal(outcome.finish, FINISH_STOP);
    assert_int_equal(outcome.token_count, 9); // up to the one that completed it

    request.stops[1] = (struct text_span){"worlds", 6}; // held back to the end, then given out
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "hello world ");
    assert_int_equal(outcome.finish, FINISH_LENGTH);

    request.stops[0] = (struct text_span){"ld ", 3}; // completed by the last token: a stop all the same
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "hello wor");
    assert_int_equal(outcome.finish, FINISH_STOP);

    request.tokens_max = 4; // "hel" is all held back when the length ends it
    request.stops[0] = (struct text_span){"hello", 5};
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "hell");
    assert_int_equal(outcome.finish, FINISH_LENGTH);

    script[4] = TOKEN_END; // or when the turn does
    request.tokens_max = 12;
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "hell");
    assert_int_equal(outcome.finish, FINISH_STOP);
    assert_int_equal(outcome.token_count, 4);

    script[1] = byte_token(0xe2); // what the end makes of half a character can be a stop string too
    request.tokens_max = 2;
    request.stops[0] = (struct text_span){"\xef\xbf\xbd", 3};
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "h");
    assert_int_equal(outcome.finish, FINISH_STOP);
    engine_close(engine);
}

static void characters_come_whole(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    const char *snowman = "\xe2\x98\x83";
    int32_t script[] = {letter('a'), byte_token(0xe2), byte_token(0x98), byte_token(0x83), byte_token(0xe2)};
    int32_t prompt[3];
    struct engine_request request = script_request(prompt, script, 5, 7);
    struct engine_job *job = submit(engine, &request);
    static struct outcome outcome;
    outcome = (struct outcome){0};
    for (struct engine_event *event; (event = engine_job_wait(job));) {
        assert_true(utf8_valid(event->text, event->text_bytes));
        if (event->type == ENGINE_EVENT_TEXT) assert_int_equal(event->token_count, 1); // told while text is held
        if (add_event(&outcome, event)) break;
    }
    engine_job_release(job);
    // a ☃ (e2 broken off by the a that starts again) a (e2 broken off by the end)
    char expected[32];
    snprintf(expected, sizeof expected, "a%s%sa%s", snowman, "\xef\xbf\xbd", "\xef\xbf\xbd");
    assert_string_equal(outcome.text, expected);
    engine_close(engine);
}

static void a_space_in_front_belongs_to_the_tokenizer(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    const int32_t script[] = {TOKEN_MARK, letter('h'), TOKEN_MARK, letter('i')};
    int32_t prompt[3];
    struct outcome outcome;
    struct engine_request request = script_request(prompt, script, 4, 4);
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, " h i"); // the prompt's text goes on
    request.strip_space = true;
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "h i"); // a text of its own
    engine_close(engine);
}

// ---- How long it may get

static void expect_refusal(struct engine *engine, const struct engine_request *request, int code, const char *part,
                           const char *other_part) {
    struct engine_job *job = NULL;
    struct error error = {0};
    assert_int_equal(engine_submit(engine, request, &job, &error), code);
    assert_null(job);
    if (!strstr(error.message, part) || !strstr(error.message, other_part)) fail_msg("%s", error.message);
}

static void lengths_are_checked_before(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){.kv_tokens = 320});
    static int32_t prompt[1000];
    static struct outcome outcome;
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 500, 1, 13);
    expect_refusal(engine, &request, ERROR_CONTEXT_LENGTH, "500", "512");
    expect_refusal(engine, &request, ERROR_CONTEXT_LENGTH, "13", "513");
    request.tokens_max = 12; // the context would do
    expect_refusal(engine, &request, ERROR_KV_CAPACITY, "512", "320");
    request.tokens_max = INT32_MAX;
    expect_refusal(engine, &request, ERROR_CONTEXT_LENGTH, "2147483647", "512");
    request.tokens_max = -1;
    request.prompt_tokens = 512;
    expect_refusal(engine, &request, ERROR_CONTEXT_LENGTH, "512", "no room");
    request.prompt_tokens = 320;
    expect_refusal(engine, &request, ERROR_KV_CAPACITY, "320 tokens and at least 1", "320");
    request.prompt_tokens = SIZE_MAX; // never looked at
    expect_refusal(engine, &request, ERROR_CONTEXT_LENGTH, "18446744073709551615", "512");

    request.prompt_tokens = 319; // exactly full
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.token_count, 1);
    request.prompt_tokens = 20; // as many as there is room for
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.token_count, 300);
    assert_int_equal(outcome.finish, FINISH_LENGTH);
    check_idle(engine);
    engine_close(engine);

    engine = open_engine((struct engine_options){0});
    request.prompt_tokens = 20;
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.token_count, 492);
    engine_close(engine);
}

static void unsound_requests_are_refused(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t prompt[4];
    struct logit_bias bias = {TOKEN_A, 1};
    const struct engine_request sound = request_of(prompt, PROMPT_RANDOM, 4, 1, 4);
#define REFUSED(change, part) \
    do { \
        struct engine_request request = sound; \
        change; \
        expect_refusal(engine, &request, ERROR_ARGUMENT, part, ""); \
    } while (0)
    REFUSED(request.prompt_tokens = 0, "empty");
    REFUSED(request.tokens_max = 0, "0 new tokens");
    REFUSED(request.tokens_max = -2, "-2 new tokens");
    REFUSED(request.stop_count = 5, "at most 4");
    REFUSED(request.stop_count = -1, "at most 4");
    REFUSED(request.stop_count = 1, "empty");
    REFUSED(request.top_logprobs = 21, "between 0 and 20");
    REFUSED(request.top_logprobs = -1, "between 0 and 20");
    REFUSED(request.sampling.temperature = NAN, "temperature is nan");
    REFUSED(request.sampling.temperature = -0.1f, "temperature");
    REFUSED(request.sampling.temperature = INFINITY, "temperature");
    REFUSED(request.sampling.top_p = 1.5f, "top_p");
    REFUSED(request.sampling.min_p = -1, "min_p");
    REFUSED(request.sampling.top_k = -1, "top_k");
    REFUSED(request.sampling.repetition_penalty = 0, "repetition_penalty");
    REFUSED(request.sampling.presence_penalty = NAN, "presence_penalty");
    REFUSED(request.sampling.frequency_penalty = -1e9f, "frequency_penalty");
    REFUSED((request.sampling.bias = &bias, request.sampling.bias_count = 1, bias.bias = INFINITY), "logit_bias");
    REFUSED((request.sampling.bias = &bias, request.sampling.bias_count = 1, bias.bias = 1, bias.token = VOCAB),
            "token id 320 in the logit_bias");
    REFUSED((request.sampling.bias = &bias, request.sampling.bias_count = 1, bias.token = -1), "token id -1");
    prompt[2] = VOCAB;
    REFUSED((void)0, "token id 320 in the prompt is outside the vocabulary, which is 0 to 319");
    prompt[2] = -1;
    REFUSED((void)0, "token id -1 in the prompt");
#undef REFUSED
    check_idle(engine);
    engine_close(engine);
}

static void sampling_settings_arrive(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t prompt[5];
    static struct outcome outcome;
    struct logit_bias bias = {letter('q'), 1000};
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, 5, 3, 30);
    request.sampling.bias = &bias;
    request.sampling.bias_count = 1;
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq");

    // "q" leads by little; what the answer holds already is then avoided as long as there is something else.
    bias.bias = 5.5f;
    request.tokens_max = 20;
    request.sampling.temperature = 0;
    request.sampling.presence_penalty = 50;
    run_request(engine, &request, &outcome);
    assert_int_equal(outcome.text[0], 'q');
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < i; k++) assert_int_not_equal(outcome.tokens[i], outcome.tokens[k]);

    request = request_of(prompt, PROMPT_RANDOM, 5, 3, 1); // the prompt's tokens count for the repetition penalty
    memcpy(prompt, IDS(TOKEN_A, letter('b'), letter('b'), letter('b'), letter('b')), sizeof prompt);
    bias = (struct logit_bias){letter('b'), 100};
    request.sampling.bias = &bias;
    request.sampling.bias_count = 1;
    run_request(engine, &request, &outcome);
    assert_string_equal(outcome.text, "b");
    request.sampling.repetition_penalty = 100;
    request.sampling.temperature = 0;
    run_request(engine, &request, &outcome);
    assert_string_not_equal(outcome.text, "b");
    engine_close(engine);
}

// ---- Log-probabilities

static void answers_come_with_logprobs(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){0});
    int32_t history[64];
    struct engine_request request = request_of(history, PROMPT_RANDOM, 10, 3, 30);
    request.want_logprobs = true;
    request.top_logprobs = 5;
    struct engine_job *job = submit(engine, &request);
    int count = 10;
    struct engine_event *event;
    for (; (event = engine_job_wait(job)) && event->type == ENGINE_EVENT_TEXT; engine_event_destroy(event)) {
        assert_int_equal(event->token_count, 1);
        const struct engine_token *token = &event->tokens[0];
        float logits[VOCAB], logprob;
        struct token_logprob top[5];
        struct error error;
        fake_logits(history, count, logits);
        assert_int_equal(sampler_logprobs(logits, VOCAB, token->token, &logprob, top, 5, &error), 5);
        assert_true(token->logprob == logprob);
        assert_int_equal(token->top_count, 5);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(token->top[i].token, top[i].token);
            assert_true(token->top[i].logprob == top[i].logprob);
        }
        history[count++] = token->token;
    }
    assert_int_equal(count, 40);
    engine_event_destroy(event);
    engine_job_release(job);
    engine_close(engine);
}

// Several events of bounded size, whatever the chunks; the numbers are those of the model.
static void prompts_come_with_logprobs(void **state) {
    (void)state;
    static const int CHUNKS[] = {1, 7, 64, 256};
    static const size_t LENGTHS[] = {1, 2, 64, 65, 200};
    for (size_t c = 0; c < 4; c++) {
        struct engine *engine = open_engine((struct engine_options){.prefill_tokens_max = CHUNKS[c]});
        for (size_t l = 0; l < 5; l++) {
            int32_t prompt[200];
            struct engine_request request = request_of(prompt, PROMPT_RANDOM, LENGTHS[l], 3, (int)(l % 2));
            request.prompt_logprobs = true;
            request.top_logprobs = 2;
            struct engine_job *job = submit(engine, &request);
            size_t told = 0;
            struct engine_event *event;
            for (; (event = engine_job_wait(job)) && event->type == ENGINE_EVENT_PROMPT; engine_event_destroy(event)) {
                assert_in_range(event->token_count, 1, 65);
                for (int i = 0; i < event->token_count; i++, told++) {
                    const struct engine_token *token = &event->tokens[i];
                    assert_int_equal(token->token, prompt[told]);
                    assert_int_equal(token->top_count, told == 0 ? 0 : 2);
                    float logits[VOCAB], logprob;
                    struct token_logprob top[2];
                    struct error error;
                    if (told == 0) {
                        assert_true(isnan(token->logprob));
                        continue;
                    }
                    fake_logits(prompt, (int)told, logits);
                    sampler_logprobs(logits, VOCAB, token->token, &logprob, top, 2, &error);
                    assert_true(token->logprob == logprob);
                    assert_true(token->top[1].token == top[1].token && token->top[1].logprob == top[1].logprob);
                }
            }
            assert_int_equal(told, LENGTHS[l]);
            static struct outcome rest;
            rest = (struct outcome){0};
            while (!add_event(&rest, event)) event = engine_job_wait(job);
            assert_int_equal(rest.end, ENGINE_EVENT_DONE);
            assert_int_equal(rest.token_count, request.tokens_max);
            engine_job_release(job);
            if (request.tokens_max == 0) continue;
            static struct outcome without; // the answer is the same as that to a request that does not ask
            request.prompt_logprobs = false;
            run_request(engine, &request, &without);
            assert_string_equal(rest.text, without.text);
        }
        check_idle(engine);
        engine_close(engine);
    }
}

// ---- In company

enum { COMPANY = 8 };

static struct engine_request company_request(int32_t *prompt, int i) {
    static const size_t LENGTHS[COMPANY] = {1, 33, 300, 64, 5, 130, 31, 12};
    struct engine_request request = request_of(prompt, PROMPT_RANDOM, LENGTHS[i], (uint32_t)i + 1, 60 + 10 * i);
    request.sampling.temperature = i % 3 ? 1 : 0;
    request.sampling.top_p = i % 2 ? 0.8f : 1;
    request.sampling.top_k = i % 4 == 1 ? 7 : 0;
    request.sampling.frequency_penalty = i % 4 == 2 ? 0.5f : 0;
    request.want_logprobs = i % 3 == 1;
    request.prompt_logprobs = i == 3;
    return request;
}

static void company_changes_nothing(void **state) {
    (void)state;
    static int32_t prompts[COMPANY][300];
    static struct outcome alone[COMPANY], together[COMPANY];
    struct engine *engine = open_engine((struct engine_options){.prefill_tokens_max = 20});
    struct engine_request requests[COMPANY];
    struct engine_job *jobs[COMPANY];
    for (int i = 0; i < COMPANY; i++) {
        requests[i] = company_request(prompts[i], i);
        run_request(engine, &requests[i], &alone[i]);
        assert_int_equal(alone[i].token_count, 60 + 10 * i);
    }
    gate_hold();
    for (int i = 0; i < COMPANY; i++) jobs[i] = submit(engine, &requests[i]);
    gate_open();
    for (int i = 0; i < COMPANY; i++) finish_job(jobs[i], &together[i]);
    for (int i = 0; i < COMPANY; i++) {
        assert_string_equal(together[i].text, alone[i].text);
        assert_memory_equal(together[i].logprobs, alone[i].logprobs, sizeof alone[i].logprobs);
    }
    check_idle(engine);

    int most = 0; // they did run together
    for (int i = 0; i < gate_arrived(); i++) {
        int answers = fake.steps[i].answers; // while there are none, short prompts go together
        assert_true(fake.steps[i].rows <= (answers ? 20 + answers : scheduler_rows_max(20)));
        if (fake.steps[i].sequences > most) most = fake.steps[i].sequences;
    }
    assert_int_equal(most, COMPANY);
    engine_close(engine);
}

// A stream's next token comes with each chunk of another's prompt.
static void long_prompts_come_in_chunks(void **state) {
    (void)state;
    struct engine *engine = open_engine((struct engine_options){.prefill_tokens_max = 16});
    int32_t short_prompt[4], long_prompt[400];
    static struct outcome outcome;
    struct engine_request stream = request_of(short_prompt, PROMPT_RANDOM, 4, 1, 60);
    struct engine_request big = request_of(long_prompt, PROMPT_RANDOM, 400, 2, 2);
    gate_hold();
    struct engine_job *first = submit(engine, &stream);
    gate_await(1);
    struct engine_job *second = submit(engine, &big);
    gate_open();
    finish_job(first, &outcome);
    assert_int_equal(outcome.token_count, 60);
    finish_job(second, &outcome);
    assert_int_equal(fake.steps[0].rows, 4);
    for (int i = 1; i < 26; i++) {
        assert_int_equal(fake.steps[i].rows, 1 + 16);
        assert_int_equal(fake.steps[i].outputs, i < 25 ? 1 : 2);
    }
    engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_complete),
        cmocka_unit_test(info_tells_what_runs),
        cmocka_unit_test(text_and_tokens),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(an_answer_ends_with_its_turn),
        cmocka_unit_test(stop_strings_never_leak),
        cmocka_unit_test(characters_come_whole),
        cmocka_unit_test(a_space_in_front_belongs_to_the_tokenizer),
        cmocka_unit_test(lengths_are_checked_before),
        cmocka_unit_test(unsound_requests_are_refused),
        cmocka_unit_test(sampling_settings_arrive),
        cmocka_unit_test(answers_come_with_logprobs),
        cmocka_unit_test(prompts_come_with_logprobs),
        cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(long_prompts_come_in_chunks),
    };
    return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
