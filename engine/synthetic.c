#include "engine/synthetic.h"

#include "base/crew.h"
#include "engine/architectures/architecture.h"
#include "engine/machine.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    EXPERTS = 16,
    NAME_BYTES = 96,
    NAMES_BYTES_MAX = 1 << 20,
    ALIGN_BYTES = 4096, // a page: the binder gives back those of a tensor that it has converted
    PIECE = 1024,       // numbers made or copied at a time, in the first cache
    FRESH = 64 * PIECE, // of a tensor; what follows are pieces of them
};
static const float BIAS_MAX = 0.05f;
static const double QUIET_SECONDS = 1.0; // before progress is told

// ---- Shapes

int synthetic_config(const char *name, const struct architecture **architecture, struct model_config *out,
                     struct error *error) {
    static const struct {
        const char *name;
        struct model_config config;
    } SHAPES[] = {
#define SHAPE(text, layer_count, width, head_count, kv_head_count, head_width, expert_width, tokens) \
    {text, \
     {.layers = layer_count, \
      .hidden = width, \
      .heads = head_count, \
      .kv_heads = kv_head_count, \
      .head_dim = head_width, \
      .intermediate = expert_width, \
      .experts = EXPERTS, \
      .experts_per_token = 2, \
      .vocab = tokens, \
      .context = 4096, \
      .window = 2047, \
      .norm_epsilon = 1e-5f, \
      .router_jitter = 0.01f, \
      .rope_theta = 10000, \
      .attention_bias = true, \
      .head_bias = true}},
        SYNTHETIC_MODELS(SHAPE)
#undef SHAPE
    };
#define NAME(text, ...) ", " text
    static const char KNOWN[] = SYNTHETIC_MODELS(NAME);
#undef NAME
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        if (strcmp(SHAPES[i].name, name) == 0) {
            const char *known;
            *out = SHAPES[i].config;
            *architecture = architecture_find("phimoe", &known);
            return 0;
        }
    return error_set_param(error, ERROR_ARGUMENT, "synthetic", "synthetic is \"%.40s\"; there are %s", name, KNOWN + 2);
}

// ---- The list of tensors

struct maker {
    struct checkpoint *checkpoint;
    const char *path; // what messages call the checkpoint
    enum tensor_type matrix_type;
    size_t capacity, bytes; // tensors there is room for, and what those listed take
    bool failed;            // out of memory
};

// Lists a tensor. columns 0: a vector. Its data is an offset until there is memory.
__attribute__((format(printf, 5, 6))) static void add(struct maker *maker, enum tensor_type type, int rows, int columns,
                                                      const char *format, ...) {
    struct checkpoint *checkpoint = maker->checkpoint;
    if (maker->failed) return;
    if (checkpoint->tensor_count == maker->capacity) {
        size_t capacity = maker->capacity ? 2 * maker->capacity : 1024;
        struct tensor *grown = realloc(checkpoint->tensors, capacity * sizeof *grown);
        if (!grown) goto failed;
        checkpoint->tensors = grown;
        maker->capacity = capacity;
    }
    char name[NAME_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const char *copy = arena_copy(checkpoint->arena, name, (size_t)length);
    if (!copy) goto failed;
    size_t elements = (size_t)rows * (size_t)(columns ? columns : 1);
    checkpoint->tensors[checkpoint->tensor_count++] = (struct tensor){.name = copy,
                                                                      .path = maker->path,
                                                                      .type = type,
                                                                      .dimensions = columns ? 2 : 1,
                                                                      .shape = {(size_t)rows, (size_t)columns},
                                                                      .bytes = elements * tensor_type_bytes(type)};
    return;
failed:
    maker->failed = true;
}

static void add_matrix(struct maker *maker, int rows, int columns, const char *name) {
    add(maker, maker->matrix_type, rows, columns, "%s.weight", name);
}

static void add_norm(struct maker *maker, int width, const char *name) {
    add(maker, TENSOR_F32, width, 0, "%s.weight", name);
    add(maker, TENSOR_F32, width, 0, "%s.bias", name);
}

static void add_layer(struct maker *maker, const struct model_config *config, int l) {
    int hidden = config->hidden, q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    const struct {
        char letter;
        int rows, columns;
    } projections[] = {{'q', q, hidden}, {'k', kv, hidden}, {'v', kv, hidden}, {'o', hidden, q}};
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%d.input_layernorm", l);
    add_norm(maker, hidden, name);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "model.layers.%d.self_attn.%c_proj", l, projections[i].letter);
        add_matrix(maker, projections[i].rows, projections[i].columns, name);
        add(maker, TENSOR_F32, projections[i].rows, 0, "%s.bias", name);
    }
    snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm", l);
    add_norm(maker, hidden, name);
    add(maker, TENSOR_F32, config->experts, hidden, "model.layers.%d.block_sparse_moe.gate.weight", l);
    for (int e = 0; e < config->experts; e++)
        for (int w = 1; w <= 3; w++) {
            snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.w%d", l, e, w);
            bool down = w == 2;
            add_matrix(maker, down ? hidden : config->intermediate, down ? config->intermediate : hidden, name);
        }
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int list_tensors(struct maker *maker, const struct model_config *config, struct error *error) {
    struct checkpoint *checkpoint = maker->checkpoint;
    checkpoint->arena = arena_create(NAMES_BYTES_MAX);
    if (!checkpoint->arena) goto no_memory;
    add_matrix(maker, config->vocab, config->hidden, "model.embed_tokens");
    for (int l = 0; l < config->layers; l++) add_layer(maker, config, l);
    add_norm(maker, config->hidden, "model.norm");
    add_matrix(maker, config->vocab, config->hidden, "lm_head");
    add(maker, TENSOR_F32, config->vocab, 0, "lm_head.bias");
    if (maker->failed) goto no_memory;
    qsort(checkpoint->tensors, checkpoint->tensor_count, sizeof *checkpoint->tensors, compare_names);
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        maker->bytes += (checkpoint->tensors[i].bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return 0;
no_memory:
    return error_set(error, ERROR_MEMORY, "%s: out of memory for the list of its tensors", maker->path);
}

// ---- Numbers

static uint64_t mix(uint64_t x) { // splitmix64's
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Whole numbers from -32768 to 32767 times a factor. Number i of a tensor depends on its seed and on i alone.
static void fill_piece(const struct tensor *tensor, uint64_t seed, size_t first, size_t count, float factor) {
    uint64_t dice[PIECE / 4];
    int16_t number[PIECE];
    for (size_t i = 0; i < PIECE / 4; i++) dice[i] = mix(seed + first / 4 + i);
    memcpy(number, dice, sizeof number);
    if (tensor->type == TENSOR_F32) {
        float *to = (float *)(void *)tensor->data + first;
        for (size_t i = 0; i < count; i++) to[i] = (float)number[i] * factor;
        return;
    }
    uint16_t *to = (uint16_t *)(void *)tensor->data + first;
    for (size_t i = 0; i < count; i++) {
        float value = (float)number[i] * factor;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        to[i] = (uint16_t)(bits >> 16); // bf16, rounded towards 0
    }
}

static void fill(const struct tensor *tensor, size_t index) {
    size_t elements = tensor->bytes / tensor_type_bytes(tensor->type);
    bool vector = tensor->dimensions == 1, norm = vector && strstr(tensor->name, "norm.weight") != NULL;
    if (norm) {
        float *to = (float *)(void *)tensor->data;
        for (size_t i = 0; i < elements; i++) to[i] = 1;
        return;
    }
    // A product of a row with a vector of unit variance has unit variance too.
    float most = vector ? BIAS_MAX : sqrtf(3.0f / (float)tensor->shape[1]);
    size_t width = tensor_type_bytes(tensor->type);
    unsigned char *to = (unsigned char *)tensor->data;
    uint64_t seed = (uint64_t)index << 32;
    for (size_t i = 0; i < elements; i += PIECE) {
        size_t count = elements - i < PIECE ? elements - i : PIECE;
        if (i < FRESH)
            fill_piece(tensor, seed, i, count, most / 32768);
        else
            memcpy(to + i * width, to + mix(seed + i) % (FRESH - PIECE) * width, count * width);
    }
}

// ---- Filling

struct filling {
    const struct checkpoint *checkpoint;
    atomic_size_t next;
};

static bool fill_next(void *work) {
    struct filling *filling = work;
    size_t index = atomic_fetch_add(&filling->next, 1);
    if (index >= filling->checkpoint->tensor_count) return false;
    fill(&filling->checkpoint->tensors[index], index);
    return true;
}

static double share_filled(void *work) {
    struct filling *filling = work;
    double share = (double)atomic_load(&filling->next) / (double)filling->checkpoint->tensor_count;
    return share < 1 ? share : 1;
}

static void fill_checkpoint(const struct checkpoint *checkpoint, const struct model_options *options) {
    struct filling filling = {.checkpoint = checkpoint};
    struct crew_report report =
        crew_report(options->progress, options->progress_user, "making weights", QUIET_SECONDS);
    crew_run(options->threads, fill_next, &filling, &report, share_filled);
}

// ---- The checkpoint

// One mapping for all, which stands for the file.
static int take_memory(struct maker *maker, struct error *error) {
    struct checkpoint *checkpoint = maker->checkpoint;
    size_t free_bytes = machine_memory_available("");
    if (free_bytes && maker->bytes > free_bytes)
        return error_set(error, ERROR_MEMORY, "%s: its weights take %.1f GB of memory, and %.1f GB are free",
                         maker->path, (double)maker->bytes / 1e9, (double)free_bytes / 1e9);
    checkpoint->files = calloc(1, sizeof *checkpoint->files);
    if (!checkpoint->files) return error_set(error, ERROR_MEMORY, "%s: out of memory", maker->path);
    checkpoint->file_count = 1;
    unsigned char *map = mmap(NULL, maker->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return error_set(error, ERROR_MEMORY, "%s: out of memory for %.1f GB of weights", maker->path,
                         (double)maker->bytes / 1e9);
    checkpoint->files[0] = (struct checkpoint_file){maker->path, map, maker->bytes};
    for (size_t i = 0, at = 0; i < checkpoint->tensor_count; i++) {
        checkpoint->tensors[i].data = map + at;
        at += (checkpoint->tensors[i].bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    }
    return 0;
}

int synthetic_checkpoint(struct checkpoint *out, const struct model_config *config, const struct model_options *options,
                         struct error *error) {
    struct maker maker = {.checkpoint = out,
                          .path = options->synthetic,
                          .matrix_type = options->weights == WEIGHTS_F32 && !options->weights_auto ? TENSOR_F32
                                                                                               : TENSOR_BF16};
    int rc = list_tensors(&maker, config, error);
    if (!rc) rc = take_memory(&maker, error);
    if (!rc) fill_checkpoint(out, options);
    return rc; // what is left of a failure, checkpoint_close frees
}
