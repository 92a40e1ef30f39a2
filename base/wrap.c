#include "base/wrap.h"

#include <stdbool.h>
#include <string.h>

static int characters(const char *text, size_t bytes) {
    int count = 0;
    for (size_t i = 0; i < bytes; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

void wrap_text(struct buffer *out, const char *text, int at, int indent, int columns) {
    bool first = true; // of its line
    while (*text) {
        if (*text == '\n') {
            bool empty = text[1] == '\n'; // its indent would be trailing space
            buffer_format(out, "\n%*s", empty ? 0 : indent, "");
            at = indent;
            first = true;
            text++;
            continue;
        }
        size_t bytes = strcspn(text, " \n");
        int width = characters(text, bytes);
        if (!first && at + 1 + width > columns) {
            buffer_format(out, "\n%*s", indent, "");
            at = indent;
            first = true;
        }
        if (!first) buffer_text(out, " ");
        at += width + !first;
        buffer_append(out, text, bytes);
        first = false;
        text += bytes + (text[bytes] == ' ');
    }
}
