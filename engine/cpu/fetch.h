// Asks for memory that will be wanted soon, some of it at each of many turns of a loop that does something else.
#ifndef ENGINE_CPU_FETCH_H
#define ENGINE_CPU_FETCH_H

#include "engine/cpu/bf16.h"

// What is still to be asked for.
struct fetcher {
    const char *row;
    size_t stride;
    int lines, line, left, each; // `each`: lines at a time, so that all have had their turn at the end
};

static inline __attribute__((always_inline)) struct fetcher fetcher_for(const struct bf16_next *next, int turns) {
    int all = next->rows * next->lines;
    return (struct fetcher){next->from, next->stride_bytes, next->lines, 0, all, (all + turns - 1) / turns};
}

static inline __attribute__((always_inline)) void fetch(struct fetcher *f) {
    enum { LINE_BYTES = 64, SECOND_CACHE = 2 };
    for (int i = f->each < f->left ? f->each : f->left; i > 0; i--, f->left--) {
        __builtin_prefetch(f->row + (size_t)f->line * LINE_BYTES, 0, SECOND_CACHE);
        if (++f->line == f->lines) {
            f->line = 0;
            f->row += f->stride;
        }
    }
}

#endif
