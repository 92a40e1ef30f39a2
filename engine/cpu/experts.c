// The mixture of experts: the router's choice, and the chosen experts on their rows.
//
// Rows are sorted by expert (counting sort, so in a fixed order). Experts with few rows are computed together,
// each thread taking its share of all their weights, with two barriers in all; experts with many rows one after
// the other, each on all threads. A token's slots are added up in order at the end, so its sum does not depend
// on where its experts' rows lay.
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum {
    GRAIN = 16,     // outputs: a cache line of results
    GATE_WORK = 32, // multiplications as long as which the gate of one value takes
};

// ---- Routing

// Index of the largest score, the first among equals, leaving out `taken`; a NaN is larger than all.
static int choose(const float *score, int experts, int taken) {
    int best = -1;
    for (int j = 0; j < experts; j++) {
        if (j == taken) continue;
        if (best < 0 || score[j] > score[best] || (score[j] != score[j] && score[best] == score[best])) best = j;
    }
    return best;
}

// The softmax share of `best` among the experts that SparseMixer does not remove: those with
// (m - s) / max(|s|, m) > 2 · jitter, in transformers' own operations, so that 0/0 keeps an expert.
static float share(const float *score, int experts, int best, int taken, float jitter) {
    const float m = score[best];
    float total = 0;
    for (int j = 0; j < experts; j++) {
        float size = fabsf(score[j]) < m ? m : fabsf(score[j]);
        if (j != taken && !((m - score[j]) / size > 2 * jitter)) total += expf(score[j] - m);
    }
    return 1 / total;
}

void cpu_route(void *state, const struct router *router, const float *x, int rows, struct routing *routing) {
    struct cpu *cpu = state;
    int experts = router->experts, threads = cpu->limits.threads;
    bool shared = worth_sharing((int64_t)rows * experts * router->hidden);
    const struct dot dot = {router->weight, experts, router->hidden, x, rows, cpu->score, (size_t)experts, NULL, false};
    if (rows <= FEW_ROWS) {
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
        for (int part = 0; part < threads; part++)
            matmul_dots(cpu, &dot, WEIGHTS_F32, share_of(experts, part, threads, 4));
    } else {
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
        for (int r = 0; r < rows; r++) {
            struct dot row = dot;
            row.x += (size_t)r * (size_t)router->hidden;
            row.y += (size_t)r * (size_t)experts;
            row.rows = 1;
            cpu->kernels->dot_f32(&row);
        }
    }
    routing->rows = rows;
    routing->top_k = router->top_k;
    for (int r = 0; r < rows; r++) {
        const float *score = cpu->score + (size_t)r * (size_t)experts;
        int taken = -1;
        for (int slot = 0; slot < router->top_k; slot++) {
            int best = choose(score, experts, taken);
            routing->expert[r * router->top_k + slot] = best;
            routing->weight[r * router->top_k + slot] = share(score, experts, best, taken, router->jitter);
            taken = best;
        }
    }
}

// ---- Sorting

struct call {
    struct cpu *cpu;
    const struct layer *layer;
    const struct routing *routing;
    int hidden, intermediate;
};

// The experts that have rows: those with few of them first, among the experts and among the sorted rows.
struct plan {
    const struct expert_rows *few, *many;
    int few_count, many_count;
    int many_first; // sorted row where the many begin
    bool many_bf16; // they are multiplied in bf16
};

// Few: so many rows of an expert are computed with those of the other few.
static int few_rows(const struct cpu *cpu, enum weight_format format, int rows_of_call) {
    bool bf16 = rows_of_call > FEW_ROWS && matmul_way(cpu, format, rows_of_call) == MATMUL_BF16;
    return bf16 ? FEW_EXPERT_ROWS : FEW_ROWS;
}

bool experts_use_bf16(const struct cpu *cpu, enum weight_format format, int rows_of_call, int rows_of_expert) {
    return rows_of_expert > few_rows(cpu, format, rows_of_call) && matmul_way(cpu, format, FEW_ROWS + 1) == MATMUL_BF16;
}

static struct plan sort_rows(const struct call *call) {
    struct cpu *cpu = call->cpu;
    const struct routing *routing = call->routing;
    int experts = call->layer->router.experts, pairs = routing->rows * routing->top_k;
    int *next = cpu->expert_next; // first how many rows an expert has, then where its next one goes
    memset(next, 0, (size_t)experts * sizeof *next);
    for (int i = 0; i < pairs; i++) next[routing->expert[i]]++;

    enum weight_format format = call->layer->experts[0].gate.format;
    int few = few_rows(cpu, format, routing->rows), count = 0, row = 0;
    struct plan plan = {.many_bf16 = matmul_way(cpu, format, FEW_ROWS + 1) == MATMUL_BF16};
    for (int many = 0; many <= 1; many++) {
        for (int e = 0; e < experts; e++) {
            if (next[e] == 0 || (next[e] > few) != many) continue;
            cpu->expert_rows[count++] = (struct expert_rows){e, row, next[e]};
            row += onednn_padded(next[e]);
        }
        if (!many) {
            plan.few_count = count;
            plan.many_first = row;
        }
    }
    plan.few = cpu->expert_rows;
    plan.many = plan.few + plan.few_count;
    plan.many_count = count - plan.few_count;
    for (int i = 0; i < count; i++) next[cpu->expert_rows[i].expert] = cpu->expert_rows[i].first;
    for (int i = 0; i < pairs; i++) cpu->sorted_row[i] = next[routing->expert[i]]++;
    return plan;
}

// Copies each row to where its experts will look for it.
static void gather(const struct call *call, const struct plan *plan, const float *x) {
    struct cpu *cpu = call->cpu;
    int top_k = call->routing->top_k, pairs = call->routing->rows * top_k;
    size_t width = (size_t)call->hidden;
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (pairs > 16)
    for (int i = 0; i < pairs; i++) {
        const float *from = x + (size_t)(i / top_k) * width;
        size_t to = (size_t)cpu->sorted_row[i] * width;
        if (plan->many_bf16 && cpu->sorted_row[i] >= plan->many_first)
            cpu->kernels->narrow(from, cpu->narrow + to, width);
        else
            memcpy(cpu->sorted + to, from, width * sizeof *from);
    }
}

// ---- Experts with few rows

static struct dot dot_of(const struct matrix *weight, const float *x, const struct expert_rows *rows, float *y) {
    return (struct dot){.weight = weight->data,
                        .outputs = weight->rows,
                        .columns = weight->columns,
                        .x = x + (size_t)rows->first * (size_t)weight->columns,
                        .rows = rows->rows,
                        .y = y + (size_t)rows->first * (size_t)weight->rows,
                        .y_stride = (size_t)weight->rows};
}

// Outputs `some` of gate and up, and the product of both.
static void few_gated(const struct call *call, const struct expert_rows *rows, struct share some) {
    struct cpu *cpu = call->cpu;
    const struct expert *expert = &call->layer->experts[rows->expert];
    const struct dot gate = dot_of(&expert->gate, cpu->sorted, rows, cpu->gate);
    const struct dot up = dot_of(&expert->up, cpu->sorted, rows, cpu->up);
    matmul_dots(cpu, &gate, expert->gate.format, some);
    matmul_dots(cpu, &up, expert->up.format, some);
    for (int r = 0; r < rows->rows; r++) {
        size_t at = (size_t)r * (size_t)call->intermediate + (size_t)some.first;
        cpu->kernels->gate(gate.y + at, up.y + at, (size_t)(some.last - some.first));
    }
}

static void few_experts(const struct call *call, const struct plan *plan) {
    struct cpu *cpu = call->cpu;
    int threads = cpu->limits.threads, width = call->intermediate;
    int64_t work = 0; // multiplications by gate, as many as by up and by down
    for (int i = 0; i < plan->few_count; i++) work += (int64_t)plan->few[i].rows * width * call->hidden;
    bool shared = worth_sharing(work);
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
    for (int part = 0; part < threads; part++) { // all experts' outputs in a row, cut evenly
        struct share all = share_of(plan->few_count * width, part, threads, GRAIN);
        for (int at = all.first, last; at < all.last; at = last) {
            int start = at / width * width;
            last = start + width < all.last ? start + width : all.last;
            few_gated(call, &plan->few[at / width], (struct share){at - start, last - start});
        }
    }
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
    for (int part = 0; part < threads; part++)
        for (int i = 0; i < plan->few_count; i++) {
            const struct matrix *down = &call->layer->experts[plan->few[i].expert].down;
            const struct dot dot = dot_of(down, cpu->gate, &plan->few[i], cpu->sorted); // their inputs are done with
            matmul_dots(cpu, &dot, down->format, share_of(call->hidden, part, threads, GRAIN));
        }
}

// ---- Experts with many rows

static void gate_rows(const struct call *call, const struct expert_rows *rows, bool narrow) {
    struct cpu *cpu = call->cpu;
    size_t width = (size_t)call->intermediate;
    bool shared = worth_sharing((int64_t)rows->rows * call->intermediate * GATE_WORK);
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (shared)
    for (int r = rows->first; r < rows->first + rows->rows; r++) {
        size_t at = (size_t)r * width;
        cpu->kernels->gate(cpu->gate + at, cpu->up + at, width);
        if (narrow) cpu->kernels->narrow(cpu->gate + at, cpu->narrow_gated + at, width);
    }
}

static bool many_bf16(const struct call *call, const struct expert_rows *rows) {
    struct cpu *cpu = call->cpu;
    const struct expert *expert = &call->layer->experts[rows->expert];
    size_t inner = (size_t)rows->first * (size_t)call->intermediate, outer = (size_t)rows->first * (size_t)call->hidden;
    int count = onednn_padded(rows->rows);
    if (!matmul_bf16(cpu, &expert->gate, cpu->narrow + outer, cpu->gate + inner, count) ||
        !matmul_bf16(cpu, &expert->up, cpu->narrow + outer, cpu->up + inner, count))
        return false;
    gate_rows(call, rows, true);
    return matmul_bf16(cpu, &expert->down, cpu->narrow_gated + inner, cpu->sorted + outer, count);
}

// Leaves cpu->narrow alone: the rows of experts that are not computed yet may lie there.
static void many_f32(const struct call *call, const struct expert_rows *rows) {
    struct cpu *cpu = call->cpu;
    const struct expert *expert = &call->layer->experts[rows->expert];
    const struct linear gate = {expert->gate, NULL}, up = {expert->up, NULL}, down = {expert->down, NULL};
    float *sorted = cpu->sorted + (size_t)rows->first * (size_t)call->hidden;
    size_t inner = (size_t)rows->first * (size_t)call->intermediate;
    matmul_f32(cpu, &gate, sorted, cpu->gate + inner, rows->rows, false);
    matmul_f32(cpu, &up, sorted, cpu->up + inner, rows->rows, false);
    gate_rows(call, rows, false);
    matmul_f32(cpu, &down, cpu->gate + inner, sorted, rows->rows, false);
}

static void many_experts(const struct call *call, const struct plan *plan) {
    struct cpu *cpu = call->cpu;
    for (int i = 0; i < plan->many_count; i++) {
        const struct expert_rows *rows = &plan->many[i];
        if (plan->many_bf16) {
            if (many_bf16(call, rows)) continue;
            size_t at = (size_t)rows->first * (size_t)call->hidden; // oneDNN failed: out of memory, most likely
            cpu->kernels->widen(cpu->narrow + at, cpu->sorted + at, (size_t)rows->rows * (size_t)call->hidden);
        }
        many_f32(call, rows);
    }
}

// ---- All of it

static void add_slots(const struct call *call, float *y) {
    struct cpu *cpu = call->cpu;
    const struct routing *routing = call->routing;
    int threads = cpu->limits.threads;
    size_t width = (size_t)call->hidden;
#pragma omp parallel for schedule(static) num_threads(threads) if (routing->rows > 4)
    for (int part = 0; part < threads; part++) {
        struct share some = share_of(call->hidden, part, threads, GRAIN);
        for (int i = 0; i < routing->rows * routing->top_k; i++)
            cpu->kernels->add_scaled(y + (size_t)(i / routing->top_k) * width + some.first,
                                     cpu->sorted + (size_t)cpu->sorted_row[i] * width + some.first, routing->weight[i],
                                     (size_t)(some.last - some.first));
    }
}

void cpu_experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                 int rows) {
    (void)rows; // routing->rows
    const struct call call = {state, layer, routing, layer->router.hidden, layer->experts[0].gate.rows};
    struct plan plan = sort_rows(&call);
    gather(&call, &plan, x);
    if (plan.few_count > 0) few_experts(&call, &plan);
    many_experts(&call, &plan);
    add_slots(&call, y);
}
