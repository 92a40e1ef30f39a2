// What might come next, by looking it up: where the last tokens of a text have stood before, the ones that followed
// them there may follow again. Texts that are summarised, corrected or quoted do so for long stretches.
//
// The text is a prompt and the answer so far, behind what its sender expects the answer to be, if he said so. Every
// pair of tokens is in a table, so that a search looks at a bounded number of places, whatever the text. It is needed
// only where the last guess was wrong: as long as it is right, the longest match is the one that grows. Pure; owned by
// one sequence, and one thread's at a time.
#ifndef ENGINE_LOOKUP_H
#define ENGINE_LOOKUP_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    LOOKUP_MATCH_MIN = 2,    // tokens that have to be alike
    LOOKUP_MATCH_MAX = 32,   // a search counts no further
    LOOKUP_PLACES_MAX = 64,  // that a search looks at: the newest ones
    LOOKUP_BUCKETS = 1 << 12,
};

struct lookup {
    int32_t *tokens; // [capacity], the first `count` are the text
    int32_t *before; // [capacity] 1 + where the newest pair before this one in its bucket ended; 0: there is none
    int32_t newest[LOOKUP_BUCKETS]; // the same of the bucket's newest pair
    size_t count, capacity;
    size_t source;   // the place of the token that is expected next
    int matched; // so many tokens before it are the text's last ones; 0: nothing is expected, or not yet searched for
    size_t searched; // the text's length at the last search
};

int lookup_create(struct lookup **out, size_t capacity, struct error *error);
void lookup_destroy(struct lookup *lookup); // takes NULL

// The text goes on. No more than the capacity in all.
void lookup_add(struct lookup *lookup, int32_t token);

// The answer that begins now is expected to be the text's beginning.
void lookup_expect_beginning(struct lookup *lookup);

// Up to `most` tokens that may come next; 0: there is no match. Behind the text's end a guess goes on with itself, so
// that what repeats is expected to go on repeating.
int lookup_guess(struct lookup *lookup, int32_t *out, int most);

#endif
