// The stop matcher against the definition, over all ways to split short texts of small alphabets.
#include "engine/stop_matcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 10 };

static struct text_span span(const char *text) {
    return (struct text_span){text, strlen(text)};
}

// The definition: the stop string that is complete first; of those that end together, the longest. Where it
// begins, or -1.
static int stop_at(const char *text, const char *const *stops, int count) {
    for (int end = 1; text[end - 1]; end++) {
        int start = -1;
        for (int i = 0; i < count; i++) {
            int at = end - (int)strlen(stops[i]);
            if (at >= 0 && memcmp(text + at, stops[i], strlen(stops[i])) == 0 && (start < 0 || at < start)) start = at;
        }
        if (start >= 0) return start;
    }
    return -1;
}

// What must be held back: the longest end of the text that is a proper beginning of a stop string.
static size_t held_at(const char *text, size_t bytes, const char *const *stops, int count) {
    size_t longest = 0;
    for (int i = 0; i < count; i++)
        for (size_t n = 1; n < strlen(stops[i]) && n <= bytes; n++)
            if (n > longest && memcmp(text + bytes - n, stops[i], n) == 0) longest = n;
    return longest;
}

// Feeds the text in pieces (a bit of `split` set: a piece ends behind that byte) and checks each answer.
static void check_split(const char *text, const char *const *stops, int count, unsigned split) {
    struct text_span spans[ENGINE_STOPS_MAX];
    for (int i = 0; i < count; i++) spans[i] = span(stops[i]);
    struct stop_matcher matcher;
    struct error error;
    struct buffer out;
    buffer_init(&out, 100);
    assert_int_equal(stop_matcher_init(&matcher, spans, count, &error), 0);

    int stop = stop_at(text, stops, count);
    size_t bytes = strlen(text), fed = 0;
    bool stopped = false;
    for (size_t i = 0; i < bytes && !stopped; i++) {
        if (i + 1 < bytes && !(split >> i & 1)) continue;
        stopped = stop_matcher_add(&matcher, text + fed, i + 1 - fed, &out);
        fed = i + 1;
        if (!stopped) assert_int_equal(out.bytes, fed - held_at(text, fed, stops, count));
    }
    assert_int_equal(stopped, stop >= 0);
    assert_int_equal(matcher.stopped, stopped);
    if (stopped) assert_true(stop_matcher_add(&matcher, "more", 4, &out));
    stop_matcher_flush(&matcher, &out);
    size_t expected = stopped ? (size_t)stop : bytes;
    assert_int_equal(out.bytes, expected);
    if (expected) assert_memory_equal(out.data, text, expected);
    stop_matcher_finish(&matcher);
    buffer_finish(&out);
}

static void all_splits_of_random_texts(void **state) {
    (void)state;
    unsigned seed = 3;
    int with_match = 0;
    for (int round = 0; round < 600; round++) {
        unsigned letters = 1 + rand_r(&seed) % 3;
        int count = (int)(rand_r(&seed) % (ENGINE_STOPS_MAX + 1));
        char text[TEXT_BYTES + 1] = {0}, words[ENGINE_STOPS_MAX][7] = {{0}};
        const char *stops[ENGINE_STOPS_MAX];
        for (int i = 0; i < TEXT_BYTES; i++) text[i] = (char)('a' + rand_r(&seed) % letters);
        for (int i = 0; i < count; i++) {
            unsigned length = 1 + rand_r(&seed) % 6;
            for (unsigned k = 0; k < length; k++) words[i][k] = (char)('a' + rand_r(&seed) % letters);
            stops[i] = words[i];
        }
        with_match += stop_at(text, stops, count) >= 0;
        for (unsigned split = 0; split < 1u << (TEXT_BYTES - 1); split++) check_split(text, stops, count, split);
    }
    assert_true(with_match > 100 && with_match < 500);
}

static void worked_cases(void **state) {
    (void)state;
    const char *overlap[] = {"abcd", "bc"};
    assert_int_equal(stop_at("abcd", overlap, 2), 1); // "bc" is complete first
    check_split("xxabcdyy", overlap, 2, 0xff);
    const char *suffix[] = {"c", "abc"};
    assert_int_equal(stop_at("abc", suffix, 2), 0); // both end at "c": the longest
    check_split("xabc", suffix, 2, 0xff);
    const char *border[] = {"aab"};
    check_split("aaaab", border, 1, 0xff); // "aa" of "aaab" stays held, the first "a" comes out
    const char *accent[] = {"\xc3\xa9"};
    check_split("\xc3\xa8x\xc3\xa9", accent, 1, 0xff);
}

static void bytes_of_zero(void **state) {
    (void)state;
    struct stop_matcher matcher;
    struct buffer out;
    struct text_span stop = {"\0b", 2};
    buffer_init(&out, 100);
    assert_int_equal(stop_matcher_init(&matcher, &stop, 1, NULL), 0);
    assert_false(stop_matcher_add(&matcher, "a\0\0", 3, &out));
    assert_true(stop_matcher_add(&matcher, "b", 1, &out));
    assert_int_equal(out.bytes, 2);
    assert_memory_equal(out.data, "a\0", 2);
    stop_matcher_finish(&matcher);
    buffer_finish(&out);
}

// A text that nearly matches a long stop string over and over: minutes if time grew with the product.
static void long_stop_strings(void **state) {
    (void)state;
    enum { STOP_BYTES = 1 << 16, ROUNDS = 64 };
    char *stop = malloc(STOP_BYTES), *text = malloc(STOP_BYTES);
    assert_true(stop && text);
    memset(stop, 'a', STOP_BYTES);
    memset(text, 'a', STOP_BYTES);
    text[STOP_BYTES - 1] = 'b';
    struct stop_matcher matcher;
    struct buffer out;
    struct text_span spans[2] = {{stop, STOP_BYTES}, {text, STOP_BYTES}};
    text[STOP_BYTES - 1] = 'c';
    buffer_init(&out, (size_t)STOP_BYTES * ROUNDS);
    assert_int_equal(stop_matcher_init(&matcher, spans, 2, NULL), 0);
    text[STOP_BYTES - 1] = 'b';
    for (int i = 0; i < ROUNDS; i++) assert_false(stop_matcher_add(&matcher, text, STOP_BYTES, &out));
    assert_int_equal(out.bytes, (size_t)STOP_BYTES * ROUNDS);
    stop_matcher_finish(&matcher);
    buffer_finish(&out);
    free(stop);
    free(text);
}

static void wrong_arguments(void **state) {
    (void)state;
    struct stop_matcher matcher;
    struct error error;
    struct text_span stops[ENGINE_STOPS_MAX + 1] = {{"a", 1}, {"", 0}};
    assert_int_equal(stop_matcher_init(&matcher, stops, 2, &error), ERROR_ARGUMENT);
    assert_int_equal(stop_matcher_init(&matcher, stops, ENGINE_STOPS_MAX + 1, &error), ERROR_ARGUMENT);
    stop_matcher_finish(&(struct stop_matcher){0});

    struct buffer small;
    buffer_init(&small, 2);
    assert_int_equal(stop_matcher_init(&matcher, stops, 1, &error), 0);
    assert_false(stop_matcher_add(&matcher, "xyz", 3, &small));
    assert_true(small.failed);
    stop_matcher_finish(&matcher);
    buffer_finish(&small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_splits_of_random_texts), cmocka_unit_test(worked_cases),
        cmocka_unit_test(bytes_of_zero),              cmocka_unit_test(long_stop_strings),
        cmocka_unit_test(wrong_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
