// What is entered through a pipe: lines, and several lines as one.
#include "cli/entry.h"
#include "cli/interrupt.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct entry_prompts PROMPTS = {"> ", "| "};
static struct line_reader *lines;
static struct entry entry;
static int writer; // into standard input
static struct error error;

static int begin(void **state) {
    (void)state;
    int files[2];
    if (pipe(files)) return -1;
    if (dup2(files[0], STDIN_FILENO) < 0 || close(files[0])) return -1;
    writer = files[1];
    entry_init(&entry);
    error = (struct error){0};
    interrupt_forget();
    return interrupt_set(INTERRUPT_IS_NOTED, &error) || line_open(&lines, NULL, &error);
}

static int end(void **state) {
    (void)state;
    line_close(lines);
    entry_finish(&entry);
    return 0;
}

static void feed(const char *text, size_t bytes) {
    assert_int_equal(write(writer, text, bytes), bytes);
}

static enum line_result next(void) {
    bool empty;
    return entry_read(&entry, lines, &PROMPTS, &empty, &error);
}

static void gives(const char *text, bool quoted) {
    assert_int_equal(next(), LINE_TEXT);
    assert_int_equal(entry.text.bytes, strlen(text));
    assert_memory_equal(entry.text.data ? entry.text.data : "", text, strlen(text));
    assert_int_equal(entry.quoted, quoted);
}

static void enters(const char *text) {
    feed(text, strlen(text));
    close(writer);
}

static void test_lines(void **state) {
    (void)state;
    enters("one\n\n two \r\n\\\n\nlast");
    gives("one", false);
    gives("", false);
    gives(" two ", false);
    gives("\n", false); // a backslash, and an empty line behind it
    gives("last", false);
    assert_int_equal(next(), LINE_END);
    assert_int_equal(next(), LINE_END);
}

static void test_backslash(void **state) {
    (void)state;
    enters("one\\\ntwo\\\n\nfour\\");
    gives("one\ntwo\n", false);
    gives("four", false); // the end of the input ends it
    assert_int_equal(next(), LINE_END);
}

static void test_quotes(void **state) {
    (void)state;
    enters("\"\"\"one\"\"\"\n\"\"\"\n/two\\\n\n  three\n\"\"\"\n\"\"\"four\nfive\"\"\"\n\"\"\"\"\"\"\nsix "
           "\"\"\"\n\"\"\"\nseven");
    gives("one", true);
    gives("/two\\\n\n  three", true);
    gives("four\nfive", true);
    gives("", true);
    gives("six \"\"\"", false); // only at the beginning
    gives("seven", true);
    assert_int_equal(next(), LINE_END);
}

// A pipe hands out what it likes: here byte by byte, and with no end of the line for long.
static void test_pieces(void **state) {
    (void)state;
    for (const char *at = "one\r\ntw"; *at; at++) feed(at, 1);
    gives("one", false);
    feed("o\nthr", 5);
    gives("two", false);
    enters("ee");
    gives("three", false);
}

static void test_nul(void **state) {
    (void)state;
    feed("a\0b\n", 4);
    assert_int_equal(next(), LINE_TEXT);
    assert_int_equal(entry.text.bytes, 3);
    assert_memory_equal(entry.text.data, "a\0b", 4);
    close(writer);
}

// What had not been read yet stays.
static void test_interrupted(void **state) {
    (void)state;
    feed("one\n", 4);
    raise(SIGINT);
    assert_int_equal(next(), LINE_INTERRUPTED);
    interrupt_forget();
    gives("one", false);
    close(writer);
    assert_int_equal(next(), LINE_END);
    raise(SIGINT);
    assert_int_equal(next(), LINE_INTERRUPTED); // even there
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, begin, end),
        cmocka_unit_test_setup_teardown(test_backslash, begin, end),
        cmocka_unit_test_setup_teardown(test_quotes, begin, end),
        cmocka_unit_test_setup_teardown(test_pieces, begin, end),
        cmocka_unit_test_setup_teardown(test_nul, begin, end),
        cmocka_unit_test_setup_teardown(test_interrupted, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
