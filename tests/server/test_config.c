// Settings: defaults, flags, environment, and what is said of a wrong one.
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct config config;
static struct error error;

static int setup(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTING_COUNT; i++) unsetenv(SETTINGS[i].environment);
    error = (struct error){0};
    return config_init(&config, &error);
}

static int teardown(void **state) {
    (void)state;
    config_finish(&config);
    return 0;
}

#define FLAGS(...) \
    config_read_flags(&config, (int)(sizeof(char *[]){__VA_ARGS__} / sizeof(char *)), (char *[]){__VA_ARGS__}, &error)

static void test_defaults(void **state) {
    (void)state;
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 8080);
    assert_string_equal(config.model, "");
    assert_string_equal(config.weights, "bf16");
    assert_int_equal(config.body_bytes_max, 8 * 1024 * 1024);
    assert_true(config.header_seconds == 10);
}

static void test_flags(void **state) {
    (void)state;
    assert_int_equal(FLAGS("--port", "0", "--host=::1", "--weights=f32", "--body-bytes-max", "64KiB", "--kv-tokens=2k",
                           "--drain-seconds", "1.5s", "--model", "a=b"),
                     0);
    assert_int_equal(config.port, 0);
    assert_string_equal(config.host, "::1");
    assert_string_equal(config.weights, "f32");
    assert_int_equal(config.body_bytes_max, 64 * 1024);
    assert_int_equal(config.kv_tokens, 2048);
    assert_true(config.drain_seconds == 1.5);
    assert_string_equal(config.model, "a=b");
    assert_int_equal(FLAGS("--port", "1", "--port", "2"), 0); // the last one counts
    assert_int_equal(config.port, 2);
}

static void test_environment(void **state) {
    (void)state;
    setenv("TANDEM_PORT", "9", 1);
    setenv("TANDEM_LOG_LEVEL", "debug", 1);
    assert_int_equal(config_read_environment(&config, &error), 0);
    assert_int_equal(config.port, 9);
    assert_string_equal(config.log_level, "debug");
    setenv("TANDEM_PORT", "nine", 1);
    assert_int_equal(config_read_environment(&config, &error), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "TANDEM_PORT"));
    assert_non_null(strstr(error.message, "nine"));
    assert_int_equal(config.port, 9);
}

static void refuses(char *flag, char *value, const char *expected) {
    error = (struct error){0};
    if (FLAGS(flag, value) != ERROR_ARGUMENT) fail_msg("%s %s is taken", flag, value);
    assert_non_null(strstr(error.message, flag));
    assert_non_null(strstr(error.message, value));
    if (!strstr(error.message, expected)) fail_msg("`%s` does not say `%s`", error.message, expected);
}

static void test_wrong_values(void **state) {
    (void)state;
    refuses("--port", "65536", "0 to 65535");
    refuses("--port", "-1", "0 to 65535");
    refuses("--port", " 1", "whole number");
    refuses("--port", "1 ", "whole number");
    refuses("--port", "0x10", "whole number");
    refuses("--port", "1e3", "whole number");
    refuses("--port", "99999999999999999999999", "whole number");
    refuses("--port", "1K", "whole number"); // a port has no unit
    refuses("--body-bytes-max", "1X", "K, M or G");
    refuses("--body-bytes-max", "18446744073709551615G", "K, M or G");
    refuses("--body-bytes-max", "1023", "from 1024");
    refuses("--weights", "f3", "f32 bf16");
    refuses("--weights", "f32 bf16", "f32 bf16");
    refuses("--weights", "F32", "f32 bf16");
    refuses("--drain-seconds", "-1", "seconds");
    refuses("--drain-seconds", "nan", "seconds");
    refuses("--drain-seconds", "1e999", "seconds");
    refuses("--drain-seconds", "1m", "seconds");
    refuses("--header-seconds", "0", "seconds");
}

static void test_wrong_flags(void **state) {
    (void)state;
    assert_int_equal(FLAGS("--nothing", "1"), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "--nothing"));
    assert_int_equal(FLAGS("--por", "1"), ERROR_ARGUMENT);
    assert_int_equal(FLAGS("port"), ERROR_ARGUMENT);
    assert_int_equal(FLAGS("--port"), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "needs a value"));
    assert_int_equal(FLAGS("--port="), ERROR_ARGUMENT);
}

// Every row is complete, its names are its own, and --help tells of it.
static void test_table(void **state) {
    (void)state;
    struct buffer help;
    buffer_init(&help, 64 * 1024);
    assert_true(config_help(&help));
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *setting = &SETTINGS[i];
        assert_non_null(strchr(setting->name, '.'));
        assert_memory_equal(setting->flag, "--", 2);
        assert_memory_equal(setting->environment, "TANDEM_", 7);
        assert_non_null(strstr(help.data, setting->flag));
        assert_non_null(strstr(help.data, setting->environment));
        assert_non_null(strstr(help.data, setting->help));
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(setting->name, SETTINGS[j].name);
            assert_string_not_equal(setting->flag, SETTINGS[j].flag);
            assert_string_not_equal(setting->environment, SETTINGS[j].environment);
            assert_int_not_equal(setting->offset, SETTINGS[j].offset);
        }
    }
    for (const char *line = help.data; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > 100) fail_msg("longer than 100 columns: %.120s", line);
    buffer_finish(&help);
}

// What a setting may be and is without being set, beside the words.
static void test_help(void **state) {
    (void)state;
    static const char *const lines[] = {
        "0 to 65535, default 8080, TANDEM_PORT\n",
        "1K to 1G bytes, default 8M, TANDEM_BODY_BYTES_MAX\n",
        "0.1 to 3600 seconds, default 10, TANDEM_HEADER_SECONDS\n",
        "1 to 1024, default 16, TANDEM_MAX_SEQUENCES\n",
        "--log-level error|warning|info|debug\n",
        "--weights f32|bf16 ",
    };
    struct buffer help;
    buffer_init(&help, 64 * 1024);
    assert_true(config_help(&help));
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(help.data, lines[i])) fail_msg("`%s` is not in:\n%s", lines[i], help.data);
    buffer_finish(&help);
}

// A default that the engine has too is the same there; and no setting goes further than the engine does.
static void test_engine_limits(void **state) {
    (void)state;
    assert_int_equal(config.sequences_max, ENGINE_SEQUENCES_STANDARD);
    assert_int_equal(config.queue_max, ENGINE_QUEUE_STANDARD);
    assert_int_equal(config.prefill_tokens_max, ENGINE_PREFILL_TOKENS_STANDARD);
    refuses("--queue", "65537", "1 to 65536");
}

static void test_log_levels(void **state) {
    (void)state;
    static const char *const names[] = {
        [LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};
    for (int i = 0; i < 4; i++) {
        enum log_level level;
        assert_true(log_level_parse(names[i], &level));
        assert_int_equal(level, i);
        assert_int_equal(FLAGS("--log-level", (char *)names[i]), 0);
    }
    assert_false(log_level_parse("loud", &(enum log_level){LOG_ERROR}));
}

static void test_port_in_use(void **state) {
    (void)state;
    struct listener_socket first, second;
    assert_int_equal(listener_bind(&first, "127.0.0.1", 0, &error), 0);
    int port = (int)strtol(strrchr(first.address, ':') + 1, NULL, 10);
    assert_int_equal(listener_bind(&second, "127.0.0.1", port, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "--port"));
    close(first.fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_help, setup, teardown),
        cmocka_unit_test_setup_teardown(test_engine_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_in_use, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
