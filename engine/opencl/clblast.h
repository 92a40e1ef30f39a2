// CLBlast, a library of matrix products for OpenCL devices: looked for when the program runs, and believed only after
// it has given known answers. The engine thread's.
#ifndef ENGINE_OPENCL_CLBLAST_H
#define ENGINE_OPENCL_CLBLAST_H

#include "base/build_id.h"
#include "engine/opencl/api.h"

#include <clblast_c.h>

struct clblast {
    __typeof__(CLBlastSgemmBatched) *sgemm;
    __typeof__(CLBlastHgemmBatched) *hgemm;
    bool half; // numbers are f16, not f32
    char build[BUILD_ID_BYTES]; // which one it is, as its interface for C tells no version; "": nothing tells
};

// c[b] = a[b] times the transposed of b[b], all of them row by row: [rows][outputs] = [rows][columns],
// [outputs][columns]. Where each begins is counted in numbers.
struct clblast_product {
    size_t rows, outputs, columns;
    cl_mem a, b, c;
    const size_t *a_at, *b_at, *c_at; // [count]
    size_t count;                     // 1 or 2
};

// Loads the library. path: NULL is the system's. ERROR_UNSUPPORTED: there is none, or it lacks functions.
int clblast_load(struct clblast *out, const char *path, struct error *error);

// Enqueues a product; done is its event, or NULL.
int clblast_multiply(const struct clblast *clblast, const struct clblast_product *product, cl_command_queue queue,
                     cl_event *done, struct error *error);

// Tries products of this shape in the kind of numbers that clblast->half says. What it has to give: sums as exact as
// f32's or, in f16, no worse than rounding the rows to bf16 would be; and for a row the same bits, however many rows
// there are.
int clblast_known_answers(const struct clblast *clblast, const struct opencl_api *api, cl_context context,
                          cl_command_queue queue, int rows, int outputs, int columns, struct error *error);

#endif
