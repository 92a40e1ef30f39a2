// What help is made of: lines that are broken, names that are nearest to a misspelt one, roff.
#include "base/nearest.h"
#include "base/roff.h"
#include "base/wrap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void wraps(const char *text, int at, int indent, int columns, const char *expected) {
    struct buffer out;
    buffer_init(&out, 1024);
    wrap_text(&out, text, at, indent, columns);
    assert_false(out.failed);
    assert_string_equal(out.data ? out.data : "", expected);
    buffer_finish(&out);
}

static void test_wrap(void **state) {
    (void)state;
    wraps("", 0, 0, 10, "");
    wraps("one two three", 0, 0, 13, "one two three");
    wraps("one two three", 0, 0, 12, "one two\nthree");
    wraps("one two three", 6, 2, 13, "one two\n  three");
    wraps("one two three", 6, 2, 12, "one\n  two three");
    wraps("ein möglichst weites", 0, 0, 13, "ein möglichst\nweites"); // characters count, not bytes
    wraps("a word-that-is-too-long b", 0, 1, 6, "a\n word-that-is-too-long\n b");
    wraps("one\n\ntwo\nthree", 0, 2, 20, "one\n\n  two\n  three");
}

static void test_wrap_without_room(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 5);
    wrap_text(&out, "one two three", 0, 0, 80);
    assert_true(out.failed);
    buffer_finish(&out);
}

static const char *nearest_of(const char *written, const char *const *words) {
    static struct nearest nearest;
    nearest_init(&nearest, written, strlen(written));
    for (; *words; words++) nearest_consider(&nearest, *words, strlen(*words));
    return nearest.word;
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const words[] = {"host", "port", "report", "threads", "model", "", NULL};
    assert_string_equal(nearest_of("prot", words), "port");    // swapped: one mistake
    assert_string_equal(nearest_of("potr", words), "port");
    assert_string_equal(nearest_of("ports", words), "port");   // one too many
    assert_string_equal(nearest_of("thraeds", words), "threads");
    assert_string_equal(nearest_of("reprot", words), "report");
    assert_string_equal(nearest_of("host", words), "host");
    assert_string_equal(nearest_of("mdl", words), "");         // two missing of five: any word would do
    assert_string_equal(nearest_of("colour", words), "");
    assert_string_equal(nearest_of("", words), "");
    assert_string_equal(nearest_of("x", words), "");
    assert_string_equal(nearest_of("modelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodelmodel", words), "");
}

// Words of any length lie within the rows that are kept.
static void test_nearest_long(void **state) {
    (void)state;
    char word[2 * NEAREST_BYTES];
    for (size_t bytes = NEAREST_BYTES - 2; bytes < sizeof word; bytes++) {
        memset(word, 'a', sizeof word);
        struct nearest nearest;
        nearest_init(&nearest, word, bytes);
        nearest_consider(&nearest, word, bytes);
        assert_int_equal(strlen(nearest.word), bytes < NEAREST_BYTES ? bytes : 0);
        nearest_consider(&nearest, word, bytes - 1);
        assert_int_equal(strlen(nearest.word), bytes < NEAREST_BYTES ? bytes : 0);
        nearest_init(&nearest, word, NEAREST_BYTES - 1);
        nearest_consider(&nearest, word, bytes);
        assert_int_equal(strlen(nearest.word), bytes < NEAREST_BYTES ? bytes : 0);
    }
}

static void test_roff(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 1024);
    roff_text(&out, ".a 'b' \"c\" --d \\e `f` g~h^i.\n'j'\n\nk");
    assert_string_equal(out.data, "\\&.a \\(aqb\\(aq \\(dqc\\(dq \\-\\-d \\ee \\(gaf\\(ga g\\(tih\\(hai.\n"
                                  "\\(aqj\\(aq\n.PP\nk");
    buffer_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrap),         cmocka_unit_test(test_wrap_without_room), cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_nearest_long), cmocka_unit_test(test_roff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
