#include "server/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static const struct {
    const char *name, *colour;
} LEVELS[] = {
#define LOG_ROW(level, name, colour) [level] = {name, colour},
    LOG_LEVELS(LOG_ROW)
#undef LOG_ROW
};

static enum log_level level_max = LOG_INFO;
static bool colours;
static atomic_uint dropped;

bool log_level_parse(const char *name, enum log_level *out) {
    for (size_t level = 0; level < sizeof LEVELS / sizeof *LEVELS; level++) {
        if (strcmp(LEVELS[level].name, name) != 0) continue;
        *out = (enum log_level)level;
        return true;
    }
    return false;
}

void log_open(enum log_level most) {
    level_max = most;
    colours = isatty(STDERR_FILENO) && !getenv("NO_COLOR");
}

int log_enabled(enum log_level level) {
    return level <= level_max;
}

// One write a line, so that lines of several threads do not mix.
static void put(const char *line, size_t bytes) {
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&out, 1, 0) != 1 || !(out.revents & POLLOUT) || write(STDERR_FILENO, line, bytes) < 0) dropped++;
}

// What came from a client (a path) must not write to the terminal as it likes.
static void clean(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static void format_line(enum log_level level, const char *text) {
    char line[LINE_BYTES + 128], stamp[32];
    time_t now = time(NULL);
    struct tm local;
    strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &local));
    int bytes = snprintf(line, sizeof line, "%s %s%-7s%s %s\n", stamp, colours ? LEVELS[level].colour : "",
                         LEVELS[level].name, colours ? "\033[0m" : "", text);
    put(line, bytes < (int)sizeof line ? (size_t)bytes : sizeof line - 1);
}

void log_write(enum log_level level, const char *format, ...) {
    if (!log_enabled(level)) return;
    char text[LINE_BYTES];
    unsigned lost = atomic_exchange(&dropped, 0);
    if (lost) {
        snprintf(text, sizeof text, "%u lines were dropped: standard error did not take them", lost);
        format_line(LOG_WARNING, text);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clean(text);
    format_line(level, text);
}
