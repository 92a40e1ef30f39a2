// Stop strings in a stream of text: lets through what cannot be part of one, holds back a true prefix, ends
// at the first match wherever it is split. Embedded in its sequence; one thread.
#ifndef ENGINE_STOP_MATCHER_H
#define ENGINE_STOP_MATCHER_H

#include "base/buffer.h"
#include "engine/engine.h"

struct stop_matcher {
    struct text_span stops[ENGINE_STOPS_MAX]; // owned copies, none empty
    int stop_count;
    struct buffer held; // the longest suffix so far that is a proper prefix of a stop string
    bool stopped;
};

int stop_matcher_init(struct stop_matcher *matcher, const struct text_span *stops, int count, struct error *error);
void stop_matcher_finish(struct stop_matcher *matcher);

// Appends to out what is now certain not to belong to a stop string. True once a stop string is complete:
// what came before it is in out, the string and what follows are dropped. On no memory out->failed is set.
bool stop_matcher_add(struct stop_matcher *matcher, const char *text, size_t bytes, struct buffer *out);

// The text ended without a match: gives out what was held.
void stop_matcher_flush(struct stop_matcher *matcher, struct buffer *out);

#endif
