// What the configs of a model directory say, and what is refused of them.
#include "engine/architectures/architecture.h"
#include "tests/unit/toy_models.h"

static void a_config_is_read(void **state) {
    (void)state;
    struct model *model = open_model(TOY_WINDOW, WEIGHTS_BF16);
    const struct model_config *config = &model->config;
    assert_int_equal(config->layers, 2);
    assert_int_equal(config->hidden, 48);
    assert_int_equal(config->heads, 4);
    assert_int_equal(config->kv_heads, 2);
    assert_int_equal(config->head_dim, 16);
    assert_int_equal(config->intermediate, 48);
    assert_int_equal(config->experts, 8);
    assert_int_equal(config->experts_per_token, 2);
    assert_int_equal(config->vocab, 131);
    assert_int_equal(config->context, 640);
    assert_int_equal(config->window, 7);
    assert_int_equal(config->eos_count, 2);
    assert_string_equal(model->architecture->name, "phimoe");
    assert_true(model->created > 1600000000);

    // By hand: embedding, head and its bias, final norm; per layer two norms, q, k, v, o with biases, router, experts.
    uint64_t embedding = 131 * 48, expert = 3 * 48 * 48;
    uint64_t layer = 4 * 48 + (64 + 32 + 32) * 49 + 48 * 65 + 8 * 48;
    uint64_t all = 2 * embedding + 131 + 2 * 48 + 2 * (layer + 8 * expert);
    assert_int_equal(model->parameters, all);
    assert_int_equal(model->parameters_active, all - embedding + 48 - 2 * 6 * expert);
    model_close(model);
}

static void set(const struct scratch *scratch, const char *file, const char *key, const char *value) {
    json_error_t cause;
    json_t *json = json_load_file(scratch_path(scratch, file), 0, &cause);
    assert_non_null(json);
    if (value)
        assert_int_equal(json_object_set_new(json, key, json_loads(value, JSON_DECODE_ANY, &cause)), 0);
    else
        json_object_del(json, key);
    assert_int_equal(json_dump_file(json, scratch_path(scratch, file), 0), 0);
    json_decref(json);
}

static void configs_that_are_refused(void **state) {
    (void)state;
    const struct {
        const char *key, *value, *message; // value NULL: the key is missing
    } cases[] = {
        {"model_type", "\"llama\"", "config.json: model_type: expected one of: phimoe, found \"llama\""},
        {"model_type", NULL, "config.json: model_type: expected a string, found nothing"},
        {"num_hidden_layers", NULL,
         "config.json: num_hidden_layers: expected an integer from 1 to 1024, found nothing"},
        {"num_hidden_layers", "0", "found 0"},
        {"num_hidden_layers", "-1", "found -1"},
        {"num_hidden_layers", "1025", "found 1025"},
        {"num_hidden_layers", "3",
         "tensor model.layers.2.input_layernorm.weight: expected with shape [48], found in no"},
        {"num_hidden_layers", "1", "tensor model.layers.1.block_sparse_moe.experts.0.w1.weight: expected none"},
        {"hidden_size", "49", "tensor model.embed_tokens.weight: expected shape [131, 49], found [131, 48]"},
        {"hidden_size", "\"48\"", "hidden_size: expected an integer from 1 to 65536, found \"48\""},
        {"num_attention_heads", "5", "num_key_value_heads: expected a divisor of num_attention_heads 5, found 2"},
        {"num_attention_heads", "8", "q_proj.weight: expected shape [128, 48], found [64, 48]"},
        {"num_key_value_heads", "0", "num_key_value_heads: expected an integer from 1 to 1024, found 0"},
        {"num_key_value_heads", "4", "k_proj.weight: expected shape [64, 48], found [32, 48]"},
        {"head_dim", "15", "head_dim: expected an even number from 2 to 512, found 15"},
        {"head_dim", "0", "head_dim: expected an integer from 2 to 512, found 0"},
        {"head_dim", "514", "head_dim: expected an integer from 2 to 512, found 514"},
        {"head_dim", "32", "q_proj.weight: expected shape [128, 48], found [64, 48]"},
        {"head_dim", NULL, "q_proj.weight: expected shape [48, 48], found [64, 48]"}, // hidden / heads then
        {"intermediate_size", "47", "experts.0.w1.weight: expected shape [47, 48], found [48, 48]"},
        {"num_local_experts", "1", "num_local_experts: expected an integer from 2 to 1024, found 1"},
        {"num_local_experts", "16", "block_sparse_moe.gate.weight: expected shape [16, 48], found [8, 48]"},
        {"num_experts_per_tok", "1", "num_experts_per_tok: expected 2, found 1"},
        {"vocab_size", "130", "embed_tokens.weight: expected shape [130, 48], found [131, 48]"},
        {"vocab_size", "2", "generation_config.json: eos_token_id: expected token ids from 0 to 1, found one beyond"},
        {"max_position_embeddings", "0", "max_position_embeddings: expected an integer from 1 to 1048576, found 0"},
        {"max_position_embeddings", "1e308", "max_position_embeddings: expected an integer from 1 to 1048576"},
        {"sliding_window", "0", "sliding_window: expected an integer from 1 to 2147483647, found 0"},
        {"sliding_window", "-7", "found -7"},
        {"rms_norm_eps", "\"x\"", "rms_norm_eps: expected a number from 0 to 1, found \"x\""},
        {"rms_norm_eps", "-1e-5", "found -1e-05"},
        {"router_jitter_noise", "2", "router_jitter_noise: expected a number from 0 to 1, found 2"},
        {"rope_theta", "0", "rope_theta: expected a number from 1 to 1e+12, found 0"},
        {"rope_scaling", "{\"type\": \"longrope\"}", "rope_scaling: type: expected \"default\", found \"longrope\""},
        {"rope_scaling", "{\"rope_type\": \"yarn\"}", "rope_scaling: rope_type: expected \"default\", found \"yarn\""},
        {"rope_scaling", "{\"short_factor\": [1.0]}", "rope_scaling: short_factor: expected no such key"},
        {"rope_scaling", "{\"type\": null, \"factor\": 2}", "rope_scaling: factor: expected no such key"},
        {"rope_scaling", "{\"partial_rotary_factor\": 0.5}", "scaling: partial_rotary_factor: expected 1, found 0.5"},
        {"rope_scaling", "{\"rope_theta\": \"7\"}", "rope_scaling: rope_theta: expected a number from 1"},
        {"rope_parameters", "{\"rope_type\": \"default\", \"long_mscale\": 1.2}", "meters: long_mscale: expected no"},
        {"rope_parameters", "{\"full_attention\": {}}", "rope_parameters: full_attention: expected no such key"},
        {"partial_rotary_factor", "0.4", "config.json: partial_rotary_factor: expected 1, found 0.4"},
        {"rope_scaling", "{\"rope_type\": 1}", "rope_scaling: rope_type: expected a string, found an integer"},
        {"rope_scaling", "[]", "rope_scaling: expected null or an object, found an array"},
        {"rope_parameters", "{\"rope_type\": \"longrope\", \"rope_theta\": 10000}", "found \"longrope\""},
        {"rope_parameters", "{\"rope_theta\": -1}", "rope_theta: expected a number from 1"},
        {"hidden_act", "\"gelu\"", "hidden_act: expected \"silu\", found gelu"},
        {"hidden_act", "1", "hidden_act: expected \"silu\", found an integer"},
        {"quantization_config", "{\"quant_method\": \"fp8\"}", "quantization_config: expected none, found an object"},
        {"attention_bias", "\"no\"", "attention_bias: expected true or false, found \"no\""},
        {"attention_bias", "false", "self_attn.k_proj.bias: expected none of this name"},
        {"lm_head_bias", "false", "tensor lm_head.bias: expected none of this name"},
        {"tie_word_embeddings", "true", "tensor lm_head.weight: expected none of this name"},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        copy_directory(&scratch, TOY_WINDOW);
        set(&scratch, "config.json", cases[i].key, cases[i].value);
        refused(scratch.dir, cases[i].message);
    }
    scratch_destroy(&scratch);
}

static void ends_of_an_answer(void **state) {
    (void)state;
    const struct {
        const char *generation, *config; // eos_token_id there; NULL: none
        int count, first;                // count 0: refused
        const char *message;
    } cases[] = {
        {"[2, 3]", "5", 2, 2, NULL},
        {"4", "5", 1, 4, NULL},
        {NULL, "5", 1, 5, NULL},
        {"null", "[6, 7, 8]", 3, 6, NULL},
        {NULL, NULL, 0, 0, "config.json: eos_token_id: expected a token id, here or in generation_config.json"},
        {"-1", "5", 0, 0,
         "generation_config.json: eos_token_id: expected token ids from 0 to 130, found one beyond them"},
        {"131", "5", 0, 0, "found one beyond them"},
        {"\"2\"", "5", 0, 0, "found a string"},
        {"[2, null]", "5", 0, 0, "found null"},
        {"[1,2,3,4,5,6,7,8,9]", "5", 0, 0, "expected at most 8 tokens"},
        {NULL, "131", 0, 0, "config.json: eos_token_id: expected token ids from 0 to 130"},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        copy_directory(&scratch, TOY_WINDOW);
        set(&scratch, "generation_config.json", "eos_token_id", cases[i].generation);
        set(&scratch, "config.json", "eos_token_id", cases[i].config);
        if (cases[i].count == 0) {
            refused(scratch.dir, cases[i].message);
            continue;
        }
        struct model *model = open_model(scratch.dir, WEIGHTS_BF16);
        assert_int_equal(model->config.eos_count, cases[i].count);
        assert_int_equal(model->config.eos[0], cases[i].first);
        model_close(model);
    }
    assert_int_equal(unlink(scratch_path(&scratch, "generation_config.json")), 0); // it may be missing
    set(&scratch, "config.json", "eos_token_id", "9");
    struct model *model = open_model(scratch.dir, WEIGHTS_BF16);
    assert_int_equal(model->config.eos[0], 9);
    model_close(model);
    scratch_destroy(&scratch);
}

static void configs_that_leave_things_out(void **state) {
    (void)state;
    struct scratch scratch;
    scratch_create(&scratch);
    copy_directory(&scratch, TOY_WINDOW);
    const char *const keys[] = {"rope_theta",  "rope_scaling", "rms_norm_eps",        "router_jitter_noise",
                                "hidden_act",  "torch_dtype",  "tie_word_embeddings", "sliding_window"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) set(&scratch, "config.json", keys[i], NULL);
    struct model *model = open_model(scratch.dir, WEIGHTS_F32);
    assert_true(model->config.rope_theta == 1e6); // all as transformers has them for this family
    assert_true(model->config.norm_epsilon == 1e-5f);
    assert_true(model->config.router_jitter == 0.01f);
    assert_int_equal(model->config.window, model->config.context);
    assert_false(model->config.tied);
    model_close(model);

    set(&scratch, "config.json", "sliding_window", "2000000000");
    set(&scratch, "config.json", "rope_theta", "7");
    set(&scratch, "config.json", "rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 500}");
    model = open_model(scratch.dir, WEIGHTS_F32);
    assert_int_equal(model->config.window, model->config.context); // so that no position can overflow it
    assert_true(model->config.rope_theta == 500);
    model_close(model);

    const struct {
        const char *scaling, *parameters;
        double theta;
    } ropes[] = {
        // As transformers: what is in an object goes before rope_theta 7, rope_scaling before rope_parameters.
        {"{\"type\": \"default\", \"rope_theta\": 90, \"factor\": null}", "{\"rope_theta\": 500}", 90},
        {"{\"type\": \"default\"}", "{\"rope_theta\": 500}", 7},
        {"{}", "{\"rope_theta\": 500, \"partial_rotary_factor\": 1.0}", 500},
        {"null", "{}", 7},
    };
    for (size_t i = 0; i < sizeof ropes / sizeof *ropes; i++) {
        set(&scratch, "config.json", "rope_scaling", ropes[i].scaling);
        set(&scratch, "config.json", "rope_parameters", ropes[i].parameters);
        model = open_model(scratch.dir, WEIGHTS_F32);
        assert_true(model->config.rope_theta == ropes[i].theta);
        model_close(model);
    }
    scratch_destroy(&scratch);
}
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_is_read),
        cmocka_unit_test(configs_that_are_refused),
        cmocka_unit_test(ends_of_an_answer),
        cmocka_unit_test(configs_that_leave_things_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
