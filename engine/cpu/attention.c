// Attention over the paged cache, without ever holding a whole row of scores: keys are taken a page at a time,
// and each query keeps its largest score so far, the sum of the exponentials relative to it, and the sum of the
// values weighted with them; when a larger score turns up, both sums are scaled down to it.
//
// The unit of work is a block of up to ATTENTION_ROWS query rows that share one key and value head (all heads
// of a group, a few positions), so that each page is loaded once for all of them. Few queries with many keys
// have their keys dealt out in parts, whose results are put together at the end; how many parts depends on the
// sequence alone, so that its result does not depend on its company. Prompts' are never dealt out: their results do
// not depend on the chunk either. They go to attention_many.c where the processor multiplies bf16.
#include "engine/cpu/attention.h"

#include "base/smaller.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    TRANSPOSE_ROWS_MIN = 9, // from so many query rows a page is worth widening, and its keys turning around
    LINE_FLOATS = 16,
};

// What a thread needs for one task.
struct scratch {
    float *q;       // [ATTENTION_ROWS][head_dim], scaled
    float *sum;     // [ATTENTION_ROWS][head_dim] weighted values
    float *score;   // [ATTENTION_ROWS][KV_PAGE_TOKENS]
    float *keys;    // [head_dim][KV_PAGE_TOKENS]
    float *page;    // [KV_PAGE_TOKENS][head_dim] keys or values, widened
    float *largest; // [ATTENTION_ROWS]
    float *total;   // [ATTENTION_ROWS]
};

size_t attention_scratch_floats(const struct stage_limits *limits) {
    size_t width = (size_t)limits->head_dim;
    size_t few = ATTENTION_ROWS * (2 * width + KV_PAGE_TOKENS + 2) + 2 * width * KV_PAGE_TOKENS;
    size_t many = attention_many_floats(limits->head_dim);
    return (few > many ? few : many) / LINE_FLOATS * LINE_FLOATS + LINE_FLOATS; // a thread's begin at a cache line
}

size_t attention_tasks_max(const struct stage_limits *limits) {
    // For each key and value head: the whole blocks, and of each sequence a block that is not whole, or the parts.
    size_t group = (size_t)(limits->heads / limits->kv_heads);
    size_t blocks = (size_t)limits->tokens_max * group / ATTENTION_ROWS;
    return (size_t)limits->kv_heads * (blocks + (size_t)limits->sequences_max * ATTENTION_SPLITS);
}

size_t attention_task_bytes(void) {
    return sizeof(struct attention_task);
}

static struct scratch scratch_of(const struct attention_call *call) {
    size_t width = (size_t)call->attention->head_dim;
    float *at = call->cpu->attention + (size_t)omp_get_thread_num() * call->cpu->attention_floats;
    struct scratch scratch;
    scratch.q = at;
    scratch.sum = scratch.q + ATTENTION_ROWS * width;
    scratch.score = scratch.sum + ATTENTION_ROWS * width;
    scratch.keys = scratch.score + ATTENTION_ROWS * KV_PAGE_TOKENS;
    scratch.page = scratch.keys + width * KV_PAGE_TOKENS;
    scratch.largest = scratch.page + width * KV_PAGE_TOKENS;
    scratch.total = scratch.largest + ATTENTION_ROWS;
    return scratch;
}

// ---- Keys and values into the cache

static void store_vector(const struct attention_call *call, int32_t page, int part, int kv_head, int position,
                         const float *x) {
    void *block = kv_cache_block(call->cache, call->layer, page, part, kv_head);
    float scale =
        attention_rows(call)->store(x, kv_cache_row(call->cache, block, position), (size_t)call->attention->head_dim);
    if (call->cache->format == KV_INT8) kv_cache_scales(call->cache, block)[position] = scale;
}

// Turns query and key, and stores key and value. Tasks of many queries turn them themselves.
static void store_row(const struct attention_call *call, const struct batch_sequence *sequence, int i, bool many) {
    const struct attention *attention = call->attention;
    const struct kernels *kernels = call->cpu->kernels;
    int position = sequence->position + i, half = attention->head_dim / 2;
    size_t row = (size_t)(sequence->first + i), width = (size_t)attention->head_dim;
    const float *cosine = attention->rope_cos + (size_t)position * (size_t)half;
    const float *sine = attention->rope_sin + (size_t)position * (size_t)half;
    float *q = call->q + row * (size_t)attention->heads * width;
    float *k = call->k + row * (size_t)attention->kv_heads * width;
    const float *v = call->v + row * (size_t)attention->kv_heads * width;

    for (int h = 0; h < attention->heads && !many; h++) kernels->rotate(cosine, sine, half, q + (size_t)h * width);
    int32_t page = sequence->pages[position / KV_PAGE_TOKENS];
    for (int h = 0; h < attention->kv_heads; h++) {
        kernels->rotate(cosine, sine, half, k + (size_t)h * width);
        store_vector(call, page, 0, h, position % KV_PAGE_TOKENS, k + (size_t)h * width);
        store_vector(call, page, 1, h, position % KV_PAGE_TOKENS, v + (size_t)h * width);
    }
}

// ---- And out of it

const float *attention_floats(const struct attention_call *call, void *block, int count, float *room) {
    const struct kv_cache *cache = call->cache;
    size_t width = (size_t)cache->head_dim;
    if (cache->format == KV_F32) return block;
    for (int i = 0; i < count; i++)
        attention_rows(call)->load(kv_cache_row(cache, block, i),
                                   cache->format == KV_INT8 ? kv_cache_scales(cache, block)[i] : 1,
                                   room + (size_t)i * width, width);
    return room;
}

// Multiplies the weights or scores of each row by the scales of keys or values.
static void apply_scales(const struct attention_call *call, void *block, int rows, int count, float *x) {
    if (call->cache->format != KV_INT8) return;
    const float *scale = kv_cache_scales(call->cache, block);
    for (int r = 0; r < rows; r++, x += KV_PAGE_TOKENS)
        for (int j = 0; j < count; j++) x[j] *= scale[j];
}

// ---- Tasks

struct share attention_keys(const struct attention_call *call, const struct batch_sequence *sequence, int first,
                            int last) {
    int from = sequence->position + first / call->group - call->attention->window + 1;
    return (struct share){larger(from, 0), sequence->position + (last - 1) / call->group + 1};
}

static size_t plan_block(const struct attention_call *call, const struct batch_sequence *sequence, bool prompt,
                         int kv_head, int first, int rows, size_t *partial, struct attention_task *tasks) {
    struct share keys = attention_keys(call, sequence, first, first + rows);
    int page_first = keys.first / KV_PAGE_TOKENS, page_last = kv_cache_pages_for((size_t)keys.last);
    bool split = !prompt && sequence->count == 1 && call->group <= ATTENTION_ROWS;
    int parts = 1;
    if (split) parts = larger(1, smaller(ATTENTION_SPLITS, (keys.last - keys.first) / ATTENTION_SPLIT_KEYS));
    for (int part = 0; part < parts; part++) {
        struct share pages = share_of(page_last - page_first, part, parts, 1);
        tasks[part] = (struct attention_task){
            sequence, prompt, kv_head, first, rows, page_first + pages.first, page_first + pages.last,
            part,     parts,  *partial};
        if (parts > 1) *partial += (size_t)rows;
    }
    return (size_t)parts;
}

// Fills tasks and counts the rows of partial results that they will leave. Of many queries the last come first: they
// see the most keys, so the shortest tasks are left for the end.
static size_t plan(const struct attention_call *call, const struct batch *batch, struct attention_task *tasks,
                   size_t *partial) {
    size_t count = 0;
    *partial = 0;
    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequence[s];
        bool prompt = sequence->first >= batch->answers;
        int rows = sequence->count * call->group, at_once = ATTENTION_ROWS;
        if (attention_many(call, prompt)) at_once = attention_many_rows(call, batch->tokens - batch->answers);
        for (int first = (rows - 1) / at_once * at_once; first >= 0; first -= at_once)
            for (int h = 0; h < call->attention->kv_heads; h++)
                count += plan_block(call, sequence, prompt, h, first, smaller(at_once, rows - first), partial,
                                    tasks + count);
    }
    return count;
}

// ---- One task

// Where the values of a query row lie in q and out.
static size_t row_offset(const struct attention_call *call, const struct attention_task *task, int r) {
    return (size_t)attention_vector(call, task, r) * (size_t)call->attention->head_dim;
}

// Keys or values of one page, and how far behind them those of the next one lie that the task will see.
struct page {
    void *block;
    int count;       // of them are there
    ptrdiff_t ahead; // 0: there is no next one
};

static struct page page_of(const struct attention_call *call, const struct attention_task *task, int number, int part,
                           int count) {
    const int32_t *pages = task->sequence->pages;
    unsigned char *block = kv_cache_block(call->cache, call->layer, pages[number], part, task->kv_head), *next = block;
    if (number + 1 < task->page_last)
        next = kv_cache_block(call->cache, call->layer, pages[number + 1], part, task->kv_head);
    return (struct page){block, count, next - block};
}

static bool widened(const struct attention_task *task) {
    return task->prompt || task->rows >= TRANSPOSE_ROWS_MIN;
}

// score[r][j] = q[r] · key[j] for the keys of a page.
static void page_scores(const struct attention_call *call, const struct attention_task *task,
                        const struct scratch *scratch, const struct page *page) {
    const struct kernels *kernels = call->cpu->kernels;
    int width = call->attention->head_dim;
    if (!widened(task)) {
        attention_rows(call)->dot(&(struct dot){.weight = page->block,
                                                .outputs = page->count,
                                                .columns = width,
                                                .x = scratch->q,
                                                .rows = task->rows,
                                                .y = scratch->score,
                                                .y_stride = KV_PAGE_TOKENS,
                                                .ahead = page->ahead});
        apply_scales(call, page->block, task->rows, page->count, scratch->score);
        return;
    }
    const float *keys = attention_floats(call, page->block, page->count, scratch->page);
    kernels->transpose(keys, (size_t)width, page->count, width, scratch->keys, KV_PAGE_TOKENS);
    memset(scratch->score, 0, (size_t)task->rows * KV_PAGE_TOKENS * sizeof *scratch->score);
    kernels->product(&(struct product){.a = scratch->q,
                                       .a_stride = (size_t)width,
                                       .b = scratch->keys,
                                       .b_stride = KV_PAGE_TOKENS,
                                       .c = scratch->score,
                                       .c_stride = KV_PAGE_TOKENS,
                                       .rows = task->rows,
                                       .depth = width,
                                       .columns = page->count});
}

// sum[r] += weight[r][j] · value[j] for the values of a page.
static void page_values(const struct attention_call *call, const struct attention_task *task,
                        const struct scratch *scratch, const struct page *page) {
    const struct row_kernels *kernels = &call->cpu->kernels->rows[widened(task) ? KV_F32 : call->cache->format];
    int width = call->attention->head_dim;
    const void *values = page->block;
    if (widened(task))
        values = attention_floats(call, page->block, page->count, scratch->page);
    else
        apply_scales(call, page->block, task->rows, page->count, scratch->score);
    kernels->product(&(struct product){.a = scratch->score,
                                       .a_stride = KV_PAGE_TOKENS,
                                       .b = values,
                                       .b_stride = (size_t)width,
                                       .c = scratch->sum,
                                       .c_stride = (size_t)width,
                                       .rows = task->rows,
                                       .depth = page->count,
                                       .columns = width,
                                       .ahead = widened(task) ? 0 : page->ahead});
}

// Turns the scores of one row into weights, of which those outside [first, last) are 0.
static void page_weights(const struct attention_call *call, const struct scratch *scratch, int r, int first, int last,
                         int count) {
    const struct kernels *kernels = call->cpu->kernels;
    size_t width = (size_t)call->attention->head_dim;
    float *score = scratch->score + (size_t)r * KV_PAGE_TOKENS;
    for (int j = 0; j < smaller(first, count); j++) score[j] = 0;
    for (int j = larger(last, 0); j < count; j++) score[j] = 0;
    if (first >= last) return;

    float largest = kernels->maximum(score + first, (size_t)(last - first));
    if (largest > scratch->largest[r]) {
        float factor = expf(scratch->largest[r] - largest);
        kernels->scale(scratch->sum + (size_t)r * width, factor, width);
        scratch->total[r] *= factor;
        scratch->largest[r] = largest;
    }
    scratch->total[r] += kernels->exponentials(score + first, scratch->largest[r], (size_t)(last - first));
}

static void load_queries(const struct attention_call *call, const struct attention_task *task,
                         const struct scratch *scratch) {
    size_t width = (size_t)call->attention->head_dim;
    float scale = 1 / sqrtf((float)width);
    for (int r = 0; r < task->rows; r++) {
        float *q = scratch->q + (size_t)r * width;
        memcpy(q, call->q + row_offset(call, task, r), width * sizeof *q);
        call->cpu->kernels->scale(q, scale, width);
        scratch->largest[r] = -INFINITY;
        scratch->total[r] = 0;
    }
    memset(scratch->sum, 0, (size_t)task->rows * width * sizeof *scratch->sum);
}

static void store_results(const struct attention_call *call, const struct attention_task *task,
                          const struct scratch *scratch) {
    size_t width = (size_t)call->attention->head_dim;
    for (int r = 0; r < task->rows; r++) {
        float *sum = scratch->sum + (size_t)r * width;
        if (task->parts == 1) {
            call->cpu->kernels->scale(sum, 1 / scratch->total[r], width);
            memcpy(call->out + row_offset(call, task, r), sum, width * sizeof *sum);
        } else {
            float *partial = call->cpu->partial + (task->partial + (size_t)r) * (width + 2);
            partial[0] = scratch->largest[r];
            partial[1] = scratch->total[r];
            memcpy(partial + 2, sum, width * sizeof *sum);
        }
    }
}

static void run_task(const struct attention_call *call, const struct attention_task *task) {
    const struct batch_sequence *sequence = task->sequence;
    if (attention_many(call, task->prompt)) {
        attention_many_task(call, task);
        return;
    }
    struct scratch scratch = scratch_of(call);
    load_queries(call, task, &scratch);

    struct share all = attention_keys(call, sequence, task->first, task->first + task->rows);
    for (int page = task->page_first; page < task->page_last; page++) {
        int base = page * KV_PAGE_TOKENS, count = smaller(KV_PAGE_TOKENS, all.last - base);
        const struct page keys = page_of(call, task, page, 0, count), values = page_of(call, task, page, 1, count);
        page_scores(call, task, &scratch, &keys);
        for (int r = 0; r < task->rows; r++) {
            struct share seen = attention_keys(call, sequence, task->first + r, task->first + r + 1);
            page_weights(call, &scratch, r, larger(seen.first - base, 0), smaller(seen.last - base, count), count);
        }
        page_values(call, task, &scratch, &values);
    }
    store_results(call, task, &scratch);
}

// Puts the parts of a block together, the first part's task standing for all.
static void combine(const struct attention_call *call, const struct attention_task *task) {
    size_t width = (size_t)call->attention->head_dim, step = (size_t)task->rows * (width + 2);
    for (int r = 0; r < task->rows; r++) {
        const float *first = call->cpu->partial + (task->partial + (size_t)r) * (width + 2);
        float *out = call->out + row_offset(call, task, r);
        float largest = -INFINITY, total = 0;
        for (int part = 0; part < task->parts; part++) largest = fmaxf(largest, first[(size_t)part * step]);
        memset(out, 0, width * sizeof *out);
        for (int part = 0; part < task->parts; part++) {
            const float *partial = first + (size_t)part * step;
            float factor = expf(partial[0] - largest);
            total += factor * partial[1];
            call->cpu->kernels->add_scaled(out, partial + 2, factor, width);
        }
        call->cpu->kernels->scale(out, 1 / total, width);
    }
}

void cpu_attention(void *state, const struct attention *attention, const struct batch *batch,
                   const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out) {
    struct cpu *cpu = state;
    const struct attention_call call = {cpu, attention, cache, layer, attention->heads / attention->kv_heads,
                                        q,   k,         out,   v};
    int threads = cpu->limits.threads;

    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequence[s];
        bool many = attention_many(&call, sequence->first >= batch->answers);
#pragma omp parallel for schedule(static) num_threads(threads) if (sequence->count > 8)
        for (int i = 0; i < sequence->count; i++) store_row(&call, sequence, i, many);
    }
    struct attention_task *tasks = cpu->tasks;
    size_t partial;
    int count = (int)plan(&call, batch, tasks, &partial);
    int64_t work = 0; // multiplications: scores and weighted values
    for (int i = 0; i < count; i++)
        work += (int64_t)tasks[i].rows * (tasks[i].page_last - tasks[i].page_first) * KV_PAGE_TOKENS * 2;
    bool shared = worth_sharing(work * attention->head_dim);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (shared)
    for (int i = 0; i < count; i++) run_task(&call, &tasks[i]);
    if (partial == 0) return;
    shared = worth_sharing((int64_t)partial * attention->head_dim * ELEMENT_WORK);
#pragma omp parallel for schedule(static) num_threads(threads) if (shared)
    for (int i = 0; i < count; i++)
        if (tasks[i].parts > 1 && tasks[i].part == 0) combine(&call, &tasks[i]);
}
