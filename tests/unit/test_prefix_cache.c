// The prefix cache: pages are found for exactly the tokens that they hold, are given away in order when none is free,
// and never while somebody holds them.
#include "engine/prefix_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { PAGE = KV_PAGE_TOKENS };

enum { NO_SALT = 0, SEED = 1 };

struct setting {
    struct kv_cache pool;
    struct prefix_cache cache;
};

static void open_setting(struct setting *s, int pages) {
    struct error error;
    assert_int_equal(kv_cache_init(&s->pool, KV_F16, 2, 1, 2, pages, &error), 0);
    assert_int_equal(prefix_cache_init(&s->cache, &s->pool, true, SEED, &error), 0);
}

static void close_setting(struct setting *s) {
    prefix_forget(&s->cache);
    assert_int_equal(s->pool.pages_used, 0);
    prefix_cache_finish(&s->cache);
    prefix_cache_finish(&s->cache); // one that is all zeros
    kv_cache_finish(&s->pool);
}

// Tokens of a page: `first`, then counting up.
static const int32_t *tokens_from(int32_t first) {
    static int32_t tokens[4][PAGE];
    static int next;
    int32_t *out = tokens[next++ % 4];
    for (int i = 0; i < PAGE; i++) out[i] = first + i;
    return out;
}

// A page of its own for these tokens, kept.
static int32_t keep(struct setting *s, uint64_t salt, int32_t parent, int32_t first, int count) {
    int32_t page = prefix_take(&s->cache);
    assert_true(page >= 0);
    assert_int_equal(prefix_keep(&s->cache, salt, parent, page, tokens_from(first), count), page);
    return page;
}

static void what_was_kept_is_found(void **state) {
    (void)state;
    struct setting s;
    open_setting(&s, 8);
    int32_t a = keep(&s, NO_SALT, -1, 100, PAGE), b = keep(&s, NO_SALT, a, 200, PAGE);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(100)), a);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, a, tokens_from(200)), b);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(200)), -1); // behind another page
    assert_int_equal(prefix_find(&s.cache, NO_SALT, b, tokens_from(100)), -1);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, a, tokens_from(201)), -1);
    int32_t last_differs[PAGE];
    memcpy(last_differs, tokens_from(100), sizeof last_differs);
    last_differs[PAGE - 1]++;
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, last_differs), -1);

    prefix_give(&s.cache, b); // found after its owner has gone too
    prefix_give(&s.cache, a);
    assert_int_equal(s.cache.idle, 2);
    assert_int_equal(prefix_available(&s.cache), 8);
    assert_int_equal(prefix_held(&s.cache), 0);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, a, tokens_from(200)), b);
    prefix_hold(&s.cache, a);
    prefix_hold(&s.cache, a);
    assert_int_equal(prefix_available(&s.cache), 7);
    prefix_give(&s.cache, a);
    assert_int_equal(prefix_held(&s.cache), 1);
    prefix_give(&s.cache, a);
    assert_int_equal(prefix_held(&s.cache), 0);
    close_setting(&s);
}

static void salts_keep_apart(void **state) {
    (void)state;
    struct setting s;
    open_setting(&s, 8);
    const uint64_t salts[] = {0, 1, 2, UINT64_C(1) << 40};
    int32_t pages[4], behind[4];
    for (int i = 0; i < 4; i++) pages[i] = keep(&s, salts[i], -1, 100, PAGE);
    for (int i = 0; i < 4; i++) behind[i] = keep(&s, salts[i], pages[i], 200, 20);
    for (int i = 0; i < 4; i++) {
        int same;
        assert_int_equal(prefix_find(&s.cache, salts[i], -1, tokens_from(100)), pages[i]);
        assert_int_equal(prefix_find_part(&s.cache, salts[i], pages[i], tokens_from(200), 12, &same), behind[i]);
        assert_int_equal(prefix_find_part(&s.cache, salts[i], -1, tokens_from(100), 31, &same), pages[i]);
    }
    const uint64_t other = UINT64_MAX;
    assert_int_equal(prefix_find(&s.cache, other, -1, tokens_from(100)), -1);
    for (int i = 0; i < 4; i++) prefix_give(&s.cache, behind[i]);
    for (int i = 0; i < 4; i++) prefix_give(&s.cache, pages[i]);
    close_setting(&s);
}

static void the_longest_part_is_found(void **state) {
    (void)state;
    struct setting s;
    open_setting(&s, 8);
    int32_t a = keep(&s, NO_SALT, -1, 0, PAGE), part = keep(&s, NO_SALT, a, 100, 20);
    int32_t whole = keep(&s, NO_SALT, a, 300, PAGE);
    int same;
    assert_int_equal(prefix_find(&s.cache, NO_SALT, a, tokens_from(100)), -1); // it is no whole one
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, tokens_from(100), 31, &same), part);
    assert_int_equal(same, 20);
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, tokens_from(100), 15, &same), part);
    assert_int_equal(same, 15);
    int32_t differs[PAGE];
    memcpy(differs, tokens_from(300), sizeof differs);
    differs[25] = -1;
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, differs, 31, &same), whole);
    assert_int_equal(same, 25);
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, tokens_from(300), PREFIX_PART_TOKENS_MIN, &same), whole);
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, tokens_from(300), PREFIX_PART_TOKENS_MIN - 1, &same), -1);
    differs[3] = -1;
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, differs, 31, &same), -1);

    // A part that is known already is not kept twice; one that has grown is the same page's.
    int32_t own = prefix_take(&s.cache);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, own, tokens_from(100), 20), -1);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, own, tokens_from(100), 7), -1);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, part, tokens_from(100), 30), part);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, part, tokens_from(100), PAGE), part);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, a, tokens_from(100)), part);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, own, tokens_from(100), PAGE), part); // that one stands for it
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, own, part, tokens_from(0), PAGE), -1);  // behind one not kept
    prefix_give(&s.cache, own);
    assert_int_equal(s.pool.pages_used, 3); // nobody knows it: it is free
    prefix_give(&s.cache, whole);
    prefix_give(&s.cache, part);
    prefix_give(&s.cache, a);
    close_setting(&s);
}

static void the_longest_unused_goes_first(void **state) {
    (void)state;
    struct setting s;
    open_setting(&s, 4);
    int32_t a = keep(&s, NO_SALT, -1, 0, PAGE), b = keep(&s, NO_SALT, a, 100, PAGE);
    int32_t c = keep(&s, NO_SALT, -1, 500, PAGE), d = keep(&s, NO_SALT, c, 600, 10);
    assert_int_equal(prefix_take(&s.cache), -1); // all are held
    prefix_give(&s.cache, b);
    prefix_give(&s.cache, a);
    prefix_give(&s.cache, d);
    prefix_give(&s.cache, c);
    prefix_hold(&s.cache, a); // used once more: the newest now
    prefix_hold(&s.cache, b);
    prefix_give(&s.cache, b);
    prefix_give(&s.cache, a);
    assert_int_equal(prefix_take(&s.cache), d);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(500)), c);
    assert_int_equal(prefix_take(&s.cache), c);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(500)), -1);
    assert_int_equal(prefix_take(&s.cache), b);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(0)), a);
    assert_int_equal(prefix_take(&s.cache), a);
    assert_int_equal(prefix_take(&s.cache), -1);
    for (int32_t page = 0; page < 4; page++) prefix_give(&s.cache, page);
    assert_int_equal(s.cache.idle, 0);
    close_setting(&s);
}

static void all_can_be_forgotten(void **state) {
    (void)state;
    struct setting s;
    open_setting(&s, 6);
    int32_t a = keep(&s, NO_SALT, -1, 0, PAGE), b = keep(&s, NO_SALT, a, 100, PAGE), c = keep(&s, NO_SALT, -1, 7, 9);
    prefix_give(&s.cache, c);
    prefix_give(&s.cache, b);
    prefix_forget(&s.cache);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(0)), -1);
    assert_int_equal(s.pool.pages_used, 1); // a is held still
    int same;
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, a, tokens_from(100), 20, &same), -1); // and b not behind it
    b = prefix_take(&s.cache);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, a, b, tokens_from(100), PAGE), -1);
    prefix_give(&s.cache, b);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, -1, a, tokens_from(0), PAGE), a); // and may be known again
    prefix_give(&s.cache, a);
    assert_int_equal(s.cache.idle, 1);
    close_setting(&s);
}

static void nothing_is_kept_when_off(void **state) {
    (void)state;
    struct setting s;
    struct error error;
    int same;
    assert_int_equal(kv_cache_init(&s.pool, KV_F16, 1, 1, 2, 4, &error), 0);
    assert_int_equal(prefix_cache_init(&s.cache, &s.pool, false, SEED, &error), 0);
    int32_t a = prefix_take(&s.cache);
    assert_int_equal(prefix_keep(&s.cache, NO_SALT, -1, a, tokens_from(0), PAGE), -1);
    assert_int_equal(prefix_find(&s.cache, NO_SALT, -1, tokens_from(0)), -1);
    assert_int_equal(prefix_find_part(&s.cache, NO_SALT, -1, tokens_from(0), 20, &same), -1);
    prefix_give(&s.cache, a);
    close_setting(&s);
}

// The bucket of a page that begins a text; the only one kept.
static uint32_t bucket_of_page(struct setting *s, int32_t first) {
    prefix_give(&s->cache, keep(s, NO_SALT, -1, first, PAGE));
    uint32_t bucket = 0;
    while (s->cache.buckets[bucket] < 0) bucket++;
    prefix_forget(&s->cache);
    return bucket;
}

// Pages chosen to share a bucket under one seed are spread out under another.
static void buckets_can_not_be_aimed_at(void **state) {
    (void)state;
    enum { BUCKETS = 64, AIMED = 32 };
    struct setting known, other;
    struct error error;
    open_setting(&known, BUCKETS);
    open_setting(&other, BUCKETS);
    prefix_cache_finish(&other.cache);
    assert_int_equal(prefix_cache_init(&other.cache, &other.pool, true, SEED + 1, &error), 0);
    assert_int_equal(known.cache.bucket_count, BUCKETS);
    int count[BUCKETS] = {0}, aimed = 0;
    for (int32_t first = 0; aimed < AIMED; first += PAGE) {
        assert_true(first < 100 * AIMED * BUCKETS * PAGE);
        if (bucket_of_page(&known, first) != 7) continue;
        aimed++;
        assert_true(++count[bucket_of_page(&other, first)] < AIMED / 4);
    }
    close_setting(&known);
    close_setting(&other);
}

// ---- Random use against a plain model: what was written to each page by whoever took it

enum { PAGES = 24, USERS = 6, LENGTH_MAX = 7 * PAGE };

struct user {
    bool live;
    int salt;
    int32_t tokens[LENGTH_MAX];
    int length, computed, kept;
    int32_t pages[LENGTH_MAX / PAGE + 1];
    int page_count;
};

struct page_model {
    int32_t tokens[PAGE];
    int written;
};

// Few letters, and repetitions, so that much is alike.
static void arrive(struct user *user) {
    *user = (struct user){.live = true, .salt = (int)random() % 3, .length = 1 + (int)random() % LENGTH_MAX};
    int32_t letter = 0;
    for (int i = 0; i < user->length; i++) {
        if (random() % 40 == 0) letter = (int32_t)random() % 2;
        user->tokens[i] = letter;
    }
}

static int32_t before(const struct user *user, int at) {
    return at > 0 ? user->pages[at - 1] : -1;
}

// As a sequence does: hold, copy, then compute what is left, keeping it.
static bool advance(struct prefix_cache *cache, struct page_model *written, struct user *user) {
    uint64_t salt = (uint64_t)user->salt;
    int32_t page;
    while (user->computed == user->page_count * PAGE && user->kept == user->page_count &&
           user->computed + PAGE <= user->length &&
           (page = prefix_find(cache, salt, before(user, user->page_count), user->tokens + user->computed)) >= 0) {
        assert_int_equal(written[page].written, PAGE);
        assert_memory_equal(written[page].tokens, user->tokens + user->computed, sizeof written[page].tokens);
        prefix_hold(cache, page);
        user->pages[user->page_count++] = page;
        user->kept++;
        user->computed += PAGE;
    }
    int same = 0, left = user->length - user->computed;
    int32_t from = -1;
    if (user->computed == user->page_count * PAGE && user->kept == user->page_count && left > 0)
        from = prefix_find_part(cache, salt, before(user, user->page_count), user->tokens + user->computed,
                                left < PAGE ? left : PAGE, &same);
    if (from >= 0) {
        assert_true(written[from].written >= same);
        assert_memory_equal(written[from].tokens, user->tokens + user->computed, (size_t)same * sizeof(int32_t));
    }
    if (user->computed == user->length) return true;
    if (user->computed == user->page_count * PAGE) {
        if ((page = prefix_take(cache)) < 0) return false;
        written[page].written = 0;
        user->pages[user->page_count++] = page;
    }
    page = user->pages[user->page_count - 1];
    written[page].tokens[written[page].written++] = user->tokens[user->computed++];
    int count = written[page].written;
    if (count < PAGE && user->computed < user->length) return true;
    if (user->kept != user->page_count - 1) return true;
    int32_t known = prefix_keep(cache, salt, before(user, user->kept), page, user->tokens + user->kept * PAGE, count);
    if (known < 0 || count < PAGE) return true;
    if (known != page) {
        prefix_hold(cache, known);
        prefix_give(cache, page);
        user->pages[user->kept] = known;
    }
    user->kept++;
    return true;
}

static void leave(struct prefix_cache *cache, struct user *user) {
    while (user->page_count > 0) prefix_give(cache, user->pages[--user->page_count]);
    user->live = false;
}

static void check_counts(const struct prefix_cache *cache, const struct user *users) {
    int holders[PAGES] = {0}, held = 0, idle = 0;
    for (int u = 0; u < USERS; u++)
        for (int i = 0; i < users[u].page_count; i++) holders[users[u].pages[i]]++;
    for (int page = 0; page < PAGES; page++) {
        held += holders[page] > 0;
        idle += holders[page] == 0 && cache->pages[page].kept;
        if (holders[page] > 0 || cache->pages[page].kept) assert_int_equal(cache->pages[page].holders, holders[page]);
        assert_int_equal(cache->pool->taken[page], holders[page] > 0 || cache->pages[page].kept);
    }
    assert_int_equal(prefix_held(cache), held);
    assert_int_equal(cache->idle, idle);
    assert_int_equal(prefix_available(cache), PAGES - held);
}

static void random_use_agrees_with_a_model(void **state) {
    (void)state;
    srandom(3);
    for (int scenario = 0; scenario < 60; scenario++) {
        struct setting s;
        static struct user users[USERS];
        struct page_model written[PAGES] = {0};
        memset(users, 0, sizeof users);
        open_setting(&s, PAGES);
        for (int step = 0; step < 20000; step++) {
            struct user *user = &users[random() % USERS];
            if (!user->live)
                arrive(user);
            else if (random() % 300 == 0 || !advance(&s.cache, written, user))
                leave(&s.cache, user); // it also frees what the others need
            else if (user->computed == user->length && random() % 20 == 0)
                leave(&s.cache, user);
            if (step % 2000 == 1999) prefix_forget(&s.cache);
            if (step % 64 == 0) check_counts(&s.cache, users);
            for (int i = 0; i < user->page_count; i++) { // what it holds is what it has computed, to the last token
                int count = user->computed - i * PAGE < PAGE ? user->computed - i * PAGE : PAGE;
                assert_memory_equal(written[user->pages[i]].tokens, user->tokens + i * PAGE,
                                    (size_t)count * sizeof(int32_t));
            }
        }
        for (int u = 0; u < USERS; u++) leave(&s.cache, &users[u]);
        check_counts(&s.cache, users);
        assert_int_equal(prefix_held(&s.cache), 0);
        close_setting(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_kept_is_found),      cmocka_unit_test(salts_keep_apart),
        cmocka_unit_test(the_longest_part_is_found),   cmocka_unit_test(the_longest_unused_goes_first),
        cmocka_unit_test(all_can_be_forgotten),        cmocka_unit_test(nothing_is_kept_when_off),
        cmocka_unit_test(buckets_can_not_be_aimed_at), cmocka_unit_test(random_use_agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
