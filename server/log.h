// The server's log: lines on standard error, for a person or, as one JSON object each, for a program. Any thread. Where
// nobody reads the other end, lines are dropped and counted rather than waited for; only two writers that find the last
// room in a pipe at the same moment, two threads or two processes that share it, can make one of them wait for a
// reader. Texts of prompts and answers never come here.
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include "base/buffer.h"
#include "base/named.h"

#include <stdbool.h>

// name, as settings and lines say it, colour
#define LOG_LEVELS(X) \
    X(LOG_ERROR, "error", "\033[31m") \
    X(LOG_WARNING, "warning", "\033[33m") \
    X(LOG_INFO, "info", "\033[32m") \
    X(LOG_DEBUG, "debug", "\033[2m")

enum log_level {
    LOG_LEVELS(NAMED_VALUE)
};

// name, as settings say it, what a line is
#define LOG_FORMATS(X) \
    X(LOG_TEXT, "text", "local time, level and words") \
    X(LOG_JSON, "json", "an object with time, level, message and what else is known")

enum log_format {
    LOG_FORMATS(NAMED_VALUE)
};

bool log_level_parse(const char *name, enum log_level *out);   // false: there is no such level
bool log_format_parse(const char *name, enum log_format *out); // false: nor such a format

// What is less important than `most` is left out; text is in colours where standard error is a terminal.
void log_open(enum log_level most, enum log_format format);
bool log_enabled(enum log_level level);
bool log_is_json(void);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A line about one request, which names its id.
void log_about(enum log_level level, const char *request_id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// For JSON: a line with further members, each with a comma in front: `,"status":200`. The whole line has to fit
// LOG_LINE_BYTES_MAX, so that no other comes in between; otherwise it counts as dropped.
enum { LOG_LINE_BYTES_MAX = 4096 };
void log_members(enum log_level level, const char *message, const struct buffer *members);
void log_member_text(struct buffer *members, const char *name, const char *text); // NULL and "": none

#endif
