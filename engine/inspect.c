// What a model's directory says of it, without its weights.
#include "engine/architectures/architecture.h"
#include "engine/chat_template.h"
#include "engine/engine_private.h"
#include "engine/inspect.h"
#include "engine/kv_room.h"
#include "engine/machine.h"

#include <stdlib.h>
#include <string.h>

static void copy_shapes(struct engine_outline *out, const struct model_config *config, enum kv_format kv) {
    out->layers = config->layers;
    out->hidden = config->hidden;
    out->heads = config->heads;
    out->kv_heads = config->kv_heads;
    out->head_dim = config->head_dim;
    out->experts = config->experts;
    out->experts_per_token = config->experts_per_token;
    out->expert_width = config->intermediate;
    out->vocab_size = config->vocab;
    out->context_tokens = config->context;
    out->window_tokens = config->window;
    out->kv_bytes_per_token =
        kv_cache_page_bytes(kv, config->layers, config->kv_heads, config->head_dim) / KV_PAGE_TOKENS;
}

static bool is_among(const int32_t *ids, int count, int32_t id) {
    for (int i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

static int list_specials(struct engine_outline *out, const struct tokenizer *tokenizer, const int32_t *ends,
                         int end_count, struct error *error) {
    out->specials = calloc((size_t)tokenizer_size(tokenizer) + 1, sizeof *out->specials);
    if (!out->specials) goto no_memory;
    for (int32_t id = 0; id < tokenizer_size(tokenizer); id++) {
        size_t bytes;
        const char *piece = tokenizer_piece(tokenizer, id, &bytes);
        bool ends_answer = is_among(ends, end_count, id);
        if (!piece || (!ends_answer && !tokenizer_is_special(tokenizer, id))) continue;
        struct engine_special_token *special = &out->specials[out->special_count];
        *special = (struct engine_special_token){id, strndup(piece, bytes), ends_answer};
        if (!special->text) goto no_memory;
        out->special_count++;
    }
    return 0;
no_memory:
    return error_set(error, ERROR_MEMORY, "no memory for the special tokens");
}

static int read_tokenizer(struct engine_outline *out, const char *dir, struct model_config *config,
                          struct error *error) {
    struct tokenizer *tokenizer;
    const struct chat_template *format;
    int code = tokenizer_open(&tokenizer, dir, config->vocab, error);
    if (code) return code;
    code = chat_template_find(tokenizer, &format, error);
    if (!code) {
        out->chat_template = chat_template_name(format);
        out->chat_template_assumed = !tokenizer_chat_template(tokenizer);
        config->eos_count = chat_template_add_ends(tokenizer, config->eos, config->eos_count, MODEL_EOS_MAX);
    }
    int listed = list_specials(out, tokenizer, config->eos, config->eos_count, code ? NULL : error);
    out->token_count = tokenizer_size(tokenizer);
    tokenizer_close(tokenizer);
    return code ? code : listed;
}

int engine_inspect(struct engine_outline *out, const char *model_dir, enum kv_format kv, struct error *error) {
    *out = (struct engine_outline){0};
    struct error cause;
    if (!error) error = &cause;
    struct model_outline model;
    int code = model_inspect(&model, model_dir, error);
    if (code) return code;
    out->architecture = model.architecture->name;
    out->parameters = model.parameters;
    out->parameters_active = model.parameters_active;
    out->file_count = model.file_count;
    out->file_bytes = model.file_bytes;
    out->file_weights = model.file_weights;
    out->unsupported = model.unsupported;
    memcpy(out->weight_bytes, model.weight_bytes, sizeof out->weight_bytes);
    copy_shapes(out, &model.config, kv);
    out->model_name = engine_model_name(model_dir);
    if (!out->model_name) {
        code = error_set(error, ERROR_MEMORY, "no memory for the model's name");
        goto failed;
    }
    code = read_tokenizer(out, model_dir, &model.config, error);
    if (code == ERROR_UNSUPPORTED) {
        if (out->unsupported.code == ERROR_NONE) out->unsupported = *error; // the first cause is the one of engine_open
        code = 0;
    }
    if (code) goto failed;
    return 0;
failed:
    engine_outline_finish(out);
    return code;
}

void engine_outline_finish(struct engine_outline *outline) {
    for (int i = 0; i < outline->special_count; i++) free(outline->specials[i].text);
    free(outline->specials);
    free(outline->model_name);
    *outline = (struct engine_outline){0};
}

struct engine_machine engine_machine(void) {
    return (struct engine_machine){.memory_bytes = machine_memory_available(""),
                                   .cache_bytes = machine_cache_bytes(""),
                                   .cores = machine_cores("")};
}

struct engine_kv_sizes engine_kv_sizes(const struct engine_outline *model, enum weight_format weights,
                                       const struct engine_machine *machine, int sequences_max) {
    struct kv_room room = {.free_bytes = machine->memory_bytes,
                           .weight_bytes = model->weight_bytes[weights],
                           .page_bytes = model->kv_bytes_per_token * KV_PAGE_TOKENS,
                           .context_tokens = (size_t)model->context_tokens,
                           .sequences = sequences_max > 0 ? sequences_max : ENGINE_SEQUENCES_STANDARD};
    return (struct engine_kv_sizes){.standard = kv_room_standard(&room), .most = kv_room_most(&room)};
}
