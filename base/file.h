// Files from outside, opened so that nothing but what is expected gets further, in a bounded size; and files written so
// that nobody finds half of one. Any thread.
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct file {
    int fd; // the caller closes it
    size_t bytes;
    int64_t modified; // seconds since 1970
};

// Opens a regular file for reading, following links; never waits on a pipe. ERROR_NOT_FOUND: there is no such file.
int file_open(struct file *out, const char *path, size_t bytes_max, struct error *error);

// All of a regular file, with a NUL behind it that does not count; the caller frees it. A file that becomes shorter
// meanwhile is an error.
int file_load(const char *path, size_t bytes_max, char **out, size_t *bytes, struct error *error);
// The same, or all that comes through a pipe until its writers have closed it: for what users name, `<(pass show key)`.
int file_load_or_pipe(const char *path, size_t bytes_max, char **out, size_t *bytes, struct error *error);

// What is there stays until all of the new one is on the disk, so that a full one costs nothing: it is written beside,
// under a name of its own, and renamed; links stay links, also those to a file that is not there yet, and pipes and
// devices are written to. mode: of a new file, less the umask; one that is replaced leaves its permissions to the new
// one, but not its owner.
int file_write(const char *path, const char *text, size_t bytes, unsigned mode, struct error *error);
// The directory a path lies in and those above it, where they are missing, for the owner alone. What fails shows when
// the file is opened.
void file_make_directories(const char *path);
// Whether that would work, as far as can be known before there is something to write.
int file_try_write(const char *path, struct error *error);

#endif
