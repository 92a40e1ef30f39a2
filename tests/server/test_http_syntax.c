// Which headers may pass, and with what status the others are refused.
#include "server/http_syntax.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HOST "Host: 127.0.0.1\r\n"
#define GET "GET /health HTTP/1.1\r\n" HOST
#define POST "POST /v1/completions HTTP/1.1\r\n" HOST
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static int check(const char *text, size_t bytes) {
    struct error error = {0};
    int status = http_syntax_check(text, bytes, 0, &error);
    if (status > 200)
        assert_true(error.code != 0 && error.message[0]);
    else
        assert_int_equal(error.code, 0);
    return status;
}

static void test_verdicts(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *text;
    } cases[] = {
        {200, GET "\r\n"},
        {200, "\r\n" GET "\r\n"},
        {200, "GET / HTTP/1.0\r\n\r\n"},
        {200, GET "X-Empty:\r\nX-Spaces: \t a b \t \r\nX-Bytes: \xc3\xa4\r\n\r\n"},
        {200, POST "Content-Length: 2\r\n\r\n{}"},
        {200, POST "content-length:0\r\n\r\n"},
        {0, ""},
        {0, "\r"},
        {0, "\r\n"},
        {0, "GET"},
        {0, GET},
        {0, GET "\r"},
        {0, GET "X: a\r\n"},
        // the request line
        {400, "\x16\x03\x01"},
        {400, " GET / HTTP/1.1\r\n"},
        {400, "GET\r\n\r\n"},
        {400, "GET / \r\n\r\n"},
        {400, "GET /\r\n\r\n"},
        {400, "GET  / HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET / HTTP/1.1 \r\n" HOST "\r\n"},
        {400, "GET / http/1.1\r\n" HOST "\r\n"},
        {400, "GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n"},
        {400, "G(T / HTTP/1.1\r\n" HOST "\r\n"},
        {400, "AVERYVERYVERYLONGMETHOD / HTTP/1.1\r\n" HOST "\r\n"},
        {505, "GET / HTTP/2.0\r\n" HOST "\r\n"},
        {505, "GET / HTTP/1.2\r\n" HOST "\r\n"},
        {505, "GET / HTTP/0.9\r\n\r\n"},
        // header lines
        {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, GET HOST "\r\n"},
        {400, GET "no colon\r\n\r\n"},
        {400, GET ": no name\r\n\r\n"},
        {400, GET "X : a\r\n\r\n"},
        {400, GET " folded\r\n\r\n"},
        {400, GET "X: a\rb\r\n\r\n"},
        {400, GET "X: \x01\r\n\r\n"},
        {400, "GET / HTTP/1.1\n" HOST "\r\n"},
        {400, GET "\n"},
        // what says where the message ends
        {400, POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"},
        {400, POST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, POST "Content-Length: +2\r\n\r\n"},
        {400, POST "Content-Length: 2, 2\r\n\r\n"},
        {400, POST "Content-Length: 0x2\r\n\r\n"},
        {400, POST "Content-Length:\r\n\r\n"},
        {413, POST "Content-Length: 9223372036854775808\r\n\r\n"},
        {400, POST "Transfer-Encoding: gzip\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked, chunked\r\n\r\n"},
        {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
        // chunks, as far as they are there
        {200, CHUNKED},
        {200, CHUNKED "2\r\n{}\r\n0\r\n\r\n"},
        {200, CHUNKED "2;name=value\r\n{}\r\n0\r\nX-Trailer: a\r\n\r\n" GET "\r\n"},
        {200, CHUNKED "fF\r\n{"},
        {200, CHUNKED "2\r\n{}\r"},
        {200, CHUNKED "2"},
        {400, CHUNKED "zz\r\n"},
        {400, CHUNKED "-1\r\n"},
        {400, CHUNKED "2\n{}\r\n"},
        {400, CHUNKED "2\r\n{}x\r\n"},
        {400, CHUNKED "2\r\n{}\rx"},
        {400, CHUNKED "0\r\nno colon\r\n\r\n"},
        {413, CHUNKED "fffffffff\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = check(cases[i].text, strlen(cases[i].text));
        if (status != cases[i].status) fail_msg("%d instead of %d for: %s", status, cases[i].status, cases[i].text);
    }
    static const char nul[] = GET "X: a\0b\r\n\r\n";
    assert_int_equal(check(nul, sizeof nul - 1), 400);
}

// However it is cut into pieces, a good header is waited for and then found.
static void test_pieces(void **state) {
    (void)state;
    static const char text[] = "\r\n" POST "X: a\r\nContent-Length: 2\r\n\r\n";
    struct error error = {0};
    for (size_t step = 1; step < sizeof text; step++) {
        size_t known = 0;
        for (size_t bytes = step; bytes < sizeof text - 1; known = bytes, bytes += step)
            assert_int_equal(http_syntax_check(text, bytes, known, &error), 0);
        assert_int_equal(http_syntax_check(text, sizeof text - 1, known, &error), 200);
    }
}

static char *repeated(const char *start, const char *part, int times, const char *end) {
    size_t bytes = strlen(start) + strlen(part) * (size_t)times + strlen(end) + 1;
    char *text = malloc(bytes), *at = text;
    assert_non_null(text);
    at += snprintf(at, bytes, "%s", start);
    for (int i = 0; i < times; i++) at += snprintf(at, bytes - (size_t)(at - text), "%s", part);
    snprintf(at, bytes - (size_t)(at - text), "%s", end);
    return text;
}

static int check_repeated(const char *start, const char *part, int times, const char *end) {
    char *text = repeated(start, part, times, end);
    int status = check(text, strlen(text));
    free(text);
    return status;
}

static void test_bounds(void **state) {
    (void)state;
    assert_int_equal(check_repeated(GET "X: ", "a", 10000, "\r\n\r\n"), 200);
    assert_int_equal(check_repeated(GET "X: ", "a", HTTP_HEADER_BYTES_MAX, "\r\n\r\n"), 431);
    assert_int_equal(check_repeated(GET "X: ", "a", HTTP_HEADER_BYTES_MAX, ""), 431);
    assert_int_equal(check_repeated(GET, "X: a\r\n", HTTP_HEADER_PARTS_MAX - 1, "\r\n"), 200);
    assert_int_equal(check_repeated(GET, "X: a\r\n", HTTP_HEADER_PARTS_MAX, "\r\n"), 431);
    assert_int_equal(check_repeated(GET "Cookie: ", "a=b;", HTTP_HEADER_PARTS_MAX, "\r\n\r\n"), 431);
    assert_int_equal(check_repeated("GET /?", "a&", HTTP_HEADER_PARTS_MAX, " HTTP/1.1\r\n" HOST "\r\n"), 431);
}

// Cut anywhere and with any byte changed, there is a verdict and no memory is touched that is not there.
static void test_damage(void **state) {
    (void)state;
    static const char whole[] = CHUNKED "2;a=b\r\n{}\r\n0\r\nX: a\r\n\r\n";
    for (size_t bytes = 0; bytes < sizeof whole; bytes++)
        for (int change = 0; change < 256; change += 3) {
            char *copy = malloc(bytes ? bytes : 1); // exactly as large, for the sanitizer to watch
            assert_non_null(copy);
            memcpy(copy, whole, bytes);
            if (bytes) copy[bytes / 2] = (char)change;
            struct error error = {0};
            int status = http_syntax_check(copy, bytes, 0, &error);
            assert_true(status == 0 || status == 200 || status == 400 || status == 413 || status == 505);
            free(copy);
        }
}

// How many requests lie one behind the other, and how far they go.
static void test_vet(void **state) {
    (void)state;
#define ONE "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define SENDS(length) "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " #length "\r\n\r\n"
#define IN_CHUNKS "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    static const struct {
        const char *text;
        int status;
        unsigned requests;
        size_t bytes; // 0: all of the text
        bool more_follows;
    } CASES[] = {
        {ONE, 200, 1, 0, false},
        {ONE ONE ONE, 200, 3, 0, false},
        {SENDS(2) "{}", 200, 1, 0, false},
        {SENDS(2) "{}" ONE, 200, 2, 0, false},
        {SENDS(5) "{}", 200, 1, sizeof SENDS(5) - 1 + 5, false},
        {ONE "GET / HT", 200, 1, sizeof ONE - 1, true},
        {ONE "\n", 200, 1, sizeof ONE - 1, true},
        {ONE SENDS(x), 200, 1, sizeof ONE - 1, true},
        {IN_CHUNKS "0\r\n\r\n" ONE, 200, 1, sizeof IN_CHUNKS - 1, false},
        {"GET / HT", 0, 0, 0, false},
        {SENDS(x) ONE, 400, 0, 0, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct http_vetted vetted;
        struct error error;
        int status = http_syntax_vet(CASES[i].text, strlen(CASES[i].text), 0, &vetted, &error);
        assert_int_equal(status, CASES[i].status);
        if (status != 200) continue;
        assert_int_equal(vetted.requests, CASES[i].requests);
        assert_int_equal(vetted.bytes, CASES[i].bytes ? CASES[i].bytes : strlen(CASES[i].text));
        assert_int_equal(vetted.more_follows, CASES[i].more_follows);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vet),    cmocka_unit_test(test_verdicts), cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_bounds), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
