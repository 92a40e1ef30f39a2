// What the devices are worth: whether an OpenCL device computes the experts as the CPU does, and how long both take,
// which says who should have them. placement.c's; the engine thread's.
#ifndef ENGINE_PLACEMENT_COST_H
#define ENGINE_PLACEMENT_COST_H

#include "engine/stages.h"

struct opencl;

struct placement_devices {
    const struct stages *inner; // the CPU's
    void *state;                // of inner
    struct opencl *opencl;      // NULL: there is none, and the CPU alone is measured
    const struct layer *layers; // [layer_count] of which the first is tried
    int layer_count;
    const struct linear *head; // NULL: it is left out
    int rows_max;              // in one call
};

// How long calls of all sizes take, the best of several tries: a second or two in all. Sizes that take longer than a
// larger one are tried again; found->contradictory: all the same, one does. ERROR_INTERNAL: the device computes
// wrongly; whatever else opencl_begin and opencl_end say.
int placement_measure(const struct placement_devices *devices, struct engine_placement *found, struct error *error);
// Whether the device still computes as the CPU does, in a call of answers and in one of prompts. As placement_measure.
// Both also tell in found->same_bits whether answers had the same bits.
int placement_check(const struct placement_devices *devices, struct engine_placement *found, struct error *error);

// The first size that takes longer than a larger one of its kind, or for each row four times as long as a smaller one, in
// anything: it was measured while somebody else had the machine, which only ever makes a call longer. NULL: there is
// none.
struct engine_placement_point *placement_contradiction(struct engine_placement *found);
// Of a size that was measured twice, the least that each part of it took.
void placement_keep_less(struct engine_placement_point *point, const struct engine_placement_point *other);

// How long a layer takes in such a call: all its experts on the device, of which the CPU is busy handing over, or on
// the CPU, and all else. Between the sizes that were measured a straight line; 0: nothing was.
struct placement_costs {
    double device, handing, cpu, rest;
};
struct placement_costs placement_costs_at(const struct engine_placement *found, bool answers, int rows);

// The experts that are the device's, a bit each, and with them their layer's share of the work; the others are the
// CPU's, which computes them meanwhile.
struct placement_part {
    int layers, experts;
    const uint64_t *of_layer; // [layers]
};

// From how many answers at once on computing them in two halves is the faster way: the CPU has one half's attention
// while the device has the other half's experts, but both read their weights twice. 0: it never is.
int placement_halves_from(const struct engine_placement *found, const struct placement_part *part);

// What follows from what was measured: how fast the model will be, with answers in halves from so many at once on; 0:
// from where on they are the faster way.
void placement_conclude(struct engine_placement *found, const struct placement_part *part, int halves_from);
// From how many rows on `auto` gives answers, or prompts, to the device, after placement_conclude: from the least of
// the measured sizes from which on all of them make the whole model clearly faster. 0: not even the largest does; 1:
// all do, or none was measured. by_number false: all of them or none, so that it is 0 or 1.
int placement_worth_from(const struct engine_placement *found, bool answers, bool by_number);

#endif
