// Which device runs which stage. Attention and all else is the CPU's; the mixture of experts is the CPU's or an OpenCL
// device's. A device that fails is not missed: what it had begun is computed by the CPU, from the same inputs, and it
// is tried again later, after longer and longer pauses. The engine thread's.
#ifndef ENGINE_PLACEMENT_H
#define ENGINE_PLACEMENT_H

#include "engine/engine.h"
#include "engine/opencl/opencl.h"
#include "engine/stages.h"
#include "engine/trace.h"

enum placement_way { // see engine/engine.h
    PLACEMENTS(NAMED_VALUE)
};
bool placement_parse(const char *name, enum placement_way *out);

// What rows belong to: answers, where a row's result may not depend on how many there are, or prompts. So a phase is
// one device's as a whole, unless both have the same bits: then the device may have many answers, and the CPU few.
enum placement_phase { PLACEMENT_DECODE, PLACEMENT_PREFILL, PLACEMENT_PHASES };
enum placement_experts { EXPERTS_AUTO, EXPERTS_CPU, EXPERTS_OPENCL }; // auto: as the way says
bool placement_parse_phase(const char *name, enum placement_experts *out); // "auto", "cpu", "opencl"

enum bus_share { // see engine/engine.h
    BUS_SHARES(NAMED_VALUE)
};
bool bus_share_parse(const char *name, enum bus_share *out);

struct placement;

struct placement_options {
    enum placement_way way;
    enum placement_experts experts[PLACEMENT_PHASES];
    int decode_from; // the device has no fewer answers at once than these; 0: what else is said decides
    const char *experts_layers; // "0-15,20": whose experts the device may have; NULL: all
    const char *experts_opencl; // which of them, "0-7" or by layers "0-3:0-7;4:2,5"; NULL: all
    enum bus_share bus_share;
    double bus_bytes; // a second, for tests; 0: as measured
    int halves_from;  // so many answers at once are computed in two halves; 0: as measured
    bool explain;               // measure all there is, for placement_found
    const struct stages *inner; // what runs on the CPU
    enum weight_format weights;
    const struct layer *layers; // [layer_count]: the first is what the device is tried with
    int layer_count;
    const struct linear *head; // of the model, for how fast it will be; NULL: it is left out
    struct trace *trace;       // for what the device does; NULL: none
    const char *kernels; // see struct opencl_options
    enum opencl_products products;
    enum opencl_weights where; // they are on the device
    const char *cache;   // a directory for what was measured; NULL: none
    const char *root;    // "": of the file system; where to look for GPUs
    double wait_seconds; // see struct opencl_options
    double retry_seconds; // the first pause after a failure; 0: ten seconds

    // A line for whoever runs the program: a device has failed, or is back. By the engine thread, also while opening.
    void (*warn)(void *user, const char *line);
    void *warn_user;
};

// Opens the stages for such shapes. A device that is not there or fails is no error: then all is on the CPU.
int placement_open(struct placement **out, const struct placement_options *options, const struct stage_limits *limits,
                   struct error *error);
void placement_close(struct placement *placement); // takes NULL

// Whether a device that has failed is to be tried again now, before the next step: its pause is over.
bool placement_retry_due(const struct placement *placement);
// Opens and tries it, which may take seconds, and a minute where a driver hangs. It is measured only where it never
// was; then who has what is decided anew.
void placement_retry(struct placement *placement);

// What to run: the inner stages themselves where nothing else will ever run.
const struct stages *placement_stages(const struct placement *placement);
void *placement_state(struct placement *placement);

// One line for a person: what runs where, and why. Lives as long as the placement, and stays as it was at opening.
const char *placement_describe(const struct placement *placement);

// Why less runs than was asked for, at this moment; "": all is well.
const char *placement_degraded(const struct placement *placement);

// What was measured, and what follows. As long as the placement, and as it was at opening; but where the device failed
// then, it is measured once it works.
const struct engine_placement *placement_found(const struct placement *placement);

#endif
