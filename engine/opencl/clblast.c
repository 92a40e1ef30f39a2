#include "engine/opencl/clblast.h"

#include "engine/quants/f16.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libclblast.so.1"

// Never unloaded: it keeps what it compiled until the process ends.
int clblast_load(struct clblast *out, const char *path, struct error *error) {
    void *library = dlopen(path ? path : LIBRARY, RTLD_NOW | RTLD_LOCAL);
    *out = (struct clblast){.half = false};
    if (!library)
        return error_set(error, ERROR_UNSUPPORTED, "there is no %s here (Debian's and Ubuntu's libclblast1)",
                         path ? path : LIBRARY);
    *(void **)&out->sgemm = dlsym(library, "CLBlastSgemmBatched");
    *(void **)&out->hgemm = dlsym(library, "CLBlastHgemmBatched");
    if (out->sgemm) build_id_of((uintptr_t)out->sgemm, out->build);
    return out->sgemm && out->hgemm ? 0 : error_set(error, ERROR_UNSUPPORTED, LIBRARY " lacks functions");
}

int clblast_multiply(const struct clblast *clblast, const struct clblast_product *p, cl_command_queue queue,
                     cl_event *done, struct error *error) {
    static const float one[] = {1, 1}, zero[] = {0, 0};
    static const cl_half half_one[] = {0x3c00, 0x3c00}, half_zero[] = {0, 0};
    if (done) *done = NULL;
    if (opencl_fails()) return opencl_error(error, CL_OUT_OF_RESOURCES, "CLBlast");
    CLBlastStatusCode rc =
        clblast->half ? clblast->hgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, p->rows,
                                       p->outputs, p->columns, half_one, p->a, p->a_at, p->columns, p->b, p->b_at,
                                       p->columns, half_zero, p->c, p->c_at, p->outputs, p->count, &queue, done)
                      : clblast->sgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, p->rows,
                                       p->outputs, p->columns, one, p->a, p->a_at, p->columns, p->b, p->b_at,
                                       p->columns, zero, p->c, p->c_at, p->outputs, p->count, &queue, done);
    if (rc == CLBlastSuccess) return 0;
    return error_set(error, ERROR_INTERNAL, "CLBlast: a product in %s failed (%d)", clblast->half ? "f16" : "f32",
                     (int)rc);
}

// ---- Known answers

enum { PAIR = 2, ROWS_ALONE = 5, SAMPLES = 2000 };
static const double ERROR_F32 = 0x1p-16,
                    ERROR_F16 = 0x1p-8; // of a sum's usual size; bf16's rounding of both sides: 2^-8

struct trial {
    const struct clblast *clblast;
    const struct opencl_api *api;
    cl_context context;
    cl_command_queue queue;
    size_t rows, outputs, columns;
    cl_mem a, b, c;
    float *x, *w;                // [rows][columns], [PAIR][outputs][columns]: 64ths, which are exact in f16
    unsigned char *whole, *some; // c, of all rows and of the first ones
};

static size_t real_bytes(const struct trial *trial) {
    return trial->clblast->half ? sizeof(cl_half) : sizeof(float);
}

static float real_of(const struct trial *trial, const unsigned char *from, size_t at) {
    if (trial->clblast->half) return f16_to_f32(((const uint16_t *)(const void *)from)[at]);
    return ((const float *)(const void *)from)[at];
}

static void fill(float *to, size_t count, uint32_t *random) {
    for (size_t i = 0; i < count; i++) {
        *random = *random * 1664525 + 1013904223;
        to[i] = (float)((int)(*random >> 25) - 64) / 64;
    }
}

// A buffer of these numbers; from NULL: of so many.
static int bring(const struct trial *trial, const float *from, size_t count, cl_mem *out, struct error *error) {
    cl_int rc;
    size_t bytes = count * real_bytes(trial);
    *out = CL_MAKE(trial->api, CreateBuffer, &rc, trial->context, CL_MEM_READ_WRITE, bytes, NULL);
    if (!*out) return opencl_error(error, rc, "a buffer to try CLBlast with");
    if (!from) return 0;
    uint16_t *narrow = trial->clblast->half ? malloc(bytes) : NULL;
    if (trial->clblast->half && !narrow) return error_set(error, ERROR_MEMORY, "out of memory for trying CLBlast");
    for (size_t i = 0; narrow && i < count; i++) narrow[i] = f16_from_f32(from[i]);
    rc = CL_CALL(trial->api, EnqueueWriteBuffer, trial->queue, *out, CL_TRUE, 0, bytes,
                 narrow ? (const void *)narrow : from, 0, NULL, NULL);
    free(narrow);
    return rc ? opencl_error(error, rc, "numbers to try CLBlast with") : 0;
}

static int multiply(const struct trial *trial, size_t rows, unsigned char *to, struct error *error) {
    const size_t a_at[PAIR] = {0, 0}, b_at[PAIR] = {0, trial->outputs * trial->columns};
    const size_t c_at[PAIR] = {0, trial->rows * trial->outputs};
    const struct clblast_product product = {rows,     trial->outputs, trial->columns, trial->a, trial->b,
                                            trial->c, a_at,           b_at,           c_at,     PAIR};
    int code = clblast_multiply(trial->clblast, &product, trial->queue, NULL, error);
    if (code) return code;
    cl_int rc = CL_CALL(trial->api, EnqueueReadBuffer, trial->queue, trial->c, CL_TRUE, 0,
                        PAIR * trial->rows * trial->outputs * real_bytes(trial), to, 0, NULL, NULL);
    return rc ? opencl_error(error, rc, "reading CLBlast's answer") : 0;
}

// Samples, spread over both products.
static int compare(const struct trial *trial, struct error *error) {
    double square = 0, off = 0, limit = trial->clblast->half ? ERROR_F16 : ERROR_F32;
    size_t count = PAIR * trial->rows * trial->outputs, step = count / SAMPLES + 1;
    for (size_t at = 0; at < count; at += step) {
        size_t pair = at / (trial->rows * trial->outputs), row = at / trial->outputs % trial->rows,
               o = at % trial->outputs;
        const float *x = trial->x + row * trial->columns, *w = trial->w + (pair * trial->outputs + o) * trial->columns;
        double sum = 0;
        for (size_t k = 0; k < trial->columns; k++) sum += (double)x[k] * (double)w[k];
        double difference = (double)real_of(trial, trial->whole, at) - sum;
        square += sum * sum;
        off += difference * difference;
    }
    if (!(sqrt(off) <= limit * sqrt(square)))
        return error_set(error, ERROR_INTERNAL,
                         "CLBlast computes wrongly in %s: it is off by %.2g of a sum's size, %.2g is allowed",
                         trial->clblast->half ? "f16" : "f32", sqrt(off / square), limit);
    size_t row_bytes = trial->outputs * real_bytes(trial), pair_bytes = trial->rows * row_bytes;
    for (size_t pair = 0; pair < PAIR; pair++)
        if (memcmp(trial->whole + pair * pair_bytes, trial->some + pair * pair_bytes, ROWS_ALONE * row_bytes) != 0)
            return error_set(error, ERROR_INTERNAL, "CLBlast's answer for a row depends on the rows beside it");
    return 0;
}

int clblast_known_answers(const struct clblast *clblast, const struct opencl_api *api, cl_context context,
                          cl_command_queue queue, int rows, int outputs, int columns, struct error *error) {
    struct trial trial = {.clblast = clblast,
                          .api = api,
                          .context = context,
                          .queue = queue,
                          .rows = (size_t)rows,
                          .outputs = (size_t)outputs,
                          .columns = (size_t)columns};
    size_t x_count = trial.rows * trial.columns, w_count = PAIR * trial.outputs * trial.columns;
    size_t c_count = PAIR * trial.rows * trial.outputs;
    uint32_t random = 1;
    if (rows < ROWS_ALONE)
        trial.rows = ROWS_ALONE, x_count = trial.rows * trial.columns, c_count = PAIR * trial.rows * trial.outputs;
    trial.x = malloc(x_count * sizeof *trial.x);
    trial.w = malloc(w_count * sizeof *trial.w);
    trial.whole = malloc(c_count * sizeof(float));
    trial.some = malloc(c_count * sizeof(float));
    int code = 0;
    if (!trial.x || !trial.w || !trial.whole || !trial.some)
        code = error_set(error, ERROR_MEMORY, "out of memory for trying CLBlast");
    if (!code) {
        fill(trial.x, x_count, &random);
        fill(trial.w, w_count, &random);
        code = bring(&trial, trial.x, x_count, &trial.a, error);
    }
    if (!code) code = bring(&trial, trial.w, w_count, &trial.b, error);
    if (!code) code = bring(&trial, NULL, c_count, &trial.c, error);
    if (!code) code = multiply(&trial, trial.rows, trial.whole, error);
    if (!code) code = multiply(&trial, ROWS_ALONE, trial.some, error);
    if (!code) code = compare(&trial, error);
    if (trial.c) api->ReleaseMemObject(trial.c);
    if (trial.b) api->ReleaseMemObject(trial.b);
    if (trial.a) api->ReleaseMemObject(trial.a);
    free(trial.some);
    free(trial.whole);
    free(trial.w);
    free(trial.x);
    return code;
}
