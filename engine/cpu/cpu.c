// The CPU as a device: opening and closing, and the stages that need no file of their own.
#include "engine/cpu/cpu.h"

#include "base/block.h"
#include "base/smaller.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Scratch: all of it in one block, which becomes resident where it is used

static bool scratch_take(struct cpu *cpu) {
    const struct stage_limits *limits = &cpu->limits;
    size_t tokens = (size_t)limits->tokens_max, threads = (size_t)limits->threads, experts = (size_t)limits->experts;
    size_t hidden = (size_t)limits->hidden, intermediate = (size_t)limits->intermediate;
    size_t heads = (size_t)limits->heads, head_dim = (size_t)limits->head_dim;
    size_t sequences = (size_t)limits->sequences_max;
    size_t input = larger_size(larger_size(hidden, intermediate), heads * head_dim) + BF16_STEP - 1;
    size_t input_blocks = (input + PACKED_COLUMNS - 1) / PACKED_COLUMNS + 1;
    size_t sorted = tokens * ROUTE_TOP_K_MAX + experts * (BF16_GROUP - 1);
    size_t thirds = cpu->tiles ? (sorted / BF16_GROUP + 1) * THIRDS_GROUPS : 0;
    cpu->packed_down_floats = sorted * PACKED_DOWN;
    cpu->attention_floats = attention_scratch_floats(limits);
    const struct block_part parts[] = {
        {&cpu->panel, threads, PANEL_FLOATS, sizeof *cpu->panel},
        {&cpu->filled_x, SGEMM_ROWS_MIN, input, sizeof *cpu->filled_x},
        {&cpu->filled_y, SGEMM_ROWS_MIN, larger_size(input, (size_t)limits->vocab), sizeof *cpu->filled_y},
        {&cpu->narrow, sorted, input, sizeof *cpu->narrow},
        {&cpu->many, threads, 1, sizeof *cpu->many},
        {&cpu->many_added, threads * tokens, MANY_ADDED, sizeof *cpu->many_added},
        {&cpu->packed_x, tokens + PACKED_ROWS - 1, input_blocks, sizeof *cpu->packed_x},
        {&cpu->packed_sorted, sorted, input_blocks, sizeof *cpu->packed_sorted},
        {&cpu->packed_gated, sorted, packed_x_blocks(limits->intermediate), sizeof *cpu->packed_gated},
        {&cpu->packed_down, threads, cpu->packed_down_floats, sizeof *cpu->packed_down},
        {&cpu->attention, threads, cpu->attention_floats, sizeof *cpu->attention},
        {&cpu->tasks, attention_tasks_max(limits), 1, attention_task_bytes()},
        {&cpu->partial, sequences * heads * ATTENTION_SPLITS, head_dim + 2, sizeof *cpu->partial},
        {&cpu->score, tokens, experts, sizeof *cpu->score},
        {&cpu->router, hidden, experts, sizeof *cpu->router},
        {&cpu->expert_rows, experts, 1, sizeof *cpu->expert_rows},
        {&cpu->expert_next, experts, 1, sizeof *cpu->expert_next},
        {&cpu->sorted_row, tokens, ROUTE_TOP_K_MAX, sizeof *cpu->sorted_row},
        {&cpu->sorted_token, sorted, 1, sizeof *cpu->sorted_token},
        {&cpu->sorted_weight, sorted, 1, sizeof *cpu->sorted_weight},
        {&cpu->sorted, sorted, hidden, sizeof *cpu->sorted},
        {&cpu->gate, sorted, intermediate, sizeof *cpu->gate},
        {&cpu->up, sorted, intermediate, sizeof *cpu->up},
        {&cpu->narrow_gated, sorted, intermediate + BF16_STEP - 1, sizeof *cpu->narrow_gated},
        {&cpu->thirds, thirds, thirds_values((int)input), sizeof *cpu->thirds},
        {&cpu->thirds_gated, thirds, thirds_values(limits->intermediate), sizeof *cpu->thirds_gated},
    };
    cpu->scratch = block_create(parts, sizeof parts / sizeof *parts);
    return cpu->scratch != NULL;
}

// ---- Opening and closing

static void cpu_close(void *state) {
    struct cpu *cpu = state;
    if (!cpu) return;
    team_close(cpu->team);
    free(cpu->scratch);
    free(cpu);
}

int cpu_open(void **state, const struct stage_limits *limits, const struct cpu_options *options, struct error *error) {
    const struct kernels *kernels = kernels_at(options->level);
    const struct bf16_kernels *bf16 = bf16_kernels_at(options->bf16);
    const struct packed_kernels *packed = packed_kernels_at(options->packed);
    if (!kernels || !packed || (options->bf16 != BF16_NONE && !bf16))
        return error_set(error, ERROR_UNSUPPORTED, "this processor lacks the instructions for these kernels");
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return error_set(error, ERROR_MEMORY, "out of memory for the CPU's state");
    cpu->limits = *limits;
    cpu->kernels = kernels;
    cpu->onednn = options->onednn;
    cpu->bf16 = bf16;
    cpu->attention_kernels = attention_kernels_at(options->bf16);
    cpu->packed = packed;
    cpu->tiles = options->bf16 == BF16_AMX; // on vectors bf16 is slower than int8
    if (!scratch_take(cpu)) {
        cpu_close(cpu);
        return error_set(error, ERROR_MEMORY, "out of memory for the CPU's buffers (%d tokens in one step)",
                         limits->tokens_max);
    }
    char onednn[32] = "";
    if (cpu->onednn) onednn_name(onednn, sizeof onednn);
    snprintf(cpu->description, sizeof cpu->description, "CPU: %s%sown kernels, %s%s%s + int8 by %s, %d thread%s",
             onednn, cpu->onednn ? " + " : "", kernels->name, bf16 ? " + " : "", bf16 ? bf16->name : "", packed->name,
             limits->threads, limits->threads == 1 ? "" : "s");
    *state = cpu;
    return 0;
}

// By the names of ENGINE_KERNELS. Those that are forced go without oneDNN, which has its own mind about instructions.
static int open_named(void **state, const struct stage_limits *limits, struct error *error) {
    static const struct {
        const char *name;
        struct cpu_options options;
    } FORCED[] = {
        {"plain", {KERNELS_C, false, BF16_NONE, PACKED_C}},
        {"avx2", {KERNELS_AVX2, false, BF16_NONE, PACKED_AVX2}},
        {"avx-vnni", {KERNELS_AVX2, false, BF16_NONE, PACKED_AVX_VNNI}},
        {"avx512", {KERNELS_AVX512, false, BF16_NONE, PACKED_AVX512_VNNI}},
        {"amx", {KERNELS_AVX512, false, BF16_AMX, PACKED_AMX}},
    };
    for (size_t i = 0; limits->kernels && i < sizeof FORCED / sizeof *FORCED; i++) {
        if (strcmp(limits->kernels, FORCED[i].name) != 0) continue;
        int rc = cpu_open(state, limits, &FORCED[i].options, error);
        if (rc == ERROR_UNSUPPORTED)
            error_set(error, rc, "this processor lacks the instructions for the %s kernels", limits->kernels);
        return rc;
    }
    const struct cpu_options best = {kernels_best(), true, bf16_best(), packed_best()};
    return cpu_open(state, limits, &best, error);
}

static const char *describe(const void *state) {
    return ((const struct cpu *)state)->description;
}

// ---- Stages

static void rows_are(void *state, enum row_kind kind) {
    ((struct cpu *)state)->kind = kind;
}

static bool unpacks(const void *state, enum weight_format weights) {
    return weight_format_packed(weights) && ((const struct cpu *)state)->tiles;
}

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    const struct cpu *cpu = state;
    size_t width = (size_t)table->columns;
#pragma omp parallel for schedule(static) num_threads(cpu->limits.threads) if (rows > 8)
    for (int r = 0; r < rows; r++) matmul_weights(cpu, table, token[r], 0, width, x + (size_t)r * width);
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
    matmul(state, &(struct products){&linear, 1, x, &y, rows, accumulate});
}

static void linears(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows) {
    matmul(state, &(struct products){linears, count, x, y, rows, false});
}

const struct stages cpu_stages = {
    .name = "cpu",
    .describe = describe,
    .open = open_named,
    .close = cpu_close,
    .measure = cpu_measure,
    .measure_reading = cpu_measure_reading,
    .pin = cpu_pin,
    .rows_are = rows_are,
    .unpacks = unpacks,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .linears = linears,
    .attention = cpu_attention,
    .route = cpu_route,
    .experts = cpu_experts,
};
