// From method and target to an endpoint, and who may be meant by a Host header. Pure.
#ifndef SERVER_ROUTE_H
#define SERVER_ROUTE_H

#include "api/endpoint.h"

#include <stdbool.h>
#include <stddef.h>

enum { ROUTE_PARAMETER_BYTES = 256, ROUTE_ALLOW_BYTES = 32 };

struct route {
    const struct endpoint *endpoint;
    char parameter[ROUTE_PARAMETER_BYTES]; // what {id} stands for, percent-decoded; "" without one
    char allow[ROUTE_ALLOW_BYTES];         // ERROR_METHOD: the methods that the path has, for the Allow header
};

// 0, ERROR_NOT_FOUND or ERROR_METHOD. The target may be absolute ("http://host/path") and have a query.
int route_find(struct route *out, const struct endpoint *table, size_t count, const char *method, const char *target,
               struct error *error);

// The host in an absolute target, which counts in place of the Host header; "" where it is too long to be anybody's.
// False: the target has none.
bool route_target_host(const char *target, char out[ROUTE_PARAMETER_BYTES]);

// Whether a Host header may reach a server that is bound to a loopback address as `bound`. Browsers send the
// name that the page used: a foreign one that resolves to this machine (DNS rebinding) must not get through.
bool route_host_is_local(const char *host, const char *bound);

#endif
