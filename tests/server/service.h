// A server for each test, with an engine of cardboard behind it, and a client that says what it likes over a socket.
#ifndef TESTS_SERVER_SERVICE_H
#define TESTS_SERVER_SERVICE_H

#include "server/log.h"
#include "server/server.h"
#include "tests/server/stub_engine.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function" // no test program needs them all

enum { PATIENCE_MS = 60 * 1000, ANSWER_BYTES_MAX = 4 * 1024 * 1024 }; // against hanging only

#define LINE(method, path) method " " path " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
#define CLOSE "Connection: close\r\n"
#define FORM "Content-Type: application/x-www-form-urlencoded\r\n"
#define HEALTH LINE("GET", "/health")

static int count(const char *text, const char *part) {
    int found = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) found++;
    return found;
}

// ---- One server for a test

struct service {
    struct config config;
    struct listener_socket socket;
    struct api_keys keys;
    struct engine *engine;
    struct server *server;
    pthread_t thread;
};

static void *serve(void *user) {
    server_run(user);
    return NULL;
}

static int start(void **state, char *const *flags, int count) {
    struct service *service = calloc(1, sizeof *service);
    struct error error = {0};
    log_open(LOG_ERROR, LOG_TEXT);
    if (!service) return -1;
    struct setting_table table = {CONFIG_SETTINGS, &service->config};
    if (settings_init(&table, &error) || settings_read_flags(&table, 1, count, flags, NULL, &error) ||
        api_keys_read(&service->keys, service->config.api_key.text, service->config.api_key.source,
                      service->config.api_key_file, &error) ||
        listener_bind(&service->socket, service->config.host, 0, &error))
        return -1;
    struct engine_options options = {.sequences_max = service->config.sequences_max,
                                     .queue_max = service->config.queue_max};
    if (engine_open(&service->engine, &options, &error) ||
        server_create(&service->server, &service->config, &service->socket, &service->keys, service->engine, &error) ||
        server_watch_signals(service->server, &error) || pthread_create(&service->thread, NULL, serve, service->server))
        return -1;
    *state = service;
    return 0;
}

static void stop(struct service *service) {
    pthread_join(service->thread, NULL);
    server_destroy(service->server);
    engine_close(service->engine);
    api_keys_finish(&service->keys);
    settings_finish(&(struct setting_table){CONFIG_SETTINGS, &service->config});
    free(service);
}

static int teardown(void **state) {
    if (!*state) return 0; // the test has stopped it
    kill(getpid(), SIGTERM);
    stop(*state);
    return 0;
}

static int setup(void **state) {
    return start(state, NULL, 0);
}

// With what it logs: standard error, until teardown_logged.
static int log_file, log_before;

static int start_logged(void **state, char *const *flags, int count) {
    int code = start(state, flags, count);
    log_file = memfd_create("log", 0);
    fflush(stderr);
    log_before = dup(STDERR_FILENO);
    dup2(log_file, STDERR_FILENO);
    return code;
}

static int teardown_logged(void **state) {
    int code = teardown(state);
    dup2(log_before, STDERR_FILENO);
    close(log_before);
    close(log_file);
    log_open(LOG_ERROR, LOG_TEXT);
    return code;
}

// The log so far, once it says something so many times at least.
static char *wait_for_log(const char *part, int times) {
    static char text[64 * 1024];
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        ssize_t bytes = pread(log_file, text, sizeof text - 1, 0);
        text[bytes > 0 ? bytes : 0] = '\0';
        if (count(text, part) >= times) return text;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    dup2(log_before, STDERR_FILENO);
    fail_msg("`%s` was not logged: %s", part, text);
    return text;
}

static int setup_impatient(void **state) {
    char *flags[] = {"--header-seconds=0.3",      "--body-seconds=0.3",  "--idle-seconds=0.5",
                     "--slow-reader-seconds=0.5", "--drain-seconds=0.3", "--heartbeat-seconds=0.3",
                     "--max-sequences=2",         "--queue=2",           "--body-bytes-max=64K"};
    return start(state, flags, sizeof flags / sizeof *flags);
}

static int setup_slow(void **state) {
    char *flags[] = {"--slow-reader-seconds=0.5"};
    return start(state, flags, 1);
}

// Some more, for it shares the machine with other tests.
static int setup_slow_and_busy(void **state) {
    char *flags[] = {"--slow-reader-seconds=4"};
    return start(state, flags, 1);
}

static int setup_few_connections(void **state) {
    char *flags[] = {"--connections-max=20"};
    return start(state, flags, 1);
}

// ---- A client

// As a client of this address, which is of the loopback's.
static int dial_as(const struct service *service, const char *client, int receive_bytes) {
    struct sockaddr_in own = {.sin_family = AF_INET};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)strtol(strrchr(service->socket.address, ':') + 1, NULL, 10));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(inet_pton(AF_INET, client, &own.sin_addr), 1);
    // Its port only has to be new to this server: after some ten thousand clients there are few that nobody has had.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    assert_int_equal(bind(fd, (struct sockaddr *)&own, sizeof own), 0);
    if (receive_bytes) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int dial(const struct service *service, int receive_bytes) {
    return dial_as(service, "127.0.0.1", receive_bytes);
}

static void say(int fd, const char *text) {
    size_t bytes = strlen(text);
    while (bytes > 0) {
        ssize_t sent = send(fd, text, bytes, MSG_NOSIGNAL);
        if (sent < 0) return; // it has hung up: what it said before is still to be read
        text += sent;
        bytes -= (size_t)sent;
    }
}

// Reads until the connection closes, or until `end` has come (NULL: only closing ends it).
static char *hear(int fd, const char *end) {
    struct buffer buffer;
    buffer_init(&buffer, ANSWER_BYTES_MAX);
    char piece[16 * 1024];
    for (;;) {
        ssize_t got = recv(fd, piece, sizeof piece, 0);
        if (got < 0 && errno == EINTR) continue; // newer kernels interrupt a thread that has closed a libuv loop
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("nothing came: %s", buffer.data ? buffer.data : "");
        if (got <= 0) break;
        assert_true(buffer_append(&buffer, piece, (size_t)got));
        if (end && strstr(buffer.data, end)) break;
    }
    return buffer.data ? buffer.data : strdup("");
}

static char *chat(const char *text, bool stream, int tokens, const char *headers) {
    char body[512], *request = malloc(1024);
    assert_non_null(request);
    int bytes = snprintf(body, sizeof body,
                         "{\"model\":\"stub\",\"stream\":%s,\"max_tokens\":%d,"
                         "\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                         stream ? "true" : "false", tokens, text);
    snprintf(request, 1024,
             LINE("POST", "/v1/chat/completions") "Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
             bytes, headers, body);
    return request;
}

static void say_chat(int fd, const char *text, bool stream, int tokens, const char *headers) {
    char *request = chat(text, stream, tokens, headers);
    say(fd, request);
    free(request);
}

// A body in chunks of twice the 64 KiB that a test has allowed. It is refused past the HTTP library, which has begun to
// read it.
static void say_too_large(int fd) {
    char piece[4096 + 1];
    memset(piece, ' ', sizeof piece - 1);
    piece[sizeof piece - 1] = '\0';
    say(fd, LINE("POST", "/v1/chat/completions") "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 32; i++) {
        say(fd, "1000\r\n");
        say(fd, piece);
        say(fd, "\r\n");
    }
}

static void expect(const char *answer, const char *part) {
    if (*part && !strstr(answer, part)) fail_msg("`%s` is not in: %s", part, answer);
}

static void expect_status(const char *answer, int status) {
    char line[32];
    snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
    if (strncmp(answer, line, strlen(line)) != 0) fail_msg("not %d: %s", status, answer);
    expect(answer, "x-request-id: ");
    if (status < 400) return;
    expect(answer, "Content-Type: application/json\r\n");
    expect(answer, "{\"error\":{\"message\":\"");
    assert_null(strstr(answer, "<html"));
}

// One request on a connection of its own, which the server is to close.
static void answers(const struct service *service, const char *request, int status, const char *part) {
    int fd = dial(service, 0);
    say(fd, request);
    char *answer = hear(fd, NULL);
    close(fd);
    expect_status(answer, status);
    expect(answer, part);
    free(answer);
}

// Takes the chunks of an answer's body apart, in place.
static void join_chunks(char *answer) {
    char *out = strstr(answer, "\r\n\r\n") + 4, *at = out, *end;
    size_t bytes;
    while ((bytes = strtoul(at, &end, 16)) > 0) {
        memmove(out, end + 2, bytes);
        out += bytes;
        at = end + 2 + bytes + 2;
    }
    *out = '\0';
}

static void wait_for_load(const struct service *service, int running, int waiting) {
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        struct engine_stats stats;
        engine_stats(service->engine, &stats);
        if (stats.running == running && stats.waiting == waiting) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("the engine did not come to %d running and %d waiting", running, waiting);
}

static double metric(const struct service *service, const char *series) {
    int fd = dial(service, 0);
    say(fd, LINE("GET", "/metrics") CLOSE "\r\n");
    char *answer = hear(fd, NULL), line[256];
    close(fd);
    expect_status(answer, 200);
    expect(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
    snprintf(line, sizeof line, "\n%s ", series);
    char *at = strstr(answer, line);
    double value = at ? strtod(at + strlen(line), NULL) : 0; // what has not happened yet is not told
    free(answer);
    return value;
}

// A request is counted when its answer is out, and so the client may be first.
static void wait_for_metric(const struct service *service, const char *series, double expected) {
    double value = -1;
    for (int ms = 0; ms < PATIENCE_MS; ms++) {
        value = metric(service, series);
        if (value == expected) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("%s is %g, not %g", series, value, expected);
}

#endif
