// The inner loops of attention of a prompt's queries, in bf16: attention_many.c calls them.
//
// Two groups of sixteen queries each go through a block of keys together, each query in a lane of its own. Everything
// they are multiplied with lies in tiles of 1 KB, as AMX wants them. One table of kernels for each set of instructions:
// single-threaded, without state of their own, any thread.
#ifndef ENGINE_CPU_ATTENTION_KERNELS_H
#define ENGINE_CPU_ATTENTION_KERNELS_H

#include "engine/cpu/bf16.h"
#include "engine/kv_cache.h"

enum {
    ATTENTION_LANES = 16,                     // queries of a group
    ATTENTION_UNIT = 2 * ATTENTION_LANES,     // and of both
    ATTENTION_STEP = 32,                      // places of a head's vectors, which are padded to a multiple of this
    ATTENTION_TILE = 512,                     // values of a tile: sixteen rows of 32
    ATTENTION_PAGE_KEYS = KV_PAGE_TOKENS,     // a page's: two tiles high for scores, one deep for their values
    ATTENTION_KEYS = 8 * ATTENTION_PAGE_KEYS, // of a block
    ATTENTION_PAGES = ATTENTION_KEYS / ATTENTION_PAGE_KEYS,
    ATTENTION_SCORES = ATTENTION_KEYS * ATTENTION_LANES, // of a group
};

// Two groups of queries and what has come of them so far.
struct attention_unit {
    int query[ATTENTION_UNIT]; // their positions, which do not fall within a group
    // [ATTENTION_UNIT]: -INFINITY and 0 at first; what to take from a scaled score of the block at hand
    float largest[ATTENTION_UNIT], total[ATTENTION_UNIT], shift[ATTENTION_UNIT];
    bool begun;  // there is something in `sum`
    uint16_t *q; // [width / 32][2: rounded, rest][2 groups] tiles [16 pairs of places][16 queries][2]
    float *sum;  // [2 groups][width][16 queries] weighted values
};

// A unit at a block of keys.
struct attention_work {
    struct attention_unit *unit;
    const uint16_t *keys;   // [ATTENTION_PAGES][width / 32][2: rounded, rest][2] tiles [16 keys][32 places]
    const uint16_t *values; // [ATTENTION_PAGES][width / 16] tiles [16 places][32 keys]
    int position;           // of the first key
    int first, last;        // pages in which the unit sees a key: [first, last)
    int width;              // of a head, padded
    int window;             // a query at i sees keys j with i - window < j <= i
    float scale;            // that turns scores into exponents of 2
    float *score;           // [2 groups][ATTENTION_KEYS][16 queries]
    uint16_t *weight;       // [2 groups][ATTENTION_PAGES] tiles [16 pairs of keys][16 queries][2]
};

struct attention_kernels {
    void (*begin)(void), (*end)(void); // around what a thread computes
    // Sixteen queries [ATTENTION_LANES][width] to one group's tiles in `to`, a unit's q from its group on; keys and
    // values [count][width] of one page to its tiles. Missing keys and the places beyond `width` become 0.
    void (*queries)(const float *q, int width, uint16_t *to);
    void (*keys)(const float *keys, int count, int width, uint16_t *to);
    void (*values)(const float *values, int count, int width, uint16_t *to);
    // Scores of `work`, or none where that is NULL; and beside them, while tiles are multiplied, the scores of
    // `before`, if there is one, become weights, which are added to its unit's totals.
    void (*scores)(const struct attention_work *work, const struct attention_work *before);
    // Between scores and weights: hides the keys that a query does not see, and scales down what has been summed up to
    // the largest score so far.
    void (*look)(const struct attention_work *work);
    // Adds the values times their weights.
    void (*sums)(const struct attention_work *work);
    // Up to sixteen results of a group, out[row[r]] of [width] each; the group's sums are done with.
    void (*store)(const struct attention_unit *unit, int group, int rows, const int *row, int width, float *out);
};

// NULL where there are none.
const struct attention_kernels *attention_kernels_at(enum bf16_level level);

#endif
