// The server's log: lines on standard error that a person can read. Any thread; never blocks: where nobody
// reads the other end, lines are dropped and counted. Texts of prompts and answers never come here.
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

void log_open(enum log_level most); // what is less important is left out; colours where standard error is a terminal
int log_enabled(enum log_level level);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
