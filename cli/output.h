// Standard output for a model's text, and what a terminal is spared.
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>

// Appends text with everything visible that a terminal would obey instead of showing it: ESC as ^[, and in the same
// manner other control characters but line ends and tabs; C1 controls and those that turn the writing direction as
// <U+009B>; bytes that are not UTF-8 as <9B>.
void output_visible(struct buffer *out, const char *text, size_t bytes);

struct output {
    bool terminal;    // it is one: text is made visible
    bool failed;      // something could not be written
    bool closed;      // because nobody reads it any more
    bool within_line; // the last byte was no line end
};
void output_init(struct output *output); // a reader that goes away no longer ends the process from here on

// Writes at once. ERROR_IO; ERROR_CANCELLED when a signal was noted (cli/interrupt.h) while nobody read.
int output_text(struct output *output, const char *text, size_t bytes, struct error *error);

// Whether colours are wanted on this file: it is a terminal that has them, and NO_COLOR is not set.
bool output_colours(int file);

#endif
