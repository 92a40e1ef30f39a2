// An open device, shared by the files beside this one: mixture.c, which runs it, launch.c, its calls, gemm.c, prompts
// by CLBlast, and layers.c and staging.c, its weights. The engine thread's.
#ifndef ENGINE_OPENCL_MIXTURE_H
#define ENGINE_OPENCL_MIXTURE_H

#include "engine/opencl/clblast.h"
#include "engine/opencl/opencl.h"
#include "engine/opencl/program.h"

// What the kernels and their launches both have to know; the kernels' build is told.
enum {
    OPENCL_GROUP = 64,       // items of every work group
    OPENCL_FEW_ROWS = 4,     // a tile, and what a work group computes of it, in calls of few rows
    OPENCL_FEW_OUTPUTS = 4,  // of weights that lie output by output
    OPENCL_FEW_OUTPUTS_PACKED = 16,
    OPENCL_TILE_ROWS = 32,   // and in calls of many; how many outputs is a matter of the level
    OPENCL_X_BYTES = 80,     // 64 columns of a row in int8, with two scales and sums
};

// Memory that the host writes or reads between two calls and the device in between: mapped while it is the host's.
struct opencl_shared {
    cl_mem buffer;
    size_t bytes;
    void *host; // NULL: it is the device's
};

enum { OPENCL_SPANS_MAX = 2 * OPENCL_EXPERTS_MAX + 8 }; // kernels of one call

struct opencl_span {
    const char *name;
    cl_event event;
    double enqueued_at; // by the host's clock
};

struct opencl_slot {
    struct opencl_shared x;      // [tokens_max][hidden]
    struct opencl_shared out;    // the same: what the experts add
    struct opencl_shared expert; // [tokens_max][top_k]
    struct opencl_shared weight; // the same
    cl_event done;               // NULL: the slot is free
    int rows, top_k;
    const struct layer *layer;
    const float *host_x; // while it begins
    bool chosen; // by the host: the router is not run
    bool few;  // which of the kernels' forms
    bool gemm; // or CLBlast
    // Where the host sorts.
    int32_t *sorted;      // [expert, slot_at, place_of][tokens_max * top_k]
    float *sorted_weight; // [tokens_max * top_k]
    int32_t *lists; // [experts][1 + 3 tiles] where weights are staged: how many, then expert, first place, places
    struct opencl_span spans[OPENCL_SPANS_MAX]; // of its kernels, when somebody is told of them
    int span_count;
};

struct opencl_layer {
    const struct layer *layer;
    cl_mem router;  // [experts][hidden]
    cl_mem weights; // of all experts
    cl_mem start;   // [experts][gate, up, down] the element of weights at which each begins
    cl_ulong *start_at; // the same, the host's
};

// Products by CLBlast, of numbers that are f16 or f32.
struct opencl_gemm {
    bool on;
    bool chosen; // opening is over: what fails of it from now on, our own kernels compute
    char why_not[ERROR_MESSAGE_BYTES]; // "": nobody has asked
    struct clblast library;
    cl_command_queue queue; // that unpacks weights
    cl_mem unpacked[2];     // [gate, up][intermediate][hidden] of one expert
    cl_event read[2];       // the last product that reads it
    int turn;               // which of them is next
    cl_mem rows;            // [tokens_max * top_k][hidden] into the first product, out of the last
    cl_mem products;        // [gate, up][tokens_max * top_k][intermediate]
    cl_mem gated;           // [tokens_max * top_k][intermediate]
};

// Weights that are copied for every call.
struct opencl_staging {
    bool on;
    cl_command_queue queue; // that copies them
    cl_mem weights[2];      // gate and up of one expert, or its down
    cl_event read[2];       // the last kernel that reads it
    int turn;               // which of them is next
    cl_mem start;           // as a layer's, for either buffer
    cl_mem tiles[OPENCL_EXPERTS_MAX]; // [1 + 3 tiles] of each expert's rows
};

struct opencl {
    const struct opencl_api *api;
    struct opencl_device device;
    struct stage_limits limits;
    enum weight_format weights;
    bool half_weights; // the device has them in f16
    bool beyond_half;  // one has turned out not to be in its range
    int layers_most;   // that it gets to know
    char copied[384]; // why weights are, though the device reads the host's memory; "": they are not
    const char *kernels;
    double wait_seconds;
    // On the host; NULL: routing is the device's.
    void (*route)(void *user, const struct router *router, const float *x, int rows, struct routing *routing);
    void *route_user;
    void (*span)(void *user, const char *name, int rows, double began_at, double ended_at); // NULL: nobody is told
    void *span_user;
    void (*warn)(void *user, const char *line); // NULL: nobody is told
    void *warn_user;
    bool lost; // it has not answered: what it may still be writing to is never given back
    cl_context context;
    cl_command_queue queue; // one, in order
    struct opencl_program program;
    struct opencl_slot slots[STAGE_SLOTS];
    struct opencl_gemm gemm;
    struct opencl_staging staging;
    // Between the kernels of one call; as calls come one after the other, there is one of each.
    cl_mem slot_at, place_of; // [tokens_max * top_k]
    cl_mem tiles;             // 1 + [tiles][3]
    cl_mem gated;             // [tokens_max * top_k][intermediate]
    cl_mem quantized_x;       // [tokens_max] rows in int8, where products take integers; else NULL
    cl_mem quantized_gated;   // [tokens_max * top_k] the same of gated
    cl_mem mixed;             // [tokens_max * top_k][hidden]
    struct opencl_layer *layers; // [layer_count]
    int layer_count, layer_capacity, layer_next; // layer_next: the one that is likely to be asked for
    struct opencl_counts counts;
    char description[1792];
};

// Writes description, of which something has changed.
void opencl_describe_anew(struct opencl *opencl);

// A buffer; NULL, and the cause in error: there is none. host: what it holds at first, or NULL.
cl_mem opencl_buffer(struct opencl *opencl, cl_mem_flags flags, size_t bytes, void *host, const char *what,
                     struct error *error);

// How many outputs a work group computes in calls of few rows, and of many.
int opencl_few_outputs(enum weight_format weights);
int opencl_tile_outputs(const struct opencl_level *level, enum weight_format weights);
// Whether rows become int8 too.
bool opencl_uses_dot(const struct opencl_level *level, enum weight_format weights);
// How many tiles of so many rows there may be.
int opencl_tiles_max(const struct opencl *opencl, int slots, int tile_rows);

// ---- Launching

struct opencl_argument {
    size_t bytes;
    const void *value;
};
#define OPENCL_ARGUMENT(value) {sizeof(value), &(value)}
#define OPENCL_COUNT(array) (sizeof(array) / sizeof *(array))

// Enqueues `across` work groups by `down`; after: waits for it, unless it is NULL; done: its event, unless it is NULL.
bool opencl_launch(struct opencl *opencl, cl_command_queue queue, enum opencl_kernel which, int across, int down,
                   const struct opencl_argument *arguments, size_t count, cl_event after, cl_event *done,
                   struct error *error);
// The same for a slot, whose spans tell of it.
bool opencl_launch_of(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel which, int across, int down,
                      const struct opencl_argument *arguments, size_t count, struct error *error);

// The same with its event, which is the caller's to release, unless `done` is NULL.
bool opencl_launch_and_tell(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel which, int across,
                            int down, const struct opencl_argument *arguments, size_t count, cl_event *done,
                            struct error *error);

// Enqueues a slot's call, from routing to scattering. on_device NULL: weights are staged.
bool opencl_launch_all(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                       struct error *error);

// ---- gemm.c

// Sorts slots by expert as lists.cl does it: slot_at, place_of (-1: of no expert), and where each expert's places
// begin, up to first[experts].
void opencl_sort_slots(const int32_t *expert, int slots, int experts, int32_t *slot_at, int32_t *place_of, int *first);

// Tries CLBlast, before the kernels are built, which have to know its kind of numbers. Without it there are our own
// ones.
void opencl_gemm_open(struct opencl *opencl, const struct opencl_options *options);
bool opencl_gemm_take_buffers(struct opencl *opencl, struct error *error);
// Whether it is to be used: it is the faster way, or asked for. If it is on and this fails, it is the one to do
// without.
int opencl_gemm_choose(struct opencl *opencl, const struct opencl_options *options, struct error *error);
// Enqueues a call, from routing to scattering.
bool opencl_gemm_launch(struct opencl *opencl, const struct opencl_layer *layer, struct opencl_slot *slot,
                        const float *x, struct error *error);
void opencl_gemm_close(struct opencl *opencl);

// ---- staging.c

// Whether weights do not stay on the device, which is known by now.
bool opencl_staging_wanted(const struct opencl *opencl, const struct opencl_options *options);
bool opencl_staging_open(struct opencl *opencl, struct error *error); // does nothing where it is not on
void opencl_staging_close(struct opencl *opencl);
// Plans a slot's call, whose rows, layer and form are known.
int opencl_staging_sort(struct opencl *opencl, struct opencl_slot *slot, const struct routing *routing,
                        struct error *error);
// Enqueue the products of a call, in so many work groups across. The first sends the places of its rows, too.
bool opencl_staging_gate_up(struct opencl *opencl, struct opencl_slot *slot, cl_mem x, int across, struct error *error);
bool opencl_staging_down(struct opencl *opencl, struct opencl_slot *slot, cl_mem gated, int across,
                         struct error *error);

// ---- layers.c

// The layer's weights on the device, which they are brought to at the first call. NULL, and the cause: they are not
// there.
const struct opencl_layer *opencl_layer_find(struct opencl *opencl, const struct layer *layer, struct error *error);
void opencl_layers_finish(struct opencl *opencl);

#endif
