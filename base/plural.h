// "1 token", "2 tokens": the ends of words that follow a number.
#ifndef BASE_PLURAL_H
#define BASE_PLURAL_H

#include <stddef.h>

static inline const char *plural(size_t count) {
    return count == 1 ? "" : "s";
}

static inline const char *plural_are(size_t count) {
    return count == 1 ? "is" : "are";
}

#endif
