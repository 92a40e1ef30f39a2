#include "base/buffer.h"

#include "base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_init(struct buffer *buffer, size_t bytes_max) {
    *buffer = (struct buffer){.bytes_max = bytes_max};
}

void buffer_finish(struct buffer *buffer) {
    free(buffer->data);
    buffer_init(buffer, buffer->bytes_max);
}

void buffer_clear(struct buffer *buffer) {
    buffer->bytes = 0;
    buffer->failed = false;
    if (buffer->data) buffer->data[0] = '\0';
}

static bool reserve(struct buffer *buffer, size_t more) {
    size_t need;
    if (buffer->failed || !checked_add(buffer->bytes, more, &need) || need > buffer->bytes_max) return false;
    if (need < buffer->capacity) return true; // < leaves room for the NUL
    size_t capacity = buffer->capacity ? buffer->capacity : 128;
    while (capacity <= need)
        if (!checked_mul(capacity, 2, &capacity)) return false;
    char *data = realloc(buffer->data, capacity);
    if (!data) return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

bool buffer_append(struct buffer *buffer, const char *data, size_t bytes) {
    if (!reserve(buffer, bytes)) {
        buffer->failed = true;
        return false;
    }
    if (bytes) memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
    buffer->data[buffer->bytes] = '\0';
    return true;
}

bool buffer_text(struct buffer *buffer, const char *text) {
    return buffer_append(buffer, text, strlen(text));
}

bool buffer_format(struct buffer *buffer, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    bool ok = length >= 0 && reserve(buffer, (size_t)length);
    if (ok) {
        vsnprintf(buffer->data + buffer->bytes, (size_t)length + 1, format, again);
        buffer->bytes += (size_t)length;
    } else {
        buffer->failed = true;
    }
    va_end(again);
    return ok;
}

void buffer_consume(struct buffer *buffer, size_t bytes) {
    if (bytes > buffer->bytes) bytes = buffer->bytes;
    if (bytes == 0) return;
    buffer->bytes -= bytes;
    memmove(buffer->data, buffer->data + bytes, buffer->bytes + 1);
}
