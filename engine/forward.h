// The buffers of a forward pass: allocated once, used by an architecture for every batch. The engine thread's.
// forward_create, forward_run and forward_destroy are declared in engine/model.h.
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

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
    void *memory;          // behind all of these
};

#endif
