// The clients of bench --serve, against a server that says exactly what a test wants it to.
#include "cli/load.h"

#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#define TOKEN "data: {\"choices\":[{\"text\":\" a\"}]}\n\n"                    // 35 = 0x23 bytes
#define LAST "data: {\"choices\":[{\"text\":\"\"}]}\n\n"                       // 33 = 0x21
#define USAGE "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n" // 54 = 0x36
#define DONE "data: [DONE]\n\n"                                                // 14 = 0xe
#define END "0\r\n\r\n"

enum { PARTS_MAX = 8 };

struct scripted {
    int fd, port;
    const char *parts[PARTS_MAX]; // sent one by one; up to a NULL
    int connections;              // to serve
    char *requests;               // what all of them sent, one behind the other
    pthread_t thread;
};

static void serve_one(struct scripted *scripted) {
    int fd = accept(scripted->fd, NULL, NULL);
    char request[4096] = "";
    size_t got = 0;
    while (!strstr(request, "}}")) { // the end of the body
        ssize_t more = recv(fd, request + got, sizeof request - 1 - got, 0);
        if (more <= 0) abort();
        got += (size_t)more;
        request[got] = '\0';
    }
    size_t before = scripted->requests ? strlen(scripted->requests) : 0;
    scripted->requests = realloc(scripted->requests, before + got + 1);
    if (!scripted->requests) abort();
    memcpy(scripted->requests + before, request, got + 1);
    for (int i = 0; i < PARTS_MAX && scripted->parts[i]; i++) {
        usleep(2000); // so that each arrives by itself
        if (send(fd, scripted->parts[i], strlen(scripted->parts[i]), MSG_NOSIGNAL) < 0) abort();
    }
    close(fd);
}

static void *serve(void *user) {
    struct scripted *scripted = user;
    for (int i = 0; i < scripted->connections; i++) serve_one(scripted);
    return NULL;
}

static void start(struct scripted *scripted) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    scripted->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(scripted->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(scripted->fd, 64), 0);
    assert_int_equal(getsockname(scripted->fd, (struct sockaddr *)&address, &bytes), 0);
    scripted->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&scripted->thread, NULL, serve, scripted), 0);
}

static char *prompt(void *user) {
    char text[32];
    snprintf(text, sizeof text, "[%d,7]", ++*(int *)user);
    return strdup(text);
}

static int run(struct scripted *scripted, int requests, int clients, struct load_outcome *out, struct error *error) {
    int count = 0;
    scripted->connections = requests;
    start(scripted);
    const struct load_plan plan = {.port = scripted->port,
                                   .requests = requests,
                                   .clients = clients,
                                   .new_tokens = 2,
                                   .prompt = prompt,
                                   .user = &count};
    int code = load_run(&plan, out, error);
    pthread_join(scripted->thread, NULL);
    close(scripted->fd);
    return code;
}

static void finish(struct scripted *scripted, struct load_outcome *out) {
    load_finish(out);
    free(scripted->requests);
}

static void test_counts_and_times(void **state) {
    (void)state;
    struct scripted scripted = {.parts = {HEAD "23\r\n" TOKEN "\r\n", "23\r\n" TOKEN "\r\n",
                                  "21\r\n" LAST "\r\n36\r\n" USAGE "\r\n", "e\r\n" DONE "\r\n" END}};
    struct load_outcome out;
    struct error error;
    assert_int_equal(run(&scripted, 5, 2, &out, &error), 0);
    assert_int_equal(out.tokens, 10);
    assert_int_equal(out.refused, 0);
    assert_int_equal(out.first.count, 5);
    assert_int_equal(out.between.count, 5); // of two tokens each, and not to the empty text behind them
    assert_int_equal(out.whole.count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_true(out.first.of[i] > 0 && out.between.of[i] >= 0 && out.whole.of[i] > 0.004);
        assert_true(i == 0 || out.whole.of[i] >= out.whole.of[i - 1]);
    }
    assert_true(out.whole.of[0] >= out.first.of[0] && out.seconds >= out.whole.of[4]);
    for (int i = 1; i <= 5; i++) { // a prompt of its own for each, and all that was asked for
        char wanted[32];
        snprintf(wanted, sizeof wanted, "{\"prompt\":[%d,7],\"max_tokens\":2,", i);
        assert_non_null(strstr(scripted.requests, wanted));
    }
    finish(&scripted, &out);
}

// An event that comes in pieces, in chunks and out of them, is one event, at the time of its last byte.
static void test_events_in_pieces(void **state) {
    (void)state;
    struct scripted scripted = {.parts = {"HTTP/1.1 200 OK\r\nTransfer-",
                                          "Encoding: chunked\r\n\r\n10\r\ndata: {\"choices\"",
                                          "\r\n13\r\n:[{\"text\":\" a\"}]}\n\n\r\n2", "3\r\n" TOKEN "\r",
                                          "\n36\r\n" USAGE "\r\n", "e\r\n" DONE "\r\n0\r", "\n\r\n"}};
    struct load_outcome out;
    struct error error = {0};
    assert_int_equal(run(&scripted, 1, 1, &out, &error), 0);
    assert_int_equal(out.tokens, 2);
    assert_int_equal(out.first.count, 1);
    assert_int_equal(out.between.count, 1);
    assert_true(out.first.of[0] > 0.004); // not before the third piece
    finish(&scripted, &out);
}

static void test_refusals_are_counted(void **state) {
    (void)state;
    struct scripted scripted = {.parts = {"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"}};
    struct load_outcome out;
    struct error error;
    assert_int_equal(run(&scripted, 3, 3, &out, &error), 0);
    assert_int_equal(out.refused, 3);
    assert_int_equal(out.whole.count, 0);
    finish(&scripted, &out);
}

static void test_other_answers_are_errors(void **state) {
    (void)state;
    static const struct {
        const char *answer, *said;
    } CASES[] = {
        {"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nthere", "there"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere", "no stream"},
        {HEAD "23\r\n" TOKEN "\r\n" END, "without [DONE]"},
        {HEAD "23\r\n" TOKEN "\r\n", "no stream"},     // its last chunk is missing
        {HEAD "99\r\n" TOKEN "\r\n", "no stream"},     // shorter than it says
        {HEAD "zz\r\n" TOKEN "\r\n" END, "no stream"}, // no number
        {HEAD "1c\r\ndata: {\"error\":{\"code\":1}}\n\n\r\n" END, "\"error\""},
        {HEAD "c\r\ndata: {oops\n\r\n" END, "{oops"},
        {"", "no stream"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct scripted scripted = {.parts = {CASES[i].answer[0] ? CASES[i].answer : NULL}};
        struct load_outcome out;
        struct error error = {0};
        assert_int_equal(run(&scripted, 1, 1, &out, &error), ERROR_FORMAT);
        assert_non_null(strstr(error.message, CASES[i].said));
        finish(&scripted, &out);
    }
}

static void test_nobody_there(void **state) {
    (void)state;
    int count = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0); // bound, and nobody listens
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    const struct load_plan plan = {.port = ntohs(address.sin_port),
                                   .requests = 2,
                                   .clients = 1,
                                   .new_tokens = 2,
                                   .prompt = prompt,
                                   .user = &count};
    struct load_outcome out;
    struct error error;
    assert_int_equal(load_run(&plan, &out, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "connect"));
    load_finish(&out);
    close(fd);
}

static void test_requests_come_evenly(void **state) {
    (void)state;
    struct scripted scripted = {.parts = {HEAD "23\r\n" TOKEN "\r\n36\r\n" USAGE "\r\ne\r\n" DONE "\r\n" END},
                        .connections = 4};
    int count = 0;
    start(&scripted);
    const struct load_plan plan = {.port = scripted.port,
                                   .requests = 4,
                                   .clients = 1,
                                   .per_second = 20,
                                   .new_tokens = 2,
                                   .prompt = prompt,
                                   .user = &count};
    struct load_outcome out;
    struct error error;
    assert_int_equal(load_run(&plan, &out, &error), 0);
    pthread_join(scripted.thread, NULL);
    close(scripted.fd);
    assert_int_equal(out.whole.count, 4);
    assert_true(out.seconds >= 0.15); // the fourth was not sent before
    finish(&scripted, &out);
}

static void test_quantiles(void **state) {
    (void)state;
    double values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct load_times times = {.of = values, .count = 10};
    assert_true(load_quantile(&times, 0.5) == 5 && load_quantile(&times, 0.95) == 10);
    assert_true(load_quantile(&times, 0.9) == 9 && load_quantile(&times, 0) == 1 && load_quantile(&times, 1) == 10);
    assert_true(load_quantile(&(struct load_times){0}, 0.5) == 0);
}

static void test_impossible_plans(void **state) {
    (void)state;
    struct load_outcome out;
    struct error error;
    assert_int_equal(load_run(&(struct load_plan){.requests = 0, .clients = 1}, &out, &error), ERROR_ARGUMENT);
    assert_int_equal(load_run(&(struct load_plan){.requests = 1, .clients = 0}, &out, &error), ERROR_ARGUMENT);
    assert_int_equal(load_run(&(struct load_plan){.requests = LOAD_REQUESTS_MAX + 1, .clients = 1}, &out, &error),
                     ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_and_times),
        cmocka_unit_test(test_events_in_pieces),
        cmocka_unit_test(test_refusals_are_counted),
        cmocka_unit_test(test_other_answers_are_errors),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_requests_come_evenly),
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_impossible_plans),
    };
    return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
