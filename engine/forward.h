// The buffers of a forward pass: allocated once, used by an architecture for every batch. The engine thread's.
// forward_create, forward_run and forward_destroy are declared in engine/model.h.
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/expert_counts.h"
#include "engine/model.h"

struct forward {
    const struct model *model;
    const struct stages *stages;
    void *state; // of the stages
    int tokens_max, outputs_max;
    float *x;              // [tokens_max][hidden], the residual stream
    float *normed;         // [tokens_max][hidden]
    float *q;              // [tokens_max][heads * head_dim]
    float *k, *v;          // [tokens_max][kv_heads * head_dim]
    float *attended;       // [tokens_max][heads * head_dim]
    struct routing routing; // of tokens_max rows
    float *wanted;         // [outputs_max][hidden], the rows whose logits are wanted
    struct batch_sequence *sequence; // [tokens_max + STAGE_SLOTS] of batches that were cut
    struct expert_counts *counts;
    void *memory;          // behind all of these but the counts
};

// `count` of the batch's rows from `first` on as a batch of its own, without outputs; its rows are numbered from 0. The
// parts that a batch is cut into begin at different rows. Lives until the batch is cut anew.
void forward_cut(struct forward *forward, const struct batch *batch, int first, int count, struct batch *out);

#endif
