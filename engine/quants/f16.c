#include "engine/quants/f16.h"

#include "engine/quants/bf16.h"

void f16_array_to_f32(const void *in, float *out, size_t count) {
    const unsigned char *from = in;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        out[i] = f16_to_f32(half);
    }
}

void f16_array_to_bf16(const void *in, uint16_t *out, size_t count) {
    const unsigned char *from = in;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        out[i] = bf16_from_f32(f16_to_f32(half));
    }
}
