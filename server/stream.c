#include "server/stream.h"

#include "api/reply.h"

#include <string.h>

void stream_init(struct stream *stream, uint64_t now_ms) {
    *stream = (struct stream){.sent_ms = now_ms};
    buffer_init(&stream->out, API_REPLY_BYTES_MAX); // one event may be larger than the soft bound
}

void stream_finish(struct stream *stream) {
    buffer_finish(&stream->out);
    stream->sent = 0;
}

size_t stream_bytes(const struct stream *stream) {
    return stream->out.bytes - stream->sent;
}

bool stream_full(const struct stream *stream) {
    return stream_bytes(stream) >= STREAM_BYTES_MAX;
}

bool stream_has_room(const struct stream *stream) {
    return stream_bytes(stream) < STREAM_BYTES_MAX / 2;
}

size_t stream_read(struct stream *stream, char *out, size_t bytes_max, uint64_t now_ms) {
    size_t bytes = stream_bytes(stream);
    if (bytes > bytes_max) bytes = bytes_max;
    if (bytes == 0) return 0;
    memcpy(out, stream->out.data + stream->sent, bytes);
    stream->sent += bytes;
    stream->sent_ms = now_ms;
    if (stream->sent >= STREAM_BYTES_MAX || stream_bytes(stream) == 0) {
        buffer_consume(&stream->out, stream->sent);
        stream->sent = 0;
    }
    return bytes;
}
