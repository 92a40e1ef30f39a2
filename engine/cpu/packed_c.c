// Plain C, and the choice among the instruction sets.
#include "engine/cpu/bf16.h"
#include "engine/cpu/packed.h"
#include "engine/quants/f16.h"

#include <math.h>
#include <string.h>
#if defined __x86_64__
#include <cpuid.h>
#endif

static void quantize(const float *x, int columns, struct packed_x *out) {
    for (int first = 0; first < columns; first += PACKED_COLUMNS, out++) {
        *out = (struct packed_x){0};
        for (int k = 0; k < PACKED_COLUMNS && first + k < columns; k += PACKED_GROUP) {
            const float *from = x + first + k;
            int group = k / PACKED_GROUP, some = columns - first - k < PACKED_GROUP ? columns - first - k : PACKED_GROUP;
            float largest = 0, odd = 0;
            for (int i = 0; i < some; i++) {
                largest = fabsf(from[i]) > largest ? fabsf(from[i]) : largest;
                odd += from[i] * 0; // what is not finite is to be noticed
            }
            out->scale[group] = odd == 0 ? largest / 127 : NAN;
            float inverse = odd == 0 && largest > 0 ? 127 / largest : 0;
            for (int i = 0; inverse > 0 && i < some; i++) {
                out->value[k + i] = (int8_t)(from[i] * inverse + 0x1.8p23f - 0x1.8p23f);
                out->sum[group] += out->value[k + i];
            }
        }
    }
}

// sums[o] = Σ (stored - zero) · value of one group
static void group_sums(const struct packed_dot *dot, const unsigned char *block, int group, const struct packed_x *x,
                       int32_t *sums) {
    bool four = dot->format == WEIGHTS_INT4;
    int words = PACKED_GROUP / (four ? 8 : 4);
    const unsigned char *word = block + PACKED_SCALE_BYTES + group * words * 4 * PACKED_OUTPUTS;
    const int8_t *value = x->value + group * PACKED_GROUP;
    for (int o = 0; o < PACKED_OUTPUTS; o++) sums[o] = -packed_zero(dot->format) * x->sum[group];
    for (int w = 0; w < words; w++, value += four ? 8 : 4)
        for (int o = 0; o < PACKED_OUTPUTS; o++, word += 4)
            for (int i = 0; i < 4; i++)
                sums[o] += four ? (word[i] & 15) * value[i] + (word[i] >> 4) * value[4 + i] : word[i] * value[i];
}

static void dot_tile(const struct packed_dot *dot, int output, int row) {
    size_t blocks = packed_blocks(dot->columns), block_bytes = weight_format_bytes(dot->format, 1, 1);
    const unsigned char *block = dot->weight + (size_t)(output / PACKED_OUTPUTS) * blocks * block_bytes;
    const struct packed_x *x = dot->x + (size_t)row * blocks;
    float sum[PACKED_OUTPUTS] = {0};
    for (size_t b = 0; b < blocks; b++, block += block_bytes, x++)
        for (int group = 0; group < PACKED_COLUMNS / PACKED_GROUP; group++) {
            int32_t sums[PACKED_OUTPUTS];
            uint16_t scale[PACKED_OUTPUTS];
            memcpy(scale, block + (size_t)group * sizeof scale, sizeof scale);
            group_sums(dot, block, group, x, sums);
            for (int o = 0; o < PACKED_OUTPUTS; o++) sum[o] += (float)sums[o] * f16_to_f32(scale[o]) * x->scale[group];
        }
    packed_store(dot, output, row, 1, sum);
}

static void dot(const struct packed_dot *dot) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS)
        for (int row = 0; row < dot->rows; row++) dot_tile(dot, output, row);
}

const struct packed_kernels packed_c = {"plain C", quantize, dot};

#if defined __x86_64__
static bool has_leaf7(unsigned subleaf, int which, int bit) {
    unsigned r[4];
    return __get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[which] >> bit & 1);
}

static bool machine_has(enum packed_level level) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); // F16C came before both
    if (level == PACKED_AVX2) return avx2;
    if (level == PACKED_AVX_VNNI) return avx2 && has_leaf7(1, 0, 4);
    if (level == PACKED_AMX) return machine_has(PACKED_AVX512_VNNI) && has_leaf7(0, 3, 25) && bf16_kernels_at(BF16_AMX);
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_leaf7(0, 2, 11);
}
#endif

const struct packed_kernels *packed_kernels_at(enum packed_level level) {
#if defined __x86_64__
    static const struct packed_kernels *const FAST[PACKED_LEVELS] = {
        [PACKED_AVX2] = &packed_avx2, [PACKED_AVX_VNNI] = &packed_avx_vnni, [PACKED_AVX512_VNNI] = &packed_avx512_vnni,
        [PACKED_AMX] = &packed_amx};
    if (level != PACKED_C && machine_has(level)) return FAST[level];
#endif
    return level == PACKED_C ? &packed_c : NULL;
}

enum packed_level packed_best(void) {
    int level = PACKED_LEVELS - 1;
    while (!packed_kernels_at((enum packed_level)level)) level--;
    return (enum packed_level)level;
}
