// base/: errors, arenas, blocks, buffers, UTF-8, checked arithmetic.
#include "base/arena.h"
#include "base/block.h"
#include "base/buffer.h"
#include "base/checked.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/doubles.h"
#include "base/error.h"
#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

// As UTF-8 has it, also of numbers that are no characters.
static size_t encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

// ---- Errors

static void error_keeps_code_and_cause(void **state) {
    (void)state;
    struct error error;
    assert_int_equal(error_set(&error, ERROR_FORMAT, "found %d, expected %d", 3, 4), ERROR_FORMAT);
    assert_int_equal(error.code, ERROR_FORMAT);
    assert_string_equal(error.message, "found 3, expected 4");
    assert_string_equal(error.param, "");

    assert_int_equal(error_set_param(&error, ERROR_ARGUMENT, "top_p", "too large"), ERROR_ARGUMENT);
    assert_string_equal(error.param, "top_p");
    assert_int_equal(error_prefix(&error, "layer %d", 7), ERROR_ARGUMENT);
    assert_string_equal(error.message, "layer 7: too large");
    assert_string_equal(error.param, "top_p");

    assert_int_equal(error_set(NULL, ERROR_IO, "nobody asks"), ERROR_IO);
    error_prefix(NULL, "nobody asks");
}

static void error_quotes_only_clean_text(void **state) {
    (void)state;
    struct error error;
    error_set(&error, ERROR_FORMAT, "name \"%s\"", "a\nb\x1b[31m\x7f\xff\xc3-é");
    assert_string_equal(error.message, "name \"a b [31m ?\?-é\"");
    error_set_param(&error, ERROR_ARGUMENT, "\x80\t", "x");
    assert_string_equal(error.param, "? ");
    error_prefix(&error, "\xed\xa0\x80");
    assert_string_equal(error.message, "???: x");
}

// Whatever the length, the message ends between characters.
static void error_is_cut_at_a_character(void **state) {
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        char text[2 * ERROR_MESSAGE_BYTES];
        size_t at = shift;
        memset(text, 'x', shift);
        while (at + 4 < sizeof text) at += encode(0x1f600, text + at);
        text[at] = '\0';

        struct error error;
        error_set(&error, ERROR_FORMAT, "%s", text);
        size_t length = strlen(error.message);
        assert_true(utf8_valid(error.message, length));
        assert_in_range(length, ERROR_MESSAGE_BYTES - 4, ERROR_MESSAGE_BYTES - 1);
        assert_memory_equal(error.message, text, length);

        error_set(&error, ERROR_FORMAT, "cause");
        error_prefix(&error, "%s", text);
        length = strlen(error.message);
        assert_true(utf8_valid(error.message, length));
        assert_true(length < ERROR_MESSAGE_BYTES);
    }
}

static void every_code_has_words(void **state) {
    (void)state;
    struct error error = {0};
#define CHECK_WORDS(name, value, text) \
    assert_int_equal(name, value); \
    assert_string_equal(error_text(name), text); \
    assert_int_equal(error_set_code(&error, name), name); \
    assert_int_equal(error.code, name); \
    assert_string_equal(error.message, text);
    ERROR_TABLE(CHECK_WORDS)
#undef CHECK_WORDS
    assert_string_equal(error_text(ERROR_NONE), "no error");
    assert_string_equal(error_text((enum error_code)12345), "an unknown error occurred");
}

// ---- Arenas

static void arena_gives_aligned_zeros(void **state) {
    (void)state;
    struct arena *arena = arena_create(1 << 20);
    assert_non_null(arena);
    unsigned char *pieces[300];
    for (size_t i = 0; i < 300; i++) { // across several blocks
        pieces[i] = arena_alloc(arena, i + 1, 1);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % alignof(max_align_t), 0);
        for (size_t k = 0; k <= i; k++) assert_int_equal(pieces[i][k], 0);
        memset(pieces[i], (int)(i % 255) + 1, i + 1);
    }
    for (size_t i = 0; i < 300; i++) // nobody wrote into another's
        for (size_t k = 0; k <= i; k++) assert_int_equal(pieces[i][k], i % 255 + 1);
    assert_non_null(arena_alloc(arena, 100000, 1)); // larger than a block
    char *copy = arena_copy(arena, "a\0b", 3);
    assert_memory_equal(copy, "a\0b", 4);
    assert_string_equal(arena_copy(arena, NULL, 0), "");
    arena_destroy(arena);
    arena_destroy(NULL);
}

static void arena_keeps_to_its_limit(void **state) {
    (void)state;
    struct arena *arena = arena_create(1024);
    assert_null(arena_alloc(arena, 1025, 1));
    assert_null(arena_alloc(arena, SIZE_MAX / 2, 4)); // the product overflows
    assert_null(arena_alloc(arena, SIZE_MAX, 1));     // the sum with the alignment does
    assert_null(arena_copy(arena, "", SIZE_MAX));
    size_t taken = 0;
    while (arena_alloc(arena, 16, 1)) taken += 16;
    assert_int_equal(taken, 1024);
    assert_null(arena_alloc(arena, 1, 1));
    arena_destroy(arena);
}

// ---- Buffers

static void buffer_grows_up_to_its_maximum(void **state) {
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 1000);
    assert_null(buffer.data);
    for (int i = 0; i < 100; i++) assert_true(buffer_append(&buffer, "0123456789", 10));
    assert_int_equal(buffer.bytes, 1000);
    assert_int_equal(buffer.data[1000], '\0');
    assert_false(buffer.failed);
    assert_false(buffer_append(&buffer, "x", 1));
    assert_true(buffer.failed);
    assert_int_equal(buffer.bytes, 1000); // the content is as it was
    assert_false(buffer_append(&buffer, "", 0));
    buffer_clear(&buffer);
    assert_false(buffer.failed);
    assert_true(buffer_text(&buffer, "again"));
    assert_string_equal(buffer.data, "again");
    assert_false(buffer_append(&buffer, "x", SIZE_MAX)); // the sum overflows
    buffer_finish(&buffer);
    assert_null(buffer.data);
    assert_true(buffer_append(&buffer, NULL, 0)); // usable again
    buffer_finish(&buffer);
}

static void buffer_formats(void **state) {
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 400);
    assert_true(buffer_format(&buffer, "%d-%s", 42, "x"));
    assert_true(buffer_format(&buffer, "%0200d", 7)); // longer than the first capacity
    assert_int_equal(buffer.bytes, 204);
    assert_memory_equal(buffer.data, "42-x000", 7);
    assert_int_equal(buffer.data[203], '7');
    assert_false(buffer_format(&buffer, "%0300d", 7));
    assert_true(buffer.failed);
    assert_int_equal(strlen(buffer.data), 204);
    buffer_finish(&buffer);
}

static void buffer_drops_from_the_front(void **state) {
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 100);
    buffer_consume(&buffer, 5); // an empty one stays empty
    buffer_text(&buffer, "hello world");
    buffer_consume(&buffer, 6);
    assert_string_equal(buffer.data, "world");
    buffer_consume(&buffer, 0);
    assert_string_equal(buffer.data, "world");
    buffer_consume(&buffer, 99);
    assert_int_equal(buffer.bytes, 0);
    assert_string_equal(buffer.data, "");
    buffer_finish(&buffer);
}

// ---- UTF-8

static void utf8_round_trips_every_scalar(void **state) {
    (void)state;
    size_t count = 0;
    for (uint32_t c = 0; c <= 0x110010; c++) {
        char text[4];
        size_t width = encode(c, text);
        bool scalar = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        if (!scalar) {
            assert_int_equal(utf8_decode(text, width, NULL), 0);
            continue;
        }
        uint32_t back = 0;
        assert_int_equal(utf8_decode(text, width, &back), width);
        assert_int_equal(back, c);
        for (size_t part = 1; part < width; part++) { // each proper beginning is one, and is no character
            assert_int_equal(utf8_decode(text, part, NULL), 0);
            assert_true(utf8_is_prefix(text, part));
        }
        assert_false(utf8_is_prefix(text, width));
        count++;
    }
    assert_int_equal(count, 0x110000 - 0x800);
}

// As many as Unicode's property White_Space has, and none of those that only look like it.
static void white_space(void **state) {
    (void)state;
    int count = 0;
    for (uint32_t c = 0; c < 0x110000; c++) count += utf8_is_white_space(c);
    assert_int_equal(count, 25);
    static const uint32_t NONE[] = {0x08, 0x0e, 0x1f, 0x180e, 0x200b, 0x2060, 0xfeff};
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE; i++) assert_false(utf8_is_white_space(NONE[i]));
}

static void the_value_in_the_middle(void **state) {
    (void)state;
    double odd[] = {3, -1, 2}, even[] = {4, 1, 3, 2};
    assert_true(doubles_median(odd, 3) == 2 && odd[0] == -1 && odd[2] == 3);
    assert_true(doubles_median(even, 4) == 2.5);
    assert_true(doubles_median(odd, 1) == -1);
    assert_true(doubles_median(NULL, 0) == 0);
    doubles_sort(NULL, 0);
}

// All sequences of up to three bytes, against the table of RFC 3629 written out as ranges.
static int rfc_width(const unsigned char *p, size_t bytes, bool *prefix) {
    static const struct {
        unsigned char lead_low, lead_high, second_low, second_high;
        int width;
    } ROWS[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    *prefix = false;
    for (size_t row = 0; row < sizeof ROWS / sizeof *ROWS; row++) {
        if (p[0] < ROWS[row].lead_low || p[0] > ROWS[row].lead_high) continue;
        size_t width = (size_t)ROWS[row].width;
        for (size_t i = 1; i < width && i < bytes; i++) {
            unsigned char low = i == 1 ? ROWS[row].second_low : 0x80, high = i == 1 ? ROWS[row].second_high : 0xbf;
            if (p[i] < low || p[i] > high) return 0;
        }
        *prefix = bytes < width;
        return *prefix ? 0 : (int)width;
    }
    return 0;
}

static void utf8_follows_the_table(void **state) {
    (void)state;
    for (uint32_t value = 0; value < 1u << 24; value++) {
        unsigned char p[3] = {(unsigned char)(value >> 16), (unsigned char)(value >> 8), (unsigned char)value};
        bool prefix;
        int width = rfc_width(p, 3, &prefix);
        if (utf8_decode((const char *)p, 3, NULL) != (size_t)width || utf8_is_prefix((const char *)p, 3) != prefix)
            fail_msg("%06x: width %zu, not %d", value, utf8_decode((const char *)p, 3, NULL), width);
        if (value & 0xff) continue;
        width = rfc_width(p, 2, &prefix);
        if (utf8_decode((const char *)p, 2, NULL) != (size_t)width || utf8_is_prefix((const char *)p, 2) != prefix)
            fail_msg("%04x: width %zu, not %d", value >> 8, utf8_decode((const char *)p, 2, NULL), width);
    }
    assert_false(utf8_is_prefix("", 0));
    assert_int_equal(utf8_decode("", 0, NULL), 0);
}

static void utf8_judges_whole_texts(void **state) {
    (void)state;
    assert_true(utf8_valid("", 0));
    assert_true(utf8_valid("a\0b", 3));
    assert_true(utf8_valid("grüße 👩‍🚀", strlen("grüße 👩‍🚀")));
    assert_false(utf8_valid("gr\xfc", 3));
    assert_false(utf8_valid("\xc0\x80", 2));         // NUL, overlong
    assert_false(utf8_valid("\xed\xa0\x80", 3));     // a surrogate
    assert_false(utf8_valid("\xf4\x90\x80\x80", 4)); // beyond U+10FFFF
    assert_false(utf8_valid("abc\xe2\x82", 5));      // cut short
}

// ---- Checked arithmetic, and the clock

static void checked_sums_products_ranges(void **state) {
    (void)state;
    size_t out = 77;
    assert_false(checked_add(SIZE_MAX, 1, &out));
    assert_false(checked_mul(SIZE_MAX / 2 + 1, 2, &out));
    assert_int_equal(out, 77);
    assert_true(checked_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    assert_true(checked_mul(SIZE_MAX / 2, 2, &out) && out == SIZE_MAX - 1);
    assert_true(checked_mul(0, SIZE_MAX, &out) && out == 0);

    assert_true(checked_range(0, 0, 0));
    assert_true(checked_range(3, 7, 10));
    assert_true(checked_range(10, 0, 10));
    assert_false(checked_range(3, 8, 10));
    assert_false(checked_range(11, 0, 10));
    assert_false(checked_range(2, SIZE_MAX, 10)); // offset + bytes wraps round to 1
}

static void blocks_hold_all_their_parts(void **state) {
    (void)state;
    unsigned char *bytes = NULL;
    double *numbers = NULL;
    const struct block_part parts[] = {{&bytes, 3, 67, 1}, {&numbers, 5, 7, sizeof *numbers}};
    void *block = block_create(parts, 2);
    assert_non_null(block);
    assert_int_equal((uintptr_t)bytes % 64, 0);
    assert_int_equal((uintptr_t)numbers % 64, 0);
    memset(bytes, 1, 3 * 67);
    for (int i = 0; i < 35; i++) numbers[i] = i; // written to the end: a sanitizer knows how long the block is
    for (int i = 0; i < 3 * 67; i++) assert_int_equal(bytes[i], 1);
    free(block);

    const struct block_part large[] = {{&numbers, 1 << 10, 700, sizeof *numbers}, {&bytes, 5, 67, 1}};
    block = block_create(large, 2); // in large pages
    assert_non_null(block);
    assert_int_equal((uintptr_t)numbers % (2 << 20), 0);
    for (int i = 0; i < 700 << 10; i++) numbers[i] = i;
    memset(bytes, 1, 5 * 67);
    assert_true(numbers[0] == 0 && numbers[(700 << 10) - 1] == (700 << 10) - 1);
    free(block);

    unsigned char *kept = bytes = (unsigned char *)&parts;
    const size_t sizes[][3] = {{SIZE_MAX, 2, 1}, {SIZE_MAX / 8, 1, 16}, {SIZE_MAX - 1, 1, 1}, {SIZE_MAX / 2, 1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct block_part part = {&bytes, sizes[i][0], sizes[i][1], sizes[i][2]};
        const struct block_part both[] = {part, part, part};
        assert_null(block_create(both, 3));
        assert_ptr_equal(bytes, kept);
    }
}

static void clock_goes_forward(void **state) {
    (void)state;
    double before = clock_seconds();
    for (int i = 0; i < 1000; i++) {
        double now = clock_seconds();
        assert_true(now >= before);
        before = now;
    }
}

static void checksums_differ(void **state) {
    (void)state;
    unsigned char bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 37);
    uint64_t sum = checksum(0, bytes, 300);
    for (size_t i = 0; i < 300; i++) {
        bytes[i] ^= 0x80;
        assert_true(checksum(0, bytes, 300) != sum);
        bytes[i] ^= 0x80;
        assert_true(checksum(0, bytes, i) != sum);
    }
    assert_true(checksum(1, bytes, 300) != sum);
    assert_true(checksum(0, bytes, 300) == sum);
    memset(bytes, 0, sizeof bytes); // lengths of nothing but zeros
    assert_true(checksum(0, bytes, 63) != checksum(0, bytes, 64));
    assert_true(checksum(0, bytes, 64) != checksum(0, bytes, 128));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_keeps_code_and_cause),
        cmocka_unit_test(error_quotes_only_clean_text),
        cmocka_unit_test(error_is_cut_at_a_character),
        cmocka_unit_test(every_code_has_words),
        cmocka_unit_test(arena_gives_aligned_zeros),
        cmocka_unit_test(arena_keeps_to_its_limit),
        cmocka_unit_test(buffer_grows_up_to_its_maximum),
        cmocka_unit_test(buffer_formats),
        cmocka_unit_test(buffer_drops_from_the_front),
        cmocka_unit_test(utf8_round_trips_every_scalar),
        cmocka_unit_test(utf8_follows_the_table),
        cmocka_unit_test(utf8_judges_whole_texts),
        cmocka_unit_test(checked_sums_products_ranges),
        cmocka_unit_test(clock_goes_forward),
        cmocka_unit_test(white_space),
        cmocka_unit_test(the_value_in_the_middle),
        cmocka_unit_test(blocks_hold_all_their_parts),
        cmocka_unit_test(checksums_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
