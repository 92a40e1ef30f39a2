// The server's log: lines on standard error that a person can read. Any thread; never blocks: where nobody
// reads the other end, lines are dropped and counted. Texts of prompts and answers never come here.
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>

// name, as settings and lines say it, colour
#define LOG_LEVELS(X) \
    X(LOG_ERROR, "error", "\033[31m") \
    X(LOG_WARNING, "warning", "\033[33m") \
    X(LOG_INFO, "info", "\033[32m") \
    X(LOG_DEBUG, "debug", "\033[2m")

enum log_level {
#define LOG_ENUM(level, name, colour) level,
    LOG_LEVELS(LOG_ENUM)
#undef LOG_ENUM
};

bool log_level_parse(const char *name, enum log_level *out); // false: there is no such level

void log_open(enum log_level most); // what is less important is left out; colours where standard error is a terminal
int log_enabled(enum log_level level);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
