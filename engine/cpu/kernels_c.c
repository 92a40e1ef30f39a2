// Plain C: vectors of four floats, which every compiler for every processor of today can map to registers.
// Also the choice among the instruction sets.
#include "engine/cpu/kernels.h"
#include "engine/quants/f16.h"

#define KERNELS kernels_c
#define KERNELS_NAME "plain C"
#define DOT_OUTPUTS(rows) ((rows) == 1 ? 8 : (rows) == 2 ? 4 : 2)

enum { LANES = 4, PRODUCT_ROWS = 6 };

typedef float vec __attribute__((vector_size(16)));
typedef uint32_t words __attribute__((vector_size(16)));
typedef int32_t integers __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(8)));

static inline vec vec_zero(void) {
    return (vec){0};
}

static inline vec vec_set(float value) {
    return (vec){value, value, value, value};
}

static inline vec vec_load(const float *x) {
    vec value;
    __builtin_memcpy(&value, x, sizeof value);
    return value;
}

static inline vec vec_load_part(const float *x, int n) {
    vec value = {0};
    __builtin_memcpy(&value, x, (size_t)n * sizeof *x);
    return value;
}

static inline void vec_store(float *x, vec value) {
    __builtin_memcpy(x, &value, sizeof value);
}

static inline void vec_store_part(float *x, vec value, int n) {
    __builtin_memcpy(x, &value, (size_t)n * sizeof *x);
}

static inline vec vec_load_bf16(const uint16_t *bf16) {
    halves half;
    __builtin_memcpy(&half, bf16, sizeof half);
    return (vec)(__builtin_convertvector(half, words) << 16);
}

static inline vec vec_load_bf16_part(const uint16_t *bf16, int n) {
    uint16_t padded[LANES] = {0};
    __builtin_memcpy(padded, bf16, (size_t)n * sizeof *padded);
    return vec_load_bf16(padded);
}

static inline vec vec_load_f16_part(const uint16_t *f16, int n) {
    vec value = {0};
    for (int i = 0; i < n; i++) value[i] = f16_to_f32(f16[i]);
    return value;
}

static inline vec vec_load_f16(const uint16_t *f16) {
    return vec_load_f16_part(f16, LANES);
}

static inline void vec_store_f16_part(uint16_t *f16, vec value, int n) {
    for (int i = 0; i < n; i++) f16[i] = f16_from_f32(value[i]);
}

static inline void vec_store_f16(uint16_t *f16, vec value) {
    vec_store_f16_part(f16, value, LANES);
}

static inline vec vec_load_i8_part(const int8_t *i8, int n) {
    vec value = {0};
    for (int i = 0; i < n; i++) value[i] = i8[i];
    return value;
}

static inline vec vec_load_i8(const int8_t *i8) {
    return vec_load_i8_part(i8, LANES);
}

static inline vec choose(words condition, vec yes, vec no) {
    return (vec)((condition & (words)yes) | (~condition & (words)no));
}

static inline vec vec_add(vec a, vec b) {
    return a + b;
}

static inline vec vec_sub(vec a, vec b) {
    return a - b;
}

static inline vec vec_mul(vec a, vec b) {
    return a * b;
}

static inline vec vec_div(vec a, vec b) {
    return a / b;
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return a * b + c;
}

static inline vec vec_min(vec a, vec b) {
    return choose((words)(a < b), a, b);
}

static inline vec vec_max(vec a, vec b) {
    return choose((words)(a > b), a, b);
}

static inline vec vec_round(vec x) {
    const vec big = {0x1.8p23f, 0x1.8p23f, 0x1.8p23f, 0x1.8p23f}; // leaves no bits behind the point
    return x + big - big;
}

static inline vec vec_power(vec n) {
    n = choose((words)(n == n), n, vec_zero()); // NaN has no integer
    return (vec)((words) __builtin_convertvector(n + 127, integers) << 23);
}

static inline float vec_sum(vec x) {
    return (x[0] + x[2]) + (x[1] + x[3]);
}

static inline float vec_largest(vec x) {
    float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}

#include "engine/cpu/kernels_template.h"

#if defined __x86_64__
static bool machine_has(enum kernel_level level) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); // F16C came before both
    if (level == KERNELS_AVX2) return avx2;
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const struct kernels *kernels_at(enum kernel_level level) {
#if defined __x86_64__
    if (level == KERNELS_AVX2 && machine_has(level)) return &kernels_avx2;
    if (level == KERNELS_AVX512 && machine_has(level)) return &kernels_avx512;
#endif
    return level == KERNELS_C ? &kernels_c : NULL;
}

enum kernel_level kernels_best(void) {
    int level = KERNEL_LEVELS - 1;
    while (!kernels_at((enum kernel_level)level)) level--;
    return (enum kernel_level)level;
}
