// API keys: where they are read from, which headers have one, and what a server does with requests that have none.
#include "api/endpoint.h"
#include "server/api_keys.h"
#include "tests/server/service.h"

static struct api_keys keys;
static struct error error;

static int teardown_keys(void **state) {
    (void)state;
    api_keys_finish(&keys);
    return 0;
}

// A file of these bytes; its path.
static const char *file_of(const char *text, size_t bytes) {
    static char path[32];
    strcpy(path, "/tmp/tandem-keys-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, bytes) == (ssize_t)bytes);
    close(fd);
    return path;
}

static int read_file(const char *text, size_t bytes) {
    const char *path = file_of(text, bytes);
    int code = api_keys_read(&keys, NULL, NULL, path, &error);
    unlink(path);
    return code;
}

static void says(const char *words) {
    if (!strstr(error.message, words)) fail_msg("`%s` does not say `%s`", error.message, words);
    assert_null(strstr(error.message, "secret"));
}

static bool accepts(const char *authorization) {
    return api_keys_accept(&keys, authorization, NULL);
}

static size_t which_of(const char *authorization) {
    size_t which;
    return api_keys_accept(&keys, authorization, &which) ? which : 0;
}

static void test_list(void **state) {
    (void)state;
    assert_int_equal(api_keys_read(&keys, NULL, NULL, "", &error), 0);
    assert_int_equal(keys.count, 0);
    assert_int_equal(api_keys_read(&keys, " one,two , ,three,", "A_KEY", "", &error), 0);
    assert_int_equal(keys.count, 3);
    assert_true(accepts("Bearer one"));
    assert_true(accepts("Bearer two"));
    assert_true(accepts("Bearer three"));
    assert_int_equal(which_of("Bearer one"), 1);
    assert_int_equal(which_of("Bearer three"), 3);
    assert_int_equal(which_of("Bearer four"), 0);
    assert_false(accepts("Bearer one,two"));
}

static void test_file(void **state) {
    (void)state;
    static const char text[] = "# for the office\n  one \r\n\n#two\nthree#3";
    assert_int_equal(read_file(text, sizeof text - 1), 0);
    assert_int_equal(keys.count, 2);
    assert_true(accepts("Bearer one"));
    assert_true(accepts("Bearer three#3"));
    api_keys_finish(&keys);
    assert_int_equal(keys.count, 0);

    const char *path = file_of("b\n", 2);
    assert_int_equal(api_keys_read(&keys, "a", "A_KEY", path, &error), 0); // both count
    unlink(path);
    assert_true(accepts("Bearer a") && accepts("Bearer b"));
}

// A place is named, a key is not; and what is wrong leaves no keys behind, rather than some.
static void test_wrong(void **state) {
    (void)state;
    char text[API_KEY_BYTES_MAX + 8] = "secret";
    memset(text + 6, 'x', API_KEY_BYTES_MAX - 5);
    assert_int_equal(api_keys_read(&keys, text, "A_KEY", NULL, &error), ERROR_ARGUMENT);
    says("A_KEY:1: a key has at most 256 characters, this one has 257");
    assert_int_equal(api_keys_read(&keys, "good,secret with blanks", "A_KEY", NULL, &error), ERROR_ARGUMENT);
    says("A_KEY:2: a key is made of visible ASCII characters other than the comma");
    assert_int_equal(keys.count, 0);
    assert_null(keys.keys);
    assert_int_equal(api_keys_read(&keys, " , ", "A_KEY", NULL, &error), ERROR_ARGUMENT);
    says("A_KEY: expected API keys, found none");
    assert_int_equal(read_file("# none yet\n\n", 12), ERROR_ARGUMENT);
    says("expected API keys, found none");
    assert_int_equal(read_file("", 0), ERROR_ARGUMENT);
    assert_int_equal(read_file("good\nsecret,\n", 13), ERROR_ARGUMENT);
    says(":2: a key is made of");
    assert_int_equal(read_file("secret\xc3\xa9\n", 9), ERROR_ARGUMENT);
    assert_int_equal(read_file("secret\0more\n", 12), ERROR_ARGUMENT);
    says(":1: a key is made of");
    assert_int_equal(api_keys_read(&keys, "good", "A_KEY", "/no/such/file", &error), ERROR_NOT_FOUND);
    says("/no/such/file");
    assert_int_equal(keys.count, 0);
    assert_int_not_equal(api_keys_read(&keys, NULL, NULL, "/", &error), 0);
}

// Each is looked at with every request.
static void test_not_too_many(void **state) {
    (void)state;
    static char text[(API_KEYS_MAX + 1) * 8];
    size_t bytes = 0;
    for (int i = 1; i <= API_KEYS_MAX; i++) bytes += (size_t)sprintf(text + bytes, "k%d\n", i);
    assert_int_equal(read_file(text, bytes), 0);
    assert_int_equal(keys.count, API_KEYS_MAX);
    assert_int_equal(which_of("Bearer k1000"), 1000);
    api_keys_finish(&keys);
    bytes += (size_t)sprintf(text + bytes, "secret\n");
    assert_int_equal(read_file(text, bytes), ERROR_ARGUMENT);
    says(":1001: there can be at most 1000 API keys, this is one more");
    assert_int_equal(keys.count, 0);
}

static void test_accept(void **state) {
    (void)state;
    assert_true(accepts(NULL)); // no keys: everybody
    assert_true(accepts("whatever"));
    char list[2 * API_KEY_BYTES_MAX + 2], header[API_KEY_BYTES_MAX + 32];
    memset(list, 'k', sizeof list);
    memcpy(list, "sk-abc,", 7);
    list[7 + API_KEY_BYTES_MAX] = '\0';
    assert_int_equal(api_keys_read(&keys, list, "A_KEY", NULL, &error), 0);
    static const char *const right[] = {"Bearer sk-abc", "bearer sk-abc", "BEARER   sk-abc", "Bearer sk-abc \t "};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) assert_true(accepts(right[i]));
    static const char *const wrong[] = {"",
                                        "Bearer",
                                        "Bearer ",
                                        "Bearer    ",
                                        "sk-abc",
                                        "Bearersk-abc",
                                        "Basic sk-abc",
                                        "Token sk-abc",
                                        "Bearer sk-ab",
                                        "Bearer sk-abcd",
                                        "Bearer sk-abC",
                                        "Bearer k-abc",
                                        "Bearer xk-abc",
                                        "Bearer sk-abc sk-abc",
                                        "Bearer \"sk-abc\"",
                                        "Bearer\tsk-abc"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (accepts(wrong[i])) fail_msg("`%s` was accepted", wrong[i]);
    assert_false(accepts(NULL));
    for (int more = -1; more <= 1; more++) { // the longest key there can be, and its neighbours
        snprintf(header, sizeof header, "Bearer %.*s", API_KEY_BYTES_MAX + more, list + 7);
        if (more > 0) strcat(header, "k");
        assert_int_equal(accepts(header), more == 0);
    }
}

static void test_why_not(void **state) {
    (void)state;
    static const char EMPTY[] = "is empty", UNKNOWN[] = "not one that this server knows", OTHER[] = "has no API key";
    static const char *const CASES[][2] = {
        {NULL, "wants an API key"}, {"", OTHER},       {"Bearer", EMPTY},     {"bearer   ", EMPTY},
        {"Bearer x", UNKNOWN},      {"BEARER  x", UNKNOWN}, {"Bearerx", OTHER}, {"Basic eDp5", OTHER},
        {"sk-abc", OTHER},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *told = api_keys_why_not(CASES[i][0]);
        if (!strstr(told, CASES[i][1])) fail_msg("`%s` is told: %s", CASES[i][0], told);
    }
}

// One character at a time, everywhere in the key.
static void test_every_character_counts(void **state) {
    (void)state;
    char key[API_KEY_BYTES_MAX + 1], header[API_KEY_BYTES_MAX + 32];
    for (int i = 0; i < API_KEY_BYTES_MAX; i++) key[i] = (char)('a' + i % 26);
    key[API_KEY_BYTES_MAX] = '\0';
    assert_int_equal(api_keys_read(&keys, key, "A_KEY", NULL, &error), 0);
    for (int i = 0; i < API_KEY_BYTES_MAX; i++) {
        key[i] ^= 1;
        snprintf(header, sizeof header, "Bearer %s", key);
        assert_false(accepts(header));
        key[i] ^= 1;
    }
    snprintf(header, sizeof header, "Bearer %s", key);
    assert_true(accepts(header));
}

// ---- A server with two keys

#define KEY(key) "Authorization: Bearer " key "\r\n"

static int setup_keys(void **state) {
    char *flags[] = {"--api-key=key-of-ann,key-of-bob", "--cors-origin=*"};
    return start_logged(state, flags, 2);
}

// Every endpoint there is: without a key only those that the table calls open are there for all.
static void test_endpoints(void **state) {
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        const struct endpoint *endpoint = &ENDPOINTS[i];
        bool deletes = strcmp(endpoint->method, "DELETE") == 0; // what is not there
        char path[64];
        snprintf(path, sizeof path, "%.*s%s", (int)strcspn(endpoint->path, "{"), endpoint->path,
                 strchr(endpoint->path, '{') ? "stub" : "");
        const char *body =
            endpoint->generation ? "{\"prompt\":\"hi\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}" : "";
        static const char *const authorizations[] = {"", KEY("key-of-eve"), KEY("key-of-ann"), KEY("key-of-bob")};
        for (int who = 0; who < 4; who++) {
            char request[512];
            snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s" CLOSE "Content-Length: %zu\r\n\r\n%s", endpoint->method,
                     path, authorizations[who], strlen(body), body);
            bool let_in = endpoint->open || who >= 2;
            int fd = dial(*state, 0);
            say(fd, request);
            char *answer = hear(fd, NULL);
            close(fd);
            if (let_in && endpoint->generation) { // both have one field too many, which is told to those who may ask
                expect_status(answer, 400);
            } else {
                expect_status(answer, !let_in ? 401 : deletes ? 404 : 200);
            }
            if (!let_in) {
                expect(answer, "WWW-Authenticate: Bearer realm=\"Tandem\"\r\n");
                expect(answer, "\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_api_key\"}}");
                expect(answer, who == 0 ? "This server wants an API key" : "not one that this server knows");
                assert_null(strstr(answer, "key-of"));
            }
            assert_int_equal(strstr(answer, "\r\nWWW-Authenticate: ") == NULL, let_in);
            free(answer);
        }
    }
}

// One client's answer is nothing to another, whatever it is called: it looks as if it were not there.
static void test_others_are_not_cancelled(void **state) {
    int fd = dial(*state, 0);
    say_chat(fd, "silent", true, 5, KEY("key-of-ann") "X-Request-Id: mine\r\n");
    wait_for_load(*state, 1, 0);
    answers(*state, LINE("DELETE", "/v1/chat/completions/mine") KEY("key-of-bob") CLOSE "\r\n", 404, "not_found");
    answers(*state, LINE("DELETE", "/v1/chat/completions/mine") CLOSE "\r\n", 401, "invalid_api_key");
    wait_for_load(*state, 1, 0);
    answers(*state, LINE("DELETE", "/v1/chat/completions/mine") KEY("key-of-ann") CLOSE "\r\n", 200, "\"mine\"");
    wait_for_load(*state, 0, 0);
    close(fd);
}

// A body that came without a key is not looked at, and the connection goes on.
static void test_connection_goes_on(void **state) {
    int fd = dial(*state, 0);
    say_chat(fd, "hi", false, 2, KEY("key-of-eve"));
    char *answer = hear(fd, "invalid_api_key\"}}");
    expect_status(answer, 401);
    free(answer);
    say_chat(fd, "hi", false, 2, KEY("key-of-bob") CLOSE);
    answer = hear(fd, NULL);
    expect_status(answer, 200);
    expect(answer, "t0 t1 ");
    free(answer);
    close(fd);
    answers(*state, LINE("POST", "/v1/completions") CLOSE "Content-Length: 8\r\n\r\nnonsense", 401, "invalid_api_key");
    answers(*state, LINE("GET", "/v1/models") KEY("") CLOSE "\r\n", 401, "The API key is empty");
}

// What has nothing to do with keys is answered as ever; and a browser asks before it has one to send.
static void test_before_keys(void **state) {
    answers(*state, LINE("GET", "/nothing") CLOSE "\r\n", 404, "");
    answers(*state, LINE("DELETE", "/v1/models") CLOSE "\r\n", 405, "");
    answers(*state, "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n" KEY("key-of-ann") CLOSE "\r\n", 403, "");
    answers(
        *state,
        LINE("OPTIONS", "/v1/chat/completions") "Origin: http://a.example\r\nAccess-Control-Request-Method: POST\r\n"
                                                "Access-Control-Request-Headers: authorization\r\n" CLOSE "\r\n",
        204, "Access-Control-Allow-Headers: authorization\r\n");
}

// Not even where everything is logged.
static void check_log(const struct service *service, enum log_format format) {
    log_open(LOG_DEBUG, format);
    answers(service, LINE("GET", "/v1/models") KEY("key-of-ann") CLOSE "\r\n", 200, "stub");
    answers(service, LINE("GET", "/v1/models") KEY("key-of-eve") CLOSE "\r\n", 401, "");
    answers(service, LINE("GET", "/metrics") KEY("key-of-bob") CLOSE "\r\n", 200, "status=\"401\"");
    const char *log = wait_for_log("\n", 3);
    assert_int_equal(count(log, "key-of"), 0);
    assert_int_equal(count(log, "invalid_api_key"), 1); // why it was refused
}

static void test_log_of_text(void **state) {
    check_log(*state, LOG_TEXT);
}

static void test_log_of_json(void **state) {
    check_log(*state, LOG_JSON);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_list, teardown_keys),
        cmocka_unit_test_teardown(test_file, teardown_keys),
        cmocka_unit_test_teardown(test_wrong, teardown_keys),
        cmocka_unit_test_teardown(test_not_too_many, teardown_keys),
        cmocka_unit_test_teardown(test_accept, teardown_keys),
        cmocka_unit_test(test_why_not),
        cmocka_unit_test_teardown(test_every_character_counts, teardown_keys),
        cmocka_unit_test_setup_teardown(test_endpoints, setup_keys, teardown_logged),
        cmocka_unit_test_setup_teardown(test_others_are_not_cancelled, setup_keys, teardown_logged),
        cmocka_unit_test_setup_teardown(test_connection_goes_on, setup_keys, teardown_logged),
        cmocka_unit_test_setup_teardown(test_before_keys, setup_keys, teardown_logged),
        cmocka_unit_test_setup_teardown(test_log_of_text, setup_keys, teardown_logged),
        cmocka_unit_test_setup_teardown(test_log_of_json, setup_keys, teardown_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
