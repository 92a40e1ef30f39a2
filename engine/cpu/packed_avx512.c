// AVX-512 with VNNI: a line of weights is one vector.
#include "engine/cpu/compile.h"
#include "engine/cpu/packed.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

#include "engine/cpu/vec_512.h"

#include <limits.h>

#define KERNELS packed_avx512_vnni
#define KERNELS_NAME "AVX-512 VNNI"

// 12 sums of whole numbers and 12 of floats, in 32 registers.
enum { VECTORS = 1, TILE_ROWS = 6, PAIR_ROWS = 6, PAIRED_ROWS = INT_MAX, HOLDS_SUMS = true };

typedef __m512i words;

static inline vec vec_f16(const unsigned char *x) {
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)x));
}

static inline vec vec_abs(vec x) {
    return _mm512_abs_ps(x);
}

static inline vec vec_below(vec x, vec limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), x);
}

static inline bool vec_is_zero(vec x) {
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
}

static inline words words_load(const unsigned char *x) {
    return _mm512_load_si512(x);
}

static inline void words_store(unsigned char *x, words value) {
    _mm512_store_si512(x, value);
}

static inline words words_set(int32_t value) {
    return _mm512_set1_epi32(value);
}

static inline words words_and(words a, words b) {
    return _mm512_and_si512(a, b);
}

static inline words words_add(words a, words b) {
    return _mm512_add_epi32(a, b);
}

static inline words words_down(words x) {
    return _mm512_srli_epi32(x, 4);
}

static inline words words_down_by(words x, int bits) {
    return _mm512_srl_epi32(x, _mm_cvtsi32_si128(bits));
}

static inline vec words_float(words x) {
    return _mm512_cvtepi32_ps(x);
}

static inline vec words_bits(words x) {
    return _mm512_castsi512_ps(x);
}

static inline int32_t words_sum(words x) {
    return _mm512_reduce_add_epi32(x);
}

static inline words narrow(int8_t *to, vec x) {
    words whole = _mm512_cvtps_epi32(x);
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtsepi32_epi8(whole));
    return whole;
}

static inline words begin_int8(int32_t start) {
    return _mm512_set1_epi32(start);
}

static inline words dot_int8(words sum, words weight, words x) {
    return _mm512_dpbusd_epi32(sum, weight, x);
}

static inline words end_int8(words sum, int32_t start) {
    (void)start;
    return sum;
}

#define begin_int4 begin_int8
#define dot_int4 dot_int8
#define end_int4 end_int8

#include "engine/cpu/packed_template.h"

COMPILE_END
#endif
