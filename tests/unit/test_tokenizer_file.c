// Reading a tokenizer's files: the forms that are taken, those that are refused by name, and damaged ones.
#include "tests/unit/tokenizer_data.h"

static json_t *phi3_json, *phi3_config;

static int set_up(void **state) {
    (void)state;
    char *text = read_data(PHI3_DATA "/tokenizer.json.xz", NULL);
    phi3_json = json_loads(text, 0, NULL);
    free(text);
    phi3_config = json_load_file(PHI3_DATA "/tokenizer_config.json", 0, NULL);
    return phi3_json && phi3_config ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    json_decref(phi3_json);
    json_decref(phi3_config);
    return 0;
}

// ---- Variants that Hugging Face's `tokenizers` was asked about

static void check_variant(const json_t *line, size_t number) {
    const json_t *variant = json_object_get(line, "variant");
    json_t *changed = json_copy(phi3_json), *model = json_copy(json_object_get(phi3_json, "model"));
    json_t *top = json_object_get(variant, "top"), *of_model = json_object_get(variant, "model");
    if (top) assert_int_equal(json_object_update(changed, top), 0);
    if (of_model) assert_int_equal(json_object_update(model, of_model), 0);
    json_object_set_new(changed, "model", model);
    json_object_set(changed, "added_tokens", json_object_get(line, "added_tokens"));

    struct tokenizer *tokenizer;
    struct error error;
    if (open_json(&tokenizer, changed, NULL, PHI3_VOCAB, &error)) fail_msg("variant %zu: %s", number, error.message);
    json_decref(changed);
    const json_t *texts = json_object_get(line, "texts"), *ids = json_object_get(line, "ids");
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        struct token_list list = {0};
        assert_int_equal(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true, &list,
                                          &error), 0);
        char what[64];
        snprintf(what, sizeof what, "variant %zu, text", number);
        assert_ids(&list, json_array_get(ids, i), what, i);
        token_list_finish(&list);
    }
    tokenizer_close(tokenizer);
}

static void variants_as_hugging_face(void **state) {
    (void)state;
    json_t *lines = read_cases("tests/data/tokenizer_cases_phi3.jsonl.xz", "variant");
    assert_true(json_array_size(lines) >= 20);
    for (size_t i = 0; i < json_array_size(lines); i++) check_variant(json_array_get(lines, i), i);
    json_decref(lines);
}

// ---- A small tokenizer, quick to open: bytes, a few letters and merges, two added tokens

static json_t *toy_tokenizer(void) {
    static const char TEXT[] =
        "{'version': '1.0', 'truncation': null, 'padding': null, 'added_tokens': ["
        "{'id': 0, 'content': '<s>', 'single_word': false, 'lstrip': false, 'rstrip': false, 'normalized': false,"
        " 'special': true},"
        "{'id': 270, 'content': '<|end|>', 'single_word': false, 'lstrip': false, 'rstrip': true,"
        " 'normalized': false, 'special': true}],"
        "'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': '▁'},"
        "{'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'}]}, 'pre_tokenizer': null,"
        "'post_processor': {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}},"
        "{'Sequence': {'id': 'A', 'type_id': 0}}], 'pair': [], 'special_tokens':"
        " {'<s>': {'id': '<s>', 'ids': [0], 'tokens': ['<s>']}}},"
        "'decoder': {'type': 'Sequence', 'decoders': [{'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '},"
        "{'type': 'ByteFallback'}, {'type': 'Fuse'}, {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}]},"
        "'model': {'type': 'BPE', 'dropout': null, 'unk_token': '<unk>', 'continuing_subword_prefix': null,"
        "'end_of_word_suffix': null, 'fuse_unk': true, 'byte_fallback': true, 'ignore_merges': false,"
        "'vocab': {'<s>': 0, '<unk>': 1, '▁': 2, 'a': 3, 'b': 4, 'c': 5, 'ab': 6, 'abc': 7, '▁a': 8, 'é': 9},"
        "'merges': ['a b', 'ab c', ['▁', 'a']]}}";
    char json[sizeof TEXT];
    memcpy(json, TEXT, sizeof TEXT);
    for (char *c = json; *c; c++)
        if (*c == '\'') *c = '"';
    json_error_t cause;
    json_t *toy = json_loads(json, 0, &cause);
    if (!toy) fail_msg("%s", cause.text);
    json_t *vocab = json_object_get(json_object_get(toy, "model"), "vocab");
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        json_object_set_new(vocab, name, json_integer(10 + byte));
    }
    return toy;
}

enum { TOY_VOCAB = 280 };

static void assert_toy_encodes(const json_t *toy, const json_t *config, int32_t bos, const char *text,
                               const char *expected) {
    struct tokenizer *tokenizer;
    struct error error;
    if (open_json(&tokenizer, toy, config, TOY_VOCAB, &error)) fail_msg("%s", error.message);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, &list, &error), 0);
    json_t *ids = json_loads(expected, 0, NULL);
    assert_ids(&list, ids, text, 0);
    assert_int_equal(tokenizer_bos(tokenizer), bos);
    json_decref(ids);
    token_list_finish(&list);
    tokenizer_close(tokenizer);
}

static void toy_opens(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer();
    assert_toy_encodes(toy, NULL, 0, "abc<|end|> \n ab\xc3\xa9z", "[2, 7, 270, 2, 6, 9, 132]");
    json_decref(toy);
}

// ignore_merges: a word that the vocabulary has needs no merges. An added token is none, whatever the vocabulary says.
static void whole_words(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer(), *model = json_object_get(toy, "model");
    json_object_set_new(json_object_get(model, "vocab"), "▁cab", json_integer(271));
    assert_toy_encodes(toy, NULL, 0, "cab", "[2, 5, 6]");
    json_object_set_new(model, "ignore_merges", json_true());
    assert_toy_encodes(toy, NULL, 0, "cab", "[271]");
    assert_toy_encodes(toy, NULL, 0, "cabc", "[2, 5, 7]");

    json_object_set_new(toy, "normalizer", json_null());
    struct tokenizer *tokenizer;
    struct error error;
    struct token_list list = {0};
    assert_int_equal(open_json(&tokenizer, toy, NULL, TOY_VOCAB, &error), 0);
    assert_int_equal(tokenizer_encode(tokenizer, "<s>", 3, false, &list, &error), 0);
    assert_int_equal(list.count, 3); // three bytes
    token_list_finish(&list);
    tokenizer_close(tokenizer);
    json_decref(toy);
}

// prepend_scheme "first": behind a special token a text does not stand at the beginning.
static void prefix_at_the_beginning_alone(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer();
    json_object_set_new(toy, "normalizer", json_null());
    json_object_set_new(toy, "pre_tokenizer", json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "▁",
                                                        "prepend_scheme", "first", "split", 0));
    assert_toy_encodes(toy, NULL, 0, "a<|end|>a", "[8, 270, 3]");
    struct tokenizer *tokenizer;
    struct error error;
    assert_int_equal(open_json(&tokenizer, toy, NULL, TOY_VOCAB, &error), 0);
    for (int i = 0; i < 2; i++) {
        struct token_list list = {0};
        assert_int_equal(tokenizer_encode_after(tokenizer, i ? 270 : -1, "a", 1, &list, &error), 0);
        assert_int_equal(list.count, 1);
        assert_int_equal(list.ids[0], i ? 3 : 8);
        token_list_finish(&list);
    }
    tokenizer_close(tokenizer);
    json_decref(toy);
}

static void config_has_the_last_word(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer();
    json_t *config = json_pack("{s:b, s:s}", "add_bos_token", 0, "bos_token", "<s>");
    assert_toy_encodes(toy, config, -1, "a", "[8]");
    json_object_set_new(config, "add_bos_token", json_true());
    json_object_set_new(json_object_get(toy, "post_processor"), "single",
                        json_pack("[{s:{s:s}}]", "Sequence", "id", "A"));
    assert_toy_encodes(toy, config, 0, "a", "[8]");
    json_object_del(config, "add_bos_token");
    assert_toy_encodes(toy, config, -1, "a", "[8]");
    // Flags of added tokens, and tokens that only the config has.
    json_object_set_new(config, "added_tokens_decoder",
                        json_pack("{s:{s:s, s:b, s:b, s:b}, s:{s:s, s:b, s:b}}", "270", "content", "<|end|>", "rstrip",
                                  0, "normalized", 0, "special", 1, "271", "content", "<|more|>", "normalized", 0,
                                  "special", 1));
    assert_toy_encodes(toy, config, -1, "a<|end|> <|more|>", "[8, 270, 2, 2, 271]");
    json_decref(config);
    json_decref(toy);
}

static void chat_template_from_each_place(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer();
    char *text = json_dumps(toy, 0), dir[64];
    static const char NAMED[] = "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"no\"},"
                                " {\"name\": \"default\", \"template\": \"yes\"}]}";
    struct tokenizer *tokenizer;
    struct error error;
    make_dir(dir);
    write_file(dir, "tokenizer.json", text, strlen(text));
    assert_int_equal(tokenizer_open(&tokenizer, dir, TOY_VOCAB, &error), 0);
    assert_null(tokenizer_chat_template(tokenizer));
    tokenizer_close(tokenizer);
    write_file(dir, "tokenizer_config.json", NAMED, strlen(NAMED));
    assert_int_equal(tokenizer_open(&tokenizer, dir, TOY_VOCAB, &error), 0);
    assert_string_equal(tokenizer_chat_template(tokenizer), "yes");
    tokenizer_close(tokenizer);
    write_file(dir, "chat_template.jinja", "file", 4);
    assert_int_equal(tokenizer_open(&tokenizer, dir, TOY_VOCAB, &error), 0);
    assert_string_equal(tokenizer_chat_template(tokenizer), "file");
    tokenizer_close(tokenizer);
    write_file(dir, "chat_template.jinja", "\xff", 1);
    assert_int_equal(tokenizer_open(&tokenizer, dir, TOY_VOCAB, &error), ERROR_FORMAT);
    assert_non_null(strstr(error.message, "chat_template.jinja"));
    remove_dir(dir);
    free(text);
    json_decref(toy);
}

// ---- Refusals: each changes one thing in the toy, and the message must name it

struct refusal {
    const char *at; // where: "" the top, or keys divided by "."
    const char *key;
    const char *value; // JSON with ' for "; NULL: the key is taken out
    const char *words; // in the message
    int code;
};

static const struct refusal REFUSALS[] = {
    {"", "model", NULL, "model", ERROR_FORMAT},
    {"", "surprise", "1", "surprise", ERROR_UNSUPPORTED},
    {"", "normalizer", "{'type': 'NFKC'}", "NFKC", ERROR_UNSUPPORTED},
    {"", "normalizer", "{'type': 'Prepend', 'prepend': 'x'}", "Prepend", ERROR_UNSUPPORTED},
    {"", "normalizer", "{'type': 'Sequence', 'normalizers': 3}", "normalizers", ERROR_FORMAT},
    {"", "normalizer", "{'type': 'Sequence', 'normalizers': [{'type': 'Sequence', 'normalizers': []}]}", "Sequence",
     ERROR_UNSUPPORTED},
    {"", "normalizer", "7", "nothing", ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'ByteLevel'}", "ByteLevel", ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '_'}", "replacement", ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'last'}", "last",
     ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'first'}", "Prepend together",
     ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'first',"
     " 'add_prefix_space': false}", "contradicts", ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '▁', 'dance': true}", "dance", ERROR_UNSUPPORTED},
    {"", "pre_tokenizer", "{'type': 'Metaspace', 'replacement': '▁', 'split': 3}", "split", ERROR_FORMAT},
    {"", "decoder", "null", "decoder", ERROR_UNSUPPORTED},
    {"", "decoder", "{'type': 'ByteLevel'}", "decoder", ERROR_UNSUPPORTED},
    {"", "decoder", "{'type': 'Sequence', 'decoders': [{'type': 'ByteFallback'}, {'type': 'Fuse'}]}", "decoder",
     ERROR_UNSUPPORTED},
    {"", "post_processor", "{'type': 'ByteLevel'}", "ByteLevel", ERROR_UNSUPPORTED},
    {"", "post_processor", "{'type': 'TemplateProcessing', 'single': []}", "single", ERROR_UNSUPPORTED},
    {"", "post_processor", "{'type': 'TemplateProcessing', 'single': [{'Sequence': {'id': 'A'}},"
     " {'SpecialToken': {'id': '<s>'}}]}", "single", ERROR_UNSUPPORTED},
    {"post_processor.special_tokens.<s>", "ids", "[99999]", "<s>", ERROR_FORMAT},
    {"post_processor.special_tokens.<s>", "ids", "[-1]", "<s>", ERROR_FORMAT},
    {"post_processor.special_tokens.<s>", "ids", "[0, 0]", "<s>", ERROR_FORMAT},
    {"post_processor", "special_tokens", "{}", "<s>", ERROR_FORMAT},
    {"model", "type", "'Unigram'", "Unigram", ERROR_UNSUPPORTED},
    {"model", "dropout", "0.1", "dropout", ERROR_UNSUPPORTED},
    {"model", "continuing_subword_prefix", "'##'", "continuing_subword_prefix", ERROR_UNSUPPORTED},
    {"model", "end_of_word_suffix", "'</w>'", "end_of_word_suffix", ERROR_UNSUPPORTED},
    {"model", "byte_fallback", "false", "byte_fallback", ERROR_UNSUPPORTED},
    {"model", "byte_fallback", "'yes'", "byte_fallback", ERROR_FORMAT},
    {"model", "surprise", "1", "surprise", ERROR_UNSUPPORTED},
    {"model", "vocab", "[]", "vocab", ERROR_FORMAT},
    {"model", "merges", "{}", "merges", ERROR_FORMAT},
    {"model", "merges", "['a']", "merges[0]", ERROR_FORMAT},
    {"model", "merges", "['a b', 'a  b']", "merges[1]", ERROR_FORMAT},
    {"model", "merges", "[['a', 'b', 'c']]", "merges[0]", ERROR_FORMAT},
    {"model", "merges", "[['a', 1]]", "merges[0]", ERROR_FORMAT},
    {"model", "merges", "[7]", "merges[0]", ERROR_FORMAT},
    {"model", "merges", "[['', 'a']]", "merges[0]", ERROR_FORMAT},
    {"model", "merges", "['a q']", "\"q\"", ERROR_FORMAT},
    {"model", "merges", "['a c']", "\"ac\"", ERROR_FORMAT},
    {"model", "merges", "['a b', 'a b']", "merges[1]", ERROR_FORMAT},
    {"model", "merges", "['<0x41> a']", "<0x41>", ERROR_FORMAT},
    {"model.vocab", "a", "280", "280", ERROR_FORMAT},
    {"model.vocab", "a", "-1", "-1", ERROR_FORMAT},
    {"model.vocab", "a", "'3'", "a string", ERROR_FORMAT},
    {"model.vocab", "a", "3.5", "a real number", ERROR_FORMAT},
    {"model.vocab", "a", "99999999999999", "99999999999999", ERROR_FORMAT},
    {"model.vocab", "a", "4", "twice", ERROR_FORMAT},
    {"model.vocab", "<0x41>", NULL, "<0x41>", ERROR_FORMAT},
    {"", "added_tokens", "{}", "added_tokens", ERROR_FORMAT},
    {"", "added_tokens", "[3]", "added_tokens[0]", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 280, 'content': 'x'}]", "280", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271}]", "content", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': ''}]", "content", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': '<x>', 'rstrip': 1}]", "rstrip", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': '<x>', 'single_word': true}]", "single_word", ERROR_UNSUPPORTED},
    {"", "added_tokens", "[{'id': 3, 'content': '<x>'}]", "taken", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': '<x>'}, {'id': 271, 'content': '<y>'}]", "taken", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': '<x>'}, {'id': 272, 'content': '<x>'}]", "elsewhere", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 271, 'content': 'ab'}]", "elsewhere", ERROR_FORMAT},
    {"", "added_tokens", "[{'id': 6, 'content': 'ab'}]", "plain text", ERROR_UNSUPPORTED},
    {"", "added_tokens", "[{'id': 3, 'content': 'a'}]", "plain text", ERROR_UNSUPPORTED},
};

static json_t *from_quoted(const char *text) {
    char json[512];
    snprintf(json, sizeof json, "%s", text);
    for (char *c = json; *c; c++)
        if (*c == '\'') *c = '"';
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    if (!value) fail_msg("%s", json);
    return value;
}

static json_t *follow(json_t *top, const char *keys) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", keys);
    for (char *rest = copy, *key; (key = strsep(&rest, ".")) && *key;) top = json_object_get(top, key);
    assert_non_null(top);
    return top;
}

static void check_refused(json_t *toy, json_t *config, const char *words, int code, const char *file) {
    struct tokenizer *tokenizer;
    struct error error;
    int rc = open_json(&tokenizer, toy, config, TOY_VOCAB, &error);
    if (rc == 0) fail_msg("was taken: %s", words);
    if (rc != code || !strstr(error.message, words) || !strstr(error.message, file))
        fail_msg("expected %d with \"%s\", found %d: %s", code, words, rc, error.message);
}

static void refusals_name_their_cause(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof REFUSALS / sizeof *REFUSALS; i++) {
        const struct refusal *refusal = &REFUSALS[i];
        json_t *toy = toy_tokenizer(), *object = follow(toy, refusal->at);
        if (refusal->value)
            json_object_set_new(object, refusal->key, from_quoted(refusal->value));
        else
            json_object_del(object, refusal->key);
        check_refused(toy, NULL, refusal->words, refusal->code, "tokenizer.json");
        json_decref(toy);
    }
}

static void config_refusals_name_their_cause(void **state) {
    (void)state;
    static const struct refusal CONFIGS[] = {
        {"", "", "{'add_eos_token': true}", "add_eos_token", ERROR_UNSUPPORTED},
        {"", "", "{'add_bos_token': 'x'}", "add_bos_token", ERROR_FORMAT},
        {"", "", "{'add_bos_token': true}", "bos_token", ERROR_FORMAT},
        {"", "", "{'add_bos_token': true, 'bos_token': '<nothing>'}", "<nothing>", ERROR_FORMAT},
        {"", "", "{'chat_template': 7}", "chat_template", ERROR_FORMAT},
        {"", "", "{'chat_template': [{'name': 'other', 'template': 'x'}]}", "chat_template", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': []}", "added_tokens_decoder", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'x': {}}}", "\"x\"", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'280': {'content': '<x>'}}}", "280", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'-1': {'content': '<x>'}}}", "-1", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'99999999999999999999': {'content': '<x>'}}}", "9999", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'271': {'content': '<|end|>'}}}", "<|end|>", ERROR_FORMAT},
        {"", "", "{'added_tokens_decoder': {'271': 4}}", "added_tokens_decoder.271", ERROR_FORMAT},
    };
    json_t *toy = toy_tokenizer();
    for (size_t i = 0; i < sizeof CONFIGS / sizeof *CONFIGS; i++) {
        json_t *config = from_quoted(CONFIGS[i].value);
        check_refused(toy, config, CONFIGS[i].words, CONFIGS[i].code, "tokenizer_config.json");
        json_decref(config);
    }
    json_decref(toy);
}

// ---- Damage

static void damage(char *text, size_t *bytes, unsigned *seed) {
    static const char *const BITS[] = {"-1", "null", "\"", "{", "]", "99999999999999999999", "1e999", "\\u0000",
                                       "\\ud800", "[[[[", "true", "\xff", "\xe2\x96", ",", ":", "<0x41>"};
    for (unsigned edits = 1 + rand_r(seed) % 3; edits > 0 && *bytes > 1; edits--) {
        size_t at = rand_r(seed) % *bytes;
        const char *bit = BITS[rand_r(seed) % (sizeof BITS / sizeof *BITS)];
        size_t bit_bytes = strlen(bit);
        switch (rand_r(seed) % 5) {
        case 0: text[at] = (char)(rand_r(seed) % 256); break;
        case 1: *bytes = at; break; // cut off
        case 2:                     // something is missing
            bit_bytes = 1 + rand_r(seed) % 20;
            if (bit_bytes > *bytes - at) bit_bytes = *bytes - at;
            memmove(text + at, text + at + bit_bytes, *bytes - at - bit_bytes);
            *bytes -= bit_bytes;
            break;
        case 3: // something is too much
            memmove(text + at + bit_bytes, text + at, *bytes - at);
            memcpy(text + at, bit, bit_bytes);
            *bytes += bit_bytes;
            break;
        default: // a digit changes: ids stay ids
            while (at < *bytes && (text[at] < '0' || text[at] > '9')) at++;
            if (at < *bytes) text[at] = (char)('0' + rand_r(seed) % 10);
        }
    }
}

static void damaged_files_do_no_harm(void **state) {
    (void)state;
    json_t *toy = toy_tokenizer();
    char *whole = json_dumps(toy, 0), dir[64];
    size_t whole_bytes = strlen(whole);
    unsigned seed = 1, refused = 0;
    make_dir(dir);
    for (int round = 0; round < 600; round++) {
        char *text = malloc(whole_bytes + 256);
        assert_non_null(text);
        memcpy(text, whole, whole_bytes);
        size_t bytes = whole_bytes;
        damage(text, &bytes, &seed);
        write_file(dir, "tokenizer.json", text, bytes);
        struct tokenizer *tokenizer = NULL;
        struct error error;
        if (tokenizer_open(&tokenizer, dir, TOY_VOCAB, &error)) {
            refused++;
            assert_non_null(strstr(error.message, "tokenizer.json"));
        } else { // what is taken must work
            struct token_list list = {0};
            static const char SAMPLE[] = "abc \xe2\x96\x81 a<|end|>\n\xc3\xa9 b<s>";
            assert_int_equal(tokenizer_encode(tokenizer, SAMPLE, strlen(SAMPLE), true, &list, &error), 0);
            for (size_t i = 0; i < list.count; i++) {
                size_t piece_bytes;
                assert_non_null(tokenizer_piece(tokenizer, list.ids[i], &piece_bytes));
            }
            token_list_finish(&list);
            tokenizer_close(tokenizer);
        }
        free(text);
    }
    assert_true(refused > 300);
    remove_dir(dir);
    free(whole);
    json_decref(toy);
}

static void missing_files(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    struct error error;
    assert_int_equal(tokenizer_open(&tokenizer, "/nowhere", TOY_VOCAB, &error), ERROR_NOT_FOUND);
    assert_non_null(strstr(error.message, "/nowhere/tokenizer.json"));
    char path[2 * PATH_MAX];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(tokenizer_open(&tokenizer, path, TOY_VOCAB, &error), ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants_as_hugging_face),
        cmocka_unit_test(toy_opens),
        cmocka_unit_test(whole_words),
        cmocka_unit_test(prefix_at_the_beginning_alone),
        cmocka_unit_test(config_has_the_last_word),
        cmocka_unit_test(chat_template_from_each_place),
        cmocka_unit_test(refusals_name_their_cause),
        cmocka_unit_test(config_refusals_name_their_cause),
        cmocka_unit_test(damaged_files_do_no_harm),
        cmocka_unit_test(missing_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
