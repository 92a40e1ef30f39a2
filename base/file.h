// Files from outside: opened so that nothing but a regular file of a bounded size gets further. Any thread.
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/error.h"

#include <stdint.h>

struct file {
    int fd; // the caller closes it
    size_t bytes;
    int64_t modified; // seconds since 1970
};

// Opens for reading, following links; never waits on a pipe. ERROR_NOT_FOUND: there is no such file.
int file_open(struct file *out, const char *path, size_t bytes_max, struct error *error);
// Reads all of it, from where it stands: file->bytes bytes to out. A file that has become shorter is an error.
int file_read(const struct file *file, const char *path, char *out, struct error *error);

#endif
