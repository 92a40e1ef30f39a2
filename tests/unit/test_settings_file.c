// Settings from a YAML file: what is taken, and the file, the line and the choices in what is said of a wrong one.
#include "base/settings_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct first {
    char *host, *weights, *path;
    int port;
};
struct second {
    size_t bytes;
    double seconds, number;
    bool cache, json;
    char *prefill;
    struct setting_sourced layers, opencl;
};

#define FIRST(member) offsetof(struct first, member)
#define SECOND(member) offsetof(struct second, member)

static const struct setting FIRST_ROWS[] = {
    {"server.host", "--host", "TANDEM_HOST", SETTING_TEXT, FIRST(host), 0, 0, NULL, "127.0.0.1", "", "where"},
    {"model.weights", "--weights", "TANDEM_WEIGHTS", SETTING_CHOICE, FIRST(weights), 0, 0, "f32 bf16", "bf16", "",
     "which"},
    {"model.path", "--model", "TANDEM_MODEL", SETTING_PATH, FIRST(path), 0, 0, NULL, "", "", "a model"},
    {"server.port", "--port", "TANDEM_PORT", SETTING_INT, FIRST(port), 0, 65535, NULL, "8080", "", "the port"},
    {.flag = NULL},
};
static const struct setting SECOND_ROWS[] = {
    {"server.bytes", "--bytes", "TANDEM_BYTES", SETTING_SIZE, SECOND(bytes), 1 << 10, 1 << 30, NULL, "8M", "bytes",
     "of a body"},
    {"server.seconds", "--seconds", "TANDEM_SECONDS", SETTING_SECONDS, SECOND(seconds), 0, 3600, NULL, "10", "seconds",
     "to wait"},
    {"engine.number", "--number", NULL, SETTING_NUMBER, SECOND(number), -2, 2, NULL, "0.5", "", "a penalty"},
    {"engine.cache", "--cache", "TANDEM_CACHE", SETTING_SWITCH, SECOND(cache), 0, 0, NULL, "true", "", "to keep"},
    {"engine.experts.prefill", "--prefill", NULL, SETTING_CHOICE, SECOND(prefill), 0, 0, "cpu opencl", "cpu", "",
     "who"},
    {"engine.experts.layers", "--layers", NULL, SETTING_LIST, SECOND(layers), 0, 0, NULL, "", "", "where"},
    {"engine.experts.opencl", "--opencl", NULL, SETTING_LIST, SECOND(opencl), 0, 1, NULL, "", "", "which"},
    {NULL, "--json", NULL, SETTING_SWITCH, SECOND(json), 0, 0, NULL, "false", "", "not in files"},
    {.flag = NULL},
};

static struct first first;
static struct second second;
static const struct setting_table TABLES[] = {
    {FIRST_ROWS, &first},
    {SECOND_ROWS, &second},
};
static struct error error;
static char path[] = "/tmp/tandem-settings-XXXXXX";
static char shown[ERROR_MESSAGE_BYTES]; // the message, the file's name in it shortened to FILE

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static int setup(void **state) {
    (void)state;
    error = (struct error){0};
    return settings_init(&TABLES[0], &error) || settings_init(&TABLES[1], &error);
}

static int teardown(void **state) {
    (void)state;
    settings_finish(&TABLES[0]);
    settings_finish(&TABLES[1]);
    return 0;
}

static int read_bytes(const char *text, size_t bytes) {
    FILE *file = fopen(path, "w");
    if (!file || fwrite(text, 1, bytes, file) != bytes || fclose(file) != 0) fail_msg("cannot write %s", path);
    error = (struct error){0};
    return settings_read_file(TABLES, 2, path, &error);
}

static int read_text(const char *text) {
    return read_bytes(text, strlen(text));
}

static void takes(const char *text) {
    if (read_text(text) != 0) fail_msg("`%s`: %s", text, error.message);
}

static void says(const char *text, const char *expected) {
    if (strncmp(error.message, path, strlen(path)) != 0) fail_msg("`%s`: `%s` names no file", text, error.message);
    snprintf(shown, sizeof shown, "FILE%s", error.message + strlen(path));
    if (!strstr(shown, expected)) fail_msg("`%s`: `%s` does not say `%s`", text, shown, expected);
}

static void refuses(const char *text, const char *expected) {
    if (read_text(text) == 0) fail_msg("`%s` is taken", text);
    says(text, expected);
}

static void test_values(void **state) {
    (void)state;
    takes("# a comment\n"
          "server:\n"
          "  port: 9000   # another\n"
          "  host: \"::1\"\n"
          "  seconds: 1.5\n"
          "  bytes: 64K\n"
          "model: {weights: f32, path: a b}\n"
          "engine:\n"
          "  number: -1\n"
          "  cache: off\n");
    assert_int_equal(first.port, 9000);
    assert_string_equal(first.host, "::1");
    assert_string_equal(first.weights, "f32");
    assert_string_equal(first.path, "/tmp/a b"); // beside the file
    assert_int_equal(second.bytes, 64 * 1024);
    assert_true(second.seconds == 1.5);
    assert_true(second.number == -1);
    assert_false(second.cache);
    takes("model:\n  path: \"\"\nengine:\n  cache: Yes\nserver:\n  seconds: 2s\n"); // back to the default
    assert_string_equal(first.path, "");
    assert_true(second.cache);
    assert_true(second.seconds == 2);
    assert_int_equal(first.port, 9000); // what the file does not name stays
}

static void test_sections_in_sections(void **state) {
    (void)state;
    takes("engine:\n"
          "  cache: off\n"
          "  experts:\n"
          "    prefill: opencl\n"
          "    layers: 0-3,7\n"
          "  number: 1\n");
    assert_string_equal(second.prefill, "opencl");
    assert_string_equal(second.layers.text, "0-3,7");
    assert_true(second.number == 1 && !second.cache);
    takes("engine: {experts: {prefill: cpu, layers: [5, 7-9, \"2\"]}}\n");
    assert_string_equal(second.prefill, "cpu");
    assert_string_equal(second.layers.text, "5,7-9,2");
    takes("engine: {experts: {layers: 4}}\n");
    assert_string_equal(second.layers.text, "4");
    takes("engine: {experts: {layers: \"\"}}\n"); // back to the default
    assert_string_equal(second.layers.text, "");
    takes("engine:\n  experts:\n  # layers: 1\n");

    refuses(
        "engine:\n  experts:\n    pefill: cpu\n",
        "FILE:3: unknown key `pefill` in `engine.experts` (did you mean `prefill`?); keys there are: prefill, layers, "
        "opencl");
    refuses("engine:\n  colour: red\n", "unknown key `colour` in `engine`; keys there are: number, cache, experts");
    refuses("engine:\n  experts: cpu\n", "FILE:2: `engine.experts` is a section: its keys stand below it");
    refuses("engine:\n  experts.prefill: cpu\n", "FILE:2: unknown key `experts.prefill` in `engine`");
    refuses("engine.experts:\n  prefill: cpu\n", "FILE:1: unknown section `engine.experts`");
    refuses("experts:\n  prefill: cpu\n", "FILE:1: unknown section `experts`");
    refuses("engine:\n  experts:\n    prefill: [cpu]\n",
            "FILE:3: engine.experts.prefill is a list, but must be one value");
    refuses("engine:\n  experts:\n    prefill: x\n", "FILE:3: engine.experts.prefill is `x`, but must be one of: cpu");
    refuses("engine:\n  experts:\n    layers: {a: b}\n",
            "layers is a section, but must be one value or a list of them");
    refuses("engine:\n  experts:\n    layers: [1,\n [2]]\n", "FILE:4: engine.experts.layers has a list in its list");
    refuses("engine:\n  experts:\n    layers: [1, ~]\n", "FILE:3: engine.experts.layers has nothing in its list");
    refuses("engine:\n  experts:\n    layers: [\"\"]\n", "FILE:3: engine.experts.layers has nothing in its list");
    refuses("engine:\n  experts:\n    layers: []\n",
            "FILE:3: engine.experts.layers is a list of nothing; remove the line");
    refuses("engine:\n  experts: {layers: 1}\n  experts: {prefill: cpu}\n",
            "FILE:3: `experts` stands here a second time");
}

// However somebody writes lists by name, they are the text that the flag would have.
static void test_lists_by_name(void **state) {
    (void)state;
    static const struct {
        const char *written, *expected;
    } CASES[] = {
        {"0-7", "0-7"},
        {"\"0-3:0-7;4:2,5\"", "0-3:0-7;4:2,5"},
        {"0-3:0-7;4:2,5", "0-3:0-7;4:2,5"},
        {"[0-3, 7]", "0-3,7"},
        {"\n      0-3: 0-7\n      4: [2, 5]\n", "0-3:0-7;4:2,5"},
        {"\n      4: 2,5\n      \"5\": [1]\n", "4:2,5;5:1"},
        {"\n      0-3,7:\n      - 0-7\n      - 9\n", "0-3,7:0-7,9"},
        {"{0-3: 0-7, 4: [2, 5]}", "0-3:0-7;4:2,5"},
        {"[0-3: 0-7, 4: [2, 5]]", "0-3:0-7;4:2,5"},
        {"\n    - 0-3: 0-7\n    - 4: [2, 5]\n      6: 1\n", "0-3:0-7;4:2,5;6:1"},
        {"[0-3:0-7, 4:2, 5]", "0-3:0-7;4:2,5"},
        {"[0-3: 0-7, 4:2, 5]", "0-3:0-7;4:2,5"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[256];
        snprintf(text, sizeof text, "engine:\n  experts:\n    opencl: %s\n", CASES[i].written);
        takes(text);
        assert_string_equal(second.opencl.text, CASES[i].expected);
    }
    refuses("engine:\n  experts:\n    opencl: {4: 1, 4: 2}\n", "FILE:3: `4` stands here a second time");
    refuses("engine:\n  experts:\n    opencl: [0-3: 0-7, 9]\n", "this stands behind a list with a name; put it into");
    refuses("engine:\n  experts:\n    opencl: [9, 0-3: 0-7]\n", "what stands in front of this has no name");
    refuses("engine:\n  experts:\n    opencl: {4: {5: 6}}\n", "opencl has a section in its list, where values belong");
    refuses("engine:\n  experts:\n    opencl: [[1]]\n", "opencl has a list in its list, where values belong");
    refuses("engine:\n  experts:\n    opencl: {4: [[1]]}\n", "opencl has a list in its list, where values belong");
    refuses("engine:\n  experts:\n    opencl: {4: [{5: 6}]}\n", "opencl has a section in its list");
    refuses("engine:\n  experts:\n    opencl:\n      4:\n", "FILE:4: engine.experts.opencl has nothing in its list");
    refuses("engine:\n  experts:\n    opencl: {}\n", "opencl is a section of nothing; remove the line");
    refuses("engine:\n  experts:\n    opencl: {4: []}\n", "opencl is a list of nothing; remove the line");
    refuses("engine:\n  experts:\n    opencl: {[4]: 1}\n", "FILE:3: expected a name and `:`, found a list");
}

static void test_tabs(void **state) {
    (void)state;
    refuses("server:\n\tport: 9000\n", "FILE:2: begins with a tab, where YAML wants blanks");
    refuses("# ä\nserver:\n  \thost: a\n  port: 1\n", "FILE:3: begins with a tab");
    refuses("\tserver:", "FILE:1: begins with a tab");
    refuses("server:\n  host: @a\n", "FILE:2: found character that cannot start any token");
}

static void test_paths(void **state) {
    (void)state;
    char here[4096], link[] = "/tmp/tandem-link-XXXXXX";
    setenv("HOME", "/there/somebody", 1);
    takes("model: {path: ../x}\n");
    assert_string_equal(first.path, "/tmp/../x");
    takes("model: {path: /x}\n");
    assert_string_equal(first.path, "/x");
    takes("model: {path: ~/x}\n");
    assert_string_equal(first.path, "/there/somebody/x");
    takes("model: {path: ~x}\n");
    assert_string_equal(first.path, "/tmp/~x");
    takes("server: {host: a}\n");
    assert_string_equal(first.host, "a"); // no path

    // The file's own name may be relative, and a link to where it lies.
    assert_non_null(getcwd(here, sizeof here));
    assert_non_null(mkdtemp(link));
    assert_int_equal(chdir(link), 0);
    assert_int_equal(symlink(path, "link.yaml"), 0);
    takes("model: {path: y}\n");
    first.path[0] = '\0';
    assert_int_equal(settings_read_file(TABLES, 2, "link.yaml", &error), 0);
    assert_string_equal(first.path, "/tmp/y");
    assert_int_equal(unlink("link.yaml"), 0);
    assert_int_equal(chdir(here), 0);
    assert_int_equal(rmdir(link), 0);
}

static void test_nothing_in_it(void **state) {
    (void)state;
    takes("");
    takes("# only words\n");
    takes("---\n");
    takes("server:\nmodel:\n  # path: x\n");
    takes("{}");
    takes("---\nserver: {port: 1}\n...\n");
    assert_int_equal(first.port, 1);
}

// What the program writes, it reads: every setting at its default.
static void test_round_trip(void **state) {
    (void)state;
    struct buffer yaml;
    buffer_init(&yaml, 64 * 1024);
    assert_true(settings_yaml(TABLES, 2, &yaml));
    takes("server: {port: 1, host: a, bytes: 2K}\nmodel: {path: b, weights: f32}\nengine: {number: 1, cache: no, "
          "experts: {prefill: opencl, layers: 3}}\n");
    takes(yaml.data);
    assert_int_equal(first.port, 8080);
    assert_string_equal(first.host, "127.0.0.1");
    assert_string_equal(first.path, "");
    assert_string_equal(first.weights, "bf16");
    assert_int_equal(second.bytes, 8 << 20);
    assert_true(second.number == 0.5);
    assert_true(second.cache);
    assert_string_equal(second.prefill, "cpu");
    assert_string_equal(second.layers.text, "");
    buffer_finish(&yaml);
}

static void test_unknown(void **state) {
    (void)state;
    refuses(
        "server:\n  port: 1\n  prot: 1\n",
        "FILE:3: unknown key `prot` in `server` (did you mean `port`?); keys there are: host, port, bytes, seconds");
    refuses("server:\n  colour: red\n", "FILE:2: unknown key `colour` in `server`; keys there are: host, port");
    refuses("\nsever:\n  port: 1\n",
            "FILE:2: unknown section `sever` (did you mean `server`?); sections are: server, model, engine");
    refuses("server:\n  json: true\n", "FILE:2: unknown key `json`"); // only a flag
    refuses("serve:\n  port: 1\n", "FILE:1: unknown section `serve` (did you mean `server`?)");
    refuses("server.port: 1\n", "FILE:1: unknown section `server.port`");
    refuses("server:\n  server.port: 1\n", "FILE:2: unknown key `server.port`");
    refuses("<<: {a: b}\n", "FILE:1: unknown section `<<`");
    refuses("server:\n  \"\": 1\n", "FILE:2: unknown key ``");
    refuses("\"\": 1\n", "FILE:1: unknown section ``");
}

static void test_wrong_values(void **state) {
    (void)state;
    refuses("server:\n\n  port: 65536\n", "FILE:3: server.port is `65536`, but must be a whole number from 0 to 65535");
    refuses("server:\n  port: eight\n", "FILE:2: server.port is `eight`, but must be a whole number");
    refuses("server:\n  port: 1.5\n", "FILE:2: server.port is `1.5`");
    refuses("server:\n  port: [1]\n", "FILE:2: server.port is a list, but must be one value");
    refuses("server:\n  host: {a: b}\n", "FILE:2: server.host is a section, but must be one value");
    refuses("server:\n  port:\n  host: a\n", "FILE:2: server.port has no value");
    refuses("server:\n  host: ~\n", "FILE:2: server.host has no value");
    refuses("server:\n  host: \"\"\n", "FILE:2: server.host is ``, but must be a text");
    refuses("server:\n  host: \"a\\0b\"\n", "FILE:2: server.host");
    refuses("server:\n  bytes: 8X\n", "FILE:2: server.bytes is `8X`, but must be a whole number from 1024");
    refuses("server:\n  seconds: soon\n", "FILE:2: server.seconds is `soon`, but must be seconds");
    refuses("engine:\n  cache: maybe\n", "FILE:2: engine.cache is `maybe`, but must be true or false");
    refuses("engine:\n  number: .inf\n", "FILE:2: engine.number is `.inf`");
    refuses("model:\n  weights: int3\n", "FILE:2: model.weights is `int3`, but must be one of: f32 bf16");
}

static void test_wrong_shape(void **state) {
    (void)state;
    refuses("server:\n  port: 1\n  host: a\n  port: 2\n",
            "FILE:4: `port` stands here a second time; the first is in line 2");
    refuses("server:\n  port: 1\nserver:\n  host: a\n", "FILE:3: `server` stands here a second time");
    refuses("- a\n", "FILE:1: expected sections with keys, found a list");
    refuses("just words\n", "FILE:1: expected sections with keys, found a value");
    refuses("server: 8080\n", "FILE:1: `server` is a section");
    refuses("server:\n  - port\n", "FILE:2: `server` is a section");
    refuses("? [a]\n: b\n", "FILE:1: expected a name and `:`, found a list");
    refuses("server:\n  {a: b}: 1\n", "FILE:2: expected a name and `:`, found a section");
    refuses("server: {port: 1}\n---\nserver: {port: 2}\n", "FILE:3: a second document");
}

static void test_not_yaml(void **state) {
    (void)state;
    refuses("server:\n  port: [1\n", "FILE:3: ");
    refuses("server:\n\tport: 1\n", "FILE:2: ");
    refuses("server:\n  port: 1\n host: a\n", "FILE:3: ");
    refuses("server:\n  host: \"a\n", "that begins in line 2");
    refuses("server:\n  host: *nothing\n", "FILE:2: ");
    refuses("server:\n  host: a\xff\n", "FILE:2: ");
    assert_int_not_equal(read_bytes("server:\n  host: a\0b\n", 20), 0);
    says("a NUL", "FILE:2: ");
}

// Aliases that would fill the memory if somebody wrote them out, and nesting that would fill the stack.
static void test_hostile(void **state) {
    (void)state;
    static char text[SETTINGS_FILE_BYTES_MAX + 2];
    char *at = text + snprintf(text, sizeof text, "a0: &a0 x\n");
    for (int i = 1; i < 100; i++) at += snprintf(at, 64, "a%d: &a%d [*a%d, *a%d]\n", i, i, i - 1, i - 1);
    refuses(text, "FILE:1: unknown section `a0`");
    memset(text, '[', SETTINGS_FILE_BYTES_MAX);
    text[SETTINGS_FILE_BYTES_MAX] = '\0';
    refuses(text, "FILE:");
    text[SETTINGS_FILE_BYTES_MAX] = '[';
    refuses(text, "FILE: expected at most 32768 bytes, found 32769");
}

// Whatever becomes of a file, it is read, or refused in words that name it.
static void test_damaged(void **state) {
    (void)state;
    static const char pieces[] = ":-{}[]#&*!|>'\"%@`,? \n\t\0\xff\xc3~<=ab1";
    uint64_t random = 1;
    struct buffer yaml;
    buffer_init(&yaml, 64 * 1024);
    assert_true(settings_yaml(TABLES, 2, &yaml));
    for (int i = 0; i < 3000; i++) {
        char text[4096];
        assert_true(yaml.bytes < sizeof text);
        memcpy(text, yaml.data, yaml.bytes);
        for (int change = 0; change < 1 + i % 4; change++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[(random >> 33) % yaml.bytes] = pieces[(random >> 17) % (sizeof pieces - 1)];
        }
        int code = read_bytes(text, yaml.bytes);
        if (code) says("damaged", "FILE:");
        assert_int_equal(code, error.code);
    }
    buffer_finish(&yaml);
}

static void test_no_file(void **state) {
    (void)state;
    assert_int_equal(settings_read_file(TABLES, 2, "/nonexistent/x.yaml", &error), ERROR_NOT_FOUND);
    assert_non_null(strstr(error.message, "/nonexistent/x.yaml"));
    assert_int_equal(settings_read_file(TABLES, 2, "/tmp", &error), ERROR_FORMAT);
    assert_non_null(strstr(error.message, "found a directory"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sections_in_sections, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tabs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_shape, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_yaml, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_file, setup, teardown),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
