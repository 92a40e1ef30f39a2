// The log's lines, for people and as JSON: whatever a client says, each is one line and one valid object.
#include "server/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static int log_file, log_before;
static off_t log_seen;
static char text[256 * 1024];

static int setup(void **state) {
    (void)state;
    log_file = memfd_create("log", 0);
    log_seen = 0;
    fflush(stderr);
    log_before = dup(STDERR_FILENO);
    return log_file < 0 || dup2(log_file, STDERR_FILENO) < 0 ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    dup2(log_before, STDERR_FILENO);
    close(log_before);
    close(log_file);
    log_open(LOG_INFO, LOG_TEXT);
    return 0;
}

// All that was logged since the last call.
static const char *take(void) {
    ssize_t got = pread(log_file, text, sizeof text - 1, log_seen);
    text[got > 0 ? got : 0] = '\0';
    log_seen += got;
    return text;
}

static json_t *take_object(void) {
    const char *line = take();
    size_t bytes = strcspn(line, "\n");
    assert_int_equal(line[bytes], '\n');
    assert_int_equal(line[bytes + 1], '\0');
    assert_true(bytes < LOG_LINE_BYTES_MAX);
    struct json_error_t error;
    json_t *object = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!object) fail_msg("%s: %s", error.text, line);
    assert_true(json_is_object(object));
    return object;
}

static const char *string_of(const json_t *object, const char *name) {
    return json_string_value(json_object_get(object, name));
}

static void test_text(void **state) {
    (void)state;
    log_open(LOG_INFO, LOG_TEXT);
    log_write(LOG_DEBUG, "not this");
    log_write(LOG_INFO, "so %d\n\033[31m", 1);
    assert_non_null(strstr(take(), " info    so 1??[31m\n"));
    log_about(LOG_WARNING, "req-1", "careful");
    assert_non_null(strstr(take(), " warning careful · req-1\n"));
}

static void test_json(void **state) {
    (void)state;
    log_open(LOG_INFO, LOG_JSON);
    log_write(LOG_DEBUG, "not this");
    log_about(LOG_WARNING, "req-1", "a \"word\"\n\\ \x01 \xff");
    json_t *object = take_object();
    assert_string_equal(string_of(object, "level"), "warning");
    assert_string_equal(string_of(object, "message"), "a \"word\"\n\\ \x01 \xef\xbf\xbd");
    assert_string_equal(string_of(object, "request_id"), "req-1");
    int parts[7], end = 0;
    int found = sscanf(string_of(object, "time"), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &parts[0], &parts[1], &parts[2],
                       &parts[3], &parts[4], &parts[5], &parts[6], &end);
    assert_int_equal(found, 7);
    assert_int_equal(end, strlen("2026-11-21T07:17:51.123Z"));
    assert_int_equal(strlen(string_of(object, "time")), end);
    json_decref(object);
}

static const struct generation_summary SUMMARY = {
    .prompt_tokens = 12, .completion_tokens = 34, .tokens_per_second = 5.5, .finish = "stop"};
static const struct access ACCESS = {
    .method = "POST",
    .target = "/v1/completions?a=b",
    .route = "/v1/completions",
    .request_id = "req-2",
    .client = "::1",
    .status = 200,
    .param = "",
    .seconds = 1.25,
    .generation_id = "cmpl-3",
    .summary = &SUMMARY,
};

static void test_access(void **state) {
    (void)state;
    log_open(LOG_INFO, LOG_TEXT);
    access_log(LOG_DEBUG, &ACCESS);
    assert_string_equal(take(), "");
    access_log(LOG_INFO, &ACCESS);
    assert_non_null(strstr(take(), " POST /v1/completions?a=b 200 · 12 tokens in, 34 out, stop, 5.5 tokens/s, 1.25 s · "
                                   "req-2 · cmpl-3\n"));
    log_open(LOG_INFO, LOG_JSON);
    access_log(LOG_INFO, &ACCESS);
    json_t *object = take_object();
    assert_int_equal(json_object_del(object, "time"), 0);
    char *members = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(members,
                        "{\"client\":\"::1\",\"completion_tokens\":34,\"duration_ms\":1250,\"finish\":\"stop\","
                        "\"generation_id\":\"cmpl-3\",\"level\":\"info\",\"message\":\"request\",\"method\":\"POST\","
                        "\"prompt_tokens\":12,\"request_id\":\"req-2\",\"route\":\"/v1/completions\",\"status\":200,"
                        "\"target\":\"/v1/completions?a=b\",\"tokens_per_second\":5.5}");
    free(members);
    json_decref(object);

    struct access refused = {.refusal = "too \"many\"", .request_id = "req-4", .client = "", .status = 429};
    access_log(LOG_INFO, &refused);
    object = take_object();
    assert_string_equal(string_of(object, "message"), "too \"many\"");
    assert_string_equal(string_of(object, "request_id"), "req-4");
    assert_null(json_object_get(object, "client"));
    assert_null(json_object_get(object, "duration_ms"));
    json_decref(object);
    log_open(LOG_INFO, LOG_TEXT);
    access_log(LOG_INFO, &refused);
    assert_non_null(strstr(take(), " a connection was refused with 429: too \"many\" · req-4\n"));
}

// Whatever bytes a client puts where it may, and however many: always a valid line, and never cut short.
static void test_hostile(void **state) {
    (void)state;
    log_open(LOG_INFO, LOG_JSON);
    uint64_t random = 88172645463325252;
    char *long_text = malloc(100001);
    assert_non_null(long_text);
    for (int round = 0; round < 500; round++) {
        size_t bytes = round % 3 == 0 ? 100000 : (size_t)round;
        for (size_t i = 0; i < bytes; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            long_text[i] = (char)(round % 2 ? random | 1 : 1); // 1: becomes six bytes
        }
        long_text[bytes] = '\0';
        struct access access = ACCESS;
        char param[96], id[65];
        snprintf(param, sizeof param, "%s", long_text);
        snprintf(id, sizeof id, "%s", long_text);
        access.method = access.target = long_text;
        access.cause = "ARGUMENT";
        access.param = param;
        access.failed = "the client reads too slowly";
        access.request_id = id;
        access_log(LOG_INFO, &access);
        json_decref(take_object());
        log_about(LOG_INFO, id, "%s", long_text);
        json_decref(take_object());
        access.refusal = long_text;
        access_log(LOG_INFO, &access);
        json_decref(take_object());
    }
    free(long_text);
}

// Where nobody reads the other end, lines are left out, and the next that gets through says how many.
static void test_dropped(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    log_open(LOG_INFO, LOG_JSON);
    dup2(ends[1], STDERR_FILENO);
    for (int i = 0; i < 2000; i++) log_write(LOG_INFO, "%0100d", i);
    while (read(ends[0], text, sizeof text) > 0) continue;
    log_write(LOG_INFO, "again");
    ssize_t got = read(ends[0], text, sizeof text - 1);
    dup2(log_file, STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    assert_true(got > 0);
    text[got] = '\0';
    assert_non_null(strstr(text, " lines were dropped"));
    assert_non_null(strstr(text, "\"message\":\"again\"}\n"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_access, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dropped, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
