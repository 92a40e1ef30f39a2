// Stop strings in a stream of text: lets through what cannot be part of one, holds back a true prefix, ends at
// the first to become complete wherever it is split (of several that end at the same byte, the longest).
// Embedded in its sequence; one thread. Time is linear in the text, whatever the strings.
#ifndef ENGINE_STOP_MATCHER_H
#define ENGINE_STOP_MATCHER_H

#include "base/buffer.h"
#include "engine/engine.h"

struct stop_string {
    char *text; // owned, never empty
    size_t bytes;
    size_t *border; // [bytes] length of the longest proper prefix of text[0..i] that it also ends with
    size_t matched; // how much of it the text so far ends with
};

struct stop_matcher {
    struct stop_string stops[ENGINE_STOPS_MAX];
    int stop_count;
    bool stopped;
};

// Copies the strings. On failure nothing is left to finish.
int stop_matcher_init(struct stop_matcher *matcher, const struct text_span *stops, int count, struct error *error);
void stop_matcher_finish(struct stop_matcher *matcher); // takes one that is all zeros too

// Appends to out what is now certain not to belong to a stop string. True once a stop string is complete:
// what came before it is in out, the string and what follows are dropped. On no memory out->failed is set.
bool stop_matcher_add(struct stop_matcher *matcher, const char *text, size_t bytes, struct buffer *out);

// The text ended without a match: gives out what was held.
void stop_matcher_flush(struct stop_matcher *matcher, struct buffer *out);

#endif
