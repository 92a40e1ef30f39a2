// Matrix products, six ways:
// - few rows, and those of answers: dot products on our own kernels, f32 activations and f32 or bf16 weights, each
//   weight read once; weights of bf16 on a machine that multiplies tiles of it: see thirds.h;
// - many rows, f32 weights: oneDNN's sgemm;
// - many rows, bf16 weights, a machine with bf16 instructions: activations in bf16, see many.c;
// - int8 and int4 weights: activations in int8, see packed.c; but rows of prompts, or many, on a machine that
//   multiplies tiles of bf16: weights unpacked to bf16 and activations in bf16, see many.c;
// - many rows without any of that: pieces of the weight, widened and transposed into the cache, times f32
//   activations on our own kernel.
#include "engine/cpu/cpu.h"
#include "engine/quants/packed.h"

#include <omp.h>
#include <string.h>

enum matmul_way matmul_way(const struct cpu *cpu, enum weight_format format, int rows) {
    bool few = cpu_takes_few(cpu, rows);
    if (weight_format_packed(format)) return few || !cpu->tiles ? MATMUL_PACKED : MATMUL_BF16;
    if (few) return format == WEIGHTS_BF16 && cpu->tiles ? MATMUL_THIRDS : MATMUL_DOTS;
    switch (format) {
    case WEIGHTS_F32:
        return cpu->onednn ? MATMUL_SGEMM : MATMUL_PANELS;
    case WEIGHTS_BF16:
        return cpu->bf16 ? MATMUL_BF16 : MATMUL_PANELS;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        break;
    }
    return MATMUL_PANELS;
}

// ---- Weights

static const void *weight_at(const struct matrix *matrix, int row, int column) {
    size_t index = (size_t)row * (size_t)matrix->columns + (size_t)column;
    return (const char *)matrix->data + index * weight_format_bytes(matrix->format, 1, 1);
}

void matmul_weights(const struct cpu *cpu, const struct matrix *matrix, int row, int column, size_t count, float *to) {
    switch (matrix->format) {
    case WEIGHTS_F32:
        memcpy(to, weight_at(matrix, row, column), count * sizeof *to);
        break;
    case WEIGHTS_BF16:
        cpu->kernels->widen(weight_at(matrix, row, column), to, count);
        break;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        packed_row(matrix->format, matrix->data, matrix->columns, row, column, count, to);
        break;
    }
}

// ---- Dealing out

struct deal products_deal(const struct cpu *cpu, const struct products *p) {
    int strips = 0;
    for (int i = 0; i < p->count; i++) strips += strips_of(&p->linears[i]->weight);
    return deal_of(strips, cpu->limits.threads, strips_in(SHARE_BYTES, &p->linears[0]->weight));
}

int products_cut(const struct products *p, struct share *strips, struct share *outputs) {
    int i = 0, before = 0; // strips of the matrices in front
    for (; strips->first - before >= strips_of(&p->linears[i]->weight); i++)
        before += strips_of(&p->linears[i]->weight);
    const struct matrix *weight = &p->linears[i]->weight;
    int end = before + strips_of(weight) < strips->last ? before + strips_of(weight) : strips->last;
    *outputs = (struct share){(strips->first - before) * STRIP, (end - before) * STRIP};
    if (outputs->last > weight->rows) outputs->last = weight->rows;
    strips->first = end;
    return i;
}

bool products_shared(const struct products *p) {
    int64_t outputs = 0;
    for (int i = 0; i < p->count; i++) outputs += p->linears[i]->weight.rows;
    return worth_sharing(outputs * p->linears[0]->weight.columns * p->rows);
}

// ---- Few rows

void matmul_dots(const struct cpu *cpu, const struct dot *dot, enum weight_format format, struct share outputs) {
    if (outputs.first == outputs.last) return;
    struct matrix weight = {format, dot->outputs, dot->columns, dot->weight};
    struct dot part = *dot;
    part.weight = weight_at(&weight, outputs.first, 0);
    part.outputs = outputs.last - outputs.first;
    part.y += outputs.first;
    if (part.bias) part.bias += outputs.first;
    switch (format) {
    case WEIGHTS_F32:
        cpu->kernels->dot_f32(&part);
        break;
    case WEIGHTS_BF16:
        cpu->kernels->dot_bf16(&part);
        break;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        break;
    }
}

static void dots(const struct cpu *cpu, const struct products *p) {
    struct deal deal = products_deal(cpu, p);
#pragma omp parallel num_threads(cpu->limits.threads) if (products_shared(p))
    for (struct share some = deal_take(&deal), outputs; some.first < some.last; some = deal_take(&deal))
        while (some.first < some.last) {
            int i = products_cut(p, &some, &outputs);
            const struct linear *linear = p->linears[i];
            const struct matrix *weight = &linear->weight;
            const struct dot dot = {weight->data,         weight->rows, weight->columns, p->x, p->rows, p->y[i],
                                    (size_t)weight->rows, linear->bias, p->accumulate, 0};
            matmul_dots(cpu, &dot, weight->format, outputs);
        }
}

void matmul_thirds(const struct linear *linear, struct share outputs, const uint16_t *x, int rows, float *y,
                   bool accumulate, const uint16_t *next) {
    const struct matrix *weight = &linear->weight;
    thirds_multiply(&(struct thirds_dot){.weight = weight_at(weight, outputs.first, 0),
                                         .outputs = outputs.last - outputs.first,
                                         .columns = weight->columns,
                                         .x = x,
                                         .rows = rows,
                                         .y = y + outputs.first,
                                         .y_stride = (size_t)weight->rows,
                                         .bias = linear->bias ? linear->bias + outputs.first : NULL,
                                         .accumulate = accumulate,
                                         .next = next});
}

static void thirds(struct cpu *cpu, const struct products *p) {
    int columns = p->linears[0]->weight.columns;
    const struct thirds_rows rows = {p->x, (size_t)columns, NULL, p->rows, columns, cpu->thirds};
    struct deal deal = products_deal(cpu, p);
#pragma omp parallel num_threads(cpu->limits.threads) if (products_shared(p))
    {
        thirds_pack(&rows, omp_get_thread_num(), omp_get_num_threads());
#pragma omp barrier
        for (struct share some = deal_take(&deal), outputs; some.first < some.last; some = deal_take(&deal))
            while (some.first < some.last) {
                int i = products_cut(p, &some, &outputs);
                matmul_thirds(p->linears[i], outputs, cpu->thirds, p->rows, p->y[i], p->accumulate, NULL);
            }
    }
}

// ---- Many rows

static void add_bias(const struct cpu *cpu, const float *bias, float *y, int rows, int outputs) {
    bool shared = worth_sharing((int64_t)rows * outputs * ELEMENT_WORK);
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (shared)
    for (int r = 0; r < rows; r++) cpu->kernels->add_scaled(y + (size_t)r * (size_t)outputs, bias, 1, (size_t)outputs);
}

// Few rows are filled up to as many as oneDNN computes like all others; what is in the rest does not matter.
static bool sgemm_filled(struct cpu *cpu, const struct matrix *weight, const float *x, float *y, int rows,
                         bool accumulate) {
    size_t x_bytes = (size_t)rows * (size_t)weight->columns * sizeof *x;
    size_t y_bytes = (size_t)rows * (size_t)weight->rows * sizeof *y;
    memcpy(cpu->filled_x, x, x_bytes);
    memset((char *)cpu->filled_x + x_bytes, 0, (SGEMM_ROWS_MIN * (size_t)weight->columns) * sizeof *x - x_bytes);
    memset(cpu->filled_y, 0, SGEMM_ROWS_MIN * (size_t)weight->rows * sizeof *y);
    if (accumulate) memcpy(cpu->filled_y, y, y_bytes);
    if (!onednn_f32(weight->data, weight->rows, weight->columns, cpu->filled_x, SGEMM_ROWS_MIN, cpu->filled_y,
                    accumulate))
        return false;
    memcpy(y, cpu->filled_y, y_bytes);
    return true;
}

static bool sgemm(struct cpu *cpu, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    const struct matrix *weight = &linear->weight;
    omp_set_num_threads(cpu->limits.threads);
    bool done = rows < SGEMM_ROWS_MIN ? sgemm_filled(cpu, weight, x, y, rows, accumulate)
                                      : onednn_f32(weight->data, weight->rows, weight->columns, x, rows, y, accumulate);
    if (!done) return false;
    if (linear->bias) add_bias(cpu, linear->bias, y, rows, weight->rows);
    return true;
}

// panel[k][o] = W[first_output + o][first_column + k]
static void fill_panel(const struct cpu *cpu, const struct matrix *weight, int first_output, int outputs,
                       int first_column, int depth, float *panel) {
    if (weight->format == WEIGHTS_F32) { // as they lie
        cpu->kernels->transpose(weight_at(weight, first_output, first_column), (size_t)weight->columns, outputs, depth,
                                panel, PANEL_OUTPUTS);
        return;
    }
    float *four = panel + PANEL_DEPTH * PANEL_OUTPUTS; // [4][depth] rows, widened
    for (int o = 0; o < outputs; o += 4) {
        int rows = outputs - o < 4 ? outputs - o : 4;
        for (int r = 0; r < rows; r++)
            matmul_weights(cpu, weight, first_output + o + r, first_column, (size_t)depth,
                           four + (size_t)r * PANEL_DEPTH);
        cpu->kernels->transpose(four, PANEL_DEPTH, rows, depth, panel + o, PANEL_OUTPUTS);
    }
}

// All rows of up to PANEL_OUTPUTS outputs.
static void panel_outputs(const struct cpu *cpu, const struct linear *linear, int first, const float *x, float *y,
                          int rows, bool accumulate, float *panel) {
    const struct matrix *weight = &linear->weight;
    int outputs = weight->rows - first < PANEL_OUTPUTS ? weight->rows - first : PANEL_OUTPUTS;
    size_t y_stride = (size_t)weight->rows, x_stride = (size_t)weight->columns;
    for (int r = 0; r < rows; r++) {
        float *to = y + (size_t)r * y_stride + first;
        for (int o = 0; o < outputs; o++)
            to[o] = (accumulate ? to[o] : 0) + (linear->bias ? linear->bias[first + o] : 0);
    }
    for (int k = 0; k < weight->columns; k += PANEL_DEPTH) {
        int depth = weight->columns - k < PANEL_DEPTH ? weight->columns - k : PANEL_DEPTH;
        fill_panel(cpu, weight, first, outputs, k, depth, panel);
        cpu->kernels->product(&(struct product){.a = x + k,
                                                .a_stride = x_stride,
                                                .b = panel,
                                                .b_stride = PANEL_OUTPUTS,
                                                .c = y + first,
                                                .c_stride = y_stride,
                                                .rows = rows,
                                                .depth = depth,
                                                .columns = outputs});
    }
}

static void panels(struct cpu *cpu, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    int blocks = (linear->weight.rows + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS;
    bool shared = worth_sharing((int64_t)rows * linear->weight.rows * linear->weight.columns);
#pragma omp parallel for schedule(dynamic) num_threads(cpu->limits.threads) if (shared)
    for (int block = 0; block < blocks; block++)
        panel_outputs(cpu, linear, block * PANEL_OUTPUTS, x, y, rows, accumulate,
                      cpu->panel + (size_t)omp_get_thread_num() * PANEL_FLOATS);
}

static void multiply_one(struct cpu *cpu, enum matmul_way way, const struct linear *linear, const float *x, float *y,
                         int rows, bool accumulate) {
    if (way != MATMUL_SGEMM || !sgemm(cpu, linear, x, y, rows, accumulate))
        panels(cpu, linear, x, y, rows, accumulate);
}

void matmul(struct cpu *cpu, const struct products *p) {
    enum matmul_way way = matmul_way(cpu, p->linears[0]->weight.format, p->rows);
    switch (way) {
    case MATMUL_DOTS:
        dots(cpu, p);
        break;
    case MATMUL_THIRDS:
        thirds(cpu, p);
        break;
    case MATMUL_PACKED:
        packed_products(cpu, p);
        break;
    case MATMUL_BF16:
        many_products(cpu, p);
        break;
    case MATMUL_SGEMM:
    case MATMUL_PANELS:
        for (int i = 0; i < p->count; i++)
            multiply_one(cpu, way, p->linears[i], p->x, p->y[i], p->rows, p->accumulate);
        break;
    }
}
