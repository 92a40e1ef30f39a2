// Sharing a layer's experts out between the CPU and a device: who has which, and computing the CPU's. placement.c's;
// the engine thread's.
#ifndef ENGINE_PLACEMENT_SHARE_H
#define ENGINE_PLACEMENT_SHARE_H

#include "engine/stages.h"

// Experts are bits: a device takes no layers of more than 64 (OPENCL_EXPERTS_MAX).
uint64_t placement_all_experts(int experts);

// The experts in each layer that a device may have, from lists: "0-15,20" of layers, "0-7" of experts or, by layers,
// "0-3:0-7;4:2,5", where layers that are not named have none. NULL: all. ERROR_ARGUMENT.
int placement_read_experts(const char *layer_list, const char *expert_list, int layers, int experts, uint64_t *out,
                           struct error *error);

struct placement_share;

// inner: the CPU's stages and their state, which live longer.
int placement_share_create(struct placement_share **out, const struct stages *inner, void *state,
                           const struct stage_limits *limits, struct error *error);
void placement_share_destroy(struct placement_share *share); // takes NULL

struct routing *placement_share_routing(struct placement_share *share, int slot); // of the mixture begun there
// The same with -1 for all other experts; until the next call.
struct routing placement_share_only(struct placement_share *share, const struct routing *routing, uint64_t experts);
// How many of these experts are chosen by any row.
int placement_share_chosen(const struct routing *routing, uint64_t experts);
// Adds what these experts make of x[rows][hidden] to y[rows][hidden], expert by expert. What comes out for a row does
// not depend on the rows beside it.
void placement_share_compute(struct placement_share *share, const struct layer *layer, const struct routing *routing,
                             uint64_t experts, const float *x, float *y);

#endif
