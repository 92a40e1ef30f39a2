// The little of roff's man macros that a page of ours needs.
#ifndef BASE_ROFF_H
#define BASE_ROFF_H

#include "base/buffer.h"

// Appends text so that roff prints it as it stands: backslashes, hyphens and quotes are its own, and a line's first
// point or apostrophe is no command. An empty line begins a new paragraph.
void roff_text(struct buffer *out, const char *text);

#endif
