// Many rows in bf16: matrix products and experts, on the kernels of bf16.h.
//
// The activations are rounded to bf16 (nearest even, a relative 2^-9 each), the sums are f32, so
// |error| ≤ (2^-9 + columns · 2^-24) Σ|w · x|. Weights come from memory once for each run of rows whose packed
// activations fit into half of a core's second cache; a thread takes its share of the outputs.
#include "engine/cpu/cpu.h"

#include <omp.h>
#include <unistd.h>

enum { GROUPS_MAX = MANY_ROWS / BF16_GROUP };

static int padded(int count, int step) {
    return (count + step - 1) / step * step;
}

// Groups of rows that are multiplied with a weight while it is in the cache.
static int groups_at_once(int columns) {
    long cache_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE); // 0 where the system does not know
    long groups = (cache_bytes > 0 ? cache_bytes / 2 : 1 << 19) / ((long)sizeof(uint16_t) * BF16_GROUP * columns);
    return groups < 2 ? 2 : groups > GROUPS_MAX ? GROUPS_MAX : (int)(groups & ~1l);
}

static const uint16_t *weight_row(const struct matrix *weight, int row) {
    return (const uint16_t *)weight->data + (size_t)row * (size_t)weight->columns;
}

// sum[o][r] of outputs [first, first + count) for `groups` packed groups; `next` is the weight row wanted after that.
static void sums(const struct cpu *cpu, const struct matrix *weight, int first, int count, const uint16_t *x,
                 int groups, const uint16_t *next, struct many_scratch *scratch, int which) {
    size_t stride = (size_t)weight->columns;
    struct bf16_block block = {.weight_stride = stride,
                               .outputs = count,
                               .group_stride = (size_t)padded(weight->columns, BF16_STEP) * BF16_GROUP,
                               .groups = groups,
                               .sum = scratch->sum[which],
                               .sum_stride = MANY_ROWS,
                               .next_stride = stride};
    for (int k = 0; k < weight->columns; k += MANY_COLUMNS) {
        block.weight = weight_row(weight, first) + k;
        block.x = x + (size_t)k * BF16_GROUP;
        block.depth = weight->columns - k < MANY_COLUMNS ? weight->columns - k : MANY_COLUMNS;
        block.add = k > 0;
        block.next = k + MANY_COLUMNS < weight->columns ? block.weight + MANY_COLUMNS : next;
        cpu->bf16->block(&block);
    }
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

// ---- One matrix

static void linear_share(const struct cpu *cpu, const struct linear *linear, struct share outputs, int rows, float *y,
                         bool accumulate, struct many_scratch *scratch) {
    const struct matrix *weight = &linear->weight;
    int at_once = groups_at_once(weight->columns) * BF16_GROUP;
    size_t group_stride = (size_t)padded(weight->columns, BF16_STEP) * BF16_GROUP;
    for (int row = 0; row < rows; row += at_once) {
        int some = smaller(rows - row, at_once);
        for (int o = outputs.first; o < outputs.last; o += BF16_OUTPUTS) {
            int count = smaller(outputs.last - o, BF16_OUTPUTS);
            const uint16_t *next = o + count < outputs.last ? weight_row(weight, o + count) : NULL;
            sums(cpu, weight, o, count, cpu->narrow + (size_t)(row / BF16_GROUP) * group_stride,
                 padded(some, BF16_GROUP) / BF16_GROUP, next, scratch, 0);
            cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum[0],
                                                  .sum_stride = MANY_ROWS,
                                                  .outputs = count,
                                                  .rows = some,
                                                  .bias = linear->bias ? linear->bias + o : NULL,
                                                  .y = y + (size_t)row * (size_t)weight->rows + o,
                                                  .y_stride = (size_t)weight->rows,
                                                  .add = accumulate});
        }
    }
}

void many_linear(struct cpu *cpu, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    const struct matrix *weight = &linear->weight;
    int threads = cpu->limits.threads, groups = padded(rows, BF16_GROUP) / BF16_GROUP;
    size_t columns = (size_t)weight->columns, group_stride = (size_t)padded(weight->columns, BF16_STEP) * BF16_GROUP;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++)
            cpu->bf16->pack(x + (size_t)g * BF16_GROUP * columns, columns, NULL,
                            smaller(rows - g * BF16_GROUP, BF16_GROUP), weight->columns,
                            cpu->narrow + (size_t)g * group_stride);
        cpu->bf16->begin();
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            linear_share(cpu, linear, share_of(weight->rows, part, threads, BF16_OUTPUTS), rows, y, accumulate,
                         &cpu->many[part]);
        cpu->bf16->end();
    }
}

// ---- Experts

static void gate_rows(const struct cpu *cpu, float *gate, const float *up, int outputs, int rows) {
    for (int o = 0; o < outputs; o++)
        cpu->kernels->gate(gate + (size_t)o * MANY_ROWS, up + (size_t)o * MANY_ROWS, (size_t)rows);
}

// Outputs [first, first + BF16_OUTPUTS) of gate and up and the product of both, packed as down's activations.
static void gated(const struct cpu *cpu, const struct expert *expert, const struct expert_rows *rows, int first,
                  struct many_scratch *scratch) {
    int hidden = expert->gate.columns, intermediate = expert->gate.rows;
    int at_once = groups_at_once(hidden) * BF16_GROUP, count = smaller(intermediate - first, BF16_OUTPUTS);
    size_t group_stride = (size_t)padded(hidden, BF16_STEP) * BF16_GROUP;
    size_t gated_stride = (size_t)padded(intermediate, BF16_STEP) * BF16_GROUP;
    const uint16_t *next = first + count < intermediate ? weight_row(&expert->gate, first + count) : NULL;
    for (int row = 0; row < rows->rows; row += at_once) {
        int groups = padded(smaller(rows->rows - row, at_once), BF16_GROUP) / BF16_GROUP;
        size_t group = (size_t)(rows->first + row) / BF16_GROUP;
        const uint16_t *x = cpu->narrow + group * group_stride;
        sums(cpu, &expert->gate, first, count, x, groups, weight_row(&expert->up, first), scratch, 0);
        sums(cpu, &expert->up, first, count, x, groups, next, scratch, 1);
        gate_rows(cpu, scratch->sum[0], scratch->sum[1], count, groups * BF16_GROUP);
        cpu->bf16->pack_sums(scratch->sum[0], MANY_ROWS, count, groups,
                             cpu->narrow_gated + group * gated_stride + (size_t)first * BF16_GROUP, gated_stride);
    }
}

// Outputs [first, last) of all experts' down, added to the rows of y they belong to: a token's two in the order of their
// numbers.
static void added(const struct cpu *cpu, const struct layer *layer, int experts, struct share outputs, float *y,
                  struct many_scratch *scratch) {
    const struct matrix *any = &layer->experts[0].down;
    int at_once = groups_at_once(any->columns) * BF16_GROUP;
    size_t gated_stride = (size_t)padded(any->columns, BF16_STEP) * BF16_GROUP;
    for (int o = outputs.first; o < outputs.last; o += BF16_OUTPUTS) {
        int count = smaller(outputs.last - o, BF16_OUTPUTS);
        for (int i = 0; i < experts; i++) {
            const struct expert_rows *rows = &cpu->expert_rows[i];
            const struct matrix *down = &layer->experts[rows->expert].down;
            const uint16_t *next =
                i + 1 < experts ? weight_row(&layer->experts[cpu->expert_rows[i + 1].expert].down, o) : NULL;
            for (int row = 0; row < rows->rows; row += at_once) {
                int some = smaller(rows->rows - row, at_once), first = rows->first + row;
                sums(cpu, down, o, count, cpu->narrow_gated + (size_t)first / BF16_GROUP * gated_stride,
                     padded(some, BF16_GROUP) / BF16_GROUP, next, scratch, 0);
                cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum[0],
                                                      .sum_stride = MANY_ROWS,
                                                      .outputs = count,
                                                      .rows = some,
                                                      .scale = cpu->sorted_weight + first,
                                                      .row = cpu->sorted_token + first,
                                                      .y = y + o,
                                                      .y_stride = (size_t)down->rows,
                                                      .add = true});
            }
        }
    }
}

// Rows of one group of the sorted ones that are there: the rest is padding.
static int rows_of_group(const struct cpu *cpu, int first) {
    int rows = 0;
    while (rows < BF16_GROUP && cpu->sorted_token[first + rows] >= 0) rows++;
    return rows;
}

void many_experts(struct cpu *cpu, const struct layer *layer, int experts, const float *x, float *y) {
    const struct expert *any = &layer->experts[0];
    const struct expert_rows *last = &cpu->expert_rows[experts - 1];
    int hidden = any->gate.columns, threads = cpu->limits.threads;
    int groups = (last->first + padded(last->rows, BF16_GROUP)) / BF16_GROUP;
    int blocks = padded(any->gate.rows, BF16_OUTPUTS) / BF16_OUTPUTS, units = experts * blocks; // of gate and up
    size_t group_stride = (size_t)padded(hidden, BF16_STEP) * BF16_GROUP;
#pragma omp parallel num_threads(threads)
    {
        struct many_scratch *scratch = &cpu->many[omp_get_thread_num()];
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++)
            cpu->bf16->pack(x, (size_t)hidden, cpu->sorted_token + g * BF16_GROUP, rows_of_group(cpu, g * BF16_GROUP),
                            hidden, cpu->narrow + (size_t)g * group_stride);
        cpu->bf16->begin();
#pragma omp for schedule(dynamic, 4)
        for (int unit = 0; unit < units; unit++)
            gated(cpu, &layer->experts[cpu->expert_rows[unit / blocks].expert], &cpu->expert_rows[unit / blocks],
                  unit % blocks * BF16_OUTPUTS, scratch);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            added(cpu, layer, experts, share_of(hidden, part, threads, BF16_OUTPUTS), y, scratch);
        cpu->bf16->end();
    }
}
