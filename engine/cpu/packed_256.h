// The vocabulary of 256-bit vectors for packed_template.h, but for how bytes are multiplied: see packed_avx2.c and
// packed_avx_vnni.c, which include this one.
#include "engine/cpu/vec_256.h"

// 12 sums of whole numbers, in 16 registers.
enum { VECTORS = 2, TILE_ROWS = 6, PAIR_ROWS = 3, PAIRED_ROWS = 3, HOLDS_SUMS = false };

typedef __m256i words;

static inline vec vec_f16(const unsigned char *x) {
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)x));
}

static inline vec vec_abs(vec x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static inline vec vec_below(vec x, vec limit) {
    return _mm256_and_ps(x, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
}

static inline bool vec_is_zero(vec x) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ)) == 0xff;
}

static inline words words_load(const unsigned char *x) {
    return _mm256_load_si256((const __m256i *)(const void *)x);
}

static inline void words_store(unsigned char *x, words value) {
    _mm256_store_si256((__m256i *)(void *)x, value);
}

static inline words words_set(int32_t value) {
    return _mm256_set1_epi32(value);
}

static inline words words_and(words a, words b) {
    return _mm256_and_si256(a, b);
}

static inline words words_add(words a, words b) {
    return _mm256_add_epi32(a, b);
}

static inline words words_down(words x) {
    return _mm256_srli_epi32(x, 4);
}

static inline words words_down_by(words x, int bits) {
    return _mm256_srl_epi32(x, _mm_cvtsi32_si128(bits));
}

static inline vec words_float(words x) {
    return _mm256_cvtepi32_ps(x);
}

static inline vec words_bits(words x) {
    return _mm256_castsi256_ps(x);
}

static inline int32_t words_sum(words x) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

static inline words narrow(int8_t *to, vec x) {
    words whole = _mm256_cvtps_epi32(x);
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packs_epi16(half, half));
    return whole;
}
