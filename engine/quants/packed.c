#include "engine/quants/packed.h"

#include "engine/quants/f16.h"

#include <math.h>
#include <string.h>

// The search takes most of the time of loading: one copy for each width of vectors, chosen when the program starts.
#if defined __x86_64__ && !defined __SANITIZE_ADDRESS__
#define FOR_EACH_VECTOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_VECTOR
#endif

// ---- Finding scales. All loops over outputs are vectors.

typedef float lanes[PACKED_OUTPUTS];

// To the nearest, ties to even, for |x| < 2^22.
static inline float rounded(float x) {
    const float big = 0x1.8p23f; // leaves no bits behind the point
    return x + big - big;
}

// NaN becomes low.
static inline float between(float low, float high, float x) {
    float least = x >= low ? x : low;
    return least <= high ? least : high;
}

// What each output's weights lose by the scale, squared. fit: the scale that these whole numbers would go with best.
static inline void measure(const struct packed_search *search, const float *weights, const lanes scale, lanes loss,
                           lanes fit) {
    lanes inverse, product = {0}, square = {0};
    for (int o = 0; o < PACKED_OUTPUTS; o++) {
        inverse[o] = scale[o] != 0 ? 1 / scale[o] : 0;
        loss[o] = 0;
    }
    for (int k = 0; k < PACKED_GROUP; k++)
        for (int o = 0; o < PACKED_OUTPUTS; o++) {
            float whole = between(search->low, search->high, rounded(weights[k * PACKED_OUTPUTS + o] * inverse[o]));
            float lost = weights[k * PACKED_OUTPUTS + o] - whole * scale[o];
            loss[o] += lost * lost;
            product[o] += weights[k * PACKED_OUTPUTS + o] * whole;
            square[o] += whole * whole;
        }
    for (int o = 0; o < PACKED_OUTPUTS; o++) fit[o] = square[o] > 0 ? product[o] / square[o] : 0;
}

FOR_EACH_VECTOR void packed_find(const struct packed_search *search, const float *weights, struct packed_group *out) {
    lanes largest = {0}, odd = {0}, best, best_loss, best_fit, scale, loss, fit, inverse;
    for (int k = 0; k < PACKED_GROUP; k++)
        for (int o = 0; o < PACKED_OUTPUTS; o++) {
            float size = fabsf(weights[k * PACKED_OUTPUTS + o]);
            largest[o] = size > largest[o] ? size : largest[o];
            odd[o] += weights[k * PACKED_OUTPUTS + o] * 0; // NaN as soon as one is not finite
        }
    for (int i = 0; i < search->part_count; i++) {
        for (int o = 0; o < PACKED_OUTPUTS; o++) scale[o] = largest[o] / search->parts[i];
        measure(search, weights, scale, loss, fit);
        for (int o = 0; o < PACKED_OUTPUTS; o++) {
            bool better = i == 0 || loss[o] < best_loss[o];
            best[o] = better ? scale[o] : best[o];
            best_loss[o] = better ? loss[o] : best_loss[o];
            best_fit[o] = better ? fit[o] : best_fit[o];
        }
    }
    measure(search, weights, best_fit, loss, fit);
    for (int o = 0; o < PACKED_OUTPUTS; o++) {
        float wanted = loss[o] < best_loss[o] ? best_fit[o] : best[o];
        out->scale[o] = f16_from_f32(odd[o] == 0 ? wanted : NAN);
        float held = f16_to_f32(out->scale[o]); // the numbers go with the scale as it is held
        inverse[o] = held != 0 ? 1 / held : 0;
    }
    for (int k = 0; k < PACKED_GROUP; k++)
        for (int o = 0; o < PACKED_OUTPUTS; o++)
            out->whole[k][o] =
                (int8_t)between(search->low, search->high, rounded(weights[k * PACKED_OUTPUTS + o] * inverse[o]));
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
    for (size_t i = 0; i < count; i++) to[i] = packed_at(format, data, columns, row, column + (int)i);
}
