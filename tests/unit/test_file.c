// Files and pipes, read whole; files written whole or not at all, whoever else writes them.
#include "base/error.h"
#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void files_are_read_whole(void **state) {
    (void)state;
    char path[] = "/tmp/tandem-file-XXXXXX", *text;
    size_t bytes;
    struct error error;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "Tandem", 6), 6);
    close(fd);

    for (int pipes = 0; pipes < 2; pipes++) {
        int (*load)(const char *, size_t, char **, size_t *, struct error *) = pipes ? file_load_or_pipe : file_load;
        assert_int_equal(load(path, 5, &text, &bytes, &error), ERROR_FORMAT);
        assert_int_equal(load(path, 6, &text, &bytes, &error), 0);
        assert_int_equal(bytes, 6);
        assert_string_equal(text, "Tandem");
        free(text);
        assert_int_equal(load("/tmp", 6, &text, &bytes, &error), ERROR_FORMAT);
        assert_non_null(strstr(error.message, "found a directory"));
        assert_int_equal(load("/dev/null", 6, &text, &bytes, &error), ERROR_FORMAT);
        assert_non_null(strstr(error.message, "found a device"));
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(file_load(path, 6, &text, &bytes, &error), ERROR_NOT_FOUND);
}

static void *write_slowly(void *path) { // opened after the reader, and in two pieces
    usleep(20000);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "Tan", 3) != 3) abort();
    usleep(20000);
    if (write(fd, "dem", 3) != 3) abort();
    close(fd);
    return NULL;
}

static void pipes_are_read_to_their_end(void **state) {
    (void)state;
    char path[] = "/tmp/tandem-file-XXXXXX", *text = NULL;
    size_t bytes;
    struct error error;
    close(mkstemp(path));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(file_load(path, 6, &text, &bytes, &error), ERROR_FORMAT);
    assert_non_null(strstr(error.message, "expected a regular file, found a pipe"));
    for (size_t most = 5; most <= 6; most++) {
        pthread_t writer;
        assert_int_equal(pthread_create(&writer, NULL, write_slowly, path), 0);
        assert_int_equal(file_load_or_pipe(path, most, &text, &bytes, &error), most < 6 ? ERROR_FORMAT : 0);
        pthread_join(writer, NULL);
    }
    assert_int_equal(bytes, 6);
    assert_string_equal(text, "Tandem");
    free(text);
    int ends[2];
    char name[32];
    assert_int_equal(pipe(ends), 0); // as a shell's <( ) gives it, when its writer has nothing to say
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(file_load_or_pipe(name, 6, &text, &bytes, &error), 0);
    assert_int_equal(bytes, 0);
    assert_string_equal(text, "");
    free(text);
    close(ends[0]);
    assert_int_equal(unlink(path), 0);
}

// How often it can be tried changes nothing, and nothing is left beside it. (Links, full disks and devices: see
// tests/cli/test_conversation.c.)
static void files_are_written_whole(void **state) {
    (void)state;
    char dir[] = "/tmp/tandem-file-XXXXXX", path[64], *text;
    size_t bytes;
    struct error error;
    struct stat status;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    assert_int_equal(file_try_write(path, &error), 0);
    assert_int_not_equal(stat(path, &status), 0);
    mode_t mask = umask(022);
    assert_int_equal(file_write(path, "one", 3, 0666, &error), 0);
    umask(mask);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0644);
    assert_int_equal(file_try_write(path, &error), 0);
    assert_int_equal(file_load(path, 6, &text, &bytes, &error), 0);
    assert_string_equal(text, "one");
    free(text);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); // empty
    static const char *const WRONG[][2] = {{"/nowhere/at/all", "No such file"}, {"/tmp", "Is a directory"}};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(file_try_write(WRONG[i][0], &error), ERROR_IO);
        assert_non_null(strstr(error.message, WRONG[i][1]));
        assert_int_equal(file_write(WRONG[i][0], "one", 3, 0666, &error), ERROR_IO);
        assert_non_null(strstr(error.message, WRONG[i][1]));
    }
}

static void expect_text(const char *path, const char *expected) {
    char *text;
    size_t bytes;
    struct error error;
    assert_int_equal(file_load(path, 64, &text, &bytes, &error), 0);
    assert_string_equal(text, expected);
    free(text);
}

// Whoever wrote a file and whatever the umask, it stays as open or closed as it was. What lies beside it is no one's to
// remove, though it has the process's number: in containers every process is number 1.
static void replaced_files_keep_their_permissions(void **state) {
    (void)state;
    char dir[] = "/tmp/tandem-file-XXXXXX", path[64], beside[96];
    struct error error;
    struct stat status;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(beside, sizeof beside, "%s.%ld", path, (long)getpid());
    assert_int_equal(file_write(beside, "mine", 4, 0600, &error), 0);
    static const mode_t MODES[] = {0600, 0664, 0440};
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++) {
        assert_int_equal(file_write(path, "one", 3, 0666, &error), 0);
        assert_int_equal(chmod(path, MODES[i]), 0);
        assert_int_equal(file_try_write(path, &error), 0);
        assert_int_equal(file_write(path, "two", 3, 0666, &error), 0);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, MODES[i]);
        expect_text(path, "two");
    }
    expect_text(beside, "mine");
    assert_int_equal(unlink(beside), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

// dir/first -> second (beside it) -> dir/file, which is not there yet.
static void links_to_nothing_stay_links(void **state) {
    (void)state;
    char dir[] = "/tmp/tandem-file-XXXXXX", path[64], first[64], second[64];
    struct error error;
    struct stat status;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(first, sizeof first, "%s/first", dir);
    snprintf(second, sizeof second, "%s/second", dir);
    assert_int_equal(symlink("second", first), 0);
    assert_int_equal(symlink(path, second), 0);
    assert_int_equal(file_try_write(first, &error), 0);
    assert_int_not_equal(stat(path, &status), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(file_write(first, i ? "two" : "one", 3, 0600, &error), 0);
        assert_int_equal(lstat(first, &status), 0);
        assert_true(S_ISLNK(status.st_mode));
        assert_int_equal(lstat(second, &status), 0);
        assert_true(S_ISLNK(status.st_mode));
        expect_text(path, i ? "two" : "one");
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(second), 0);
    assert_int_equal(symlink("first", second), 0); // in a circle
    assert_int_equal(file_try_write(first, &error), ERROR_IO);
    assert_int_equal(file_write(first, "one", 3, 0600, &error), ERROR_IO);
    assert_non_null(strstr(error.message, "Too many levels"));
    assert_int_equal(unlink(first), 0);
    assert_int_equal(unlink(second), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void *write_often(void *path) {
    struct error error;
    for (int i = 0; i < 100; i++)
        if (file_write(path, "whole", 5, 0600, &error) != 0) return path;
    return NULL;
}

static void threads_write_the_same_file(void **state) {
    (void)state;
    enum { THREADS = 4 };
    char dir[] = "/tmp/tandem-file-XXXXXX", path[64];
    pthread_t threads[THREADS];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, write_often, path), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    expect_text(path, "whole");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); // empty
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_read_whole),
        cmocka_unit_test(pipes_are_read_to_their_end),
        cmocka_unit_test(files_are_written_whole),
        cmocka_unit_test(replaced_files_keep_their_permissions),
        cmocka_unit_test(links_to_nothing_stay_links),
        cmocka_unit_test(threads_write_the_same_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
