#include "server/admit.h"

#include "api/endpoint.h"
#include "server/api_keys.h"

#include <string.h>
#include <strings.h>

static bool is_type(const char *content_type, const char *wanted) {
    size_t bytes = strcspn(content_type, "; \t");
    return bytes == strlen(wanted) && strncasecmp(content_type, wanted, bytes) == 0;
}

// JSON; and what `curl -d` calls its body, or no name at all, unless a web page is asking: those are the types that a
// browser sends to any address without asking there first, and it always tells its Origin with them.
static bool is_acceptable_type(struct exchange *exchange) {
    const char *type = http_header(exchange, "Content-Type");
    if (type && is_type(type, "application/json")) return true;
    if (http_header(exchange, "Origin")) return false;
    return !type || is_type(type, "application/x-www-form-urlencoded");
}

static int check_key(const struct api_keys *keys, struct exchange *exchange, size_t *key, struct error *error) {
    const char *authorization = http_header(exchange, "Authorization");
    if (api_keys_accept(keys, authorization, key)) return 0;
    return error_set(error, ERROR_API_KEY, "%s", api_keys_why_not(authorization));
}

// What route_host_is_local takes: three names, and the one that --host has where it is another.
static int refuse_host(const char *bound, struct error *error) {
    bool other = !route_host_is_local(bound, "localhost") && strcmp(bound, "::1") != 0;
    return error_set(error, ERROR_FORBIDDEN_HOST,
                     "the Host header does not name this server, which listens for this machine only: it takes "
                     "localhost, 127.0.0.1%s [::1]%s%s. To be asked by other names, let a proxy set the header, or "
                     "start the server with --host 0.0.0.0",
                     other ? "," : " and", other ? " and " : "", other ? bound : "");
}

int admit(const struct admit_rules *rules, struct exchange *exchange, struct route *route, size_t *key,
          struct error *error) {
    char absolute[ROUTE_PARAMETER_BYTES];
    const char *bound = rules->local_host;
    *key = 0;
    const char *host = route_target_host(exchange->target, absolute) ? absolute : exchange->host;
    if (bound && host && !route_host_is_local(host, bound)) return refuse_host(bound, error);
    int code = route_find(route, ENDPOINTS, ENDPOINT_COUNT, exchange->method, exchange->target, error);
    if (!code) exchange->endpoint = route->endpoint;
    if (!code && !route->endpoint->open) code = check_key(rules->keys, exchange, key, error);
    if (code || !route->endpoint->generation) return code;
    if (rules->shutting_down) return error_set_code(error, ERROR_SHUTDOWN);
    if (!is_acceptable_type(exchange))
        return error_set(error, ERROR_MEDIA_TYPE, "the Content-Type must be application/json");
    const char *encoding = http_header(exchange, "Content-Encoding");
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return error_set(error, ERROR_MEDIA_TYPE, "a body in Content-Encoding `%.20s` is not taken; send it as it is",
                         encoding);
    return 0;
}
