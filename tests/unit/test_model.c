// Opening a model directory: tensors that do not fit, what is bound where, the shapes of the real models of the family,
// and how weights are loaded.
#include "engine/architectures/architecture.h"
#include "engine/binder.h"
#include "engine/machine.h"
#include "engine/quants/bf16.h"
#include "tests/unit/toy_models.h"

// ---- Tensors

static bool within(const void *pointer, const struct model *model) {
    for (size_t i = 0; i < model->storage->checkpoint.file_count; i++) {
        const struct checkpoint_file *file = &model->storage->checkpoint.files[i];
        if ((const unsigned char *)pointer >= file->map && (const unsigned char *)pointer < file->map + file->bytes)
            return true;
    }
    return false;
}

// Matrices stay in the mapped file where it holds them as wished; norms, biases and routers are fp32 always.
static void weights_are_held_once(void **state) {
    (void)state;
    const struct {
        const char *dir;
        enum weight_format weights;
        bool matrices_mapped, vectors_mapped;
    } cases[] = {
        {TOY_WINDOW, WEIGHTS_BF16, true, false},   {TOY_WINDOW, WEIGHTS_F32, false, false},
        {TOY_SHARDED, WEIGHTS_BF16, false, false}, {TOY_SHARDED, WEIGHTS_F32, false, false},
        {TOY_STACKED, WEIGHTS_BF16, false, true},  {TOY_STACKED, WEIGHTS_F32, true, true},
        {TOY_TIED, WEIGHTS_F32, true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *model = open_model(cases[i].dir, cases[i].weights);
        const struct layer *layer = &model->layers[1];
        assert_int_equal(within(model->embedding.data, model), cases[i].matrices_mapped);
        assert_int_equal(within(layer->q.weight.data, model), cases[i].matrices_mapped);
        assert_int_equal(within(layer->experts[7].up.data, model), cases[i].matrices_mapped);
        assert_int_equal(within(layer->experts[7].down.data, model), cases[i].matrices_mapped);
        assert_int_equal(within(layer->router.weight, model), cases[i].vectors_mapped);
        assert_int_equal(within(layer->attention_norm.weight, model), cases[i].vectors_mapped);
        assert_int_equal(layer->experts[3].gate.format, cases[i].weights);
        if (!cases[i].matrices_mapped) assert_int_equal((uintptr_t)layer->experts[0].gate.data % 64, 0);
        assert_true(model->weight_bytes >= model->parameters * weight_format_bytes(cases[i].weights, 1, 1));
        assert_true(model->weight_bytes <= model->parameters * 4);
        if (model->config.tied) {
            assert_ptr_equal(model->head.weight.data, model->embedding.data);
            assert_null(model->head.bias);
            assert_null(layer->q.bias);
        }
        model_close(model);
    }
}

static float element(const struct matrix *matrix, int row, int column) {
    size_t at = (size_t)row * (size_t)matrix->columns + (size_t)column;
    return matrix->format == WEIGHTS_F32 ? ((const float *)matrix->data)[at]
                                         : bf16_to_f32(((const uint16_t *)matrix->data)[at]);
}

static void same_matrix(const struct matrix *wide, const struct matrix *narrow, bool rounded) {
    assert_int_equal(wide->rows, narrow->rows);
    assert_int_equal(wide->columns, narrow->columns);
    for (int r = 0; r < wide->rows; r++)
        for (int c = 0; c < wide->columns; c++) {
            float value = element(wide, r, c);
            if (rounded) value = bf16_to_f32(bf16_from_f32(value));
            assert_true(value == element(narrow, r, c));
        }
}

static void formats_hold_the_same_values(void **state) {
    (void)state;
    const char *const dirs[] = {TOY_WINDOW, TOY_SHARDED, TOY_STACKED};
    for (size_t i = 0; i < 3; i++) {
        struct model *wide = open_model(dirs[i], WEIGHTS_F32), *narrow = open_model(dirs[i], WEIGHTS_BF16);
        bool rounded = i > 0; // the first is bf16 in its file
        same_matrix(&wide->embedding, &narrow->embedding, rounded);
        same_matrix(&wide->head.weight, &narrow->head.weight, rounded);
        for (int l = 0; l < wide->config.layers; l++) {
            const struct layer *a = &wide->layers[l], *b = &narrow->layers[l];
            same_matrix(&a->k.weight, &b->k.weight, rounded);
            same_matrix(&a->o.weight, &b->o.weight, rounded);
            for (int e = 0; e < wide->config.experts; e++) {
                same_matrix(&a->experts[e].gate, &b->experts[e].gate, rounded);
                same_matrix(&a->experts[e].up, &b->experts[e].up, rounded);
                same_matrix(&a->experts[e].down, &b->experts[e].down, rounded);
            }
            for (int h = 0; h < wide->config.hidden; h++)
                assert_true(a->attention_norm.bias[h] == b->attention_norm.bias[h]);
        }
        model_close(wide);
        model_close(narrow);
    }
}

// A file whose data begins at an odd byte, as the format allows: elements are copied to where they can be read.
static void data_at_an_odd_byte(void **state) {
    (void)state;
    struct scratch scratch;
    size_t bytes;
    uint64_t length;
    scratch_create(&scratch);
    copy_directory(&scratch, TOY_WINDOW);
    char *file = read_file(scratch_path(&scratch, "model.safetensors"), &bytes);
    memcpy(&length, file, 8);
    char *longer = malloc(bytes + 1);
    assert_non_null(longer);
    length++;
    memcpy(longer, &length, 8);
    memcpy(longer + 8, file + 8, length - 1);
    longer[8 + length - 1] = ' ';
    memcpy(longer + 8 + length, file + 8 + length - 1, bytes - 8 - (length - 1));
    write_file(scratch_path(&scratch, "model.safetensors"), longer, bytes + 1);

    struct model *odd = open_model(scratch.dir, WEIGHTS_BF16), *even = open_model(TOY_WINDOW, WEIGHTS_BF16);
    assert_false(within(odd->embedding.data, odd));
    same_matrix(&even->embedding, &odd->embedding, false);
    same_matrix(&even->layers[1].experts[7].down, &odd->layers[1].experts[7].down, false);
    assert_true(odd->layers[0].q.bias[3] == even->layers[0].q.bias[3]);
    model_close(odd);
    model_close(even);
    free(longer);
    free(file);
    scratch_destroy(&scratch);
}

static void replace(char *text, size_t bytes, const char *from, const char *to) {
    size_t length = strlen(from);
    assert_int_equal(length, strlen(to));
    for (size_t i = 0; i + length <= bytes; i++)
        if (memcmp(text + i, from, length) == 0) {
            memcpy(text + i, to, length);
            return;
        }
    fail_msg("expected %s", from);
}

static void tensors_that_do_not_fit(void **state) {
    (void)state;
    const struct {
        const char *from, *to, *message; // in the header; the same length
    } cases[] = {
        {"layers.1.input_layernorm.bias", "layers.1.input_layernorm.bios",
         "input_layernorm.bias: expected with shape [48], found in no"},
        {"\"dtype\":\"BF16\"", "\"dtype\":\"I16\" ",
         "tensor model.embed_tokens.weight: expected dtype BF16, F16 or F32, found I16"},
        {"\"shape\":[131,48]", "\"shape\":[48,131]", "embed_tokens.weight: expected shape [131, 48], found [48, 131]"},
        {"\"shape\":[131,48]", "\"shape\":[ 6288 ]", "embed_tokens.weight: expected shape [131, 48], found [6288]"},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes;
        copy_directory(&scratch, TOY_WINDOW);
        const char *path = scratch_path(&scratch, "model.safetensors");
        char *file = read_file(path, &bytes);
        replace(file, bytes, cases[i].from, cases[i].to);
        write_file(path, file, bytes);
        free(file);
        refused(scratch.dir, cases[i].message);
        refused(scratch.dir, "model.safetensors: tensor ");
    }
    scratch_destroy(&scratch);
}

// ---- The family's real shapes, two layers of them, bound from sparse files that hold nothing but a header

enum { HOLLOW_LAYERS = 2, LAYERS = 32, HIDDEN = 4096, VOCAB = 32064 };

struct shape {
    const char *name;
    int heads, kv_heads, intermediate;
    double parameters; // as published, in billions
};

struct header {
    FILE *file;
    size_t offset;
};

static void add(struct header *header, int rows, int columns, const char *name, ...) {
    char full[128];
    va_list args;
    va_start(args, name);
    vsnprintf(full, sizeof full, name, args);
    va_end(args);
    size_t bytes = 2 * (size_t)rows * (size_t)(columns ? columns : 1);
    fprintf(header->file, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%d", header->offset ? "," : "", full, rows);
    if (columns) fprintf(header->file, ",%d", columns);
    fprintf(header->file, "],\"data_offsets\":[%zu,%zu]}", header->offset, header->offset + bytes);
    header->offset += bytes;
}

static void add_layer(struct header *header, const struct shape *shape, int l) {
    int q = shape->heads * 128, kv = shape->kv_heads * 128;
    const struct {
        char letter;
        int rows, columns;
    } projections[] = {{'q', q, HIDDEN}, {'k', kv, HIDDEN}, {'v', kv, HIDDEN}, {'o', HIDDEN, q}};
    for (int i = 0; i < 4; i++) {
        add(header, projections[i].rows, projections[i].columns, "model.layers.%d.self_attn.%c_proj.weight", l,
            projections[i].letter);
        add(header, projections[i].rows, 0, "model.layers.%d.self_attn.%c_proj.bias", l, projections[i].letter);
    }
    const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    for (int i = 0; i < 2; i++) {
        add(header, HIDDEN, 0, "model.layers.%d.%s.weight", l, norms[i]);
        add(header, HIDDEN, 0, "model.layers.%d.%s.bias", l, norms[i]);
    }
    add(header, 16, HIDDEN, "model.layers.%d.block_sparse_moe.gate.weight", l);
    for (int e = 0; e < 16; e++)
        for (int w = 1; w <= 3; w++)
            add(header, w == 2 ? HIDDEN : shape->intermediate, w == 2 ? shape->intermediate : HIDDEN,
                "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight", l, e, w);
}

static void write_hollow(const struct scratch *scratch, const struct shape *shape, int layers) {
    const char *path = scratch_path(scratch, "model.safetensors");
    struct header header = {.file = fopen(path, "wb")};
    uint64_t length = 0;
    assert_non_null(header.file);
    fwrite(&length, 8, 1, header.file);
    fputs("{", header.file);
    add(&header, VOCAB, HIDDEN, "model.embed_tokens.weight");
    for (int l = 0; l < layers; l++) add_layer(&header, shape, l);
    add(&header, HIDDEN, 0, "model.norm.weight");
    add(&header, HIDDEN, 0, "model.norm.bias");
    add(&header, VOCAB, HIDDEN, "lm_head.weight");
    add(&header, VOCAB, 0, "lm_head.bias");
    fputs("}", header.file);
    length = (uint64_t)ftell(header.file) - 8;
    rewind(header.file);
    fwrite(&length, 8, 1, header.file);
    assert_int_equal(fclose(header.file), 0);
    assert_int_equal(truncate(path, (off_t)(8 + length + header.offset)), 0);
}

static json_t *hollow_config(const struct shape *shape, int layers) {
    json_t *json = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:b}", "model_type",
                             "phimoe", "eos_token_id", 2, "num_hidden_layers", layers, "hidden_size", HIDDEN,
                             "num_attention_heads", shape->heads, "num_key_value_heads", shape->kv_heads, "head_dim",
                             128, "intermediate_size", shape->intermediate, "num_local_experts", 16,
                             "num_experts_per_tok", 2, "vocab_size", VOCAB, "max_position_embeddings", 4096,
                             "attention_bias", 1, "lm_head_bias", 1);
    assert_non_null(json);
    return json;
}

static void bind_hollow(const struct scratch *scratch, const struct shape *shape) {
    json_t *json = hollow_config(shape, HOLLOW_LAYERS);
    struct layer layers[HOLLOW_LAYERS] = {0};
    struct model model = {.architecture = &phimoe_architecture, .layers = layers};
    struct model_storage storage = {0};
    struct binder *binder = NULL;
    struct error error;
    int rc = phimoe_architecture.read_config(json, "config.json", &model.config, &error);
    if (!rc) rc = safetensors_open(&storage.checkpoint, scratch->dir, &error);
    if (!rc) rc = binder_create(&binder, &storage, WEIGHTS_BF16, &error);
    if (!rc) rc = phimoe_architecture.bind(&model, binder, &error); // without binder_load, which would read all of it
    if (rc) fail_msg("%s: %s", shape->name, error.message);

    const double around = 2.0 * VOCAB * HIDDEN + VOCAB + 2 * HIDDEN; // embedding, head, final norm
    double layer = ((double)binder_parameters(binder) - around) / HOLLOW_LAYERS;
    double billions = (around + LAYERS * layer) / 1e9;
    if (!(billions > shape->parameters - 0.05 && billions < shape->parameters + 0.05))
        fail_msg("%s: expected %.1f billion parameters, found %.2f", shape->name, shape->parameters, billions);
    assert_int_equal(layers[1].q.weight.rows, shape->heads * 128);
    assert_int_equal(layers[1].o.weight.columns, shape->heads * 128);
    assert_int_equal(layers[1].experts[15].down.columns, shape->intermediate);
    binder_destroy(binder);
    model_storage_finish(&storage);
    for (int l = 0; l < HOLLOW_LAYERS; l++) free(layers[l].experts);
    json_decref(json);
}

static void real_shapes_bind(void **state) {
    (void)state;
    const struct shape shapes[] = {
        {"Phi-tiny-MoE", 16, 4, 448, 3.8}, // heads × head_dim is half of hidden
        {"Phi-mini-MoE", 32, 8, 960, 7.6},
        {"Phi-3.5-MoE", 32, 8, 6400, 41.9},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        write_hollow(&scratch, &shapes[i], HOLLOW_LAYERS);
        bind_hollow(&scratch, &shapes[i]);
    }
    scratch_destroy(&scratch);
}

// ---- Loading

static void more_than_the_memory_is_refused(void **state) {
    (void)state;
    const struct shape shape = {"Phi-3.5-MoE", 32, 8, 6400, 41.9};
    const double layer_bytes = 4.0 * 16 * 3 * 6400 * HIDDEN; // and some more
    int layers = (int)(4 * (double)machine_memory_available("") / layer_bytes) + 1; // 4: others may free some meanwhile
    struct scratch scratch;
    struct model *model = NULL;
    struct error error = {0};
    scratch_create(&scratch);
    json_t *json = hollow_config(&shape, layers);
    assert_int_equal(json_dump_file(json, scratch_path(&scratch, "config.json"), 0), 0);
    json_decref(json);
    write_hollow(&scratch, &shape, layers);
    const struct model_options options = {.dir = scratch.dir, .weights = WEIGHTS_F32};
    assert_int_equal(model_open(&model, &options, &error), ERROR_MEMORY);
    expect_text(error.message, "model.safetensors: holding the weights as f32 needs ");
    expect_text(error.message, " MB are free");
    scratch_destroy(&scratch);
}

struct told {
    int times;
    double share;
};

static void tell(void *user, const char *what, double share) {
    struct told *told = user;
    assert_string_equal(what, "loading weights");
    assert_true(share >= told->share && share > 0 && share <= 1);
    told->share = share;
    told->times++;
}

// A toy, bound and ready to be loaded.
static struct binder *bind_toy(struct model *model, const char *dir, enum weight_format weights) {
    char path[128];
    json_error_t cause;
    struct error error;
    struct binder *binder = NULL;
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *json = json_load_file(path, 0, &cause);
    assert_non_null(json);
    *model = (struct model){.architecture = &phimoe_architecture, .storage = calloc(1, sizeof *model->storage)};
    assert_non_null(model->storage);
    assert_int_equal(phimoe_architecture.read_config(json, path, &model->config, &error), 0);
    model->layers = calloc((size_t)model->config.layers, sizeof *model->layers);
    assert_non_null(model->layers);
    assert_int_equal(safetensors_open(&model->storage->checkpoint, dir, &error), 0);
    assert_int_equal(binder_create(&binder, model->storage, weights, &error), 0);
    assert_int_equal(phimoe_architecture.bind(model, binder, &error), 0);
    json_decref(json);
    return binder;
}

static void let_go(struct model *model, struct binder *binder) {
    binder_destroy(binder);
    for (int l = 0; l < model->config.layers; l++) free(model->layers[l].experts);
    free(model->layers);
    model_storage_finish(model->storage);
    free(model->storage);
}

static void conversions_fit_the_memory(void **state) {
    (void)state;
    struct model model;
    struct error error;
    char wanted[64];
    struct binder *binder = bind_toy(&model, TOY_SHARDED, WEIGHTS_F32); // f16: all of it is converted
    size_t bytes = binder_converted_bytes(binder);
    assert_int_equal(bytes, 4 * binder_parameters(binder));
    assert_int_equal(binder_load(binder, &(struct binder_loading){.memory_bytes = bytes - 1}, &error), ERROR_MEMORY);
    snprintf(wanted, sizeof wanted, "needs %.1f MB of memory beside", (double)bytes / 1e6);
    expect_text(error.message, wanted);
    assert_int_equal(binder_load(binder, &(struct binder_loading){.memory_bytes = bytes}, &error), 0);
    assert_int_equal(binder_load(binder, &(struct binder_loading){.memory_bytes = 0}, &error), 0); // not known
    let_go(&model, binder);

    binder = bind_toy(&model, TOY_STACKED, WEIGHTS_F32); // f32: all of it stays in the file
    assert_int_equal(binder_converted_bytes(binder), 0);
    assert_int_equal(binder_load(binder, &(struct binder_loading){.memory_bytes = 1}, &error), 0);
    let_go(&model, binder);
}

static void slow_loading_is_told(void **state) {
    (void)state;
    const double quiet[] = {0, 3600};
    for (int i = 0; i < 2; i++) {
        struct model model;
        struct error error;
        struct told told = {0};
        struct binder *binder = bind_toy(&model, TOY_WINDOW, WEIGHTS_BF16);
        const struct binder_loading loading = {.quiet_seconds = quiet[i], .progress = tell, .progress_user = &told};
        assert_int_equal(binder_load(binder, &loading, &error), 0);
        if (i == 0)
            assert_true(told.times >= 1);
        else
            assert_int_equal(told.times, 0);
        let_go(&model, binder);
    }
}

static int count_threads(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

// The threads that load leave nothing out, and do not stay.
static void several_threads_load(void **state) {
    (void)state;
    int before = count_threads();
    for (int threads = 0; threads <= 100; threads += threads < 3 ? 1 : 97) {
        struct error error;
        struct model *alone = open_model(TOY_SHARDED, WEIGHTS_F32), *together = NULL;
        const struct model_options options = {.dir = TOY_SHARDED, .weights = WEIGHTS_F32, .threads = threads};
        if (model_open(&together, &options, &error)) fail_msg("%s", error.message);
        for (int l = 0; l < alone->config.layers; l++)
            for (int e = 0; e < alone->config.experts; e++)
                same_matrix(&alone->layers[l].experts[e].up, &together->layers[l].experts[e].up, false);
        same_matrix(&alone->head.weight, &together->head.weight, false);
        model_close(alone);
        model_close(together);
        assert_int_equal(count_threads(), before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_held_once),
        cmocka_unit_test(formats_hold_the_same_values),
        cmocka_unit_test(data_at_an_odd_byte),
        cmocka_unit_test(tensors_that_do_not_fit),
        cmocka_unit_test(real_shapes_bind),
        cmocka_unit_test(more_than_the_memory_is_refused),
        cmocka_unit_test(conversions_fit_the_memory),
        cmocka_unit_test(slow_loading_is_told),
        cmocka_unit_test(several_threads_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
