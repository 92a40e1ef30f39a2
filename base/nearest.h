// The word that somebody probably meant. Pure; any thread.
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

#include <stddef.h>

// Keeps the nearest of several words to the one that was written. Starts as {.written = word}; NULL words are passed
// over.
struct nearest {
    const char *written;
    const char *word; // the nearest so far; NULL: none is near enough to be what was meant
    size_t distance;  // how many letters would have to be inserted, left out, replaced or swapped with the next
};
void nearest_consider(struct nearest *nearest, const char *word);

#endif
