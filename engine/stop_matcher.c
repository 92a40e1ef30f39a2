#include "engine/stop_matcher.h"

#include <stdlib.h>
#include <string.h>

// Knuth, Morris and Pratt's automaton for each string. What must be held back is what the automaton that has
// come furthest has matched, and that is a prefix of its string: so the held text needs no memory of its own.

// How much of the string is matched once the text goes on with this byte; before, it was not all of it.
static size_t advance(const struct stop_string *stop, size_t matched, char byte) {
    while (matched > 0 && stop->text[matched] != byte) matched = stop->border[matched - 1];
    return matched + (stop->text[matched] == byte);
}

static int copy_stop(struct stop_string *stop, struct text_span span, struct error *error) {
    if (span.bytes == 0) return error_set(error, ERROR_ARGUMENT, "expected stop strings that are not empty");
    stop->text = malloc(span.bytes);
    stop->border = calloc(span.bytes, sizeof *stop->border);
    if (!stop->text || !stop->border)
        return error_set(error, ERROR_MEMORY, "out of memory for a stop string of %zu bytes", span.bytes);
    memcpy(stop->text, span.text, span.bytes);
    stop->bytes = span.bytes;
    for (size_t i = 1; i < stop->bytes; i++) stop->border[i] = advance(stop, stop->border[i - 1], stop->text[i]);
    return 0;
}

int stop_matcher_init(struct stop_matcher *matcher, const struct text_span *stops, int count, struct error *error) {
    *matcher = (struct stop_matcher){0};
    if (count < 0 || count > ENGINE_STOPS_MAX)
        return error_set(error, ERROR_ARGUMENT, "expected at most %d stop strings, found %d", ENGINE_STOPS_MAX, count);
    matcher->stop_count = count;
    for (int i = 0; i < count; i++) {
        int rc = copy_stop(&matcher->stops[i], stops[i], error);
        if (rc) {
            stop_matcher_finish(matcher);
            return rc;
        }
    }
    return 0;
}

void stop_matcher_finish(struct stop_matcher *matcher) {
    for (int i = 0; i < matcher->stop_count; i++) {
        free(matcher->stops[i].text);
        free(matcher->stops[i].border);
    }
    *matcher = (struct stop_matcher){0};
}

// What the text so far ends with that might become a stop string.
static struct text_span held_back(const struct stop_matcher *matcher) {
    struct text_span held = {NULL, 0};
    for (int i = 0; i < matcher->stop_count; i++) {
        const struct stop_string *stop = &matcher->stops[i];
        if (stop->matched > held.bytes) held = (struct text_span){stop->text, stop->matched};
    }
    return held;
}

// Appends the first `count` bytes of the held text with the new text behind it.
static void give(struct text_span held, const char *text, size_t count, struct buffer *out) {
    size_t from_held = count < held.bytes ? count : held.bytes;
    buffer_append(out, held.text, from_held);
    buffer_append(out, text, count - from_held);
}

bool stop_matcher_add(struct stop_matcher *matcher, const char *text, size_t bytes, struct buffer *out) {
    if (matcher->stopped) return true;
    struct text_span held = held_back(matcher);
    for (size_t at = 0; at < bytes; at++) {
        size_t complete = 0; // bytes of the longest string that ends here
        for (int i = 0; i < matcher->stop_count; i++) {
            struct stop_string *stop = &matcher->stops[i];
            stop->matched = advance(stop, stop->matched, text[at]);
            if (stop->matched == stop->bytes && stop->bytes > complete) complete = stop->bytes;
        }
        if (complete) {
            give(held, text, held.bytes + at + 1 - complete, out);
            matcher->stopped = true;
            return true;
        }
    }
    give(held, text, held.bytes + bytes - held_back(matcher).bytes, out);
    return false;
}

void stop_matcher_flush(struct stop_matcher *matcher, struct buffer *out) {
    if (matcher->stopped) return;
    struct text_span held = held_back(matcher);
    buffer_append(out, held.text, held.bytes);
    for (int i = 0; i < matcher->stop_count; i++) matcher->stops[i].matched = 0;
}
