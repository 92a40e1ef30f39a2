// Phi-MoE (Phi-tiny-MoE, Phi-mini-MoE, Phi-3.5-MoE):
//
//     h   = x + o(attention(rope(q), rope(k), v)),  q, k, v from LayerNorm(x)
//     out = h + Σ_slot weight · down(silu(gate y) ⊙ up y),  y = LayerNorm(h), two experts picked by SparseMixer
//
// The norms are LayerNorms, though the config calls their epsilon rms_norm_eps. heads × head_dim need not be hidden.
#include "engine/architectures/architecture.h"
#include "engine/binder.h"
#include "engine/forward.h"
#include "engine/hf_json.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- config.json

// What a file may ask for: some ten times the largest model of the family.
enum {
    LAYERS_MAX = 1024,
    WIDTH_MAX = 1 << 16, // hidden, intermediate
    HEADS_MAX = 1024,
    HEAD_DIM_MAX = 512,
    EXPERTS_MAX = 1024,
    VOCAB_MAX = 1 << 22,
    CONTEXT_MAX = 1 << 20,
};

static const double ROPE_THETA_MIN = 1, ROPE_THETA_MAX = 1e12, ROPE_THETA_DEFAULT = 1e6; // transformers' for the family

static int read_int(const json_t *json, const char *path, const char *key, int min, int max, int *out,
                    struct error *error) {
    int64_t value;
    int rc = hf_json_int(json, path, key, min, max, &value, error);
    if (!rc) *out = (int)value;
    return rc;
}

static int read_shapes(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    const struct {
        const char *key;
        int min, max, *out;
    } fields[] = {
        {"num_hidden_layers", 1, LAYERS_MAX, &config->layers},
        {"hidden_size", 1, WIDTH_MAX, &config->hidden},
        {"num_attention_heads", 1, HEADS_MAX, &config->heads},
        {"num_key_value_heads", 1, HEADS_MAX, &config->kv_heads},
        {"intermediate_size", 1, WIDTH_MAX, &config->intermediate},
        {"num_local_experts", 2, EXPERTS_MAX, &config->experts},
        {"num_experts_per_tok", 2, 2, &config->experts_per_token},
        {"vocab_size", 2, VOCAB_MAX, &config->vocab},
        {"max_position_embeddings", 1, CONTEXT_MAX, &config->context},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int rc = read_int(json, path, fields[i].key, fields[i].min, fields[i].max, fields[i].out, error);
        if (rc) return rc;
    }
    if (config->heads % config->kv_heads != 0)
        return error_set(error, ERROR_FORMAT,
                         "%s: num_key_value_heads: expected a divisor of num_attention_heads %d, found %d", path,
                         config->heads, config->kv_heads);
    return 0;
}

static int read_attention(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    int64_t head_dim, window;
    int rc = hf_json_int_or(json, path, "head_dim", 2, HEAD_DIM_MAX, config->hidden / config->heads, &head_dim, error);
    if (rc) return rc;
    if (head_dim < 2 || head_dim > HEAD_DIM_MAX || head_dim % 2 != 0) // rotary position turns its two halves
        return error_set(error, ERROR_FORMAT, "%s: head_dim: expected an even number from 2 to %d, found %d", path,
                         HEAD_DIM_MAX, (int)head_dim);
    config->head_dim = (int)head_dim;

    rc = hf_json_int_or(json, path, "sliding_window", 1, INT32_MAX, config->context, &window, error);
    if (rc) return rc;
    config->window = window < config->context ? (int)window : config->context;
    return 0;
}

// transformers ignores it for this family, whose tensors leave no room for it: whoever set it meant another model.
static int check_whole_rotation(const json_t *json, const char *path, const char *key, struct error *error) {
    double factor;
    int rc = hf_json_real_or(json, path, key, 0, 1, 1, &factor, error);
    if (rc || factor == 1) return rc;
    return error_set(error, ERROR_UNSUPPORTED, "%s: %s: expected 1, found %g: such models are not supported", path, key,
                     factor);
}

// Only rotary positions without scaling: {rope_type or type, rope_theta}.
static int check_rope_keys(json_t *rope, const char *path, struct error *error) {
    const char *key;
    json_t *value;
    json_object_foreach(rope, key, value) {
        bool type = strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0;
        if (json_is_null(value) || !type) continue;
        if (!json_is_string(value))
            return error_set(error, ERROR_FORMAT, "%s: %s: expected a string, found %s", path, key,
                             hf_json_kind(value));
        if (strcmp(json_string_value(value), "default") != 0)
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s: %s: expected \"default\", found \"%.40s\": such models are not supported yet", path,
                             key, json_string_value(value));
    }
    static const char *const KNOWN[] = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
    json_object_foreach(rope, key, value) {
        size_t i = 0;
        while (i < sizeof KNOWN / sizeof *KNOWN && strcmp(key, KNOWN[i]) != 0) i++;
        if (i == sizeof KNOWN / sizeof *KNOWN && !json_is_null(value))
            return error_set(error, ERROR_UNSUPPORTED, "%s: %.40s: expected no such key: it is not supported", path,
                             key);
    }
    return check_whole_rotation(rope, path, "partial_rotary_factor", error);
}

// The object under `key`, checked; its angles' base goes to *theta where it has one. *found: there is one with keys.
static int read_rope_object(const json_t *json, const char *path, const char *key, double *theta, bool *found,
                            struct error *error) {
    json_t *rope = json_object_get(json, key);
    *found = json_object_size(rope) > 0;
    if (!rope || json_is_null(rope)) return 0;
    if (!json_is_object(rope))
        return error_set(error, ERROR_FORMAT, "%s: %s: expected null or an object, found %s", path, key,
                         hf_json_kind(rope));
    char where[PATH_MAX + 32];
    snprintf(where, sizeof where, "%s: %s", path, key);
    int rc = check_rope_keys(rope, where, error);
    return rc ? rc : hf_json_real_or(rope, where, "rope_theta", ROPE_THETA_MIN, ROPE_THETA_MAX, *theta, theta, error);
}

// As transformers reads it: an object goes before the config's own rope_theta, and the older rope_scaling, where it
// holds anything, before the newer rope_parameters.
static int read_rope(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    double theta = ROPE_THETA_DEFAULT;
    bool scaling = false, parameters = false;
    int rc = check_whole_rotation(json, path, "partial_rotary_factor", error);
    if (!rc) rc = hf_json_real_or(json, path, "rope_theta", ROPE_THETA_MIN, ROPE_THETA_MAX, theta, &theta, error);
    double older = theta, newer = theta;
    if (!rc) rc = read_rope_object(json, path, "rope_scaling", &older, &scaling, error);
    if (!rc) rc = read_rope_object(json, path, "rope_parameters", &newer, &parameters, error);
    config->rope_theta = scaling ? older : parameters ? newer : theta;
    return rc;
}

static int read_rest(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    double epsilon, jitter;
    int rc = hf_json_real_or(json, path, "rms_norm_eps", 0, 1, 1e-5, &epsilon, error);
    if (!rc) rc = hf_json_real_or(json, path, "router_jitter_noise", 0, 1, 0.01, &jitter, error);
    if (!rc) rc = hf_json_bool_or(json, path, "attention_bias", false, &config->attention_bias, error);
    if (!rc) rc = hf_json_bool_or(json, path, "lm_head_bias", false, &config->head_bias, error);
    if (!rc) rc = hf_json_bool_or(json, path, "tie_word_embeddings", false, &config->tied, error);
    if (rc) return rc;
    config->norm_epsilon = (float)epsilon;
    config->router_jitter = (float)jitter;
    return 0;
}

static int check_supported(const json_t *json, const char *path, struct error *error) {
    const json_t *activation = json_object_get(json, "hidden_act");
    if (activation && (!json_is_string(activation) || strcmp(json_string_value(activation), "silu") != 0))
        return error_set(error, ERROR_UNSUPPORTED, "%s: hidden_act: expected \"silu\", found %.40s", path,
                         json_is_string(activation) ? json_string_value(activation) : hf_json_kind(activation));
    const json_t *quantized = json_object_get(json, "quantization_config");
    if (quantized && !json_is_null(quantized))
        return error_set(error, ERROR_UNSUPPORTED, "%s: quantization_config: expected none, found %s", path,
                         hf_json_kind(quantized));
    return 0;
}

static int read_config(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    int rc = read_shapes(json, path, config, error);
    if (!rc) rc = read_attention(json, path, config, error);
    if (!rc) rc = read_rest(json, path, config, error);
    return rc;
}

static int read_variant(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    int rc = read_rope(json, path, config, error);
    return rc ? rc : check_supported(json, path, error);
}

// ---- Tensors

static int bind_norm(struct binder *binder, const struct model_config *config, struct norm *norm, const char *name,
                     struct error *error) {
    norm->width = config->hidden;
    norm->epsilon = config->norm_epsilon;
    int rc = binder_floats(binder, &norm->weight, config->hidden, 0, error, "%s.weight", name);
    return rc ? rc : binder_floats(binder, &norm->bias, config->hidden, 0, error, "%s.bias", name);
}

static int bind_layer_norm(struct binder *binder, const struct model_config *config, struct norm *norm, int l,
                           const char *name, struct error *error) {
    char full[64];
    snprintf(full, sizeof full, "model.layers.%d.%s", l, name);
    return bind_norm(binder, config, norm, full, error);
}

static int bind_projection(struct binder *binder, const struct model_config *config, struct linear *linear, int rows,
                           int columns, int l, char letter, struct error *error) {
    int rc = binder_matrix(binder, &linear->weight, rows, columns, error, "model.layers.%d.self_attn.%c_proj.weight",
                           l, letter);
    if (rc || !config->attention_bias) return rc;
    return binder_floats(binder, &linear->bias, rows, 0, error, "model.layers.%d.self_attn.%c_proj.bias", l, letter);
}

// One tensor a matrix: w1 is the gate, w2 down, w3 up.
static int bind_separate_expert(struct binder *binder, const struct model_config *config, struct expert *expert, int l,
                                int e, struct error *error) {
    static const char FORMAT[] = "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight";
    int hidden = config->hidden, intermediate = config->intermediate;
    int rc = binder_matrix(binder, &expert->gate, intermediate, hidden, error, FORMAT, l, e, 1);
    if (!rc) rc = binder_matrix(binder, &expert->down, hidden, intermediate, error, FORMAT, l, e, 2);
    if (!rc) rc = binder_matrix(binder, &expert->up, intermediate, hidden, error, FORMAT, l, e, 3);
    return rc;
}

// As transformers holds them: all gates and ups of a layer in one tensor, all downs in another.
static int bind_stacked_expert(struct binder *binder, const struct model_config *config, struct expert *expert, int l,
                               int e, struct error *error) {
    static const char GATE_UP[] = "model.layers.%d.mlp.experts.gate_up_proj";
    int hidden = config->hidden, intermediate = config->intermediate;
    struct stack gate = {config->experts, 2 * intermediate, hidden, e, 0, intermediate};
    struct stack up = {config->experts, 2 * intermediate, hidden, e, intermediate, intermediate};
    struct stack down = {config->experts, hidden, intermediate, e, 0, hidden};
    int rc = binder_stacked(binder, &expert->gate, &gate, error, GATE_UP, l);
    if (!rc) rc = binder_stacked(binder, &expert->up, &up, error, GATE_UP, l);
    if (!rc) rc = binder_stacked(binder, &expert->down, &down, error, "model.layers.%d.mlp.experts.down_proj", l);
    return rc;
}

static int bind_experts(struct binder *binder, const struct model_config *config, struct layer *layer, int l,
                        struct error *error) {
    bool stacked = binder_has(binder, "model.layers.%d.mlp.experts.gate_up_proj", l);
    layer->router = (struct router){.experts = config->experts,
                                    .top_k = config->experts_per_token,
                                    .jitter = config->router_jitter,
                                    .hidden = config->hidden};
    int rc = binder_floats(
        binder, &layer->router.weight, config->experts, config->hidden, error,
        stacked ? "model.layers.%d.mlp.router.weight" : "model.layers.%d.block_sparse_moe.gate.weight", l);
    if (rc) return rc;
    layer->experts = calloc((size_t)config->experts, sizeof *layer->experts);
    if (!layer->experts) return error_set(error, ERROR_MEMORY, "out of memory for layer %d", l);
    for (int e = 0; !rc && e < config->experts; e++)
        rc = stacked ? bind_stacked_expert(binder, config, &layer->experts[e], l, e, error)
                     : bind_separate_expert(binder, config, &layer->experts[e], l, e, error);
    return rc;
}

static int bind_layer(struct binder *binder, const struct model_config *config, struct layer *layer, int l,
                      struct error *error) {
    int hidden = config->hidden, q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    int rc = bind_layer_norm(binder, config, &layer->attention_norm, l, "input_layernorm", error);
    if (!rc) rc = bind_projection(binder, config, &layer->q, q, hidden, l, 'q', error);
    if (!rc) rc = bind_projection(binder, config, &layer->k, kv, hidden, l, 'k', error);
    if (!rc) rc = bind_projection(binder, config, &layer->v, kv, hidden, l, 'v', error);
    if (!rc) rc = bind_projection(binder, config, &layer->o, hidden, q, l, 'o', error);
    if (!rc) rc = bind_layer_norm(binder, config, &layer->expert_norm, l, "post_attention_layernorm", error);
    if (!rc) rc = bind_experts(binder, config, layer, l, error);
    return rc;
}

static int bind_head(struct binder *binder, struct model *model, struct error *error) {
    const struct model_config *config = &model->config;
    int rc = 0;
    if (!config->tied)
        rc = binder_words(binder, &model->head.weight, config->vocab, config->hidden, error, "lm_head.weight");
    if (rc || !config->head_bias) return rc;
    return binder_floats(binder, &model->head.bias, config->vocab, 0, error, "lm_head.bias");
}

static int bind(struct model *model, struct binder *binder, struct error *error) {
    static const char *const HARMLESS[] = {".rotary_emb.inv_freq", NULL}; // old files keep what the config says
    const struct model_config *config = &model->config;
    int rc = binder_words(binder, &model->embedding, config->vocab, config->hidden, error, "model.embed_tokens.weight");
    for (int l = 0; !rc && l < config->layers; l++) rc = bind_layer(binder, config, &model->layers[l], l, error);
    if (!rc) rc = bind_norm(binder, config, &model->final_norm, "model.norm", error);
    if (!rc) rc = bind_head(binder, model, error);
    if (!rc) rc = binder_finish(binder, HARMLESS, error);
    return rc;
}

// ---- The forward pass

// Rows that are computed in one arithmetic (engine/stages.h).
struct span {
    enum row_kind kind;
    int first, rows;
};

static int split(const struct batch *batch, struct span spans[2]) {
    int count = 0, first = batch->answers + batch->brief;
    if (first > 0) spans[count++] = (struct span){ROWS_OF_ANSWERS, 0, first};
    if (first < batch->tokens) spans[count++] = (struct span){ROWS_OF_PROMPTS, first, batch->tokens - first};
    return count;
}

static void rows_are(const struct forward *f, enum row_kind kind) {
    if (f->stages->rows_are) f->stages->rows_are(f->state, kind);
}

static void project_output(const struct forward *f, const struct batch *batch, const struct linear *linear,
                           const float *x, float *y) {
    struct span spans[2];
    int count = split(batch, spans);
    for (int i = 0; i < count; i++) {
        size_t first = (size_t)spans[i].first;
        rows_are(f, spans[i].kind);
        f->stages->linear(f->state, linear, x + first * (size_t)linear->weight.columns,
                          y + first * (size_t)linear->weight.rows, spans[i].rows, true);
    }
}

// q, k and v of all rows, from the same activations.
static void project_qkv(const struct forward *f, const struct batch *batch, const struct layer *layer, const float *x) {
    const struct linear *const linears[] = {&layer->q, &layer->k, &layer->v};
    float *const all[] = {f->q, f->k, f->v};
    struct span spans[2];
    int count = split(batch, spans);
    for (int i = 0; i < count; i++) {
        float *y[3];
        for (int j = 0; j < 3; j++) y[j] = all[j] + (size_t)spans[i].first * (size_t)linears[j]->weight.rows;
        rows_are(f, spans[i].kind);
        f->stages->linears(f->state, linears, 3, x + (size_t)spans[i].first * (size_t)layer->q.weight.columns, y,
                           spans[i].rows);
    }
}

static struct routing routing_from(const struct forward *f, int first, int rows) {
    struct routing routing = f->routing;
    routing.rows = rows;
    routing.expert += (size_t)first * (size_t)routing.top_k;
    routing.weight += (size_t)first * (size_t)routing.top_k;
    return routing;
}

// The rows of a batch from `first` on; those of prompts count as such in whichever arithmetic they are.
static void count(const struct forward *f, const struct batch *batch, int first, int l, const struct routing *routing) {
    struct routing part = *routing;
    int answers = batch->answers > first ? batch->answers - first : 0;
    part.rows = answers < routing->rows ? answers : routing->rows;
    if (part.rows > 0) expert_counts_add(f->counts, ENGINE_ROWS_ANSWERS, l, &part);
    part.expert += part.rows * part.top_k;
    part.rows = routing->rows - part.rows;
    if (part.rows > 0) expert_counts_add(f->counts, ENGINE_ROWS_PROMPTS, l, &part);
}

static void mix_experts(struct forward *f, const struct batch *batch, int l) {
    const struct layer *layer = &f->model->layers[l];
    struct span spans[2];
    int span_count = split(batch, spans);
    for (int i = 0; i < span_count; i++) {
        size_t at = (size_t)spans[i].first * (size_t)layer->router.hidden;
        struct routing routing = routing_from(f, spans[i].first, spans[i].rows);
        rows_are(f, spans[i].kind);
        f->stages->route(f->state, &layer->router, f->normed + at, spans[i].rows, &routing);
        f->stages->experts(f->state, layer, &routing, f->normed + at, f->x + at, spans[i].rows);
        count(f, batch, spans[i].first, l, &routing);
    }
}

// What goes through a layer at once: the whole batch, or, where another device computes the experts, its answers and a
// prompt's rows in parts, so that one part attends while the others' experts are at work. Answers are halved only where
// there is no prompt to pass them.
struct part {
    int slot, first;
    int whole; // rows of all parts of this kind
    struct batch batch;
};

static int cut(struct forward *f, const struct batch *batch, struct part parts[STAGE_SLOTS]) {
    const struct stages *stages = f->stages;
    struct span spans[2];
    int count = 0, span_count = split(batch, spans);
    if (!stages->mixture_begin) {
        parts[0] = (struct part){.batch = *batch};
        return 1;
    }
    for (int s = 0; s < span_count; s++) {
        bool alone = spans[s].kind == ROWS_OF_PROMPTS || span_count == 1;
        int pieces = alone ? stages->parts(f->state, spans[s].kind, spans[s].rows) : 1;
        for (int p = 0; p < pieces; p++, count++) {
            int first = (int)((int64_t)spans[s].rows * p / pieces),
                end = (int)((int64_t)spans[s].rows * (p + 1) / pieces);
            parts[count] = (struct part){.slot = count, .first = spans[s].first + first, .whole = spans[s].rows};
            forward_cut(f, batch, parts[count].first, end - first, &parts[count].batch);
        }
    }
    return count;
}

static void attend(struct forward *f, const struct part *part, const struct kv_cache *cache, int l) {
    const struct model *model = f->model;
    const struct model_config *config = &model->config;
    const struct stages *stages = f->stages;
    const struct layer *layer = &model->layers[l];
    const struct attention attention = {.heads = config->heads,
                                        .kv_heads = config->kv_heads,
                                        .head_dim = config->head_dim,
                                        .window = config->window,
                                        .rope_cos = model->rope_cos,
                                        .rope_sin = model->rope_sin,
                                        .narrow = layer->q.weight.format != WEIGHTS_F32};
    const struct batch *batch = &part->batch;
    float *x = f->x + (size_t)part->first * (size_t)config->hidden;
    float *normed = f->normed + (size_t)part->first * (size_t)config->hidden;

    stages->norm(f->state, &layer->attention_norm, x, normed, batch->tokens);
    project_qkv(f, batch, layer, normed);
    stages->attention(f->state, &attention, batch, cache, l, f->q, f->k, f->v, f->attended);
    project_output(f, batch, &layer->o, f->attended, x);
    stages->norm(f->state, &layer->expert_norm, x, normed, batch->tokens);
}

// Where a device computes the mixtures, a part is of one kind.
static enum row_kind kind_of(const struct part *part) {
    return part->batch.answers + part->batch.brief > 0 ? ROWS_OF_ANSWERS : ROWS_OF_PROMPTS;
}

static void mix_begin(struct forward *f, const struct part *part, int l) {
    if (!f->stages->mixture_begin) {
        mix_experts(f, &part->batch, l);
        return;
    }
    rows_are(f, kind_of(part));
    const float *x = f->normed + (size_t)part->first * (size_t)f->model->config.hidden;
    f->stages->mixture_begin(f->state, part->slot, &f->model->layers[l], x, part->batch.tokens, part->whole);
}

static void mix_end(struct forward *f, const struct part *part, int l) {
    if (!f->stages->mixture_end) return;
    struct routing routing = routing_from(f, part->first, part->batch.tokens);
    float *x = f->x + (size_t)part->first * (size_t)f->model->config.hidden;
    f->stages->mixture_end(f->state, part->slot, x, &routing);
    count(f, &part->batch, 0, l, &routing);
}

// False: broken off, with no device at work for it any more.
static bool run_layers(struct forward *f, const struct batch *batch, const struct kv_cache *cache) {
    struct part parts[STAGE_SLOTS];
    int count = cut(f, batch, parts), layers = f->model->config.layers, l = 0;
    for (; l < layers && !(l > 0 && batch->unwanted && batch->unwanted(batch->unwanted_user)); l++)
        for (int p = 0; p < count; p++) {
            if (l > 0) mix_end(f, &parts[p], l - 1);
            attend(f, &parts[p], cache, l);
            mix_begin(f, &parts[p], l);
        }
    for (int p = 0; p < count; p++) mix_end(f, &parts[p], l - 1);
    return l == layers;
}

static bool run(struct forward *f, const struct batch *batch, const struct kv_cache *cache, float *logits) {
    const struct model *model = f->model;
    const struct stages *stages = f->stages;
    size_t hidden = (size_t)model->config.hidden;

    stages->embed(f->state, &model->embedding, batch->token, batch->tokens, f->x);
    if (!run_layers(f, batch, cache)) return false;

    if (batch->outputs == 0) return true;
    for (int i = 0; i < batch->outputs; i++)
        memcpy(f->wanted + (size_t)i * hidden, f->x + (size_t)batch->output[i] * hidden, hidden * sizeof(float));
    stages->norm(f->state, &model->final_norm, f->wanted, f->wanted, batch->outputs);
    rows_are(f, ROWS_OF_ANSWERS); // few, whatever they belong to
    stages->linear(f->state, &model->head, f->wanted, logits, batch->outputs, false);
    return true;
}

const struct architecture phimoe_architecture = {
    .name = "phimoe",
    .read_config = read_config,
    .read_variant = read_variant,
    .bind = bind,
    .forward = run,
};
