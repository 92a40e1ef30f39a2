// The bytes of one streamed answer between the engine's events and the socket: a buffer with a soft bound. At the
// bound its owner takes no more events, and the engine then pauses that sequence. Loop thread; embedded.
#ifndef SERVER_STREAM_H
#define SERVER_STREAM_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STREAM_BYTES_MAX = 64 * 1024 };

struct stream {
    struct buffer out; // events are appended here
    size_t sent;       // its first bytes, which are out already
    uint64_t sent_ms;  // when some left last
    bool stalled;      // events were left with the engine because the buffer was full
};

void stream_init(struct stream *stream, uint64_t now_ms);
void stream_finish(struct stream *stream);

size_t stream_bytes(const struct stream *stream); // to be sent
bool stream_full(const struct stream *stream);
bool stream_has_room(const struct stream *stream); // enough to go on after having stalled

// Moves up to bytes_max out.
size_t stream_read(struct stream *stream, char *out, size_t bytes_max, uint64_t now_ms);

#endif
