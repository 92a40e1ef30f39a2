#include "engine/quants/bf16.h"

void bf16_array_to_f32(const void *in, float *out, size_t count) {
    const unsigned char *from = in;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        out[i] = bf16_to_f32(half);
    }
}

void bf16_array_from_f32(const void *in, uint16_t *out, size_t count) {
    const unsigned char *from = in;
    for (size_t i = 0; i < count; i++) {
        float value;
        memcpy(&value, from + 4 * i, sizeof value);
        out[i] = bf16_from_f32(value);
    }
}
