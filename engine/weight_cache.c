#include "engine/weight_cache.h"

#include "base/checked.h"
#include "base/checksum.h"
#include "base/crew.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 4 << 20, // with a checksum of its own
    PAGE_BYTES = 4096,
};

// The version goes up with every change of the layout of weights (engine/quants/packed.h) or of how they are found.
static const char MAGIC[8] = "tandem\n\1";

struct header {
    char magic[8];
    uint64_t key, bytes;
    uint64_t sums_sum; // over all that comes before and the checksums of the pieces, which follow
};

// ---- Pieces

static size_t pieces_of(size_t bytes) {
    return (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
}

static size_t piece_bytes(size_t bytes, size_t piece) {
    size_t left = bytes - piece * PIECE_BYTES;
    return left < PIECE_BYTES ? left : PIECE_BYTES;
}

// Where the weights begin in a file.
static size_t weights_at(size_t bytes) {
    size_t head = sizeof(struct header) + pieces_of(bytes) * sizeof(uint64_t);
    return (head + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static uint64_t sum_of_sums(const struct header *header, const uint64_t *sums) {
    uint64_t sum = checksum(0, header, offsetof(struct header, sums_sum));
    return checksum(sum, sums, pieces_of(header->bytes) * sizeof *sums);
}

// ---- Mapping

struct checking {
    const unsigned char *weights;
    const uint64_t *sums;
    size_t bytes;
    atomic_size_t next;
    atomic_bool damaged;
};

static bool check_next(void *work) {
    struct checking *checking = work;
    size_t piece = atomic_fetch_add(&checking->next, 1);
    if (piece >= pieces_of(checking->bytes)) return false;
    const unsigned char *from = checking->weights + piece * PIECE_BYTES;
    size_t bytes = piece_bytes(checking->bytes, piece);
    madvise((void *)(uintptr_t)from, bytes, MADV_POPULATE_READ); // at once instead of page by page; only a hint
    if (checksum(0, from, bytes) != checking->sums[piece]) atomic_store(&checking->damaged, true);
    return true;
}

// Reads all weights, so that the first answer need not wait for them either.
static bool all_is_well(const unsigned char *map, size_t bytes, int threads) {
    struct checking checking = {.weights = map + weights_at(bytes),
                                .sums = (const uint64_t *)(const void *)(map + sizeof(struct header)),
                                .bytes = bytes};
    crew_run(threads, check_next, &checking, NULL, NULL);
    return !atomic_load(&checking.damaged);
}

int weight_cache_map(const char *path, uint64_t key, size_t bytes, int threads, struct weight_cache_mapping *out,
                     struct error *error) {
    struct header header;
    struct stat status;
    size_t all;
    void *map = MAP_FAILED;
    int code = 0, file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return error_set(error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, "%s: %s", path, strerror(errno));
    if (!checked_add(weights_at(bytes), bytes, &all) || fstat(file, &status) != 0 || !S_ISREG(status.st_mode) ||
        pread(file, &header, sizeof header, 0) != sizeof header || memcmp(header.magic, MAGIC, sizeof MAGIC) != 0) {
        code = error_set(error, ERROR_FORMAT, "%s: expected a cache of weights", path);
        goto done;
    }
    if (header.key != key || header.bytes != bytes) {
        code = error_set(error, ERROR_NOT_FOUND, "%s: made from other weights", path);
        goto done;
    }
    if ((uint64_t)status.st_size == all) map = mmap(NULL, all, PROT_READ, MAP_PRIVATE, file, 0);
    if (map == MAP_FAILED) {
        code = error_set(error, ERROR_FORMAT, "%s: expected %zu bytes that can be mapped, found %lld", path, all,
                         (long long)status.st_size);
        goto done;
    }
    const uint64_t *sums = (const uint64_t *)(const void *)((const unsigned char *)map + sizeof header);
    if (sum_of_sums(&header, sums) != header.sums_sum || !all_is_well(map, bytes, threads)) {
        munmap(map, all);
        code = error_set(error, ERROR_FORMAT, "%s: damaged", path);
        goto done;
    }
    *out = (struct weight_cache_mapping){map, all, (unsigned char *)map + weights_at(bytes)};
done:
    close(file);
    return code;
}

// ---- Writing

static bool write_all(int file, const void *data, size_t bytes, size_t at) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t some = pwrite(file, from, bytes, (off_t)at);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return false;
        from += some;
        at += (size_t)some;
        bytes -= (size_t)some;
    }
    return true;
}

// The unfinished file, locked; -1 with errno: EWOULDBLOCK, another process has it. One that a crash has left is taken.
static int open_unfinished(const char *path) {
    struct stat mine, named;
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return -1;
    errno = EWOULDBLOCK; // also where it was finished, and so has lost its name, between the two calls
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && fstat(file, &mine) == 0 && stat(path, &named) == 0 &&
        mine.st_ino == named.st_ino && mine.st_dev == named.st_dev && ftruncate(file, 0) == 0)
        return file;
    int cause = errno;
    close(file);
    errno = cause;
    return -1;
}

static bool write_weights(int file, uint64_t key, const unsigned char *weights, size_t bytes, uint64_t *sums,
                          void (*progress)(void *user, double share), void *progress_user) {
    struct header header = {.key = key, .bytes = bytes};
    memcpy(header.magic, MAGIC, sizeof MAGIC);
    for (size_t piece = 0; piece < pieces_of(bytes); piece++) {
        const unsigned char *from = weights + piece * PIECE_BYTES;
        sums[piece] = checksum(0, from, piece_bytes(bytes, piece));
        if (!write_all(file, from, piece_bytes(bytes, piece), weights_at(bytes) + piece * PIECE_BYTES)) return false;
        if (progress) progress(progress_user, (double)(piece + 1) / (double)pieces_of(bytes));
    }
    header.sums_sum = sum_of_sums(&header, sums);
    return write_all(file, sums, pieces_of(bytes) * sizeof *sums, sizeof header) &&
           write_all(file, &header, sizeof header, 0) && fsync(file) == 0;
}

int weight_cache_write(const char *path, uint64_t key, const void *weights, size_t bytes,
                       void (*progress)(void *user, double share), void *progress_user, struct error *error) {
    char unfinished[PATH_MAX];
    if ((size_t)snprintf(unfinished, sizeof unfinished, "%s.unfinished", path) >= sizeof unfinished)
        return error_set(error, ERROR_ARGUMENT, "%.100s…: expected a path of fewer than %d bytes", path, PATH_MAX);
    uint64_t *sums = calloc(pieces_of(bytes) + 1, sizeof *sums);
    if (!sums) return error_set(error, ERROR_MEMORY, "%s: out of memory for checksums", path);
    file_make_directories(path);
    int code = 0, file = open_unfinished(unfinished);
    if (file < 0) {
        if (errno != EWOULDBLOCK) code = error_set(error, ERROR_IO, "%s: %s", unfinished, strerror(errno));
        goto done;
    }
    if (!write_weights(file, key, weights, bytes, sums, progress, progress_user) || rename(unfinished, path) != 0) {
        code = error_set(error, ERROR_IO, "%s: %s", unfinished, strerror(errno));
        unlink(unfinished); // room for others on a full disk
    }
    close(file); // and with it the lock
done:
    free(sums);
    return code;
}
