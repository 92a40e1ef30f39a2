// HTTP/1.1 on top of libmicrohttpd, which http.c and http_connection.c alone know.
//
// libmicrohttpd reads a request only once our own, strict reader has found its header in order: what it would answer
// with an HTML page of its own is refused before, with a JSON error, and so is what it would be too lenient about.
// Behind a malformed request the connection is closed. A client that sends several requests at once gets as many
// answers as there are whole requests in what is there when the first is looked at; then the connection is closed too.
// So it is behind a request with a body in chunks. What is wrong with chunks is seen as they come: by our reader as far
// as they come with the header, later by libmicrohttpd, which is less strict, in words of ours.
//
// A client that ends its side of the connection (a half-close: `printf … | nc -N`) while its answer takes time counts
// as gone. It can not be told from one that has closed the whole connection: that only shows when it answers data
// with a reset, and an answer that does not stream has no data until it is computed.
//
// Connections come from the listener, events go to one handler, and everything happens on the loop thread. An
// exchange is one request and its answer. It belongs to http; the handler may hold it from `header` until
// `finished`, and whatever ends it (the answer is out, the client left, a deadline passed) ends in `finished`.
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "api/reply.h"
#include "server/listener.h"
#include "server/loop.h"
#include "server/request_id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct http;

struct endpoint;

enum { HTTP_TIMING_BYTES = 96 };

struct exchange { // for the handler to read; `user` is its own
    const char *method, *target;
    const char *host; // the Host header, or NULL
    char id[REQUEST_ID_BYTES];
    struct buffer body;                  // whole, once `request` is called, which may take it over: see http_take_body
    double started_seconds;              // of the clock: when its header was here
    int status;                          // of the answer; 0 while there is none
    enum error_code cause;               // that the answer tells of; ERROR_NONE: none
    char cause_param[ERROR_PARAM_BYTES]; // the field at fault, or ""
    const char *failed;                  // why it ended before the answer was out ("the client left"); NULL: it did not
    char timing[HTTP_TIMING_BYTES];      // "queue;dur=1.0, ": of Server-Timing what stands before the total; or ""
    void *user;
    const struct endpoint *endpoint; // the handler's own too: what was asked for; NULL: nothing there is
};

// So many bodies of full size may be arriving at once; and as many again may wait to be parsed, which is the handler's
// to see to.
enum { HTTP_BODIES_MAX = 32 };

enum { HTTP_READ_LATER = 0, HTTP_READ_END = -1, HTTP_READ_FAILED = -2 }; // otherwise: bytes read

struct http_handler {
    // The header has arrived. Answering here means that the body is not wanted.
    void (*header)(void *user, struct exchange *exchange);
    // The body has arrived too. Answer now or later.
    void (*request)(void *user, struct exchange *exchange);
    // A stream's next bytes, in an answer begun by http_stream.
    ssize_t (*read)(void *user, struct exchange *exchange, char *out, size_t bytes_max);
    // Whether a stream stands still until its client takes more of it, and whether somebody waits for what one of these
    // holds: which is cut off if so.
    bool (*behind)(void *user, struct exchange *exchange);
    bool (*held_up)(void *user);
    // The client has gone before the answer was complete. `finished` follows.
    void (*gone)(void *user, struct exchange *exchange);
    void (*finished)(void *user, struct exchange *exchange);
    // A connection was turned away before there was an exchange: for the log.
    void (*refused)(void *user, const struct listener_refused *refused);
    void *user;
};

struct http_options {
    struct listener_socket socket; // taken over
    size_t connections_max, body_bytes_max;
    uint64_t header_ms, body_ms; // for all of the first header, all of a body
    uint64_t idle_ms;            // from one request on a connection to the header of the next
    uint64_t slow_reader_ms;     // without its machine acknowledging a byte of an answer that is there
    uint64_t blocking_reader_ms; // of a stream that stands still and holds others up; a byte is worth one more
    const char *cors_origin;     // whose web pages may read answers: an origin or "*"; NULL or "": none
};

int http_create(struct http **out, struct loop *loop, const struct http_options *options,
                const struct http_handler *handler, struct error *error);
void http_quiesce(struct http *http);           // accepts no more connections, and keeps none alive
void http_abort(struct http *http);             // cuts every connection off; `finished` comes for each exchange
size_t http_exchanges(const struct http *http); // under way, with answers that are not fully out
size_t http_connections(const struct http *http);
size_t http_body_memory(const struct http *http); // bytes of the bodies that are arriving
void http_destroy(struct http *http);             // takes NULL; cuts off what is left

const char *http_header(const struct exchange *exchange, const char *name); // of the request; NULL: none

void http_client(const struct exchange *exchange, char out[LISTENER_PEER_BYTES]); // its address; "": it has left

// Moves the body out, so that it can outlive the exchange or be freed before its end.
void http_take_body(struct exchange *exchange, struct buffer *out);

// Answers a browser that asks whether a page may send what it wants to, where pages may. False: nothing is asked.
bool http_preflight(struct exchange *exchange);

// Answers, from `header` or once `request` was called. Takes the reply's body over. allow: the Allow header of a 405,
// or NULL. An error may come in between too: the rest of the body is then not waited for.
void http_reply(struct exchange *exchange, struct api_reply *reply, const char *allow);
void http_reply_error(struct exchange *exchange, const struct error *error, const char *allow);

// Answers 200 with a stream, which is asked for bytes at once and, after HTTP_READ_LATER, after each http_wake.
void http_stream(struct exchange *exchange, const char *content_type);
void http_wake(struct exchange *exchange);

#endif
