// Numbers, weights and devices for the tests and the benchmark of the stages.
#ifndef TESTS_KERNELS_STAGE_DATA_H
#define TESTS_KERNELS_STAGE_DATA_H

#include "engine/cpu/cpu.h"
#include "engine/quants/packed.h"
#include "engine/stages.h"
#include "tests/sanitized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Random numbers: xorshift64*, the same on every machine

struct random {
    uint64_t state;
};

static inline uint32_t random_bits(struct random *random) {
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return (uint32_t)(random->state * 0x2545f4914f6cdd1dull >> 32);
}

static inline int random_below(struct random *random, int limit) {
    return (int)((uint64_t)random_bits(random) * (uint64_t)limit >> 32);
}

static inline float random_float(struct random *random) { // -1 .. 1
    return (float)(int32_t)random_bits(random) * 0x1p-31f;
}

// ---- Memory: exact sizes, so that a sanitizer sees every step beyond an end

static inline void *allocate(size_t count, size_t size) {
    void *memory = malloc(count * size + (count == 0));
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static inline float *random_floats(struct random *random, size_t count) {
    float *x = allocate(count, sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = random_float(random);
    return x;
}

static inline float *copy_floats(const float *x, size_t count) {
    return memcpy(allocate(count, sizeof *x), x, count * sizeof *x);
}

static inline float float_of_bf16(uint16_t bits) {
    uint32_t whole = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &whole, sizeof value);
    return value;
}

static inline uint16_t bf16_of_float(float value) { // to the nearest, ties to even; finite values
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// ---- Weights

// A random matrix that starts `skip` elements into its memory: weights are aligned for their element alone.
struct owned_matrix {
    struct matrix matrix;
    void *memory;
};

// weights: [rows][columns]. Blocks of their exact bytes, aligned as the loader aligns them.
static inline struct owned_matrix packed_matrix(enum weight_format format, int rows, int columns,
                                                const float *weights) {
    struct owned_matrix owned = {.matrix = {format, rows, columns, NULL}};
    struct matrix *matrix = &owned.matrix;
    size_t block_bytes = weight_format_bytes(matrix->format, 1, 1);
    unsigned char *to = aligned_alloc(64, weight_format_bytes(matrix->format, matrix->rows, matrix->columns));
    owned.memory = to;
    matrix->data = to;
    if (!to) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (int row = 0; row < matrix->rows; row += PACKED_OUTPUTS)
        for (int column = 0; column < matrix->columns; column += PACKED_COLUMNS, to += block_bytes) {
            float block[PACKED_OUTPUTS][PACKED_COLUMNS] = {0};
            for (int o = 0; o < PACKED_OUTPUTS && row + o < matrix->rows; o++)
                for (int k = 0; k < PACKED_COLUMNS && column + k < matrix->columns; k++)
                    block[o][k] = weights[(size_t)(row + o) * (size_t)columns + (size_t)(column + k)];
            packed_block(matrix->format, block[0], to);
        }
    return owned;
}

static inline struct owned_matrix random_matrix(struct random *random, enum weight_format format, int rows, int columns,
                                                size_t skip) {
    size_t count = (size_t)rows * (size_t)columns;
    struct owned_matrix owned = {.matrix = {format, rows, columns, NULL}};
    if (weight_format_packed(format)) {
        float *weights = random_floats(random, count);
        owned = packed_matrix(format, rows, columns, weights);
        free(weights);
        return owned;
    }
    if (format == WEIGHTS_F32) {
        float *data = allocate(count + skip, sizeof *data);
        for (size_t i = 0; i < count; i++) data[skip + i] = random_float(random);
        owned.memory = data;
        owned.matrix.data = data + skip;
    } else {
        uint16_t *data = allocate(count + skip, sizeof *data);
        for (size_t i = 0; i < count; i++) data[skip + i] = bf16_of_float(random_float(random));
        owned.memory = data;
        owned.matrix.data = data + skip;
    }
    return owned;
}

static inline double weight_at(const struct matrix *matrix, int row, int column) {
    size_t index = (size_t)row * (size_t)matrix->columns + (size_t)column;
    if (weight_format_packed(matrix->format))
        return (double)packed_at(matrix->format, matrix->data, matrix->columns, row, column);
    if (matrix->format == WEIGHTS_F32) return (double)((const float *)matrix->data)[index];
    return (double)float_of_bf16(((const uint16_t *)matrix->data)[index]);
}

// A weight as it is multiplied: where activations are bf16, so are weights of int8 and int4.
static inline double weight_multiplied(const struct matrix *matrix, enum matmul_way way, int row, int column) {
    double weight = weight_at(matrix, row, column);
    return way == MATMUL_BF16 ? (double)float_of_bf16(bf16_of_float((float)weight)) : weight;
}

// ---- Devices: every way in which this machine can run the CPU's stages

struct device {
    const char *name;
    struct cpu_options options;
};

static const struct device DEVICES[] = {
    {"plain C", {KERNELS_C, false, BF16_NONE, PACKED_C}},
    {"AVX2", {KERNELS_AVX2, false, BF16_NONE, PACKED_AVX2}},
    {"AVX2 + AVX-VNNI", {KERNELS_AVX2, false, BF16_NONE, PACKED_AVX_VNNI}},
    {"AVX-512", {KERNELS_AVX512, false, BF16_NONE, PACKED_AVX512_VNNI}},
    {"oneDNN + plain C", {KERNELS_C, true, BF16_NONE, PACKED_C}},
    {"oneDNN + AVX2", {KERNELS_AVX2, true, BF16_NONE, PACKED_AVX2}},
    {"AVX-512 BF16", {KERNELS_AVX512, true, BF16_AVX512, PACKED_AVX512_VNNI}},
    {"AMX", {KERNELS_AVX512, true, BF16_AMX, PACKED_AMX}},
};
enum { DEVICE_COUNT = sizeof DEVICES / sizeof DEVICES[0] };

// Activations as a device multiplies them, where it does so in int8: `rows` rows of x, one after another.
static inline void as_packed(const struct cpu *cpu, const float *x, int rows, int columns, float *seen) {
    size_t blocks = packed_x_blocks(columns);
    struct packed_x *packed = allocate(blocks, sizeof *packed);
    for (int r = 0; r < rows; r++, x += columns, seen += columns) {
        cpu->packed->quantize(x, columns, packed);
        for (int k = 0; k < columns; k++) {
            const struct packed_x *block = &packed[k / PACKED_COLUMNS];
            int at = k % PACKED_COLUMNS;
            seen[k] = block->scale[at / PACKED_GROUP] * (float)block->value[at];
        }
        const struct packed_outliers *list = packed_outliers_of(packed, columns);
        for (int i = 0; i < list->count; i++) seen[list->at[i].column] = list->at[i].x;
    }
    free(packed);
}

// The state of a device, or NULL where the machine lacks its instructions.
static inline void *open_device(const struct device *device, const struct stage_limits *limits) {
    void *state = NULL;
    struct error error;
    int result = cpu_open(&state, limits, &device->options, &error);
    if (result != 0 && result != ERROR_UNSUPPORTED) {
        fprintf(stderr, "%s: %s\n", device->name, error.message);
        exit(1);
    }
    return state;
}

#endif
