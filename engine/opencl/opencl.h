// The mixture of experts on an OpenCL device: routing, gathering, the experts, and adding up, without the host in
// between. Owned and called by the engine thread alone. A call that fails leaves the device as one that can only be
// closed: what had been begun on it is lost, and whoever began it computes it elsewhere.
//
// libOpenCL is loaded when the first device is looked for, so that the program runs where there is none.
#ifndef ENGINE_OPENCL_OPENCL_H
#define ENGINE_OPENCL_OPENCL_H

#include "engine/stages.h"

struct opencl;

enum { OPENCL_EXPERTS_MAX = 64 }; // of one layer

enum opencl_products { // see engine/engine.h
    OPENCL_PRODUCTS(NAMED_VALUE)
};
bool opencl_products_parse(const char *name, enum opencl_products *out);

enum opencl_weights { // see engine/engine.h
    OPENCL_WEIGHTS(NAMED_VALUE)
};
bool opencl_weights_parse(const char *name, enum opencl_weights *out);

struct opencl_options {
    const struct stage_limits *limits; // its shapes; only read while opening
    enum weight_format weights;        // of the experts
    const char
        *kernels; // a directory whose NAME.cl go before the built-in ones, and the name lives as long; NULL: none
    const char *level;   // one of OPENCL_LEVELS (device.c) and no other; NULL: the best one that the device takes
    enum opencl_products products;
    const char *clblast; // the library; NULL: the system's
    bool half_weights;   // bf16 weights become f16 on the device, for tests; if one is beyond f16, all stay bf16
    enum opencl_weights where; // they are. Staged ones need `route`, and CLBlast does without them
    int layers; // that it will be given at most, for what copies of their weights take
    // SparseMixer on the host, for CLBlast and for staged weights, which have to know what rows an expert has, and
    // wherever the device multiplies integers, so that routes are the CPU's too. NULL: the device routes, and there is
    // neither of the first two.
    void (*route)(void *user, const struct router *router, const float *x, int rows, struct routing *routing);
    void *route_user;
    bool gpu_only;       // whether a device that is a CPU will not do
    // Told of each kernel that has run, by the clock of base/clock.h; NULL: nobody is, which is faster.
    void (*span)(void *user, const char *name, int rows, double began_at, double ended_at);
    void *span_user;
    // Told when CLBlast fails in a call, and when weights are copied in one; NULL: nobody is.
    void (*warn)(void *user, const char *line);
    void *warn_user;
    double wait_seconds; // a device that has not answered for so long is lost; 0: a minute
};

// Finds the best device, and builds the kernels for it. ERROR_UNSUPPORTED: there is none; ERROR_FORMAT: the kernels can
// not be built; both say what was found.
int opencl_open(struct opencl **out, const struct opencl_options *options, struct error *error);
void opencl_close(struct opencl *opencl); // takes NULL

// What it is and how it computes, without what was measured: the same text for the same device, driver, library of
// products and ways.
void opencl_identify(const struct opencl *opencl, char *out, size_t bytes);
const char *
opencl_describe(const struct opencl *opencl); // one line: "NAME (PLATFORM), portable kernels"; lives as long

// Begins routing x[rows][hidden] and computing its experts in one of STAGE_SLOTS slots that is free. Weights of a layer
// are made known to the device at its first call: layers live as long as it. x and rows are not needed any more
// afterwards.
int opencl_begin(struct opencl *opencl, int slot, const struct layer *layer, const float *x, int rows,
                 enum row_kind kind, struct error *error);
// The same without the router: of what is chosen already the device computes those experts that are not negative.
int opencl_begin_chosen(struct opencl *opencl, int slot, const struct layer *layer, const float *x,
                        const struct routing *chosen, enum row_kind kind, struct error *error);
// Waits for it, fills routing (NULL: that is known), and adds the rows' experts to y[rows][hidden]; on failure y is as
// it was. Frees the slot.
int opencl_end(struct opencl *opencl, int slot, float *y, struct routing *routing, struct error *error);

// Whether a mixture that has begun would not be waited for any more: it is done, or has failed.
bool opencl_is_done(const struct opencl *opencl, int slot);

// Whether the device reads the host's memory while it computes.
bool opencl_shares_memory(const struct opencl *opencl);

// Whether what it makes of answers is made to have the bits of the CPU's kernels for bytes (cl_kernels/README.md).
bool opencl_has_cpus_bits(const struct opencl *opencl);

// Since opening.
struct opencl_counts {
    uint64_t mixtures; // begun
    uint64_t waits;    // of the host for the device
    double wait_seconds;
};
struct opencl_counts opencl_counts(const struct opencl *opencl);

// For tests, which may also set TANDEM_OPENCL_FAULT to "N", "N+" or "N?": the N-th call of the library from now on
// fails, or it and all that follow, or the device never answers from then on. first 0: none does. Returns how many
// calls there have been since the last time.
enum opencl_fault { OPENCL_FAULT_ONCE, OPENCL_FAULT_ONWARDS, OPENCL_FAULT_SILENCE };
long opencl_inject(long first, enum opencl_fault fault);

#endif
