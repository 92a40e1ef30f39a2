// The CPU as a device: opening and closing, and the stages that need no file of their own.
#include "engine/cpu/cpu.h"

#include "base/checked.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SCRATCH_ALIGN = 64 }; // a cache line, and the widest vector

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

// ---- Scratch: all of it in one block, which becomes resident where it is used

struct piece {
    void *member; // the pointer to set
    size_t rows, columns, size;
};

// Bytes of all pieces, each aligned, or false where the sum overflows. With a block, also points them into it.
static bool lay_out(const struct piece *pieces, size_t count, char *block, size_t *total) {
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        if (block) memcpy(pieces[i].member, &(char *){block + *total}, sizeof block);
        if (!checked_mul(pieces[i].rows, pieces[i].columns, &bytes) || !checked_mul(bytes, pieces[i].size, &bytes) ||
            !checked_add(bytes, SCRATCH_ALIGN - 1, &bytes) ||
            !checked_add(*total, bytes / SCRATCH_ALIGN * SCRATCH_ALIGN, total))
            return false;
    }
    return true;
}

static bool scratch_take(struct cpu *cpu) {
    const struct stage_limits *limits = &cpu->limits;
    size_t tokens = (size_t)limits->tokens_max, threads = (size_t)limits->threads, experts = (size_t)limits->experts;
    size_t hidden = (size_t)limits->hidden, intermediate = (size_t)limits->intermediate;
    size_t heads = (size_t)limits->heads, head_dim = (size_t)limits->head_dim;
    size_t input = larger(larger(hidden, intermediate), heads * head_dim),
           output = larger(input, (size_t)limits->vocab);
    size_t sorted = larger(tokens * ROUTE_TOP_K_MAX + experts * (ONEDNN_ROW_STEP - 1), ONEDNN_ROWS_MAX);
    cpu->attention_floats = attention_scratch_floats(limits);
    const struct piece pieces[] = {
        {&cpu->panel, threads, PANEL_FLOATS, sizeof *cpu->panel},
        {&cpu->narrow, sorted, input, sizeof *cpu->narrow},
        {&cpu->wide, ONEDNN_ROWS_MAX, output, sizeof *cpu->wide},
        {&cpu->attention, threads, cpu->attention_floats, sizeof *cpu->attention},
        {&cpu->tasks, attention_tasks_max(limits), 1, attention_task_bytes()},
        {&cpu->partial, tokens * heads * ATTENTION_SPLITS, head_dim + 2, sizeof *cpu->partial},
        {&cpu->score, tokens, experts, sizeof *cpu->score},
        {&cpu->expert_rows, experts, 1, sizeof *cpu->expert_rows},
        {&cpu->expert_next, experts, 1, sizeof *cpu->expert_next},
        {&cpu->sorted_row, tokens, ROUTE_TOP_K_MAX, sizeof *cpu->sorted_row},
        {&cpu->sorted, sorted, hidden, sizeof *cpu->sorted},
        {&cpu->gate, sorted, intermediate, sizeof *cpu->gate},
        {&cpu->up, sorted, intermediate, sizeof *cpu->up},
        {&cpu->narrow_gated, sorted, intermediate, sizeof *cpu->narrow_gated},
    };
    const size_t count = sizeof pieces / sizeof pieces[0];
    size_t bytes;
    if (!lay_out(pieces, count, NULL, &bytes)) return false;
    cpu->scratch = aligned_alloc(SCRATCH_ALIGN, bytes);
    return cpu->scratch && lay_out(pieces, count, cpu->scratch, &bytes);
}

// ---- Opening and closing

static void cpu_close(void *state) {
    struct cpu *cpu = state;
    if (!cpu) return;
    onednn_destroy(cpu->onednn);
    free(cpu->scratch);
    free(cpu);
}

int cpu_open(void **state, const struct stage_limits *limits, const struct cpu_options *options, struct error *error) {
    const struct kernels *kernels = kernels_at(options->level);
    if (!kernels) return error_set(error, ERROR_UNSUPPORTED, "this processor lacks the instructions for these kernels");
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return error_set(error, ERROR_MEMORY, "out of memory for the CPU's state");
    cpu->limits = *limits;
    cpu->kernels = kernels;

    int result = options->onednn ? onednn_create(&cpu->onednn, error) : 0;
    if (result == 0 && !scratch_take(cpu))
        result = error_set(error, ERROR_MEMORY, "out of memory for the CPU's buffers (%d tokens in one step)",
                           limits->tokens_max);
    if (result != 0) {
        cpu_close(cpu);
        return result;
    }
    cpu->bf16 = cpu->onednn && options->onednn_bf16 && onednn_has_bf16(cpu->onednn);
    snprintf(cpu->description, sizeof cpu->description, "CPU: %s%sown kernels, %s%s, %d thread%s",
             cpu->onednn ? onednn_name(cpu->onednn) : "", cpu->onednn ? " + " : "", kernels->name,
             cpu->bf16 ? " BF16" : "", limits->threads, limits->threads == 1 ? "" : "s");
    *state = cpu;
    return 0;
}

static int open_best(void **state, const struct stage_limits *limits, struct error *error) {
    const struct cpu_options options = {kernels_best(), true, true};
    return cpu_open(state, limits, &options, error);
}

static const char *describe(const void *state) {
    return ((const struct cpu *)state)->description;
}

// ---- Stages

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    const struct cpu *cpu = state;
    size_t width = (size_t)table->columns;
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (rows > 8)
    for (int r = 0; r < rows; r++) {
        size_t from = (size_t)token[r] * width, to = (size_t)r * width;
        if (table->format == WEIGHTS_F32)
            memcpy(x + to, (const float *)table->data + from, width * sizeof *x);
        else
            cpu->kernels->widen((const uint16_t *)table->data + from, x + to, width);
    }
}

static void norm(void *state, const struct norm *norm, const float *x, float *y, int rows) {
    const struct cpu *cpu = state;
    size_t width = (size_t)norm->width;
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (rows > 4)
    for (int r = 0; r < rows; r++)
        cpu->kernels->norm(x + (size_t)r * width, norm->weight, norm->bias, norm->epsilon, norm->width,
                           y + (size_t)r * width);
}

static void linear(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    matmul(state, linear, x, y, rows, accumulate);
}

const struct stages cpu_stages = {
    .name = "cpu",
    .describe = describe,
    .open = open_best,
    .close = cpu_close,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .attention = cpu_attention,
    .route = cpu_route,
    .experts = cpu_experts,
};
