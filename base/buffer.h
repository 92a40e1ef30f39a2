// A growing run of bytes with a stated maximum. Embedded in its owner; one thread at a time.
// A failed append sets `failed` and leaves the content as it was: check once, at the end.
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct buffer {
    char *data; // bytes, with a NUL behind them that does not count; NULL while nothing was appended
    size_t bytes, capacity, bytes_max;
    bool failed; // out of memory, or beyond bytes_max
};

void buffer_init(struct buffer *buffer, size_t bytes_max);
void buffer_finish(struct buffer *buffer); // frees the content; the buffer may be used again
void buffer_clear(struct buffer *buffer);  // empties, keeps the memory, forgets a failure

bool buffer_append(struct buffer *buffer, const char *data, size_t bytes);
bool buffer_text(struct buffer *buffer, const char *text);
bool buffer_format(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Drops the first bytes (at most all of them).
void buffer_consume(struct buffer *buffer, size_t bytes);

#endif
