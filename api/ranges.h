// What sampling parameters may be, over the API and on the command line: least, most, and what they are where they are
// not given.
#ifndef API_RANGES_H
#define API_RANGES_H

#include <stdint.h>

#define RANGE_TEMPERATURE 0, 2, 1
#define RANGE_TOP_P 0, 1, 1
#define RANGE_TOP_K -1, INT32_MAX, 0
#define RANGE_MIN_P 0, 1, 0
#define LIMITS_REPETITION_PENALTY 0.1, 10 // without the default: a request may say it by two names
#define RANGE_REPETITION_PENALTY LIMITS_REPETITION_PENALTY, 1
#define RANGE_PENALTY -2, 2, 0 // presence and frequency

#endif
