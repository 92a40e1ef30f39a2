#include "cli/output.h"

#include "base/utf8.h"
#include "cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_hidden(uint32_t c) {
    return (c >= 0x80 && c < 0xa0) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

void output_visible(struct buffer *out, const char *text, size_t bytes) {
    size_t width;
    for (const char *at = text, *end = text + bytes; at < end; at += width) {
        uint32_t c = 0;
        width = utf8_decode(at, (size_t)(end - at), &c);
        if (width == 0) {
            width = 1;
            buffer_format(out, "<%02X>", (unsigned char)*at);
        } else if (c == 0x7f || (c < ' ' && c != '\n' && c != '\t')) {
            buffer_format(out, "^%c", (char)(c ^ 0x40));
        } else if (is_hidden(c)) {
            buffer_format(out, "<U+%04X>", (unsigned)c);
        } else {
            buffer_append(out, at, width);
        }
    }
}

void output_init(struct output *output) {
    *output = (struct output){.terminal = isatty(STDOUT_FILENO)};
    signal(SIGPIPE, SIG_IGN);
}

static int write_all(struct output *output, const char *text, size_t bytes, struct error *error) {
    while (bytes > 0) {
        ssize_t written = write(STDOUT_FILENO, text, bytes);
        if (written < 0 && errno == EINTR) {
            if (interrupt_noted()) return error_set_code(error, ERROR_CANCELLED);
        } else if (written < 0) {
            output->failed = true;
            output->closed = errno == EPIPE;
            return error_set(error, ERROR_IO, "standard output can not be written: %s", strerror(errno));
        } else {
            text += written;
            bytes -= (size_t)written;
        }
    }
    return 0;
}

int output_text(struct output *output, const char *text, size_t bytes, struct error *error) {
    if (bytes == 0) return 0;
    output->within_line = text[bytes - 1] != '\n';
    if (!output->terminal) return write_all(output, text, bytes, error);
    struct buffer visible;
    buffer_init(&visible, SIZE_MAX);
    output_visible(&visible, text, bytes);
    int code =
        visible.failed ? error_set_code(error, ERROR_MEMORY) : write_all(output, visible.data, visible.bytes, error);
    buffer_finish(&visible);
    return code;
}

bool output_colours(int file) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(file) && !(no && *no) && term && *term && strcmp(term, "dumb") != 0;
}
