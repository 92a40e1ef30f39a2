// The server's settings: their table, and the tables that it refers to.
#include "base/wrap.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct config config;
static struct error error;
static const struct setting_table *table;

static int setup(void **state) {
    (void)state;
    static struct setting_table settings;
    settings = (struct setting_table){CONFIG_SETTINGS, &config};
    table = &settings;
    error = (struct error){0};
    return settings_init(table, &error);
}

static int teardown(void **state) {
    (void)state;
    settings_finish(table);
    return 0;
}

static int read_flag(const char *flag, const char *value) {
    return settings_read_flags(table, 1, 2, (char *[]){(char *)flag, (char *)value}, NULL, &error);
}

static void test_defaults(void **state) {
    (void)state;
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 8080);
    assert_int_equal(config.body_bytes_max, 8 * 1024 * 1024);
    assert_true(config.header_seconds == 10);
    assert_string_equal(config.log_level, "info");
}

// Lines as they were before they were broken: one blank between words.
static void unwrap(char *text) {
    char *to = text;
    for (const char *from = text; *from; from++)
        if (!isspace((unsigned char)*from))
            *to++ = *from;
        else if (to > text && to[-1] != ' ')
            *to++ = ' ';
    *to = '\0';
}

// Every row is complete, its names are its own, and --help tells of it.
static void test_table(void **state) {
    (void)state;
    struct buffer help;
    buffer_init(&help, 64 * 1024);
    assert_true(settings_help(table, 1, &help));
    for (const char *line = help.data; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > WRAP_COLUMNS) fail_msg("longer than %d columns: %.120s", WRAP_COLUMNS, line);
    unwrap(help.data);
    for (const struct setting *setting = CONFIG_SETTINGS; setting->flag; setting++) {
        assert_non_null(strchr(setting->name, '.'));
        assert_memory_equal(setting->flag, "--", 2);
        assert_memory_equal(setting->environment, "TANDEM_", 7);
        assert_non_null(strstr(help.data, setting->flag));
        assert_non_null(strstr(help.data, setting->environment));
        assert_non_null(strstr(help.data, setting->help));
        for (const struct setting *other = CONFIG_SETTINGS; other < setting; other++) {
            assert_string_not_equal(setting->name, other->name);
            assert_string_not_equal(setting->flag, other->flag);
            assert_string_not_equal(setting->environment, other->environment);
            assert_int_not_equal(setting->offset, other->offset);
        }
    }
    buffer_finish(&help);
}

// A default that the engine has too is the same there; and no setting goes further than the engine does.
static void test_engine_limits(void **state) {
    (void)state;
    assert_int_equal(config.sequences_max, ENGINE_SEQUENCES_STANDARD);
    assert_int_equal(config.queue_max, ENGINE_QUEUE_STANDARD);
    assert_int_equal(config.prefill_tokens_max, ENGINE_PREFILL_TOKENS_STANDARD);
    assert_int_equal(read_flag("--queue", "65537"), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "1 to 65536"));
}

static void test_log_choices(void **state) {
    (void)state;
    static const char *const names[] = {
        [LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};
    for (int i = 0; i < 4; i++) {
        enum log_level level;
        assert_true(log_level_parse(names[i], &level));
        assert_int_equal(level, i);
        assert_int_equal(read_flag("--log-level", names[i]), 0);
    }
    assert_false(log_level_parse("loud", &(enum log_level){LOG_ERROR}));
    static const char *const formats[] = {[LOG_TEXT] = "text", [LOG_JSON] = "json"};
    for (int i = 0; i < 2; i++) {
        enum log_format format;
        assert_true(log_format_parse(formats[i], &format));
        assert_int_equal(format, i);
        assert_int_equal(read_flag("--log-format", formats[i]), 0);
    }
    assert_false(log_format_parse("xml", &(enum log_format){LOG_TEXT}));
}

static struct sockaddr_in address_of(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
}

static int port_of(const struct listener_socket *socket) {
    return (int)strtol(strrchr(socket->address, ':') + 1, NULL, 10);
}

static int connect_to(int port) {
    const struct sockaddr_in address = address_of(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) return fd;
    close(fd);
    return -1;
}

static void test_port_in_use(void **state) {
    (void)state;
    struct listener_socket first, second;
    assert_int_equal(listener_bind(&first, "127.0.0.1", 0, &error), 0);
    int port = port_of(&first);
    for (int listens = 0; listens < 2; listens++) { // a server that loads, and one that is there
        if (listens) assert_int_equal(listen(first.fd, 1), 0);
        assert_int_equal(listener_bind(&second, "127.0.0.1", port, &error), ERROR_IO);
        assert_non_null(strstr(error.message, "--port"));
    }
    close(first.fd);
}

// A server was there, and closed a connection before its client did: the system remembers that for a minute.
static int worn_port(void) {
    struct listener_socket before;
    assert_int_equal(listener_bind(&before, "127.0.0.1", 0, &error), 0);
    setsockopt(before.fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); // as a listener does
    assert_int_equal(listen(before.fd, 1), 0);
    int port = port_of(&before), client = connect_to(port);
    struct pollfd door = {.fd = before.fd, .events = POLLIN};
    assert_int_equal(poll(&door, 1, -1), 1);
    close(accept(before.fd, NULL, NULL));
    assert_int_equal(read(client, &(char){0}, 1), 0);
    close(client);
    close(before.fd);
    return port;
}

static void test_port_of_a_server_before(void **state) {
    (void)state;
    struct listener_socket first, second;
    int port = worn_port();
    assert_int_equal(listener_bind(&first, "127.0.0.1", port, &error), 0);
    assert_int_equal(listener_bind(&second, "127.0.0.1", port, &error), ERROR_IO); // at once, and not when it listens
    close(first.fd);
}

// Others may share a port with us until one listens. Whoever comes too late is told in the same words.
static void test_port_taken_while_loading(void **state) {
    (void)state;
    struct listener_options options = {.connections_max = 1};
    struct listener *listener;
    struct listener_socket late;
    struct error early;
    assert_int_equal(listener_bind(&options.socket, "127.0.0.1", 0, &error), 0);
    int port = port_of(&options.socket), other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in address = address_of(port);
    setsockopt(options.socket.fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    assert_int_equal(bind(other, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(other, 1), 0);
    assert_int_equal(listener_bind(&late, "127.0.0.1", port, &early), ERROR_IO);
    assert_int_equal(listener_create(&listener, NULL, &options, &error), ERROR_IO);
    assert_string_equal(error.message, early.message);
    assert_non_null(strstr(error.message, "--port"));
    close(other);
}

static bool is_refused(int port) {
    int fd = connect_to(port), cause = errno;
    if (fd < 0) assert_int_equal(cause, ECONNREFUSED);
    if (fd >= 0) close(fd);
    return fd < 0;
}

static void test_hosts(void **state) {
    (void)state;
    static const struct {
        const char *host, *instead; // NULL: nothing is wrong with it
    } cases[] = {
        {"localhost", NULL},
        {"::1", NULL},
        {"fe80::1%eth0", NULL},
        {"", NULL},
        {"[::1]", ": --host ::1"},
        {"[::1]:80", ": --host ::1 --port 80"},
        {"a:", ": --host a"},
        {"a:8080", ": --host a --port 8080"},
        {"a/v1", ": --host a"},
        {"http://a", ": --host a"},
        {"http://a:8080/v1", ": --host a --port 8080"},
        {"http://[::1]:8080/v1", ": --host ::1 --port 8080"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = listener_check_host(cases[i].host, &error);
        assert_int_equal(code, cases[i].instead ? ERROR_ARGUMENT : 0);
        if (!code) continue;
        assert_int_equal(listener_bind(&(struct listener_socket){.fd = -1}, cases[i].host, 0, &error), ERROR_ARGUMENT);
        const char *end = error.message + strlen(error.message) - strlen(cases[i].instead);
        assert_string_equal(end, cases[i].instead);
    }
}

// While a model is loaded clients are refused, at a port that is kept for them; they are not left waiting.
static void test_refused_before_there_is_a_listener(void **state) {
    (void)state;
    struct listener_options options = {.connections_max = 1};
    struct loop *loop;
    struct listener *listener;
    assert_int_equal(listener_bind(&options.socket, "127.0.0.1", 0, &error), 0);
    int port = port_of(&options.socket);
    assert_true(is_refused(port));
    assert_int_equal(loop_create(&loop, &error), 0);
    assert_int_equal(listener_create(&listener, loop, &options, &error), 0);
    assert_false(is_refused(port));
    listener_destroy(listener);
    loop_destroy(loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_engine_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_choices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_of_a_server_before, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_taken_while_loading, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_before_there_is_a_listener, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
