// What the server says of its work: the log, the metrics, and the headers of its answers.
#include "tests/server/service.h"

// ---- The log

static int setup_log(void **state) {
    char *flags[] = {"--body-seconds=1", "--body-bytes-max=64K", "--drain-seconds=0.3"};
    int code = start_logged(state, flags, 3);
    log_open(LOG_INFO, LOG_TEXT);
    return code;
}

static void test_log(void **state) {
    char *request = chat("secret", false, 3, CLOSE);
    answers(*state, request, 200, "t2 ");
    free(request);
    char *log = wait_for_log("POST /v1/chat/completions 200 · 7 tokens in, 3 out, length, ", 1);
    expect(log, " tokens/s, ");
    expect(log, " s · req-");
    expect(log, " · chatcmpl-");

    answers(*state, LINE("POST", "/v1/chat/completions") CLOSE "Content-Length: 15\r\n\r\n{\"messages\":[]}", 400, "");
    log = wait_for_log("POST /v1/chat/completions 400 invalid_request_error messages, ", 1);
    assert_int_equal(count(log, "tokens"), 2); // those of the first line

    int fd = dial(*state, 0);
    say_too_large(fd);
    free(hear(fd, NULL));
    close(fd);
    log = wait_for_log("POST /v1/chat/completions 413 too_large, ", 1);
    answers(*state, LINE("POST", "/v1/completions") "Content-Length: 9\r\n\r\n{", 408, "");
    log = wait_for_log("POST /v1/completions 408 request_timeout, ", 1);
    assert_int_equal(count(log, "the client left"), 0);

    fd = dial(*state, 0);
    say_chat(fd, "silent", false, 5, "");
    wait_for_load(*state, 1, 0);
    close(fd);
    log = wait_for_log("POST /v1/chat/completions 499 (the client left) · 7 tokens in, ", 1);
    assert_int_equal(count(log, "secret"), 0);
}

static void test_json_log(void **state) {
    log_open(LOG_INFO, LOG_JSON);
    char *request = chat("secret", false, 3, CLOSE "X-Request-Id: mine.1\r\n");
    answers(*state, request, 200, "t2 ");
    free(request);
    char *log =
        wait_for_log("\"prompt_tokens\":7,\"completion_tokens\":3,\"finish\":\"length\",\"tokens_per_second\":", 1);
    expect(log, "{\"time\":\"20");
    expect(log,
           "Z\",\"level\":\"info\",\"message\":\"request\",\"request_id\":\"mine.1\",\"client\":\"127.0.0.1\","
           "\"method\":\"POST\",\"target\":\"/v1/chat/completions\",\"route\":\"/v1/chat/completions\",\"status\":200,"
           "\"duration_ms\":");
    answers(*state, LINE("GET", "/no\"thing\\") CLOSE "\r\n", 404, "");
    log = wait_for_log("\"target\":\"/no\\\"thing\\\\\",\"status\":404,", 1);
    answers(*state, "GET / HTTP/1.1\r\n\r\n", 400, ""); // without a Host: turned away by the listener
    log = wait_for_log("\"client\":\"127.0.0.1\",\"status\":400,\"error\":\"invalid_headers\"}", 1);
    assert_int_equal(count(log, "\n"), 3);
    assert_int_equal(count(log, "\"request_id\":\""), 3);
    assert_int_equal(count(log, "secret"), 0);
}

// ---- What is counted

static void ask(const struct service *service, const char *text, bool stream, int tokens, int status) {
    char *request = chat(text, stream, tokens, CLOSE);
    answers(service, request, status, "");
    free(request);
}

#define CHATS(status) "tandem_requests_total{route=\"/v1/chat/completions\",status=\"" status "\"}"
#define OUTCOME(name) "tandem_generations_total{outcome=\"" name "\"}"

static void test_metrics(void **state) {
    const struct service *service = *state;
    ask(service, "plain", false, 4, 200);
    ask(service, "plain", true, 5, 200);
    wait_for_metric(service, CHATS("200"), 2);
    wait_for_metric(service, OUTCOME("length"), 2);
    wait_for_metric(service, "tandem_prompt_tokens_total", 12);
    wait_for_metric(service, "tandem_completion_tokens_total", 9);
    wait_for_metric(service, "tandem_time_to_first_token_seconds_count", 2);
    wait_for_metric(service, "tandem_time_between_tokens_seconds_count", 7);
    wait_for_metric(service, "tandem_generation_duration_seconds_count", 2);
    wait_for_metric(service, "tandem_queue_duration_seconds_count", 2);

    ask(service, "fail-now", false, 4, 500);
    ask(service, "fail-later", true, 4, 200); // an error event, behind a header that said 200
    wait_for_metric(service, CHATS("500"), 1);
    wait_for_metric(service, CHATS("200"), 3);
    wait_for_metric(service, OUTCOME("error"), 2);
    wait_for_metric(service, "tandem_generation_duration_seconds_count", 2); // of those that went well
    wait_for_metric(service, "tandem_completion_tokens_total", 12);

    ask(service, "too-long", false, 4, 400);
    ask(service, "too-long", true, 4, 400);
    wait_for_metric(service, OUTCOME("refused"), 2);
    assert_int_equal((int)metric(service, OUTCOME("error")), 2);

    answers(service, LINE("GET", "/secret") CLOSE "\r\n", 404, "");
    answers(service, LINE("PUT", "/health") CLOSE "\r\n", 405, "");
    answers(service, "GET / HTTP/1.1\r\n\r\n", 400, "");
    wait_for_metric(service, "tandem_requests_total{route=\"other\",status=\"404\"}", 1);
    wait_for_metric(service, "tandem_requests_total{route=\"other\",status=\"405\"}", 1);
    wait_for_metric(service, "tandem_requests_total{route=\"other\",status=\"400\"}", 1);
}

// Those who leave: before there is an answer (499), and in the middle of a stream (200, and cancelled).
static void test_metrics_of_leaving(void **state) {
    const struct service *service = *state;
    int fd = dial(service, 0);
    say_chat(fd, "silent", false, 5, "");
    wait_for_load(service, 1, 0);
    wait_for_metric(service, "tandem_sequences_running", 1);
    wait_for_metric(service, "tandem_connections", 2); // and the one that asks
    wait_for_metric(service, "tandem_requests_in_progress", 2);
    close(fd);
    wait_for_metric(service, CHATS("499"), 1);
    wait_for_metric(service, OUTCOME("cancelled"), 1);

    fd = dial(service, 0);
    say_chat(fd, "on", true, 100000, "");
    free(hear(fd, "t3 "));
    close(fd);
    wait_for_metric(service, CHATS("200"), 1);
    wait_for_metric(service, OUTCOME("cancelled"), 2);
    wait_for_metric(service, "tandem_sequences_running", 0);
    wait_for_metric(service, "tandem_connections", 1);
    wait_for_metric(service, "tandem_requests_in_progress", 1);
    assert_true(metric(service, "tandem_completion_tokens_total") >= 4);
}

// Many clients at once, every one of which is counted, with its tokens; while others look at the numbers all the time.
enum { CLIENTS = 16, ROUNDS = 8, TOKENS = 3 };

static void *client(void *user) {
    const struct service *service = user;
    for (int i = 0; i < ROUNDS; i++) {
        ask(service, "plain", i % 2, TOKENS, 200);
        answers(service, HEALTH CLOSE "\r\n", 200, "");
        answers(service, LINE("GET", "/metrics") CLOSE "\r\n", 200, "tandem_requests_total");
        answers(service, LINE("GET", "/nothing") CLOSE "\r\n", 404, "");
    }
    return NULL;
}

static void test_metrics_of_many(void **state) {
    struct service *service = *state;
    pthread_t clients[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) assert_int_equal(pthread_create(&clients[i], NULL, client, service), 0);
    for (int i = 0; i < CLIENTS; i++) pthread_join(clients[i], NULL);
    enum { ALL = CLIENTS * ROUNDS };
    wait_for_metric(service, CHATS("200"), ALL);
    wait_for_metric(service, "tandem_requests_total{route=\"/health\",status=\"200\"}", ALL);
    wait_for_metric(service, "tandem_requests_total{route=\"other\",status=\"404\"}", ALL);
    assert_true(metric(service, "tandem_requests_total{route=\"/metrics\",status=\"200\"}") >= ALL);
    wait_for_metric(service, OUTCOME("length"), ALL);
    wait_for_metric(service, "tandem_completion_tokens_total", ALL * TOKENS);
    wait_for_metric(service, "tandem_prompt_tokens_total", ALL * (double)strlen("plain\n"));
    wait_for_metric(service, "tandem_time_to_first_token_seconds_count", ALL);
    wait_for_metric(service, "tandem_time_between_tokens_seconds_count", ALL * (TOKENS - 1));
    wait_for_metric(service, "tandem_generation_duration_seconds_bucket{le=\"+Inf\"}", ALL);
}

// In milliseconds: the total on every answer, and where it went on those that are whole.
static void test_server_timing(void **state) {
    char *whole = chat("plain", false, 4, CLOSE), *stream = chat("plain", true, 4, CLOSE);
    char *failing = chat("fail-now", false, 4, CLOSE);
    answers(*state, whole, 200, "Server-Timing: queue;dur=0.0, prompt;dur=0.0, decode;dur=2.0, total;dur=");
    answers(*state, stream, 200, "Server-Timing: total;dur=");
    answers(*state, failing, 500, "Server-Timing: total;dur=");
    answers(*state, HEALTH CLOSE "\r\n", 200, "Server-Timing: total;dur=");
    answers(*state, LINE("GET", "/nowhere") CLOSE "\r\n", 404, "Server-Timing: total;dur=");
    answers(*state, LINE("PUT", "/health") CLOSE "\r\n", 405, "Server-Timing: total;dur=");
    answers(*state, LINE("POST", "/v1/completions") CLOSE "Content-Length: 1\r\n\r\n{", 400,
            "Server-Timing: total;dur=");
    free(whole);
    free(stream);
    free(failing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_log, setup_log, teardown_logged),
        cmocka_unit_test_setup_teardown(test_json_log, setup_log, teardown_logged),
        cmocka_unit_test_setup_teardown(test_metrics, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metrics_of_leaving, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metrics_of_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server_timing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
