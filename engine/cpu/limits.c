// What this processor reaches at best: reading from memory, and each arithmetic with all its operands in registers. On
// the same team of threads as the stages.
#include "engine/cpu/cpu.h"

#include "base/clock.h"
#include "base/doubles.h"
#include "engine/cpu/compile.h"
#include "engine/cpu/tiles.h"

#include <omp.h>
#if defined __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

enum {
    ROUNDS = 4096,         // of a kernel between two looks at the clock
    READS = 3,             // of the whole memory; the median counts
    BLOCK_BYTES = 8 << 20, // of memory, read by one thread
    STREAMS = 8,           // places in it that are read at once
    LINE_WORDS = 8,        // of a cache line
    AHEAD_WORDS = 64 * 8,  // that a line is asked for before it is wanted
};
static const double PEAK_SECONDS = 0.02; // each arithmetic, after half as long to warm up

// ---- Register-resident kernels: ROUNDS rounds; each returns how many operations those were

#define KEEP_WORD(x) __asm__ volatile("" : "+r"(x))
#define KEEP(x) __asm__ volatile("" : "+v"(x)) // the compiler may neither drop nor foresee it
enum { SUMS = 12 };                            // independent, so that one does not wait for another

static double plain_f32(void) {
    float sum[SUMS] = {0}, x = 1.0001f, y = 0.5f;
    for (int r = 0; r < ROUNDS; r++) UNROLL for (int i = 0; i < SUMS; i++) {
            sum[i] += x * y;
            __asm__ volatile("" : "+m"(sum[i]));
        }
    return 2.0 * ROUNDS * SUMS;
}

#if defined __x86_64__
#define KERNEL(name, features, type, zero, lanes, statement) \
    __attribute__((target(features))) static double name(void) { \
        type sum[SUMS], x = zero, y = zero; \
        KEEP(x); \
        KEEP(y); \
        UNROLL for (int i = 0; i < SUMS; i++) sum[i] = zero; \
        for (int r = 0; r < ROUNDS; r++) UNROLL for (int i = 0; i < SUMS; i++) { \
                statement; \
                KEEP(sum[i]); \
            } \
        return 2.0 * (lanes)*ROUNDS * SUMS; \
    }

KERNEL(avx2_f32, "avx2,fma", __m256, _mm256_setzero_ps(), 8, sum[i] = _mm256_fmadd_ps(x, y, sum[i]))
KERNEL(avx512_f32, "avx512f", __m512, _mm512_setzero_ps(), 16, sum[i] = _mm512_fmadd_ps(x, y, sum[i]))
KERNEL(avx512_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), 32,
       sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x, (__m512bh)y))
KERNEL(avx2_int8, "avx2", __m256i, _mm256_setzero_si256(), 32,
       sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, sum[i]), y)))
KERNEL(avx_vnni_int8, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), 32,
       sum[i] = _mm256_dpbusd_avx_epi32(sum[i], x, y))
KERNEL(avx512_int8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), 64,
       sum[i] = _mm512_dpbusd_epi32(sum[i], x, y))

#define TILE_KERNEL(name, features, multiply, operations) \
    __attribute__((target(features))) static double name(void) { \
        _tile_loadconfig(&TILE_SQUARES); \
        _tile_zero(0); \
        _tile_zero(1); \
        _tile_zero(2); \
        _tile_zero(3); \
        _tile_zero(4); \
        _tile_zero(5); \
        _tile_zero(6); \
        _tile_zero(7); \
        for (int r = 0; r < ROUNDS / 16; r++) { \
            multiply(0, 4, 6); \
            multiply(1, 4, 7); \
            multiply(2, 5, 6); \
            multiply(3, 5, 7); \
        } \
        _tile_release(); \
        return 4.0 * (operations) * (ROUNDS / 16); \
    }

TILE_KERNEL(amx_bf16, "amx-tile,amx-bf16", _tile_dpbf16ps, 2 * 16 * 16 * 32)
TILE_KERNEL(amx_int8, "amx-tile,amx-int8", _tile_dpbusd, 2 * 16 * 16 * 64)

static bool has_leaf7(unsigned subleaf, int reg, int bit) {
    unsigned r[4];
    return __get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}

static bool has_avx2(void) {
    return kernels_at(KERNELS_AVX2) != NULL;
}

static bool has_avx512(void) {
    return kernels_at(KERNELS_AVX512) != NULL;
}

static bool has_avx512_bf16(void) {
    return bf16_kernels_at(BF16_AVX512) != NULL;
}

static bool has_amx_bf16(void) {
    return bf16_kernels_at(BF16_AMX) != NULL;
}

static bool has_avx_vnni(void) {
    return has_avx2() && has_leaf7(1, 0, 4);
}

static bool has_avx512_vnni(void) {
    return has_avx512() && has_leaf7(0, 2, 11);
}

static bool has_amx_int8(void) {
    return has_amx_bf16() && has_leaf7(0, 3, 25);
}
#endif

static bool always(void) {
    return true;
}

struct peak {
    bool (*available)(void);
    double (*run)(void);
};

// The best first.
static const struct peak F32[] = {
#if defined __x86_64__
    {has_avx512, avx512_f32},
    {has_avx2, avx2_f32},
#endif
    {always, plain_f32},
    {NULL, NULL},
};
static const struct peak BF16[] = {
#if defined __x86_64__
    {has_amx_bf16, amx_bf16},
    {has_avx512_bf16, avx512_bf16},
#endif
    {NULL, NULL},
};
static const struct peak INT8[] = { // packed_level, from PACKED_LEVELS - 1 down to PACKED_AVX2
#if defined __x86_64__
    {has_amx_int8, amx_int8},
    {has_avx512_vnni, avx512_int8},
    {has_avx_vnni, avx_vnni_int8},
    {has_avx2, avx2_int8},
#endif
    {NULL, NULL},
};

// ---- Measuring

static double run_for(const struct peak *peak, double seconds) {
    double began_at = clock_seconds(), now, operations = 0;
    do {
        operations += peak->run();
        now = clock_seconds();
    } while (now - began_at < seconds);
    return operations / (now - began_at);
}

static double measure_peak(const struct peak *peak, int threads) {
    while (peak->available && !peak->available()) peak++;
    if (!peak->available) return 0;
    double rate = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rate)
    {
        run_for(peak, PEAK_SECONDS / 2);
#pragma omp barrier
        rate += run_for(peak, PEAK_SECONDS);
    }
    return rate;
}

// Several streams at once, as matrix products read rows: one alone leaves the processor waiting. Each word is used.
static uint64_t read_streams(const uint64_t *from, size_t words) {
    uint64_t seen[LINE_WORDS] = {0};
    size_t each = words / STREAMS;
    for (size_t at = 0; at < each; at += LINE_WORDS)
        for (int stream = 0; stream < STREAMS; stream++) {
            const uint64_t *line = from + (size_t)stream * each + at;
            __builtin_prefetch(line + AHEAD_WORDS, 0, 2);
            for (int i = 0; i < LINE_WORDS; i++) seen[i] |= line[i];
        }
    uint64_t all = 0;
    for (int i = 0; i < LINE_WORDS; i++) all |= seen[i];
    return all;
}

// The memory is dealt out in blocks, so that a thread that is held up holds up nobody else for long.
double cpu_measure_reading(void *state, const void *memory, size_t bytes) {
    const struct cpu *cpu = state;
    const uint64_t *from = memory;
    size_t blocks = bytes / BLOCK_BYTES, words = BLOCK_BYTES / sizeof *from;
    if (blocks == 0) return 0;
    double seconds[READS];
    uint64_t seen = 0;
    for (int i = 0; i < READS; i++) {
        double began_at = clock_seconds();
#pragma omp parallel for num_threads(cpu->limits.threads) reduction(| : seen) schedule(dynamic)
        for (size_t block = 0; block < blocks; block++) seen |= read_streams(from + block * words, words);
        seconds[i] = clock_seconds() - began_at;
    }
    KEEP_WORD(seen);
    return (double)(blocks * BLOCK_BYTES) / doubles_median(seconds, READS);
}

// Of the instructions that int8 and int4 are multiplied with, which may have been forced; 0: of plain C.
static double packed_peak(const struct cpu *cpu) {
    for (size_t i = 0; INT8[i].available; i++)
        if (packed_kernels_at((enum packed_level)(PACKED_LEVELS - 1 - (int)i)) == cpu->packed)
            return measure_peak(&INT8[i], cpu->limits.threads);
    return 0;
}

void cpu_measure(void *state, enum weight_format weights, const void *memory, size_t bytes, struct engine_limits *out) {
    struct cpu *cpu = state;
    int threads = cpu->limits.threads;
    *out = (struct engine_limits){.read_bytes = cpu_measure_reading(cpu, memory, bytes),
                                  .f32 = measure_peak(F32, threads),
                                  .bf16 = measure_peak(BF16, threads),
                                  .int8 = measure_peak(INT8, threads)};
    enum row_kind kind = cpu->kind; // of the step before
    cpu->kind = ROWS_OF_PROMPTS;
    enum matmul_way way = matmul_way(cpu, weights, FEW_ROWS + 1);
    cpu->kind = kind;
    out->arithmetic = way == MATMUL_PACKED ? "int8" : way == MATMUL_BF16 ? "bf16" : "f32";
    out->arithmetic_peak = way == MATMUL_PACKED ? packed_peak(cpu) : way == MATMUL_BF16 ? out->bf16 : out->f32;
}
