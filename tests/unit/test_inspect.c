// Looking at a model without opening it: the same figures as opening it gives, and a word on what is not supported.
#include "engine/inspect.h"
#include "engine/model.h"
#include "tests/unit/model_files.h"

#define DEMO "models/demo"

static void edit_config(const struct scratch *scratch, const char *from, const char *to) {
    size_t bytes;
    char *text = read_file(scratch_path(scratch, "config.json"), &bytes), *at = strstr(text, from), whole[8192];
    assert_non_null(at);
    snprintf(whole, sizeof whole, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    write_file(scratch_path(scratch, "config.json"), whole, strlen(whole));
    free(text);
}

static void test_as_opened(void **state) {
    (void)state;
    struct engine_outline outline;
    struct error error = {0};
    if (engine_inspect(&outline, DEMO "/", KV_F16, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) {
        struct engine *engine;
        struct engine_options options = {.model_dir = DEMO, .weights = (enum weight_format)i, .threads = 1};
        if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
        const struct engine_info *info = engine_info(engine);
        assert_string_equal(outline.model_name, info->model_name);
        assert_string_equal(outline.architecture, info->architecture);
        assert_int_equal(outline.parameters, info->parameters);
        assert_int_equal(outline.parameters_active, info->parameters_active);
        assert_int_equal(outline.weight_bytes[i], info->weight_bytes);
        assert_int_equal(outline.context_tokens, info->context_tokens);
        assert_int_equal(outline.vocab_size, info->vocab_size);
        for (int s = 0; s < outline.special_count; s++) {
            size_t bytes;
            const char *text = engine_token_text(engine, outline.specials[s].id, &bytes);
            assert_int_equal(strlen(outline.specials[s].text), bytes);
            assert_memory_equal(outline.specials[s].text, text, bytes);
        }
        engine_close(engine);
    }
    assert_int_equal(outline.unsupported.code, ERROR_NONE);
    engine_outline_finish(&outline);
    engine_outline_finish(&outline); // once more does no harm
}

// Every way in which a checkpoint may hold its tensors: in several files, experts in stacks, the head as the embedding.
static void test_toys(void **state) {
    (void)state;
    static const char *const toys[] = {"toy-wide", "toy-sharded", "toy-tied", "toy-window", "toy-stacked"};
    for (size_t t = 0; t < sizeof toys / sizeof *toys; t++)
        for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) {
            char dir[64];
            struct error error = {0};
            struct model_outline outline;
            struct model *model = NULL;
            snprintf(dir, sizeof dir, "tests/golden/data/%s", toys[t]);
            const struct model_options options = {.dir = dir, .weights = (enum weight_format)i};
            if (model_inspect(&outline, dir, &error) || model_open(&model, &options, &error))
                fail_msg("%s", error.message);
            assert_int_equal(outline.parameters, model->parameters);
            assert_int_equal(outline.parameters_active, model->parameters_active);
            assert_int_equal(outline.weight_bytes[i], model->weight_bytes);
            assert_int_equal(outline.file_count, strcmp(toys[t], "toy-sharded") == 0 ? 2 : 1);
            model_close(model);
        }
}

static void test_demo(void **state) {
    (void)state;
    struct engine_outline outline;
    struct error error = {0};
    if (engine_inspect(&outline, DEMO, KV_F32, &error)) fail_msg("%s", error.message);
    assert_int_equal(outline.layers, 6);
    assert_int_equal(outline.hidden, 256);
    assert_int_equal(outline.heads, 6);
    assert_int_equal(outline.kv_heads, 2);
    assert_int_equal(outline.head_dim, 32);
    assert_int_equal(outline.experts, 8);
    assert_int_equal(outline.experts_per_token, 2);
    assert_int_equal(outline.expert_width, 96);
    assert_int_equal(outline.window_tokens, 512);
    assert_int_equal(outline.file_count, 1);
    assert_string_equal(outline.file_weights, "BF16");
    assert_string_equal(outline.chat_template, "phi-3");
    int ends = 0;
    for (int i = 0; i < outline.special_count; i++) {
        ends += outline.specials[i].ends_answer;
        if (strcmp(outline.specials[i].text, "<|end|>") == 0) assert_true(outline.specials[i].ends_answer);
        if (strcmp(outline.specials[i].text, "<|user|>") == 0) assert_false(outline.specials[i].ends_answer);
    }
    assert_int_equal(ends, 3); // <|end|>, <|endoftext|>, <|assistant|>
    engine_outline_finish(&outline);
}

// What is sound but not supported is described, with the words that opening it fails with.
static void unsupported(const struct scratch *scratch, const char *part, bool with_tokenizer) {
    struct engine_outline outline;
    struct engine *engine;
    struct error error = {0}, refusal = {0};
    if (engine_inspect(&outline, scratch->dir, KV_F16, &error)) fail_msg("%s", error.message);
    assert_int_equal(engine_open(&engine, &(struct engine_options){.model_dir = scratch->dir}, &refusal),
                     ERROR_UNSUPPORTED);
    assert_int_equal(outline.unsupported.code, ERROR_UNSUPPORTED);
    assert_string_equal(outline.unsupported.message, refusal.message);
    expect_text(outline.unsupported.message, part);
    assert_int_equal(outline.layers, 6);
    assert_int_equal(outline.parameters, 5398400);
    assert_int_equal(outline.token_count > 0, with_tokenizer);
    engine_outline_finish(&outline);
}

static void test_unsupported(void **state) {
    (void)state;
    struct scratch scratch;
    scratch_create(&scratch);
    copy_directory(&scratch, DEMO);
    edit_config(&scratch, "\"rope_scaling\": null",
                "\"rope_scaling\": {\"type\": \"longrope\", \"short_mscale\": 1.243}");
    unsupported(&scratch, "longrope", true);

    write_file(scratch_path(&scratch, "chat_template.jinja"), "{{ x }}", 7); // the first cause stays
    unsupported(&scratch, "longrope", true);
    copy_directory(&scratch, DEMO);
    write_file(scratch_path(&scratch, "chat_template.jinja"), "{{ x }}", 7);
    unsupported(&scratch, "chat_template", true);

    scratch_clear(&scratch);
    copy_directory(&scratch, DEMO);
    edit_config(&scratch, "\"silu\"", "\"gelu\"");
    unsupported(&scratch, "gelu", true);
    scratch_destroy(&scratch);
}

// Everything else is refused, in the words of engine_open. That of damaged weights is in test_damaged_models.
static void refused(const char *dir, int code, const char *part) {
    struct engine_outline outline;
    struct engine *engine;
    struct error error = {0}, refusal = {0};
    assert_int_equal(engine_inspect(&outline, dir, KV_F16, &error), code);
    assert_int_equal(engine_open(&engine, &(struct engine_options){.model_dir = dir}, &refusal), code);
    assert_string_equal(error.message, refusal.message);
    expect_text(error.message, part);
}

static void test_refused(void **state) {
    (void)state;
    struct scratch scratch;
    scratch_create(&scratch);
    refused("/nonexistent", ERROR_NOT_FOUND, "there is no such directory");
    refused(scratch.dir, ERROR_NOT_FOUND, "config.json");
    copy_directory(&scratch, DEMO);
    edit_config(&scratch, "\"phimoe\"", "\"llama\"");
    refused(scratch.dir, ERROR_UNSUPPORTED, "llama");
    copy_directory(&scratch, DEMO);
    assert_int_equal(remove(scratch_path(&scratch, "tokenizer.json")), 0);
    refused(scratch.dir, ERROR_NOT_FOUND, "tokenizer.json");
    copy_directory(&scratch, DEMO);
    assert_int_equal(truncate(scratch_path(&scratch, "model.safetensors"), 100000), 0);
    refused(scratch.dir, ERROR_FORMAT, "model.safetensors");
    scratch_destroy(&scratch);
    assert_int_equal(engine_inspect(&(struct engine_outline){0}, "/nonexistent", KV_F16, NULL), ERROR_NOT_FOUND);
}

static void test_machine(void **state) {
    (void)state;
    struct engine_machine machine = engine_machine();
    assert_true(machine.cores >= 1);
    assert_true(machine.memory_bytes > 1 << 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_opened),   cmocka_unit_test(test_toys),    cmocka_unit_test(test_demo),
        cmocka_unit_test(test_unsupported), cmocka_unit_test(test_refused), cmocka_unit_test(test_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
