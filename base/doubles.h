// Measurements in order. Pure; any thread.
#ifndef BASE_DOUBLES_H
#define BASE_DOUBLES_H

#include <stddef.h>

void doubles_sort(double *values, size_t count); // the smallest first

// Half of the values are no larger, half no smaller; 0 for none. They are sorted for it.
double doubles_median(double *values, size_t count);

#endif
