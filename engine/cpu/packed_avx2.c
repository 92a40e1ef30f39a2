// AVX2, without VNNI: bytes are multiplied in pairs, whose sums have 16 bits.
//
// int4: a pair is at most 2 · 15 · 127 = 3810, and the 8 pairs of a group fit into 16 bits.
// int8: 2 · 255 · 127 does not. So the weights get their signs back and hand them over to the activations' sizes:
// |x| · ±w, where 2 · 127 · 127 fits.
#include "engine/cpu/compile.h"
#include "engine/cpu/packed.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c")

#include "engine/cpu/packed_256.h"

#define KERNELS packed_avx2
#define KERNELS_NAME "AVX2"

static inline words begin_int8(int32_t start) {
    (void)start;
    return _mm256_set1_epi32(PACKED_BASE_BITS);
}

static inline words dot_int8(words sum, words weight, words x) {
    __m256i sign = _mm256_sign_epi8(_mm256_xor_si256(weight, _mm256_set1_epi8(-128)), x);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), sign);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline words end_int8(words sum, int32_t start) {
    (void)start;
    return sum;
}

static inline words begin_int4(int32_t start) {
    (void)start;
    return _mm256_setzero_si256();
}

static inline words dot_int4(words sum, words weight, words x) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weight, x));
}

static inline words end_int4(words sum, int32_t start) {
    return _mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), _mm256_set1_epi32(start));
}

#include "engine/cpu/packed_template.h"

COMPILE_END
#endif
