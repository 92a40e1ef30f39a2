// Settings: defaults, flags, environment, help, and what is said of a wrong one.
#include "base/settings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct first {
    char *host, *weights;
    int port, level;
    size_t bytes, tokens;
};
struct second {
    double seconds, number;
    bool json, cache;
    char *path, *file;
    struct setting_sourced secret;
    struct setting_texts stops;
};

#define FIRST(member) offsetof(struct first, member)
#define SECOND(member) offsetof(struct second, member)

static const struct setting FIRST_ROWS[] = {
    {"server.host", "--host", "TANDEM_HOST", SETTING_TEXT, FIRST(host), 0, 0, NULL, "127.0.0.1", "", "where"},
    {"model.weights", "--weights", "TANDEM_WEIGHTS", SETTING_CHOICE, FIRST(weights), 0, 0, "f32 bf16", "bf16", "",
     "which"},
    {"server.port", "--port", "TANDEM_PORT", SETTING_INT, FIRST(port), 0, 65535, NULL, "8080", "", "the port"},
    {NULL, "--level", NULL, SETTING_INT, FIRST(level), -2, 2, NULL, "0", "", "up or down"},
    {"server.bytes", "--bytes", "TANDEM_BYTES", SETTING_SIZE, FIRST(bytes), 1 << 10, 1 << 30, NULL, "8M", "bytes",
     "of a body"},
    {"model.tokens", "--tokens", "TANDEM_TOKENS", SETTING_SIZE, FIRST(tokens), 0, 1 << 30, NULL, "0", "tokens", "all"},
    {.flag = NULL},
};
static const struct setting SECOND_ROWS[] = {
    {"server.seconds", "--seconds", "TANDEM_SECONDS", SETTING_SECONDS, SECOND(seconds), 0, 3600, NULL, "10", "seconds",
     "to wait"},
    {NULL, "--number", NULL, SETTING_NUMBER, SECOND(number), -2, 2, NULL, "0.5", "", "a penalty"},
    {NULL, "--json", NULL, SETTING_SWITCH, SECOND(json), 0, 0, NULL, "false", "", "for programs"},
    {"server.cache", "--cache", "TANDEM_CACHE", SETTING_SWITCH, SECOND(cache), 0, 0, NULL, "true", "", "to keep"},
    {NULL, "--path", NULL, SETTING_TEXT, SECOND(path), 0, 0, NULL, "", "", "a file"},
    {NULL, "--file", "TANDEM_FILE", SETTING_PATH, SECOND(file), 1, 0, NULL, "", "", "another"},
    {NULL, "--stop", NULL, SETTING_TEXTS, SECOND(stops), 0, 2, NULL, "", "", "a text"},
    {NULL, "--secret", "TANDEM_SECRET", SETTING_SECRET, SECOND(secret), 1, 0, NULL, "", "", "a key"},
    {.flag = NULL},
};

static struct first first;
static struct second second;
static const struct setting_table TABLES[] = {
    {FIRST_ROWS, &first},
    {SECOND_ROWS, &second},
};
static const char *operand;
static struct error error;

static int setup(void **state) {
    (void)state;
    for (int t = 0; t < 2; t++)
        for (const struct setting *row = TABLES[t].rows; row->flag; row++)
            if (row->environment) unsetenv(row->environment);
    error = (struct error){0};
    operand = NULL;
    memset(&first, 0x55, sizeof first); // init has to set every member
    memset(&second, 0x55, sizeof second);
    return settings_init(&TABLES[0], &error) || settings_init(&TABLES[1], &error);
}

static int teardown(void **state) {
    (void)state;
    settings_finish(&TABLES[0]);
    settings_finish(&TABLES[1]);
    settings_finish(&TABLES[1]); // once more does no harm
    return 0;
}

#define COUNT(...) (int)(sizeof(char *[]){__VA_ARGS__} / sizeof(char *))
#define FLAGS(...) settings_read_flags(TABLES, 2, COUNT(__VA_ARGS__), (char *[]){__VA_ARGS__}, NULL, &error)
#define ARGUMENTS(...) settings_read_flags(TABLES, 2, COUNT(__VA_ARGS__), (char *[]){__VA_ARGS__}, &operand, &error)

static void says(const char *words) {
    if (!strstr(error.message, words)) fail_msg("`%s` does not say `%s`", error.message, words);
}

static void test_defaults(void **state) {
    (void)state;
    assert_string_equal(first.host, "127.0.0.1");
    assert_string_equal(first.weights, "bf16");
    assert_int_equal(first.port, 8080);
    assert_int_equal(first.level, 0);
    assert_int_equal(first.bytes, 8 * 1024 * 1024);
    assert_int_equal(first.tokens, 0);
    assert_true(second.seconds == 10);
    assert_true(second.number == 0.5);
    assert_false(second.json);
    assert_true(second.cache);
    assert_string_equal(second.path, "");
    assert_int_equal(second.stops.count, 0);
}

static void test_texts(void **state) {
    (void)state;
    assert_int_equal(FLAGS("--stop", "a b", "--stop=c"), 0);
    assert_int_equal(second.stops.count, 2);
    assert_string_equal(second.stops.items[0], "a b");
    assert_string_equal(second.stops.items[1], "c");
    assert_int_equal(FLAGS("--stop", "d"), ERROR_ARGUMENT);
    says("--stop is `d`, but must be a text in UTF-8, not empty, and be given 2 times at most");
    assert_int_equal(second.stops.count, 2);
    settings_finish(&TABLES[1]);
    assert_int_equal(settings_init(&TABLES[1], &error), 0);
    assert_int_equal(FLAGS("--stop="), ERROR_ARGUMENT);
    assert_int_equal(FLAGS("--stop=\xff"), ERROR_ARGUMENT);
    assert_int_equal(second.stops.count, 0);
}

static void test_flags(void **state) {
    (void)state;
    assert_int_equal(FLAGS("--port", "0", "--host=::1", "--weights=f32", "--bytes", "64KiB", "--tokens=2k", "--seconds",
                           "1.5s", "--path", "a=b", "--json", "--level", "-2", "--number=-.5e0"),
                     0);
    assert_int_equal(first.port, 0);
    assert_string_equal(first.host, "::1");
    assert_string_equal(first.weights, "f32");
    assert_int_equal(first.bytes, 64 * 1024);
    assert_int_equal(first.tokens, 2048);
    assert_int_equal(first.level, -2);
    assert_true(second.seconds == 1.5);
    assert_true(second.number == -0.5);
    assert_true(second.json);
    assert_string_equal(second.path, "a=b");
    assert_int_equal(FLAGS("--port", "1", "--port", "2", "--json", "--json=no"), 0); // the last one counts
    assert_int_equal(first.port, 2);
    assert_false(second.json);
}

static void test_switches(void **state) {
    (void)state;
    static const char *const on[] = {"true", "yes", "on", "1", "True", "ON"};
    static const char *const off[] = {"false", "no", "off", "0", "FALSE", "Off"};
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
        assert_int_equal(settings_set(&TABLES[1], &SECOND_ROWS[3], off[i], "here", &error), 0);
        assert_false(second.cache);
        assert_int_equal(settings_set(&TABLES[1], &SECOND_ROWS[3], on[i], "here", &error), 0);
        assert_true(second.cache);
    }
}

static void test_operand(void **state) {
    (void)state;
    assert_int_equal(ARGUMENTS("--json", "models/x", "--port", "1"), 0); // a switch takes no value from behind it
    assert_string_equal(operand, "models/x");
    assert_true(second.json);
    assert_int_equal(first.port, 1);
    assert_int_equal(ARGUMENTS("--", "--port"), 0);
    assert_string_equal(operand, "--port");
    assert_int_equal(ARGUMENTS("-"), 0);
    assert_string_equal(operand, "-");
    operand = NULL;
    assert_int_equal(ARGUMENTS("--port", "2"), 0);
    assert_null(operand);
    assert_int_equal(ARGUMENTS("a", "b"), ERROR_ARGUMENT);
    says("`b` is one argument too many");
    assert_int_equal(FLAGS("a"), ERROR_ARGUMENT);
    says("`a` is one argument too many");
}

static void test_environment(void **state) {
    (void)state;
    setenv("TANDEM_PORT", "9", 1);
    setenv("TANDEM_CACHE", "off", 1);
    assert_int_equal(settings_read_environment(TABLES, 2, &error), 0);
    assert_int_equal(first.port, 9);
    assert_false(second.cache);
    setenv("TANDEM_PORT", "nine", 1);
    assert_int_equal(settings_read_environment(TABLES, 2, &error), ERROR_ARGUMENT);
    says("TANDEM_PORT is `nine`");
    assert_int_equal(first.port, 9);
    setenv("TANDEM_PORT", "", 1); // as an unset one: a line of /etc/default/tandem without a value
    assert_int_equal(settings_read_environment(TABLES, 2, &error), 0);
    assert_int_equal(first.port, 9);
    setenv("TANDEM_FILE", "", 1); // but for one that must not be empty
    assert_int_equal(settings_read_environment(TABLES, 2, &error), ERROR_ARGUMENT);
    says("TANDEM_FILE is set, but empty: unset it, or say what it is to be");
}

static void test_home(void **state) {
    (void)state;
    setenv("HOME", "/there/somebody", 1);
    assert_int_equal(FLAGS("--file=~/x/y"), 0);
    assert_string_equal(second.file, "/there/somebody/x/y");
    static const char *const others[] = {"x/~/y", "~x", "~", "/a b", "../x", "."};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_int_equal(FLAGS("--file", (char *)others[i]), 0);
        assert_string_equal(second.file, others[i]);
    }
    assert_int_equal(FLAGS("--path", "~/x"), 0);
    assert_string_equal(second.path, "~/x"); // a text, and no path
    setenv("HOME", "", 1);
    assert_int_equal(FLAGS("--file=~/x"), 0);
    assert_string_equal(second.file, "~/x");
    assert_int_equal(FLAGS("--file="), ERROR_ARGUMENT);
    assert_int_equal(FLAGS("--file", "\xff"), ERROR_ARGUMENT);
}

static void refuses(char *flag, char *value, const char *expected) {
    char argument[128];
    snprintf(argument, sizeof argument, "%s=%s", flag, value); // a switch takes no value from behind it
    error = (struct error){0};
    if (FLAGS(argument) != ERROR_ARGUMENT) fail_msg("%s is taken", argument);
    says(flag);
    says(value);
    says(expected);
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
    refuses("--port", "4294967296", "whole number"); // 0, as an int
    refuses("--port", "1K", "whole number");         // a port has no unit
    refuses("--level", "-3", "-2 to 2");
    refuses("--level", "--1", "-2 to 2");
    refuses("--level", "-", "-2 to 2");
    refuses("--bytes", "1X", "K, M or G");
    refuses("--bytes", "-1", "K, M or G");
    refuses("--bytes", "18446744073709551615G", "K, M or G");
    refuses("--bytes", "1023", "from 1024");
    refuses("--weights", "f3", "f32 bf16");
    refuses("--weights", "f32 bf16", "f32 bf16");
    refuses("--weights", "F32", "f32 bf16");
    refuses("--seconds", "-1", "seconds");
    refuses("--seconds", "nan", "seconds");
    refuses("--seconds", "1e999", "seconds");
    refuses("--seconds", "1m", "seconds");
    refuses("--seconds", "0x1", "seconds");
    refuses("--seconds", ".", "seconds");
    refuses("--seconds", "3601", "0 to 3600");
    refuses("--number", "1s", "-2 to 2");
    refuses("--number", "-2.01", "-2 to 2");
    refuses("--number", "-inf", "-2 to 2");
    refuses("--json", "maybe", "true or false");
    refuses("--json", "2", "true or false");
    refuses("--path", "", "not empty");
    assert_int_equal(FLAGS("--host", "\xff"), ERROR_ARGUMENT);
    says("a text in UTF-8");
}

// Taken as a text is; but what is wrong with it is said without it.
static void test_secret(void **state) {
    (void)state;
    assert_string_equal(second.secret.text, "");
    assert_int_equal(FLAGS("--secret", "hidden"), 0);
    assert_string_equal(second.secret.text, "hidden");
    assert_string_equal(second.secret.source, "--secret");
    setenv("TANDEM_SECRET", "from here", 1);
    assert_int_equal(settings_read_environment(TABLES, 2, &error), 0);
    assert_string_equal(second.secret.text, "from here");
    assert_string_equal(second.secret.source, "TANDEM_SECRET");
    setenv("TANDEM_SECRET", "", 1);
    assert_int_equal(settings_read_environment(TABLES, 2, &error), ERROR_ARGUMENT);
    says("TANDEM_SECRET is set, but empty: unset it, or say what it is to be");
    assert_int_equal(FLAGS("--secret", "hidden\xff"), ERROR_ARGUMENT);
    says("--secret must be a text in UTF-8");
    assert_null(strstr(error.message, "hidden"));
}

static void test_wrong_flags(void **state) {
    (void)state;
    assert_int_equal(FLAGS("--nothing", "1"), ERROR_ARGUMENT);
    says("`--nothing` is not a setting");
    assert_string_equal(error.param, "--nothing");
    assert_int_equal(FLAGS("--nowhere=1"), ERROR_ARGUMENT);
    assert_string_equal(error.param, "--nowhere");
    assert_null(strstr(error.message, "mean"));
    assert_int_equal(FLAGS("--prot=1"), ERROR_ARGUMENT);
    says("did you mean --port?");
    assert_int_equal(FLAGS("-port", "1"), ERROR_ARGUMENT);
    says("did you mean --port?");
    assert_int_equal(FLAGS("--wieght", "1"), ERROR_ARGUMENT);
    says("did you mean --weights?");
    assert_int_equal(FLAGS("--hepl"), ERROR_ARGUMENT);
    says("did you mean --help?");
    assert_int_equal(FLAGS("--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
                     ERROR_ARGUMENT);
    assert_int_equal(FLAGS("--port"), ERROR_ARGUMENT);
    says("--port needs a value");
    assert_int_equal(FLAGS("--sceret=hidden"), ERROR_ARGUMENT);
    says("`--sceret` is not a setting; did you mean --secret?");
    assert_int_equal(FLAGS("--port="), ERROR_ARGUMENT);
    assert_int_equal(FLAGS(""), ERROR_ARGUMENT);
}

static void test_wrong_default(void **state) {
    (void)state;
    struct first target;
    struct setting rows[] = {FIRST_ROWS[0], FIRST_ROWS[2], {.flag = NULL}};
    struct setting_table table = {rows, &target};
    rows[1].fallback = "none";
    assert_int_equal(settings_init(&table, &error), ERROR_ARGUMENT);
    says("the default is `none`");
    settings_finish(&table);
}

static const char HELP[] = "Server\n"
                           "  --host TEXT               where\n"
                           "                            default 127.0.0.1, TANDEM_HOST\n"
                           "  --port N                  the port\n"
                           "                            0 to 65535, default 8080, TANDEM_PORT\n"
                           "  --bytes N                 of a body\n"
                           "                            1K to 1G bytes, default 8M, TANDEM_BYTES\n"
                           "  --seconds S               to wait\n"
                           "                            0 to 3600 seconds, default 10, TANDEM_SECONDS\n"
                           "  --cache                   to keep\n"
                           "                            default true, TANDEM_CACHE\n"
                           "\n"
                           "Model\n"
                           "  --weights f32|bf16        which\n"
                           "                            default bf16, TANDEM_WEIGHTS\n"
                           "  --tokens N                all\n"
                           "                            0 to 1G tokens, default 0, TANDEM_TOKENS\n"
                           "\n"
                           "Options\n"
                           "  --level N                 up or down\n"
                           "                            -2 to 2, default 0\n"
                           "  --number X                a penalty\n"
                           "                            -2 to 2, default 0.5\n"
                           "  --json                    for programs\n"
                           "  --path TEXT               a file\n"
                           "  --file PATH               another\n"
                           "                            TANDEM_FILE\n"
                           "  --stop TEXT               a text\n"
                           "                            may be given 2 times\n"
                           "  --secret TEXT             a key\n"
                           "                            TANDEM_SECRET\n";

// In sections, wherever their rows stand; what is not in files comes as options.
static void test_help(void **state) {
    (void)state;
    struct buffer help;
    buffer_init(&help, 64 * 1024);
    assert_true(settings_help(TABLES, 2, &help));
    assert_string_equal(help.data, HELP);
    buffer_finish(&help);
    buffer_init(&help, 100);
    assert_false(settings_help(TABLES, 2, &help));
    buffer_finish(&help);
}

static const char YAML[] = "server:\n"
                           "  # where\n"
                           "  # default 127.0.0.1, TANDEM_HOST, --host\n"
                           "  host: 127.0.0.1\n"
                           "\n"
                           "  # the port\n"
                           "  # 0 to 65535, default 8080, TANDEM_PORT, --port\n"
                           "  port: 8080\n"
                           "\n"
                           "  # of a body\n"
                           "  # 1K to 1G bytes, default 8M, TANDEM_BYTES, --bytes\n"
                           "  bytes: 8M\n"
                           "\n"
                           "  # to wait\n"
                           "  # 0 to 3600 seconds, default 10, TANDEM_SECONDS, --seconds\n"
                           "  seconds: 10\n"
                           "\n"
                           "  # to keep\n"
                           "  # true or false, default true, TANDEM_CACHE, --cache\n"
                           "  cache: true\n"
                           "\n"
                           "model:\n"
                           "  # which\n"
                           "  # one of: f32 bf16, default bf16, TANDEM_WEIGHTS, --weights\n"
                           "  weights: bf16\n"
                           "\n"
                           "  # all\n"
                           "  # 0 to 1G tokens, default 0, TANDEM_TOKENS, --tokens\n"
                           "  tokens: 0\n"
                           "\n"
                           "  # a path\n"
                           "  # --dir\n"
                           "  dir: \"\"\n"
                           "\n"
                           "  inner:\n"
                           "    # some\n"
                           "    # a list, --some\n"
                           "    some: \"\"\n"
                           "\n"
                           "    # which\n"
                           "    # a list, or a section of lists, default 1,2, --which\n"
                           "    which: \"1,2\"\n";

// Everything that files may have, and nothing else.
static void test_yaml(void **state) {
    (void)state;
    static const struct setting more[] = {
        {"model.inner.some", "--some", NULL, SETTING_LIST, 0, 0, 0, NULL, "", "", "some"},
        {"model.dir", "--dir", NULL, SETTING_TEXT, 0, 0, 0, NULL, "", "", "a path"},
        {"model.inner.which", "--which", NULL, SETTING_LIST, 0, 0, 1, NULL, "1,2", "", "which"},
        {.flag = NULL},
    };
    const struct setting_table tables[] = {TABLES[0], TABLES[1], {more, NULL}};
    struct buffer yaml;
    buffer_init(&yaml, 64 * 1024);
    assert_true(settings_yaml(tables, 3, &yaml));
    assert_string_equal(yaml.data, YAML);
    buffer_finish(&yaml);
}

// A section in a section is called by its own name.
static void test_help_of_sections(void **state) {
    (void)state;
    static const struct setting rows[] = {
        {"a.all", "--all", NULL, SETTING_TEXT, 0, 0, 0, NULL, "", "", "all"},
        {"a.inner.some", "--some", NULL, SETTING_LIST, 0, 0, 0, NULL, "", "", "some"},
        {"a.more", "--more", NULL, SETTING_TEXT, 0, 0, 0, NULL, "", "", "more"},
        {.flag = NULL},
    };
    struct buffer text;
    buffer_init(&text, 4096);
    assert_true(settings_help(&(struct setting_table){rows, NULL}, 1, &text));
    assert_string_equal(text.data, "A\n"
                                   "  --all TEXT                all\n"
                                   "  --more TEXT               more\n"
                                   "\n"
                                   "Inner\n"
                                   "  --some LIST               some\n");
    buffer_finish(&text);
}

// roff's own characters, and what is a command at a line's start.
static void test_roff(void **state) {
    (void)state;
    static const struct setting rows[] = {
        {"a.b", "--b-c", NULL, SETTING_CHOICE, 0, 0, 0, "x y", "x", "", ".dot \\ 'quote'"},
        {.flag = NULL},
    };
    struct buffer text;
    buffer_init(&text, 4096);
    assert_true(settings_roff(&(struct setting_table){rows, NULL}, 1, &text));
    assert_string_equal(text.data, ".PP\nA\n.TP\n.B \\-\\-b\\-c x|y\n\\&.dot \\e \\(aqquote\\(aq\n.br\ndefault x\n");
    buffer_finish(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_texts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_switches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_operand, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_home, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secret, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_default, setup, teardown),
        cmocka_unit_test_setup_teardown(test_help, setup, teardown),
        cmocka_unit_test_setup_teardown(test_yaml, setup, teardown),
        cmocka_unit_test_setup_teardown(test_help_of_sections, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roff, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
