// tandem health: asks a running server whether requests may be sent its way; for containers and scripts without curl.
#include "base/error.h"
#include "cli/config_file.h"
#include "cli/model_settings.h"
#include "server/config.h"
#include "server/listener_socket.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct health_settings {
    double seconds;
};
static const struct setting HEALTH_SETTINGS[] = {
    {NULL, "--seconds", NULL, SETTING_SECONDS, offsetof(struct health_settings, seconds), 0.1, 3600, NULL, "4",
     "seconds", "to wait for each part of an answer"},
    {.flag = NULL},
};

static const struct setting WHERE_SETTINGS[] = {
    {"server.host", "--host", "TANDEM_HOST", SETTING_TEXT, offsetof(struct config, host), 0, 0, NULL, "127.0.0.1", "",
     "where the server is; 0.0.0.0, as for serve, means this machine"},
    {"server.port", "--port", "TANDEM_PORT", SETTING_INT, offsetof(struct config, port), 0, 65535, NULL, "8080", "",
     "the port that it listens on"},
    {"server.unix_socket", "--unix-socket", "TANDEM_UNIX_SOCKET", SETTING_PATH, offsetof(struct config, unix_socket), 0,
     0, NULL, "", "", "instead of a port, the Unix socket that it listens on"},
    {.flag = NULL},
};

static struct config config;
static struct model_settings model; // a file may set it
static struct health_settings own;
static char *config_name;
static const struct setting_table TABLES[] = {
    {WHERE_SETTINGS, &config},
    {CONFIG_FILE_SETTINGS, &config_name},
    {HEALTH_SETTINGS, &own},
};
static const struct setting_table FILE_TABLES[] = {
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
    {CONFIG_SETTINGS, &config},
};
enum { FILE_TABLE_COUNT = sizeof FILE_TABLES / sizeof *FILE_TABLES };
static const struct example EXAMPLES[] = {
    {"tandem health", "the server on http://127.0.0.1:8080"},
    {"until tandem health --port 9000; do sleep 1; done", "waits for one to be ready"},
    {NULL, NULL},
};

enum { ANSWER_BYTES_MAX = 16 * 1024 };

static int fail_to(const char *what, struct error *error) {
    const char *why = errno == EAGAIN || errno == EINPROGRESS ? "no answer in time" : strerror(errno);
    if (config.unix_socket[0])
        return error_set(error, ERROR_IO, "could not %s %s: %s", what, config.unix_socket, why);
    return error_set(error, ERROR_IO, "could not %s %s port %d: %s", what, config.host, config.port, why);
}

// Connects, or returns -1 with errno.
static int dial_one(const struct sockaddr *address, socklen_t bytes, int family, int protocol) {
    double whole = (double)(long)own.seconds;
    struct timeval patience = {.tv_sec = (long)own.seconds, .tv_usec = (long)((own.seconds - whole) * 1e6)};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, address, bytes) == 0) return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int dial_path(struct error *error) {
    struct sockaddr_un address;
    if (listener_unix_address(&address, config.unix_socket, error)) return -1;
    int fd = dial_one((struct sockaddr *)&address, sizeof address, AF_UNIX, 0);
    if (fd < 0) fail_to("connect to", error);
    return fd;
}

// A connected socket, or -1.
static int dial(struct error *error) {
    if (config.unix_socket[0]) return dial_path(error);
    char port[16];
    snprintf(port, sizeof port, "%d", config.port);
    struct addrinfo *places, hints = {.ai_socktype = SOCK_STREAM};
    if (listener_check_host(config.host, error)) return -1;
    int code = getaddrinfo(config.host, port, &hints, &places);
    if (code) {
        error_set(error, ERROR_ARGUMENT, "--host `%.60s`: %s", config.host, gai_strerror(code));
        return -1;
    }

    int fd = -1;
    for (struct addrinfo *at = places; at && fd < 0; at = at->ai_next)
        fd = dial_one(at->ai_addr, at->ai_addrlen, at->ai_family, at->ai_protocol);
    if (fd < 0) fail_to("connect to", error);
    freeaddrinfo(places);
    return fd;
}

// The whole answer as text, up to where the server closes.
static int exchange(int fd, char answer[ANSWER_BYTES_MAX], struct error *error) {
    static const char request[] = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1)
        return fail_to("ask", error);
    ssize_t got = 1;
    size_t bytes = 0;
    while (got > 0 && bytes < ANSWER_BYTES_MAX - 1) {
        got = recv(fd, answer + bytes, ANSWER_BYTES_MAX - 1 - bytes, 0);
        if (got < 0) return fail_to("hear from", error);
        bytes += (size_t)got;
    }
    answer[bytes] = '\0';
    return 0;
}

static int judge(const char *answer, struct error *error) {
    const char *body = strstr(answer, "\r\n\r\n");
    if (strncmp(answer, "HTTP/1.1 ", 9) != 0 || !body)
        return error_set(error, ERROR_FORMAT, "what answers there is no Tandem");
    printf("%s\n", body + 4);
    if (strncmp(answer + 9, "200", 3) == 0) return 0;
    return error_set(error, ERROR_BUSY, "the server is not ready (%.3s)", answer + 9);
}

static int ask(void) {
    struct error error = {0};
    char answer[ANSWER_BYTES_MAX];
    if (config.port == 0 && !config.unix_socket[0]) {
        error_set(&error, ERROR_ARGUMENT, "the port is 0, so that the server picks one: name it with --port");
        return command_misused(&health_command, &error);
    }
    int fd = dial(&error);
    if (fd < 0) return command_fail(&health_command, &error, error.code == ERROR_ARGUMENT ? EXIT_USAGE : EXIT_OTHER);
    int code = exchange(fd, answer, &error);
    if (!code) code = judge(answer, &error);
    close(fd);
    return code ? command_fail(&health_command, &error, EXIT_OTHER) : EXIT_WELL;
}

static int run(int count, char **arguments) {
    char path[CONFIG_FILE_PATH_BYTES];
    struct error error = {0};
    for (int i = 0; i < FILE_TABLE_COUNT; i++) // before the command's own, which are among them
        if (settings_init(&FILE_TABLES[i], &error)) return command_fail(&health_command, &error, EXIT_OTHER);
    free(config.host);
    free(config.unix_socket);
    int exit_code = command_begin(&health_command, count, arguments, NULL);
    if (!exit_code)
        exit_code =
            config_file_read(&health_command, FILE_TABLES, FILE_TABLE_COUNT, config_name, count, arguments, path);
    if (!exit_code) exit_code = ask();
    command_end(&health_command);
    for (int i = 0; i < FILE_TABLE_COUNT; i++) settings_finish(&FILE_TABLES[i]);
    return exit_code;
}

const struct command health_command = {
    .name = "health",
    .summary = "ask a running server whether it is ready",
    .description = "Prints what GET /ready answers. The exit code is 0 when requests may be sent to the server, 1 when "
                   "they may not or nothing answers. Where the server is, is read as serve reads it: from the settings "
                   "file, then from variables, then from flags.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
