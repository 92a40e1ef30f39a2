// The word that somebody probably meant. Pure; any thread.
#ifndef BASE_NEAREST_H
#define BASE_NEAREST_H

#include <stddef.h>

enum { NEAREST_BYTES = 64 }; // of a word and its NUL; longer ones are like no other

// Keeps a copy of the nearest of several words to the one that was written.
struct nearest {
    char written[NEAREST_BYTES];
    char word[NEAREST_BYTES]; // the nearest so far; "": none is near enough to be what was meant
    size_t distance;          // how many letters would have to be inserted, left out, replaced or swapped with the next
};

void nearest_init(struct nearest *nearest, const char *written, size_t bytes);
void nearest_consider(struct nearest *nearest, const char *word, size_t bytes);

#endif
