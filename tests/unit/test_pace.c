// The pace of the line, under a clock that is told.
#include "engine/pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

static void expect_about(double value, double expected) {
    if (fabs(value - expected) > 0.02 * expected) fail_msg("%g instead of about %g", value, expected);
}

// Ten run at once and end together every 20 s, or one by one every 2 s: that is the same pace, whenever one looks.
static void ends_are_counted_whenever_they_come(void **state) {
    (void)state;
    struct pace together = {0}, one_by_one = {0};
    double now = 1000;
    pace_begins(&together, now);
    pace_begins(&one_by_one, now);
    for (int round = 0; round < 30; round++)
        for (int i = 0; i < 10; i++) {
            now += 2;
            pace_ends(&one_by_one, now);
            for (int end = 0; i == 9 && end < 10; end++) pace_ends(&together, now);
        }
    expect_about(pace_sends_away(&one_by_one, true, 5, now), 2);
    double said = pace_sends_away(&together, true, 5, now + 19); // shortly before the next ones end
    assert_true(said > 1.4 && said < 2.9);
}

// Four are sent away while three wait: they come back one after the other, the last two together.
static void those_outside_stand_in_line(void **state) {
    (void)state;
    struct pace pace = {0};
    pace_begins(&pace, 0);
    for (int i = 1; i <= 100; i++) pace_ends(&pace, 3 * i);
    for (int i = 1; i <= 4; i++) expect_about(pace_sends_away(&pace, true, 3, 300), 3 * (i < 3 ? i : 3));
    pace_lets_in(&pace);
    pace_lets_in(&pace);
    expect_about(pace_sends_away(&pace, true, 3, 300), 3 * 2);
    for (int i = 0; i < 10; i++) pace_lets_in(&pace);
    expect_about(pace_sends_away(&pace, true, 3, 300), 3);
    expect_about(pace_sends_away(&pace, true, 0, 300), 3); // nobody waits, and yet there is no room
}

static void it_follows_what_happens(void **state) {
    (void)state;
    struct pace pace = {0};
    pace_begins(&pace, 50);
    expect_about(pace_sends_away(&pace, true, 1, 50), 1); // nothing is known
    pace.outside = 0;
    expect_about(pace_sends_away(&pace, true, 1, 54), 4); // nobody has ended yet: so far it takes this long
    double now = 50;
    for (int i = 0; i < 100; i++) pace_ends(&pace, now += 1);
    for (int i = 0; i < 150; i++) pace_ends(&pace, now += 5);
    pace.outside = 0;
    expect_about(pace_sends_away(&pace, true, 1, now), 5);
    pace.outside = 0;
    assert_true(pace_sends_away(&pace, true, 1, now + 1000) > 20); // the next one is very late
    pace.outside = 0;
    expect_about(pace_sends_away(&pace, false, 1, now + 1000), 5); // but a pause in which nobody ran does not count
    pace_begins(&pace, now + 1000);
    pace.outside = 0;
    expect_about(pace_sends_away(&pace, true, 1, now + 1000), 5);
}

static void it_has_bounds(void **state) {
    (void)state;
    struct pace pace = {0};
    assert_true(pace_sends_away(&pace, false, 10, 1e6) == PACE_UNKNOWN_SECONDS); // nothing is known at all
    pace.outside = 0;
    pace_begins(&pace, 0);
    pace_ends(&pace, 1e-6);
    assert_true(pace_sends_away(&pace, true, 10, 1e-6) == PACE_RETRY_SECONDS_MIN);
    pace = (struct pace){0};
    pace_begins(&pace, 0);
    pace_ends(&pace, 1e6);
    assert_true(pace_sends_away(&pace, true, 10, 1e6) == PACE_RETRY_SECONDS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_are_counted_whenever_they_come),
        cmocka_unit_test(those_outside_stand_in_line),
        cmocka_unit_test(it_follows_what_happens),
        cmocka_unit_test(it_has_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
