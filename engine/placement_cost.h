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
    bool explain;              // predict how fast the model will be
};

// Calls of all sizes. ERROR_INTERNAL: the device computes wrongly; whatever else opencl_begin and opencl_end say.
int placement_measure(const struct placement_devices *devices, struct engine_placement *found, struct error *error);

#endif
