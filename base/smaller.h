// The smaller and the larger of two numbers.
#ifndef BASE_SMALLER_H
#define BASE_SMALLER_H

#include <stddef.h>

static inline int smaller(int a, int b) {
    return a < b ? a : b;
}

static inline int larger(int a, int b) {
    return a > b ? a : b;
}

static inline size_t smaller_size(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t larger_size(size_t a, size_t b) {
    return a > b ? a : b;
}

#endif
