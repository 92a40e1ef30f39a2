// The safetensors reader: what a good file gives, and that every lie a header can tell is found and named.
#include "engine/checkpoints/checkpoint.h"
#include "tests/unit/model_files.h"

static void two_tensors_of_a_file(void **state) {
    (void)state;
    struct scratch scratch;
    struct checkpoint checkpoint;
    struct error error;
    scratch_create(&scratch);
    write_safetensors(scratch_path(&scratch, "model.safetensors"),
                      "{\"__metadata__\": {\"format\": \"pt\"},"
                      "\"b\": {\"dtype\": \"BF16\", \"shape\": [2, 3], \"data_offsets\": [4, 16]},"
                      "\"none\": {\"dtype\": \"F16\", \"shape\": [0, 7], \"data_offsets\": [4, 4]},"
                      "\"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}}   ", 16);
    if (safetensors_open(&checkpoint, scratch.dir, &error)) fail_msg("%s", error.message);
    assert_int_equal(checkpoint.tensor_count, 3);
    assert_true(checkpoint.modified > 1600000000);

    const struct tensor *a = checkpoint_find(&checkpoint, "a"), *b = checkpoint_find(&checkpoint, "b");
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->type, TENSOR_F32);
    assert_int_equal(a->dimensions, 0);
    assert_int_equal(a->bytes, 4);
    assert_int_equal(a->data[3], 3);
    assert_int_equal(b->type, TENSOR_BF16);
    assert_int_equal(b->dimensions, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(b->data[0], 4);
    assert_int_equal(b->data[11], 15);
    assert_int_equal(checkpoint_find(&checkpoint, "none")->bytes, 0);
    assert_null(checkpoint_find(&checkpoint, "__metadata__"));
    assert_null(checkpoint_find(&checkpoint, "c"));
    checkpoint_close(&checkpoint);
    checkpoint_close(&checkpoint); // closed is all zeros
    scratch_destroy(&scratch);
}

static void refused(const struct scratch *scratch, const char *part) {
    struct checkpoint checkpoint;
    struct error error = {0};
    int rc = safetensors_open(&checkpoint, scratch->dir, &error);
    if (rc == 0) fail_msg("expected to be refused: %s", part);
    assert_int_equal(error.code, rc);
    expect_text(error.message, scratch->dir);
    expect_text(error.message, part);
}

// A tensor named t, of one file with 16 bytes of data.
#define T(dtype, shape, offsets) \
    "{\"t\": {\"dtype\": " dtype ", \"shape\": " shape ", \"data_offsets\": " offsets "}}"

static void headers_that_lie(void **state) {
    (void)state;
    const struct {
        const char *header, *message;
    } cases[] = {
        {T("\"F32\"", "[4]", "[0, 12]"), "tensor t: expected 16 bytes for its shape and dtype F32, found 12"},
        {T("\"F32\"", "[3]", "[0, 16]"), "tensor t: expected 12 bytes for its shape and dtype F32, found 16"},
        {T("\"F32\"", "[4]", "[4, 20]"), "a range within the 16 bytes of data, found [4, 20]"},
        {T("\"F32\"", "[4]", "[16, 0]"), "a range within the 16 bytes of data, found [16, 0]"},
        {T("\"F32\"", "[4]", "[9223372036854775807, 9223372036854775807]"), "a range within the 16 bytes"},
        {T("\"F32\"", "[4]", "[-16, 0]"), "data_offsets: expected two sizes of at least 0"},
        {T("\"F32\"", "[4]", "[0]"), "data_offsets: expected two sizes"},
        {T("\"F32\"", "[4]", "[0, 16, 16]"), "data_offsets: expected two sizes"},
        {T("\"F32\"", "[4]", "[0, 16.0]"), "data_offsets: expected two sizes"},
        {T("\"F32\"", "[4]", "\"all\""), "data_offsets: expected two sizes"},
        {T("\"F32\"", "[4]", "[0, 100000000000000000000]"), "found a real number"},
        {T("\"F32\"", "4", "[0, 16]"), "shape: expected an array of at most 8 sizes, found an integer"},
        {T("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0, 16]"), "at most 8 sizes, found a longer one"},
        {T("\"F32\"", "[-4]", "[0, 16]"), "shape: expected sizes of at least 0, found a negative one"},
        {T("\"F32\"", "[-2, -2]", "[0, 16]"), "found a negative one"},
        {T("\"F32\"", "[4.0]", "[0, 16]"), "shape: expected sizes of at least 0, found a real number"},
        {T("\"F32\"", "[null]", "[0, 16]"), "found null"},
        {T("\"F32\"", "[4294967296, 4294967296]", "[0, 0]"), "shape: its product is beyond 64 bits"},
        {T("\"F32\"", "[4611686018427387904]", "[0, 0]"), "shape: its product is beyond 64 bits"},
        {T("\"F4\"", "[4]", "[0, 16]"), "tensor t: dtype: expected one such as BF16, found \"F4\""},
        {T("32", "[4]", "[0, 16]"), "tensor t: dtype: expected a string, found an integer"},
        {"{\"t\": [1]}", "tensor t: expected an object, found an array"},
        {"{\"t\": {}}", "tensor t: dtype: expected a string, found nothing"},
        {"{}", "expected 0 bytes of data for its tensors, found 16"},
        {T("\"F32\"", "[3]", "[0, 12]"), "expected 12 bytes of data for its tensors, found 16"},
        {T("\"F32\"", "[3]", "[4, 16]"), "tensor t: expected to begin at byte 0 of the data"},
        {"[]", "expected an object, found an array"},
        {"", "not valid JSON"},
        {"{\"t\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]},"
         "\"u\": {\"dtype\": \"F32\", \"shape\": [3], \"data_offsets\": [4, 16]}}",
         "tensor u: expected to begin at byte 8 of the data, where the one before it ends, found 4"},
        {"{\"t\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
         "\"u\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 16]}}",
         "tensor u: expected to begin at byte 4 of the data, where the one before it ends, found 8"},
        {"{\"t\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]},"
         "\"t\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]}}",
         "duplicate"},
        {"{\"t\": {\"dtype\": \"F32\", \"shape\": "
         "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
         "nested more than 64 deep"},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_safetensors(scratch_path(&scratch, "model.safetensors"), cases[i].header, 16);
        refused(&scratch, cases[i].message);
        refused(&scratch, "model.safetensors: ");
    }
    scratch_destroy(&scratch);
}

static void files_cut_short(void **state) {
    (void)state;
    const char *header = T("\"F32\"", "[4]", "[0, 16]");
    struct scratch scratch;
    struct checkpoint checkpoint;
    struct error error;
    scratch_create(&scratch);
    const char *path = scratch_path(&scratch, "model.safetensors");
    size_t bytes;
    write_safetensors(path, header, 16);
    char *file = read_file(path, &bytes);
    for (size_t length = 0; length < bytes; length++) { // every length but the whole
        write_file(scratch_path(&scratch, "model.safetensors"), file, length);
        char message[128];
        size_t told = length < 8 + strlen(header) ? 8 + strlen(header) : bytes;
        snprintf(message, sizeof message, "the file ends too early: it has %zu bytes, and its header tells of %zu; ",
                 length, told);
        refused(&scratch, length < 8 ? "expected at least 8 bytes" : message);
    }
    write_file(scratch_path(&scratch, "model.safetensors"), file, bytes);
    assert_int_equal(safetensors_open(&checkpoint, scratch.dir, &error), 0);
    checkpoint_close(&checkpoint);

    uint64_t beyond = bytes - 8 + 1; // a header one byte longer than what is there
    char message[64];
    memcpy(file, &beyond, 8);
    write_file(scratch_path(&scratch, "model.safetensors"), file, bytes);
    snprintf(message, sizeof message, "it has %zu bytes, and its header tells of %zu;", bytes, bytes + 1);
    refused(&scratch, message);
    memcpy(file, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    write_file(scratch_path(&scratch, "model.safetensors"), file, bytes);
    refused(&scratch, "found a length of 18446744073709551615");
    free(file);
    scratch_destroy(&scratch);
}

// ---- Several files

#define INDEX(map) "{\"metadata\": {\"total_size\": 32}, \"weight_map\": " map "}"

static void write_index(const struct scratch *scratch, const char *text) {
    write_file(scratch_path(scratch, "model.safetensors.index.json"), text, strlen(text));
}

static void write_shards(const struct scratch *scratch) {
    write_safetensors(scratch_path(scratch, "one.safetensors"),
                      "{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]}}", 16);
    write_safetensors(scratch_path(scratch, "two.safetensors"),
                      "{\"b\": {\"dtype\": \"BF16\", \"shape\": [8], \"data_offsets\": [0, 16]}}", 16);
}

static void shards_of_an_index(void **state) {
    (void)state;
    struct scratch scratch;
    struct checkpoint checkpoint;
    struct error error;
    scratch_create(&scratch);
    refused(&scratch, "expected model.safetensors or model.safetensors.index.json, found neither");
    write_shards(&scratch);
    write_index(&scratch, INDEX("{\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}"));
    if (safetensors_open(&checkpoint, scratch.dir, &error)) fail_msg("%s", error.message);
    assert_int_equal(checkpoint.file_count, 2);
    assert_int_equal(checkpoint.tensor_count, 2);
    expect_text(checkpoint_find(&checkpoint, "a")->path, "/one.safetensors");
    expect_text(checkpoint_find(&checkpoint, "b")->path, "/two.safetensors");
    checkpoint_close(&checkpoint);

    write_safetensors(scratch_path(&scratch, "two.safetensors"),
                      "{\"a\": {\"dtype\": \"BF16\", \"shape\": [8], \"data_offsets\": [0, 16]}}", 16);
    refused(&scratch, "tensor a: expected in one file only, found in ");
    scratch_destroy(&scratch);
}

static void indexes_that_lie(void **state) {
    (void)state;
    const struct {
        const char *index, *message;
    } cases[] = {
        {INDEX("{\"a\": \"one.safetensors\", \"b\": \"one.safetensors\"}"),
         "tensor b: expected in one.safetensors, found in no"},
        {INDEX("{\"b\": \"one.safetensors\", \"a\": \"two.safetensors\"}"), "expected in "},
        {INDEX("{\"a\": \"one.safetensors\", \"b\": \"two.safetensors\", \"c\": \"two.safetensors\"}"),
         "tensor c: expected in two.safetensors, found in no file"},
        {INDEX("{\"a\": \"one.safetensors\", \"b\": \"three.safetensors\"}"), "three.safetensors: cannot be opened"},
        {INDEX("{\"a\": \"../one.safetensors\"}"), "a: expected a file name without a path, found ../one.safetensors"},
        {INDEX("{\"a\": \"/etc/passwd\"}"), "expected a file name without a path, found /etc/passwd"},
        {INDEX("{\"a\": \"x/one.safetensors\"}"), "expected a file name without a path"},
        {INDEX("{\"a\": \"x\\\\one.safetensors\"}"), "expected a file name without a path"},
        {INDEX("{\"a\": \"..\"}"), "expected a file name without a path, found .."},
        {INDEX("{\"a\": \".\"}"), "expected a file name without a path"},
        {INDEX("{\"a\": \"\"}"), "expected a file name without a path"},
        {INDEX("{\"a\": 1}"), "a: expected a file name without a path, found an integer"},
        {INDEX("{}"), "weight_map: expected at least one tensor"},
        {INDEX("[]"), "weight_map: expected an object, found an array"},
        {"{}", "weight_map: expected an object, found nothing"},
        {"[]", "expected an object, found an array"},
        {"", "not valid JSON"},
        {INDEX("{\"a\": \"one.safetensors\", \"a\": \"one.safetensors\"}"), "duplicate"},
    };
    struct scratch scratch;
    scratch_create(&scratch);
    write_shards(&scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_index(&scratch, cases[i].index);
        refused(&scratch, cases[i].message);
    }
    // A tensor that the index is silent about.
    write_safetensors(scratch_path(&scratch, "two.safetensors"),
                      "{\"b\": {\"dtype\": \"BF16\", \"shape\": [4], \"data_offsets\": [0, 8]},"
                      "\"c\": {\"dtype\": \"BF16\", \"shape\": [4], \"data_offsets\": [8, 16]}}", 16);
    write_index(&scratch, INDEX("{\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}"));
    refused(&scratch, "tensor c: found in ");
    scratch_destroy(&scratch);
}

static void an_index_of_too_many_files(void **state) {
    (void)state;
    struct scratch scratch;
    scratch_create(&scratch);
    char text[300 * 32] = "{\"weight_map\": {";
    size_t at = strlen(text);
    for (int i = 0; i < 257; i++) at += (size_t)snprintf(text + at, sizeof text - at, "\"%d\": \"f%d\",", i, i);
    memcpy(text + at - 1, "}}", 3);
    write_index(&scratch, text);
    refused(&scratch, "weight_map: expected at most 256 files");
    scratch_destroy(&scratch);
}

static void what_is_no_file(void **state) {
    (void)state;
    struct scratch scratch;
    scratch_create(&scratch);
    const char *path = scratch_path(&scratch, "model.safetensors");
    assert_int_equal(mkdir(path, 0700), 0);
    refused(&scratch, "model.safetensors: expected a regular file, found a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(&scratch, "model.safetensors: expected a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("model.safetensors", path), 0);
    refused(&scratch, "model.safetensors: cannot be opened: ");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0); // as a download that was not finished
    refused(&scratch, "expected model.safetensors or ");
    scratch_destroy(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_tensors_of_a_file), cmocka_unit_test(headers_that_lie),
        cmocka_unit_test(files_cut_short),       cmocka_unit_test(shards_of_an_index),
        cmocka_unit_test(indexes_that_lie),      cmocka_unit_test(an_index_of_too_many_files),
        cmocka_unit_test(what_is_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
