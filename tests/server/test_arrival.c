// How requests may arrive over real sockets: several at once, in chunks, and in all the wrong ways, which are refused.
// Made for ThreadSanitizer as well.
#include "server/listener.h"
#include "tests/server/service.h"

#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

// ---- What is taken

static void test_sent_ahead(void **state) {
    int fd = dial(*state, 0);
    struct buffer all; // in one piece: what comes while an earlier one is read may be answered by closing
    buffer_init(&all, 1 << 20);
    for (int i = 0; i < 8; i++) {
        char *request = chat("hi", i % 2, 2, i < 7 ? "" : CLOSE);
        buffer_text(&all, request);
        free(request);
    }
    say(fd, all.data);
    buffer_finish(&all);
    char *answer = hear(fd, NULL);
    assert_int_equal(count(answer, "HTTP/1.1 200 OK\r\n"), 8);
    assert_int_equal(count(answer, "data: [DONE]\n\n"), 4);
    free(answer);
    close(fd);
}

static void test_chunked(void **state) {
    char *request = chat("hi", false, 2, CLOSE), *body = strstr(request, "\r\n\r\n") + 4;
    int fd = dial(*state, 0);
    say(fd, LINE("POST", "/v1/chat/completions") CLOSE "Transfer-Encoding: chunked\r\n\r\n");
    for (; *body; body++) {
        char chunk[16];
        snprintf(chunk, sizeof chunk, "1\r\n%c\r\n", *body);
        say(fd, chunk);
    }
    say(fd, "0\r\n\r\n");
    char *answer = hear(fd, NULL);
    expect_status(answer, 200);
    expect(answer, "t0 t1 ");
    free(answer);
    free(request);
    close(fd);
}

// Asking the system how much of a connection was read takes two calls, between which a quick client's bytes may arrive:
// here they do, before the first and then before the second. meson.build puts these two in the place of the system's.
static atomic_int quick_fd = -1;
static atomic_int calls_until; // that many more

int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);

static void say_between(void) {
    if (quick_fd < 0 || atomic_fetch_sub(&calls_until, 1) != 0) return;
    static char piece[2 * 4096 + 1];
    memset(piece, ' ', sizeof piece - 1);
    say(quick_fd, piece);
    quick_fd = -1;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument) {
    if (request == FIONREAD) say_between();
    return __real_ioctl(fd, request, argument);
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes) {
    if (level == IPPROTO_TCP && name == TCP_INFO) say_between();
    return __real_getsockopt(fd, level, name, value, bytes);
}

static void test_quick_chunks(void **state) {
    for (int call = 0; call < 2; call++) {
        char *request = chat("hi", false, 2, CLOSE), *body = strstr(request, "\r\n\r\n") + 4, rest[1100];
        int fd = dial(*state, 0);
        say(fd, LINE("POST", "/v1/chat/completions") CLOSE "Transfer-Encoding: chunked\r\n\r\n");
        wait_for_metric(*state, "tandem_requests_in_progress", 2); // and the one that asks for this
        calls_until = call;
        quick_fd = fd;
        say(fd, "2000\r\n");
        while (quick_fd >= 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        snprintf(rest, sizeof rest, "\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(body), body);
        say(fd, rest);
        char *answer = hear(fd, NULL);
        expect_status(answer, 200);
        free(answer);
        free(request);
        close(fd);
    }
}

// ---- What accepting runs into

// As the system does without descriptors but the one that the listener gives up: whoever asks is told so, before it is
// looked whether anybody is there; then it has one. Or one error in place of whoever is next, who stays there.
static atomic_bool without_descriptors, without_ticks;
static atomic_int accept_error;

int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *bytes, int flags);
int __real_accept4(int fd, struct sockaddr *peer, socklen_t *bytes, int flags);
void __wrap_listener_tick(struct listener *listener);
void __real_listener_tick(struct listener *listener);

int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *bytes, int flags) {
    static bool has_given_up;
    has_given_up = without_descriptors && !has_given_up;
    errno = has_given_up ? EMFILE : atomic_exchange(&accept_error, 0);
    return errno ? -1 : __real_accept4(fd, peer, bytes, flags);
}

void __wrap_listener_tick(struct listener *listener) {
    if (!without_ticks) __real_listener_tick(listener);
}

// Nobody is left waiting for the tick behind which a listener that rests begins anew: here, none comes.
static void test_without_descriptors(void **state) {
    without_descriptors = without_ticks = true;
    for (int i = 0; i < 4; i++) answers(*state, HEALTH CLOSE "\r\n", 429, "all the connections");
    without_descriptors = false;
    answers(*state, HEALTH CLOSE "\r\n", 200, "");
    without_ticks = false;
}

// What has befallen one connection is no reason to turn the next away, nor to let it wait.
static void test_errors_of_one_connection(void **state) {
    static const int errors[] = {EINTR,     ECONNABORTED, ENETDOWN,     EPROTO,     ENOPROTOOPT,
                                 EHOSTDOWN, ENONET,       EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH};
    without_ticks = true;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        accept_error = errors[i];
        answers(*state, HEALTH CLOSE "\r\n", 200, "");
        assert_int_equal(accept_error, 0);
    }
    without_ticks = false;
}

// Without memory there is nothing to do but to wait for some, and nobody is turned away.
static void test_without_memory(void **state) {
    static const int errors[] = {ENOBUFS, ENOMEM};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        accept_error = errors[i];
        answers(*state, HEALTH CLOSE "\r\n", 200, "");
        assert_int_equal(accept_error, 0);
    }
}

// ---- Refusals

#define CHAT LINE("POST", "/v1/chat/completions")

static void test_refusals(void **state) {
    static const struct {
        int status;
        const char *part, *request;
    } cases[] = {
        {400, "invalid_headers", "\x16\x03\x01"},
        {400, "invalid_headers", "GET /health HTTP/1.1\r\n\r\n"},
        {403, "forbidden_host", "GET /health HTTP/1.1\r\n" CLOSE "Host: evil.example\r\n\r\n"},
        {403, "forbidden_host", LINE("GET", "http://evil.example/health") CLOSE "\r\n"}, // this counts, not the header
        {404, "not_found", LINE("GET", "/nothing") CLOSE "\r\n"},
        {404, "not_found", LINE("GET", "/v1/models/a%00b") CLOSE "\r\n"},
        {405, "Allow: GET, HEAD\r\n", LINE("DELETE", "/health") CLOSE "\r\n"},
        {405, "method_not_allowed", LINE("GET", "/v1/chat/completions") CLOSE "\r\n"},
        {400, "is empty", CHAT CLOSE "Content-Length: 0\r\n\r\n"},
        {400, "\"param\":\"messages\"", CHAT CLOSE "Content-Length: 2\r\n\r\n{}"},
        {415, "unsupported_media_type", CHAT CLOSE "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"},
        {415, "unsupported_media_type",
         CHAT CLOSE FORM "Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}"},
        {415, "unsupported_media_type", CHAT CLOSE "Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}"},
        {413, "too_large", CHAT CLOSE "Content-Length: 100000000\r\n\r\n"},
        {413, "too_large", CHAT "Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n"},
        {400, "invalid_headers", CHAT "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"},
        {400, "invalid_chunks", CHAT "Transfer-Encoding: chunked\r\n\r\nzz\r\n"},
        {505, "invalid_headers", "GET /health HTTP/3.0\r\n\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        answers(*state, cases[i].request, cases[i].status, cases[i].part);
}

// The same rules hold for a later request on a connection, however it arrives: one answer of ours, and then the end.
static const char *last(const char *text, const char *what) {
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, what)); at++) found = at;
    return found;
}

enum arrival { AT_ONCE, IN_TWO, BYTE_BY_BYTE, ARRIVALS };

static void say_as(int fd, const char *text, enum arrival arrival) {
    size_t bytes = strlen(text), step = arrival == AT_ONCE ? bytes : arrival == IN_TWO ? bytes / 2 : 1;
    for (size_t at = 0; at < bytes; at += step) {
        size_t some = bytes - at < step ? bytes - at : step;
        if (send(fd, text + at, some, MSG_NOSIGNAL) < 0) return; // refused already
        if (arrival != AT_ONCE) nanosleep(&(struct timespec){.tv_nsec = arrival == IN_TWO ? 20000000 : 200000}, NULL);
    }
}

static void test_later_refusals(void **state) {
    static const struct {
        const char *text, *status;
    } requests[] = {
        {LINE("POST", "/v1/completions") "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "400"},
        {LINE("POST", "/v1/completions") "Content-Length: abc\r\n\r\n{}", "400"},
        {LINE("POST", "/v1/completions") "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {LINE("POST", "/v1/completions") "Transfer-Encoding: gzip\r\n\r\n", "400"},
        {LINE("POST", "/v1/completions") "Transfer-Encoding : chunked\r\n\r\n", "400"},
        {LINE("POST", "/v1/completions") "Content-Length: 9000000000\r\n\r\n", "413"},
        {HEALTH "Host: 127.0.0.1\r\n\r\n", "400"},
        {HEALTH "X-Folded: a\r\n b\r\n\r\n", "400"},
        {HEALTH "no colon\r\n\r\n", "400"},
        {"GET /health HTTP/1.1\r\n\r\n", "400"},
        {"GET /health HTTP/1.1\nHost: a\n\n", "400"},
        {"GET  /health  HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /health HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"\x16\x03\x01 hello", "400"},
    };
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
        for (enum arrival arrival = AT_ONCE; arrival < ARRIVALS; arrival++) {
            int fd = dial(*state, 0);
            say(fd, HEALTH "\r\n");
            free(hear(fd, "}"));
            say_as(fd, requests[i].text, arrival);
            if (arrival == AT_ONCE) (void)!send(fd, HEALTH "\r\n", strlen(HEALTH "\r\n"), MSG_NOSIGNAL);
            char *answer = hear(fd, NULL), begin[32];
            snprintf(begin, sizeof begin, "HTTP/1.1 %s ", requests[i].status);
            if (strncmp(answer, begin, strlen(begin)) != 0) fail_msg("%s\nwas answered\n%s", requests[i].text, answer);
            expect(answer, "{\"error\":");
            assert_ptr_equal(strstr(answer, "x-request-id: "), last(answer, "x-request-id: ")); // one answer
            free(answer);
            close(fd);
        }
}

// Mistakes in what follows a header: the division into chunks, at any place.
static void test_bad_chunks(void **state) {
    static const char *const bodies[] = {
        "x\r\n",      "2\r\n{}xx\r\n0\r\n\r\n",           "2\n{}\r\n0\r\n\r\n",    "-1\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n", "2\r\n{}\r\n0\r\nno colon\r\n\r\n", "2\r\n{}\r\nzz\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        for (int later = 0; later < 2; later++)
            for (enum arrival arrival = AT_ONCE; arrival < ARRIVALS; arrival++) {
                int fd = dial(*state, 0);
                if (later) {
                    say(fd, HEALTH "\r\n");
                    free(hear(fd, "}"));
                }
                say(fd, LINE("POST", "/v1/completions") "Transfer-Encoding: chunked\r\n\r\n");
                if (arrival != AT_ONCE) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
                say_as(fd, bodies[i], arrival);
                char *answer = hear(fd, NULL);
                if (strncmp(answer, "HTTP/1.1 400 ", 13) != 0)
                    fail_msg("chunks %zu (%d, %d): %s", i, later, arrival, answer);
                expect(answer, "{\"error\":");
                assert_ptr_equal(strstr(answer, "x-request-id: "), last(answer, "x-request-id: "));
                free(answer);
                close(fd);
            }
}

static int descriptors(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

// A line between chunks that is longer than any buffer is refused, and its connection ends.
static void test_endless_chunk_lines(void **state) {
    static char line[40001];
    memset(line, 'x', sizeof line - 1);
    int before = descriptors();
    for (int i = 0; i < 3; i++) {
        int fd = dial(*state, 0);
        say(fd, LINE("POST", "/v1/completions") "Transfer-Encoding: chunked\r\n\r\n");
        nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
        (void)!send(fd, "5;", 2, MSG_NOSIGNAL);
        (void)!send(fd, line, sizeof line - 1, MSG_NOSIGNAL);
        char *answer = hear(fd, NULL);
        if (i < 2) expect_status(answer, 400);
        free(answer);
        close(fd);
    }
    while (descriptors() > before) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); // or the test never ends
}

// Two bodies in chunks are read in one turn of the loop: a mistake in one is not taken for the other's.
static void test_chunks_side_by_side(void **state) {
    enum { PAIRS = 20 };
    int good[PAIRS], bad[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        good[i] = dial(*state, 0);
        bad[i] = dial(*state, 0);
        say(bad[i], LINE("POST", "/v1/completions") "Transfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n");
    }
    for (int i = 0; i < PAIRS; i++) {
        say(good[i], LINE("POST", "/v1/completions") CLOSE "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n");
        say(bad[i], "ZZZ\r\n");
    }
    for (int i = 0; i < PAIRS; i++) say(good[i], "15\r\nprompt\":\"hi\",\"n\":1}  \r\n0\r\n\r\n");
    for (int i = 0; i < PAIRS; i++) {
        char *answer = hear(good[i], NULL);
        expect_status(answer, 200);
        free(answer);
        answer = hear(bad[i], NULL);
        expect_status(answer, 400);
        expect(answer, "\"code\":\"invalid_chunks\"");
        free(answer);
        close(good[i]);
        close(bad[i]);
    }
}

// A client that does not wait for answers gets those to the whole requests it has sent, in order; a malformed one
// behind them is never taken for a request.
static void test_requests_in_a_row(void **state) {
    for (int bad = 0; bad < 2; bad++) {
        int fd = dial(*state, 0);
        say(fd, HEALTH "\r\n" HEALTH "\r\n" HEALTH "\r\n");
        if (bad) say(fd, "GET /health HTTP/1.1\nHost: a\n\n");
        if (!bad) shutdown(fd, SHUT_WR);
        char *answer = hear(fd, NULL);
        int count = 0;
        for (const char *at = answer; (at = strstr(at, "HTTP/1.1 ")); at++) {
            count++;
            if (strncmp(at, "HTTP/1.1 200 ", 13) != 0) expect(at, "{\"error\":");
        }
        assert_true(count >= 1 && count <= 3 + bad);
        assert_null(strstr(answer, "<html"));
        free(answer);
        close(fd);
    }
}

static void test_body_too_large(void **state) {
    int fd = dial(*state, 0);
    say_too_large(fd);
    char *answer = hear(fd, NULL);
    expect_status(answer, 413);
    free(answer);
    close(fd);
}

#define WITH(setup_of_it, test) cmocka_unit_test_setup_teardown(test, setup_of_it, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH(setup, test_sent_ahead),
        WITH(setup, test_chunked),
        WITH(setup, test_quick_chunks),
        WITH(setup, test_without_descriptors),
        WITH(setup, test_errors_of_one_connection),
        WITH(setup, test_without_memory),
        WITH(setup, test_refusals),
        WITH(setup, test_later_refusals),
        WITH(setup, test_bad_chunks),
        WITH(setup, test_endless_chunk_lines),
        WITH(setup, test_chunks_side_by_side),
        WITH(setup, test_requests_in_a_row),
        WITH(setup_impatient, test_body_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
