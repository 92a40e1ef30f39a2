// A clock that a test may stop, and that goes on by a step each time it is asked then. The linker puts it in the place
// of base/clock.h's (meson.build).
#ifndef TESTS_UNIT_STOPPED_CLOCK_H
#define TESTS_UNIT_STOPPED_CLOCK_H

#include "base/clock.h"

#include <stdbool.h>

static bool clock_stopped;
static double clock_at, clock_step;

double __real_clock_seconds(void);
double __wrap_clock_seconds(void);

double __wrap_clock_seconds(void) {
    return clock_stopped ? clock_at += clock_step : __real_clock_seconds();
}

static inline void stop_clock(void) {
    clock_at = __real_clock_seconds();
    clock_step = 0;
    clock_stopped = true;
}

#endif
