#include "cli/line_file.h"

#include "cli/interrupt.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void line_file_init(struct line_file *lines, int file) {
    *lines = (struct line_file){.file = file};
    buffer_init(&lines->waiting, LINE_BYTES_MAX);
}

void line_file_finish(struct line_file *lines) {
    buffer_finish(&lines->waiting);
}

// The first `bytes` that wait, of which the last `end` are the line's end.
static enum line_result hand_out(struct line_file *lines, size_t bytes, size_t end, struct buffer *out,
                                 struct error *error) {
    const char *text = lines->waiting.data;
    size_t kept = bytes - end;
    if (end && kept > 0 && text[kept - 1] == '\r') kept--;
    bool whole = buffer_append(out, text, kept);
    buffer_consume(&lines->waiting, bytes);
    lines->searched = 0;
    if (whole) return LINE_TEXT;
    error_set_code(error, ERROR_MEMORY);
    return LINE_FAILED;
}

static int read_more(struct line_file *lines, struct error *error) {
    char bytes[65536];
    ssize_t count = read(lines->file, bytes, sizeof bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return 0;
    if (count < 0) return error_set(error, ERROR_IO, "standard input can not be read: %s", strerror(errno));
    lines->ended = count == 0;
    if (buffer_append(&lines->waiting, bytes, (size_t)count)) return 0;
    return error_set(error, ERROR_TOO_LARGE, "standard input has a line of more than %d MiB",
                     LINE_BYTES_MAX / 1024 / 1024);
}

enum line_result line_file_read(struct line_file *lines, struct buffer *out, struct error *error) {
    for (;;) {
        struct buffer *waiting = &lines->waiting;
        const char *from = waiting->data + lines->searched;
        const char *end = waiting->bytes ? memchr(from, '\n', waiting->bytes - lines->searched) : NULL;
        if (end) return hand_out(lines, (size_t)(end - waiting->data) + 1, 1, out, error);
        lines->searched = waiting->bytes;
        if (interrupt_noted()) return LINE_INTERRUPTED; // before the end: it may come of the same cause
        if (lines->ended) return waiting->bytes ? hand_out(lines, waiting->bytes, 0, out, error) : LINE_END;
        if (interrupt_wait(lines->file) && read_more(lines, error)) return LINE_FAILED;
    }
}
