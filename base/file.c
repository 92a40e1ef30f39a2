#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_open(struct file *out, const char *path, size_t bytes_max, struct error *error) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, "%s: cannot be opened: %s", path,
                         strerror(errno));

    struct stat status;
    int rc = 0;
    if (fstat(fd, &status) != 0)
        rc = error_set(error, ERROR_IO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        rc = error_set(error, ERROR_FORMAT, "%s: expected a regular file, found a %s", path,
                       S_ISDIR(status.st_mode) ? "directory" : "device, pipe or socket");
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

int file_read(const struct file *file, const char *path, char *out, struct error *error) {
    for (size_t done = 0; done < file->bytes;) {
        ssize_t got = read(file->fd, out + done, file->bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return error_set(error, ERROR_IO, "%s: read %zu of %zu bytes: %s", path, done, file->bytes,
                             got < 0 ? strerror(errno) : "the file became shorter");
        done += (size_t)got;
    }
    return 0;
}
