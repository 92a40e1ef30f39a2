// The mixture of experts: the chosen experts on their rows.
//
// Rows are sorted by expert (counting sort, so in a fixed order). Few rows, and those of answers, are computed for all
// experts together; many are computed as many.c (bf16) and packed.c (int8, int4) say, or one expert after the other.
#include "engine/cpu/cpu.h"

#include "base/smaller.h"

#include <string.h>

enum {
    GATE_WORK = 32,  // multiplications as long as which the gate of one value takes
    READ_WORK = 4,   // multiplications as long as which it takes to read a weight from memory
    DOWN_STRIPS = 8, // of each expert that are worth going to it, if there are so many
};

// ---- Sorting

struct call {
    struct cpu *cpu;
    const struct layer *layer;
    const struct routing *routing;
    int hidden, intermediate;
    bool packed, thirds; // how the experts' weights are multiplied by few rows; neither: by dot products
};

// Sorts the rows by expert. Returns how many experts have some.
static int sort_rows(const struct call *call) {
    struct cpu *cpu = call->cpu;
    const struct routing *routing = call->routing;
    int experts = call->layer->router.experts, pairs = routing->rows * routing->top_k;
    int *next = cpu->expert_next; // first how many rows an expert has, then where its next one goes
    memset(next, 0, (size_t)experts * sizeof *next);
    for (int i = 0; i < pairs; i++) next[routing->expert[i]]++;

    int count = 0, row = 0;
    for (int e = 0; e < experts; e++) {
        if (next[e] == 0) continue;
        cpu->expert_rows[count++] = (struct expert_rows){e, row, next[e]};
        row += (next[e] + BF16_GROUP - 1) / BF16_GROUP * BF16_GROUP;
    }
    for (int i = 0; i < count; i++) next[cpu->expert_rows[i].expert] = cpu->expert_rows[i].first;
    for (int i = 0; i < row; i++) cpu->sorted_token[i] = -1;
    for (int i = 0; i < pairs; i++) {
        int to = cpu->sorted_row[i] = next[routing->expert[i]]++;
        cpu->sorted_token[to] = i / routing->top_k;
        cpu->sorted_weight[to] = routing->weight[i];
    }
    return count;
}

void experts_add(const struct cpu *cpu, const struct routing *routing, float *results, size_t stride, int count,
                 float *y, size_t y_stride) {
    const struct kernels *kernels = cpu->kernels;
    const int *row = cpu->sorted_row;
    const float *weight = routing->weight;
    for (int r = 0; r < routing->rows; r++, y += y_stride, row += routing->top_k, weight += routing->top_k) {
        float *sum = results + (size_t)row[0] * stride;
        kernels->scale(sum, weight[0], (size_t)count);
        for (int slot = 1; slot < routing->top_k; slot++) {
            float *other = results + (size_t)row[slot] * stride;
            kernels->scale(other, weight[slot], (size_t)count);
            kernels->add_scaled(sum, other, 1, (size_t)count);
        }
        kernels->add_scaled(y, sum, 1, (size_t)count);
    }
}

static void add_slots(const struct call *call, float *y, struct share outputs) {
    size_t width = (size_t)call->hidden;
    experts_add(call->cpu, call->routing, call->cpu->sorted + outputs.first, width, outputs.last - outputs.first,
                y + outputs.first, width);
}

// ---- Few rows: all experts together, their outputs dealt out

// What of an expert's rows a product reads, and where their results go.
struct few_product {
    const struct matrix *weight;
    const float *x;                // [sorted rows][columns]
    const struct packed_x *packed; // the same where the weights are packed
    const uint16_t *thirds;        // or multiplied by tiles
    float *y;                      // [sorted rows][outputs]
    const struct matrix *next;     // of which the same outputs come then, or NULL
};

// Where the thirds of an expert's rows begin.
static uint16_t *thirds_at(const uint16_t *thirds, const struct expert_rows *rows, int columns) {
    return (uint16_t *)thirds + (size_t)(rows->first / BF16_GROUP) * THIRDS_GROUPS * thirds_values(columns);
}

static void few_multiply(const struct call *call, const struct few_product *p, const struct expert_rows *rows,
                         struct share outputs) {
    const struct cpu *cpu = call->cpu;
    const struct matrix *weight = p->weight;
    const struct linear linear = {*weight, NULL};
    size_t first = (size_t)rows->first, columns = (size_t)weight->columns, y_stride = (size_t)weight->rows;
    float *y = p->y + first * y_stride;
    if (call->thirds) {
        const uint16_t *next = p->next ? p->next->data : NULL;
        matmul_thirds(&linear, outputs, thirds_at(p->thirds, rows, weight->columns), rows->rows, y, false,
                      next ? next + (size_t)outputs.first * columns : NULL);
        return;
    }
    if (call->packed) {
        packed_outputs(cpu, &linear, outputs, p->packed + first * packed_x_blocks(weight->columns), rows->rows, y,
                       false);
        return;
    }
    const struct dot dot = {
        weight->data, weight->rows, weight->columns, p->x + first * columns, rows->rows, y, y_stride, NULL, false, 0};
    matmul_dots(cpu, &dot, weight->format, outputs);
}

// The thirds of an expert's rows.
static void few_cut(const struct call *call, const struct expert_rows *rows, const float *x) {
    thirds_pack(&(struct thirds_rows){x, (size_t)call->hidden, call->cpu->sorted_token + rows->first, rows->rows,
                                      call->hidden, thirds_at(call->cpu->thirds, rows, call->hidden)},
                0, 1);
}

// A row of activations as its experts will read it, for each of them.
static void few_load(const struct call *call, const float *x, int row) {
    struct cpu *cpu = call->cpu;
    const int *sorted = cpu->sorted_row + (size_t)row * (size_t)call->routing->top_k;
    size_t width = (size_t)call->hidden, blocks = packed_x_blocks(call->hidden);
    struct packed_x *first = cpu->packed_sorted + (size_t)sorted[0] * blocks;
    const float *from = x + (size_t)row * width;
    if (call->packed) cpu->packed->quantize(from, call->hidden, first);
    for (int slot = 0; slot < call->routing->top_k; slot++)
        if (!call->packed)
            memcpy(cpu->sorted + (size_t)sorted[slot] * width, from, width * sizeof *from);
        else if (slot > 0)
            memcpy(cpu->packed_sorted + (size_t)sorted[slot] * blocks, first, blocks * sizeof *first);
}

// Some strips of all experts' gates and ups, which lie one after another: gate, up, gate, up, …
static void few_gates(const struct call *call, struct share strips) {
    struct cpu *cpu = call->cpu;
    int each = strips_of(&call->layer->experts[0].gate);
    for (int at = strips.first, end; at < strips.last; at = end) {
        int number = at / each, start = number * each;
        const struct expert_rows *rows = &cpu->expert_rows[number / 2];
        const struct expert *expert = &call->layer->experts[rows->expert];
        const struct few_product product = {
            number % 2 ? &expert->up : &expert->gate, cpu->sorted, cpu->packed_sorted, cpu->thirds,
            number % 2 ? cpu->up : cpu->gate,         NULL};
        end = smaller(start + each, strips.last);
        few_multiply(call, &product, rows,
                     (struct share){(at - start) * STRIP, smaller((end - start) * STRIP, call->intermediate)});
    }
}

// The product of both for an expert's rows, as down will read it.
static void few_gated(const struct call *call, const struct expert_rows *rows) {
    struct cpu *cpu = call->cpu;
    int width = call->intermediate;
    float *first = cpu->gate + (size_t)rows->first * (size_t)width;
    for (int r = rows->first; r < rows->first + rows->rows; r++) {
        float *gate = cpu->gate + (size_t)r * (size_t)width;
        cpu->kernels->gate(gate, cpu->up + (size_t)r * (size_t)width, (size_t)width);
        if (call->packed) cpu->packed->quantize(gate, width, cpu->packed_gated + (size_t)r * packed_x_blocks(width));
    }
    if (call->thirds)
        thirds_pack(&(struct thirds_rows){first, (size_t)width, NULL, rows->rows, width,
                                          thirds_at(cpu->thirds_gated, rows, width)},
                    0, 1);
}

// Some strips of down of all experts, whose results are added up slot by slot, and then to the tokens' rows.
static void few_down(const struct call *call, int experts, struct share strips, float *y) {
    struct cpu *cpu = call->cpu;
    struct share outputs = {strips.first * STRIP, smaller(strips.last * STRIP, call->hidden)};
    for (int i = 0; i < experts; i++) {
        const struct matrix *weight = &call->layer->experts[cpu->expert_rows[i].expert].down;
        const struct matrix *next = i + 1 < experts ? &call->layer->experts[cpu->expert_rows[i + 1].expert].down : NULL;
        const struct few_product down = {weight,      cpu->gate, cpu->packed_gated, cpu->thirds_gated,
                                         cpu->sorted, next}; // inputs are done with
        few_multiply(call, &down, &cpu->expert_rows[i], outputs);
    }
    add_slots(call, y, outputs);
}

static void few_experts(const struct call *call, int experts, const float *x, float *y) {
    struct cpu *cpu = call->cpu;
    const struct expert *any = &call->layer->experts[0];
    int rows = call->routing->rows, threads = cpu->limits.threads;
    struct deal gates = deal_of(2 * experts * strips_of(&any->gate), threads, strips_in(SHARE_BYTES, &any->gate));
    int down_strips = strips_in(SHARE_BYTES / (size_t)experts, &any->down);
    struct deal downs = deal_of(strips_of(&any->down), threads, down_strips < DOWN_STRIPS ? DOWN_STRIPS : down_strips);
    bool shared = worth_sharing((int64_t)rows * call->routing->top_k * call->intermediate * call->hidden);
#pragma omp parallel num_threads(threads) if (shared)
    {
        if (call->thirds) {
#pragma omp for schedule(dynamic)
            for (int i = 0; i < experts; i++) few_cut(call, &cpu->expert_rows[i], x);
        } else {
#pragma omp for schedule(static)
            for (int r = 0; r < rows; r++) few_load(call, x, r);
        }
        for (struct share some = deal_take(&gates); some.first < some.last; some = deal_take(&gates))
            few_gates(call, some);
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int i = 0; i < experts; i++) few_gated(call, &cpu->expert_rows[i]);
        for (struct share some = deal_take(&downs); some.first < some.last; some = deal_take(&downs))
            few_down(call, experts, some, y);
    }
}

// ---- Experts with many rows

// Copies each row to where its experts will look for it.
static void gather(const struct call *call, const float *x) {
    struct cpu *cpu = call->cpu;
    int top_k = call->routing->top_k, pairs = call->routing->rows * top_k;
    size_t width = (size_t)call->hidden;
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (pairs > 16)
    for (int i = 0; i < pairs; i++) {
        const float *from = x + (size_t)(i / top_k) * width;
        memcpy(cpu->sorted + (size_t)cpu->sorted_row[i] * width, from, width * sizeof *from);
    }
}

static void gate_rows(const struct call *call, const struct expert_rows *rows) {
    struct cpu *cpu = call->cpu;
    size_t width = (size_t)call->intermediate;
    bool shared = worth_sharing((int64_t)rows->rows * call->intermediate * GATE_WORK);
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (shared)
    for (int r = rows->first; r < rows->first + rows->rows; r++)
        cpu->kernels->gate(cpu->gate + (size_t)r * width, cpu->up + (size_t)r * width, width);
}

static void many_rows(const struct call *call, const struct expert_rows *rows) {
    struct cpu *cpu = call->cpu;
    const struct expert *expert = &call->layer->experts[rows->expert];
    const struct linear gate = {expert->gate, NULL}, up = {expert->up, NULL}, down = {expert->down, NULL};
    float *sorted = cpu->sorted + (size_t)rows->first * (size_t)call->hidden;
    size_t inner = (size_t)rows->first * (size_t)call->intermediate;
    matmul(cpu, &(struct products){(const struct linear *[]){&gate, &up}, 2, sorted,
                                   (float *[]){cpu->gate + inner, cpu->up + inner}, rows->rows, false});
    gate_rows(call, rows);
    matmul(cpu, &(struct products){(const struct linear *[]){&down}, 1, cpu->gate + inner, &sorted, rows->rows, false});
}

static void add_all_slots(const struct call *call, float *y) {
    int threads = call->cpu->limits.threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; part++) add_slots(call, y, share_of(call->hidden, part, threads, STRIP));
}

// ---- All of it

void cpu_experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                 int rows) {
    struct cpu *cpu = state;
    enum weight_format format = layer->experts[0].gate.format;
    const struct call call = {.cpu = cpu,
                              .layer = layer,
                              .routing = routing,
                              .hidden = layer->router.hidden,
                              .intermediate = layer->experts[0].gate.rows,
                              .packed = weight_format_packed(format),
                              .thirds = matmul_way(cpu, format, rows) == MATMUL_THIRDS};
    int experts = sort_rows(&call);
    if (cpu_takes_few(cpu, rows)) {
        few_experts(&call, experts, x, y);
    } else if (matmul_way(cpu, format, rows) == MATMUL_BF16) {
        many_experts(cpu, layer, experts, x, y, rows);
    } else if (call.packed) {
        packed_experts(cpu, layer, routing, experts, x, y);
    } else {
        gather(&call, x);
        for (int i = 0; i < experts; i++) many_rows(&call, &cpu->expert_rows[i]);
        add_all_slots(&call, y);
    }
}
