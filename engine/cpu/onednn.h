// oneDNN: products of many f32 activation rows with f32 weights as they lie in the file ([outputs][columns]); all
// threads of the team take part. One thread at a time, on which omp_set_num_threads has been called.
#ifndef ENGINE_CPU_ONEDNN_H
#define ENGINE_CPU_ONEDNN_H

#include <stdbool.h>
#include <stddef.h>

// "oneDNN 2.6.3"
void onednn_name(char *out, size_t bytes);

// y[r] = W x[r], or y[r] += W x[r]. Returns false, and leaves y alone, when oneDNN could not do it.
bool onednn_f32(const float *weight, int outputs, int columns, const float *x, int rows, float *y, bool accumulate);

#endif
