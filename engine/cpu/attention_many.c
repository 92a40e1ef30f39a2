// Attention of a prompt, on the kernels of attention_kernels.h.
//
// Scores are as good as f32's: queries and keys are each split into a part rounded to bf16 and what that leaves,
// rounded too, and only the product of both rests, at most 2^-16 of it all, is left out. (An error of a score is one of
// a weight's exponent.) Values and weights between 0 and 1 are rounded to bf16, by at most 2^-8 of each; the scores'
// exponentials and all sums are f32. As everywhere here weights and keys take the part of a matrix's weights: scores
// are [key][query] and results [place][query], so that a vector holds sixteen queries, and each of them goes its own
// way without looking at the others. Keys are taken ATTENTION_KEYS at a time, cut at multiples of that, and one that a
// query does not see adds exactly 0, whether it is hidden or left out with its page: so a query's result depends
// neither on the chunk of the prompt nor on its place in it.
//
// A task's keys are made ready once for all of its units. While tiles multiply one unit, vectors weigh the one before.
#include "engine/cpu/attention.h"

#include "base/smaller.h"
#include "engine/cpu/attention_kernels.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    MANY_MIN = 64, // query rows of a task: ATTENTION_ROWS, as tasks are counted beforehand
    MANY_MAX = 1024,
    UNITS = MANY_MAX / ATTENTION_UNIT,
    TASKS_EACH = 4, // for a thread, so that they end together
};
_Static_assert((int)MANY_MIN == (int)ATTENTION_ROWS, "there is room for as many tasks");

struct scratch {
    float *score;     // [2][2 groups][ATTENTION_KEYS][ATTENTION_LANES] of the unit at hand and the one before
    uint16_t *weight; // [2][2 groups][ATTENTION_PAGES] tiles
    uint16_t *keys;   // [ATTENTION_PAGES][2 parts][ATTENTION_PAGE_KEYS * width]
    uint16_t *values; // [ATTENTION_PAGES][ATTENTION_PAGE_KEYS * width]
    float *room;      // [ATTENTION_PAGE_KEYS][head_dim] keys or values, or the queries of a group
    uint16_t *q;      // [UNITS][2 parts][ATTENTION_UNIT * width]
    float *sum;       // [UNITS][ATTENTION_UNIT * width]
    struct attention_unit *unit; // [UNITS]
    size_t width;                // of a head, padded
};

static size_t padded(int count) {
    return ((size_t)count + ATTENTION_STEP - 1) / ATTENTION_STEP * ATTENTION_STEP;
}

// Pieces that begin at a cache line each, from `at` on; returns how many floats they are together.
static size_t lay_out(struct scratch *scratch, int head_dim, float *at) {
    size_t width = scratch->width = padded(head_dim), used = 0;
    const struct {
        void *member;
        size_t bytes;
    } parts[] = {
        {&scratch->score, 4 * ATTENTION_SCORES * sizeof(float)},
        {&scratch->weight, 4 * ATTENTION_SCORES * sizeof(uint16_t)},
        {&scratch->keys, 2 * ATTENTION_KEYS * width * sizeof(uint16_t)},
        {&scratch->values, ATTENTION_KEYS * width * sizeof(uint16_t)},
        {&scratch->room, ATTENTION_PAGE_KEYS * width * sizeof(float)},
        {&scratch->q, 2 * MANY_MAX * width * sizeof(uint16_t)},
        {&scratch->sum, MANY_MAX * width * sizeof(float)},
        {&scratch->unit, UNITS * sizeof(struct attention_unit)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (at) memcpy(parts[i].member, &(float *){at + used}, sizeof at); // whatever the pointer points to
        used += (parts[i].bytes + 63) / 64 * 64 / sizeof(float);
    }
    return used;
}

size_t attention_many_floats(int head_dim) {
    return lay_out(&(struct scratch){0}, head_dim, NULL);
}

int attention_many_rows(const struct attention_call *call, int prompts) {
    int rows = prompts * call->attention->heads / (call->cpu->limits.threads * TASKS_EACH);
    return smaller(larger(rows / ATTENTION_UNIT * ATTENTION_UNIT, MANY_MIN), MANY_MAX);
}

// ---- Queries

// Those beyond the last one do as it does, and are not stored.
static int row_of(const struct attention_task *task, int unit, int i) {
    return smaller(unit * ATTENTION_UNIT + i, task->rows - 1);
}

static void load_unit(const struct attention_call *call, const struct attention_task *task,
                      const struct scratch *scratch, int u) {
    const struct attention *attention = call->attention;
    size_t width = (size_t)attention->head_dim, half = width / 2;
    struct attention_unit *unit = &scratch->unit[u];
    unit->q = scratch->q + 2 * ATTENTION_UNIT * scratch->width * (size_t)u;
    unit->sum = scratch->sum + ATTENTION_UNIT * scratch->width * (size_t)u;
    unit->begun = false;
    for (int i = 0; i < ATTENTION_UNIT; i++) {
        int row = row_of(task, u, i), lane = i % ATTENTION_LANES;
        int position = unit->query[i] = task->sequence->position + (task->first + row) / call->group;
        float *q = scratch->room + (size_t)lane * width;
        unit->largest[i] = -INFINITY;
        unit->total[i] = 0;
        memcpy(q, call->q + (size_t)attention_vector(call, task, row) * width, width * sizeof *q);
        call->cpu->kernels->rotate(attention->rope_cos + (size_t)position * half,
                                   attention->rope_sin + (size_t)position * half, (int)half, q);
        if (lane == ATTENTION_LANES - 1)
            call->cpu->attention_kernels->queries(scratch->room, (int)width,
                                                  unit->q + i / ATTENTION_LANES * ATTENTION_TILE);
    }
}

static void store_unit(const struct attention_call *call, const struct attention_task *task,
                       const struct scratch *scratch, int u) {
    for (int group = 0; group < 2; group++) {
        int first = u * ATTENTION_UNIT + group * ATTENTION_LANES, rows = smaller(task->rows - first, ATTENTION_LANES);
        int vector[ATTENTION_LANES];
        for (int r = 0; r < rows; r++) vector[r] = attention_vector(call, task, first + r);
        if (rows > 0)
            call->cpu->attention_kernels->store(&scratch->unit[u], group, rows, vector, call->attention->head_dim,
                                                call->out);
    }
}

// ---- Keys and values

// Pages [first, first + pages) of the sequence, of which keys from `end` on are not there, from place `at` of a block
// on.
static void load_pages(const struct attention_call *call, const struct attention_task *task, int first, int pages,
                       int end, int at, const struct scratch *scratch) {
    const struct kv_cache *cache = call->cache;
    const struct attention_kernels *kernels = call->cpu->attention_kernels;
    size_t page_values = ATTENTION_PAGE_KEYS * scratch->width;
    int width = call->attention->head_dim;
    for (int p = 0; p < pages; p++, at++) {
        int32_t page = task->sequence->pages[first + p];
        int count = smaller(end - (first + p) * KV_PAGE_TOKENS, KV_PAGE_TOKENS);
        void *keys = kv_cache_block(cache, call->layer, page, 0, task->kv_head);
        void *values = kv_cache_block(cache, call->layer, page, 1, task->kv_head);
        kernels->keys(attention_floats(call, keys, count, scratch->room), count, width,
                      scratch->keys + 2 * page_values * (size_t)at);
        kernels->values(attention_floats(call, values, count, scratch->room), count, width,
                        scratch->values + page_values * (size_t)at);
    }
}

// ---- A block of keys

// What a unit has to do there; no pages where it sees none of its keys.
static struct attention_work work_of(const struct attention_call *call, const struct scratch *scratch, int u,
                                     int position) {
    struct attention_unit *unit = &scratch->unit[u];
    int oldest = unit->query[0] - call->attention->window + 1, newest = unit->query[ATTENTION_UNIT - 1];
    return (struct attention_work){.unit = unit,
                                   .keys = scratch->keys,
                                   .values = scratch->values,
                                   .position = position,
                                   .first = larger(oldest - position, 0) / ATTENTION_PAGE_KEYS,
                                   .last = smaller((newest - position) / ATTENTION_PAGE_KEYS + 1, ATTENTION_PAGES),
                                   .width = (int)scratch->width,
                                   .window = call->attention->window,
                                   .scale = 1.44269504f / sqrtf((float)call->attention->head_dim),
                                   .score = scratch->score + u % 2 * 2 * ATTENTION_SCORES,
                                   .weight = scratch->weight + u % 2 * 2 * ATTENTION_SCORES};
}

static bool sees(const struct attention_work *work) {
    return work->unit->query[ATTENTION_UNIT - 1] >= work->position && work->first < work->last;
}

// Those that see a key of the block follow one another: queries go up, and so do the first and the last key they see.
static void attend(const struct attention_call *call, const struct scratch *scratch, int units, int position) {
    const struct attention_kernels *kernels = call->cpu->attention_kernels;
    struct attention_work now, before;
    const struct attention_work *pending = NULL;
    for (int u = 0; u < units; u++) {
        now = work_of(call, scratch, u, position);
        if (!sees(&now)) continue;
        kernels->scores(&now, pending);
        if (pending) kernels->sums(pending);
        kernels->look(&now);
        before = now;
        pending = &before;
    }
    if (!pending) return;
    kernels->scores(NULL, pending);
    kernels->sums(pending);
}

void attention_many_task(const struct attention_call *call, const struct attention_task *task) {
    const struct cpu *cpu = call->cpu;
    struct scratch scratch;
    lay_out(&scratch, call->attention->head_dim, cpu->attention + (size_t)omp_get_thread_num() * cpu->attention_floats);
    int units = (task->rows + ATTENTION_UNIT - 1) / ATTENTION_UNIT;
    int end = attention_keys(call, task->sequence, task->first, task->first + task->rows).last;
    cpu->attention_kernels->begin();
    for (int u = 0; u < units; u++) load_unit(call, task, &scratch, u);
    for (int page = task->page_first, pages; page < task->page_last; page += pages) {
        int at = page % ATTENTION_PAGES;
        pages = smaller(task->page_last - page, ATTENTION_PAGES - at);
        load_pages(call, task, page, pages, end, at, &scratch);
        attend(call, &scratch, units, (page - at) * KV_PAGE_TOKENS);
    }
    for (int u = 0; u < units; u++) store_unit(call, task, &scratch, u);
    cpu->attention_kernels->end();
}
