// Guesses that are looked up, against a search that is as simple as can be.
#include "engine/lookup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1200, GUESS_MAX = 12 };

static struct lookup *open_lookup(size_t capacity) {
    struct lookup *lookup = NULL;
    struct error error;
    assert_int_equal(lookup_create(&lookup, capacity, &error), 0);
    return lookup;
}

static void add_text(struct lookup *lookup, const char *text) {
    for (; *text; text++) lookup_add(lookup, *text);
}

static void expect_guess(struct lookup *lookup, const char *expected) {
    int32_t guess[GUESS_MAX];
    int count = lookup_guess(lookup, guess, (int)strlen(expected));
    assert_int_equal(count, strlen(expected));
    for (int i = 0; i < count; i++) assert_int_equal(guess[i], expected[i]);
}

static void what_followed_is_expected_again(void **state) {
    (void)state;
    struct lookup *lookup = open_lookup(100);
    int32_t guess[4];
    assert_int_equal(lookup_guess(lookup, guess, 4), 0); // of nothing
    add_text(lookup, "the cat sat. a ");
    assert_int_equal(lookup_guess(lookup, guess, 4), 0); // no pair stands there twice
    add_text(lookup, "ca");
    expect_guess(lookup, "t sat. a cat"); // and behind the end, what is guessed itself
    assert_int_equal(lookup->matched, 3); // with the space
    lookup_add(lookup, 't');
    assert_int_equal(lookup->matched, 4);
    expect_guess(lookup, " sat");
    lookup_add(lookup, 's'); // "cats": it was wrong, and nothing else matches
    assert_int_equal(lookup_guess(lookup, guess, 4), 0);
    lookup_destroy(lookup);
}

static void the_longest_match_wins_and_then_the_newest(void **state) {
    (void)state;
    struct lookup *lookup = open_lookup(100);
    add_text(lookup, "xabc1 yabc2 zbc3 xabc");
    expect_guess(lookup, "1 ya");
    lookup_destroy(lookup);
    lookup = open_lookup(100);
    add_text(lookup, "xabc1xabc2zbc3xabc");
    expect_guess(lookup, "2zb");
    lookup_destroy(lookup);
}

static void what_repeats_is_expected_to_go_on(void **state) {
    (void)state;
    struct lookup *lookup = open_lookup(100);
    add_text(lookup, "-=-=-");
    expect_guess(lookup, "=-=-=-=-");
    lookup_destroy(lookup);
}

static void an_expected_answer_is_guessed_from_its_beginning(void **state) {
    (void)state;
    struct lookup *lookup = open_lookup(100);
    add_text(lookup, "one two three");
    add_text(lookup, "?:");
    lookup_expect_beginning(lookup);
    expect_guess(lookup, "one two");
    add_text(lookup, "one ");
    expect_guess(lookup, "two thre");
    add_text(lookup, "2 "); // something else …
    add_text(lookup, "th"); // … and back
    expect_guess(lookup, "ree");
    lookup_destroy(lookup);
}

// The longest match of at least LOOKUP_MATCH_MIN and at most LOOKUP_MATCH_MAX, however it is found.
static int longest_match(const int32_t *text, int count) {
    int best = 0;
    for (int end = 1; end < count; end++) {
        int matched = 0;
        while (matched < end && matched < LOOKUP_MATCH_MAX && text[end - 1 - matched] == text[count - 1 - matched])
            matched++;
        if (matched > best) best = matched;
    }
    return best >= LOOKUP_MATCH_MIN ? best : 0;
}

// Random texts of few letters, so that all lengths of matches occur: guesses are asked for now and then only. What is
// guessed did follow as long a match as there is, as far as a search may look.
static void as_a_simple_search_finds(void **state) {
    (void)state;
    static int32_t text[TEXT_MAX];
    srandom(1);
    for (int letters = 3; letters <= 60; letters += 19) {
        struct lookup *lookup = open_lookup(TEXT_MAX);
        int found = 0, guessed = 0;
        for (int count = 1; count <= TEXT_MAX; count++) {
            text[count - 1] = count > 50 && random() % 4 ? text[count - 1 - 37] : (int32_t)(random() % letters);
            lookup_add(lookup, text[count - 1]);
            int32_t guess;
            int longest = longest_match(text, count);
            if (random() % 3) continue;
            found += longest > 0;
            bool few_places = letters > 20; // so that a search sees all places
            if (!lookup_guess(lookup, &guess, 1)) {
                if (few_places) assert_int_equal(longest, 0);
                continue;
            }
            guessed++;
            int at = (int)lookup->source, matched = lookup->matched;
            assert_true(at < count && matched >= LOOKUP_MATCH_MIN);
            assert_int_equal(guess, text[at]);
            if (matched > at) matched = at;
            assert_memory_equal(text + at - matched, text + count - matched, (size_t)matched * sizeof *text);
            if (few_places) assert_true(lookup->matched >= longest);
        }
        assert_true(guessed > 100 && guessed <= found);
        lookup_destroy(lookup);
    }
}

static void too_large_a_text_is_refused(void **state) {
    (void)state;
    struct lookup *lookup = NULL;
    struct error error;
    assert_int_equal(lookup_create(&lookup, (size_t)INT32_MAX, &error), ERROR_MEMORY);
    assert_null(lookup);
    lookup_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_followed_is_expected_again),
        cmocka_unit_test(the_longest_match_wins_and_then_the_newest),
        cmocka_unit_test(what_repeats_is_expected_to_go_on),
        cmocka_unit_test(an_expected_answer_is_guessed_from_its_beginning),
        cmocka_unit_test(as_a_simple_search_finds),
        cmocka_unit_test(too_large_a_text_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
