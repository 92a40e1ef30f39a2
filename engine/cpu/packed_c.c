// Plain C, and the choice among the instruction sets.
#include "engine/cpu/bf16.h"
#include "engine/cpu/packed.h"
#include "engine/quants/f16.h"

#include <math.h>
#include <string.h>
#if defined __x86_64__
#include <cpuid.h>
#endif

// ---- Activations

static bool matters_less(const struct packed_found *found, int a, float x, float next) {
    float was = found->list.at[a].x;
    return was * was - found->next[a] * found->next[a] < x * x - next * next; // squares of what the rest would lose
}

void packed_note(struct packed_found *found, int column, float x, float next) {
    int at = found->list.count;
    if (at == PACKED_OUTLIERS) {
        at = 0;
        for (int i = 1; i < PACKED_OUTLIERS; i++)
            if (matters_less(found, i, found->list.at[at].x, found->next[at])) at = i;
        if (!matters_less(found, at, x, next)) return;
    } else {
        found->list.count++;
    }
    found->list.at[at].column = column;
    found->list.at[at].x = x;
    found->next[at] = next;
}

void packed_end_row(const struct packed_found *found, const float *x, int columns, struct packed_x *row,
                    void (*group)(const float *x, struct packed_x *block, int group, float *most, float *next)) {
    for (int i = 0; i < found->list.count; i++) {
        int column = found->list.at[i].column, first = column / PACKED_GROUP * PACKED_GROUP;
        int some = columns - first < PACKED_GROUP ? columns - first : PACKED_GROUP;
        float rest[PACKED_GROUP] = {0}, most, next;
        memcpy(rest, x + first, (size_t)some * sizeof *x);
        rest[column - first] = 0;
        group(rest, row + column / PACKED_COLUMNS, first % PACKED_COLUMNS / PACKED_GROUP, &most, &next);
    }
    memcpy(row + packed_blocks(columns), &found->list, sizeof found->list);
}

static void quantize_group(const float *x, struct packed_x *block, int group, float *most, float *next) {
    float odd = 0;
    *most = *next = 0;
    for (int i = 0; i < PACKED_GROUP; i++) {
        *most = fabsf(x[i]) > *most ? fabsf(x[i]) : *most;
        odd += x[i] * 0; // what is not finite is to be noticed
    }
    for (int i = 0; i < PACKED_GROUP; i++) *next = fabsf(x[i]) < *most && fabsf(x[i]) > *next ? fabsf(x[i]) : *next;
    float inverse = odd == 0 && *most >= PACKED_LEAST ? 127 / *most : 0;
    int8_t *value = block->value + group * PACKED_GROUP;
    int32_t sum = 0;
    for (int i = 0; i < PACKED_GROUP; i++) {
        value[i] = (int8_t)(inverse > 0 ? x[i] * inverse + 0x1.8p23f - 0x1.8p23f : 0);
        sum += value[i];
    }
    packed_x_start(block, group, sum);
    block->scale[group] = odd == 0 ? *most / 127 : NAN;
    if (odd != 0) *most = *next = 0; // no outlier
}

static void quantize(const float *x, int columns, struct packed_x *row) {
    struct packed_found found = {.list.count = 0};
    for (size_t block = 0; block < packed_blocks(columns); block++)
        for (int group = 0; group < PACKED_COLUMNS / PACKED_GROUP; group++) {
            int first = (int)block * PACKED_COLUMNS + group * PACKED_GROUP, at = 0;
            int some = columns - first < PACKED_GROUP ? columns - first : PACKED_GROUP;
            float from[PACKED_GROUP] = {0}, most, next;
            if (some > 0) memcpy(from, x + first, (size_t)some * sizeof *x);
            quantize_group(from, row + block, group, &most, &next);
            if (most <= OUTLIER_TIMES * next || most == 0) continue;
            while (fabsf(from[at]) != most) at++;
            packed_note(&found, first + at, from[at], next);
        }
    packed_end_row(&found, x, columns, row, quantize_group);
}

// ---- Products

// sums[o] = Σ (stored - zero) · value of one group
static void group_sums(const struct packed_dot *dot, const unsigned char *block, int group, const struct packed_x *x,
                       int32_t *sums) {
    bool four = dot->format == WEIGHTS_INT4;
    int words = PACKED_GROUP / (four ? 8 : 4);
    const unsigned char *word = block + PACKED_SCALE_BYTES + group * words * 4 * PACKED_OUTPUTS;
    const int8_t *value = x->value + group * PACKED_GROUP;
    for (int o = 0; o < PACKED_OUTPUTS; o++) sums[o] = x->start[four][group] - PACKED_BASE_BITS;
    for (int w = 0; w < words; w++, value += four ? 8 : 4)
        for (int o = 0; o < PACKED_OUTPUTS; o++, word += 4)
            for (int i = 0; i < 4; i++)
                sums[o] += four ? (word[i] & 15) * value[i] + (word[i] >> 4) * value[4 + i] : word[i] * value[i];
}

static void add_outliers(const struct packed_dot *dot, int output, int row, int rows, float *sums) {
    const unsigned char *strip = dot->weight + weight_format_bytes(dot->format, output, dot->columns);
    const struct packed_x *x = dot->x + (size_t)row * packed_x_blocks(dot->columns);
    for (int r = 0; r < rows; r++, x += packed_x_blocks(dot->columns), sums += PACKED_OUTPUTS) {
        const struct packed_outliers *list = packed_outliers_of(x, dot->columns);
        for (int i = 0; i < list->count; i++)
            for (int o = 0; o < PACKED_OUTPUTS; o++)
                sums[o] += packed_at(dot->format, strip, dot->columns, o, list->at[i].column) * list->at[i].x;
    }
}

static void dot_tile(const struct packed_dot *dot, int output, int row) {
    size_t blocks = packed_blocks(dot->columns), block_bytes = weight_format_bytes(dot->format, 1, 1);
    const unsigned char *block = dot->weight + (size_t)(output / PACKED_OUTPUTS) * blocks * block_bytes;
    const struct packed_x *x = dot->x + (size_t)row * packed_x_blocks(dot->columns);
    float sum[PACKED_OUTPUTS] = {0};
    for (size_t b = 0; b < blocks; b++, block += block_bytes, x++)
        for (int group = 0; group < PACKED_COLUMNS / PACKED_GROUP; group++) {
            int32_t sums[PACKED_OUTPUTS];
            uint16_t scale[PACKED_OUTPUTS];
            memcpy(scale, block + (size_t)group * sizeof scale, sizeof scale);
            group_sums(dot, block, group, x, sums);
            for (int o = 0; o < PACKED_OUTPUTS; o++) sum[o] += (float)sums[o] * f16_to_f32(scale[o]) * x->scale[group];
        }
    add_outliers(dot, output, row, 1, sum);
    packed_store(dot, output, row, 1, sum);
}

static void dot(const struct packed_dot *dot) {
    for (int output = 0; output < dot->outputs; output += PACKED_OUTPUTS)
        for (int row = 0; row < dot->rows; row++) dot_tile(dot, output, row);
}

const struct packed_kernels packed_c = {"plain C", quantize, dot, add_outliers};

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
