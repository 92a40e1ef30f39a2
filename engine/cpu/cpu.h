// The CPU's state, shared by its files. Owned by the engine thread, which alone calls in here; the work is
// spread over one OpenMP team, which oneDNN shares.
#ifndef ENGINE_CPU_CPU_H
#define ENGINE_CPU_CPU_H

#include "engine/cpu/attention_kernels.h"
#include "engine/cpu/bf16.h"
#include "engine/cpu/deal.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/onednn.h"
#include "engine/cpu/packed.h"
#include "engine/cpu/thirds.h"
#include "engine/stages.h"

enum {
    // Up to so many rows, where nobody has said what they are, a matrix product runs on our own kernels for few
    // rows, which read each weight once; beyond, see matmul.c.
    FEW_ROWS = STAGE_STEADY_ROWS,
    THIRDS_GROUPS = (BF16_GROUP + THIRDS_ROWS - 1) / THIRDS_ROWS, // of that many rows
    ATTENTION_ROWS = 64,        // queries times heads that share keys, in one block
    ATTENTION_SPLITS = 8,       // parts that the keys of a block of few queries are dealt out in
    ATTENTION_SPLIT_KEYS = 256, // and the least of keys in a part
};

struct attention_task; // attention.c

// Of one thread, for products of bf16.
enum { MANY_SUMS = 1 << 18, MANY_ADDED = 128 };
struct many_scratch {
    uint16_t panel[BF16_PANEL];
    float sum[MANY_SUMS];
};

enum { PACKED_DOWN = 128 }; // outputs of all experts that a thread takes at once, in int8 and int4

struct expert_rows { // one expert's share of the sorted rows
    int expert, first, rows;
};

struct cpu {
    struct stage_limits limits;
    struct team *team; // NULL: the threads have never been pinned
    enum row_kind kind; // what rows are at the moment
    const struct kernels *kernels;
    bool onednn;                                       // it multiplies f32 by many rows; otherwise our own kernels do
    const struct bf16_kernels *bf16;                   // they multiply bf16 by many rows; NULL: the machine has no bf16
    const struct attention_kernels *attention_kernels; // the same for attention of prompts
    const struct packed_kernels *packed;               // they multiply int8 and int4
    bool tiles; // it multiplies bf16 by tiles: many rows of int8 and int4 too, and few rows by thirds.h
    char description[128];

    // Scratch, sized at opening for the largest call. "Sorted rows" are those of all tokens' slots, by expert,
    // each expert's padded to a multiple of BF16_GROUP; packed rows are padded to a multiple of BF16_STEP columns.
    void *scratch;              // the one block that all of it lies in
    float *panel;               // [threads][PANEL_FLOATS] a piece of a weight, transposed
    float *filled_x, *filled_y; // [SGEMM_ROWS_MIN][widest input, output] for oneDNN
    uint16_t *narrow;           // [sorted rows][widest input] packed activations in bf16
    struct many_scratch *many;  // [threads]
    float *many_added;          // [threads][tokens_max][MANY_ADDED] what experts add to a block of outputs
    // Activations in int8, with padding up to PACKED_ROWS rows: as they come, sorted, and gate times up sorted.
    struct packed_x *packed_x, *packed_sorted; // [rows][packed_x_blocks(widest input)]
    struct packed_x *packed_gated;             // [rows][packed_x_blocks(intermediate)]
    float *packed_down;        // [threads][sorted rows][PACKED_DOWN] results of the experts, some outputs of them
    size_t packed_down_floats; // of a thread

    float *attention; // [threads][attention_floats]
    size_t attention_floats;
    struct attention_task *tasks;
    float *partial; // [sequences_max * heads * ATTENTION_SPLITS][head_dim + 2]

    float *score;                    // [tokens_max][experts] of the router
    float *router;                   // [hidden][experts] its weights, turned round
    struct expert_rows *expert_rows; // [experts]
    int *expert_next;                // [experts]
    int *sorted_row;                 // [tokens_max][top_k] where a token's slot is computed
    int *sorted_token;               // [sorted rows] whose slot that is; -1: padding
    float *sorted_weight;            // [sorted rows] and what the router gave it
    float *sorted;                   // [sorted rows][hidden] inputs of the experts, then their outputs
    float *gate, *up;                // [sorted rows][intermediate]
    uint16_t *narrow_gated;          // [sorted rows][intermediate] packed, gate times up
    // Thirds, as they come or sorted, and gate times up sorted: those of an expert's rows begin at group
    // first / BF16_GROUP * THIRDS_GROUPS.
    uint16_t *thirds;       // [sorted rows / BF16_GROUP][THIRDS_GROUPS][thirds_values(widest input)]
    uint16_t *thirds_gated; // [the same][thirds_values(intermediate)]
};

struct cpu_options {
    enum kernel_level level;
    bool onednn; // whether to use it
    enum bf16_level bf16;
    enum packed_level packed;
};

// cpu_stages.open with choices of one's own: for tests and benchmarks. ERROR_UNSUPPORTED: not on this machine.
int cpu_open(void **state, const struct stage_limits *limits, const struct cpu_options *options, struct error *error);

// Whether so many multiplications are worth waking the team for: one core does these in a few microseconds, which
// is what the team takes to start and to meet again, and far longer where others use the machine.
static inline bool worth_sharing(int64_t multiplications) {
    return multiplications >= 1 << 17;
}

enum { ELEMENT_WORK = 8 }; // multiplications as long as which it takes to fetch and to store one value

// The part'th of `parts` equal shares of `count` things, cut at multiples of `grain`.
static inline struct share share_of(int count, int part, int parts, int grain) {
    int64_t grains = ((int64_t)count + grain - 1) / grain;
    int64_t first = grains * part / parts * grain, last = grains * (part + 1) / parts * grain;
    return (struct share){(int)(first < count ? first : count), (int)(last < count ? last : count)};
}

// ---- matmul.c

// From so many rows on, oneDNN's sgemm adds up every row in the same order. (Seen of 2.6 and tested of any; fewer take
// other kernels there.)
enum { SGEMM_ROWS_MIN = FEW_ROWS + 1 };

enum { PANEL_DEPTH = 256, PANEL_OUTPUTS = 32, PANEL_FLOATS = (PANEL_DEPTH + 4) * PANEL_OUTPUTS + 4 * PANEL_DEPTH };

// Whether so many rows are computed as few, in f32 by dot products.
static inline bool cpu_takes_few(const struct cpu *cpu, int rows) {
    return cpu->kind == ROWS_BY_NUMBER ? rows <= FEW_ROWS : cpu->kind == ROWS_OF_ANSWERS;
}

// How a product of so many rows with this matrix is computed.
enum matmul_way { MATMUL_DOTS, MATMUL_THIRDS, MATMUL_SGEMM, MATMUL_BF16, MATMUL_PACKED, MATMUL_PANELS };
enum matmul_way matmul_way(const struct cpu *cpu, enum weight_format format, int rows);

// The dot products of some of the outputs.
void matmul_dots(const struct cpu *cpu, const struct dot *dot, enum weight_format format, struct share outputs);

// `count` weights of one row, from a column on, as floats.
void matmul_weights(const struct cpu *cpu, const struct matrix *matrix, int row, int column, size_t count, float *to);

// y_i[r] (+)= W_i x[r] + bias_i of `count` matrices that read the same activations.
struct products {
    const struct linear *const *linears;
    int count;
    const float *x;  // [rows][columns]
    float *const *y; // [count], each [rows][its outputs]
    int rows;
    bool accumulate;
};
void matmul(struct cpu *cpu, const struct products *products);

// Some of the outputs of a matrix of bf16, of rows that are cut already, on this thread alone. next: weights of the
// same width that it will multiply then, or NULL.
void matmul_thirds(const struct linear *linear, struct share outputs, const uint16_t *x, int rows, float *y,
                   bool accumulate, const uint16_t *next);

// Outputs are dealt out in strips: a cache line of results, or the height of a packed block. Those of several matrices
// are numbered one after another.
enum { STRIP = PACKED_OUTPUTS, SHARE_BYTES = 1 << 19 }; // and so many bytes of weights, at most, at once
static inline int strips_of(const struct matrix *weight) {
    return (weight->rows + STRIP - 1) / STRIP;
}
static inline int strips_in(size_t bytes, const struct matrix *weight) {
    return (int)(bytes / weight_format_bytes(weight->format, STRIP, weight->columns));
}
struct deal products_deal(const struct cpu *cpu, const struct products *products);
// Takes the strips of one matrix off the front of a share. Returns which matrix that is, and its outputs.
int products_cut(const struct products *products, struct share *strips, struct share *outputs);
bool products_shared(const struct products *products); // whether they are worth waking the team for

// ---- many.c: MATMUL_BF16

void many_products(struct cpu *cpu, const struct products *products);

// y[token] += weight · down(silu(gate x[token]) ⊙ up x[token]) of all sorted rows; at least one expert has some.
void many_experts(struct cpu *cpu, const struct layer *layer, int experts, const float *x, float *y, int tokens);

// ---- packed.c: MATMUL_PACKED

void packed_products(struct cpu *cpu, const struct products *products);

// Some of the outputs of one matrix, of rows that are quantized already, on this thread alone.
void packed_outputs(const struct cpu *cpu, const struct linear *linear, struct share outputs, const struct packed_x *x,
                    int rows, float *y, bool accumulate);

// y[token] += weight · down(silu(gate x[token]) ⊙ up x[token]) of all sorted rows; at least one expert has some.
void packed_experts(struct cpu *cpu, const struct layer *layer, const struct routing *routing, int experts,
                    const float *x, float *y);

// ---- team.c

bool cpu_pin(void *state, bool pinned);
void team_close(struct team *team); // takes NULL

// ---- limits.c

double cpu_measure_reading(void *state, const void *memory, size_t bytes);
void cpu_measure(void *state, enum weight_format weights, const void *memory, size_t bytes, struct engine_limits *out);

// ---- attention.c, route.c and experts.c: stages

size_t attention_tasks_max(const struct stage_limits *limits);
size_t attention_task_bytes(void);
size_t attention_scratch_floats(const struct stage_limits *limits); // of one thread

void cpu_attention(void *state, const struct attention *attention, const struct batch *batch,
                   const struct kv_cache *cache, int layer, float *q, float *k, const float *v, float *out);
void cpu_route(void *state, const struct router *router, const float *x, int rows, struct routing *routing);
// y[token] += Σ weight · its rows' results, `count` outputs of them; the results are lost. So a token's sum does not
// depend on where its experts' rows lay. Its two are added to each other first, in whatever order, and then to y: so it
// does not depend either on which of them another device has computed (cl_kernels/scatter.cl,
// engine/placement_stages.c).
void experts_add(const struct cpu *cpu, const struct routing *routing, float *results, size_t stride, int count,
                 float *y, size_t y_stride);
void cpu_experts(void *state, const struct layer *layer, const struct routing *routing, const float *x, float *y,
                 int rows);

#endif
