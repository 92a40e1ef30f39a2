// A model: a checkpoint whose every tensor has been found, checked against the config and bound.
// Opened once, then read-only: any thread may read, the engine owns it.
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/stages.h"
#include "engine/weights.h"

enum { MODEL_EOS_MAX = 16 };

struct model_config { // from config.json and generation_config.json, every value checked
    int layers, hidden, heads, kv_heads, head_dim, intermediate, experts, experts_per_token;
    int vocab, context; // tokens
    int window;         // of attention; the context where the config has none
    float norm_epsilon, router_jitter;
    double rope_theta;
    bool attention_bias, head_bias;
    bool tied; // the head's matrix is the embedding
    int32_t eos[MODEL_EOS_MAX]; // tokens that end an answer
    int eos_count;
};

// What stages have to know of a model's shapes. How many rows, sequences and threads is the caller's to say.
static inline struct stage_limits model_stage_limits(const struct model_config *config) {
    return (struct stage_limits){.context_max = config->context,
                                 .hidden = config->hidden,
                                 .heads = config->heads,
                                 .kv_heads = config->kv_heads,
                                 .head_dim = config->head_dim,
                                 .intermediate = config->intermediate,
                                 .experts = config->experts,
                                 .vocab = config->vocab};
}

struct architecture;

struct model {
    const struct architecture *architecture;
    struct model_config config;
    struct matrix embedding; // [vocab][hidden]
    struct layer *layers;    // [config.layers]
    struct norm final_norm;
    struct linear head;      // [vocab][hidden]; a tied one's matrix is the embedding's once weights are loaded
    float *rope_cos, *rope_sin; // [context][head_dim / 2]
    uint64_t parameters, parameters_active;
    size_t weight_bytes;     // mapped or allocated
    enum weight_format weights;
    char weights_note[128];  // why these, where they were chosen; else ""
    char cache_note[1024];   // what became of the cache; "" without one
    bool cache_lost;         // it could not be written
    int64_t created;         // seconds since 1970
    struct model_storage *storage; // mappings and allocations behind the pointers
};

struct model_options {
    const char *dir;
    const char *synthetic; // instead of dir; see struct engine_options
    enum weight_format weights;
    bool weights_auto;   // choose them; see struct engine_options
    const char *cache;   // a directory; see there too
    int threads; // that load weights, and end with that; less than 1 counts as 1
    // Called by the opening thread once loading has taken a second; may be NULL.
    void (*progress)(void *user, const char *what, double share);
    void *progress_user;
};

// A failure's message names the file, the tensor or key, what was found and what was expected.
int model_open(struct model **out, const struct model_options *options, struct error *error);
void model_close(struct model *model); // takes NULL

// What can be said of a model without its weights.
struct model_outline {
    const struct architecture *architecture;
    struct model_config config;
    uint64_t parameters, parameters_active;
    size_t weight_bytes[WEIGHT_FORMAT_COUNT]; // once opened in that format
    size_t file_count, file_bytes;
    const char *file_weights; // the type of most of the files' bytes
    struct error unsupported; // code not ERROR_NONE: why model_open would refuse it
};
// Reads configs and headers; fails as model_open does, but for a sound variant that is not supported.
int model_inspect(struct model_outline *out, const char *dir, struct error *error);

// Buffers of a forward pass (engine/forward.h) for up to tokens_max rows, outputs_max of which get logits at once.
// The model and the stages' state must outlive it.
struct forward;
struct expert_counts;
int forward_create(struct forward **out, const struct model *model, const struct stages *stages, void *stages_state,
                   int tokens_max, int outputs_max, struct error *error);
void forward_destroy(struct forward *forward); // takes NULL
const struct expert_counts *forward_counts(const struct forward *forward); // of all that it has run; any thread

// Runs all layers over the batch and leaves the logits of batch->output in logits: [batch->outputs][vocab].
// The engine thread. Adds the keys and values of the batch's tokens to the cache. Allocates nothing. False: nobody
// wants it any more, and it was broken off: there are no logits, and keys and values of some layers only.
bool forward_run(struct forward *forward, const struct batch *batch, const struct kv_cache *cache, float *logits);

#endif
