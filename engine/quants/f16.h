// IEEE half precision, which some checkpoints come in. Pure; any thread.
#ifndef ENGINE_QUANTS_F16_H
#define ENGINE_QUANTS_F16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Exact: every half is an fp32, subnormals, infinities and NaNs included.
static inline float f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t rest = (uint32_t)(half & 0x7fff) << 13; // exponent and mantissa at fp32's places
    uint32_t bits;
    float value;
    memcpy(&value, &rest, sizeof value);
    value *= 0x1p112f; // fp32's exponents begin 112 below
    memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7c00) == 0x7c00) bits = rest | 0x7f800000; // infinity or NaN
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest, ties to even; a NaN stays one, what is too large becomes infinite.
static inline uint16_t f16_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00); // halfway beyond the largest, and more
    if (size < 0x38800000) { // subnormal: the sum's last place is 2^-24
        float shifted;
        memcpy(&shifted, &size, sizeof shifted);
        shifted += 0.5f;
        memcpy(&size, &shifted, sizeof size);
        return (uint16_t)(sign | (size - 0x3f000000));
    }
    return (uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

// In bulk. Inputs may start at any byte.
void f16_array_to_f32(const void *in, float *out, size_t count);
void f16_array_to_bf16(const void *in, uint16_t *out, size_t count);

#endif
