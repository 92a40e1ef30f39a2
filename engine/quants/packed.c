#include "engine/quants/packed.h"

#include "engine/quants/f16.h"

#include <math.h>
#include <string.h>

// The search takes most of the time of loading: one copy for each width of vectors, chosen when the program starts.
// That is before the sanitizers have begun, which would follow the choice.
#if defined __x86_64__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define FOR_EACH_VECTOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_VECTOR
#endif

// ---- Finding scales: a value for each output in a vector

typedef float lanes __attribute__((vector_size(4 * PACKED_OUTPUTS)));
typedef int32_t masks __attribute__((vector_size(4 * PACKED_OUTPUTS))); // all bits of a lane, or none

// Macros, for a function's arguments would be passed in other ways by each copy.
#define CHOOSE(condition, yes, no) ((lanes)(((condition) & (masks)(yes)) | (~(condition) & (masks)(no))))
#define LARGER(a, b) CHOOSE((a) > (b), a, b)
#define SMALLER(a, b) CHOOSE((a) < (b), a, b)
#define EVERY(value) ((lanes){0} + (value))
// To the nearest, ties to even, for |x| < 2^22: the sum leaves no bits behind the point. NaN becomes `low`.
#define WHOLE(x) SMALLER(LARGER((x) + 0x1.8p23f - 0x1.8p23f, low), high)
#define INVERSE(scale) CHOOSE((scale) != 0, 1 / (scale), EVERY(0))

FOR_EACH_VECTOR static void find(const struct packed_search *search, const float *weights, struct packed_group *out) {
    const lanes low = EVERY(search->low), high = EVERY(search->high);
    lanes x[PACKED_GROUP], largest = {0}, odd = {0}, best = {0}, best_loss = EVERY(INFINITY);
    memcpy(x, weights, sizeof x);
    for (int k = 0; k < PACKED_GROUP; k++) {
        lanes size = (lanes)((masks)x[k] & 0x7fffffff);
        largest = LARGER(size, largest);
        odd += x[k] * 0; // NaN as soon as one is not finite
    }
    for (int i = 0; i <= search->part_count; i++) {
        lanes scale = largest / search->parts[i < search->part_count ? i : 0], inverse, loss = {0};
        if (i == search->part_count) { // the one that goes best with the whole numbers of the best so far
            lanes product = {0}, square = {0};
            inverse = INVERSE(best);
            for (int k = 0; k < PACKED_GROUP; k++) {
                lanes whole = WHOLE(x[k] * inverse);
                product += x[k] * whole;
                square += whole * whole;
            }
            scale = CHOOSE(square > 0, product / square, best);
        }
        inverse = INVERSE(scale);
        for (int k = 0; k < PACKED_GROUP; k++) {
            lanes whole = WHOLE(x[k] * inverse), lost = x[k] - whole * scale;
            loss += lost * lost;
        }
        best = CHOOSE(loss < best_loss, scale, best);
        best_loss = SMALLER(loss, best_loss);
    }
    for (int o = 0; o < PACKED_OUTPUTS; o++) {
        out->scale[o] = f16_from_f32(odd[o] == 0 ? best[o] : NAN);
        best[o] = f16_to_f32(out->scale[o]); // the numbers go with the scale as it is held
    }
    lanes inverse = INVERSE(best);
    for (int k = 0; k < PACKED_GROUP; k++) {
        lanes whole = WHOLE(x[k] * inverse);
        for (int o = 0; o < PACKED_OUTPUTS; o++) out->whole[k][o] = (int8_t)whole[o];
    }
}

void packed_find(const struct packed_search *search, const float *weights, struct packed_group *out) {
    find(search, weights, out);
}

// ---- Blocks

void packed_block(enum weight_format format, const float *weights, void *to) {
    for (int group = 0; group < PACKED_COLUMNS / PACKED_GROUP; group++) {
        float turned[PACKED_GROUP * PACKED_OUTPUTS];
        for (int o = 0; o < PACKED_OUTPUTS; o++)
            for (int k = 0; k < PACKED_GROUP; k++)
                turned[k * PACKED_OUTPUTS + o] = weights[o * PACKED_COLUMNS + group * PACKED_GROUP + k];
        if (format == WEIGHTS_INT4)
            int4_store(turned, group, to);
        else
            int8_store(turned, group, to);
    }
}

static const unsigned char *block_at(enum weight_format format, const void *data, int columns, int row, int column) {
    size_t index = (size_t)(row / PACKED_OUTPUTS) * packed_blocks(columns) + (size_t)(column / PACKED_COLUMNS);
    return (const unsigned char *)data + index * (format == WEIGHTS_INT4 ? INT4_BLOCK_BYTES : INT8_BLOCK_BYTES);
}

float packed_at(enum weight_format format, const void *data, int columns, int row, int column) {
    const unsigned char *block = block_at(format, data, columns, row, column);
    int output = row % PACKED_OUTPUTS, at = column % PACKED_COLUMNS;
    uint16_t scale;
    memcpy(&scale, block + 2 * (at / PACKED_GROUP * PACKED_OUTPUTS + output), sizeof scale);
    int whole = format == WEIGHTS_INT4 ? int4_whole(block, output, at) : int8_whole(block, output, at);
    return f16_to_f32(scale) * (float)whole;
}

void packed_row(enum weight_format format, const void *data, int columns, int row, int column, size_t count,
                float *to) {
    const int output = row % PACKED_OUTPUTS;
    for (size_t i = 0; i < count;) { // as far as one scale goes
        const unsigned char *block = block_at(format, data, columns, row, column + (int)i);
        int at = (column + (int)i) % PACKED_COLUMNS, end = (at / PACKED_GROUP + 1) * PACKED_GROUP;
        uint16_t half;
        memcpy(&half, block + 2 * (at / PACKED_GROUP * PACKED_OUTPUTS + output), sizeof half);
        const float scale = f16_to_f32(half);
        for (; at < end && i < count; at++, i++)
            to[i] =
                scale * (float)(format == WEIGHTS_INT4 ? int4_whole(block, output, at) : int8_whole(block, output, at));
    }
}
