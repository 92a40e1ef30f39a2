// The bytes of a stream between the engine and the socket: all of them, once, in order, in whatever pieces they come
// and go; and when there are too many of them.
#include "server/stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void add(struct stream *stream, size_t bytes, size_t *added) {
    for (size_t i = 0; i < bytes; i++) {
        char c = (char)((*added)++ % 251);
        assert_true(buffer_append(&stream->out, &c, 1));
    }
}

static void take(struct stream *stream, size_t bytes, size_t *taken) {
    static char out[4 * STREAM_BYTES_MAX];
    size_t there = stream_bytes(stream), got = stream_read(stream, out, bytes, 7);
    assert_int_equal(got, there < bytes ? there : bytes);
    for (size_t i = 0; i < got; i++) assert_int_equal((unsigned char)out[i], (*taken)++ % 251);
}

static void test_in_order(void **state) {
    (void)state;
    static const size_t sizes[] = {1, STREAM_BYTES_MAX - 1, STREAM_BYTES_MAX, STREAM_BYTES_MAX + 1, 17};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    for (size_t in = 0; in < SIZES; in++)
        for (size_t out = 0; out < SIZES; out++) {
            struct stream stream;
            size_t added = 0, taken = 0;
            stream_init(&stream, 0);
            for (int i = 0; i < 3; i++) {
                add(&stream, sizes[in] + 3, &added);
                take(&stream, sizes[out], &taken);
                take(&stream, sizes[(out + 1) % SIZES], &taken);
            }
            while (stream_bytes(&stream) > 0) take(&stream, sizes[out] + 1000, &taken);
            assert_int_equal(taken, added);
            assert_int_equal(stream.sent_ms, 7);
            stream_finish(&stream);
        }
}

static void test_bounds(void **state) {
    (void)state;
    struct stream stream;
    size_t added = 0, taken = 0;
    stream_init(&stream, 0);
    add(&stream, STREAM_BYTES_MAX - 1, &added);
    assert_false(stream_full(&stream) || stream_has_room(&stream));
    add(&stream, 1, &added);
    assert_true(stream_full(&stream));
    take(&stream, STREAM_BYTES_MAX / 2, &taken);
    assert_false(stream_full(&stream) || stream_has_room(&stream));
    take(&stream, 1, &taken);
    assert_true(stream_has_room(&stream));
    assert_int_equal(stream_read(&stream, NULL, 0, 9), 0);
    stream_finish(&stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
