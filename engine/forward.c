#include "engine/forward.h"

#include "base/checked.h"
#include "engine/architectures/architecture.h"

#include <assert.h>
#include <stdlib.h>

enum { ALIGN_BYTES = 64 }; // a cache line, the widest vector

// A buffer's place in the one block behind all of them.
struct piece {
    void **pointer;
    size_t rows, columns; // of 4-byte elements
    size_t offset;
};

static bool lay_out(struct piece *pieces, size_t count, size_t *total) {
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        pieces[i].offset = *total;
        if (!checked_mul(pieces[i].rows, pieces[i].columns, &bytes) || !checked_mul(bytes, 4, &bytes) ||
            !checked_add(bytes, ALIGN_BYTES - 1, &bytes) ||
            !checked_add(*total, bytes / ALIGN_BYTES * ALIGN_BYTES, total))
            return false;
    }
    return true;
}

int forward_create(struct forward **out, const struct model *model, const struct stages *stages, void *stages_state,
                   int tokens_max, int outputs_max, struct error *error) {
    const struct model_config *config = &model->config;
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward) return error_set(error, ERROR_MEMORY, "out of memory for the forward pass");
    forward->model = model;
    forward->stages = stages;
    forward->state = stages_state;
    forward->tokens_max = tokens_max;
    forward->outputs_max = outputs_max;
    forward->routing.top_k = config->experts_per_token;

    size_t tokens = (size_t)tokens_max, hidden = (size_t)config->hidden, top_k = (size_t)config->experts_per_token;
    size_t q_width = (size_t)config->heads * (size_t)config->head_dim;
    size_t kv_width = (size_t)config->kv_heads * (size_t)config->head_dim;
    struct piece pieces[] = {
        {(void **)&forward->x, tokens, hidden, 0},
        {(void **)&forward->normed, tokens, hidden, 0},
        {(void **)&forward->q, tokens, q_width, 0},
        {(void **)&forward->k, tokens, kv_width, 0},
        {(void **)&forward->v, tokens, kv_width, 0},
        {(void **)&forward->attended, tokens, q_width, 0},
        {(void **)&forward->routing.expert, tokens, top_k, 0},
        {(void **)&forward->routing.weight, tokens, top_k, 0},
        {(void **)&forward->wanted, (size_t)outputs_max, hidden, 0},
    };
    const size_t count = sizeof pieces / sizeof *pieces;
    size_t total;
    bool fits = lay_out(pieces, count, &total);
    if (fits) forward->memory = aligned_alloc(ALIGN_BYTES, total);
    if (!forward->memory) {
        free(forward);
        return error_set(error, ERROR_MEMORY, "out of memory for a forward pass over %d tokens", tokens_max);
    }
    for (size_t i = 0; i < count; i++) *pieces[i].pointer = (unsigned char *)forward->memory + pieces[i].offset;
    *out = forward;
    return 0;
}

void forward_destroy(struct forward *forward) {
    if (!forward) return;
    free(forward->memory);
    free(forward);
}

void forward_run(struct forward *forward, const struct batch *batch, const struct kv_cache *cache, float *logits) {
    assert(batch->tokens >= 1 && batch->tokens <= forward->tokens_max);
    assert(batch->outputs >= 0 && batch->outputs <= forward->outputs_max);
    forward->model->architecture->forward(forward, batch, cache, logits);
}
