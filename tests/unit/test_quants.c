// Conversions between weight formats, judged bit by bit against what the formats define.
#include "engine/engine.h"
#include "engine/quants/bf16.h"
#include "engine/quants/f16.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float value_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void bf16_every_value_survives(void **state) {
    (void)state;
    for (uint32_t half = 0; half <= 0xffff; half++) {
        float value = bf16_to_f32((uint16_t)half);
        assert_int_equal(bits_of(value), half << 16);
        uint16_t back = bf16_from_f32(value);
        if (isnan(value))
            assert_true(isnan(bf16_to_f32(back)));
        else
            assert_int_equal(back, half);
    }
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t half = 0; half < 0x7f80; half++) { // every finite positive, and the step above it
        uint32_t below = half << 16, middle = below | 0x8000;
        uint32_t even = half & 1 ? half + 1 : half;
        assert_int_equal(bf16_from_f32(value_of(middle)), even);
        assert_int_equal(bf16_from_f32(value_of(middle - 1)), half);
        assert_int_equal(bf16_from_f32(value_of(middle + 1)), half + 1);
        assert_int_equal(bf16_from_f32(value_of(middle | 0x80000000)), even | 0x8000);
    }
    assert_int_equal(bf16_from_f32(INFINITY), 0x7f80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xff80);
    assert_int_equal(bf16_from_f32(value_of(0x7f7fffff)), 0x7f80); // the largest float rounds up
    assert_true(isnan(bf16_to_f32(bf16_from_f32(value_of(0x7fffffff)))));
    assert_true(isnan(bf16_to_f32(bf16_from_f32(value_of(0x7f800001)))));
    assert_true(isnan(bf16_to_f32(bf16_from_f32(value_of(0xffffffff)))));
}

static void f16_is_exact(void **state) {
    (void)state;
    for (uint32_t half = 0; half <= 0xffff; half++) {
        int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 1023);
        float value = f16_to_f32((uint16_t)half);
        double sign = half & 0x8000 ? -1 : 1;
        if (exponent == 31 && mantissa)
            assert_true(isnan(value));
        else if (exponent == 31)
            assert_true(isinf(value) && value * sign > 0);
        else if (exponent == 0)
            assert_true((double)value == sign * ldexp(mantissa, -24));
        else
            assert_true((double)value == sign * ldexp(1024 + mantissa, exponent - 25));
        assert_int_equal(signbit(value) != 0, half >> 15);
    }
}

// Bulk forms equal the single ones at every length around vector widths, and from an odd address.
static void arrays_equal_singles(void **state) {
    (void)state;
    enum { COUNT = (1 << 16) + 37 }; // beyond the size from which threads share the work
    unsigned char *in = malloc(4 * COUNT + 1);
    float *wide = malloc(COUNT * sizeof *wide);
    uint16_t *narrow = malloc(COUNT * sizeof *narrow);
    assert_true(in && wide && narrow);
    uint32_t random = 1;
    for (size_t i = 0; i < 4 * COUNT + 1; i++) {
        random = random * 1664525 + 1013904223;
        in[i] = (unsigned char)(random >> 24);
    }
    const size_t counts[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 1000, COUNT};
    for (size_t offset = 0; offset < 2; offset++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            const unsigned char *from = in + offset;
            uint16_t half;
            float single;
            bf16_array_to_f32(from, wide, counts[c]);
            for (size_t i = 0; i < counts[c]; i++) {
                memcpy(&half, from + 2 * i, 2);
                assert_int_equal(bits_of(wide[i]), bits_of(bf16_to_f32(half)));
            }
            f16_array_to_f32(from, wide, counts[c]);
            f16_array_to_bf16(from, narrow, counts[c]);
            for (size_t i = 0; i < counts[c]; i++) {
                memcpy(&half, from + 2 * i, 2);
                assert_int_equal(bits_of(wide[i]), bits_of(f16_to_f32(half)));
                assert_int_equal(narrow[i], bf16_from_f32(f16_to_f32(half)));
            }
            bf16_array_from_f32(from, narrow, counts[c]);
            for (size_t i = 0; i < counts[c]; i++) {
                memcpy(&single, from + 4 * i, 4);
                assert_int_equal(narrow[i], bf16_from_f32(single));
            }
        }
    free(in);
    free(wide);
    free(narrow);
}

static void format_names(void **state) {
    (void)state;
    enum weight_format format;
    assert_true(weight_format_parse("f32", &format) && format == WEIGHTS_F32);
    assert_true(weight_format_parse("bf16", &format) && format == WEIGHTS_BF16);
    assert_false(weight_format_parse("", &format));
    assert_false(weight_format_parse("BF16", &format));
    assert_string_equal(weight_format_name(WEIGHTS_BF16), "bf16");
    assert_true(weight_format_parse("int8", &format) && format == WEIGHTS_INT8);
    assert_true(weight_format_parse("int4", &format) && format == WEIGHTS_INT4);
    assert_int_equal(weight_format_fine(WEIGHTS_BF16), WEIGHTS_BF16);
    assert_int_equal(weight_format_fine(WEIGHTS_INT4), WEIGHTS_INT8);
    assert_int_equal(weight_format_bytes(WEIGHTS_F32, 3, 5), 60);
    assert_int_equal(weight_format_bytes(WEIGHTS_BF16, 3, 5), 30);
    assert_int_equal(weight_format_bytes(WEIGHTS_INT8, 16, 64), 16 * 64 + 16 * 2 * 2);
    assert_int_equal(weight_format_bytes(WEIGHTS_INT8, 17, 65), 4 * 1088);
    assert_int_equal(weight_format_bytes(WEIGHTS_INT4, 16, 448), 7 * (16 * 64 / 2 + 16 * 2 * 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_every_value_survives), cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(f16_is_exact),              cmocka_unit_test(arrays_equal_singles),
        cmocka_unit_test(format_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
