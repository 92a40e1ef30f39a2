// DELETE of what is under way, in every state that a request goes through: what whoever asks is told, and what the one
// sees whose request it was. Made for ThreadSanitizer as well.
#include "tests/server/service.h"

static int setup_two_places(void **state) {
    char *flags[] = {"--max-sequences=2", "--queue=2"};
    return start(state, flags, 2);
}

#define CHATS "/v1/chat/completions"

// An answer's own id, as its stream tells it.
static void read_id(const char *answer, char id[64]) {
    const char *at = strstr(answer, "\"id\":\"");
    assert_non_null(at);
    snprintf(id, 64, "%.*s", (int)strcspn(at + 6, "\""), at + 6);
}

static void cancel(const struct service *service, const char *path, const char *id, int status, const char *part) {
    char request[256];
    snprintf(request, sizeof request, "DELETE %s/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n" CLOSE "\r\n", path, id);
    answers(service, request, status, part);
}

// By a DELETE from another connection: the place is free, the client is told, and its connection goes on.
static void test_cancelled(void **state) {
    static const char again[] = HEALTH CLOSE "\r\n";
    char id[64];
    for (int named = 0; named < 2; named++) { // a stream of which something has been heard
        int fd = dial(*state, 0), other = dial(*state, 0);
        say_chat(other, "silent", true, 5, "X-Request-Id: other\r\n");
        say_chat(fd, "hi", true, 1000000, "X-Request-Id: mine\r\n");
        char *answer = hear(fd, "t9 ");
        read_id(answer, id);
        free(answer);
        cancel(*state, "/v1/completions", id, 404, "not_found");
        cancel(*state, CHATS, named ? "mine" : id, 200, "\"object\":\"chat.completion.deleted\",\"deleted\":true}");
        answer = hear(fd, "\r\n0\r\n\r\n");
        expect(answer, "\"code\":\"request_cancelled\",\"status\":499}}");
        assert_null(strstr(answer, "[DONE]"));
        free(answer);
        wait_for_load(*state, 1, 0); // nobody else
        say(fd, again);
        answer = hear(fd, NULL);
        expect_status(answer, 200);
        free(answer);
        cancel(*state, CHATS, id, 404, "not_found"); // it has ended
        close(fd);
        close(other);
        wait_for_load(*state, 0, 0);
    }
    wait_for_metric(*state, "tandem_generations_total{outcome=\"cancelled\"}", 4);
    assert_int_equal((int)metric(*state, "tandem_generations_total{outcome=\"error\"}"), 0);
}

// One that has not begun to answer, whether it streams, runs or waits: the status is still to be chosen. All that bear
// the name go.
static void test_cancelled_before_an_answer(void **state) {
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(*state, 0);
        say_chat(fds[i], "silent", i % 2, 5, i < 3 ? CLOSE "X-Request-Id: all\r\n" : CLOSE "X-Request-Id: one\r\n");
        wait_for_load(*state, i < 2 ? i + 1 : 2, i < 2 ? 0 : i - 1);
    }
    cancel(*state, CHATS, "one", 200, "");
    wait_for_load(*state, 2, 1);
    cancel(*state, CHATS, "all", 200, "");
    wait_for_load(*state, 0, 0);
    for (int i = 0; i < 4; i++) {
        char *answer = hear(fds[i], NULL);
        expect_status(answer, 499);
        expect(answer, "A DELETE request has ended this answer");
        free(answer);
        close(fds[i]);
    }
    cancel(*state, CHATS, "all", 404, "Nothing under way");
    answers(*state, LINE("GET", CHATS "/all") CLOSE "\r\n", 405, "Allow: DELETE\r\n");
    answers(*state, LINE("DELETE", CHATS) CLOSE "\r\n", 405, "Allow: POST\r\n");
}

// Where there are no API keys, clients are told apart by their addresses, whatever they call their requests.
static void test_others_are_not_cancelled(void **state) {
    int mine = dial_as(*state, "127.0.0.2", 0), other = dial_as(*state, "127.0.0.3", 0);
    say_chat(mine, "on", true, 100000, CLOSE "X-Request-Id: 1\r\n");
    say_chat(other, "hi", true, 400, CLOSE "X-Request-Id: 1\r\n");
    wait_for_load(*state, 2, 0);
    cancel(*state, CHATS, "1", 404, "not_found"); // from 127.0.0.1
    int fd = dial_as(*state, "127.0.0.2", 0);
    say(fd, LINE("DELETE", CHATS "/1") CLOSE "\r\n");
    char *answer = hear(fd, NULL);
    expect_status(answer, 200);
    free(answer);
    close(fd);
    answer = hear(mine, NULL);
    expect(answer, "request_cancelled");
    free(answer);
    close(mine);
    answer = hear(other, NULL); // to its last token
    assert_int_equal(count(answer, "{\"content\":\"t"), 400);
    expect(answer, "\"t399 \"");
    expect(answer, "data: [DONE]\n\n");
    free(answer);
    close(other);
}

// The client is told, and the connection ends.
static void expect_cancelled(int fd) {
    char *answer = hear(fd, NULL);
    expect_status(answer, 499);
    expect(answer, "A DELETE request has ended this answer");
    assert_int_equal(count(answer, "HTTP/1.1 "), 1);
    free(answer);
    close(fd);
}

// The end of its body is not waited for, whether more of it comes or not.
static void test_cancelled_while_its_body_arrives(void **state) {
    static const char *const starts[] = {
        "Content-Length: 100\r\n\r\n",
        "Content-Length: 100\r\n\r\n{\"prompt\":",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"p\r\n40\r\nrom",
    };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        for (int goes_on = 0; goes_on < 2; goes_on++) {
            int fd = dial(*state, 0);
            say(fd, LINE("POST", "/v1/completions") "X-Request-Id: mine\r\n");
            say(fd, starts[i]);
            wait_for_metric(*state, "tandem_requests_in_progress", 2); // and the one that asks for this
            cancel(*state, "/v1/completions", "mine", 200, "text_completion.deleted");
            if (goes_on) say(fd, "pt\": 1}");
            expect_cancelled(fd);
            wait_for_metric(*state, "tandem_requests_in_progress", 1);
            wait_for_metric(*state, "tandem_request_body_memory_bytes", 0);
        }
}

static int teardown_released(void **state) {
    stub_engine_hold_tokenizing(false); // where the test has failed before it did
    return teardown(state);
}

// On a thread of the pool, or waiting for one.
static void test_cancelled_while_it_is_tokenized(void **state) {
    enum { ALL = 6 }; // the pool has four threads
    int fds[ALL];
    stub_engine_hold_tokenizing(true);
    for (int i = 0; i < ALL; i++) {
        fds[i] = dial(*state, 0);
        say_chat(fds[i], "hi", i % 2, 5, CLOSE "X-Request-Id: mine\r\n");
    }
    char *request = chat("hi", false, 5, "");
    double each = (double)strlen(strstr(request, "\r\n\r\n") + 4), bytes = ALL / 2 * (each + each - 1); // "true", "false"
    free(request);
    wait_for_metric(*state, "tandem_request_body_bytes_total", bytes);
    cancel(*state, CHATS, "mine", 200, "\"mine\"");
    cancel(*state, CHATS, "mine", 404, "not_found");
    for (int i = 0; i < ALL; i++) expect_cancelled(fds[i]);
    stub_engine_hold_tokenizing(false);
    wait_for_metric(*state, "tandem_request_body_memory_bytes", 0);
    wait_for_load(*state, 0, 0);
    assert_int_equal((int)metric(*state, "tandem_completion_tokens_total"), 0);
}

// Where a DELETE and the end of the tokenizing come in one turn of the loop, the first to come decides what both are
// told: here one that there is no place for, again and again, since nobody can choose the turn.
static void test_cancelled_as_it_is_refused(void **state) {
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(*state, 0);
        say_chat(fds[i], "silent", true, 5, "");
    }
    wait_for_load(*state, 2, 2);
    double bytes = metric(*state, "tandem_request_body_bytes_total");
    char *request = chat("hi", false, 5, CLOSE "X-Request-Id: mine\r\n");
    for (int i = 0; i < 100; i++) {
        int fd = dial(*state, 0), other = dial(*state, 0);
        stub_engine_hold_tokenizing(true);
        say(fd, request);
        wait_for_metric(*state, "tandem_request_body_bytes_total",
                        bytes += (double)strlen(strstr(request, "\r\n\r\n") + 4));
        if (i % 2) stub_engine_hold_tokenizing(false);
        say(other, LINE("DELETE", CHATS "/mine") CLOSE "\r\n");
        stub_engine_hold_tokenizing(false);
        char *told = hear(other, NULL), *answer = hear(fd, NULL);
        bool deleted = strncmp(told, "HTTP/1.1 200 ", 13) == 0;
        if (!deleted) expect_status(told, 404);
        expect_status(answer, deleted ? 499 : 429);
        free(told);
        free(answer);
        close(fd);
        close(other);
    }
    free(request);
    for (int i = 0; i < 4; i++) close(fds[i]);
}

// All answers of a request end with it, those that have begun and those that wait, and a stream says so once.
static void test_cancelled_with_several_answers(void **state) {
    static const char *const bodies[] = {
        "{\"stream\":true,\"max_tokens\":100000,\"n\":2,\"prompt\":[\"<a>\",\"<b> silent\"]}",
        "{\"stream\":false,\"max_tokens\":100000,\"n\":2,\"prompt\":[\"<a>\",\"<b> silent\"]}",
    };
    for (int i = 0; i < 2; i++) {
        char request[512];
        snprintf(request, sizeof request,
                 LINE("POST", "/v1/completions") CLOSE "X-Request-Id: mine\r\nContent-Length: %zu\r\n\r\n%s",
                 strlen(bodies[i]), bodies[i]);
        int fd = dial(*state, 0);
        say(fd, request);
        wait_for_load(*state, 2, 2);
        char *begun = i == 0 ? hear(fd, "a.3 ") : strdup("");
        cancel(*state, "/v1/completions", "mine", 200, "");
        wait_for_load(*state, 0, 0);
        if (i == 0) {
            char *answer = hear(fd, NULL);
            assert_int_equal(count(begun, "{\"error\"") + count(answer, "{\"error\""), 1);
            expect(answer, "\"code\":\"request_cancelled\",\"status\":499}}\n\n\r\n0\r\n\r\n");
            free(answer);
            close(fd);
        } else {
            expect_cancelled(fd);
        }
        free(begun);
    }
}

// A stream that waits and has told so already has no status left to choose: it gets an event.
static void test_cancelled_behind_a_heartbeat(void **state) {
    int fd = dial(*state, 0);
    say_chat(fd, "silent", true, 5, "X-Request-Id: mine\r\n");
    free(hear(fd, ": ping\n\n"));
    cancel(*state, CHATS, "mine", 200, "");
    char *answer = hear(fd, "\r\n0\r\n\r\n");
    expect(answer, "\"code\":\"request_cancelled\",\"status\":499}}\n\n");
    free(answer);
    close(fd);
}

// However close together: the first has ended it, the second finds nothing.
static void test_cancelled_twice_at_once(void **state) {
    int fd = dial(*state, 0), other = dial(*state, 0);
    say_chat(fd, "hi", false, 100000, CLOSE "X-Request-Id: mine\r\n");
    wait_for_load(*state, 1, 0);
    say(other, LINE("DELETE", CHATS "/mine") "\r\n" LINE("DELETE", CHATS "/mine") CLOSE "\r\n");
    char *answers = hear(other, NULL);
    expect_status(answers, 200);
    assert_int_equal(count(answers, "HTTP/1.1 200 "), 1);
    assert_int_equal(count(answers, "HTTP/1.1 404 "), 1);
    free(answers);
    close(other);
    expect_cancelled(fd);
}

static void wait_until_nobody_is_let_in(const struct service *service) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)strtol(strrchr(service->socket.address, ':') + 1, NULL, 10));
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int refused = connect(fd, (struct sockaddr *)&address, sizeof address);
        close(fd);
        if (refused) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("the server still takes connections");
}

// Over a connection that was there before: the server need not wait for that answer any more.
static void test_cancelled_while_the_server_drains(void **state) {
    struct service *service = *state;
    int other = dial(service, 0), fd = dial(service, 0);
    say(other, HEALTH "\r\n");
    free(hear(other, "}"));
    say_chat(fd, "hi", true, 1000000, "X-Request-Id: mine\r\n");
    free(hear(fd, "t0 "));
    kill(getpid(), SIGTERM);
    wait_until_nobody_is_let_in(service);
    say(other, LINE("DELETE", CHATS "/mine") "\r\n");
    char *answer = hear(other, NULL);
    expect_status(answer, 200);
    free(answer);
    answer = hear(fd, "\r\n0\r\n\r\n");
    expect(answer, "\"code\":\"request_cancelled\",\"status\":499}}\n\n");
    free(answer);
    stop(service);
    *state = NULL;
    close(fd);
    close(other);
}

#define WITH(setup_of_it, test) cmocka_unit_test_setup_teardown(test, setup_of_it, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH(setup, test_cancelled),
        WITH(setup_two_places, test_cancelled_before_an_answer),
        WITH(setup, test_others_are_not_cancelled),
        WITH(setup, test_cancelled_while_its_body_arrives),
        cmocka_unit_test_setup_teardown(test_cancelled_while_it_is_tokenized, setup, teardown_released),
        WITH(setup_two_places, test_cancelled_as_it_is_refused),
        WITH(setup_two_places, test_cancelled_with_several_answers),
        WITH(setup_impatient, test_cancelled_behind_a_heartbeat),
        WITH(setup, test_cancelled_twice_at_once),
        WITH(setup, test_cancelled_while_the_server_drains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
