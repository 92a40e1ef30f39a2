// Lines of a file that is no terminal, such as a pipe. One thread.
#ifndef CLI_LINE_FILE_H
#define CLI_LINE_FILE_H

#include "cli/line.h"

struct line_file {
    int file;
    struct buffer waiting; // read, but not handed out yet
    size_t searched;       // bytes of it in which there is no line end
    bool ended;
};
void line_file_init(struct line_file *lines, int file);
void line_file_finish(struct line_file *lines);

enum line_result line_file_read(struct line_file *lines, struct buffer *out, struct error *error);

#endif
