// The stages in plain C: the oracle that every device is tested against, and the place to read what a stage
// computes. Values are fp32 wherever a value is kept (activations, keys, scores, expert outputs), as in
// transformers; every sum is taken in double, so that the oracle's own error is far below what it judges.
#include "engine/quants/packed.h"
#include "engine/stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    float *scores; // [context_max] of one query, later their softmax
    float *row;    // [head_dim] a key or value
    double *sum;   // [head_dim] of weighted values
    float *gated;  // [intermediate] silu(gate x) ⊙ up x of one row in one expert
    float *mixed;  // [hidden] sum of one row's experts
    float *logits; // [experts] of one row
};

static const char *describe(const void *state) {
    (void)state;
    return "reference: plain C, 1 thread";
}

static void reference_close(void *state) {
    struct reference *reference = state;
    if (!reference) return;
    free(reference->scores);
    free(reference->row);
    free(reference->sum);
    free(reference->gated);
    free(reference->mixed);
    free(reference->logits);
    free(reference);
}

static int reference_open(void **state, const struct stage_limits *limits, struct error *error) {
    struct reference *reference = calloc(1, sizeof *reference);
    if (!reference) return error_set(error, ERROR_MEMORY, "out of memory for the reference stages");
    reference->scores = calloc((size_t)limits->context_max, sizeof(float));
    reference->row = calloc((size_t)limits->head_dim, sizeof(float));
    reference->sum = calloc((size_t)limits->head_dim, sizeof(double));
    reference->gated = calloc((size_t)limits->intermediate, sizeof(float));
    reference->mixed = calloc((size_t)limits->hidden, sizeof(float));
    reference->logits = calloc((size_t)limits->experts, sizeof(float));
    if (!reference->scores || !reference->row || !reference->sum || !reference->gated || !reference->mixed ||
        !reference->logits) {
        reference_close(reference);
        return error_set(error, ERROR_MEMORY, "out of memory for the reference stages");
    }
    *state = reference;
    return 0;
}

// ---- Matrices

static float matrix_at(const struct matrix *matrix, int row, int column) {
    size_t index = (size_t)row * (size_t)matrix->columns + (size_t)column;
    float value = NAN;
    uint32_t bits;
    switch (matrix->format) {
    case WEIGHTS_F32:
        value = ((const float *)matrix->data)[index];
        break;
    case WEIGHTS_BF16: // the upper half of an fp32
        bits = (uint32_t)((const uint16_t *)matrix->data)[index] << 16;
        memcpy(&value, &bits, sizeof value);
        break;
    case WEIGHTS_INT8:
    case WEIGHTS_INT4:
        return packed_at(matrix->format, matrix->data, matrix->columns, row, column);
    }
    return value;
}

static double row_dot(const struct matrix *matrix, int row, const float *x) {
    double sum = 0;
    for (int i = 0; i < matrix->columns; i++) sum += (double)matrix_at(matrix, row, i) * (double)x[i];
    return sum;
}

static void embed(void *state, const struct matrix *table, const int32_t *token, int rows, float *x) {
    (void)state;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < table->columns; i++) *x++ = matrix_at(table, token[r], i);
}

static void linear(void *state, const struct linear *linear, const float *x, float *y, int rows, bool accumulate) {
    (void)state;
    for (int r = 0; r < rows; r++, x += linear->weight.columns)
        for (int o = 0; o < linear->weight.rows; o++, y++) {
            double sum = row_dot(&linear->weight, o, x);
            if (linear->bias) sum += (double)linear->bias[o];
            *y = (float)(accumulate ? (double)*y + sum : sum);
        }
}

static void linears(void *state, const struct linear *const *linears, int count, const float *x, float *const *y,
                    int rows) {
    for (int i = 0; i < count; i++) linear(state, linears[i], x, y[i], rows, false);
}

// ---- LayerNorm: mean and variance (over width, not width − 1), then scale and shift

static void norm(void *state, const struct norm *norm, const float *x, float *y, int rows) {
    (void)state;
    for (int r = 0; r < rows; r++, x += norm->width, y += norm->width) {
        double mean = 0, variance = 0;
        for (int i = 0; i < norm->width; i++) mean += (double)x[i];
        mean /= norm->width;
        for (int i = 0; i < norm->width; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean);
        variance /= norm->width;
        double scale = 1 / sqrt(variance + (double)norm->epsilon);
        for (int i = 0; i < norm->width; i++)
            y[i] = (float)(((double)x[i] - mean) * scale * (double)norm->weight[i] + (double)norm->bias[i]);
    }
}

// ---- Attention

// Rotary positions as NeoX lays them out: value i of the first half turns with value i of the second half.
static void rotate(const struct attention *attention, int position, int heads, float *vector) {
    int half = attention->head_dim / 2;
    const float *cosine = attention->rope_cos + (size_t)position * (size_t)half;
    const float *sine = attention->rope_sin + (size_t)position * (size_t)half;
    for (int h = 0; h < heads; h++, vector += attention->head_dim)
        for (int i = 0; i < half; i++) {
            float a = vector[i], b = vector[i + half];
            vector[i] = a * cosine[i] - b * sine[i];
            vector[i + half] = b * cosine[i] + a * sine[i];
        }
}

// Where the key (part 0) or value (part 1) of one position and head is.
static void *block_at(const struct kv_cache *cache, int layer, const struct batch_sequence *sequence, int position,
                      int part, int kv_head) {
    return kv_cache_block(cache, layer, sequence->pages[position / KV_PAGE_TOKENS], part, kv_head);
}

static void read_cache(const struct kv_cache *cache, int layer, const struct batch_sequence *sequence, int position,
                       int part, int kv_head, float *x) {
    kv_cache_get(cache, block_at(cache, layer, sequence, position, part, kv_head), position % KV_PAGE_TOKENS, x);
}

static void store(const struct kv_cache *cache, int layer, const struct batch_sequence *sequence, int position,
                  const float *k, const float *v) {
    size_t width = (size_t)cache->head_dim;
    for (int h = 0; h < cache->kv_heads; h++) {
        void *keys = block_at(cache, layer, sequence, position, 0, h);
        void *values = block_at(cache, layer, sequence, position, 1, h);
        kv_cache_put(cache, keys, position % KV_PAGE_TOKENS, k + (size_t)h * width);
        kv_cache_put(cache, values, position % KV_PAGE_TOKENS, v + (size_t)h * width);
    }
}

// One query of one head against keys first .. position.
static void attend(const struct reference *reference, const struct attention *attention, const struct kv_cache *cache,
                   int layer, const struct batch_sequence *sequence, int position, int kv_head, const float *q,
                   float *out) {
    float *scores = reference->scores, *row = reference->row;
    int width = attention->head_dim;
    int first = position - attention->window + 1;
    if (first < 0) first = 0;

    double scale = 1 / sqrt(width), largest = -INFINITY, total = 0;
    for (int j = first; j <= position; j++) {
        double sum = 0;
        read_cache(cache, layer, sequence, j, 0, kv_head, row);
        for (int i = 0; i < width; i++) sum += (double)q[i] * (double)row[i];
        scores[j] = (float)(sum * scale);
        largest = fmax(largest, (double)scores[j]);
    }
    for (int j = first; j <= position; j++) {
        scores[j] = (float)exp((double)scores[j] - largest); // the largest becomes 1: no overflow
        total += (double)scores[j];
    }
    for (int i = 0; i < width; i++) reference->sum[i] = 0;
    for (int j = first; j <= position; j++) {
        read_cache(cache, layer, sequence, j, 1, kv_head, row);
        for (int i = 0; i < width; i++) reference->sum[i] += (double)scores[j] * (double)row[i];
    }
    for (int i = 0; i < width; i++) out[i] = (float)(reference->sum[i] / total);
}

static void attention(void *state, const struct attention *attention, const struct batch *batch,
                      const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out) {
    struct reference *reference = state;
    size_t head_dim = (size_t)attention->head_dim;
    size_t q_width = (size_t)attention->heads * head_dim, kv_width = (size_t)attention->kv_heads * head_dim;
    int group = attention->heads / attention->kv_heads; // query heads that share one key and value head

    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequence[s];
        for (int i = 0; i < sequence->count; i++) { // all keys first: the rows of a prompt see each other
            size_t row = (size_t)(sequence->first + i);
            rotate(attention, sequence->position + i, attention->heads, q + row * q_width);
            rotate(attention, sequence->position + i, attention->kv_heads, k + row * kv_width);
            store(cache, layer, sequence, sequence->position + i, k + row * kv_width, v + row * kv_width);
        }
        for (int i = 0; i < sequence->count; i++)
            for (int h = 0; h < attention->heads; h++) {
                size_t at = (size_t)(sequence->first + i) * q_width + (size_t)h * head_dim;
                attend(reference, attention, cache, layer, sequence, sequence->position + i, h / group, q + at,
                       out + at);
            }
    }
}

// ---- Routing: SparseMixer as it works at inference

// Index of the largest score, the first among equals, without `taken`. A NaN counts as the largest of all,
// so that it reaches the output, where it is noticed.
static int largest(const float *score, int experts, int taken) {
    int best = taken == 0 ? 1 : 0;
    for (int j = best + 1; j < experts; j++)
        if (j != taken && (score[j] > score[best] || (isnan(score[j]) && !isnan(score[best])))) best = j;
    return best;
}

// The share of `best` in a softmax over the scores that come close to it. The comparison is written as
// transformers computes it: what is *removed* is compared, so that 0/0 keeps an expert.
static float share(const float *score, int experts, int best, int taken, float jitter) {
    float m = score[best];
    double total = 0;
    for (int j = 0; j < experts; j++) {
        float size = fabsf(score[j]);
        if (size < m) size = m; // clamp(min = m): m itself may be negative
        bool removed = (m - score[j]) / size > 2 * jitter;
        if (j != taken && !removed) total += exp((double)score[j] - (double)m);
    }
    return (float)(1 / total);
}

static void route(void *state, const struct router *router, const float *x, int rows, struct routing *routing) {
    struct reference *reference = state;
    struct matrix weight = {WEIGHTS_F32, router->experts, router->hidden, router->weight};
    float *score = reference->logits;
    for (int r = 0; r < rows; r++, x += router->hidden) {
        for (int j = 0; j < router->experts; j++) score[j] = (float)row_dot(&weight, j, x);
        int taken = -1;
        for (int slot = 0; slot < router->top_k; slot++) {
            int best = largest(score, router->experts, taken);
            routing->expert[r * router->top_k + slot] = best;
            routing->weight[r * router->top_k + slot] = share(score, router->experts, best, taken, router->jitter);
            taken = best;
        }
    }
    routing->rows = rows;
    routing->top_k = router->top_k;
}

// ---- Experts

// mixed += weight · down(silu(gate x) ⊙ up x)
static void expert_add(struct reference *reference, const struct expert *expert, float weight, const float *x) {
    for (int i = 0; i < expert->gate.rows; i++) {
        double g = row_dot(&expert->gate, i, x);
        reference->gated[i] = (float)(g / (1 + exp(-g)) * row_dot(&expert->up, i, x));
    }
    for (int i = 0; i < expert->down.rows; i++)
        reference->mixed[i] += weight * (float)row_dot(&expert->down, i, reference->gated);
}

static void experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                    int rows) {
    struct reference *reference = state;
    int hidden = layer->router.hidden;
    for (int r = 0; r < rows; r++, x += hidden, y += hidden) {
        memset(reference->mixed, 0, (size_t)hidden * sizeof *reference->mixed);
        for (int slot = 0; slot < routing->top_k; slot++) {
            int at = r * routing->top_k + slot;
            expert_add(reference, &layer->experts[routing->expert[at]], routing->weight[at], x);
        }
        for (int i = 0; i < hidden; i++) y[i] += reference->mixed[i];
    }
}

const struct stages reference_stages = {
    .name = "reference",
    .describe = describe,
    .open = reference_open,
    .close = reference_close,
    .embed = embed,
    .norm = norm,
    .linear = linear,
    .linears = linears,
    .attention = attention,
    .route = route,
    .experts = experts,
};
