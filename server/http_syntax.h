// What a request's header may look like. Pure: bytes in, verdict out.
//
// Stricter than the HTTP library: what could be read in two ways by two programs (a proxy and this server) is
// refused, and so is what the library would answer with a page of its own instead of a JSON object.
#ifndef SERVER_HTTP_SYNTAX_H
#define SERVER_HTTP_SYNTAX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTP_HEADER_BYTES_MAX = 10 * 1024, // request line and header lines together
    HTTP_HEADER_PARTS_MAX = 100,       // header lines, cookies and query arguments together
};

// What the header lines say about the message, gathered line by line. Embedded; starts as zeros.
struct http_facts {
    unsigned parts, lengths, encodings, hosts;
    uint64_t content_length;
    const char *host; // [host_bytes], within the line that was given
    size_t host_bytes;
};

// Each returns 0, or the HTTP status to refuse with, and then leaves the cause in error.
int http_facts_line(struct http_facts *facts, const char *name, size_t name_bytes, const char *value,
                    size_t value_bytes, struct error *error);
int http_facts_end(const struct http_facts *facts, bool http_1_0, struct error *error);
int http_header_too_large(struct error *error); // for one beyond HTTP_HEADER_BYTES_MAX

// Looks at the first `bytes` of a connection, of which `known` were looked at before. 0: the header is not
// complete. 200: it is, and in order. Otherwise the status to refuse with, and the cause.
int http_syntax_check(const char *text, size_t bytes, size_t known, struct error *error);

// The same for all the requests that these bytes hold, the first of which decides what is returned.
struct http_vetted {
    unsigned requests; // in order, one after the other
    uint64_t bytes;    // that they take, bodies included, as far as lengths are told
    bool more_follows; // behind them lies part of a request, or one that is not in order
};
int http_syntax_vet(const char *text, size_t bytes, size_t known, struct http_vetted *out, struct error *error);

#endif
