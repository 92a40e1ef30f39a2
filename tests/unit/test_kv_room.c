// Which KV cache fits: numbers that can be checked by hand.
#include "engine/kv_room.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define GIB ((size_t)1 << 30)
#define SPARE (GIB / 2)

// Phi-tiny-MoE's: 128 KiB a token, 4 MiB a page of 32 tokens, 512 MiB a context.
static struct kv_room tiny(size_t free_bytes) {
    return (struct kv_room){.free_bytes = free_bytes,
                            .weight_bytes = 7 * GIB,
                            .page_bytes = (size_t)4 << 20,
                            .context_tokens = 4096,
                            .sequences = 16};
}

static void expect(size_t free_bytes, size_t standard, size_t most) {
    struct kv_room room = tiny(free_bytes);
    assert_int_equal(kv_room_standard(&room), standard);
    assert_int_equal(kv_room_most(&room), most);
}

static void test_sizes(void **state) {
    (void)state;
    expect(64 * GIB, 16 * 4096, (57 * GIB - SPARE) / (128 << 10));                 // all contexts, and room for more
    expect(7 * GIB + SPARE + 8 * GIB, 8 * 4096, 16 * 4096);                        // half of what is left
    expect(7 * GIB + SPARE + 3 * GIB / 2, 3 * 4096 / 2, 3 * 4096);                 // one and a half
    expect(7 * GIB + SPARE + GIB / 2, 4096, 4096); // half would be less than one context
    expect(7 * GIB + SPARE + GIB / 2 + (7 << 20), 4096, 4096 + 32);                // whole pages only
    expect(7 * GIB + SPARE, 4096, 4096);                                           // nothing is left: one all the same
    expect(4 * GIB, 4096, 4096);                                                   // not even the weights fit
    expect(GIB, 2048, 2048);                                                       // a context is more than a quarter
    expect(1, 32, 32);                                                             // a page at least
    expect(0, 4096, SIZE_MAX);                                                     // unknown
}

static void test_extremes(void **state) {
    (void)state;
    struct kv_room room = tiny(SIZE_MAX);
    room.weight_bytes = SIZE_MAX;
    assert_int_equal(kv_room_standard(&room), 4096);
    room.weight_bytes = 0;
    room.context_tokens = SIZE_MAX / 2;
    assert_int_equal(kv_room_standard(&room), kv_room_most(&room) / 2 / 32 * 32);
    room = tiny(64 * GIB);
    room.context_tokens = 100; // four pages
    room.sequences = 3;
    assert_int_equal(kv_room_standard(&room), 3 * 128);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
