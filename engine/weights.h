// Weights as the stages see them. All pointers belong to the model that bound them.
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include "engine/engine.h"

#include <stddef.h>
#include <stdint.h>

// y = W x (+ bias): `rows` outputs of `columns` inputs each, row by row as Hugging Face stores them.
struct matrix {
    enum weight_format format;
    int rows, columns;
    const void *data; // [rows][columns] float or uint16_t (bf16), aligned for its element only; or blocks, aligned
                      // for cache lines (engine/quants/packed.h)
};

struct linear {
    struct matrix weight;
    const float *bias; // [weight.rows], or NULL
};

struct norm { // LayerNorm over `width` values
    int width;
    float epsilon;
    const float *weight, *bias; // [width]
};

struct expert {
    struct matrix gate, up; // [intermediate][hidden]
    struct matrix down;     // [hidden][intermediate]
};

struct router {
    int experts, top_k;
    float jitter;        // SparseMixer's epsilon
    const float *weight; // [experts][hidden]: always fp32
    int hidden;
};

struct layer {
    struct norm attention_norm, expert_norm;
    struct linear q, k, v, o;
    struct router router;
    struct expert *experts; // [router.experts]
};

#endif
