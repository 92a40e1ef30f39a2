#include "server/log.h"

#include "api/json.h"

#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    TEXT_BYTES = 1024,
    SHORT_BYTES = 200,
};

static const struct {
    const char *name, *colour;
} LEVELS[] = {
#define LOG_ROW(level, name, colour) [level] = {name, colour},
    LOG_LEVELS(LOG_ROW)
#undef LOG_ROW
};

static enum log_level level_max = LOG_INFO;
static enum log_format format_wanted = LOG_TEXT;
static bool colours;
static atomic_uint dropped;

bool log_level_parse(const char *name, enum log_level *out) {
    LOG_LEVELS(NAMED_MATCH)
    return false;
}

bool log_format_parse(const char *name, enum log_format *out) {
    LOG_FORMATS(NAMED_MATCH)
    return false;
}

void log_open(enum log_level most, enum log_format format) {
    level_max = most;
    format_wanted = format;
    colours = format == LOG_TEXT && isatty(STDERR_FILENO) && !getenv("NO_COLOR");
}

bool log_enabled(enum log_level level) {
    return level <= level_max;
}

bool log_is_json(void) {
    return format_wanted == LOG_JSON;
}

// One write a line, so that lines of several threads do not mix.
static void put(const char *line, size_t bytes) {
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) != 1 || !(out.revents & POLLOUT) || write(STDERR_FILENO, line, bytes) < 0) dropped++;
}

// ---- Text

// What came from a client (a path) must not write to the terminal as it likes.
static void clean(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static void put_text(enum log_level level, char *text) {
    char line[TEXT_BYTES + 128], stamp[32];
    time_t now = time(NULL);
    struct tm local;
    clean(text);
    strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &local));
    int bytes = snprintf(line, sizeof line, "%s %s%-7s%s %s\n", stamp, colours ? LEVELS[level].colour : "",
                         LEVELS[level].name, colours ? "\033[0m" : "", text);
    put(line, bytes < (int)sizeof line ? (size_t)bytes : sizeof line - 1);
}

// ---- JSON

// At most so many bytes, and no character cut in two.
static size_t cut(const char *text, size_t bytes_max) {
    size_t bytes = strlen(text);
    if (bytes <= bytes_max) return bytes;
    bytes = bytes_max;
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80) bytes--;
    return bytes;
}

static void write_json(struct buffer *line, enum log_level level, const char *message, size_t message_bytes_max,
                       const struct buffer *members) {
    struct timespec now;
    struct tm utc;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    buffer_format(line, "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"message\":", stamp, (int)(now.tv_nsec / 1000000),
                  LEVELS[level].name);
    json_write_string(line, message, cut(message, message_bytes_max));
    if (members && members->bytes > 0) buffer_append(line, members->data, members->bytes);
    buffer_text(line, "}\n");
}

// Each byte of a message may become six: where they do, it is cut, for the line has to go out in one piece.
static void put_json(enum log_level level, const char *message, const struct buffer *members) {
    struct buffer line;
    buffer_init(&line, LOG_LINE_BYTES_MAX);
    write_json(&line, level, message, TEXT_BYTES, members);
    if (line.failed) {
        buffer_clear(&line);
        write_json(&line, level, message, SHORT_BYTES, members);
    }
    if (line.failed || (members && members->failed))
        dropped++;
    else
        put(line.data, line.bytes);
    buffer_finish(&line);
}

void log_member_text(struct buffer *members, const char *name, const char *text) {
    if (!text || !*text) return;
    buffer_format(members, ",\"%s\":", name);
    json_write_text(members, text);
}

// ---- Both

static void put_line(enum log_level level, char *text, const struct buffer *members) {
    if (log_is_json())
        put_json(level, text, members);
    else
        put_text(level, text);
}

static void tell_dropped(void) {
    unsigned lost = atomic_exchange(&dropped, 0);
    if (!lost) return;
    char text[128];
    snprintf(text, sizeof text, "%u lines were dropped: standard error did not take them", lost);
    put_line(LOG_WARNING, text, NULL);
}

void log_write(enum log_level level, const char *format, ...) {
    if (!log_enabled(level)) return;
    char text[TEXT_BYTES];
    tell_dropped();
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put_line(level, text, NULL);
}

void log_about(enum log_level level, const char *request_id, const char *format, ...) {
    if (!log_enabled(level)) return;
    char text[TEXT_BYTES];
    struct buffer members;
    buffer_init(&members, LOG_LINE_BYTES_MAX);
    tell_dropped();
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text - 128, format, args);
    va_end(args);
    if (log_is_json()) {
        log_member_text(&members, "request_id", request_id);
    } else {
        size_t bytes = strlen(text);
        snprintf(text + bytes, sizeof text - bytes, " · %s", request_id);
    }
    put_line(level, text, &members);
    buffer_finish(&members);
}

void log_members(enum log_level level, const char *message, const struct buffer *members) {
    if (!log_enabled(level)) return;
    tell_dropped();
    put_json(level, message, members);
}
