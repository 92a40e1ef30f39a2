#include "engine/placement_cache.h"

#include "base/buffer.h"
#include "base/checksum.h"
#include "base/file.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 16 << 10, SECONDS_A_DAY = 24 * 60 * 60 };

// Text, in lines: what it is and its version, the key, when it was measured, figures in order, and a checksum over all
// that.
static const char MAGIC[] = "tandem placement 2\n";

static bool path_of(const char *directory, const char *key, char path[PATH_MAX]) {
    uint64_t name = checksum(0, key, strlen(key));
    int length = snprintf(path, PATH_MAX, "%s/placement-%016" PRIx64, directory, name);
    return length > 0 && length < PATH_MAX;
}

// ---- Reading

// Goes behind `text`, if that is what comes.
static bool take_text(const char **at, const char *text) {
    size_t bytes = strlen(text);
    if (strncmp(*at, text, bytes) != 0) return false;
    *at += bytes;
    return true;
}

static bool take_number(const char **at, double *out) {
    char *end;
    *out = strtod(*at, &end);
    if (end == *at || (*end != ' ' && *end != '\n')) return false;
    *at = end + 1;
    return true;
}

static bool take_point(const char **at, struct engine_placement_point *point) {
    double rows = 0;
    *point = (struct engine_placement_point){0};
    bool whole = take_number(at, &rows) && take_number(at, &point->cpu_seconds) &&
                 take_number(at, &point->device_seconds) && take_number(at, &point->handing_seconds) &&
                 take_number(at, &point->rest_seconds) && take_number(at, &point->head_seconds);
    if (!whole || !(rows >= 1 && rows <= INT_MAX)) return false;
    point->rows = (int)rows;
    return true;
}

static bool take_figures(const char *at, const char *key, int64_t now, struct engine_placement *out) {
    struct engine_placement found = *out;
    double measured_at, count;
    if (!take_text(&at, MAGIC) || !take_text(&at, key) || !take_text(&at, "\n") || !take_number(&at, &measured_at) ||
        !take_number(&at, &found.read_bytes) || !take_number(&at, &count))
        return false;
    if (!(count >= 1 && count <= ENGINE_PLACEMENT_POINTS)) return false;
    found.point_count = (int)count;
    for (int i = 0; i < found.point_count; i++)
        if (!take_point(&at, &found.points[i])) return false;
    found.age_seconds = (double)now - measured_at;
    if (!(found.age_seconds >= 0 && found.age_seconds <= PLACEMENT_CACHE_DAYS_MAX * SECONDS_A_DAY)) return false;
    found.from_cache = true;
    found.contradictory = false;
    *out = found;
    return true;
}

// Whether the last line is the checksum of all before it, which is cut off.
static bool is_whole(char *text, size_t bytes) {
    if (bytes < 2 || text[bytes - 1] != '\n' || strlen(text) != bytes) return false;
    text[bytes - 1] = '\0';
    char *last = strrchr(text, '\n'), *end;
    if (!last) return false;
    uint64_t told = strtoull(last + 1, &end, 16);
    bool hexadecimal = end == last + 17 && *end == '\0';
    last[1] = '\0';
    return hexadecimal && checksum(0, text, strlen(text)) == told;
}

bool placement_cache_read(const char *directory, const char *key, int64_t now, struct engine_placement *out) {
    char path[PATH_MAX], *text;
    size_t bytes;
    struct error error;
    if (!path_of(directory, key, path) || file_load(path, FILE_BYTES_MAX, &text, &bytes, &error)) return false;
    bool read = is_whole(text, bytes) && take_figures(text, key, now, out);
    free(text);
    return read;
}

// ---- Writing

void placement_cache_write(const char *directory, const char *key, int64_t now, const struct engine_placement *found) {
    char path[PATH_MAX];
    struct buffer text;
    struct error error;
    if (!path_of(directory, key, path)) return;
    buffer_init(&text, FILE_BYTES_MAX);
    buffer_format(&text, "%s%s\n%" PRId64 " %a %d\n", MAGIC, key, now, found->read_bytes, found->point_count);
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        buffer_format(&text, "%d %a %a %a %a %a\n", point->rows, point->cpu_seconds, point->device_seconds,
                      point->handing_seconds, point->rest_seconds, point->head_seconds);
    }
    uint64_t sum = text.data ? checksum(0, text.data, strlen(text.data)) : 0;
    buffer_format(&text, "%016" PRIx64 "\n", sum);
    if (!text.failed) {
        file_make_directories(path);
        file_write(path, text.data, strlen(text.data), 0600, &error);
    }
    buffer_finish(&text);
}
