// Many rows in bf16: matrix products and experts, on the kernels of bf16.h. Weights of int8 and int4 are unpacked and
// rounded to bf16, a panel at a time, which costs as much as multiplying it with 60 rows, and spares the scales of groups
// and all that depends on them between the tiles' products.
//
// The activations are rounded to bf16 (nearest even, a relative 2^-9 each), the sums are f32, so
// |error| ≤ (2^-9 + columns · 2^-24) Σ|w · x|. A sum is added up from the first column to the last, whatever is beside
// it. Weights come from memory once for up to GROUPS_MAX groups of rows, are multiplied where they lie, and the next
// ones are asked for meanwhile. What comes back again and again lies in a core's second cache: the rows, where they fit
// there, or else the sums of many outputs and some columns of the rows. A thread takes its share of the outputs.
#include "engine/cpu/cpu.h"

#include <omp.h>
#include <string.h>
#include <unistd.h>

enum {
    CACHE_BYTES = 1 << 20, // of the second cache, where the system does not know
    GROUPS_MAX = 32,       // that are multiplied with a panel
    UNPACKED_DEPTH = 256,  // columns of a panel made of int8 or int4: rows and weights pass through the first cache too
    LINE_BYTES = 64,
    UNIT_OUTPUTS = 128, // of gate and of up, that a thread takes at once
};

static int padded(int count, int step) {
    return (count + step - 1) / step * step;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

// A group of 4096 columns is as long as one way of many a second cache: without a gap the same columns of all groups
// would have to share a few sets of it.
static size_t group_stride(int columns) {
    return (size_t)(padded(columns, BF16_STEP) + BF16_APART) * BF16_GROUP;
}

static long cache_bytes(void) {
    long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? bytes : CACHE_BYTES;
}

// Whether so many groups of rows stay in half of the second cache.
static bool rows_fit(int groups, int columns) {
    return (long)(group_stride(columns) * sizeof(uint16_t)) * groups <= cache_bytes() / 2;
}

// Outputs whose sums for so many groups of rows stay there.
static int outputs_that_fit(int groups) {
    long floats = cache_bytes() / 2 / (long)sizeof(float);
    long outputs = (floats < MANY_SUMS ? floats : MANY_SUMS) / (groups * BF16_GROUP);
    return outputs < BF16_OUTPUTS ? BF16_OUTPUTS : (int)outputs / BF16_OUTPUTS * BF16_OUTPUTS;
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

// Columns of a panel.
static int depth_of(const struct matrix *weight) {
    return weight_format_packed(weight->format) ? UNPACKED_DEPTH : BF16_DEPTH;
}

struct place { // of a panel
    int column, output;
};

static bool advance(const struct many_product *product, struct place *at) {
    at->output += BF16_OUTPUTS;
    if (at->output < product->outputs) return true;
    at->output = 0;
    at->column += depth_of(product->weight);
    return at->column < product->weight->columns;
}

// In int8 and int4 rows and columns are those that a block begins with: panels are as high and wide as several.
static const void *weight_at(const struct matrix *weight, int row, int column) {
    const char *data = weight->data;
    if (weight_format_packed(weight->format))
        return data + weight_format_bytes(weight->format, row, weight->columns) +
               weight_format_bytes(weight->format, 1, column);
    return data + ((size_t)row * (size_t)weight->columns + (size_t)column) * sizeof(uint16_t);
}

// Up to BF16_OUTPUTS rows of a matrix, and some columns: what a block multiplies.
struct panel {
    const struct matrix *weight; // NULL: none
    int row, rows, column, depth;
};

static struct panel panel_at(const struct matrix *weight, int row, int end, int column) {
    return (struct panel){weight, row, smaller(end - row, BF16_OUTPUTS), column,
                          smaller(weight->columns - column, depth_of(weight))};
}

static struct panel panel_of(const struct many_product *product, const struct place *at) {
    return panel_at(product->weight, product->first + at->output, product->first + product->outputs, at->column);
}

static struct bf16_next next_of(const struct panel *panel) {
    if (!panel->weight) return (struct bf16_next){0};
    const struct matrix *weight = panel->weight;
    bool packed = weight_format_packed(weight->format);
    int together = packed ? PACKED_OUTPUTS : 1; // rows that lie in the same lines
    size_t bytes = weight_format_bytes(weight->format, 1, panel->depth);
    return (struct bf16_next){weight_at(weight, panel->row, panel->column),
                              weight_format_bytes(weight->format, 1, weight->columns),
                              (panel->rows + together - 1) / together, ((int)bytes + LINE_BYTES - 1) / LINE_BYTES};
}

// Ragged ends need a panel's zeros; other bf16 is multiplied where it lies. Of int8 and int4 a panel is made, once for
// all rows, which stays in the first cache; that is when `next` is asked for.
static bool fill_panel(const struct cpu *cpu, const struct panel *from, struct bf16_next *next, uint16_t *panel) {
    const struct matrix *weight = from->weight;
    const void *data = weight_at(weight, from->row, from->column);
    if (weight_format_packed(weight->format)) {
        cpu->bf16->unpack(weight->format, data, weight->columns, from->rows, from->depth, next, panel);
        *next = (struct bf16_next){0};
        return true;
    }
    if (from->rows % BF16_OUTPUTS_STEP == 0 && from->depth % BF16_STEP == 0) return false;
    cpu->bf16->panel(data, (size_t)weight->columns, from->rows, from->depth, panel);
    return true;
}

// `after`: what the next product will begin with.
static void multiply(const struct cpu *cpu, const struct many_product *product, struct panel after,
                     struct many_scratch *scratch) {
    struct place at = {0}, next = {0};
    for (bool more = true; more; at = next) {
        const struct panel now = panel_of(product, &at);
        more = advance(product, &next);
        const struct panel then = more ? panel_of(product, &next) : after;
        struct bf16_block block = {.weight = weight_at(now.weight, now.row, now.column),
                                   .weight_stride = (size_t)now.weight->columns,
                                   .step_stride = BF16_STEP,
                                   .outputs = now.rows,
                                   .steps = padded(now.depth, BF16_STEP) / BF16_STEP,
                                   .x = product->x + (size_t)now.column * BF16_GROUP,
                                   .group_stride = group_stride(now.weight->columns),
                                   .groups = product->groups,
                                   .sum = product->sum + (size_t)at.output * BF16_GROUP,
                                   .sum_stride = product->sum_stride,
                                   .add = now.column > 0,
                                   .next = next_of(&then)};
        if (fill_panel(cpu, &now, &block.next, scratch->panel)) {
            block.weight = scratch->panel;
            block.weight_stride = BF16_STEP;
            block.step_stride = BF16_PANEL_STEP;
        }
        cpu->bf16->block(&block);
    }
}

// ---- One matrix

static void linear_share(const struct cpu *cpu, const struct linear *linear, struct share share, int rows, float *y,
                         bool accumulate, struct many_scratch *scratch) {
    const struct matrix *weight = &linear->weight;
    for (int row = 0; row < rows; row += GROUPS_MAX * BF16_GROUP) {
        int some = smaller(rows - row, GROUPS_MAX * BF16_GROUP), groups = padded(some, BF16_GROUP) / BF16_GROUP;
        int at_once = rows_fit(groups, weight->columns) ? BF16_OUTPUTS : outputs_that_fit(groups);
        const uint16_t *x = cpu->narrow + (size_t)(row / BF16_GROUP) * group_stride(weight->columns);
        for (int o = share.first, count; o < share.last; o += count) {
            count = smaller(share.last - o, at_once);
            size_t sum_stride = (size_t)padded(count, BF16_OUTPUTS_STEP) * BF16_GROUP;
            const struct many_product product = {weight, o, count, scratch->sum, x, groups, sum_stride};
            struct panel after = {0};
            if (o + count < share.last) after = panel_at(weight, o + count, share.last, 0);
            multiply(cpu, &product, after, scratch);
            cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum,
                                                  .sum_stride = sum_stride,
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
    size_t columns = (size_t)weight->columns;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int g = 0; g < groups; g++)
            cpu->bf16->pack(x + (size_t)g * BF16_GROUP * columns, columns, NULL,
                            smaller(rows - g * BF16_GROUP, BF16_GROUP), weight->columns,
                            cpu->narrow + (size_t)g * group_stride(weight->columns));
        cpu->bf16->begin();
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++)
            linear_share(cpu, linear, share_of(weight->rows, part, threads, BF16_OUTPUTS), rows, y, accumulate,
                         &cpu->many[part]);
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
    multiply(cpu, &gates, panel_at(&expert->up, first, first + outputs, 0), scratch);
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
    for (int row = 0; row < rows->rows; row += GROUPS_MAX * BF16_GROUP) {
        int groups = padded(smaller(rows->rows - row, GROUPS_MAX * BF16_GROUP), BF16_GROUP) / BF16_GROUP;
        int at_once = rows_fit(groups, expert->gate.columns) ? BF16_OUTPUTS : UNIT_OUTPUTS;
        for (int o = share.first, count; o < share.last; o += count) {
            count = smaller(share.last - o, at_once);
            struct panel after = {0};
            if (o + count < share.last) after = panel_at(&expert->gate, o + count, share.last, 0);
            gated_rows(cpu, expert, o, count, (size_t)(rows->first + row) / BF16_GROUP, groups, after, scratch);
        }
    }
}

// Outputs [first, first + outputs) of an expert's down, added to `added` [token][MANY_ADDED].
static void down_rows(const struct cpu *cpu, const struct matrix *down, const struct expert_rows *rows, int first,
                      int outputs, struct panel after, float *added, struct many_scratch *scratch) {
    for (int row = rows->first, end = row + rows->rows, some; row < end; row += some) {
        some = smaller(end - row, GROUPS_MAX * BF16_GROUP);
        const uint16_t *x = cpu->narrow_gated + (size_t)(row / BF16_GROUP) * group_stride(down->columns);
        size_t sum_stride = (size_t)padded(outputs, BF16_OUTPUTS_STEP) * BF16_GROUP;
        const struct many_product product = {
            down, first, outputs, scratch->sum, x, padded(some, BF16_GROUP) / BF16_GROUP, sum_stride};
        multiply(cpu, &product, row + some < end ? panel_at(down, first, first + outputs, 0) : after, scratch);
        cpu->bf16->store(&(struct bf16_store){.sum = scratch->sum,
                                              .sum_stride = sum_stride,
                                              .outputs = outputs,
                                              .rows = some,
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
