// AVX-VNNI: VNNI for 256 bits, of processors without AVX-512 (Alder Lake to Meteor Lake and beyond).
#include "engine/cpu/compile.h"
#include "engine/cpu/packed.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c,avxvnni")

#include "engine/cpu/packed_256.h"

#define KERNELS packed_avx_vnni
#define KERNELS_NAME "AVX-VNNI"

static inline words begin_int8(int32_t start) {
    return _mm256_set1_epi32(start);
}

static inline words dot_int8(words sum, words weight, words x) {
    return _mm256_dpbusd_avx_epi32(sum, weight, x);
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
