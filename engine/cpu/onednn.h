// oneDNN behind two functions: the only part of Tandem that knows its API, and whether it is 2.x or 3.x.
// Products of many activation rows with weights as they lie in the file ([outputs][columns]); all threads take
// part. Owned by the CPU's state; one thread at a time, on which omp_set_num_threads has been called.
#ifndef ENGINE_CPU_ONEDNN_H
#define ENGINE_CPU_ONEDNN_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

// A bf16 product exists for each multiple of ONEDNN_ROW_STEP rows up to ONEDNN_ROWS_MAX: a primitive is made
// for one number of rows, when that number is first seen, and kept.
enum { ONEDNN_ROW_STEP = 16, ONEDNN_ROWS_MAX = 256 };

static inline int onednn_padded(int rows) {
    return (rows + ONEDNN_ROW_STEP - 1) / ONEDNN_ROW_STEP * ONEDNN_ROW_STEP;
}

struct onednn;

int onednn_create(struct onednn **out, struct error *error);
void onednn_destroy(struct onednn *onednn); // takes NULL

// "oneDNN 2.6.3"; lives as long as the object.
const char *onednn_name(const struct onednn *onednn);

// Whether this machine multiplies bf16 in hardware and oneDNN knows how.
bool onednn_has_bf16(const struct onednn *onednn);

// y[r] = W x[r], or y[r] += W x[r]. Both return false, and leave y alone, when oneDNN could not do it.
bool onednn_f32(struct onednn *onednn, const float *weight, int outputs, int columns, const float *x, int rows,
                float *y, bool accumulate);

// The same with x and W in bf16, sums in f32, and a bias (or NULL). rows: a multiple of ONEDNN_ROW_STEP, at most
// ONEDNN_ROWS_MAX.
bool onednn_bf16(struct onednn *onednn, const uint16_t *weight, int outputs, int columns, const float *bias,
                 const uint16_t *x, int rows, float *y, bool accumulate);

#endif
