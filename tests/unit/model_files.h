// For tests that write model directories: a scratch directory, files in it, copies of the toy checkpoints.
// Failures end the test.
#ifndef TESTS_UNIT_MODEL_FILES_H
#define TESTS_UNIT_MODEL_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char dir[64];
};

static inline void scratch_create(struct scratch *scratch) {
    snprintf(scratch->dir, sizeof scratch->dir, "/tmp/tandem-test-XXXXXX");
    assert_non_null(mkdtemp(scratch->dir));
}

// Valid until the fourth call after this one.
static inline const char *scratch_path(const struct scratch *scratch, const char *name) {
    static char paths[4][512];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch->dir, name);
    return path;
}

// Removes what is in it: files, links, pipes, empty directories.
static inline void scratch_clear(const struct scratch *scratch) {
    DIR *dir = opendir(scratch->dir);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            assert_int_equal(remove(scratch_path(scratch, entry->d_name)), 0);
    closedir(dir);
}

static inline void scratch_destroy(const struct scratch *scratch) {
    scratch_clear(scratch);
    assert_int_equal(rmdir(scratch->dir), 0);
}

static inline void write_file(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

// The caller frees it; a NUL follows the bytes.
static inline char *read_file(const char *path, size_t *bytes) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &status), 0);
    *bytes = (size_t)status.st_size;
    char *data = malloc(*bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    data[*bytes] = '\0';
    fclose(file);
    return data;
}

static inline void copy_directory(const struct scratch *scratch, const char *from) {
    DIR *dir = opendir(from);
    if (!dir) fail_msg("%s: expected to run at the top of the repository", from);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[512];
        size_t bytes;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        char *data = read_file(path, &bytes);
        write_file(scratch_path(scratch, entry->d_name), data, bytes);
        free(data);
    }
    closedir(dir);
}

// A safetensors file: a header, padded with blanks, and bytes of data that count 0, 1, 2, …
static inline void write_safetensors(const char *path, const char *header, size_t data_bytes) {
    uint64_t length = strlen(header);
    char *file = malloc(8 + length + data_bytes);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) file[i] = (char)(length >> 8 * i);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) file[8 + length + i] = (char)i;
    write_file(path, file, 8 + length + data_bytes);
    free(file);
}

static inline void expect_text(const char *message, const char *part) {
    if (!strstr(message, part)) fail_msg("expected \"%s\" in \"%s\"", part, message);
}

#endif
