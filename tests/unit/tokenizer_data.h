// What the tokenizer's tests share: packed data, directories with changed files, cases. Tests run at the top.
#ifndef TESTS_UNIT_TOKENIZER_DATA_H
#define TESTS_UNIT_TOKENIZER_DATA_H

#include "engine/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PHI3_DATA "tests/data/phi3"

enum { PHI3_VOCAB = 32064 };

// A file of the repository as text, unpacked by xz where its name ends so. The caller frees it.
static inline char *read_data(const char *path, size_t *bytes) {
    char command[PATH_MAX + 16];
    const char *dot = strrchr(path, '.');
    bool packed = dot && strcmp(dot, ".xz") == 0;
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    FILE *file = packed ? popen(command, "r") : fopen(path, "rb");
    if (!file) fail_msg("%s: %s", path, strerror(errno));
    size_t capacity = 1 << 20, count = 0, got;
    char *text = malloc(capacity + 1);
    assert_non_null(text);
    while ((got = fread(text + count, 1, capacity - count, file)) > 0) {
        count += got;
        if (count < capacity) continue;
        text = realloc(text, (capacity *= 2) + 1);
        assert_non_null(text);
    }
    int status = packed ? pclose(file) : fclose(file);
    if (status != 0 || count == 0) fail_msg("%s: could not be read (is xz installed?)", path);
    text[count] = '\0';
    if (bytes) *bytes = count;
    return text;
}

static inline void write_file(const char *dir, const char *name, const char *text, size_t bytes) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

// A new directory; remove_dir removes it with the files that a tokenizer has.
static inline void make_dir(char dir[64]) {
    snprintf(dir, 64, "/tmp/tandem-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static inline void remove_dir(const char *dir) {
    static const char *const NAMES[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, NAMES[i]);
        unlink(path);
    }
    rmdir(dir);
}

// Opens a tokenizer from values; config may be NULL for no tokenizer_config.json.
static inline int open_json(struct tokenizer **out, const json_t *tokenizer, const json_t *config, int vocab,
                            struct error *error) {
    char dir[64];
    make_dir(dir);
    char *text = json_dumps(tokenizer, 0);
    assert_non_null(text);
    write_file(dir, "tokenizer.json", text, strlen(text));
    free(text);
    if (config) {
        text = json_dumps(config, 0);
        assert_non_null(text);
        write_file(dir, "tokenizer_config.json", text, strlen(text));
        free(text);
    }
    int rc = tokenizer_open(out, dir, vocab, error);
    remove_dir(dir);
    return rc;
}

// Opens the tokenizer that text and config spell; the text is freed.
static inline struct tokenizer *open_data(const char *path, const char *config_path, int vocab) {
    char dir[64];
    size_t bytes;
    make_dir(dir);
    char *text = read_data(path, &bytes);
    write_file(dir, "tokenizer.json", text, bytes);
    free(text);
    text = read_data(config_path, &bytes);
    write_file(dir, "tokenizer_config.json", text, bytes);
    free(text);
    struct tokenizer *tokenizer = NULL;
    struct error error;
    int rc = tokenizer_open(&tokenizer, dir, vocab, &error);
    remove_dir(dir);
    if (rc) fail_msg("%s", error.message);
    return tokenizer;
}

static inline struct tokenizer *open_phi3(void) {
    return open_data(PHI3_DATA "/tokenizer.json.xz", PHI3_DATA "/tokenizer_config.json", PHI3_VOCAB);
}

// The built-in model's tokenizer; its config says how many ids there may be.
static inline struct tokenizer *open_demo(void) {
    json_t *config = json_load_file("models/demo/config.json", 0, NULL);
    int vocab = (int)json_integer_value(json_object_get(config, "vocab_size"));
    json_decref(config);
    return open_data("models/demo/tokenizer.json", "models/demo/tokenizer_config.json", vocab);
}

// The cases of a file of JSON lines that have this key. The caller owns the array.
static inline json_t *read_cases(const char *path, const char *key) {
    char *text = read_data(path, NULL), *line = text;
    json_t *cases = json_array();
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *value = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_non_null(value);
        if (json_object_get(value, key)) json_array_append(cases, value);
        json_decref(value);
    }
    free(text);
    return cases;
}

static inline void assert_ids(const struct token_list *list, const json_t *expected, const char *what, size_t number) {
    bool same = list->count == json_array_size(expected);
    for (size_t i = 0; same && i < list->count; i++)
        same = list->ids[i] == json_integer_value(json_array_get(expected, i));
    if (same) return;
    for (size_t i = 0; i < list->count; i++) print_error("%s%d", i ? ", " : "found ", (int)list->ids[i]);
    char *text = json_dumps(expected, JSON_COMPACT);
    fail_msg("%s %zu: expected %s", what, number, text);
}

#endif
