// Reading JSON of unknown origin: what is refused, and what the message says.
#include "engine/hf_json.h"
#include "tests/unit/model_files.h"

#include <math.h>

static json_t *parse(const char *text) {
    json_t *out = NULL;
    struct error error;
    if (hf_json_parse(text, strlen(text), "a/config.json", &out, &error)) fail_msg("%s: %s", text, error.message);
    return out;
}

static void refused(const char *text, size_t bytes, const char *part) {
    json_t *out = NULL;
    struct error error;
    int rc = hf_json_parse(text, bytes, "a/config.json", &out, &error);
    assert_int_equal(rc, ERROR_FORMAT);
    assert_int_equal(error.code, ERROR_FORMAT);
    assert_null(out);
    expect_text(error.message, "a/config.json: ");
    expect_text(error.message, part);
}

static void parse_refuses_what_is_no_object(void **state) {
    (void)state;
    json_decref(parse("{}"));
    refused("", 0, "not valid JSON at line 1");
    refused("[]", 2, "expected an object, found an array");
    refused("{\"a\": 1", 7, "not valid JSON");
    refused("{\"a\": 1} x", 10, "not valid JSON");
    refused("{\"a\": 1, \"a\": 2}", 16, "duplicate");
    refused("{\"a\": \"\xff\"}", 10, "not valid JSON");
    refused("{\"a\": \"\\u0000\"}", 15, "not valid JSON");
    refused("{\"a\": nan}", 10, "not valid JSON");
    refused("{\"a\": 1e999}", 12, "not valid JSON");
    refused("{\"\xff\x01\": 1}", 9, "not valid JSON");
    refused("\0\0\0\0", 4, "not valid JSON");
}

static void parse_bounds_depth_and_values(void **state) {
    (void)state;
    enum { BYTES = 5000000 };
    char *text = malloc(BYTES);
    assert_non_null(text);
    memset(text, '[', BYTES);
    memcpy(text, "{\"a\":", 5);
    refused(text, BYTES, "nested more than 64 deep");
    refused(text, 200, "nested more than 64 deep");

    char deep[256] = "{\"a\":"; // 65 deep in all, then 64
    memset(deep + 5, '[', 64);
    memset(deep + 69, ']', 64);
    deep[133] = '}';
    refused(deep, strlen(deep), "nested more than 64 deep");
    deep[5] = ' ';
    deep[132] = ' ';
    json_decref(parse(deep));
    json_decref(parse("{\"a\": \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[\"}"));

    memset(text + 5, ',', BYTES - 5);
    refused(text, BYTES, "more than 2000000 JSON values");
    free(text);
}

static void parse_takes_integers_beyond_64_bits(void **state) {
    (void)state;
    // As tokenizers write "no limit". The other numbers of such a file are still integers to hf_json_int.
    json_t *json = parse("{\"model_max_length\": 1000000000000000019884624838656, \"id\": 32000}");
    struct error error;
    int64_t id;
    double length;
    assert_int_equal(hf_json_int(json, "f", "id", 0, 40000, &id, &error), 0);
    assert_int_equal(id, 32000);
    assert_int_equal(hf_json_real(json, "f", "model_max_length", 0, 1e300, &length, &error), 0);
    assert_true(length == 1e30);
    json_decref(json);
}

static void integers(void **state) {
    (void)state;
    json_t *json =
        parse("{\"seven\": 7, \"text\": \"7\", \"half\": 7.5, \"whole\": 7.0, \"true\": true, \"null\": null,"
              "\"most\": 9223372036854775807, \"huge\": 1e300, \"list\": [7]}");
    struct error error;
    int64_t out;
    assert_int_equal(hf_json_int(json, "f.json", "seven", 7, 7, &out, &error), 0);
    assert_int_equal(out, 7);
    assert_int_equal(hf_json_int(json, "f.json", "whole", 0, 10, &out, &error), 0);
    assert_int_equal(out, 7);
    assert_int_equal(hf_json_int(json, "f.json", "most", 0, INT64_MAX, &out, &error), 0);
    assert_true(out == INT64_MAX);
    const struct {
        const char *key, *message;
    } cases[] = {
        {"text", "f.json: text: expected an integer from 1 to 6, found \"7\""},
        {"seven", "f.json: seven: expected an integer from 1 to 6, found 7"},
        {"half", "f.json: half: expected an integer from 1 to 6, found 7.5"},
        {"true", "f.json: true: expected an integer from 1 to 6, found true"},
        {"null", "f.json: null: expected an integer from 1 to 6, found null"},
        {"list", "f.json: list: expected an integer from 1 to 6, found an array"},
        {"none", "f.json: none: expected an integer from 1 to 6, found nothing"},
        {"huge", "f.json: huge: expected an integer from 1 to 6, found 1e+300"},
        {"most", "f.json: most: expected an integer from 1 to 6, found 9223372036854775807"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(hf_json_int(json, "f.json", cases[i].key, 1, 6, &out, &error), ERROR_FORMAT);
        assert_string_equal(error.message, cases[i].message);
    }
    assert_int_equal(hf_json_int_or(json, "f.json", "none", 1, 6, 42, &out, &error), 0);
    assert_int_equal(out, 42);
    assert_int_equal(hf_json_int_or(json, "f.json", "null", 1, 6, 43, &out, &error), 0);
    assert_int_equal(out, 43);
    assert_int_equal(hf_json_int_or(json, "f.json", "seven", 1, 6, 43, &out, &error), ERROR_FORMAT);
    json_decref(json);
}

static void other_types(void **state) {
    (void)state;
    json_t *json = parse("{\"i\": 3, \"r\": 0.25, \"s\": \"x\", \"t\": true, \"n\": null}");
    struct error error;
    double real;
    bool flag;
    const char *text;
    assert_int_equal(hf_json_real(json, "f", "r", 0, 1, &real, &error), 0);
    assert_true(real == 0.25);
    assert_int_equal(hf_json_real(json, "f", "i", 0, 5, &real, &error), 0);
    assert_true(real == 3);
    assert_int_equal(hf_json_real(json, "f", "i", 0, 1, &real, &error), ERROR_FORMAT);
    assert_string_equal(error.message, "f: i: expected a number from 0 to 1, found 3");
    assert_int_equal(hf_json_real(json, "f", "s", 0, 1, &real, &error), ERROR_FORMAT);
    assert_int_equal(hf_json_real_or(json, "f", "n", 0, 1, 0.5, &real, &error), 0);
    assert_true(real == 0.5);
    assert_int_equal(hf_json_bool_or(json, "f", "t", false, &flag, &error), 0);
    assert_true(flag);
    assert_int_equal(hf_json_bool_or(json, "f", "n", true, &flag, &error), 0);
    assert_true(flag);
    assert_int_equal(hf_json_bool_or(json, "f", "i", true, &flag, &error), ERROR_FORMAT);
    assert_string_equal(error.message, "f: i: expected true or false, found 3");
    assert_int_equal(hf_json_string(json, "f", "s", &text, &error), 0);
    assert_string_equal(text, "x");
    assert_int_equal(hf_json_string(json, "f", "gone", &text, &error), ERROR_FORMAT);
    assert_string_equal(error.message, "f: gone: expected a string, found nothing");
    json_decref(json);
}

// What a hostile file holds is quoted short and clean.
static void quotes_are_bounded_and_clean(void **state) {
    (void)state;
    json_t *json = parse("{\"s\": \"\\u001b[31mxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xc3\xa9\xc3\xa9\xc3\xa9\"}");
    struct error error;
    int64_t out;
    assert_int_equal(hf_json_int(json, "f", "s", 0, 1, &out, &error), ERROR_FORMAT);
    assert_string_equal(
        error.message,
        "f: s: expected an integer from 0 to 1, found \" [31mxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xc3\xa9\"");
    json_decref(json);
}

static void load_takes_regular_files_only(void **state) {
    (void)state;
    struct scratch scratch;
    struct error error;
    json_t *json = NULL;
    scratch_create(&scratch);

    const char *path = scratch_path(&scratch, "good.json");
    write_file(path, "{\"a\": 1}", 8);
    assert_int_equal(hf_json_load(path, 8, &json, &error), 0);
    assert_int_equal(json_integer_value(json_object_get(json, "a")), 1);
    json_decref(json);
    assert_int_equal(hf_json_load(path, 7, &json, &error), ERROR_FORMAT);
    expect_text(error.message, "good.json: expected at most 7 bytes, found 8");

    assert_int_equal(hf_json_load(scratch_path(&scratch, "none.json"), 100, &json, &error), ERROR_NOT_FOUND);
    expect_text(error.message, "none.json: cannot be opened: ");
    assert_int_equal(hf_json_load(scratch.dir, 100000, &json, &error), ERROR_FORMAT);
    expect_text(error.message, "expected a regular file, found a directory");

    path = scratch_path(&scratch, "pipe.json");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(hf_json_load(path, 100, &json, &error), ERROR_FORMAT); // and does not wait for a writer
    expect_text(error.message, "pipe.json: expected a regular file");

    path = scratch_path(&scratch, "loop.json");
    assert_int_equal(symlink("loop.json", path), 0);
    assert_int_equal(hf_json_load(path, 100, &json, &error), ERROR_IO);
    expect_text(error.message, "loop.json: cannot be opened: ");

    path = scratch_path(&scratch, "empty.json");
    write_file(path, "", 0);
    assert_int_equal(hf_json_load(path, 100, &json, &error), ERROR_FORMAT);
    expect_text(error.message, "empty.json: not valid JSON");
    scratch_destroy(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_refuses_what_is_no_object),
        cmocka_unit_test(parse_bounds_depth_and_values),
        cmocka_unit_test(parse_takes_integers_beyond_64_bits),
        cmocka_unit_test(integers),
        cmocka_unit_test(other_types),
        cmocka_unit_test(quotes_are_bounded_and_clean),
        cmocka_unit_test(load_takes_regular_files_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
