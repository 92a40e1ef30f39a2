// The cache of converted weights: what was written comes back, whatever is wrong with a file is found, and what goes
// wrong in writing leaves the directory as it was.
#include "engine/weight_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY = 12345 };

static char dir[] = "/tmp/tandem-cache-XXXXXX";
static char path[PATH_MAX], unfinished[PATH_MAX];

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/one.weights", dir);
    snprintf(unfinished, sizeof unfinished, "%s/one.weights.unfinished", dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    unlink(unfinished);
    return rmdir(dir);
}

static unsigned char *weights_of(size_t bytes) {
    unsigned char *weights = malloc(bytes);
    assert_non_null(weights);
    uint32_t dice = 7;
    for (size_t i = 0; i < bytes; i++) weights[i] = (unsigned char)((dice = dice * 1664525 + 1013904223) >> 24);
    return weights;
}

static void write_cache(const unsigned char *weights, size_t bytes) {
    struct error error;
    if (weight_cache_write(path, KEY, weights, bytes, NULL, NULL, &error)) fail_msg("%s", error.message);
}

static int map_code(uint64_t key, size_t bytes) {
    struct weight_cache_mapping mapping;
    struct error error = {0};
    int code = weight_cache_map(path, key, bytes, 2, &mapping, &error);
    if (!code) munmap(mapping.map, mapping.map_bytes);
    if (code) assert_non_null(strstr(error.message, path));
    return code;
}

static bool exists(const char *name) {
    return access(name, F_OK) == 0;
}

static void what_is_written_comes_back(void **state) {
    (void)state;
    static const size_t SIZES[] = {1, 63, 64, 4096, 4096 * 3 + 5, 4 << 20, (4 << 20) + 1, (9 << 20) + 12345};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        for (int threads = 1; threads <= 3; threads++) {
            unsigned char *weights = weights_of(SIZES[i]);
            struct weight_cache_mapping mapping;
            struct error error;
            write_cache(weights, SIZES[i]);
            assert_false(exists(unfinished));
            assert_int_equal(weight_cache_map(path, KEY, SIZES[i], threads, &mapping, &error), 0);
            assert_int_equal((uintptr_t)mapping.weights % 4096, 0);
            assert_memory_equal(mapping.weights, weights, SIZES[i]);
            munmap(mapping.map, mapping.map_bytes);
            free(weights);
        }
}

static void of_other_weights(void **state) {
    (void)state;
    unlink(path);
    assert_int_equal(map_code(KEY, 1000), ERROR_NOT_FOUND);
    unsigned char *weights = weights_of(1000);
    write_cache(weights, 1000);
    assert_int_equal(map_code(KEY, 1000), 0);
    assert_int_equal(map_code(KEY + 1, 1000), ERROR_NOT_FOUND);
    assert_int_equal(map_code(KEY, 1001), ERROR_NOT_FOUND);
    free(weights);
}

// Any byte of the header, the checksums and the weights; but not of the page's rest between them, which nobody reads.
static void damage_is_found(void **state) {
    (void)state;
    const size_t bytes = (4 << 20) + 777;
    unsigned char *weights = weights_of(bytes);
    write_cache(weights, bytes);
    int file = open(path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    for (size_t at = 0; at < 4096 + bytes; at += at < 48 ? 1 : 71993) {
        unsigned char byte, other;
        if (at >= 48 && at < 4096) at = 4096;
        assert_int_equal(pread(file, &byte, 1, (off_t)at), 1);
        other = byte ^ 1;
        assert_int_equal(pwrite(file, &other, 1, (off_t)at), 1);
        assert_int_not_equal(map_code(KEY, bytes), 0);
        assert_int_equal(pwrite(file, &byte, 1, (off_t)at), 1);
    }
    assert_int_equal(map_code(KEY, bytes), 0);
    static const off_t LENGTHS[] = {4096 + (4 << 20) + 778, 4096 + (4 << 20) + 776, 4096, 40, 8, 0};
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        assert_int_equal(ftruncate(file, LENGTHS[i]), 0);
        assert_int_equal(map_code(KEY, bytes), ERROR_FORMAT);
    }
    close(file);
    free(weights);
}

static void what_is_no_file(void **state) {
    (void)state;
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(map_code(KEY, 10), ERROR_FORMAT);
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(map_code(KEY, 10), ERROR_IO);
    unlink(path);
}

// The old one stays, nothing unfinished is left, and the cause is told.
static void no_room(void **state) {
    (void)state;
    struct error error;
    unsigned char *weights = weights_of(1 << 20);
    write_cache(weights, 1000);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = (struct rlimit){1 << 19, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int code = weight_cache_write(path, KEY, weights, 1 << 20, NULL, NULL, &error);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(code, ERROR_IO);
    assert_non_null(strstr(error.message, "File too large"));
    assert_false(exists(unfinished));
    assert_int_equal(map_code(KEY, 1000), 0);
    free(weights);
}

static void no_directory(void **state) {
    (void)state;
    char deep[PATH_MAX];
    struct error error;
    snprintf(deep, sizeof deep, "%s/a/b/two.weights", dir);
    assert_int_equal(weight_cache_write(deep, KEY, "x", 1, NULL, NULL, &error), 0);
    assert_true(exists(deep));
    unlink(deep);
    *strrchr(deep, '/') = '\0';
    rmdir(deep);
    *strrchr(deep, '/') = '\0';
    rmdir(deep);
    assert_int_equal(weight_cache_write("/proc/x/y.weights", KEY, "x", 1, NULL, NULL, &error), ERROR_IO);
}

static void others_at_it(void **state) {
    (void)state;
    struct error error;
    unlink(path);
    int file = open(unfinished, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(file, "what a crash has left", 21), 21);
    assert_int_equal(flock(file, LOCK_EX), 0); // not yet: somebody writes it
    assert_int_equal(weight_cache_write(path, KEY, "x", 1, NULL, NULL, &error), 0);
    assert_false(exists(path));
    close(file);
    write_cache((const unsigned char *)"x", 1);
    assert_int_equal(map_code(KEY, 1), 0);
    assert_false(exists(unfinished));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back), cmocka_unit_test(of_other_weights),
        cmocka_unit_test(damage_is_found),            cmocka_unit_test(what_is_no_file),
        cmocka_unit_test(no_room),                    cmocka_unit_test(no_directory),
        cmocka_unit_test(others_at_it),
    };
    return cmocka_run_group_tests_name("weight_cache", tests, set_up, tear_down);
}
