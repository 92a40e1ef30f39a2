// What kernels_template.h and packed_template.h both ask of vectors, of 512 bits. Behind COMPILE_FOR: each file that
// includes it has functions of its own, for its own instructions.
#ifndef ENGINE_CPU_VEC_512_H
#define ENGINE_CPU_VEC_512_H

#include <immintrin.h>

enum { LANES = 16 };

typedef __m512 vec;

static inline vec vec_zero(void) {
    return _mm512_setzero_ps();
}

static inline vec vec_set(float value) {
    return _mm512_set1_ps(value);
}

static inline vec vec_load(const float *x) {
    return _mm512_loadu_ps(x);
}

static inline void vec_store(float *x, vec value) {
    _mm512_storeu_ps(x, value);
}

static inline vec vec_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}

static inline vec vec_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}

static inline float vec_largest(vec x) {
    return _mm512_reduce_max_ps(x);
}

#endif
