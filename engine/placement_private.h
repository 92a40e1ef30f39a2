// A placement, shared by placement.c, which plans and opens it and sees to failures, and placement_stages.c, which runs
// it. The engine thread's.
#ifndef ENGINE_PLACEMENT_PRIVATE_H
#define ENGINE_PLACEMENT_PRIVATE_H

#include "engine/bandwidth.h"
#include "engine/placement.h"
#include "engine/placement_share.h"

struct mixture { // that has begun
    const struct layer *layer;
    const float *x;
    int rows;
    enum row_kind kind;
    bool wanted; // on the device, which may not be well
    bool on_device;
    uint64_t shared; // the experts that are the device's, where the CPU has others; 0: all are one's
};

_Static_assert((int)STAGE_SLOTS <= (int)BANDWIDTH_CALLS_MAX, "a call for each slot");

struct placement {
    const struct stages *inner;
    void *state; // of inner
    struct placement_options options;
    char *kernels, *cache; // options.kernels, options.cache
    struct stage_limits limits;
    uint64_t *experts; // [layer_count] those that the device may have, a bit each
    struct placement_share *share;
    int from[PLACEMENT_PHASES]; // so many rows at once, and more, are the device's when it is well; 0: none are
    struct opencl *opencl; // NULL: there is none, or it has failed
    enum row_kind kind; // what rows are at the moment
    struct mixture mixture[STAGE_SLOTS];
    int at_work[STAGE_SLOTS], at_work_count; // slots of mixtures that the device may not have finished, by age
    int halves_from;                         // so many answers at once are computed in two halves; 0: none
    struct bandwidth bus;
    struct engine_device_work work;
    bool worked;                    // the device has computed rightly once
    double well_since, pause_seconds;
    double retry_at; // 0: it is not tried again
    char degraded[ERROR_MESSAGE_BYTES];
    char why[ERROR_MESSAGE_BYTES]; // found.why
    char device[640];              // found.device
    char key[1024];                // found.key
    char description[1536];
    struct engine_placement found;
};

// The inner stages, with the experts on the device while it is well. Their state is the placement.
extern const struct stages placement_split_stages;

enum placement_phase placement_phase_of(enum row_kind kind, int rows);

// All that has begun on the device is the CPU's from now on.
void placement_fail(struct placement *placement, const struct error *error);

#endif
