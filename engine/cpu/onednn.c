#include "engine/cpu/onednn.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>

void onednn_name(char *out, size_t bytes) {
    const dnnl_version_t *version = dnnl_version();
    snprintf(out, bytes, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
}

// The weight is a transposed right-hand side to oneDNN.
bool onednn_f32(const float *weight, int outputs, int columns, const float *x, int rows, float *y, bool accumulate) {
    return dnnl_sgemm('N', 'T', rows, outputs, columns, 1, x, columns, weight, columns, accumulate ? 1 : 0, y,
                      outputs) == dnnl_success;
}
