// Time that only goes forward, for durations and deadlines. A test may put a clock of its own in its place.
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

double clock_seconds(void);

#endif
