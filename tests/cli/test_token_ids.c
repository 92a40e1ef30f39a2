// Token ids as they are typed: what is read, and what is said of what is none.
#include "cli/token_ids.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void reads(const char *text, const int32_t *ids, size_t count) {
    struct token_list list = {0};
    struct error error = {0};
    assert_int_equal(token_ids_read(text, &list, &error), 0);
    assert_int_equal(list.count, count);
    if (ids) assert_memory_equal(list.ids, ids, count * sizeof *ids);
    token_list_finish(&list);
}

static void refuses(const char *text, const char *part) {
    struct token_list list = {0};
    struct error error = {0};
    char said[128];
    snprintf(said, sizeof said, "`%s` is no token id", part);
    assert_int_equal(token_ids_read(text, &list, &error), ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, said));
    token_list_finish(&list);
}

static void test_ids(void **state) {
    (void)state;
    reads("7", (int32_t[]){7}, 1);
    reads("1,2,3", (int32_t[]){1, 2, 3}, 3);
    reads("0,2147483647,007", (int32_t[]){0, INT32_MAX, 7}, 3);
}

static void test_many(void **state) {
    (void)state;
    enum { COUNT = 1000 };
    char text[2 * COUNT];
    for (size_t i = 0; i < COUNT; i++) memcpy(text + 2 * i, i + 1 < COUNT ? "5," : "5", 2);
    reads(text, NULL, COUNT);
}

static void test_no_ids(void **state) {
    (void)state;
    static const char *const PARTS[][2] = {
        {"", ""},
        {",", ""},
        {"1,", ""},
        {"1,,2", ""},
        {"1, 2", " 2"},
        {"1 ,2", "1 "},
        {"-1", "-1"},
        {"+1", "+1"},
        {"1,0x2", "0x2"},
        {"1;2", "1;2"},
        {"1.5", "1.5"},
        {"one", "one"},
        {"2147483648", "2147483648"},
        {"1,99999999999999999999,2", "99999999999999999999"},
    };
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) refuses(PARTS[i][0], PARTS[i][1]);
    char all[100], shown[41] = {0}; // what is long is not told in full
    memset(all, 'x', sizeof all);
    all[sizeof all - 1] = '\0';
    memset(shown, 'x', sizeof shown - 1);
    refuses(all, shown);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_no_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
