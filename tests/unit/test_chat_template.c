// Chat formats: token ids as transformers' apply_chat_template gives them, templates recognised or refused by name.
#include "tests/unit/tokenizer_data.h"

#include "base/buffer.h"
#include "engine/chat_template.h"

enum { SYSTEM = 32006, END = 32007, USER = 32010, ASSISTANT = 32001 };

static struct tokenizer *phi3;
static json_t *light; // see light_json
static const struct chat_template *format;

static json_t *light_json(void);

static int set_up(void **state) {
    (void)state;
    phi3 = open_phi3();
    light = light_json();
    return chat_template_find(phi3, &format, NULL);
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_close(phi3);
    json_decref(light);
    return 0;
}

static struct token_list render(const struct chat_template *how, const struct tokenizer *tokenizer,
                                const struct chat_message *messages, size_t count) {
    struct token_list list = {0};
    struct error error;
    if (chat_template_render(how, tokenizer, messages, count, &list, &error)) fail_msg("%s", error.message);
    return list;
}

// ---- Against transformers

static void check_chat(const struct tokenizer *tokenizer, const struct chat_template *how, const json_t *chat,
                       const json_t *ids, const char *what, size_t number) {
    struct chat_message messages[8];
    size_t count = json_array_size(chat);
    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++) {
        const json_t *role = json_array_get(json_array_get(chat, i), 0);
        const json_t *content = json_array_get(json_array_get(chat, i), 1);
        messages[i] = (struct chat_message){json_string_value(role), json_string_value(content),
                                            json_string_length(content)};
    }
    struct token_list list = render(how, tokenizer, messages, count);
    assert_ids(&list, ids, what, number);
    token_list_finish(&list);
}

static void check_conversations(const struct tokenizer *tokenizer, const char *path, size_t at_least) {
    const struct chat_template *how;
    struct error error;
    if (chat_template_find(tokenizer, &how, &error)) fail_msg("%s", error.message);
    json_t *cases = read_cases(path, "chat");
    assert_true(json_array_size(cases) >= at_least);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *value = json_array_get(cases, i);
        check_chat(tokenizer, how, json_object_get(value, "chat"), json_object_get(value, "ids"), "conversation", i);
    }
    json_decref(cases);
}

static void conversations_phi3(void **state) {
    (void)state;
    check_conversations(phi3, "tests/data/tokenizer_cases_phi3.jsonl.xz", 200);
}

static void conversations_demo(void **state) {
    (void)state;
    struct tokenizer *demo = open_demo();
    check_conversations(demo, "tests/data/tokenizer_cases_demo.jsonl.xz", 100);
    tokenizer_close(demo);
}

// ---- Look-alikes

static void content_never_becomes_special(void **state) {
    (void)state;
    static const char *const BITS[] = {"<|end|>", "<|user|>", "<|assistant|>\n", "<|system|>", "<s>", "</s>",
                                       "<unk>", "<|endoftext|>", "<|placeholder1|>", "<|", "|>", "end", "\n", " ",
                                       "\xe2\x96\x81", "<0x0A>", "hi"};
    static const char *const ROLES[] = {"system", "user", "assistant"};
    static const int32_t MARKERS[] = {SYSTEM, USER, ASSISTANT};
    unsigned seed = 11;
    for (int round = 0; round < 2000; round++) {
        char contents[3][256];
        struct chat_message messages[3];
        int32_t expected[8];
        size_t count = 1 + rand_r(&seed) % 3, expected_count = 0;
        for (size_t i = 0; i < count; i++) {
            size_t bytes = 0;
            for (unsigned bits = 1 + rand_r(&seed) % 8; bits > 0; bits--)
                bytes += (size_t)snprintf(contents[i] + bytes, sizeof contents[i] - bytes, "%s",
                                          BITS[rand_r(&seed) % (sizeof BITS / sizeof *BITS)]);
            unsigned role = rand_r(&seed) % 3;
            messages[i] = (struct chat_message){ROLES[role], contents[i], bytes};
            expected[expected_count++] = MARKERS[role];
            expected[expected_count++] = END;
        }
        expected[expected_count++] = ASSISTANT;
        struct token_list list = render(format, phi3, messages, count);
        size_t found = 0;
        for (size_t i = 0; i < list.count; i++) {
            if (list.ids[i] > 2 && list.ids[i] < 32000) continue;
            assert_true(found < expected_count);
            assert_int_equal(list.ids[i], expected[found++]);
        }
        assert_int_equal(found, expected_count);
        token_list_finish(&list);
    }
}

static void roles(void **state) {
    (void)state;
    struct token_list list = {0};
    struct error error;
    struct chat_message tool = {"tool", "42", 2};
    assert_int_equal(chat_template_render(format, phi3, &tool, 1, &list, &error), ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "\"tool\""));
    token_list_finish(&list);
    struct chat_message empty[] = {{"system", "", 0}, {"user", "", 0}};
    list = render(format, phi3, empty, 2);
    static const int32_t EXPECTED[] = {USER, END, ASSISTANT};
    assert_int_equal(list.count, 3);
    assert_memory_equal(list.ids, EXPECTED, sizeof EXPECTED);
    token_list_finish(&list);
}

// ---- Recognition

#define SYSTEM_IF(condition) "{% if message['role'] == 'system'" condition \
    " %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif "
#define USER_AND_ASSISTANT "message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}" \
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}" \
    "{% endfor %}"
#define PROMPT "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
#define FOR "{% for message in messages %}"

// The tokenizer of those tests: Phi-3's without its merges and longer pieces, quick to open.
static json_t *light_json(void) {
    char *text = read_data(PHI3_DATA "/tokenizer.json.xz", NULL);
    json_t *top = json_loads(text, 0, NULL), *model = json_object_get(top, "model"), *light = json_object(), *id;
    free(text);
    const char *piece;
    json_object_foreach(json_object_get(model, "vocab"), piece, id)
        if (piece[0] == '<' && strlen(piece) > 1) json_object_set(light, piece, id);
    json_object_set_new(model, "vocab", light);
    json_object_set_new(model, "merges", json_array());
    return top;
}

// Opens it (or another) with a template, and with every `from` in the list of added tokens made `to` (unless NULL).
static struct tokenizer *open_with(const json_t *from_json, const char *template, const char *from, const char *to) {
    json_t *changed = json_copy((json_t *)from_json), *config = json_pack("{s:s}", "bos_token", "<s>");
    if (template) json_object_set_new(config, "chat_template", json_string(template));
    if (from) {
        char *tokens = json_dumps(json_object_get(from_json, "added_tokens"), 0), *at = tokens;
        struct buffer text;
        buffer_init(&text, 1 << 20);
        for (char *hit; (hit = strstr(at, from)); at = hit + strlen(from)) {
            buffer_append(&text, at, (size_t)(hit - at));
            buffer_text(&text, to);
        }
        buffer_text(&text, at);
        json_object_set_new(changed, "added_tokens", json_loads(text.data, 0, NULL));
        buffer_finish(&text);
        free(tokens);
    }
    struct tokenizer *tokenizer = NULL;
    struct error error;
    int rc = open_json(&tokenizer, changed, config, PHI3_VOCAB, &error);
    json_decref(changed);
    json_decref(config);
    if (rc) fail_msg("%s", error.message);
    return tokenizer;
}

static void known_templates(void **state) {
    (void)state;
    static const struct {
        const char *template, *name;
    } KNOWN[] = {
        {NULL, "phi-3"},
        {FOR SYSTEM_IF(" and message['content']") USER_AND_ASSISTANT PROMPT, "phi-3"},
        {FOR SYSTEM_IF("") USER_AND_ASSISTANT PROMPT, "phi-3, empty system messages kept"},
        {FOR "{% if " USER_AND_ASSISTANT PROMPT, "phi-3 without system messages"},
        {"{{ bos_token }}" FOR SYSTEM_IF(" and message.content") USER_AND_ASSISTANT PROMPT, "phi-3 with <s>"},
        {"{{ bos_token }}" FOR "{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}"
         "{% endfor %}" PROMPT,
         "phi-3 with <s>, empty system messages kept"},
        // the same in other spellings
        {"{%- for message in messages -%}\n  {%- if (message.role == \"system\") and message.content -%}\n"
         "{{- \"<|system|>\" + \"\\n\" + message.content + \"<|end|>\" + \"\\n\" -}}\n  {%- elif message.role == "
         "\"user\" -%}"
         "{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}} \n {% elif message['role'] == 'assistant' %}\n"
         "{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}\n{% endif %}\n{% endfor %}\n"
         "{% if add_generation_prompt %}\n{{ '<|assistant|>\\n' }}\n{% endif %}\n",
         "phi-3"},
    };
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++) {
        struct tokenizer *tokenizer = open_with(light, KNOWN[i].template, NULL, NULL);
        const struct chat_template *found;
        struct error error;
        if (chat_template_find(tokenizer, &found, &error)) fail_msg("template %zu: %s", i, error.message);
        assert_string_equal(chat_template_name(found), KNOWN[i].name);

        struct chat_message messages[] = {{"system", "", 0}, {"user", "hi", 2}};
        bool no_system = strstr(KNOWN[i].name, "without"), kept = strstr(KNOWN[i].name, "kept");
        struct token_list list = {0};
        int rc = chat_template_render(found, tokenizer, messages, 2, &list, &error);
        assert_int_equal(rc, no_system ? ERROR_UNSUPPORTED : 0);
        if (!no_system) {
            size_t bos = strstr(KNOWN[i].name, "<s>") != NULL;
            if (bos) assert_int_equal(list.ids[0], 1);
            assert_int_equal(list.ids[bos], kept ? SYSTEM : USER);
        }
        token_list_finish(&list);
        tokenizer_close(tokenizer);
    }
}

static void templates_as_transformers(void **state) {
    (void)state;
    char *text = read_data(PHI3_DATA "/tokenizer.json.xz", NULL);
    json_t *whole = json_loads(text, 0, NULL),
           *cases = read_cases("tests/data/tokenizer_cases_phi3.jsonl.xz", "template");
    free(text);
    assert_true(json_array_size(cases) >= 6);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *value = json_array_get(cases, i), *chats = json_object_get(value, "chats");
        const char *template = json_string_value(json_object_get(value, "template"));
        struct tokenizer *tokenizer = open_with(whole, template, NULL, NULL);
        const struct chat_template *found;
        struct error error;
        if (chat_template_find(tokenizer, &found, &error)) fail_msg("%s\n%s", error.message, template);
        for (size_t k = 0; k < json_array_size(chats); k++)
            check_chat(tokenizer, found, json_array_get(chats, k),
                       json_array_get(json_object_get(value, "ids"), k), template, k);
        tokenizer_close(tokenizer);
    }
    json_decref(cases);
    json_decref(whole);
}

static void unknown_templates_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *template, *words;
    } UNKNOWN[] = {
        {"", "lacks"},
        {"{{ messages }}", "lacks"},
        {"Hello", "Hello"},
        {"{{ 'x", "no end"},
        {"{{ '<|user|>", "no end"},
        {"{{ messages ", "no end"},
        {"{{ messages", "no end"},
        {"{{", "no end"},
        {"{", "\"{\""},
        {"{# comment #}", "{#"},
        {"{% set x = 1 %}" FOR, "\"set\""},
        {FOR "{{ message['content'] | trim }}", "\"|"},
        {FOR "{{ raise_exception('no') }}", "raise_exception"},
        {FOR "{{ '<|im_start|>' + message['role'] }}", "im_start"},
        {"{{ '<|system|>\\nYou are helpful.<|end|>\\n' }}" FOR USER_AND_ASSISTANT PROMPT, "You are helpful"},
        {"{{ '\\t' }}", "\\"},
        {FOR "{% if " USER_AND_ASSISTANT, "add_generation_prompt"},
        {FOR "{% if " USER_AND_ASSISTANT PROMPT "{{ bos_token }}", "bos_token"},
        {FOR SYSTEM_IF("") "message['content'] and " USER_AND_ASSISTANT PROMPT, "condition"},
        {"{% for message in messages %} {% if " USER_AND_ASSISTANT PROMPT, "white space"},
        {"{{ bos_token }}\n" FOR SYSTEM_IF("") USER_AND_ASSISTANT PROMPT, "white space"},
        {" " FOR SYSTEM_IF("") USER_AND_ASSISTANT "x" PROMPT, "\"x\""},
        {FOR "{{ '<|user|>' + message['content'] + '<|end|>' }}{% endfor %}" PROMPT, "lacks"},
        {FOR "\n  {{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}" PROMPT, "white space"},
    };
    for (size_t i = 0; i < sizeof UNKNOWN / sizeof *UNKNOWN; i++) {
        struct tokenizer *tokenizer = open_with(light, UNKNOWN[i].template, NULL, NULL);
        const struct chat_template *found;
        struct error error;
        if (chat_template_find(tokenizer, &found, &error) == 0) fail_msg("was taken: %s", UNKNOWN[i].template);
        if (!strstr(error.message, UNKNOWN[i].words) || !strstr(error.message, "chat_template"))
            fail_msg("expected \"%s\" in: %s", UNKNOWN[i].words, error.message);
        tokenizer_close(tokenizer);
    }
}

static void tokens_that_do_not_fit(void **state) {
    (void)state;
    static const struct {
        const char *template, *from, *to, *words;
    } WRONG[] = {
        {NULL, "<|end|>", "<|stop|>", "<|end|>"},
        {NULL, "\"lstrip\": false", "\"lstrip\": true", "lstrip"},
        {FOR SYSTEM_IF("") USER_AND_ASSISTANT "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }} {% endif %}",
         "\"rstrip\": true", "\"rstrip\": false", "rstrip"},
        {"{{ bos_token }}" FOR SYSTEM_IF("") USER_AND_ASSISTANT PROMPT, "\"id\": 1, \"content\": \"<s>\"",
         "\"id\": 32063, \"content\": \"<start>\"", "bos_token"},
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        struct tokenizer *tokenizer = open_with(light, WRONG[i].template, WRONG[i].from, WRONG[i].to);
        const struct chat_template *found;
        struct error error;
        if (chat_template_find(tokenizer, &found, &error) == 0) fail_msg("was taken: %s", WRONG[i].words);
        if (!strstr(error.message, WRONG[i].words)) fail_msg("expected %s in: %s", WRONG[i].words, error.message);
        tokenizer_close(tokenizer);
    }
}

// Templates cut off and changed at every place: no harm, and what is taken has a name.
static void damaged_templates_do_no_harm(void **state) {
    (void)state;
    static const char TEMPLATE[] = FOR SYSTEM_IF(" and message['content']") USER_AND_ASSISTANT PROMPT;
    static const char BITS[] = "{}%'\"\\-+(<|\n a";
    char text[sizeof TEMPLATE];
    size_t taken = 0;
    for (size_t at = 0; at < sizeof TEMPLATE - 1; at++) {
        memcpy(text, TEMPLATE, sizeof TEMPLATE);
        text[at] = at % 2 ? BITS[at / 2 % (sizeof BITS - 1)] : '\0';
        struct tokenizer *tokenizer = open_with(light, text, NULL, NULL);
        const struct chat_template *found = NULL;
        struct error error;
        if (chat_template_find(tokenizer, &found, &error) == 0) {
            taken++;
            assert_non_null(chat_template_name(found));
        } else {
            assert_non_null(strstr(error.message, "chat_template"));
        }
        tokenizer_close(tokenizer);
    }
    assert_true(taken < 80); // white space for white space, brackets for brackets, what no prompt shows
}

static void a_turn_has_ends(void **state) {
    (void)state;
    int32_t ends[5] = {2, 32000};
    assert_int_equal(chat_template_add_ends(phi3, ends, 2, 5), 4); // <|endoftext|> was there
    static const int32_t EXPECTED[] = {2, 32000, END, ASSISTANT};
    assert_memory_equal(ends, EXPECTED, sizeof EXPECTED);
    assert_int_equal(chat_template_add_ends(phi3, ends, 4, 5), 4); // again
    assert_int_equal(chat_template_add_ends(phi3, ends, 0, 2), 2); // no more than there is room for

    struct tokenizer *without = open_with(light, "", "<|endoftext|>", "<|other|>");
    assert_int_equal(chat_template_add_ends(without, ends, 0, 5), 2);
    assert_int_equal(ends[0], END);
    assert_int_equal(ends[1], ASSISTANT);
    tokenizer_close(without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_phi3),
        cmocka_unit_test(conversations_demo),
        cmocka_unit_test(content_never_becomes_special),
        cmocka_unit_test(roles),
        cmocka_unit_test(known_templates),
        cmocka_unit_test(templates_as_transformers),
        cmocka_unit_test(unknown_templates_are_refused),
        cmocka_unit_test(tokens_that_do_not_fit),
        cmocka_unit_test(damaged_templates_do_no_harm),
        cmocka_unit_test(a_turn_has_ends),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
