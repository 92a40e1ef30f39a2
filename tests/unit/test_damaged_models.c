// A thousand damaged model directories, the same ones every time. Each either opens (a flip in a weight is a weight)
// and then runs a step, or is refused with a message that names the directory or one of its files. Meant to be run with
// address and undefined-behaviour sanitizers: then nothing may be read out of bounds, overflow or leak on the way.
#include "engine/model.h"
#include "tests/unit/model_files.h"

#include <jansson.h>

enum { DAMAGES = 1000, FILES_MAX = 8 };

static const char SINGLE[] = "tests/golden/data/toy-window";   // one file
static const char SHARDED[] = "tests/golden/data/toy-sharded"; // two and an index

static uint64_t random_state;

static uint32_t draw(uint32_t below) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % below);
}

// ---- The directory under test

struct damaged {
    struct scratch scratch;
    const char *toy;
    const char *file; // the one that is damaged
};

// The toy's files, those of a kind: "json" or "safetensors".
static const char *draw_file(const char *toy, const char *ending) {
    static const char *const single[] = {"config.json", "generation_config.json", "model.safetensors"};
    static const char *const sharded[] = {"config.json", "generation_config.json", "model.safetensors.index.json",
                                          "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    const char *const *files = toy == SINGLE ? single : sharded;
    uint32_t count = toy == SINGLE ? 3 : 5;
    for (;;) {
        const char *file = files[draw(count)];
        if (strcmp(file + strlen(file) - strlen(ending), ending) == 0) return file;
    }
}

static char *load(const struct damaged *d, size_t *bytes) {
    return read_file(scratch_path(&d->scratch, d->file), bytes);
}

static void store(const struct damaged *d, char *data, size_t bytes) {
    write_file(scratch_path(&d->scratch, d->file), data, bytes);
    free(data);
}

static size_t header_bytes(const char *file) {
    uint64_t length;
    memcpy(&length, file, sizeof length);
    return (size_t)length;
}

// ---- Damage to bytes

static void truncated(struct damaged *d) {
    size_t bytes;
    d->file = draw_file(d->toy, "");
    char *data = load(d, &bytes);
    store(d, data, draw(2) ? draw((uint32_t)bytes) : bytes - 1 - draw(16));
}

static void longer(struct damaged *d) {
    size_t bytes;
    d->file = draw_file(d->toy, "");
    char *data = load(d, &bytes), extra[32];
    size_t count = 1 + draw(sizeof extra);
    char *whole = malloc(bytes + count);
    assert_non_null(whole);
    memcpy(whole, data, bytes);
    for (size_t i = 0; i < count; i++) whole[bytes + i] = (char)draw(256);
    free(data);
    store(d, whole, bytes + count);
}

static void flipped_anywhere(struct damaged *d) {
    size_t bytes;
    d->file = draw_file(d->toy, "");
    char *data = load(d, &bytes);
    for (uint32_t flips = 1 + draw(8); flips > 0; flips--) data[draw((uint32_t)bytes)] ^= (char)(1 << draw(8));
    store(d, data, bytes);
}

static void flipped_in_the_header(struct damaged *d) {
    size_t bytes;
    d->file = draw_file(d->toy, "safetensors");
    char *data = load(d, &bytes);
    size_t end = draw(3) ? 8 + header_bytes(data) : 8;
    for (uint32_t flips = 1 + draw(3); flips > 0; flips--) data[draw((uint32_t)end)] ^= (char)(1 << draw(8));
    store(d, data, bytes);
}

static void hostile_header_length(struct damaged *d) {
    static const uint64_t lengths[] = {0, 1, 7, 8, 1 << 20, (uint64_t)1 << 31, (uint64_t)1 << 32, (uint64_t)1 << 63,
                                       UINT64_MAX, UINT64_MAX - 7, INT64_MAX};
    size_t bytes;
    d->file = draw_file(d->toy, "safetensors");
    char *data = load(d, &bytes);
    uint64_t length = lengths[draw(sizeof lengths / sizeof *lengths)] + draw(2);
    memcpy(data, &length, sizeof length);
    store(d, data, bytes);
}

// A digit, a bracket or a quote of the text becomes another.
static void garbled_text(struct damaged *d) {
    static const char marks[] = "0123456789-[]{}\",:.eEtfn\\ \x00\xff";
    size_t bytes;
    d->file = draw_file(d->toy, "");
    char *data = load(d, &bytes);
    bool tensors = strstr(d->file, ".safetensors") && !strstr(d->file, ".json");
    size_t begin = tensors ? 8 : 0, end = tensors ? 8 + header_bytes(data) : bytes;
    for (uint32_t changes = 1 + draw(4); changes > 0;) {
        size_t at = begin + draw((uint32_t)(end - begin));
        if (data[at] == ' ' || data[at] == '\n') continue;
        data[at] = marks[draw(sizeof marks - 1)];
        changes--;
    }
    store(d, data, bytes);
}

static void deep(struct damaged *d) {
    uint32_t depth = draw(2) ? 65 + draw(100) : 100000;
    char *data = malloc(depth + 8);
    assert_non_null(data);
    d->file = draw_file(d->toy, "json");
    memset(data, draw(2) ? '[' : '{', depth);
    memcpy(data, "{\"a\":", 5);
    store(d, data, depth);
}

// ---- Damage to values

static json_t *hostile(void) {
    json_error_t cause;
    static const char *const values[] = {
        "-1",
        "0",
        "1",
        "2",
        "3",
        "-2147483649",
        "4294967296",
        "9223372036854775807",
        "-9223372036854775808",
        "1e308",
        "-1e308",
        "1e-320",
        "0.5",
        "48.0",
        "\"48\"",
        "\"\"",
        "\"../..\"",
        "\"\\ud83d\\ude00\\u0001\"",
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[[[[1]]]]",
        "{\"rope_type\": \"longrope\"}",
        "{\"type\": {}}",
        "[0, 18446744073709551615]",
        "[4294967296, 4294967296]",
        "[-1, 1]",
        "[1,1,1,1,1,1,1,1,1]",
    };
    size_t count = sizeof values / sizeof *values;
    return json_loads(values[draw((uint32_t)count)], JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL * draw(2), &cause);
}

static json_t *drawn_member(json_t *object, const char **key) {
    void *member = json_object_iter(object);
    for (uint32_t skip = draw((uint32_t)json_object_size(object)); skip > 0; skip--)
        member = json_object_iter_next(object, member);
    *key = json_object_iter_key(member);
    return json_object_iter_value(member);
}

static void dump(const struct damaged *d, json_t *json) {
    assert_int_equal(json_dump_file(json, scratch_path(&d->scratch, d->file), JSON_REAL_PRECISION(17)), 0);
    json_decref(json);
}

static void hostile_setting(struct damaged *d) {
    json_error_t cause;
    d->file = draw(5) ? "config.json" : "generation_config.json";
    json_t *json = json_load_file(scratch_path(&d->scratch, d->file), 0, &cause);
    for (uint32_t changes = 1 + draw(2); changes > 0; changes--) {
        const char *key;
        drawn_member(json, &key);
        json_object_set_new(json, key, hostile());
    }
    dump(d, json);
}

static void missing_setting(struct damaged *d) {
    json_error_t cause;
    const char *key;
    d->file = "config.json";
    json_t *json = json_load_file(scratch_path(&d->scratch, d->file), 0, &cause);
    drawn_member(json, &key);
    json_object_del(json, key);
    dump(d, json);
}

// Numbers that the loader takes while none of the tensors fits them.
static void another_setting(struct damaged *d) {
    static const char *const keys[] = {"num_hidden_layers",   "hidden_size",       "num_attention_heads",
                                       "num_key_value_heads", "head_dim",          "intermediate_size",
                                       "num_local_experts",   "vocab_size",        "max_position_embeddings",
                                       "sliding_window",      "tie_word_embeddings"};
    json_error_t cause;
    d->file = "config.json";
    json_t *json = json_load_file(scratch_path(&d->scratch, d->file), 0, &cause);
    const char *key = keys[draw(sizeof keys / sizeof *keys)];
    static const int numbers[] = {1, 2, 4, 6, 8, 16, 31, 64, 128, 1024};
    json_object_set_new(json, key, strncmp(key, "tie", 3) ? json_integer(numbers[draw(10)]) : json_true());
    dump(d, json);
}

// The header as JSON, changed by `change`, in front of the same data.
static void change_header(struct damaged *d, void (*change)(json_t *header)) {
    size_t bytes;
    json_error_t cause;
    d->file = draw_file(d->toy, "safetensors");
    char *data = load(d, &bytes);
    size_t length = header_bytes(data), data_bytes = bytes - 8 - length;
    json_t *header = json_loadb(data + 8, length, 0, &cause);
    assert_non_null(header);
    change(header);
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t new_length = strlen(text);
    char *whole = malloc(8 + new_length + data_bytes);
    assert_non_null(whole);
    memcpy(whole, &new_length, 8);
    memcpy(whole + 8, text, new_length);
    memcpy(whole + 8 + new_length, data + 8 + length, data_bytes);
    free(text);
    free(data);
    json_decref(header);
    store(d, whole, 8 + new_length + data_bytes);
}

static void change_field(json_t *header) {
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    const char *name;
    json_t *tensor = drawn_member(header, &name);
    json_object_set_new(tensor, fields[draw(3)], hostile());
}

static void change_size(json_t *header) {
    const char *name;
    json_t *tensor = drawn_member(header, &name), *array = json_object_get(tensor, draw(2) ? "shape" : "data_offsets");
    if (json_array_size(array)) json_array_set_new(array, draw((uint32_t)json_array_size(array)), hostile());
}

static void swap_sizes(json_t *header) {
    const char *name;
    json_t *array = json_object_get(drawn_member(header, &name), draw(2) ? "shape" : "data_offsets");
    if (json_array_size(array) == 2) json_array_append_new(array, json_incref(json_array_get(array, 0)));
    if (json_array_size(array) == 3) json_array_remove(array, 0);
}

static void share_offsets(json_t *header) {
    const char *name, *other;
    json_t *tensor = drawn_member(header, &name), *from = drawn_member(header, &other);
    json_object_set(tensor, "data_offsets", json_object_get(from, "data_offsets"));
    if (draw(2)) json_object_set(tensor, "shape", json_object_get(from, "shape"));
}

static void rename_tensor(json_t *header) {
    const char *name;
    json_t *tensor = json_incref(drawn_member(header, &name));
    char new_name[256];
    snprintf(new_name, sizeof new_name, "%s%s", name, draw(2) ? "s" : "\xc3\xa9\n/../x");
    json_object_del(header, name);
    json_object_set_new(header, new_name, tensor);
}

static void exchange_tensors(json_t *header) {
    const char *name, *other;
    json_t *a = json_incref(drawn_member(header, &name)), *b = json_incref(drawn_member(header, &other));
    char first[256], second[256]; // keys do not outlive a change
    snprintf(first, sizeof first, "%s", name);
    snprintf(second, sizeof second, "%s", other);
    json_object_set_new(header, first, b);
    json_object_set_new(header, second, a);
}

static void remove_tensor(json_t *header) {
    const char *name;
    drawn_member(header, &name);
    json_object_del(header, name);
}

static void hostile_header(struct damaged *d) {
    void (*const changes[])(json_t *) = {change_field,  change_size,      swap_sizes,   share_offsets,
                                         rename_tensor, exchange_tensors, remove_tensor};
    change_header(d, changes[draw(sizeof changes / sizeof *changes)]);
}

static void hostile_index(struct damaged *d) {
    static const char *const names[] = {"../config.json", "/etc/passwd", "", ".", "..", "config.json", "x\\y",
                                        "model-00001-of-00002.safetensors", "model-00003-of-00003.safetensors", "a/b"};
    json_error_t cause;
    const char *key;
    if (d->toy == SINGLE) {
        hostile_setting(d);
        return;
    }
    d->file = "model.safetensors.index.json";
    json_t *json = json_load_file(scratch_path(&d->scratch, d->file), 0, &cause);
    json_t *map = json_object_get(json, "weight_map");
    drawn_member(map, &key);
    switch (draw(5)) {
    case 0: json_object_del(map, key); break;
    case 1: json_object_set_new(map, "model.new.weight", json_string(names[7])); break;
    case 2: json_object_set_new(map, key, hostile()); break;
    case 3: json_object_set_new(json, "weight_map", hostile()); break;
    default: json_object_set_new(map, key, json_string(names[draw(10)]));
    }
    dump(d, json);
}

// ---- Damage to files

static void no_plain_file(struct damaged *d) {
    d->file = draw_file(d->toy, "");
    const char *path = scratch_path(&d->scratch, d->file);
    assert_int_equal(unlink(path), 0);
    switch (draw(7)) {
    case 0: break; // gone
    case 1: write_file(path, "", 0); break;
    case 2: assert_int_equal(mkdir(path, 0700), 0); break;
    case 3: assert_int_equal(mkfifo(path, 0600), 0); break;
    case 4: assert_int_equal(symlink(d->file, path), 0); break; // to itself
    case 5: assert_int_equal(symlink("/dev/zero", path), 0); break;
    default: assert_int_equal(symlink("/nowhere/at/all", path), 0);
    }
}

static void exchanged_files(struct damaged *d) {
    size_t bytes;
    d->file = draw_file(d->toy, "");
    char *data = load(d, &bytes);
    d->file = draw_file(d->toy, "");
    store(d, data, bytes);
}

// ---- All of them

// Weights may be anything by now, NaN too: a step must stay within its buffers whatever it computes.
static void step(const struct model *model, const struct stages *stages) {
    const struct stage_limits limits = {.tokens_max = 3,
                                        .context_max = model->config.context,
                                        .hidden = model->config.hidden,
                                        .heads = model->config.heads,
                                        .kv_heads = model->config.kv_heads,
                                        .head_dim = model->config.head_dim,
                                        .intermediate = model->config.intermediate,
                                        .experts = model->config.experts,
                                        .vocab = model->config.vocab,
                                        .threads = 1};
    const int32_t tokens[] = {1, 0, 1}, positions[] = {0, 1, 2}, outputs[] = {2}, pages[] = {0};
    int count = model->config.context < 3 ? model->config.context : 3;
    const int32_t last = count - 1;
    const struct batch_sequence sequence = {0, count, 0, pages};
    const struct batch batch = {.tokens = count,
                                .token = tokens,
                                .position = positions,
                                .sequences = 1,
                                .sequence = &sequence,
                                .outputs = 1,
                                .output = count == 3 ? outputs : &last};
    struct error error;
    void *state;
    struct forward *forward;
    struct kv_cache cache = {0};
    assert_int_equal(stages->open(&state, &limits, &error), 0);
    assert_int_equal(forward_create(&forward, model, stages, state, 3, 1, &error), 0);
    assert_int_equal(
        kv_cache_init(&cache, KV_F16, model->config.layers, model->config.kv_heads, model->config.head_dim, 1, &error),
        0);
    float *logits = calloc((size_t)model->config.vocab, sizeof *logits);
    assert_non_null(logits);
    forward_run(forward, &batch, &cache, logits);
    free(logits);
    kv_cache_finish(&cache);
    forward_destroy(forward);
    stages->close(state);
}

// Inspecting comes to the same verdict in the same words, without having read a weight. model NULL: it was refused.
static void check_inspection(int number, const struct model_options *options, const struct model *model,
                             const struct error *refusal) {
    struct error error = {0};
    struct model_outline outline;
    int rc = model_inspect(&outline, options->dir, &error);
    if (rc == 0 && outline.unsupported.code != ERROR_NONE) error = outline.unsupported;
    if (error.code != refusal->code || strcmp(error.message, refusal->message) != 0)
        fail_msg("damage %d: opened: \"%s\", inspected: \"%s\"", number, refusal->message, error.message);
    if (!model) return;
    assert_int_equal(outline.parameters, model->parameters);
    assert_int_equal(outline.parameters_active, model->parameters_active);
    assert_int_equal(outline.weight_bytes[options->weights], model->weight_bytes);
}

static void a_thousand_damages(void **state) {
    (void)state;
    static void (*const kinds[])(struct damaged *) = {
        truncated,       longer,         flipped_anywhere, flipped_in_the_header, hostile_header_length,
        garbled_text,    deep,           hostile_setting,  missing_setting,       another_setting,
        hostile_header,  hostile_header, hostile_setting,  hostile_index,         no_plain_file,
        exchanged_files,
    };
    const int kind_count = sizeof kinds / sizeof *kinds;
    struct damaged d;
    int opened = 0;
    scratch_create(&d.scratch);
    for (int i = 0; i < DAMAGES; i++) {
        random_state = 20261120 + (uint64_t)i; // each for itself, so that one can be repeated
        draw(1);
        d.toy = i / kind_count % 2 ? SHARDED : SINGLE;
        scratch_clear(&d.scratch);
        copy_directory(&d.scratch, d.toy);
        kinds[i % kind_count](&d);

        struct error error = {0};
        struct model *model = NULL;
        const struct model_options options = {.dir = d.scratch.dir, .weights = draw(2) ? WEIGHTS_F32 : WEIGHTS_BF16};
        int rc = model_open(&model, &options, &error);
        check_inspection(i, &options, model, &error);
        if (rc == 0) {
            opened++;
            step(model, draw(2) ? &reference_stages : &cpu_stages);
            model_close(model);
            continue;
        }
        assert_null(model);
        if (error.code != rc || !strstr(error.message, d.scratch.dir) || strlen(error.message) < 30)
            fail_msg("damage %d to %s: code %d, \"%s\"", i, d.file, rc, error.message);
        if (rc == ERROR_INTERNAL || rc == ERROR_MEMORY)
            fail_msg("damage %d to %s was taken for another failure: %s", i, d.file, error.message);
    }
    scratch_destroy(&d.scratch);
    // Flips in weights and harmless settings go through, the rest must not: else the damage would miss its mark.
    assert_in_range(opened, DAMAGES / 20, DAMAGES / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_thousand_damages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
