#include "base/doubles.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void doubles_sort(double *values, size_t count) {
    if (count > 0) qsort(values, count, sizeof *values, compare);
}

double doubles_median(double *values, size_t count) {
    if (count == 0) return 0;
    doubles_sort(values, count);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}
