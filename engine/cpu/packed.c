// Products and experts with weights in int8 and int4, on the kernels of packed.h.
//
// Activations are quantized once for all matrices that read them. A row's result depends neither on its company nor on
// the number of threads.
#include "base/smaller.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/packed.h"

#include <omp.h>
#include <string.h>

enum { CHUNKS_OF_A_THREAD = 4 }; // at least, where there are so many outputs

void packed_outputs(const struct cpu *cpu, const struct linear *linear, struct share outputs, const struct packed_x *x,
                    int rows, float *y, bool accumulate) {
    const struct matrix *weight = &linear->weight;
    int first = outputs.first;
    cpu->packed->dot(&(struct packed_dot){
        .format = weight->format,
        .weight = (const unsigned char *)weight->data + weight_format_bytes(weight->format, first, weight->columns),
        .outputs = outputs.last - first,
        .columns = weight->columns,
        .x = x,
        .rows = rows,
        .y = y + first,
        .y_stride = (size_t)weight->rows,
        .bias = linear->bias ? linear->bias + first : NULL,
        .accumulate = accumulate});
}

// Strips [some.first, some.last) of all matrices, one after another, for rows [first, first + rows).
static void multiply_rows(const struct cpu *cpu, const struct products *p, struct share some, int first, int rows) {
    const struct packed_x *x = cpu->packed_x + (size_t)first * packed_x_blocks(p->linears[0]->weight.columns);
    while (some.first < some.last) {
        struct share outputs;
        int i = products_cut(p, &some, &outputs);
        const struct linear *linear = p->linears[i];
        packed_outputs(cpu, linear, outputs, x, rows, p->y[i] + (size_t)first * (size_t)linear->weight.rows,
                       p->accumulate);
    }
}

// A thread's rows stay in its second cache: what is dealt out is all strips for some rows, then all for the next ones.
void packed_products(struct cpu *cpu, const struct products *p) {
    int columns = p->linears[0]->weight.columns, passes = (p->rows + PACKED_PASS - 1) / PACKED_PASS;
    size_t blocks = packed_x_blocks(columns);
    struct deal deal = products_deal(cpu, p);
    int strips = deal.count;
    deal.count *= passes;
#pragma omp parallel num_threads(cpu->limits.threads) if (products_shared(p))
    {
#pragma omp for schedule(static)
        for (int r = 0; r < p->rows; r++)
            cpu->packed->quantize(p->x + (size_t)r * (size_t)columns, columns, cpu->packed_x + (size_t)r * blocks);
        for (struct share some = deal_take(&deal); some.first < some.last; some = deal_take(&deal))
            for (int at = some.first, end; at < some.last; at = end) {
                int pass = at / strips, before = pass * strips;
                struct share rows = share_of(p->rows, pass, passes, 1);
                end = smaller(some.last, before + strips);
                multiply_rows(cpu, p, (struct share){at - before, end - before}, rows.first, rows.last - rows.first);
            }
    }
}

// ---- Experts of many rows

// Outputs in a chunk of a matrix, where `outputs` of this format and width are dealt out at once.
static int chunk_outputs(const struct cpu *cpu, const struct matrix *weight, int outputs) {
    int most = outputs / (cpu->limits.threads * CHUNKS_OF_A_THREAD) / PACKED_OUTPUTS;
    return larger(smaller(strips_in(SHARE_BYTES, weight), most), 1) * PACKED_OUTPUTS;
}

static int chunks_of(const struct matrix *weight, int chunk) {
    return (weight->rows + chunk - 1) / chunk;
}

static struct share outputs_of(const struct matrix *weight, int number, int chunk) {
    return (struct share){number * chunk, smaller((number + 1) * chunk, weight->rows)};
}

// A chunk of gate and up of one expert, and the product of both.
static void gate_chunk(const struct cpu *cpu, const struct expert *expert, const struct expert_rows *rows, int number,
                       int chunk) {
    const struct linear gate = {expert->gate, NULL}, up = {expert->up, NULL};
    struct share some = outputs_of(&gate.weight, number, chunk);
    size_t width = (size_t)expert->gate.rows, at = (size_t)rows->first * width;
    const struct packed_x *x = cpu->packed_sorted + (size_t)rows->first * packed_x_blocks(expert->gate.columns);
    packed_outputs(cpu, &gate, some, x, rows->rows, cpu->gate + at, false);
    packed_outputs(cpu, &up, some, x, rows->rows, cpu->up + at, false);
    for (int r = 0; r < rows->rows; r++, at += width)
        cpu->kernels->gate(cpu->gate + at + some.first, cpu->up + at + some.first, (size_t)(some.last - some.first));
}

// Some outputs of down of all experts, added to the tokens' rows. In between the results stay in the second cache.
static void down_chunk(struct cpu *cpu, const struct layer *layer, const struct routing *routing, int experts,
                       struct share some, float *y) {
    int count = some.last - some.first;
    float *results = cpu->packed_down + (size_t)omp_get_thread_num() * cpu->packed_down_floats;
    for (int i = 0; i < experts; i++) {
        const struct expert_rows *rows = &cpu->expert_rows[i];
        const struct matrix *down = &layer->experts[rows->expert].down;
        const struct matrix *next = i + 1 < experts ? &layer->experts[rows[1].expert].down : NULL;
        size_t skipped = weight_format_bytes(down->format, some.first, down->columns);
        cpu->packed->dot(&(struct packed_dot){
            .format = down->format,
            .weight = (const unsigned char *)down->data + skipped,
            .outputs = count,
            .columns = down->columns,
            .x = cpu->packed_gated + (size_t)rows->first * packed_x_blocks(down->columns),
            .rows = rows->rows,
            .y = results + (size_t)rows->first * PACKED_DOWN,
            .y_stride = PACKED_DOWN,
            .next = next ? (const unsigned char *)next->data + skipped : NULL});
    }
    experts_add(cpu, routing, results, PACKED_DOWN, count, y + some.first, (size_t)layer->router.hidden);
}

void packed_experts(struct cpu *cpu, const struct layer *layer, const struct routing *routing, int experts,
                    const float *x, float *y) {
    const struct expert *any = &layer->experts[0];
    const struct expert_rows *last = &cpu->expert_rows[experts - 1];
    int hidden = any->gate.columns, width = any->gate.rows, sorted = last->first + last->rows;
    int gate_chunk_outputs = chunk_outputs(cpu, &any->gate, experts * width);
    int gate_chunks = chunks_of(&any->gate, gate_chunk_outputs), down_chunks = chunks_of(&any->down, PACKED_DOWN);
    size_t blocks = packed_x_blocks(hidden), gated_blocks = packed_x_blocks(width);
    bool shared = worth_sharing((int64_t)routing->rows * routing->top_k * width * hidden);
#pragma omp parallel num_threads(cpu->limits.threads) if (shared)
    {
#pragma omp for schedule(static)
        for (int r = 0; r < routing->rows; r++)
            cpu->packed->quantize(x + (size_t)r * (size_t)hidden, hidden, cpu->packed_x + (size_t)r * blocks);
#pragma omp for schedule(static)
        for (int r = 0; r < sorted; r++)
            if (cpu->sorted_token[r] >= 0)
                memcpy(cpu->packed_sorted + (size_t)r * blocks,
                       cpu->packed_x + (size_t)cpu->sorted_token[r] * blocks, blocks * sizeof *cpu->packed_x);
#pragma omp for schedule(dynamic)
        for (int c = 0; c < experts * gate_chunks; c++) {
            const struct expert_rows *rows = &cpu->expert_rows[c / gate_chunks];
            gate_chunk(cpu, &layer->experts[rows->expert], rows, c % gate_chunks, gate_chunk_outputs);
        }
#pragma omp for schedule(static)
        for (int r = 0; r < sorted; r++)
            if (cpu->sorted_token[r] >= 0)
                cpu->packed->quantize(cpu->gate + (size_t)r * (size_t)width, width,
                                      cpu->packed_gated + (size_t)r * gated_blocks);
#pragma omp for schedule(dynamic)
        for (int c = 0; c < down_chunks; c++)
            down_chunk(cpu, layer, routing, experts, outputs_of(&any->down, c, PACKED_DOWN), y);
    }
}
