// A group of 32 columns of 16 outputs at a time: its bytes are turned round, so that those of an output lie side by
// side, and become floats by being put into one: 2^15 + stored. Such a float times the scale, less what 2^15 and the
// zero are worth, is the weight, and exact, so that there is one rounding, that to bf16.
#include "engine/cpu/packed_panel.h"

#include "engine/cpu/bf16.h"
#include "engine/cpu/compile.h"

#if defined __x86_64__
COMPILE_FOR("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include <immintrin.h>

// The ports that load are free, those that shuffle are not: what is stored is to be loaded again where it is wanted.
#define THROUGH_MEMORY(x) __asm__("" : "+m"(x))

// Weights are asked for from memory so far ahead: the processor's own prefetching stops at every page.
enum { AHEAD_BYTES = 2048 };

enum { LINE = 64, GROUPS = PACKED_COLUMNS / PACKED_GROUP, HALF = PACKED_GROUP / 2 };
_Static_assert((int)PACKED_GROUP == BF16_STEP && (int)PACKED_OUTPUTS == BF16_OUTPUTS_STEP,
               "a group is a step of a panel");

// Four lines of words [16 outputs] become quarter q of turned[j] = the four words of output 4 q + j.
INLINE void turn(const __m512i *line, __m512i *turned) {
    const __m512i low_a = _mm512_unpacklo_epi32(line[0], line[1]), high_a = _mm512_unpackhi_epi32(line[0], line[1]);
    const __m512i low_b = _mm512_unpacklo_epi32(line[2], line[3]), high_b = _mm512_unpackhi_epi32(line[2], line[3]);
    turned[0] = _mm512_unpacklo_epi64(low_a, low_b);
    turned[1] = _mm512_unpackhi_epi64(low_a, low_b);
    turned[2] = _mm512_unpacklo_epi64(high_a, high_b);
    turned[3] = _mm512_unpackhi_epi64(high_a, high_b);
}

// The stored bytes of a group: quarter q of half[h][j] is output 4 q + j, columns 16 h to 16 h + 15.
INLINE void bytes_of(const bool four, const unsigned char *block, int group, __m512i half[2][4]) {
    const unsigned char *from =
        block + PACKED_SCALE_BYTES + group * (four ? PACKED_GROUP / 8 : PACKED_GROUP / 4) * LINE;
    __m512i line[8], both[4];
    UNROLL for (int l = 0; l < 4; l++) line[l] = _mm512_load_si512(from + l * LINE);
    if (!four) {
        UNROLL for (int l = 4; l < 8; l++) line[l] = _mm512_load_si512(from + l * LINE);
        turn(line, half[0]);
        turn(line + 4, half[1]);
        return;
    }
    turn(line, both);
    UNROLL for (int j = 0; j < 4; j++) {
        const __m512i mask = _mm512_set1_epi8(15);
        const __m512i low = _mm512_and_si512(both[j], mask),
                      high = _mm512_and_si512(_mm512_srli_epi16(both[j], 4), mask);
        half[0][j] = _mm512_unpacklo_epi32(low, high);
        half[1][j] = _mm512_unpackhi_epi32(low, high);
    }
}

INLINE void unpack_group(const bool four, const unsigned char *block, int group, uint16_t *to) {
    // Byte i of a quarter goes to the second byte of word i.
    const __m512i place = _mm512_set_epi32(0xf00, 0xe00, 0xd00, 0xc00, 0xb00, 0xa00, 0x900, 0x800, 0x700, 0x600, 0x500,
                                           0x400, 0x300, 0x200, 0x100, 0);
    const __m512i base = _mm512_castps_si512(_mm512_set1_ps(0x1p15f));
    const __mmask64 second = 0x2222222222222222;
    _Alignas(LINE) unsigned char bytes[4][2][LINE];
    _Alignas(LINE) float scale[PACKED_OUTPUTS], rest[PACKED_OUTPUTS];
    __m512i half[2][4];
    bytes_of(four, block, group, half);
    UNROLL for (int j = 0; j < 4; j++) UNROLL for (int h = 0; h < 2; h++) _mm512_store_si512(bytes[j][h], half[h][j]);
    const __m512 scales = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)block + group));
    _mm512_store_ps(scale, scales);
    _mm512_store_ps(rest, _mm512_mul_ps(scales, _mm512_set1_ps(-0x1p15f - (four ? INT4_ZERO : INT8_ZERO))));
    THROUGH_MEMORY(bytes);
    THROUGH_MEMORY(scale);
    THROUGH_MEMORY(rest);
    UNROLL for (int o = 0; o < PACKED_OUTPUTS; o++) {
        __m512 weight[2];
        UNROLL for (int h = 0; h < 2; h++) {
            const __m512i four_times = _mm512_broadcast_i32x4(
                _mm_load_si128((const __m128i *)(const void *)(bytes[o % 4][h] + o / 4 * HALF)));
            const __m512 stored = (__m512)_mm512_mask_shuffle_epi8(base, second, four_times, place);
            weight[h] = _mm512_fmadd_ps(stored, _mm512_set1_ps(scale[o]), _mm512_set1_ps(rest[o]));
        }
        _mm512_storeu_si512(to + o * BF16_STEP, (__m512i)_mm512_cvtne2ps_pbh(weight[1], weight[0]));
    }
}

INLINE void unpack(const bool four, const unsigned char *blocks, int columns, int outputs, int depth, uint16_t *panel) {
    const size_t block_bytes = four ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES;
    for (int o = 0; o < outputs; o += PACKED_OUTPUTS, blocks += packed_blocks(columns) * block_bytes)
        for (int step = 0; step * BF16_STEP < depth; step++) {
            const unsigned char *block = blocks + (size_t)(step / GROUPS) * block_bytes;
            if (step % GROUPS == 0)
                for (size_t line = 0; line < block_bytes; line += LINE)
                    _mm_prefetch((const char *)block + AHEAD_BYTES + line, _MM_HINT_T1);
            unpack_group(four, block, step % GROUPS, panel + step * BF16_PANEL_STEP + o * BF16_STEP);
        }
}

static void unpack_int8(const void *blocks, int columns, int outputs, int depth, uint16_t *panel) {
    unpack(false, blocks, columns, outputs, depth, panel);
}

static void unpack_int4(const void *blocks, int columns, int outputs, int depth, uint16_t *panel) {
    unpack(true, blocks, columns, outputs, depth, panel);
}

void packed_panel(enum weight_format format, const void *blocks, int columns, int outputs, int depth, uint16_t *panel) {
    (format == WEIGHTS_INT4 ? unpack_int4 : unpack_int8)(blocks, columns, outputs, depth, panel);
}

COMPILE_END
#endif
