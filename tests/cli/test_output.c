// What a terminal is spared.
#include "cli/output.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SHOWS(text, expected) shows(text, sizeof text - 1, expected)

static void shows(const char *text, size_t bytes, const char *expected) {
    struct buffer out;
    buffer_init(&out, 1024);
    output_visible(&out, text, bytes);
    assert_false(out.failed);
    assert_string_equal(out.data ? out.data : "", expected);
    buffer_finish(&out);
}

static void test_text_stays(void **state) {
    (void)state;
    SHOWS("", "");
    SHOWS("a\tb\nc d~", "a\tb\nc d~");
    SHOWS("dé — 漢字 🦊", "dé — 漢字 🦊");
}

static void test_controls_are_shown(void **state) {
    (void)state;
    SHOWS("\033[2J\033]0;title\a", "^[[2J^[]0;title^G");
    SHOWS("a\0b\r\x7f", "a^@b^M^?");
    SHOWS("\xc2\x9b"
          "31m \xc2\x80 \xc2\xa0",
          "<U+009B>31m <U+0080> \xc2\xa0");
    SHOWS("\xe2\x80\xae"
          "abc \xe2\x81\xa6 \xe2\x81\xa9",
          "<U+202E>abc <U+2066> <U+2069>");
    SHOWS("\xff"
          "a\xe2\x82",
          "<FF>a<E2><82>");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_stays),
        cmocka_unit_test(test_controls_are_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
