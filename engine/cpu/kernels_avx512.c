// AVX-512 (F, BW, DQ, VL).
#include "engine/cpu/compile.h"
#include "engine/cpu/kernels.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")

#define KERNELS kernels_avx512
#define KERNELS_NAME "AVX-512"
#define DOT_OUTPUTS(rows) ((rows) <= 2 ? 8 : 4) // at most 16 sums in 32 registers

#include "engine/cpu/vec_512.h"

enum { PRODUCT_ROWS = 12 };

static inline __mmask16 mask(int n) {
    return (__mmask16)((1u << n) - 1);
}

static inline vec vec_load_part(const float *x, int n) {
    return _mm512_maskz_loadu_ps(mask(n), x);
}

static inline void vec_store_part(float *x, vec value, int n) {
    _mm512_mask_storeu_ps(x, mask(n), value);
}

static inline vec widened(__m256i bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

static inline vec vec_load_bf16(const uint16_t *bf16) {
    return widened(_mm256_loadu_si256((const __m256i *)bf16));
}

static inline vec vec_load_bf16_part(const uint16_t *bf16, int n) {
    return widened(_mm256_maskz_loadu_epi16(mask(n), bf16));
}

static inline vec vec_load_f16(const uint16_t *f16) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)f16));
}

static inline vec vec_load_f16_part(const uint16_t *f16, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), f16));
}

static inline __m256i halves(vec value) {
    return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline void vec_store_f16(uint16_t *f16, vec value) {
    _mm256_storeu_si256((__m256i *)f16, halves(value));
}

static inline void vec_store_f16_part(uint16_t *f16, vec value, int n) {
    _mm256_mask_storeu_epi16(f16, mask(n), halves(value));
}

static inline vec vec_load_i8(const int8_t *i8) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)i8)));
}

static inline vec vec_load_i8_part(const int8_t *i8, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask(n), i8)));
}

static inline vec vec_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}

static inline vec vec_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}

static inline vec vec_min(vec a, vec b) {
    return _mm512_min_ps(a, b);
}

static inline vec vec_round(vec x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_power(vec n) {
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

static inline float vec_sum(vec x) {
    return _mm512_reduce_add_ps(x);
}

#include "engine/cpu/kernels_template.h"

COMPILE_END
#endif
