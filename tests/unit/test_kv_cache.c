// The pool of KV pages: everything is given once, comes back once, and belongs to one owner at a time.
#include "engine/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct kv_cache open_cache(int pages) {
    struct kv_cache cache;
    struct error error;
    assert_int_equal(kv_cache_init(&cache, KV_F32, 2, 3, 4, pages, &error), 0);
    return cache;
}

static void pages_are_counted(void **state) {
    (void)state;
    assert_int_equal(kv_cache_pages_for(0), 0);
    assert_int_equal(kv_cache_pages_for(1), 1);
    assert_int_equal(kv_cache_pages_for(KV_PAGE_TOKENS), 1);
    assert_int_equal(kv_cache_pages_for(KV_PAGE_TOKENS + 1), 2);
    assert_int_equal(kv_cache_page_bytes(KV_F32, 2, 3, 4), 2 * 2 * 3 * 4 * KV_PAGE_TOKENS * sizeof(float));
    assert_int_equal(kv_cache_page_bytes(KV_F16, 2, 3, 4), 2 * 2 * 3 * 4 * KV_PAGE_TOKENS * 2);
    assert_int_equal(kv_cache_page_bytes(KV_INT8, 2, 3, 4), 2 * 2 * 3 * (4 + sizeof(float)) * KV_PAGE_TOKENS);
    assert_int_equal(kv_cache_page_bytes(KV_F16, 0, 3, 4), 0);
    for (int format = 0; format < KV_FORMAT_COUNT; format++)
        assert_int_equal(kv_cache_page_bytes((enum kv_format)format, INT_MAX, INT_MAX, INT_MAX), 0);
}

static void every_page_once(void **state) {
    (void)state;
    enum { PAGES = 40 };
    struct kv_cache cache = open_cache(PAGES);
    for (int round = 0; round < 3; round++) {
        bool seen[PAGES] = {false};
        int32_t pages[PAGES];
        for (int i = 0; i < PAGES; i++) {
            pages[i] = kv_cache_take(&cache);
            assert_in_range(pages[i], 0, PAGES - 1);
            assert_false(seen[pages[i]]);
            seen[pages[i]] = true;
            assert_int_equal(cache.pages_used, i + 1);
        }
        assert_int_equal(kv_cache_take(&cache), -1);
        for (int i = 0; i < PAGES; i++) // in another order each round
            assert_true(kv_cache_give(&cache, pages[(i * 7 + round) % PAGES]));
        assert_int_equal(cache.pages_used, 0);
    }
    kv_cache_finish(&cache);
}

static void a_page_comes_back_once(void **state) {
    (void)state;
    struct kv_cache cache = open_cache(4);
    int32_t first = kv_cache_take(&cache), second = kv_cache_take(&cache);
    assert_true(kv_cache_give(&cache, first));
    assert_false(kv_cache_give(&cache, first));
    assert_false(kv_cache_give(&cache, -1));
    assert_false(kv_cache_give(&cache, 4));
    assert_false(kv_cache_give(&cache, INT32_MIN));
    assert_false(kv_cache_give(&cache, 3)); // never taken
    assert_int_equal(cache.pages_used, 1);
    assert_int_equal(kv_cache_take(&cache), first); // the warm one again
    assert_true(kv_cache_give(&cache, second));
    kv_cache_finish(&cache);
}

// Random takes and gives against a plain model of who holds what.
static void random_use_agrees_with_a_model(void **state) {
    (void)state;
    enum { PAGES = 33 };
    struct kv_cache cache = open_cache(PAGES);
    bool held[PAGES] = {false};
    int count = 0;
    srandom(1);
    for (int i = 0; i < 200000; i++) {
        if (random() % 2) {
            int32_t page = kv_cache_take(&cache);
            if (count == PAGES) {
                assert_int_equal(page, -1);
                continue;
            }
            assert_in_range(page, 0, PAGES - 1);
            assert_false(held[page]);
            held[page] = true;
            count++;
        } else {
            int32_t page = (int32_t)(random() % (PAGES + 2)) - 1;
            bool expected = page >= 0 && page < PAGES && held[page];
            assert_int_equal(kv_cache_give(&cache, page), expected);
            if (!expected) continue;
            held[page] = false;
            count--;
        }
        assert_int_equal(cache.pages_used, count);
    }
    kv_cache_finish(&cache);
}

// Blocks do not overlap and fill the pool exactly.
static void blocks_are_disjoint(void **state) {
    (void)state;
    enum { PAGES = 5, BLOCK = KV_PAGE_TOKENS * 4 };
    struct kv_cache cache = open_cache(PAGES);
    assert_int_equal(cache.data_bytes, PAGES * kv_cache_page_bytes(KV_F32, 2, 3, 4));
    const float *data = (const float *)(const void *)cache.data;
    for (size_t i = 0; i < cache.data_bytes / sizeof(float); i++) assert_true(data[i] == 0);

    float mark = 0;
    for (int layer = 0; layer < 2; layer++)
        for (int page = 0; page < PAGES; page++)
            for (int part = 0; part < 2; part++)
                for (int head = 0; head < 3; head++) {
                    float *block = kv_cache_block(&cache, layer, page, part, head);
                    mark++;
                    for (int i = 0; i < BLOCK; i++) {
                        assert_true(block[i] == 0); // nobody was here
                        block[i] = mark;
                    }
                }
    for (size_t i = 0; i < cache.data_bytes / sizeof(float); i++) assert_true(data[i] != 0);
    kv_cache_finish(&cache);
    kv_cache_finish(&cache); // one that is all zeros
}

// What is put into a place comes out of it as the format rounds, and nowhere else; what is not finite is noticed.
static void values_come_back(void **state) {
    (void)state;
    static const double ROUNDING[KV_FORMAT_COUNT] = {[KV_F32] = 0, [KV_F16] = 0x1p-11, [KV_INT8] = 0.5001 / 127};
    for (int format = 0; format < KV_FORMAT_COUNT; format++) {
        struct kv_cache cache;
        struct error error;
        assert_int_equal(kv_cache_init(&cache, (enum kv_format)format, 1, 1, 6, 1, &error), 0);
        void *keys = kv_cache_block(&cache, 0, 0, 0, 0), *values = kv_cache_block(&cache, 0, 0, 1, 0);
        const float x[6] = {0.75f, -3, 0.001f, 2.2f, -0.3f, 0}, odd[6] = {1, 2, NAN, 4, 5, 6}, none[6] = {0};
        float found[6];
        kv_cache_put(&cache, keys, 31, x);
        kv_cache_put(&cache, values, 0, odd);
        kv_cache_get(&cache, keys, 31, found);
        for (int i = 0; i < 6; i++) assert_true(fabs((double)(found[i] - x[i])) <= 3 * ROUNDING[format]);
        kv_cache_get(&cache, keys, 30, found);
        assert_memory_equal(found, none, sizeof none);
        kv_cache_get(&cache, values, 0, found);
        assert_true(isnan(found[2]));
        kv_cache_finish(&cache);
    }
    enum kv_format format;
    assert_true(kv_format_parse("int8", &format) && format == KV_INT8);
    assert_false(kv_format_parse("f64", &format));
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    struct kv_cache cache;
    struct error error;
    assert_int_equal(kv_cache_init(&cache, KV_F32, 2, 3, 4, 0, &error), ERROR_ARGUMENT);
    assert_int_equal(kv_cache_init(&cache, KV_F32, 2, 3, -4, 1, &error), ERROR_ARGUMENT);
    assert_int_equal(kv_cache_init(&cache, KV_F32, INT_MAX, INT_MAX, INT_MAX, INT_MAX, &error), ERROR_ARGUMENT);
    assert_int_equal(kv_cache_init(&cache, KV_F32, 1 << 20, 1 << 10, 1 << 10, 1 << 14, &error),
                     ERROR_MEMORY); // 2^62 bytes
    assert_non_null(strstr(error.message, "16384 pages"));
    kv_cache_finish(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_counted),      cmocka_unit_test(every_page_once),
        cmocka_unit_test(a_page_comes_back_once), cmocka_unit_test(random_use_agrees_with_a_model),
        cmocka_unit_test(blocks_are_disjoint),    cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(values_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
