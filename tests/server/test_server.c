// The whole server over real sockets, with scripted tokens in place of a model: answers, streams, clients that leave,
// that are slow or too many, and the end. Made for ThreadSanitizer as well.
#include "tests/server/service.h"

// ---- Answers

static void test_plain(void **state) {
    answers(*state, HEALTH CLOSE "\r\n", 200, "Content-Type: application/json\r\n");
    answers(*state, "GET /health HTTP/1.0\r\n\r\n", 200, "\"status\":\"ok\"");
    answers(*state, "GET http://localhost:1/health HTTP/1.1\r\n" CLOSE "Host: a\r\n\r\n", 200, "\"status\":\"ok\"");
    answers(*state, LINE("GET", "/ready") CLOSE "\r\n", 200, "{");
    answers(*state, LINE("GET", "/v1/models/stub") CLOSE "\r\n", 200, "\"id\":\"stub\"");
    answers(*state, HEALTH CLOSE "X-Request-Id: my.own_id-1\r\n\r\n", 200, "x-request-id: my.own_id-1\r\n");
    answers(*state, HEALTH CLOSE "X-Request-Id: not my own\r\n\r\n", 200, "x-request-id: req-");
}

static void test_chat(void **state) {
    int fd = dial(*state, 0);
    for (int i = 0; i < 3; i++) { // on one connection
        say_chat(fd, "hi", false, 3, "");
        char *answer = hear(fd, "\"timings\"");
        expect_status(answer, 200);
        expect(answer, "\"content\":\"t0 t1 t2 \"");
        free(answer);
        say_chat(fd, "hi", true, 3, "");
        answer = hear(fd, "\r\n0\r\n\r\n");
        expect_status(answer, 200);
        expect(answer, "Content-Type: text/event-stream\r\n");
        expect(answer, "Cache-Control: no-cache\r\n");
        join_chunks(answer);
        assert_int_equal(count(answer, "{\"content\":\"t"), 3);
        assert_int_equal(count(answer, "data: "), count(answer, "}\n\n") + 1); // events and nothing between them
        assert_int_equal(count(answer, "\n\n\n"), 0);
        expect(answer, "data: [DONE]\n\n");
        free(answer);
    }
    close(fd);
}

// As many as fit a job's queue: they come in one piece, which is one chunk of HTTP's.
static void test_tokens_that_are_ready_together_leave_together(void **state) {
    enum { TOGETHER = 32 };
    char piece[16 * 1024], last[8];
    snprintf(last, sizeof last, "t%d ", TOGETHER - 1);
    int fd = dial(*state, 0);
    say_chat(fd, "together", true, TOGETHER, "");
    for (const char *first = NULL; !first;) {
        ssize_t got = recv(fd, piece, sizeof piece - 1, 0);
        assert_true(got > 0);
        piece[got] = '\0';
        first = strstr(piece, "{\"content\":\"t0 ");
        if (!first) continue; // the header may be out before
        const char *end = strstr(first, last), *chunk_end = strstr(first, "\r\n");
        if (!end || !chunk_end || chunk_end < end) fail_msg("`%s` is not in the same chunk: %s", last, piece);
        assert_int_equal(count(first, "{\"content\":\"t"), TOGETHER);
    }
    close(fd);
}

static void test_failures(void **state) {
    char *request = chat("fail-now", true, 5, CLOSE);
    answers(*state, request, 500, "x-should-retry: false\r\n"); // a stream that has not begun has a status
    free(request);
    request = chat("fail-later", false, 5, CLOSE);
    answers(*state, request, 500, "x-should-retry: false\r\n");
    free(request);
    request = chat("fail-later", true, 5, CLOSE);
    answers(*state, request, 200, "data: {\"error\":{");
    free(request);
}

// ---- Places

// More answers than there are places for, on an idle server: that is not a matter of coming back later.
static void test_more_than_places(void **state) {
    static const char *const bodies[] = {
        "{\"max_tokens\":1,\"n\":4,\"prompt\":\"hi\"}",
        "{\"max_tokens\":1,\"n\":5,\"prompt\":\"hi\"}",
    };
    for (int i = 0; i < 2; i++) {
        char request[512];
        snprintf(request, sizeof request, LINE("POST", "/v1/completions") CLOSE "Content-Length: %zu\r\n\r\n%s",
                 strlen(bodies[i]), bodies[i]);
        answers(*state, request, i ? 400 : 200, i ? "\"param\":\"n\"" : "t0 ");
        wait_for_load(*state, 0, 0);
    }
}

// ---- Clients that leave, are slow, or too many

static void test_leaving(void **state) {
    static const char *const words[] = {"hi", "silent"}; // while tokens come, while none do
    for (int i = 0; i < 16; i++) {
        int fd = dial(*state, 0);
        say_chat(fd, words[i & 1], i & 2, 1000000, "");
        if (i & 4) wait_for_load(*state, 1, 0); // else it leaves before or while it is parsed
        struct linger reset = {.l_onoff = 1};
        if (i & 8) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
        wait_for_load(*state, 0, 0);
    }
}

static void test_leaving_while_queued(void **state) {
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(*state, 0);
        say_chat(fds[i], "silent", i % 2, 5, "");
    }
    wait_for_load(*state, 2, 2);
    char *request = chat("hi", false, 1, CLOSE);
    answers(*state, request, 429, "retry-after: 1\r\n");
    answers(*state, request, 429, "retry-after-ms: 1000\r\n");
    wait_for_metric(*state, "tandem_generations_total{outcome=\"refused\"}", 2);
    assert_int_equal((int)metric(*state, "tandem_generations_total{outcome=\"error\"}"), 0);
    close(fds[3]);
    close(fds[2]);
    wait_for_load(*state, 2, 0);
    close(fds[1]);
    wait_for_load(*state, 1, 0);
    answers(*state, request, 200, "t0 ");
    free(request);
    close(fds[0]);
    wait_for_load(*state, 0, 0);
}

static void test_slow_senders(void **state) {
    static const char *const starts[] = {"GET /hea", LINE("POST", "/v1/completions") "Content-Length: 9\r\n\r\n{"};
    for (int i = 0; i < 2; i++) {
        int fd = dial(*state, 0);
        say(fd, starts[i]);
        for (int beats = 0; beats < 8; beats++) { // a byte now and then does not help
            struct pollfd answer = {.fd = fd, .events = POLLIN};
            if (poll(&answer, 1, 100) == 1) break;
            say(fd, "a");
        }
        char *answer = hear(fd, NULL);
        expect_status(answer, 408);
        free(answer);
        close(fd);
    }
    int silent = dial(*state, 0), idle = dial(*state, 0);
    say(idle, HEALTH "\r\n");
    char *answer = hear(idle, NULL); // answered, and closed later
    expect_status(answer, 200);
    free(answer);
    answer = hear(silent, NULL);
    assert_string_equal(answer, "");
    free(answer);
    close(silent);
    close(idle);
}

static void test_slow_reader(void **state) {
    int fd = dial(*state, 2048);
    say_chat(fd, "hi", true, 1000000, "");
    wait_for_load(*state, 1, 0);
    wait_for_load(*state, 0, 0); // it was dropped, and its place is free
    close(fd);
}

// An answer that is more than the kernel's buffers hold: a prompt of 90 kB, eight times.
enum { LARGE_BYTES = 90 * 1000 };

static int ask_for_much(const struct service *service, int receive_bytes, const char *fields) {
    char *body = malloc(LARGE_BYTES + 512);
    assert_non_null(body);
    int front = sprintf(body, "{%s,\"echo\":true,\"n\":8,\"prompt\":\"", fields);
    memset(body + front, 'x', LARGE_BYTES);
    strcpy(body + front + LARGE_BYTES, "\"}");
    int fd = dial(service, receive_bytes);
    char header[256];
    snprintf(header, sizeof header, LINE("POST", "/v1/completions") CLOSE "Content-Length: %zu\r\n\r\n", strlen(body));
    say(fd, header);
    say(fd, body);
    free(body);
    return fd;
}

// Who takes nothing has fifty minutes, but a tenth of a second while others wait for a place.
static int setup_patient(void **state) {
    char *flags[] = {"--max-sequences=2", "--slow-reader-seconds=3000", "--blocking-reader-seconds=0.1"};
    return start_logged(state, flags, 3);
}

// Until it has been looked at several times whose stream stands still.
static void wait_for_looks(void) {
    nanosleep(&(struct timespec){.tv_nsec = 700000000}, NULL);
}

// Until no token has come for so long.
static void wait_for_standstill(const struct service *service) {
    struct engine_stats stats, before;
    engine_stats(service->engine, &stats);
    do {
        before = stats;
        wait_for_looks();
        engine_stats(service->engine, &stats);
    } while (stats.completion_tokens != before.completion_tokens);
}

static void test_slow_reader_holds_nobody_up(void **state) {
    int stuck[2];
    for (int i = 0; i < 2; i++) {
        stuck[i] = dial(*state, 2048);
        say_chat(stuck[i], "hi", true, 1000000, "");
    }
    wait_for_load(*state, 2, 0);
    wait_for_standstill(*state); // nobody waits, and both stay
    wait_for_load(*state, 2, 0);
    log_open(LOG_INFO, LOG_TEXT);
    char *request = chat("hi", false, 2, CLOSE);
    answers(*state, request, 200, "t1 ");
    answers(*state, request, 200, "t1 ");
    wait_for_log("the client reads too slowly", 1);
    wait_for_looks();
    wait_for_load(*state, 1, 0); // one place was enough
    free(request);
    for (int i = 0; i < 2; i++) close(stuck[i]);
}

static int setup_patient_with_one(void **state) {
    char *flags[] = {"--max-sequences=1", "--slow-reader-seconds=3000", "--blocking-reader-seconds=0.1"};
    return start(state, flags, 3);
}

// Its tokens are all there, and its place is free: whoever waits does so for somebody else's.
static void test_slow_reader_of_what_is_complete(void **state) {
    int fd = ask_for_much(*state, 2048, "\"max_tokens\":40,\"stream\":true");
    int busy = dial(*state, 0), other = dial(*state, 0);
    wait_for_metric(*state, "tandem_engine_completion_tokens_total", 8 * 40);
    wait_for_load(*state, 0, 0);
    say_chat(busy, "hi", false, 1000000, "");
    wait_for_load(*state, 1, 0);
    say_chat(other, "hi", false, 2, "");
    wait_for_load(*state, 1, 1);
    wait_for_looks();
    char *answer = hear(fd, NULL);
    assert_non_null(strstr(answer, "data: [DONE]"));
    free(answer);
    close(fd);
    close(busy);
    close(other);
}

static int setup_patient_for_longer(void **state) {
    char *flags[] = {"--max-sequences=1", "--slow-reader-seconds=3000", "--blocking-reader-seconds=2"};
    return start(state, flags, 3);
}

// Reads so many bytes a beat, for so many beats or until the other one is answered. Returns whether he is.
static bool reads_while_another_waits(const struct service *service, size_t bytes, int beats) {
    enum { BEAT_MS = 100 };
    int fd = dial(service, 2048), other = dial(service, 0);
    say_chat(fd, "hi", true, 1000000, "");
    wait_for_load(service, 1, 0);
    say_chat(other, "hi", false, 2, "");
    struct pollfd answer = {.fd = other, .events = POLLIN};
    bool answered = false;
    for (int beat = 0; beat < beats && !(answered = poll(&answer, 1, BEAT_MS) > 0); beat++) {
        char piece[4096];
        assert_true(recv(fd, piece, bytes, 0) > 0);
    }
    close(fd);
    close(other);
    return answered;
}

// Twenty kilobytes a second are slower than what comes, and yet nobody may cut it off.
static void test_steady_reader_stays_while_others_wait(void **state) {
    assert_false(reads_while_another_waits(*state, 2000, 40));
}

static void test_dripping_reader_holds_nobody_up(void **state) {
    assert_true(reads_while_another_waits(*state, 20, PATIENCE_MS / 100));
}

static void test_slow_reader_of_one_answer(void **state) {
    int fd = ask_for_much(*state, 4096, "\"max_tokens\":1");
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&answer, 1, PATIENCE_MS), 1);
    wait_for_metric(*state, "tandem_generations_total{outcome=\"cancelled\"}", 1); // it was dropped
    char *text = hear(fd, NULL);
    if (strstr(text, "\"timings\"")) fail_msg("all of the answer came, though nobody read it");
    free(text);
    close(fd);
}

// One that reads little but goes on reading gets it all, however long it takes: here, longer than it may read nothing.
// Its window stays open: a sender who finds one closed asks again at doubled intervals, soon of seconds.
static void test_steady_reader(void **state) {
    int fd = ask_for_much(*state, 64 * 1024, "\"max_tokens\":1");
    char piece[16 * 1024], last[16] = "";
    size_t all = 0;
    for (;;) {
        ssize_t got = recv(fd, piece, sizeof piece, MSG_WAITALL);
        if (got <= 0) break;
        all += (size_t)got;
        last[0] = piece[got - 1];
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    assert_true(all > 8 * (size_t)LARGE_BYTES);
    assert_string_equal(last, "}");
    close(fd);
}

static void test_heartbeat(void **state) {
    int fd = dial(*state, 0);
    say_chat(fd, "silent", true, 5, "");
    char *answer = hear(fd, ": ping\n\n");
    expect_status(answer, 200);
    free(answer);
    close(fd);
}

static void test_too_many_connections(void **state) {
    int fds[20];
    for (int i = 0; i < 20; i++) {
        fds[i] = dial(*state, 0);
        if (i % 2) continue; // half of them have not said anything yet
        say(fds[i], HEALTH "\r\n");
        free(hear(fds[i], "}"));
    }
    answers(*state, HEALTH "\r\n", 429, "retry-after: ");
    say(fds[0], HEALTH "\r\n"); // those that are in are served
    char *answer = hear(fds[0], "}");
    expect_status(answer, 200);
    free(answer);
    for (int i = 0; i < 20; i++) close(fds[i]);
    for (bool in = false; !in; free(answer)) {
        int fd = dial(*state, 0);
        say(fd, HEALTH CLOSE "\r\n");
        answer = hear(fd, NULL);
        in = strncmp(answer, "HTTP/1.1 200", 12) == 0;
        close(fd);
    }
}

static void test_many_streams(void **state) {
    enum { STREAMS = 200 };
    int fds[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        fds[i] = dial(*state, 0);
        say_chat(fds[i], "hi", true, 20, CLOSE);
    }
    answers(*state, HEALTH CLOSE "\r\n", 200, "");
    for (int i = 0; i < STREAMS; i++) {
        char *answer = hear(fds[i], NULL);
        if (strncmp(answer, "HTTP/1.1 429", 12) != 0) { // 16 run and 64 wait
            expect_status(answer, 200);
            expect(answer, "t19 ");
            expect(answer, "data: [DONE]\n\n");
        }
        free(answer);
        close(fds[i]);
    }
    wait_for_load(*state, 0, 0);
}

// ---- The end

static void test_drain(void **state) {
    struct service *service = *state;
    int fd = dial(service, 0), other = dial(service, 0);
    say(other, HEALTH "\r\n");
    free(hear(other, "}"));
    say_chat(fd, "hi", true, 500, "");
    char *start_of_it = hear(fd, "t0 ");
    kill(getpid(), SIGTERM);
    char *rest = hear(fd, "\r\n0\r\n\r\n");
    expect(rest, "data: [DONE]\n\n");
    free(start_of_it);
    free(rest);
    stop(service);
    *state = NULL;
    close(fd);
    close(other);
}

static void test_drain_has_a_limit(void **state) {
    struct service *service = *state;
    int streamed = dial(service, 0);
    say_chat(streamed, "silent", true, 5, "");
    free(hear(streamed, ": ping\n\n"));
    int whole = dial(service, 0);
    say_chat(whole, "silent", false, 5, "");
    wait_for_load(service, 2, 0);
    kill(getpid(), SIGTERM);
    char *answer = hear(streamed, "\r\n0\r\n\r\n");
    expect(answer, "data: {\"error\":{");
    free(answer);
    answer = hear(whole, "}");
    expect_status(answer, 503);
    free(answer);
    stop(service);
    *state = NULL;
    close(streamed);
    close(whole);
}

static int setup_short_drain(void **state) {
    char *flags[] = {"--drain-seconds=0.1"};
    return start(state, flags, 1);
}

// A body that is still arriving then is not waited for either.
static void test_drain_ends_bodies(void **state) {
    struct service *service = *state;
    int fd = dial(service, 0);
    say(fd, LINE("POST", "/v1/completions") "Content-Length: 100\r\n\r\n{");
    wait_for_metric(service, "tandem_requests_in_progress", 2);
    kill(getpid(), SIGTERM);
    char *answer = hear(fd, NULL);
    expect_status(answer, 503);
    free(answer);
    close(fd);
    stop(service);
    *state = NULL;
}

#define WITH(setup_of_it, test) cmocka_unit_test_setup_teardown(test, setup_of_it, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH(setup, test_plain),
        WITH(setup, test_chat),
        WITH(setup, test_tokens_that_are_ready_together_leave_together),
        WITH(setup, test_failures),
        WITH(setup_impatient, test_more_than_places),
        WITH(setup, test_leaving),
        WITH(setup_impatient, test_leaving_while_queued),
        WITH(setup_impatient, test_slow_senders),
        WITH(setup_impatient, test_slow_reader),
        cmocka_unit_test_setup_teardown(test_slow_reader_holds_nobody_up, setup_patient, teardown_logged),
        WITH(setup_patient_with_one, test_slow_reader_of_what_is_complete),
        WITH(setup_patient_for_longer, test_steady_reader_stays_while_others_wait),
        WITH(setup_patient_for_longer, test_dripping_reader_holds_nobody_up),
        WITH(setup_slow, test_slow_reader_of_one_answer),
        WITH(setup_slow_and_busy, test_steady_reader),
        WITH(setup_impatient, test_heartbeat),
        WITH(setup_few_connections, test_too_many_connections),
        WITH(setup, test_many_streams),
        WITH(setup, test_drain),
        WITH(setup_impatient, test_drain_has_a_limit),
        WITH(setup_short_drain, test_drain_ends_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
