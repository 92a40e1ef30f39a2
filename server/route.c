#include "server/route.h"

#include "base/utf8.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// False for an empty or too long parameter, a broken escape, a NUL or what is not UTF-8.
static bool decode(char out[ROUTE_PARAMETER_BYTES], const char *text, size_t bytes) {
    size_t used = 0;
    for (size_t i = 0; i < bytes; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < bytes ? hex_digit(text[i + 1]) : -1, low = i + 2 < bytes ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0) return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c == 0 || used + 1 >= ROUTE_PARAMETER_BYTES) return false;
        out[used++] = (char)c;
    }
    out[used] = '\0';
    return used > 0 && utf8_valid(out, used);
}

// Whether the path (without query) is the endpoint's; fills the parameter.
static bool matches(const char *pattern, const char *path, size_t bytes, char parameter[ROUTE_PARAMETER_BYTES]) {
    size_t fixed = strcspn(pattern, "{");
    if (bytes < fixed || memcmp(pattern, path, fixed) != 0) return false;
    parameter[0] = '\0';
    if (pattern[fixed] == '\0') return bytes == fixed;
    return decode(parameter, path + fixed, bytes - fixed);
}

// An endpoint that is got can be asked for its head alone.
static bool serves(const struct endpoint *endpoint, const char *method) {
    return strcmp(endpoint->method, method) == 0 ||
           (strcmp(endpoint->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static const char SCHEME[] = "http://"; // of an absolute target
enum { SCHEME_BYTES = sizeof SCHEME - 1 };

static bool is_absolute(const char *target) {
    return strncasecmp(target, SCHEME, SCHEME_BYTES) == 0;
}

bool route_target_host(const char *target, char out[ROUTE_PARAMETER_BYTES]) {
    if (!is_absolute(target)) return false;
    size_t bytes = strcspn(target + SCHEME_BYTES, "/?#");
    if (bytes >= ROUTE_PARAMETER_BYTES) bytes = 0;
    memcpy(out, target + SCHEME_BYTES, bytes);
    out[bytes] = '\0';
    return true;
}

static const char BASE[] = "/v1"; // what a client's base URL lacks, most often

int route_find(struct route *out, const struct endpoint *table, size_t count, const char *method, const char *target,
               struct error *error) {
    if (is_absolute(target)) {
        target += SCHEME_BYTES;
        target += strcspn(target, "/?#");
        if (*target != '/') target = "/";
    }
    size_t bytes = strcspn(target, "?#"), used = 0;
    if (bytes > 1 && target[bytes - 1] == '/') bytes--; // a slash too many does no harm
    *out = (struct route){0};
    for (size_t i = 0; i < count; i++) {
        if (!matches(table[i].path, target, bytes, out->parameter)) continue;
        if (serves(&table[i], method)) {
            out->endpoint = &table[i];
            return 0;
        }
        const char *more = strcmp(table[i].method, "GET") == 0 ? "GET, HEAD" : table[i].method;
        if (used < sizeof out->allow)
            used += (size_t)snprintf(out->allow + used, sizeof out->allow - used, "%s%s", used ? ", " : "", more);
    }
    if (out->allow[0]) return error_set(error, ERROR_METHOD, "this path answers to %s only", out->allow);
    for (size_t i = 0; i < count; i++)
        if (strncmp(table[i].path, BASE, strlen(BASE)) == 0 &&
            matches(table[i].path + strlen(BASE), target, bytes, out->parameter))
            return error_set(error, ERROR_NOT_FOUND,
                             "there is nothing at this path, but at %s: a client's base URL ends in %s", table[i].path,
                             BASE);
    return error_set(error, ERROR_NOT_FOUND, "there is nothing at this path; GET / lists what there is");
}

static bool same(const char *text, size_t bytes, const char *name) {
    return bytes == strlen(name) && strncasecmp(text, name, bytes) == 0;
}

bool route_host_is_local(const char *host, const char *bound) {
    bool bracketed = host[0] == '[';
    size_t bytes = bracketed ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (bracketed && host[bytes - 1] != ']') return false;
    const char *rest = host + bytes;
    if (*rest == ':') rest += 1 + strspn(rest + 1, "0123456789");
    if (*rest) return false;
    if (same(host, bytes, "localhost") || same(host, bytes, "127.0.0.1") || same(host, bytes, "[::1]")) return true;
    return bracketed ? same(host + 1, bytes - 2, bound) : same(host, bytes, bound);
}
