#include "cli/interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

static int event_file = -1;
static volatile sig_atomic_t way, count, terminated;
static int terminal = -1; // set once terminal_settings are
static struct termios terminal_settings;

void interrupt_wake(void *ignored) {
    (void)ignored;
    int before = errno;
    if (eventfd_write(event_file, 1)) errno = before; // it is full: then it can be read, too
}

// In the background the terminal is somebody else's, and setting it would stop the process.
static void restore_terminal(void) {
    if (terminal >= 0 && tcgetpgrp(terminal) == getpgrp()) tcsetattr(terminal, TCSANOW, &terminal_settings);
}

// From a signal handler. Threads may be computing: nothing is waited for, and nothing that they use is freed.
static void end(int signal) {
    static const char clear[] = "\r\033[K"; // the progress of loading may stand there
    const char *last = way == INTERRUPT_ENDS ? clear : "\n"; // an answer may have begun
    restore_terminal();
    if (isatty(STDERR_FILENO) && write(STDERR_FILENO, last, strlen(last)) < 0) _exit(128 + signal);
    _exit(128 + signal);
}

static void on_signal(int signal) {
    if (way == INTERRUPT_ENDS || (way == INTERRUPT_IS_NOTED_ONCE && (count > 0 || signal == SIGTERM))) end(signal);
    if (signal == SIGTERM) {
        if (terminated) end(signal);
        terminated = 1;
    }
    count++;
    interrupt_wake(NULL);
}

int interrupt_set(enum interrupt_way new_way, struct error *error) {
    if (event_file < 0) event_file = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_file < 0) return error_set(error, ERROR_INTERNAL, "no eventfd: %s", strerror(errno));
    way = new_way;
    const struct sigaction action = {.sa_handler = on_signal}; // no SA_RESTART: waiting for a pipe ends, too
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return 0;
}

void interrupt_keep_terminal(int file) {
    if (tcgetattr(file, &terminal_settings) == 0) terminal = file;
}

int interrupt_noted(void) {
    return terminated ? SIGTERM : count ? SIGINT : 0;
}

void interrupt_forget(void) {
    count = 0;
}

bool interrupt_wait(int file) {
    struct pollfd files[2] = {{.fd = event_file, .events = POLLIN}, {.fd = file, .events = POLLIN}};
    eventfd_t ignored;
    if (poll(files, 2, -1) < 0) return false; // a signal: the handler has written to the eventfd
    if (files[0].revents) eventfd_read(event_file, &ignored);
    return files[1].revents != 0;
}
