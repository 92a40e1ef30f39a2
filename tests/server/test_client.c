// Which addresses are one client: places in the line are shared out among clients.
#include "server/client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void are_one(const char *a, const char *b) {
    if (client_number(a) != client_number(b)) fail_msg("%s and %s are two", a, b);
}

static void are_two(const char *a, const char *b) {
    if (client_number(a) == client_number(b)) fail_msg("%s and %s are one", a, b);
}

static void test_ipv4(void **state) {
    (void)state;
    are_one("192.0.2.1", "192.0.2.1");
    are_two("192.0.2.1", "192.0.2.2");
    are_two("192.0.2.1", "192.0.3.1");
    are_two("198.51.100.1", "192.0.2.1");
}

// Whoever has one address of a /64 has them all.
static void test_ipv6_by_prefix(void **state) {
    (void)state;
    are_one("2001:db8:1:2::1", "2001:db8:1:2::2");
    are_one("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff");
    are_one("2001:db8:1:2::1", "2001:DB8:1:2:0:0:0:1"); // however it is written
    are_two("2001:db8:1:2::1", "2001:db8:1:3::1");
    are_two("2001:db8:1:2::1", "2001:db9:1:2::1");
    are_two("::1", "2001:db8::1");
}

// A listener on [::] sees IPv4 addresses as IPv6: all of them would be in one /64.
static void test_mapped_ipv4(void **state) {
    (void)state;
    are_one("::ffff:192.0.2.1", "192.0.2.1");
    are_two("::ffff:192.0.2.1", "::ffff:192.0.2.2");
    are_two("::ffff:192.0.2.1", "::1");
}

// All neighbours of all networks have fe80::/64.
static void test_link_local(void **state) {
    (void)state;
    are_one("fe80::1%eth0", "fe80::1%eth0");
    are_two("fe80::1%eth0", "fe80::2%eth0");
    are_two("fe80::1%eth0", "fe80::1%eth1");
    are_one("2001:db8::1%eth0", "2001:db8::2%eth0");
}

static void test_no_address(void **state) {
    (void)state;
    are_one("uid 1000", "uid 1000");
    are_two("uid 1000", "uid 1001");
    are_one("", "");
    are_two("", "uid 0");
    are_two("0000000000000000000000000000000000000000000000000000000000000000000001", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ipv4),        cmocka_unit_test(test_ipv6_by_prefix),
        cmocka_unit_test(test_mapped_ipv4), cmocka_unit_test(test_link_local),
        cmocka_unit_test(test_no_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
