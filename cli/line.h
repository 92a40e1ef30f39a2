// Lines from standard input. Where it and standard output are terminals they can be edited, with a history, and what is
// pasted stays together as one line with line ends in it; elsewhere they come as they are. One of a process: there is
// one standard input. One thread.
#ifndef CLI_LINE_H
#define CLI_LINE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>

enum { LINE_BYTES_MAX = 16 * 1024 * 1024 };

struct line_reader;

// complete: called with what stands in front of the cursor when Tab is pressed; returns what to put behind it (static),
// or NULL. Signals have to be noted already (cli/interrupt.h).
int line_open(struct line_reader **out, const char *(*complete)(const char *text, size_t bytes), struct error *error);
void line_close(struct line_reader *reader); // takes NULL

bool line_edits(const struct line_reader *reader);

// Keeps what is entered in this file, and remembers what is in it; does nothing where there is no editing.
int line_keep_history(struct line_reader *reader, const char *path, struct error *error);

enum line_result {
    LINE_TEXT,        // without its end
    LINE_END,         // there is no more
    LINE_INTERRUPTED, // a signal was noted meanwhile
    LINE_FAILED,
};
// The prompt, UTF-8, is shown where lines are edited; *empty, then, tells whether nothing stood in a line that was
// interrupted.
enum line_result line_read(struct line_reader *reader, const char *prompt, struct buffer *out, bool *empty,
                           struct error *error);

#endif
