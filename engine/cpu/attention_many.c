// Attention of a prompt, on the kernels of bf16.h.
//
// Scores are as good as f32's: queries and keys are each split into a part rounded to bf16 and what that leaves,
// rounded too, and only the product of both rests, 2^-18 of it all, is left out. (An error of a score is one of a
// weight's exponent.) Values and weights between 0 and 1 are rounded to bf16, a relative 2^-9 each; the scores'
// exponentials and all sums are f32. As everywhere here weights and keys take the part of a matrix's weights: scores
// are [key][query] and results [place][query], so that a vector holds sixteen queries, and each of them goes its own
// way without looking at the others. Keys are taken ATTENTION_KEYS at a time, cut at multiples of that, and one that a
// query does not see adds exactly 0: so a query's result depends neither on the chunk of the prompt nor on its place in
// it.
#include "engine/cpu/attention.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    ATTENTION_KEYS = 256,
    PARTS = 3, // products that a score is put together of
    PAGES = ATTENTION_KEYS / KV_PAGE_TOKENS,
    GROUPS = ATTENTION_MANY / BF16_GROUP,
};
_Static_assert((int)KV_PAGE_TOKENS == (int)BF16_OUTPUTS && (int)KV_PAGE_TOKENS == (int)BF16_STEP,
               "a page of keys is a panel's outputs, one of values its step");

struct scratch {
    float *score;     // [GROUPS][ATTENTION_KEYS][BF16_GROUP]
    float *sum;       // [GROUPS][width][BF16_GROUP]
    float *largest;   // [ATTENTION_MANY]
    float *total;     // [ATTENTION_MANY]
    uint16_t *q;      // [GROUPS][PARTS * width / 2][BF16_GROUP][2]: rounded, rest, rounded
    uint16_t *weight; // [GROUPS][ATTENTION_KEYS / 2][BF16_GROUP][2]
    uint16_t *keys;   // [PAGES][PARTS * width / BF16_STEP][BF16_OUTPUTS][BF16_STEP]: rounded, rounded, rest
    float *page;      // [BF16_OUTPUTS][head_dim] keys or values, widened
    float *rest;      // [BF16_OUTPUTS][head_dim] of the queries of a group, or the keys of a page
    uint16_t *values; // [width / BF16_OUTPUTS][PAGES][BF16_OUTPUTS][BF16_STEP]
    int *vector;      // [ATTENTION_MANY] of q and out
    int *position;    // [ATTENTION_MANY]
    size_t width;     // of a head, padded
};

static size_t padded(int count) {
    return ((size_t)count + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
}

// Pieces of a multiple of a cache line each, from `at` on; returns how many floats they are together.
static size_t lay_out(struct scratch *scratch, int head_dim, float *at) {
    size_t width = scratch->width = padded(head_dim), used = 0;
    const struct {
        void *member;
        size_t bytes;
    } parts[] = {
        {&scratch->score, ATTENTION_MANY * ATTENTION_KEYS * sizeof(float)},
        {&scratch->sum, ATTENTION_MANY * width * sizeof(float)},
        {&scratch->largest, ATTENTION_MANY * sizeof(float)},
        {&scratch->total, ATTENTION_MANY * sizeof(float)},
        {&scratch->q, PARTS * ATTENTION_MANY * width * sizeof(uint16_t)},
        {&scratch->weight, ATTENTION_MANY * ATTENTION_KEYS * sizeof(uint16_t)},
        {&scratch->keys, PARTS * ATTENTION_KEYS * width * sizeof(uint16_t)},
        {&scratch->page, BF16_OUTPUTS * width * sizeof(float)},
        {&scratch->rest, BF16_OUTPUTS * width * sizeof(float)},
        {&scratch->values, ATTENTION_KEYS * width * sizeof(uint16_t)},
        {&scratch->vector, ATTENTION_MANY * sizeof(int)},
        {&scratch->position, ATTENTION_MANY * sizeof(int)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (at) memcpy(parts[i].member, &(float *){at + used}, sizeof at); // whatever the pointer points to
        used += parts[i].bytes / sizeof(float);
    }
    return used;
}

size_t attention_many_floats(int head_dim) {
    return lay_out(&(struct scratch){0}, head_dim, NULL);
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

// What rounding to bf16, to the nearest and ties to even, takes from each of `count` values.
static void rests(const float *x, size_t count, float *rest) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        float rounded;
        memcpy(&bits, &x[i], sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        memcpy(&rounded, &bits, sizeof rounded);
        rest[i] = x[i] - rounded;
    }
}

// The queries of a group.
static void load_group(const struct attention_call *call, int group, const struct scratch *scratch) {
    const int *vector = scratch->vector + group * BF16_GROUP;
    int width = call->attention->head_dim;
    size_t part = scratch->width * BF16_GROUP;
    uint16_t *q = scratch->q + PARTS * part * (size_t)group;
    for (int r = 0; r < BF16_GROUP; r++)
        rests(call->q + (size_t)vector[r] * (size_t)width, (size_t)width, scratch->rest + r * width);
    call->cpu->bf16->pack(call->q, (size_t)width, vector, BF16_GROUP, width, q);
    call->cpu->bf16->pack(scratch->rest, (size_t)width, NULL, BF16_GROUP, width, q + part);
    memcpy(q + 2 * part, q, part * sizeof *q);
}

static void load_queries(const struct attention_call *call, const struct attention_task *task, int groups,
                         const struct scratch *scratch) {
    for (int r = 0; r < groups * BF16_GROUP; r++) {
        int row = smaller(r, task->rows - 1); // those beyond do as the last one does, and are not stored
        scratch->vector[r] = attention_vector(call, task, row);
        scratch->position[r] = task->sequence->position + (task->first + row) / call->group;
        scratch->largest[r] = -INFINITY;
        scratch->total[r] = 0;
    }
    for (int g = 0; g < groups; g++) load_group(call, g, scratch);
    memset(scratch->sum, 0, (size_t)groups * BF16_GROUP * scratch->width * sizeof *scratch->sum);
}

static void load_keys(const struct attention_call *call, const float *keys, int count, int page,
                      const struct scratch *scratch) {
    size_t part = scratch->width * BF16_OUTPUTS;
    uint16_t *panel = scratch->keys + PARTS * part * (size_t)page;
    int width = call->attention->head_dim;
    rests(keys, (size_t)count * (size_t)width, scratch->rest);
    call->cpu->bf16->keys(keys, count, width, panel);
    memcpy(panel + part, panel, part * sizeof *panel);
    call->cpu->bf16->keys(scratch->rest, count, width, panel + 2 * part);
}

// Pages [first, first + pages) of the sequence, of which keys from `end` on are not there.
static void load_pages(const struct attention_call *call, const struct attention_task *task, int first, int pages,
                       int end, const struct scratch *scratch) {
    const struct kv_cache *cache = call->cache;
    int width = call->attention->head_dim;
    for (int p = 0; p < pages; p++) {
        int32_t page = task->sequence->pages[first + p];
        int count = smaller(end - (first + p) * KV_PAGE_TOKENS, KV_PAGE_TOKENS);
        void *keys = kv_cache_block(cache, call->layer, page, 0, task->kv_head);
        void *values = kv_cache_block(cache, call->layer, page, 1, task->kv_head);
        load_keys(call, attention_floats(call, keys, count, scratch->page), count, p, scratch);
        call->cpu->bf16->values(attention_floats(call, values, count, scratch->page), count, width,
                                scratch->values + (size_t)p * BF16_PANEL_STEP, PAGES * BF16_PANEL_STEP);
    }
}

static void multiply_keys(const struct attention_call *call, int groups, int pages, const struct scratch *scratch) {
    for (int p = 0; p < pages; p++)
        call->cpu->bf16->block(
            &(struct bf16_block){.weight = scratch->keys + (size_t)p * PARTS * scratch->width * BF16_OUTPUTS,
                                 .weight_stride = BF16_STEP,
                                 .step_stride = BF16_PANEL_STEP,
                                 .outputs = BF16_OUTPUTS,
                                 .steps = PARTS * (int)scratch->width / BF16_STEP,
                                 .x = scratch->q,
                                 .group_stride = PARTS * scratch->width * BF16_GROUP,
                                 .groups = groups,
                                 .sum = scratch->score + p * KV_PAGE_TOKENS * BF16_GROUP,
                                 .sum_stride = ATTENTION_KEYS * BF16_GROUP});
}

static void weigh(const struct attention_call *call, int groups, int first, int pages, const struct scratch *scratch) {
    size_t width = scratch->width;
    for (int g = 0; g < groups; g++)
        call->cpu->bf16->weigh(&(struct bf16_weigh){.score = scratch->score + g * ATTENTION_KEYS * BF16_GROUP,
                                                    .keys = pages * KV_PAGE_TOKENS,
                                                    .position = first * KV_PAGE_TOKENS,
                                                    .query = scratch->position + g * BF16_GROUP,
                                                    .window = call->attention->window,
                                                    .scale = 1 / sqrtf((float)call->attention->head_dim),
                                                    .largest = scratch->largest + g * BF16_GROUP,
                                                    .total = scratch->total + g * BF16_GROUP,
                                                    .sum = scratch->sum + (size_t)g * width * BF16_GROUP,
                                                    .width = (int)width,
                                                    .to = scratch->weight + g * ATTENTION_KEYS * BF16_GROUP});
}

static void add_values(const struct attention_call *call, int groups, int pages, const struct scratch *scratch) {
    int width = call->attention->head_dim;
    for (int i = 0; i < width; i += BF16_OUTPUTS)
        call->cpu->bf16->block(
            &(struct bf16_block){.weight = scratch->values + (size_t)(i / BF16_OUTPUTS) * PAGES * BF16_PANEL_STEP,
                                 .weight_stride = BF16_STEP,
                                 .step_stride = BF16_PANEL_STEP,
                                 .outputs = BF16_OUTPUTS,
                                 .steps = pages,
                                 .x = scratch->weight,
                                 .group_stride = ATTENTION_KEYS * BF16_GROUP,
                                 .groups = groups,
                                 .sum = scratch->sum + i * BF16_GROUP,
                                 .sum_stride = scratch->width * BF16_GROUP,
                                 .add = true});
}

void attention_many_task(const struct attention_call *call, const struct attention_task *task) {
    const struct cpu *cpu = call->cpu;
    struct scratch scratch;
    lay_out(&scratch, call->attention->head_dim, cpu->attention + (size_t)omp_get_thread_num() * cpu->attention_floats);
    int groups = (task->rows + BF16_GROUP - 1) / BF16_GROUP;
    int end = attention_keys(call, task->sequence, task->first, task->first + task->rows).last;
    cpu->bf16->begin();
    load_queries(call, task, groups, &scratch);
    for (int page = task->page_first, pages; page < task->page_last; page += pages) {
        pages = smaller(task->page_last - page, PAGES - page % PAGES);
        load_pages(call, task, page, pages, end, &scratch);
        multiply_keys(call, groups, pages, &scratch);
        weigh(call, groups, page, pages, &scratch);
        add_values(call, groups, pages, &scratch);
    }
    for (int r = 0; r < task->rows; r++) scratch.total[r] = 1 / scratch.total[r];
    cpu->bf16->store(&(struct bf16_store){.sum = scratch.sum,
                                          .sum_stride = scratch.width * BF16_GROUP,
                                          .outputs = call->attention->head_dim,
                                          .rows = task->rows,
                                          .scale = scratch.total,
                                          .row = scratch.vector,
                                          .y = call->out,
                                          .y_stride = (size_t)call->attention->head_dim});
    cpu->bf16->end();
}
