// Ctrl-C and SIGTERM, for commands that have something to bring to an end first. One of a process: signals are.
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

#include "base/error.h"

#include <stdbool.h>

enum interrupt_way {
    INTERRUPT_ENDS,          // the process, at once, with exit code 128 + signal
    INTERRUPT_IS_NOTED_ONCE, // the first Ctrl-C is; the second one ends it, and SIGTERM
    INTERRUPT_IS_NOTED,      // each Ctrl-C is; the second SIGTERM ends it
};
int interrupt_set(enum interrupt_way way, struct error *error);

// The settings that this terminal has now are put back where a signal ends the process.
void interrupt_keep_terminal(int file);

int interrupt_noted(void);   // SIGTERM or else SIGINT, if one has come since it was last forgotten; 0: none
void interrupt_forget(void); // what was noted of Ctrl-C; SIGTERM stays

// Waits until `file` can be read (-1: there is none), a signal has been noted or interrupt_wake was called, at once if
// it was since the last wait. It may also return for nothing: look at all of these again. True: `file` can be read.
bool interrupt_wait(int file);
void interrupt_wake(void *ignored); // any thread, signal handlers too; fits engine_request.wake

#endif
