// Who may use the memory bus, by a clock of the test's.
#include "engine/bandwidth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void close_to(double found, double expected) {
    if (!(found - expected < 1e-9 && expected - found < 1e-9)) fail_msg("expected %.9f, found %.9f", expected, found);
}

// 100 bytes a second throughout; what is not known to be shared is not shared.
static struct bandwidth bus_of(double rate) {
    struct bandwidth bus;
    bandwidth_init(&bus, rate);
    return bus;
}

static void nobody_waits_alone(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    for (int i = 0; i < 10; i++) close_to(bandwidth_ask(&bus, 0, 1000), 0);
    bus = bus_of(0); // how much it gives is not known
    bandwidth_begin(&bus, 0, 1000, 1);
    for (int i = 0; i < 10; i++) close_to(bandwidth_ask(&bus, 0, 1000), 0);
}

// The device reads 60 bytes a second of 100: the CPU has 40.
static void the_device_has_its_share_first(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    bandwidth_begin(&bus, 5, 120, 2);
    close_to(bandwidth_ask(&bus, 5, 20), 0);      // the first is free, and takes half a second's share
    close_to(bandwidth_ask(&bus, 5.25, 40), 0.25);
    close_to(bandwidth_ask(&bus, 5.5, 0), 1);     // who comes at his time has waited for what was owed, and no more
    close_to(bandwidth_ask(&bus, 6.5, 10), 0);
}

static void what_is_not_used_is_gone(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    bandwidth_begin(&bus, 0, 60, 1);
    close_to(bandwidth_ask(&bus, 100, 40), 0);
    close_to(bandwidth_ask(&bus, 100, 40), 1); // a hundred seconds of rest bring nothing
}

// However much the device reads, a quarter is the CPU's: no wait is longer than four times what was read takes.
static void the_cpu_does_not_starve(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    bandwidth_begin(&bus, 0, 1e9, 1);
    close_to(bandwidth_ask(&bus, 0, 100), 0);
    close_to(bandwidth_ask(&bus, 0, 0), 4);
}

static void waiting_ends_with_the_device(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    bandwidth_begin(&bus, 0, 60, 1);
    bandwidth_ask(&bus, 0, 1000);
    bandwidth_end(&bus, 1);
    close_to(bandwidth_ask(&bus, 1, 1000), 0);
    bandwidth_begin(&bus, 2, 60, 1); // and nothing is owed from before
    close_to(bandwidth_ask(&bus, 2, 1000), 0);
    assert_true(bandwidth_ask(&bus, 2, 1000) > 20);
    bandwidth_end_all(&bus); // it is lost
    close_to(bandwidth_ask(&bus, 2, 1000), 0);
    bandwidth_end(&bus, 2); // of what is not there any more
    close_to(bandwidth_ask(&bus, 2, 1000), 0);
}

// The device works on one call after the other: shares are the first one's.
static void calls_take_turns(void **unused) {
    (void)unused;
    struct bandwidth bus = bus_of(100);
    bandwidth_begin(&bus, 0, 60, 1);
    bandwidth_begin(&bus, 0, 20, 1);
    bandwidth_ask(&bus, 0, 40);
    close_to(bandwidth_ask(&bus, 0, 0), 1);
    bandwidth_end(&bus, 0);
    bandwidth_ask(&bus, 0, 40);
    close_to(bandwidth_ask(&bus, 0, 0), 0.5);
    bandwidth_begin(&bus, 0, 0, 1); // wants no share, as the CPU is the longer one
    bandwidth_end(&bus, 0);
    bandwidth_ask(&bus, 0, 1000);
    close_to(bandwidth_ask(&bus, 0, 1000), 0);
    for (int i = 0; i < 2 * BANDWIDTH_CALLS_MAX; i++) bandwidth_begin(&bus, 0, 60, 1); // more than there can be
    assert_int_equal(bus.calls, BANDWIDTH_CALLS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_waits_alone),       cmocka_unit_test(the_device_has_its_share_first),
        cmocka_unit_test(what_is_not_used_is_gone), cmocka_unit_test(the_cpu_does_not_starve),
        cmocka_unit_test(waiting_ends_with_the_device), cmocka_unit_test(calls_take_turns),
    };
    return cmocka_run_group_tests_name("bandwidth", tests, NULL, NULL);
}
