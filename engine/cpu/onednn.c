#include "engine/cpu/onednn.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_BUCKETS = ONEDNN_ROWS_MAX / ONEDNN_ROW_STEP, NAME_BYTES = 32 };

// One matrix product for a given number of rows, with the memory objects that execution points at its data.
struct product {
    dnnl_primitive_t primitive;
    dnnl_memory_t x, weight, bias, y;
    bool tried; // a product that could not be made is not tried again
};

// Products that differ in the number of rows alone.
struct shape {
    struct shape *next;
    int outputs, columns;
    bool bias, accumulate;
    struct product by_rows[ROW_BUCKETS];
};

struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct shape *shapes;
    bool bf16;
    char name[NAME_BYTES];
};

// ---- What differs between 2.x and 3.x: descriptors by value or by handle, and one step more or less

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t descriptor;

static bool descriptor_create(descriptor *out, dnnl_dim_t rows, dnnl_dim_t columns, dnnl_data_type_t type,
                              dnnl_dim_t row_stride, dnnl_dim_t column_stride) {
    const dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    return dnnl_memory_desc_create_with_strides(out, 2, dims, type, strides) == dnnl_success;
}

static void descriptor_destroy(descriptor *desc) {
    if (*desc) dnnl_memory_desc_destroy(*desc);
}

static bool memory_create(dnnl_memory_t *out, const descriptor *desc, dnnl_engine_t engine) {
    return dnnl_memory_create(out, *desc, engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static bool matmul_create(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const descriptor *x,
                          const descriptor *weight, const descriptor *bias, const descriptor *y,
                          const_dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(out, engine, *x, *weight, bias ? *bias : NULL, *y, attributes) ==
           dnnl_success;
}

static bool append_sum(dnnl_post_ops_t operations) {
    return dnnl_post_ops_append_sum(operations, 1, 0, dnnl_data_type_undef) == dnnl_success;
}
#else
typedef dnnl_memory_desc_t descriptor;

static bool descriptor_create(descriptor *out, dnnl_dim_t rows, dnnl_dim_t columns, dnnl_data_type_t type,
                              dnnl_dim_t row_stride, dnnl_dim_t column_stride) {
    const dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    return dnnl_memory_desc_init_by_strides(out, 2, dims, type, strides) == dnnl_success;
}

static void descriptor_destroy(descriptor *desc) {
    (void)desc; // a value
}

static bool memory_create(dnnl_memory_t *out, const descriptor *desc, dnnl_engine_t engine) {
    return dnnl_memory_create(out, desc, engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static bool matmul_create(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const descriptor *x,
                          const descriptor *weight, const descriptor *bias, const descriptor *y,
                          const_dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t operation;
    return dnnl_matmul_desc_init(&operation, x, weight, bias, y) == dnnl_success &&
           dnnl_primitive_desc_create(out, &operation, attributes, engine, NULL) == dnnl_success;
}

static bool append_sum(dnnl_post_ops_t operations) {
    return dnnl_post_ops_append_sum(operations, 1) == dnnl_success;
}
#endif

// ---- Products

static void product_finish(struct product *product) {
    if (product->primitive) dnnl_primitive_destroy(product->primitive);
    if (product->x) dnnl_memory_destroy(product->x);
    if (product->weight) dnnl_memory_destroy(product->weight);
    if (product->bias) dnnl_memory_destroy(product->bias);
    if (product->y) dnnl_memory_destroy(product->y);
    *product = (struct product){.tried = true};
}

static bool attributes_create(dnnl_primitive_attr_t *out, bool accumulate) {
    if (dnnl_primitive_attr_create(out) != dnnl_success) return false;
    if (!accumulate) return true;
    dnnl_post_ops_t operations = NULL;
    bool ok = dnnl_post_ops_create(&operations) == dnnl_success && append_sum(operations) &&
              dnnl_primitive_attr_set_post_ops(*out, operations) == dnnl_success;
    if (operations) dnnl_post_ops_destroy(operations);
    return ok;
}

// oneDNN's reference implementations are correct and very slow.
static bool is_fast(const_dnnl_primitive_desc_t desc) {
    const char *name = NULL;
    return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name &&
           !strstr(name, "ref");
}

static bool product_create(struct onednn *onednn, const struct shape *shape, int rows, struct product *out) {
    const dnnl_dim_t m = rows, n = shape->outputs, k = shape->columns;
    descriptor x = {0}, weight = {0}, bias = {0}, y = {0};
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t desc = NULL;
    // The weight is [outputs][columns] in memory, a transposed right-hand side to oneDNN.
    bool ok = descriptor_create(&x, m, k, dnnl_bf16, k, 1) && descriptor_create(&weight, k, n, dnnl_bf16, 1, k) &&
              descriptor_create(&bias, 1, n, dnnl_f32, n, 1) && descriptor_create(&y, m, n, dnnl_f32, n, 1) &&
              attributes_create(&attributes, shape->accumulate) &&
              matmul_create(&desc, onednn->engine, &x, &weight, shape->bias ? &bias : NULL, &y, attributes) &&
              is_fast(desc) && dnnl_primitive_create(&out->primitive, desc) == dnnl_success &&
              memory_create(&out->x, &x, onednn->engine) && memory_create(&out->weight, &weight, onednn->engine) &&
              memory_create(&out->bias, &bias, onednn->engine) && memory_create(&out->y, &y, onednn->engine);
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    descriptor_destroy(&y);
    descriptor_destroy(&bias);
    descriptor_destroy(&weight);
    descriptor_destroy(&x);
    if (!ok) product_finish(out);
    out->tried = true;
    return ok;
}

static struct shape *shape_of(struct onednn *onednn, int outputs, int columns, bool bias, bool accumulate) {
    for (struct shape *shape = onednn->shapes; shape; shape = shape->next)
        if (shape->outputs == outputs && shape->columns == columns && shape->bias == bias &&
            shape->accumulate == accumulate)
            return shape;
    struct shape *shape = calloc(1, sizeof *shape);
    if (!shape) return NULL;
    *shape = (struct shape){onednn->shapes, outputs, columns, bias, accumulate, {{0}}};
    onednn->shapes = shape;
    return shape;
}

bool onednn_bf16(struct onednn *onednn, const uint16_t *weight, int outputs, int columns, const float *bias,
                 const uint16_t *x, int rows, float *y, bool accumulate) {
    struct shape *shape = shape_of(onednn, outputs, columns, bias != NULL, accumulate);
    if (!shape) return false;
    struct product *product = &shape->by_rows[rows / ONEDNN_ROW_STEP - 1];
    if (!product->primitive && (product->tried || !product_create(onednn, shape, rows, product))) return false;

    // oneDNN's handles are not const, but it only reads what is an input.
    bool ok = dnnl_memory_set_data_handle(product->x, (void *)(uintptr_t)x) == dnnl_success &&
              dnnl_memory_set_data_handle(product->weight, (void *)(uintptr_t)weight) == dnnl_success &&
              dnnl_memory_set_data_handle(product->bias, (void *)(uintptr_t)bias) == dnnl_success &&
              dnnl_memory_set_data_handle(product->y, y) == dnnl_success;
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, product->x},
        {DNNL_ARG_WEIGHTS, product->weight},
        {DNNL_ARG_DST, product->y},
        {DNNL_ARG_BIAS, product->bias},
    };
    return ok && dnnl_primitive_execute(product->primitive, onednn->stream, bias ? 4 : 3, arguments) == dnnl_success &&
           dnnl_stream_wait(onednn->stream) == dnnl_success;
}

bool onednn_f32(struct onednn *onednn, const float *weight, int outputs, int columns, const float *x, int rows,
                float *y, bool accumulate) {
    (void)onednn;
    return dnnl_sgemm('N', 'T', rows, outputs, columns, 1, x, columns, weight, columns, accumulate ? 1 : 0, y,
                      outputs) == dnnl_success;
}

// ---- Opening

// Without instructions for bf16 oneDNN would imitate them; our own kernels with f32 activations are better.
static bool machine_has_bf16(void) {
#if defined __x86_64__
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return true; // then the trial below decides
#endif
}

int onednn_create(struct onednn **out, struct error *error) {
    struct onednn *onednn = calloc(1, sizeof *onednn);
    if (!onednn) return error_set(error, ERROR_MEMORY, "out of memory for oneDNN");
    if (dnnl_engine_create(&onednn->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags) != dnnl_success) {
        onednn_destroy(onednn);
        return error_set(error, ERROR_INTERNAL, "oneDNN could not create its CPU engine");
    }
    const dnnl_version_t *version = dnnl_version();
    snprintf(onednn->name, sizeof onednn->name, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);

    const struct shape trial = {.outputs = 64, .columns = 64};
    struct product product = {0};
    onednn->bf16 = machine_has_bf16() && product_create(onednn, &trial, ONEDNN_ROWS_MAX, &product);
    product_finish(&product);
    *out = onednn;
    return 0;
}

void onednn_destroy(struct onednn *onednn) {
    if (!onednn) return;
    for (struct shape *shape = onednn->shapes, *next; shape; shape = next) {
        next = shape->next;
        for (int i = 0; i < ROW_BUCKETS; i++) product_finish(&shape->by_rows[i]);
        free(shape);
    }
    if (onednn->stream) dnnl_stream_destroy(onednn->stream);
    if (onednn->engine) dnnl_engine_destroy(onednn->engine);
    free(onednn);
}

const char *onednn_name(const struct onednn *onednn) {
    return onednn->name;
}

bool onednn_has_bf16(const struct onednn *onednn) {
    return onednn->bf16;
}
