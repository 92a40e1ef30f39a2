#include "base/file.h"

#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS_MAX = 40 }; // as many as the system follows

// ---- Reading

static const char *kind_of(mode_t mode) {
    return S_ISDIR(mode) ? "directory" : S_ISFIFO(mode) ? "pipe" : "device or socket";
}

// A regular file, or where is_pipe is there also a pipe, which it then says.
static int open_any(struct file *out, const char *path, size_t bytes_max, bool *is_pipe, struct error *error) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, "%s: cannot be opened: %s", path,
                         strerror(errno));

    struct stat status;
    int rc = 0;
    if (fstat(fd, &status) != 0)
        rc = error_set(error, ERROR_IO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (is_pipe && S_ISFIFO(status.st_mode))
        *is_pipe = true;
    else if (!S_ISREG(status.st_mode))
        rc = error_set(error, ERROR_FORMAT, "%s: expected a regular file%s, found a %s", path,
                       is_pipe ? " or a pipe" : "", kind_of(status.st_mode));
    else if ((uintmax_t)status.st_size > bytes_max)
        rc = error_set(error, ERROR_FORMAT, "%s: expected at most %zu bytes, found %jd", path, bytes_max,
                       (intmax_t)status.st_size);
    if (rc) {
        close(fd);
        return rc;
    }
    *out = (struct file){.fd = fd, .bytes = (size_t)status.st_size, .modified = status.st_mtime};
    return 0;
}

int file_open(struct file *out, const char *path, size_t bytes_max, struct error *error) {
    return open_any(out, path, bytes_max, NULL, error);
}

static int read_file(const struct file *file, const char *path, char **out, struct error *error) {
    char *text = malloc(file->bytes + 1);
    if (!text) return error_set(error, ERROR_MEMORY, "%s: out of memory for %zu bytes", path, file->bytes);
    for (size_t done = 0; done < file->bytes;) {
        ssize_t got = read(file->fd, text + done, file->bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            error_set(error, ERROR_IO, "%s: read %zu of %zu bytes: %s", path, done, file->bytes,
                      got < 0 ? strerror(errno) : "the file became shorter");
            free(text);
            return ERROR_IO;
        }
        done += (size_t)got;
    }
    text[file->bytes] = '\0';
    *out = text;
    return 0;
}

// One that nobody has opened for writing yet is waited for.
static int read_pipe(int fd, const char *path, size_t bytes_max, char **out, size_t *bytes, struct error *error) {
    char piece[4096];
    int code = 0;
    struct buffer text;
    buffer_init(&text, bytes_max);
    buffer_append(&text, "", 0);
    for (ssize_t got = 1; !code && got;) {
        struct pollfd pipe = {.fd = fd, .events = POLLIN};
        got = poll(&pipe, 1, -1) < 0 ? -1 : read(fd, piece, sizeof piece);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            code = error_set(error, ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
        else if (got > 0 && (size_t)got > bytes_max - text.bytes)
            code = error_set(error, ERROR_FORMAT, "%s: expected at most %zu bytes, found more", path, bytes_max);
        else if (got > 0 && !buffer_append(&text, piece, (size_t)got))
            code = error_set_code(error, ERROR_MEMORY);
    }
    *bytes = text.bytes;
    *out = code ? NULL : text.data ? text.data : strdup("");
    if (code) buffer_finish(&text);
    return code || *out ? code : error_set_code(error, ERROR_MEMORY);
}

static int load(const char *path, size_t bytes_max, bool pipes, char **out, size_t *bytes, struct error *error) {
    struct file file = {0};
    bool is_pipe = false;
    int code = open_any(&file, path, bytes_max, pipes ? &is_pipe : NULL, error);
    if (code) return code;
    *bytes = file.bytes;
    code = is_pipe ? read_pipe(file.fd, path, bytes_max, out, bytes, error) : read_file(&file, path, out, error);
    close(file.fd);
    return code;
}

int file_load(const char *path, size_t bytes_max, char **out, size_t *bytes, struct error *error) {
    return load(path, bytes_max, false, out, bytes, error);
}

int file_load_or_pipe(const char *path, size_t bytes_max, char **out, size_t *bytes, struct error *error) {
    return load(path, bytes_max, true, out, bytes, error);
}

// ---- Writing: functions that return false leave errno

static bool write_all(int fd, const char *text, size_t bytes) {
    while (bytes > 0) {
        ssize_t written = write(fd, text, bytes);
        if (written < 0 && errno != EINTR) return false;
        if (written < 0) continue;
        text += written;
        bytes -= (size_t)written;
    }
    return true;
}

static bool close_after(int fd, bool good) {
    int cause = errno;
    if (close(fd) != 0 && good) return false;
    errno = cause;
    return good;
}

static void free_after(char *text) {
    int cause = errno;
    free(text);
    errno = cause;
}

// By chance a name that nothing has: what lies there, a process in another container with this one's number may write.
// (mkostemp knows no permissions, and the umask can not be asked for without changing it for all threads.)
static int open_beside(const char *path, mode_t mode, char **beside) {
    uint32_t dice;
    *beside = NULL;
    if (getrandom(&dice, sizeof dice, 0) != (ssize_t)sizeof dice) return -1;
    if (asprintf(beside, "%s.%08" PRIx32, path, dice) < 0) {
        *beside = NULL;
        errno = ENOMEM;
        return -1;
    }
    return open(*beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
}

// A file that is replaced leaves its permissions to the new one, which nobody else may open before it has them.
static bool replace(const char *path, const char *text, size_t bytes, mode_t mode) {
    struct stat old;
    bool is_new = stat(path, &old) != 0;
    char *beside;
    int fd = open_beside(path, is_new ? mode : S_IRUSR | S_IWUSR, &beside);
    bool good = fd >= 0 && (is_new || fchmod(fd, old.st_mode & (S_IRWXU | S_IRWXG | S_IRWXO)) == 0);
    good = good && write_all(fd, text, bytes) && fsync(fd) == 0;
    if (fd >= 0) good = close_after(fd, good);
    if (good) good = rename(beside, path) == 0;
    int cause = errno;
    if (fd >= 0 && !good) unlink(beside);
    errno = cause;
    free_after(beside);
    return good;
}

static bool could_replace(const char *path) {
    char *beside;
    int fd = open_beside(path, S_IRUSR | S_IWUSR, &beside);
    bool good = fd >= 0 && close_after(fd, true);
    if (fd >= 0) unlink(beside);
    free_after(beside);
    return good;
}

// What a link says, as a path from where we are; NULL: it is none, or errno says why not.
static char *read_link(const char *path) {
    char target[PATH_MAX], *joined;
    ssize_t bytes = readlink(path, target, sizeof target);
    if (bytes < 0) return NULL;
    const char *slash = strrchr(path, '/');
    int before = slash && target[0] != '/' ? (int)(slash - path) + 1 : 0;
    if (asprintf(&joined, "%.*s%.*s", before, path, (int)bytes, target) >= 0) return joined;
    errno = ENOMEM;
    return NULL;
}

// Where a path leads through its links, be there a file or not; the caller frees it. NULL: errno.
static char *follow(const char *path) {
    char *at = strdup(path);
    for (int links = 0; at && links <= LINKS_MAX; links++) {
        char *whole = realpath(at, NULL);
        char *next = whole || errno != ENOENT ? whole : read_link(at);
        if (!next && (errno == EINVAL || errno == ENOENT)) return at; // no link, or nothing: a new file
        free_after(at);
        if (!next || whole) return next;
        at = next;
    }
    if (at) errno = ELOOP;
    free_after(at);
    return NULL;
}

// Directories among them, which can not be opened so.
static bool is_other(const char *path) {
    struct stat there;
    return stat(path, &there) == 0 && !S_ISREG(there.st_mode);
}

static int cannot(const char *path, struct error *error) {
    return error_set(error, ERROR_IO, "%s can not be written: %s", path, strerror(errno));
}

int file_write(const char *path, const char *text, size_t bytes, unsigned mode, struct error *error) {
    bool good;
    if (is_other(path)) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        good = fd >= 0 && close_after(fd, write_all(fd, text, bytes));
    } else {
        char *end = follow(path); // a link stays one
        good = end && replace(end, text, bytes, mode);
        free_after(end);
    }
    return good ? 0 : cannot(path, error);
}

int file_try_write(const char *path, struct error *error) {
    bool good;
    if (is_other(path)) {
        int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
        good = fd >= 0 || errno == ENXIO; // a pipe that nobody reads yet
        if (fd >= 0) good = close_after(fd, true);
    } else {
        char *end = follow(path);
        good = end && could_replace(end);
        free_after(end);
    }
    return good ? 0 : cannot(path, error);
}

void file_make_directories(const char *path) {
    char part[PATH_MAX];
    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part) return;
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(part, 0700);
        *slash = '/';
    }
}
