// What a user enters in a conversation: a line, or several as one. A line that ends in a backslash goes on in the next.
// What begins with """ goes on up to a line that ends with """. The end of the input ends either. One thread.
#ifndef CLI_ENTRY_H
#define CLI_ENTRY_H

#include "cli/line.h"

// The same, for a person.
#define ENTRY_HELP \
    "A line that ends in \\ goes on in the next; several lines stand between \"\"\" and \"\"\", and what a terminal " \
    "pastes stays together by itself."

struct entry_prompts {
    const char *first, *next; // in front of a line, and of those that go on with it
};

struct entry {
    struct buffer text; // [text.bytes] and a NUL
    bool quoted;        // it stood between """: as it stands, and no command
    struct buffer line; // while it is read
};
void entry_init(struct entry *entry);
void entry_finish(struct entry *entry);

// As line_read. An interruption throws away what was entered; *empty tells whether that was nothing.
enum line_result entry_read(struct entry *entry, struct line_reader *lines, const struct entry_prompts *prompts,
                            bool *empty, struct error *error);

#endif
