// Many rows in bf16: matrix products and experts, on the kernels of bf16.h.
//
// The activations are rounded to bf16 (nearest even, a relative 2^-9 each), the sums are f32, so
// |error| ≤ (2^-9 + columns · 2^-24) Σ|w · x|. A sum is added up from the first column to the last, whatever is beside
// it. A thread takes its share of the outputs.
//
// Weights that can be multiplied where they lie are read in their whole length, sixteen outputs side by side, for up to
// BF16_PASS_GROUPS groups of rows, which stay in a core's second cache while the sums stay in registers. That reads the
// weights again for every so many rows, but in sixteen straight streams that the processor fetches ahead of by itself,
// as it cannot where a row of weights is come back to for one piece after the other. (Asking for them by instruction
// goes through the sixteen fill buffers of the first cache, which the rows need too: 9 GB/s a core, instead of 15.) All
// else goes through panels of some columns, each for up to GROUPS_MAX groups at once; there the sums of many outputs
// lie in the second cache.
//
// Weights of int8 and int4 are unpacked and rounded to bf16, a panel at a time, which costs as much as multiplying it
// with 60 rows, and spares the scales of groups and all that depends on them between the tiles' products.
#include "engine/cpu/cpu.h"

#include "base/smaller.h"

#include <omp.h>
#include <string.h>
#include <unistd.h>

enum {
    CACHE_BYTES = 1 << 20, // of the second cache, where the system does not know
    GROUPS_MAX = 32,       // that are multiplied with a panel
    UNPACKED_DEPTH = 256, // columns of a panel of int8 or int4, all of which goes through the first cache with the rows
    LINE_BYTES = 64,
    STREAM_BYTES = 4096, // a row of so many is a stream that the processor fetches ahead of
    UNIT_OUTPUTS = 128,  // of gate and of up, that a thread takes at once
};

static int padded(int count, int step) {
    return (count + step - 1) / step * step;
}

static size_t group_stride(int columns) {
    return (size_t)padded(columns, BF16_STEP) * BF16_GROUP;
}

static long cache_bytes(void) {
    long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? bytes : CACHE_BYTES;
}

// Outputs whose sums for so many groups of rows stay in half of the second cache: the more, the less often the rows
// come from the third.
static int outputs_that_fit(int groups) {
    long floats = cache_bytes() / 2 / (long)sizeof(float);
    long outputs = (floats < MANY_SUMS ? floats : MANY_SUMS) / (groups * BF16_GROUP);
    return outputs < BF16_OUTPUTS ? BF16_OUTPUTS : (int)outputs / BF16_OUTPUTS * BF16_OUTPUTS;
}

// Whether a matrix is multiplied where it lies: ragged ends need a panel's zeros.
static bool lies_well(const struct matrix *weight) {
    return !weight_format_packed(weight->format) && weight->rows % BF16_OUTPUTS_STEP == 0 &&
           weight->columns % BF16_STEP == 0;
}

// Outputs to go on with until the columns end, for so many groups of rows, or else `most`: few where the weights are
// read in straight streams, which pays as long as the rows stay in the second cache.
static int outputs_at_once(const struct matrix *weight, int groups, int most) {
    bool straight = lies_well(weight) || (weight_format_packed(weight->format) && groups <= BF16_PASS_GROUPS);
    return straight ? BF16_OUTPUTS : most;
}

// ---- Rows

struct rows_part {
    int first, rows, groups; // begin with a group
};

// Into how many parts so many rows are cut, all of one size, give or take a group.
static int row_parts(const struct matrix *weight, int rows) {
    int groups = padded(rows, BF16_GROUP) / BF16_GROUP, most = lies_well(weight) ? BF16_PASS_GROUPS : GROUPS_MAX;
    return (groups + most - 1) / most;
}

static struct rows_part row_part(int rows, int part, int parts) {
    struct share groups = share_of(padded(rows, BF16_GROUP) / BF16_GROUP, part, parts, 1);
    int first = groups.first * BF16_GROUP;
    return (struct rows_part){first, smaller(groups.last * BF16_GROUP, rows) - first, groups.last - groups.first};
}

// ---- Products of one thread

// Some outputs of a matrix for some groups of rows; the sums of group g lie at sum + g * sum_stride.
struct many_product {
    const struct matrix *weight;
    int first, outputs;
    float *sum;
    const uint16_t *x; // packed
    int groups;
    size_t sum_stride;
};

// Rows of a matrix, and some columns of them: what a block multiplies.
struct panel {
    const struct matrix *weight; // NULL: none
    int row, rows, column, depth;
};

// In int8 and int4 rows and columns are those that a block begins with: panels are as high and wide as several.
static const void *weight_at(const struct matrix *weight, int row, int column) {
    const char *data = weight->data;
    if (weight_format_packed(weight->format))
        return data + weight_format_bytes(weight->format, row, weight->columns) +
               weight_format_bytes(weight->format, 1, column);
    return data + ((size_t)row * (size_t)weight->columns + (size_t)column) * sizeof(uint16_t);
}

// The one that begins there, where outputs end with `end`.
static struct panel panel_at(const struct matrix *weight, int row, int end, int column) {
    bool whole = lies_well(weight);
    int depth = weight_format_packed(weight->format) ? UNPACKED_DEPTH : BF16_DEPTH;
    int rows = whole ? BF16_OUTPUTS_STEP : BF16_OUTPUTS;
    return (struct panel){weight, row, smaller(end - row, rows), column,
                          whole ? weight->columns : smaller(weight->columns - column, depth)};
}

static struct panel first_panel(const struct many_product *product) {
    return panel_at(product->weight, product->first, product->first + product->outputs, 0);
}

// Without a weight after the last one.
static struct panel next_panel(const struct many_product *product, const struct panel *now) {
    int row = now->row + now->rows, column = now->column, end = product->first + product->outputs;
    if (row == end) {
        row = product->first;
        column += now->depth;
    }
    if (column == product->weight->columns) return (struct panel){0};
    return panel_at(product->weight, row, end, column);
}

static struct bf16_next next_of(const struct panel *panel) {
    if (!panel->weight || weight_format_packed(panel->weight->format) ||
        panel->depth * (int)sizeof(uint16_t) >= STREAM_BYTES)
        return (struct bf16_next){0};
    int bytes = panel->depth * (int)sizeof(uint16_t);
    return (struct bf16_next){weight_at(panel->weight, panel->row, panel->column),
                              (size_t)panel->weight->columns * sizeof(uint16_t), panel->rows,
                              (bytes + LINE_BYTES - 1) / LINE_BYTES};
}

// `after`: what the next product will begin with.
static void multiply(const struct cpu *cpu, const struct many_product *product, struct panel after,
                     struct many_scratch *scratch) {
    const struct matrix *weight = product->weight;
    for (struct panel now = first_panel(product), then; now.weight; now = then) {
        then = next_panel(product, &now);
        struct bf16_block block = {.weight = weight_at(weight, now.row, now.column),
                                   .weight_stride = (size_t)weight->columns,
                                   .step_stride = BF16_STEP,
                                   .outputs = now.rows,
                                   .steps = padded(now.depth, BF16_STEP) / BF16_STEP,
                                   .x = product->x + (size_t)now.column * BF16_GROUP,
                                   .group_stride = group_stride(weight->columns),
                                   .groups = product->groups,
                                   .sum = product->sum + (size_t)(now.row - product->first) * BF16_GROUP,
                                   .sum_stride = product->sum_stride,
                                   .add = now.column > 0,
                                   .next = next_of(then.weight ? &then : &after)};
        if (!lies_well(weight)) {
            if (weight_format_packed(weight->format))
                cpu->bf16->unpack(weight->format, block.weight, weight->columns, now.rows, now.depth, scratch->panel);
            else
                cpu->bf16->panel(block.weight, block.weight_stride, now.rows, now.depth, scratch->panel);
            block.weight = scratch->panel;
            block.weight_stride = BF16_STEP;
            block.step_stride = BF16_PANEL_STEP;
        }
        cpu->bf16->block(&block);
    }
}

// ---- Matrices that read the same rows

static void linear_share(const struct cpu *cpu, const struct linear *linear, struct share share, int rows, float *y,
                         bool accumulate, struct many_scratch *scratch) {
    const struct matrix *weight = &linear->weight;
    for (int i = 0, parts = row_parts(weight, rows); i < parts; i++) {
        struct rows_part part = row_part(rows, i, parts);
        int at_once = outputs_at_once(weight, part.groups, outputs_that_fit(part.groups));
        const uint16_t *x = cpu->narrow + (size_t)(part.first / BF16_GROUP) * group_stride(weight->columns);
        for (int o = share.first, count; o < share.last; o += count) {
            count = smaller(share.last - o, at_once);
            size_t sum_stride = (size_t)padded(count, BF16_OUTPUTS_STEP) * BF16_GROUP;
            const struct many_product product = {weight, o, count, scratch->sum, x, part.groups, sum_stride};
            struct panel after = {0};
            if (o + count < share.last) after = panel_at(weight, o + count, share.last, 0);
            multiply(cpu, &product, after, scratch);
            cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum,
                                                  .sum_stride = sum_stride,
                                                  .outputs = count,
                                                  .rows = part.rows,
                                                  .bias = linear->bias ? linear->bias + o : NULL,
                                                  .y = y + (size_t)part.first * (size_t)weight->rows + o,
                                                  .y_stride = (size_t)weight->rows,
                                                  .add = accumulate});
        }
    }
}

// The rows are packed once for all of the matrices.
void many_products(struct cpu *cpu, const struct products *p) {
    int threads = cpu->limits.threads, groups = padded(p->rows, BF16_GROUP) / BF16_GROUP;
    int columns = p->linears[0]->weight.columns;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++)
            cpu->bf16->pack(p->x + (size_t)g * BF16_GROUP * (size_t)columns, (size_t)columns, NULL,
                            smaller(p->rows - g * BF16_GROUP, BF16_GROUP), columns,
                            cpu->narrow + (size_t)g * group_stride(columns));
        cpu->bf16->begin();
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            for (int i = 0; i < p->count; i++) {
                struct share share = share_of(p->linears[i]->weight.rows, part, threads, BF16_OUTPUTS);
                linear_share(cpu, p->linears[i], share, p->rows, p->y[i], p->accumulate, &cpu->many[part]);
            }
        cpu->bf16->end();
    }
}

// ---- Experts

// Outputs [first, first + outputs) of gate and up for some rows, and the product of both, packed as down's activations.
static void gated_rows(const struct cpu *cpu, const struct expert *expert, int first, int outputs, size_t group,
                       int groups, struct panel after, struct many_scratch *scratch) {
    size_t sum_stride = (size_t)padded(outputs, BF16_OUTPUTS_STEP) * BF16_GROUP;
    float *gate = scratch->sum, *up = gate + (size_t)groups * sum_stride;
    const uint16_t *x = cpu->narrow + group * group_stride(expert->gate.columns);
    const struct many_product gates = {&expert->gate, first, outputs, gate, x, groups, sum_stride};
    const struct many_product ups = {&expert->up, first, outputs, up, x, groups, sum_stride};
    multiply(cpu, &gates, first_panel(&ups), scratch);
    multiply(cpu, &ups, after, scratch);
    size_t stride = group_stride(expert->gate.rows);
    for (int g = 0; g < groups; g++)
        cpu->kernels->gate(gate + (size_t)g * sum_stride, up + (size_t)g * sum_stride, (size_t)outputs * BF16_GROUP);
    cpu->bf16->pack_sums(gate, sum_stride, outputs, groups,
                         cpu->narrow_gated + group * stride + (size_t)first * BF16_GROUP, stride);
}

// The same for all rows of an expert.
static void gated(const struct cpu *cpu, const struct expert *expert, const struct expert_rows *rows,
                  struct share share, struct many_scratch *scratch) {
    for (int i = 0, parts = row_parts(&expert->gate, rows->rows); i < parts; i++) {
        struct rows_part part = row_part(rows->rows, i, parts);
        int at_once = outputs_at_once(&expert->gate, part.groups, UNIT_OUTPUTS);
        for (int o = share.first, count; o < share.last; o += count) {
            count = smaller(share.last - o, at_once);
            struct panel after = {0};
            if (o + count < share.last) after = panel_at(&expert->gate, o + count, share.last, 0);
            gated_rows(cpu, expert, o, count, (size_t)(rows->first + part.first) / BF16_GROUP, part.groups, after,
                       scratch);
        }
    }
}

// Outputs [first, first + outputs) of an expert's down, added to `added` [token][MANY_ADDED].
static void down_rows(const struct cpu *cpu, const struct matrix *down, const struct expert_rows *rows, int first,
                      int outputs, struct panel after, float *added, struct many_scratch *scratch) {
    size_t sum_stride = (size_t)padded(outputs, BF16_OUTPUTS_STEP) * BF16_GROUP;
    for (int i = 0, parts = row_parts(down, rows->rows); i < parts; i++) {
        struct rows_part part = row_part(rows->rows, i, parts);
        int row = rows->first + part.first;
        const uint16_t *x = cpu->narrow_gated + (size_t)(row / BF16_GROUP) * group_stride(down->columns);
        const struct many_product product = {down, first, outputs, scratch->sum, x, part.groups, sum_stride};
        multiply(cpu, &product, i + 1 < parts ? first_panel(&product) : after, scratch);
        cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum,
                                              .sum_stride = sum_stride,
                                              .outputs = outputs,
                                              .rows = part.rows,
                                              .scale = cpu->sorted_weight + row,
                                              .row = cpu->sorted_token + row,
                                              .y = added,
                                              .y_stride = MANY_ADDED,
                                              .add = true});
    }
}

// Outputs `share` of all experts' down, added to the rows of y they belong to: a token's two put together first, in the
// order of their numbers.
static void added(const struct cpu *cpu, const struct layer *layer, int experts, struct share share, int tokens,
                  float *y, float *added, struct many_scratch *scratch) {
    size_t hidden = (size_t)layer->experts[0].down.rows;
    for (int o = share.first; o < share.last; o += MANY_ADDED) {
        int count = smaller(share.last - o, MANY_ADDED);
        memset(added, 0, (size_t)tokens * MANY_ADDED * sizeof *added);
        for (int i = 0; i < experts; i++) {
            const struct expert_rows *rows = &cpu->expert_rows[i];
            const struct expert_rows *then = i + 1 < experts ? rows + 1 : cpu->expert_rows;
            int first = i + 1 < experts ? o : o + count;
            struct panel after = {0};
            if (first < share.last) after = panel_at(&layer->experts[then->expert].down, first, share.last, 0);
            down_rows(cpu, &layer->experts[rows->expert].down, rows, o, count, after, added, scratch);
        }
        for (int t = 0; t < tokens; t++)
            cpu->kernels->add_scaled(y + (size_t)t * hidden + o, added + (size_t)t * MANY_ADDED, 1, (size_t)count);
    }
}

// Rows of one group of the sorted ones that are there: the rest is padding.
static int rows_of_group(const struct cpu *cpu, int first) {
    int rows = 0;
    while (rows < BF16_GROUP && cpu->sorted_token[first + rows] >= 0) rows++;
    return rows;
}

void many_experts(struct cpu *cpu, const struct layer *layer, int experts, const float *x, float *y, int tokens) {
    const struct expert *any = &layer->experts[0];
    const struct expert_rows *last = &cpu->expert_rows[experts - 1];
    int hidden = any->gate.columns, threads = cpu->limits.threads;
    int groups = (last->first + padded(last->rows, BF16_GROUP)) / BF16_GROUP;
    int parts = padded(any->gate.rows, UNIT_OUTPUTS) / UNIT_OUTPUTS, units = experts * parts; // of gate and up
#pragma omp parallel num_threads(threads)
    {
        struct many_scratch *scratch = &cpu->many[omp_get_thread_num()];
        float *sums = cpu->many_added + (size_t)omp_get_thread_num() * (size_t)cpu->limits.tokens_max * MANY_ADDED;
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++)
            cpu->bf16->pack(x, (size_t)hidden, cpu->sorted_token + g * BF16_GROUP, rows_of_group(cpu, g * BF16_GROUP),
                            hidden, cpu->narrow + (size_t)g * group_stride(hidden));
        cpu->bf16->begin();
#pragma omp for schedule(dynamic)
        for (int unit = 0; unit < units; unit++)
            gated(cpu, &layer->experts[cpu->expert_rows[unit / parts].expert], &cpu->expert_rows[unit / parts],
                  share_of(any->gate.rows, unit % parts, parts, BF16_OUTPUTS), scratch);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            added(cpu, layer, experts, share_of(hidden, part, threads, BF16_OUTPUTS), tokens, y, sums, scratch);
        cpu->bf16->end();
    }
}
