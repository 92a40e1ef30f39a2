// The router: which experts a row goes to.
//
// Few rows, and those of answers, are multiplied by dot products, experts dealt out over the threads. For those of
// prompts the weights, which are few, are turned round first, so that a vector holds a column's weights of sixteen
// experts: they are read once for as many rows as a product takes, and nothing is summed across a vector.
#include "engine/cpu/cpu.h"

#include "base/smaller.h"

#include <math.h>
#include <string.h>

enum {
    ROUTE_ROWS = 24,      // that a thread takes at once: a multiple of what products do
    TURNED_COLUMNS = 256, // that it turns at once
    READ_WORK = 4,        // multiplications as long as which it takes to read a weight from memory
};

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

// What the scores of one row come to.
static void decide(const struct cpu *cpu, const struct router *router, int row, struct routing *routing) {
    const float *score = cpu->score + (size_t)row * (size_t)router->experts;
    int taken = -1;
    for (int slot = 0; slot < router->top_k; slot++) {
        int best = choose(score, router->experts, taken);
        routing->expert[row * router->top_k + slot] = best;
        routing->weight[row * router->top_k + slot] = share(score, router->experts, best, taken, router->jitter);
        taken = best;
    }
}

static void route_few(const struct cpu *cpu, const struct router *router, const float *x, int rows,
                      struct routing *routing) {
    int experts = router->experts, threads = cpu->limits.threads;
    bool shared = worth_sharing((int64_t)(rows + READ_WORK) * experts * router->hidden);
    const struct dot dot = {router->weight, experts,         router->hidden, x,     rows,
                            cpu->score,     (size_t)experts, NULL,           false, 0};
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
    for (int part = 0; part < threads; part++) matmul_dots(cpu, &dot, WEIGHTS_F32, share_of(experts, part, threads, 4));
    for (int r = 0; r < rows; r++) decide(cpu, router, r, routing);
}

static void route_rows(const struct cpu *cpu, const struct router *router, const float *x, int first, int rows) {
    size_t experts = (size_t)router->experts, hidden = (size_t)router->hidden;
    float *score = cpu->score + (size_t)first * experts;
    memset(score, 0, (size_t)rows * experts * sizeof *score);
    cpu->kernels->product(&(struct product){.a = x + (size_t)first * hidden,
                                            .a_stride = hidden,
                                            .b = cpu->router,
                                            .b_stride = experts,
                                            .c = score,
                                            .c_stride = experts,
                                            .rows = rows,
                                            .depth = router->hidden,
                                            .columns = router->experts});
}

static void route_many(const struct cpu *cpu, const struct router *router, const float *x, int rows,
                       struct routing *routing) {
    size_t experts = (size_t)router->experts, hidden = (size_t)router->hidden;
    bool shared = worth_sharing((int64_t)(rows + READ_WORK) * router->experts * router->hidden);
#pragma omp parallel num_threads(cpu->limits.threads) if (shared)
    {
#pragma omp for schedule(static)
        for (int column = 0; column < router->hidden; column += TURNED_COLUMNS)
            cpu->kernels->transpose(router->weight + column, hidden, router->experts,
                                    smaller(router->hidden - column, TURNED_COLUMNS),
                                    cpu->router + (size_t)column * experts, experts);
#pragma omp for schedule(dynamic)
        for (int first = 0; first < rows; first += ROUTE_ROWS) {
            int some = smaller(rows - first, ROUTE_ROWS);
            route_rows(cpu, router, x, first, some);
            for (int r = first; r < first + some; r++) decide(cpu, router, r, routing);
        }
    }
}

void cpu_route(void *state, const struct router *router, const float *x, int rows, struct routing *routing) {
    const struct cpu *cpu = state;
    routing->rows = rows;
    routing->top_k = router->top_k;
    if (cpu_takes_few(cpu, rows))
        route_few(cpu, router, x, rows, routing);
    else
        route_many(cpu, router, x, rows, routing);
}
