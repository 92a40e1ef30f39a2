// Which endpoint a request reaches, what else is said, and which Host headers may reach a loopback address.
#include "server/route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct endpoint TABLE[] = {
    {.method = "GET", .path = "/health"},     {.method = "GET", .path = "/v1/things"},
    {.method = "POST", .path = "/v1/things"}, {.method = "GET", .path = "/v1/things/{id}"},
    {.method = "POST", .path = "/v1/make"},
};
enum { TABLE_COUNT = sizeof TABLE / sizeof *TABLE };

static int find(struct route *route, const char *method, const char *target) {
    struct error error = {0};
    int code = route_find(route, TABLE, TABLE_COUNT, method, target, &error);
    assert_int_equal(code, error.code);
    return code;
}

static void reaches(const char *method, const char *target, const struct endpoint *endpoint, const char *parameter) {
    struct route route;
    assert_int_equal(find(&route, method, target), 0);
    assert_ptr_equal(route.endpoint, endpoint);
    assert_string_equal(route.parameter, parameter);
}

static void test_found(void **state) {
    (void)state;
    reaches("GET", "/health", &TABLE[0], "");
    reaches("HEAD", "/health", &TABLE[0], "");
    reaches("GET", "/health?a=/v1/make", &TABLE[0], "");
    reaches("GET", "http://somewhere:1/health", &TABLE[0], "");
    reaches("GET", "/health/", &TABLE[0], "");
    reaches("GET", "/v1/things/?a", &TABLE[1], "");
    reaches("GET", "/v1/things/one/", &TABLE[3], "one");
    reaches("GET", "/v1/things", &TABLE[1], "");
    reaches("POST", "/v1/things", &TABLE[2], "");
    reaches("POST", "/v1/make", &TABLE[4], "");
    reaches("GET", "/v1/things/one", &TABLE[3], "one");
    reaches("GET", "/v1/things/owner/one", &TABLE[3], "owner/one");
    reaches("GET", "/v1/things/owner%2Fone%20%c3%a4?x", &TABLE[3], "owner/one \xc3\xa4");
}

static void test_not_found(void **state) {
    (void)state;
    static const char *const targets[] = {"/",
                                          "",
                                          "*",
                                          "/healthy",
                                          "/health//",
                                          "/HEALTH",
                                          "/v1",
                                          "/v1/things//",
                                          "/v1/things/%",
                                          "/v1/things/%4",
                                          "/v1/things/%zz",
                                          "/v1/things/a%00b",
                                          "/v1/things/%ff",
                                          "http://health",
                                          "//health"};
    struct route route;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        assert_int_equal(find(&route, "GET", targets[i]), ERROR_NOT_FOUND);
    char target[ROUTE_PARAMETER_BYTES + 16];
    memset(target, 'a', sizeof target);
    memcpy(target, "/v1/things/", 11);
    target[11 + ROUTE_PARAMETER_BYTES - 1] = '\0';
    assert_int_equal(find(&route, "GET", target), 0);
    target[11 + ROUTE_PARAMETER_BYTES - 1] = 'a';
    target[11 + ROUTE_PARAMETER_BYTES] = '\0';
    assert_int_equal(find(&route, "GET", target), ERROR_NOT_FOUND);
}

static void test_base_left_out(void **state) {
    (void)state;
    struct route route;
    struct error error = {0};
    route_find(&route, TABLE, TABLE_COUNT, "POST", "/make", &error);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.message,
                        "there is nothing at this path, but at /v1/make: a client's base URL ends in /v1");
}

static void test_method(void **state) {
    (void)state;
    struct route route;
    assert_int_equal(find(&route, "POST", "/health"), ERROR_METHOD);
    assert_string_equal(route.allow, "GET, HEAD");
    assert_int_equal(find(&route, "GET", "/v1/make"), ERROR_METHOD);
    assert_string_equal(route.allow, "POST");
    assert_int_equal(find(&route, "HEAD", "/v1/make"), ERROR_METHOD);
    assert_int_equal(find(&route, "DELETE", "/v1/things"), ERROR_METHOD);
    assert_string_equal(route.allow, "GET, HEAD, POST");
    assert_int_equal(find(&route, "get", "/health"), ERROR_METHOD); // methods are case-sensitive
}

static void test_host(void **state) {
    (void)state;
    static const char *const local[] = {"localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:8080", "127.0.0.1:",
                                        "[::1]",     "[::1]:80",       "my.name",   "my.name:1"};
    static const char *const foreign[] = {"",
                                          ":80",
                                          "evil.example",
                                          "localhost.evil.example",
                                          "evil.localhost",
                                          "localhost.",
                                          "localhost:80x",
                                          "localhost:80:80",
                                          "localhost@evil",
                                          "127.0.0.2",
                                          "127.0.0.1.evil.example",
                                          "::1",
                                          "[::1",
                                          "[::1]x",
                                          "[",
                                          "[]",
                                          "0.0.0.0"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (!route_host_is_local(local[i], "my.name")) fail_msg("%s is refused", local[i]);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (route_host_is_local(foreign[i], "my.name")) fail_msg("%s is let in", foreign[i]);
    assert_true(route_host_is_local("[::ffff:1]:80", "::ffff:1"));
}

static void test_target_host(void **state) {
    (void)state;
    static const struct {
        const char *target, *host;
    } cases[] = {{"http://a.b:80/health", "a.b:80"}, {"HTTP://a", "a"}, {"http://a?b/c", "a"}, {"http:///health", ""}};
    char host[ROUTE_PARAMETER_BYTES], target[ROUTE_PARAMETER_BYTES + 8] = "http://";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(route_target_host(cases[i].target, host));
        assert_string_equal(host, cases[i].host);
    }
    assert_false(route_target_host("/health", host));
    assert_false(route_target_host("*", host));
    memset(target + 7, 'a', ROUTE_PARAMETER_BYTES - 1);
    assert_true(route_target_host(target, host) && strlen(host) == ROUTE_PARAMETER_BYTES - 1);
    target[7 + ROUTE_PARAMETER_BYTES - 1] = 'a';
    assert_true(route_target_host(target, host) && !host[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_base_left_out),
        cmocka_unit_test(test_method),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_target_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
