// Text broken into lines, for terminals.
#ifndef BASE_WRAP_H
#define BASE_WRAP_H

#include "base/buffer.h"

enum { WRAP_COLUMNS = 80 }; // of a terminal that nobody has made wider

// Appends text, which is UTF-8, broken at spaces so that no line is longer than `columns` characters, unless one word
// is. The text goes on in column `at`; further lines are indented by `indent`. Line ends in the text stay. No line end
// is added behind it.
void wrap_text(struct buffer *out, const char *text, int at, int indent, int columns);

#endif
