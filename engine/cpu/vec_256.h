// What kernels_template.h and packed_template.h both ask of vectors, of 256 bits. Behind COMPILE_FOR: each file that
// includes it has functions of its own, for its own instructions.
#ifndef ENGINE_CPU_VEC_256_H
#define ENGINE_CPU_VEC_256_H

#include <immintrin.h>

enum { LANES = 8 };

typedef __m256 vec;

static inline vec vec_zero(void) {
    return _mm256_setzero_ps();
}

static inline vec vec_set(float value) {
    return _mm256_set1_ps(value);
}

static inline vec vec_load(const float *x) {
    return _mm256_loadu_ps(x);
}

static inline void vec_store(float *x, vec value) {
    _mm256_storeu_ps(x, value);
}

static inline vec vec_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}

static inline vec vec_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}

static inline float vec_largest(vec x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#endif
