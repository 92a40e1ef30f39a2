// AVX2 with FMA, and F16C, which came before both.
#include "engine/cpu/compile.h"
#include "engine/cpu/kernels.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c")

#define KERNELS kernels_avx2
#define KERNELS_NAME "AVX2"
#define DOT_OUTPUTS(rows) ((rows) == 1 ? 8 : (rows) == 2 ? 4 : 2) // at most 8 sums in 16 registers

#include "engine/cpu/vec_256.h"

enum { PRODUCT_ROWS = 6 };

static inline __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_load_part(const float *x, int n) {
    return _mm256_maskload_ps(x, mask(n));
}

static inline void vec_store_part(float *x, vec value, int n) {
    _mm256_maskstore_ps(x, mask(n), value);
}

static inline vec vec_load_bf16(const uint16_t *bf16) {
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bf16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

static inline vec vec_load_bf16_part(const uint16_t *bf16, int n) {
    uint16_t padded[8] = {0};
    __builtin_memcpy(padded, bf16, (size_t)n * sizeof *padded);
    return vec_load_bf16(padded);
}

static inline vec vec_load_f16(const uint16_t *f16) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)f16));
}

static inline vec vec_load_f16_part(const uint16_t *f16, int n) {
    uint16_t padded[8] = {0};
    __builtin_memcpy(padded, f16, (size_t)n * sizeof *padded);
    return vec_load_f16(padded);
}

static inline void vec_store_f16(uint16_t *f16, vec value) {
    _mm_storeu_si128((__m128i *)f16, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void vec_store_f16_part(uint16_t *f16, vec value, int n) {
    uint16_t whole[8];
    vec_store_f16(whole, value);
    __builtin_memcpy(f16, whole, (size_t)n * sizeof *whole);
}

static inline vec vec_load_i8(const int8_t *i8) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)i8)));
}

static inline vec vec_load_i8_part(const int8_t *i8, int n) {
    int8_t padded[8] = {0};
    __builtin_memcpy(padded, i8, (size_t)n);
    return vec_load_i8(padded);
}

static inline vec vec_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}

static inline vec vec_div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}

static inline vec vec_min(vec a, vec b) {
    return _mm256_min_ps(a, b);
}

static inline vec vec_round(vec x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_power(vec n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline float vec_sum(vec x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#include "engine/cpu/kernels_template.h"

COMPILE_END
#endif
