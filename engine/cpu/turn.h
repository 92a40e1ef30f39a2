// Squares of sixteen by sixteen 32-bit values turned round in registers, and masks, for files that are compiled for
// AVX-512 and include this one after saying so.
#ifndef ENGINE_CPU_TURN_H
#define ENGINE_CPU_TURN_H

#include "engine/cpu/compile.h"

#include <immintrin.h>

// Sixteen rows of sixteen become columns.
INLINE void turn(__m512i r[16]) {
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) { // quarter q of r[i + j]: column 4 q + j of rows i to i + 3
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        __m512i even_a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), odd_a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        __m512i even_b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        __m512i odd_b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even_a, even_b, 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(odd_a, odd_b, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even_a, even_b, 0xdd);
        t[12 + j] = _mm512_shuffle_i32x4(odd_a, odd_b, 0xdd);
    }
    UNROLL for (int i = 0; i < 16; i++) r[i] = t[i];
}

INLINE __mmask16 first(int n) { // of sixteen lanes
    return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

#endif
