// Matrices in int8 and int4: one layout, which CPU kernels and OpenCL read alike. Pure; any thread.
//
// A matrix lies in blocks of 16 outputs by 64 columns, those of the same outputs one after another, so that a product
// reads it from beginning to end. A block is cache lines of 64 bytes:
//
//   line 0              fp16 scales: [2 groups of 32 columns][16 outputs]
//   int8: lines 1 to 16 [16][16 outputs] words of 4 weights of neighbouring columns, the first in the lowest byte
//   int4: lines 1 to 8  [8][16 outputs] words of 8 weights: columns 0 to 3 in the low halves of the bytes, 4 to 7 in
//                       the high ones
//
// so that a line is one vector of 512 bits, two of 256, or a block read of a sub-group of 16. What is stored has no
// sign:
//
//   weight = scale · (stored - zero), zero = 128 for int8, 8 for int4
//
// which is how processors multiply bytes (unsigned by signed); activations have the sign. int8 uses -127 to 127, so
// that processors without VNNI, which take the sign off one side, do not overflow. Ragged edges are weights of 0.
//
// The scale of a group is searched for: that of its largest weight and some around it are tried, and one fitted to the
// best of them by least squares; the smallest sum of squared errors wins.
#ifndef ENGINE_QUANTS_PACKED_H
#define ENGINE_QUANTS_PACKED_H

#include "engine/engine.h"

enum {
    PACKED_OUTPUTS = 16, // of a block
    PACKED_COLUMNS = 64,
    PACKED_GROUP = 32, // columns that share a scale
    PACKED_SCALE_BYTES = 64,
    INT8_BLOCK_BYTES = 1088,
    INT4_BLOCK_BYTES = 576,
    INT8_ZERO = 128,
    INT4_ZERO = 8,
};

// Whether matrices of this format are in that layout.
static inline bool weight_format_packed(enum weight_format format) {
    return format == WEIGHTS_INT8 || format == WEIGHTS_INT4;
}

static inline int packed_zero(enum weight_format format) {
    return format == WEIGHTS_INT4 ? INT4_ZERO : INT8_ZERO;
}

// Blocks beside each other.
static inline size_t packed_blocks(int columns) {
    return ((size_t)columns + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
}

// Makes one block of weights [PACKED_OUTPUTS][PACKED_COLUMNS]. A weight that is not finite makes all of its group NaN:
// it is to be noticed.
void packed_block(enum weight_format format, const float *weights, void *to);

// One weight, and `count` weights of a row from a column on.
float packed_at(enum weight_format format, const void *data, int columns, int row, int column);
void packed_row(enum weight_format format, const void *data, int columns, int row, int column, size_t count, float *to);

// ---- What int8.c and int4.c are made of

// Scales that are tried: the largest of a group's weights divided by each of `parts`, which may be negative.
struct packed_search {
    float low, high; // of the whole numbers
    const float *parts;
    int part_count;
};
// Of one group, whose weights are [PACKED_GROUP][PACKED_OUTPUTS] here: what they become.
struct packed_group {
    uint16_t scale[PACKED_OUTPUTS]; // fp16
    int8_t whole[PACKED_GROUP][PACKED_OUTPUTS];
};
void packed_find(const struct packed_search *search, const float *weights, struct packed_group *out);

void int8_store(const float *weights, int group, unsigned char *block);
void int4_store(const float *weights, int group, unsigned char *block);
int int8_whole(const unsigned char *block, int output, int column); // of column 0 to 63
int int4_whole(const unsigned char *block, int output, int column);

#endif
