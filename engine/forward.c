#include "engine/forward.h"

#include "base/block.h"
#include "engine/architectures/architecture.h"

#include <assert.h>
#include <stdlib.h>

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
    const struct block_part parts[] = {
        {&forward->x, tokens, hidden, sizeof *forward->x},
        {&forward->normed, tokens, hidden, sizeof *forward->normed},
        {&forward->q, tokens, q_width, sizeof *forward->q},
        {&forward->k, tokens, kv_width, sizeof *forward->k},
        {&forward->v, tokens, kv_width, sizeof *forward->v},
        {&forward->attended, tokens, q_width, sizeof *forward->attended},
        {&forward->routing.expert, tokens, top_k, sizeof *forward->routing.expert},
        {&forward->routing.weight, tokens, top_k, sizeof *forward->routing.weight},
        {&forward->wanted, (size_t)outputs_max, hidden, sizeof *forward->wanted},
        {&forward->sequence, tokens + STAGE_SLOTS, 1, sizeof *forward->sequence},
    };
    forward->memory = block_create(parts, sizeof parts / sizeof *parts);
    if (!forward->memory) {
        forward_destroy(forward);
        return error_set(error, ERROR_MEMORY, "out of memory for a forward pass over %d tokens", tokens_max);
    }
    int code = expert_counts_create(&forward->counts, config->layers, config->experts, error);
    if (code) {
        forward_destroy(forward);
        return code;
    }
    *out = forward;
    return 0;
}

void forward_destroy(struct forward *forward) {
    if (!forward) return;
    expert_counts_destroy(forward->counts);
    free(forward->memory);
    free(forward);
}

const struct expert_counts *forward_counts(const struct forward *forward) {
    return forward->counts;
}

// How many of the first `rows` are among `count` from `first` on.
static int part_of(int rows, int first, int count) {
    int behind = rows > first ? rows - first : 0;
    return behind < count ? behind : count;
}

// A sequence that a cut goes through is in both parts: at most one more for each part, and no more than rows before it.
void forward_cut(struct forward *forward, const struct batch *batch, int first, int count, struct batch *out) {
    struct batch_sequence *cut = forward->sequence + first;
    int answers = part_of(batch->answers, first, count);
    *out = (struct batch){.tokens = count,
                          .answers = answers,
                          .brief = part_of(batch->answers + batch->brief, first, count) - answers,
                          .token = batch->token + first,
                          .position = batch->position + first,
                          .sequence = cut};
    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *whole = &batch->sequence[s];
        int from = whole->first > first ? whole->first : first;
        int to = whole->first + whole->count < first + count ? whole->first + whole->count : first + count;
        if (from >= to) continue;
        cut[out->sequences++] = (struct batch_sequence){.first = from - first,
                                                        .count = to - from,
                                                        .position = whole->position + (from - whole->first),
                                                        .pages = whole->pages};
    }
}

bool forward_run(struct forward *forward, const struct batch *batch, const struct kv_cache *cache, float *logits) {
    assert(batch->tokens >= 1 && batch->tokens <= forward->tokens_max);
    assert(batch->outputs >= 0 && batch->outputs <= forward->outputs_max);
    return forward->model->architecture->forward(forward, batch, cache, logits);
}
