// bfloat16: the upper half of an fp32. Pure; any thread.
#ifndef ENGINE_QUANTS_BF16_H
#define ENGINE_QUANTS_BF16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float bf16_to_f32(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest, ties to even; a NaN stays one, what is too large becomes infinite.
static inline uint16_t bf16_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40; // rounding could carry a NaN over into the infinities
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

// In bulk. Inputs may start at any byte.
void bf16_array_to_f32(const void *in, float *out, size_t count);
void bf16_array_from_f32(const void *in, uint16_t *out, size_t count);

#endif
