// The table of endpoints and what they answer at once; errors as clients see them; JSON strings.
#include "api/endpoint.h"
#include "api/json.h"
#include "api/sse.h"
#include "base/utf8.h"
#include "tests/api/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct endpoint *find(const char *method, const char *path) {
    for (size_t i = 0; i < ENDPOINT_COUNT; i++)
        if (strcmp(ENDPOINTS[i].method, method) == 0 && strcmp(ENDPOINTS[i].path, path) == 0) return &ENDPOINTS[i];
    fail_msg("no endpoint %s %s", method, path);
    return NULL;
}

static void assert_answer(const char *path, const struct api_context *context, const char *parameter, int status,
                          const char *body) {
    struct api_reply reply;
    api_reply_init(&reply);
    find("GET", path)->answer(context, parameter, &reply);
    assert_int_equal(reply.status, status);
    assert_string_equal(reply.content_type, "application/json");
    assert_string_equal(reply.body.data, body);
    buffer_finish(&reply.body);
}

static void table(void **state) {
    (void)state;
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        assert_true(!ENDPOINTS[i].answer != !ENDPOINTS[i].generation);
        assert_true(ENDPOINTS[i].path[0] == '/' && ENDPOINTS[i].help[0]);
        for (size_t j = 0; j < i; j++)
            assert_true(strcmp(ENDPOINTS[i].path, ENDPOINTS[j].path) ||
                        strcmp(ENDPOINTS[i].method, ENDPOINTS[j].method));
    }
    assert_ptr_equal(find("POST", "/v1/chat/completions")->generation, &chat_generation);
    assert_ptr_equal(find("POST", "/v1/completions")->generation, &completion_generation);
}

#define MODEL \
    "{\"id\":\"fake-model\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"tandem\",\"architecture\":" \
    "\"phimoe\",\"weights\":\"bf16\",\"parameters\":1000,\"context_length\":128,\"max_model_len\":128}"

static void models(void **state) {
    (void)state;
    const struct api_context context = {.engine = &fake};
    assert_answer("/v1/models", &context, NULL, 200, "{\"object\":\"list\",\"data\":[" MODEL "]}");
    assert_answer("/v1/models/{id}", &context, "fake-model", 200, MODEL);
    assert_answer("/v1/models/{id}", &context, "no/such\xff\n\"", 404,
                  "{\"error\":{\"message\":\"The model 'no/such? \\\"' does not exist; this server has 'fake-model'\","
                  "\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}");
}

// The first is the id, the others mean the same.
static void model_names(void **state) {
    (void)state;
    const struct api_context context = {.engine = &fake};
    fake.info.model_names = "fake-model,a/b";
    assert_answer("/v1/models", &context, NULL, 200, "{\"object\":\"list\",\"data\":[" MODEL "]}");
    assert_answer("/v1/models/{id}", &context, "a/b", 200, MODEL);
    assert_answer("/v1/models/{id}", &context, "a", 404,
                  "{\"error\":{\"message\":\"The model 'a' does not exist; this server has 'fake-model', 'a/b'\","
                  "\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}");
    static char many[4096];
    for (int i = 0; i < 2000; i++) memcpy(many + 2 * i, "m,", 2);
    many[3999] = '\0';
    fake.info.model_names = many;
    struct api_reply reply;
    api_reply_init(&reply);
    find("GET", "/v1/models/{id}")->answer(&context, "a", &reply);
    assert_true(reply.body.bytes < 1000); // not all of them
    buffer_finish(&reply.body);
    fake.info.model_names = NULL;
}

static void health(void **state) {
    (void)state;
    struct engine engine = fake;
    struct api_context context = {.engine = &engine};
    const char *ok = "{\"status\":\"ok\",\"running\":2,\"waiting\":3,\"step_running_seconds\":0.000}";
    const char *ready = "{\"status\":\"ready\",\"running\":2,\"waiting\":3,\"step_running_seconds\":30.000}";
    assert_answer("/health", &context, NULL, 200, ok);
    engine.stats.step_running_seconds = 30;
    assert_answer("/ready", &context, NULL, 200, ready);
    engine.stats.step_running_seconds = 31;
    assert_answer("/ready", &context, NULL, 503,
                  "{\"status\":\"stalled\",\"running\":2,\"waiting\":3,\"step_running_seconds\":31.000,\"error\":{"
                  "\"message\":\"A step of the engine has been running for 31 seconds (more than 30)\","
                  "\"type\":\"server_error\",\"param\":null,\"code\":\"internal_error\"}}");
    engine.stats.step_running_seconds = 0;
    context.shutting_down = true;
    assert_answer("/health", &context, NULL, 200, ok);
    assert_answer("/ready", &context, NULL, 503,
                  "{\"status\":\"shutting_down\",\"running\":2,\"waiting\":3,\"step_running_seconds\":0.000,\"error\":{"
                  "\"message\":\"The server is shutting down\",\"type\":\"server_error\",\"param\":null,"
                  "\"code\":\"shutting_down\"}}");
}

static void write_some(void *user, struct buffer *out) {
    buffer_text(out, user);
}

// The server's numbers come through as they are, as what Prometheus asks for.
static void metrics(void **state) {
    (void)state;
    const struct api_context context = {.engine = &fake, .write_metrics = write_some, .write_metrics_user = "up 1\n"};
    struct api_reply reply;
    api_reply_init(&reply);
    find("GET", "/metrics")->answer(&context, NULL, &reply);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_string_equal(reply.body.data, "up 1\n");
    buffer_finish(&reply.body);
}

static void greeting(void **state) {
    (void)state;
    const struct api_context context = {.engine = &fake};
    struct api_reply reply;
    api_reply_init(&reply);
    find("GET", "/")->answer(&context, NULL, &reply);
    json_t *json = json_loadb(reply.body.data, reply.body.bytes, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(json, "endpoints")), ENDPOINT_COUNT);
    json_decref(json);
    buffer_finish(&reply.body);
}

static void errors(void **state) {
    (void)state;
    static const struct {
        enum error_code code;
        int status;
        const char *type, *openai_code;
        bool retry_after, never_retry;
    } EXPECTED[] = {
        {ERROR_ARGUMENT, 400, "invalid_request_error", "null", false, false},
        {ERROR_UNSUPPORTED, 400, "invalid_request_error", "\"unsupported_parameter\"", false, false},
        {ERROR_CONTEXT_LENGTH, 400, "invalid_request_error", "\"context_length_exceeded\"", false, false},
        {ERROR_KV_CAPACITY, 400, "invalid_request_error", "\"kv_capacity_exceeded\"", false, false},
        {ERROR_HEADERS, 400, "invalid_request_error", "\"invalid_headers\"", false, false},
        {ERROR_CHUNKS, 400, "invalid_request_error", "\"invalid_chunks\"", false, false},
        {ERROR_API_KEY, 401, "invalid_request_error", "\"invalid_api_key\"", false, false},
        {ERROR_FORBIDDEN_HOST, 403, "permission_error", "\"forbidden_host\"", false, false},
        {ERROR_NOT_FOUND, 404, "invalid_request_error", "\"not_found\"", false, false},
        {ERROR_MODEL_NOT_FOUND, 404, "invalid_request_error", "\"model_not_found\"", false, false},
        {ERROR_METHOD, 405, "invalid_request_error", "\"method_not_allowed\"", false, false},
        {ERROR_TIMEOUT, 408, "invalid_request_error", "\"request_timeout\"", false, false},
        {ERROR_TOO_LARGE, 413, "invalid_request_error", "\"too_large\"", false, false},
        {ERROR_MEDIA_TYPE, 415, "invalid_request_error", "\"unsupported_media_type\"", false, false},
        {ERROR_BUSY, 429, "rate_limit_error", "\"rate_limit_exceeded\"", true, false},
        {ERROR_CANCELLED, 499, "invalid_request_error", "\"request_cancelled\"", false, false},
        {ERROR_NUMERIC, 500, "server_error", "\"numeric_error\"", false, true},
        {ERROR_MEMORY, 503, "server_error", "\"out_of_memory\"", true, false},
        {ERROR_SHUTDOWN, 503, "server_error", "\"shutting_down\"", true, false},
        {ERROR_INTERNAL, 500, "server_error", "\"internal_error\"", false, false},
        {ERROR_IO, 500, "server_error", "\"internal_error\"", false, false},
        {ERROR_FORMAT, 500, "server_error", "\"internal_error\"", false, false},
    };
    size_t codes = 0;
#define COUNT(name, value, text) codes++;
    ERROR_TABLE(COUNT)
#undef COUNT
    assert_int_equal(sizeof EXPECTED / sizeof *EXPECTED, codes);
    struct api_reply reply;
    api_reply_init(&reply);
    buffer_text(&reply.body, "half an answer");
    for (size_t i = 0; i < codes; i++) {
        struct error error;
        char expected[512];
        error_set_param(&error, EXPECTED[i].code, i % 2 ? "a \"field\"" : "", "why\x01 \xff\"");
        api_reply_error(&reply, &error);
        snprintf(expected, sizeof expected,
                 "{\"error\":{\"message\":\"Why  ?\\\"\",\"type\":\"%s\",\"param\":%s,\"code\":%s}}", EXPECTED[i].type,
                 i % 2 ? "\"a \\\"field\\\"\"" : "null", EXPECTED[i].openai_code);
        assert_string_equal(reply.body.data, expected);
        assert_int_equal(reply.status, EXPECTED[i].status);
        assert_int_equal(reply.status, api_error_status(EXPECTED[i].code));
        assert_int_equal(reply.retry_after_seconds > 0, EXPECTED[i].retry_after);
        assert_int_equal(reply.never_retry, EXPECTED[i].never_retry);
    }
    struct error later = {.code = ERROR_BUSY, .retry_seconds = 7.5}; // it knows better than the table
    api_reply_error(&reply, &later);
    assert_true(reply.retry_after_seconds == 7.5);
    error_set(&later, ERROR_BUSY, "and this one does not");
    api_reply_error(&reply, &later);
    assert_true(reply.retry_after_seconds == 1);
    struct error silent = {.code = ERROR_BUSY};
    api_reply_error(&reply, &silent);
    assert_non_null(strstr(reply.body.data, error_text(ERROR_BUSY) + 1));
    buffer_finish(&reply.body);
}

static void assert_string(const char *text, size_t bytes, const char *expected) {
    struct buffer out;
    buffer_init(&out, 1 << 20);
    json_write_string(&out, text, bytes);
    assert_string_equal(out.data, expected);
    buffer_finish(&out);
}

// Whoever wrote a message, a client reads sentences; but a field is called what it is called.
static void sentences(void **state) {
    (void)state;
    static const char *const said[][3] = {{"", "the body is empty", "The body is empty"},
                                          {"n", "'n' must be 1", "'n' must be 1"},
                                          {"top_p", "top_p is 2", "top_p is 2"},
                                          {"top_p", "there is no top_p", "There is no top_p"},
                                          {"", "\xc3\xa4", "\xc3\xa4"}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        struct error error;
        struct buffer out;
        char expected[64];
        buffer_init(&out, 1024);
        error_set_param(&error, ERROR_ARGUMENT, said[i][0], "%s", said[i][1]);
        api_error_object(&error, &out);
        snprintf(expected, sizeof expected, "{\"message\":\"%s\",", said[i][2]);
        assert_memory_equal(out.data, expected, strlen(expected));
        buffer_finish(&out);
    }
}

static void strings(void **state) {
    (void)state;
    assert_string(NULL, 0, "\"\"");
    assert_string("plain \xc3\xa9 \xf0\x9f\x98\x80", 13, "\"plain \xc3\xa9 \xf0\x9f\x98\x80\"");
    assert_string("\"\\/\n\r\t\b\x1f\x7f\0", 10, "\"\\\"\\\\/\\n\\r\\t\\u0008\\u001f\x7f\\u0000\"");
    // Line ends of clients that know too many of them.
    assert_string("\xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9 \x0b\x1c", 13, "\"\\u0085 \\u2028 \\u2029 \\u000b\\u001c\"");
    assert_string("a\xff\xe2\x80z\xed\xa0\x80", 8,
                  "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

// Any bytes make a string that a JSON reader takes, and valid text comes back as it was.
static void random_strings(void **state) {
    (void)state;
    uint64_t random = 88172645463325252;
    struct buffer out;
    buffer_init(&out, 1 << 20);
    for (int round = 0; round < 2000; round++) {
        char text[64];
        size_t bytes = (size_t)(round % 64);
        for (size_t i = 0; i < bytes; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            text[i] = (char)(round % 2 ? random : random % 0x80);
        }
        buffer_clear(&out);
        json_write_string(&out, text, bytes);
        assert_true(utf8_valid(out.data, out.bytes));
        json_t *back = json_loadb(out.data, out.bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(back);
        if (utf8_valid(text, bytes)) {
            assert_int_equal(json_string_length(back), bytes);
            assert_memory_equal(json_string_value(back), text, bytes);
        }
        json_decref(back);
    }
    buffer_finish(&out);
}

static void events(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1024);
    struct error error;
    error_set(&error, ERROR_SHUTDOWN, "bye");
    sse_error(&out, &error);
    sse_done(&out);
    assert_string_equal(out.data, "data: {\"error\":{\"message\":\"Bye\",\"type\":\"server_error\",\"param\":null,"
                                  "\"code\":\"shutting_down\",\"status\":503,\"retry_after_ms\":2000}}\n\n"
                                  "data: [DONE]\n\n");
    buffer_clear(&out);
    error_set(&error, ERROR_BUSY, "later");
    error.retry_seconds = 7.2501;
    sse_error(&out, &error);
    assert_non_null(strstr(out.data, "\"status\":429,\"retry_after_ms\":7251}}\n\n"));
    buffer_clear(&out);
    error_set(&error, ERROR_NUMERIC, "bad");
    sse_error(&out, &error);
    assert_non_null(strstr(out.data, "\"status\":500}}\n\n"));
    buffer_finish(&out);
}

// Rounded up: who comes back when told to finds room.
static void retry(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *whole, *milliseconds;
    } cases[] = {
        {0.1, "1", "100"},  {0.9995, "1", "1000"}, {1, "1", "1000"},
        {1.2, "2", "1200"}, {1.4001, "2", "1401"}, {60, "60", "60000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char whole[API_RETRY_BYTES], milliseconds[API_RETRY_BYTES];
        api_retry_after(cases[i].seconds, whole, milliseconds);
        assert_string_equal(whole, cases[i].whole);
        assert_string_equal(milliseconds, cases[i].milliseconds);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),     cmocka_unit_test(models),  cmocka_unit_test(model_names),
        cmocka_unit_test(sentences), cmocka_unit_test(health),  cmocka_unit_test(greeting),
        cmocka_unit_test(errors),    cmocka_unit_test(strings), cmocka_unit_test(random_strings),
        cmocka_unit_test(events),    cmocka_unit_test(retry),   cmocka_unit_test(metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
