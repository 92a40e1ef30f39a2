#include "engine/model.h"

#include "base/checksum.h"
#include "engine/architectures/architecture.h"
#include "engine/binder.h"
#include "engine/hf_json.h"
#include "engine/machine.h"
#include "engine/model_directory.h"
#include "engine/synthetic.h"
#include "engine/weight_cache.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONFIG_BYTES_MAX = 1 << 20,
    FILE_EOS_MAX = 8, // a file may name
};
// For choosing a format: up to here bf16 is fast enough, and so much more than the weights has to be free.
static const size_t SMALL_BYTES = (size_t)1 << 30, ROOM_BYTES = (size_t)1 << 30;
static const double QUIET_SECONDS = 1.0; // loading that takes less says nothing

static int file_path(char path[PATH_MAX], const char *dir, const char *name, struct error *error) {
    int length = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    if (length < 0 || length >= PATH_MAX)
        return error_set(error, ERROR_ARGUMENT, "%.100s…: expected a path of fewer than %d bytes", dir, PATH_MAX);
    return 0;
}

// ---- config.json, generation_config.json

static int add_eos(const json_t *value, const char *path, struct model_config *config, struct error *error) {
    if (config->eos_count == FILE_EOS_MAX)
        return error_set(error, ERROR_FORMAT, "%s: eos_token_id: expected at most %d tokens", path, FILE_EOS_MAX);
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= config->vocab)
        return error_set(error, ERROR_FORMAT, "%s: eos_token_id: expected token ids from 0 to %d, found %s", path,
                         config->vocab - 1, json_is_integer(value) ? "one beyond them" : hf_json_kind(value));
    config->eos[config->eos_count++] = (int32_t)json_integer_value(value);
    return 0;
}

// One id, a list of them, or none.
static int read_eos(const json_t *json, const char *path, struct model_config *config, struct error *error) {
    const json_t *value = json_object_get(json, "eos_token_id");
    if (!value || json_is_null(value)) return 0;
    if (!json_is_array(value)) return add_eos(value, path, config, error);
    int rc = 0;
    for (size_t i = 0; !rc && i < json_array_size(value); i++)
        rc = add_eos(json_array_get(value, i), path, config, error);
    return rc;
}

// generation_config.json has the last word on where an answer ends, config.json where it says nothing.
static int read_ends(const char *dir, const json_t *config_json, const char *config_path, struct model_config *config,
                     struct error *error) {
    char path[PATH_MAX];
    json_t *json = NULL;
    int rc = file_path(path, dir, "generation_config.json", error);
    if (!rc) rc = hf_json_load(path, CONFIG_BYTES_MAX, &json, error);
    if (rc && rc != ERROR_NOT_FOUND) return rc;
    rc = json ? read_eos(json, path, config, error) : 0;
    json_decref(json);
    if (!rc && config->eos_count == 0) rc = read_eos(config_json, config_path, config, error);
    if (!rc && config->eos_count == 0)
        rc = error_set(error, ERROR_FORMAT, "%s: eos_token_id: expected a token id, here or in generation_config.json",
                       config_path);
    return rc;
}

// What is sound but not supported goes to *unsupported and is no failure, unless that is NULL.
static int read_configs(struct model *model, const char *dir, struct error *unsupported, struct error *error) {
    char path[PATH_MAX];
    json_t *json = NULL;
    const char *type, *known;
    int rc = file_path(path, dir, "config.json", error);
    if (!rc) rc = hf_json_load(path, CONFIG_BYTES_MAX, &json, error);
    if (!rc) rc = hf_json_string(json, path, "model_type", &type, error);
    if (rc) goto done;
    model->architecture = architecture_find(type, &known);
    if (!model->architecture) {
        rc = error_set(error, ERROR_UNSUPPORTED, "%s: model_type: expected one of: %s, found \"%.40s\"", path, known,
                       type);
        goto done;
    }
    rc = model->architecture->read_config(json, path, &model->config, error);
    if (!rc) rc = read_ends(dir, json, path, &model->config, error);
    if (rc) goto done;
    rc = model->architecture->read_variant(json, path, &model->config, error);
    if (rc == ERROR_UNSUPPORTED && unsupported) {
        *unsupported = *error;
        rc = 0;
    }
done:
    json_decref(json);
    return rc;
}

// ---- Weights

static int open_checkpoint(struct model *model, const struct model_options *options, struct error *error) {
    model->storage = calloc(1, sizeof *model->storage);
    model->layers = calloc((size_t)model->config.layers, sizeof *model->layers);
    if (!model->storage || !model->layers) return error_set(error, ERROR_MEMORY, "out of memory for the model");
    if (options->synthetic) return synthetic_checkpoint(&model->storage->checkpoint, &model->config, options, error);
    return safetensors_open(&model->storage->checkpoint, options->dir, error);
}

static void forget_layers(struct model *model) {
    for (int l = 0; model->layers && l < model->config.layers; l++) {
        free(model->layers[l].experts);
        model->layers[l].experts = NULL;
    }
}

// What the model takes in each format.
static int measure_formats(struct model *model, size_t bytes[WEIGHT_FORMAT_COUNT], struct error *error) {
    struct binder *binder;
    int rc = binder_create(&binder, model->storage, WEIGHTS_BF16, error); // any: nothing is loaded
    if (rc) return rc;
    rc = model->architecture->bind(model, binder, error);
    model->parameters = binder_parameters(binder);
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) bytes[i] = binder_bytes_as(binder, (enum weight_format)i);
    binder_destroy(binder);
    return rc;
}

// A small model is fast in any format, and bf16 is what models are published in. Of larger ones every answer waits for
// the memory: int8 takes half of it, and what that costs in accuracy is hardly to be measured (README.md, "How exact").
static int choose_weights(struct model *model, const struct model_options *options, struct error *error) {
    size_t bytes[WEIGHT_FORMAT_COUNT], memory = machine_memory_available("");
    model->weights = options->weights;
    if (!options->weights_auto) return 0;
    int rc = measure_formats(model, bytes, error);
    forget_layers(model);
    if (rc) return rc;
    bool small = bytes[WEIGHTS_BF16] <= SMALL_BYTES, fits = memory == 0 || bytes[WEIGHTS_INT8] + ROOM_BYTES <= memory;
    model->weights = small ? WEIGHTS_BF16 : fits ? WEIGHTS_INT8 : WEIGHTS_INT4;
    static const char *const WHY[] = {[WEIGHTS_BF16] = "the model is small",
                                      [WEIGHTS_INT8] = "twice as fast as bf16 and nearly as exact",
                                      [WEIGHTS_INT4] = "int8 does not fit into the memory that is free"};
    double held = (double)bytes[model->weights];
    snprintf(model->weights_note, sizeof model->weights_note,
             held < 1e9 ? "%s, %.1f MB of %.1f GB free: %s" : "%s, %.2f GB of %.1f GB free: %s",
             weight_format_name(model->weights), held < 1e9 ? held / 1e6 : held / 1e9, (double)memory / 1e9,
             WHY[model->weights]);
    return 0;
}

// The cache file of this model and format: DIR/NAME-FORMAT.weights, after the model's directory. False: there is none.
static bool cache_path(const struct model *model, const struct model_options *options, char path[PATH_MAX]) {
    if (!options->cache || options->synthetic) return false;
    char *real = realpath(options->dir, NULL);
    const char *slash = real ? strrchr(real, '/') : NULL;
    uint64_t place = real ? checksum(0, real, strlen(real)) : 0; // two models may have one name
    int length = snprintf(path, PATH_MAX, "%s/%s-%08x-%s.weights", options->cache, slash ? slash + 1 : "model",
                          (unsigned)place, weight_format_name(model->weights));
    free(real);
    return length > 0 && length < PATH_MAX;
}

static int load_weights(struct model *model, const struct model_options *options, struct error *error) {
    char cache[PATH_MAX];
    struct binder *binder = NULL;
    int rc = open_checkpoint(model, options, error);
    if (!rc) rc = choose_weights(model, options, error);
    if (!rc) rc = binder_create(&binder, model->storage, model->weights, error);
    if (!rc) rc = model->architecture->bind(model, binder, error);
    if (!rc)
        rc = binder_load(binder,
                         &(struct binder_loading){.memory_bytes = machine_memory_available(""),
                                                  .cache = cache_path(model, options, cache) ? cache : NULL,
                                                  .threads = options->threads,
                                                  .quiet_seconds = QUIET_SECONDS,
                                                  .progress = options->progress,
                                                  .progress_user = options->progress_user},
                         error);
    if (rc) goto done;
    if (model->config.tied) model->head.weight = model->embedding;
    model->parameters = binder_parameters(binder);
    model->weight_bytes = binder_bytes(binder);
    model->created = model->storage->checkpoint.modified;
    snprintf(model->cache_note, sizeof model->cache_note, "%s", binder_cache_note(binder));
    model->cache_lost = binder_cache_lost(binder);
done:
    binder_destroy(binder);
    return rc;
}

// What one token passes through: one row of the embedding, and the experts it is sent to.
static uint64_t count_active(const struct model *model) {
    const struct model_config *config = &model->config;
    uint64_t hidden = (uint64_t)config->hidden, expert = 3 * hidden * (uint64_t)config->intermediate;
    uint64_t idle = (uint64_t)config->layers * (uint64_t)(config->experts - config->experts_per_token) * expert;
    uint64_t lookup = config->tied ? 0 : ((uint64_t)config->vocab - 1) * hidden;
    return model->parameters - idle - lookup;
}

// Rotary angles, rounded to fp32 at the same steps as transformers rounds them: an angle of position 100,000 that
// is right to the last bit of a double would differ from the one that models were trained with.
static int make_rope(struct model *model, struct error *error) {
    const struct model_config *config = &model->config;
    size_t half = (size_t)config->head_dim / 2, positions = (size_t)config->context;
    model->rope_cos = calloc(positions * half, sizeof(float));
    model->rope_sin = calloc(positions * half, sizeof(float));
    float *frequency = calloc(half, sizeof *frequency);
    int rc = 0;
    if (!model->rope_cos || !model->rope_sin || !frequency) {
        rc = error_set(error, ERROR_MEMORY, "out of memory for the rotary angles of %zu positions", positions);
        goto done;
    }
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)config->head_dim;
        frequency[i] = 1.0f / (float)pow((float)config->rope_theta, exponent);
    }
    for (size_t p = 0; p < positions; p++)
        for (size_t i = 0; i < half; i++) {
            float angle = (float)p * frequency[i];
            model->rope_cos[p * half + i] = cosf(angle);
            model->rope_sin[p * half + i] = sinf(angle);
        }
done:
    free(frequency);
    return rc;
}

int model_open(struct model **out, const struct model_options *options, struct error *error) {
    struct model *model = calloc(1, sizeof *model);
    if (!model) return error_set(error, ERROR_MEMORY, "out of memory for the model");
    int rc;
    if (options->synthetic) {
        rc = synthetic_config(options->synthetic, &model->architecture, &model->config, error);
    } else {
        rc = model_directory_check(options->dir, error);
        if (!rc) rc = read_configs(model, options->dir, NULL, error);
    }
    if (!rc) rc = load_weights(model, options, error);
    if (!rc) rc = make_rope(model, error);
    if (rc) {
        model_close(model);
        return rc;
    }
    model->parameters_active = count_active(model);
    *out = model;
    return 0;
}

// ---- Inspecting

// The type that most of the checkpoint's bytes are of.
static enum tensor_type main_type(const struct checkpoint *checkpoint) {
    size_t bytes[TENSOR_TYPE_COUNT] = {0}, most = 0;
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        bytes[checkpoint->tensors[i].type] += checkpoint->tensors[i].bytes;
    for (size_t i = 1; i < TENSOR_TYPE_COUNT; i++)
        if (bytes[i] > bytes[most]) most = i;
    return (enum tensor_type)most;
}

static int outline_weights(struct model *model, struct model_outline *out, struct error *error) {
    const struct checkpoint *checkpoint = &model->storage->checkpoint;
    int rc = measure_formats(model, out->weight_bytes, error);
    if (rc) return rc;

    out->parameters = model->parameters;
    out->parameters_active = count_active(model);
    out->file_weights = tensor_type_name(main_type(checkpoint));
    out->file_count = checkpoint->file_count;
    for (size_t i = 0; i < checkpoint->file_count; i++) out->file_bytes += checkpoint->files[i].bytes;
    return 0;
}

int model_inspect(struct model_outline *out, const char *dir, struct error *error) {
    *out = (struct model_outline){0};
    struct error cause;
    if (!error) error = &cause;
    struct model *model = calloc(1, sizeof *model);
    if (!model) return error_set(error, ERROR_MEMORY, "out of memory for the model");
    int rc = model_directory_check(dir, error);
    if (!rc) rc = read_configs(model, dir, &out->unsupported, error);
    if (!rc) rc = open_checkpoint(model, &(struct model_options){.dir = dir}, error);
    if (!rc) rc = outline_weights(model, out, error);
    out->architecture = model->architecture;
    out->config = model->config;
    model_close(model);
    return rc;
}

void model_close(struct model *model) {
    if (!model) return;
    free(model->rope_cos);
    free(model->rope_sin);
    forget_layers(model);
    free(model->layers);
    if (model->storage) model_storage_finish(model->storage);
    free(model->storage);
    free(model);
}
