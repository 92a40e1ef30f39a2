#include "base/roff.h"

void roff_text(struct buffer *out, const char *text) {
    bool line_start = true;
    for (const char *at = text; *at; at++) {
        if (line_start && *at == '.') buffer_text(out, "\\&"); // an apostrophe is never written as such
        line_start = *at == '\n';
        if (line_start && at[1] == '\n') { // an empty line
            buffer_text(out, "\n.PP");
            continue;
        }
        switch (*at) {
        case '\\': buffer_text(out, "\\e"); break;
        case '-': buffer_text(out, "\\-"); break;
        case '`': buffer_text(out, "\\(ga"); break;
        case '\'': buffer_text(out, "\\(aq"); break;
        case '"': buffer_text(out, "\\(dq"); break;
        case '~': buffer_text(out, "\\(ti"); break;
        case '^': buffer_text(out, "\\(ha"); break;
        default: buffer_append(out, at, 1);
        }
    }
}
