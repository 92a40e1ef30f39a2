// The detokenizer: Hugging Face's text for whole sequences, and never half a character on the way.
#include "tests/unit/tokenizer_data.h"

#include "base/utf8.h"
#include "engine/detokenizer.h"

enum { TEXT_BYTES_MAX = 1 << 20, BYTE_0 = 3 }; // <0x00> has id 3 in Phi-3's vocabulary

static struct tokenizer *phi3;

static int set_up(void **state) {
    (void)state;
    phi3 = open_phi3();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tokenizer_close(phi3);
    return 0;
}

static void add(struct detokenizer *detokenizer, int32_t id, struct buffer *out) {
    size_t before = out->bytes;
    assert_true(detokenizer_add(detokenizer, id, out));
    if (out->bytes > before) assert_true(utf8_valid(out->data + before, out->bytes - before));
}

static void check_sequences(const struct tokenizer *tokenizer, const char *path, size_t at_least) {
    json_t *cases = read_cases(path, "ids");
    size_t checked = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *ids = json_object_get(json_array_get(cases, i), "ids");
        const json_t *text = json_object_get(json_array_get(cases, i), "text");
        if (!text) continue; // a conversation, or a variant
        struct detokenizer detokenizer;
        struct buffer out;
        buffer_init(&out, TEXT_BYTES_MAX);
        detokenizer_init(&detokenizer, tokenizer, tokenizer_strips_space(tokenizer));
        for (size_t k = 0; k < json_array_size(ids); k++)
            add(&detokenizer, (int32_t)json_integer_value(json_array_get(ids, k)), &out);
        assert_true(detokenizer_flush(&detokenizer, &out));
        if (out.bytes != json_string_length(text) ||
            (out.bytes && memcmp(out.data, json_string_value(text), out.bytes)))
            fail_msg("sequence %zu: expected \"%s\", found \"%s\"", i, json_string_value(text),
                     out.bytes ? out.data : "");
        buffer_finish(&out);
        checked++;
    }
    assert_true(checked >= at_least);
    json_decref(cases);
}

static void sequences_phi3(void **state) {
    (void)state;
    check_sequences(phi3, "tests/data/tokenizer_cases_phi3.jsonl.xz", 600);
}

static void sequences_demo(void **state) {
    (void)state;
    struct tokenizer *demo = open_demo();
    check_sequences(demo, "tests/data/tokenizer_cases_demo.jsonl.xz", 200);
    tokenizer_close(demo);
}

// Texts come back as they were: with the space in front that the tokenizer had added, less the one that is dropped.
static void texts_come_back(void **state) {
    (void)state;
    json_t *cases = read_cases("tests/data/tokenizer_cases_phi3.jsonl.xz", "plain");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *text = json_object_get(json_array_get(cases, i), "text");
        if (memmem(json_string_value(text), json_string_length(text), "\xe2\x96\x81", 3)) continue; // becomes a space
        struct token_list list = {0};
        struct error error;
        assert_int_equal(
            tokenizer_encode(phi3, json_string_value(text), json_string_length(text), false, &list, &error), 0);
        struct detokenizer detokenizer;
        struct buffer out;
        buffer_init(&out, TEXT_BYTES_MAX);
        detokenizer_init(&detokenizer, phi3, true);
        for (size_t k = 0; k < list.count; k++) add(&detokenizer, list.ids[k], &out);
        assert_int_equal(detokenizer.pending_bytes, 0);
        assert_int_equal(out.bytes, json_string_length(text));
        if (out.bytes) assert_memory_equal(out.data, json_string_value(text), out.bytes);
        buffer_finish(&out);
        token_list_finish(&list);
    }
    json_decref(cases);
}

static void characters_wait_until_whole(void **state) {
    (void)state;
    struct detokenizer detokenizer;
    struct buffer out;
    buffer_init(&out, 100);
    detokenizer_init(&detokenizer, phi3, false);
    static const unsigned char SMILE[] = {0xf0, 0x9f, 0x98, 0x80};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(out.bytes, 0);
        add(&detokenizer, BYTE_0 + SMILE[i], &out);
    }
    assert_string_equal(out.data, "\xf0\x9f\x98\x80");

    // A special token inside a character does not disturb it.
    buffer_clear(&out);
    add(&detokenizer, BYTE_0 + 0xc3, &out);
    add(&detokenizer, 32007, &out);
    add(&detokenizer, BYTE_0 + 0xa9, &out);
    assert_string_equal(out.data, "\xc3\xa9");

    // What can never complete: one U+FFFD a byte, at once; what was valid behind it stays.
    buffer_clear(&out);
    add(&detokenizer, BYTE_0 + 0xe2, &out);
    add(&detokenizer, BYTE_0 + 0x82, &out);
    assert_int_equal(out.bytes, 0);
    add(&detokenizer, BYTE_0 + 'A', &out);
    assert_string_equal(out.data, "\xef\xbf\xbd\xef\xbf\xbd" "A");
    buffer_clear(&out);
    add(&detokenizer, BYTE_0 + 0xff, &out);
    assert_string_equal(out.data, "\xef\xbf\xbd");

    // The end.
    buffer_clear(&out);
    add(&detokenizer, BYTE_0 + 0xf0, &out);
    add(&detokenizer, BYTE_0 + 0x9f, &out);
    assert_int_equal(out.bytes, 0);
    assert_true(detokenizer_flush(&detokenizer, &out));
    assert_string_equal(out.data, "\xef\xbf\xbd\xef\xbf\xbd");
    buffer_finish(&out);
}

static void one_space_is_dropped(void **state) {
    (void)state;
    struct detokenizer detokenizer;
    struct buffer out;
    struct token_list list = {0};
    struct error error;
    assert_int_equal(tokenizer_encode(phi3, "  hello", 7, false, &list, &error), 0);
    for (int strip = 0; strip < 2; strip++) {
        buffer_init(&out, 100);
        detokenizer_init(&detokenizer, phi3, strip);
        add(&detokenizer, 32001, &out); // not a text, so not its beginning
        for (size_t i = 0; i < list.count; i++) add(&detokenizer, list.ids[i], &out);
        assert_string_equal(out.data, strip ? "  hello" : "   hello");
        buffer_finish(&out);
    }
    token_list_finish(&list);
}

static void a_full_buffer_is_told(void **state) {
    (void)state;
    struct detokenizer detokenizer;
    struct buffer out;
    buffer_init(&out, 2);
    detokenizer_init(&detokenizer, phi3, false);
    assert_true(detokenizer_add(&detokenizer, BYTE_0 + 'a', &out));
    assert_true(detokenizer_add(&detokenizer, BYTE_0 + 'b', &out));
    assert_false(detokenizer_add(&detokenizer, BYTE_0 + 'c', &out));
    buffer_finish(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_phi3),
        cmocka_unit_test(sequences_demo),
        cmocka_unit_test(texts_come_back),
        cmocka_unit_test(characters_wait_until_whole),
        cmocka_unit_test(one_space_is_dropped),
        cmocka_unit_test(a_full_buffer_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
