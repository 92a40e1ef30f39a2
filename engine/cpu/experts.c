// The mixture of experts: the router's choice, and the chosen experts on their rows.
//
// Rows are sorted by expert (counting sort, so in a fixed order). In bf16, calls of many rows are computed as many.c
// says. Otherwise experts with few rows are computed together, each thread taking its share of all their weights,
// with two barriers in all; experts with many rows one after the other, each on all threads. There a token's slots
// are added up in order at the end, so its sum does not depend on where its experts' rows lay.
#include "engine/cpu/cpu.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum {
    GRAIN = 16,     // outputs: a cache line of results
    GATE_WORK = 32, // multiplications as long as which the gate of one value takes
    ROUTE_ROWS = 4, // rows that the router's weights are read for at once
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
        for (int r = 0; r < rows; r += ROUTE_ROWS) {
            struct dot some = dot;
            some.x += (size_t)r * (size_t)router->hidden;
            some.y += (size_t)r * (size_t)experts;
            some.rows = rows - r < ROUTE_ROWS ? rows - r : ROUTE_ROWS;
            cpu->kernels->dot_f32(&some);
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

static bool in_bf16(const struct call *call) {
    return matmul_way(call->cpu, call->layer->experts[0].gate.format, call->routing->rows) == MATMUL_BF16;
}

// Up to so many rows of an expert are few. Answers' always are. Prompts' never, nor those that are multiplied in bf16:
// then experts come in their order, and so a token's two, whichever rows there are beside it.
static int few_rows_of(const struct call *call) {
    const struct cpu *cpu = call->cpu;
    if (cpu->kind == ROWS_OF_ANSWERS) return INT_MAX;
    return cpu->kind == ROWS_OF_PROMPTS || in_bf16(call) ? 0 : FEW_ROWS;
}

// The experts that have rows: those with few of them first, among the experts and among the sorted rows.
struct plan {
    const struct expert_rows *few, *many;
    int few_count, many_count;
};

static struct plan sort_rows(const struct call *call) {
    struct cpu *cpu = call->cpu;
    const struct routing *routing = call->routing;
    int experts = call->layer->router.experts, pairs = routing->rows * routing->top_k;
    int few_rows = few_rows_of(call);
    int *next = cpu->expert_next; // first how many rows an expert has, then where its next one goes
    memset(next, 0, (size_t)experts * sizeof *next);
    for (int i = 0; i < pairs; i++) next[routing->expert[i]]++;

    int count = 0, row = 0;
    struct plan plan = {0};
    for (int many = 0; many <= 1; many++) {
        for (int e = 0; e < experts; e++) {
            if (next[e] == 0 || (next[e] > few_rows) != many) continue;
            cpu->expert_rows[count++] = (struct expert_rows){e, row, next[e]};
            row += (next[e] + BF16_GROUP - 1) / BF16_GROUP * BF16_GROUP;
        }
        if (!many) plan.few_count = count;
    }
    plan.few = cpu->expert_rows;
    plan.many = plan.few + plan.few_count;
    plan.many_count = count - plan.few_count;
    for (int i = 0; i < count; i++) next[cpu->expert_rows[i].expert] = cpu->expert_rows[i].first;
    for (int i = 0; i < row; i++) cpu->sorted_token[i] = -1;
    for (int i = 0; i < pairs; i++) {
        int to = cpu->sorted_row[i] = next[routing->expert[i]]++;
        cpu->sorted_token[to] = i / routing->top_k;
        cpu->sorted_weight[to] = routing->weight[i];
    }
    return plan;
}

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
    matmul(cpu, &gate, sorted, cpu->gate + inner, rows->rows, false);
    matmul(cpu, &up, sorted, cpu->up + inner, rows->rows, false);
    gate_rows(call, rows);
    matmul(cpu, &down, cpu->gate + inner, sorted, rows->rows, false);
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
    if (in_bf16(&call)) {
        many_experts(call.cpu, layer, plan.few_count + plan.many_count, x, y, routing->rows);
        return;
    }
    if (weight_format_packed(layer->experts[0].gate.format)) {
        packed_experts(call.cpu, layer, routing, plan.few_count + plan.many_count, x);
        add_slots(&call, y);
        return;
    }
    gather(&call, x);
    if (plan.few_count > 0) few_experts(&call, &plan);
    for (int i = 0; i < plan.many_count; i++) many_rows(&call, &plan.many[i]);
    add_slots(&call, y);
}
