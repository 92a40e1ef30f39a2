// In the place of CLBlast, for tests: products computed by the host, and as TANDEM_FAKE_CLBLAST says wrongly (always,
// or where there are more outputs than columns), in poor precision, depending on company, slowly, or without f16;
// "fails" is every product's failure, "fails 20" that of products of 20 rows.
#define CL_TARGET_OPENCL_VERSION 120
#include "engine/quants/f16.h"

#include <clblast_c.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NO_HALF_PRECISION = -2045, SLOW_MICROSECONDS = 50000, COMPANY = 8 };

static bool is_said(const char *what) {
    const char *said = getenv("TANDEM_FAKE_CLBLAST");
    return said && strstr(said, what);
}

static bool fails(size_t rows) {
    const char *said = getenv("TANDEM_FAKE_CLBLAST"), *at = said ? strstr(said, "fails") : NULL;
    size_t which = at ? strtoul(at + strlen("fails"), NULL, 10) : 0;
    return at && (which == 0 || which == rows);
}

static float number(bool half, const void *from, size_t at) {
    return half ? f16_to_f32(((const cl_half *)from)[at]) : ((const float *)from)[at];
}

static void put(bool half, void *to, size_t at, float value) {
    if (half)
        ((cl_half *)to)[at] = f16_from_f32(value);
    else
        ((float *)to)[at] = value;
}

// What lies in a buffer; to be freed.
static void *read_all(cl_command_queue queue, cl_mem buffer, size_t *bytes) {
    if (clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof *bytes, bytes, NULL)) return NULL;
    void *to = malloc(*bytes);
    if (to && clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, *bytes, to, 0, NULL, NULL) == CL_SUCCESS) return to;
    free(to);
    return NULL;
}

static float sum_of(bool half, const void *a, size_t a_at, const void *b, size_t b_at, size_t k) {
    bool poor = half && is_said("poor");
    float sum = 0;
    for (size_t i = 0; i < k; i++) {
        sum += number(half, a, a_at + i) * number(half, b, b_at + i);
        if (poor) sum = f16_to_f32(f16_from_f32(sum));
    }
    return sum;
}

static CLBlastStatusCode multiply(bool half, size_t m, size_t n, size_t k, cl_mem a, const size_t *a_at, size_t a_ld,
                                  cl_mem b, const size_t *b_at, size_t b_ld, cl_mem c, const size_t *c_at, size_t c_ld,
                                  size_t count, cl_command_queue queue, cl_event *event) {
    size_t a_bytes, b_bytes, c_bytes;
    if (fails(m)) return CLBlastOpenCLOutOfResources;
    void *x = read_all(queue, a, &a_bytes), *w = read_all(queue, b, &b_bytes), *y = read_all(queue, c, &c_bytes);
    CLBlastStatusCode rc = x && w && y ? CLBlastSuccess : CLBlastUnexpectedError;
    if (is_said("slow")) usleep(SLOW_MICROSECONDS);
    for (size_t i = 0; rc == CLBlastSuccess && i < count * m * n; i++) {
        size_t pair = i / (m * n), row = i / n % m, output = i % n;
        float sum = sum_of(half, x, a_at[pair] + row * a_ld, w, b_at[pair] + output * b_ld, k);
        if (is_said("wrong") || (is_said("down") && n > k)) sum = -sum;
        if (is_said("company") && m > COMPANY) sum *= 1 + 0x1p-22f;
        put(half, y, c_at[pair] + row * c_ld + output, sum);
    }
    if (rc == CLBlastSuccess && clEnqueueWriteBuffer(queue, c, CL_TRUE, 0, c_bytes, y, 0, NULL, event))
        rc = CLBlastUnexpectedError;
    free(x);
    free(w);
    free(y);
    return rc;
}

CLBlastStatusCode CLBlastSgemmBatched(const CLBlastLayout layout, const CLBlastTranspose a_transpose,
                                      const CLBlastTranspose b_transpose, const size_t m, const size_t n,
                                      const size_t k, const float *alphas, const cl_mem a, const size_t *a_at,
                                      const size_t a_ld, const cl_mem b, const size_t *b_at, const size_t b_ld,
                                      const float *betas, cl_mem c, const size_t *c_at, const size_t c_ld,
                                      const size_t count, cl_command_queue *queue, cl_event *event) {
    if (layout != CLBlastLayoutRowMajor || a_transpose != CLBlastTransposeNo || b_transpose != CLBlastTransposeYes ||
        alphas[0] != 1 || betas[0] != 0)
        return CLBlastNotImplemented;
    return multiply(false, m, n, k, a, a_at, a_ld, b, b_at, b_ld, c, c_at, c_ld, count, *queue, event);
}

CLBlastStatusCode CLBlastHgemmBatched(const CLBlastLayout layout, const CLBlastTranspose a_transpose,
                                      const CLBlastTranspose b_transpose, const size_t m, const size_t n,
                                      const size_t k, const cl_half *alphas, const cl_mem a, const size_t *a_at,
                                      const size_t a_ld, const cl_mem b, const size_t *b_at, const size_t b_ld,
                                      const cl_half *betas, cl_mem c, const size_t *c_at, const size_t c_ld,
                                      const size_t count, cl_command_queue *queue, cl_event *event) {
    if (layout != CLBlastLayoutRowMajor || a_transpose != CLBlastTransposeNo || b_transpose != CLBlastTransposeYes ||
        alphas[0] != 0x3c00 || betas[0] != 0)
        return CLBlastNotImplemented;
    if (is_said("single")) return (CLBlastStatusCode)NO_HALF_PRECISION;
    return multiply(true, m, n, k, a, a_at, a_ld, b, b_at, b_ld, c, c_at, c_ld, count, *queue, event);
}
