// What http.c (requests and answers) and http_connection.c (connections, and their time between requests) share.
#ifndef SERVER_HTTP_INSIDE_H
#define SERVER_HTTP_INSIDE_H

#include "server/http.h"
#include "server/http_syntax.h"
#include "server/listener.h"

#include <microhttpd.h>

enum { LINGER_MS = 2000 };

// What a connection's deadline is for.
enum phase { PHASE_IDLE, PHASE_BODY, PHASE_WORK, PHASE_ANSWER };

// Beyond OPEN, all that we still do for a connection is closing it.
enum fate { FATE_OPEN, FATE_REFUSED /* answered past libmicrohttpd */, FATE_GONE };

struct connection {
    struct connection *next, **link;               // in http->connections
    struct connection *settle_next, **settle_link; // in http->to_settle; settle_link NULL: it is not
    struct http *http;
    struct MHD_Connection *mhd;
    int fd;
    struct loop_watch *watch; // for the client's leaving, and for bytes while libmicrohttpd may not read
    enum phase phase;
    uint64_t deadline_ms; // of the phase; moved by progress in PHASE_ANSWER
    uint64_t taken;       // bytes that the client's machine had acknowledged when last looked at
    bool behind;          // its stream stood still when last looked at
    uint64_t excused_ms;  // until then it may, though it holds others up
    uint64_t passed_on;   // bytes of streams that libmicrohttpd has been given
    enum fate fate;

    // Requests whose header has been looked at, and which libmicrohttpd may therefore read.
    unsigned vetted;       // of them, not yet begun
    uint64_t vetted_bytes; // all there have been on this connection, bodies included
    bool more_follows;     // behind them lies what has not been looked at
    bool waiting;          // for the next header, which is looked at as it comes
    size_t seen;           // bytes of it so far

    struct exchange exchange;
    bool active;                   // an exchange is under way: `header` was called, `finished` was not
    bool delivered;                // `request` was called
    bool chunked;                  // its body comes in chunks
    bool untouched;                // of which libmicrohttpd has not begun to make sense
    bool header_again;             // suspended at the header, it will come with that once more
    size_t received_before;        // `received` when there last was progress in such a body
    uint64_t read_before;          // and what libmicrohttpd had read then
    size_t received;               // bytes of the body so far
    bool refuse_early;             // answer before the body, and close
    bool discard;                  // there is an answer already: the body goes nowhere
    bool streaming;                // the answer is a stream that may go on for long
    bool suspended;                // libmicrohttpd leaves it alone until we resume it
    bool half_closed;              // the client sends no more
    char peer[LISTENER_PEER_BYTES]; // who it was, where fd is a dead socket by now; else ""
    bool linger;                   // closed while the client may still be sending
    bool uncounted;                // the system does not tell what was taken: libmicrohttpd notices who takes nothing
    bool stays;                    // behind the answer, as far as client and server have said
    struct MHD_Response *response; // waits to be queued
};

struct http {
    struct loop *loop;
    struct http_options options;
    struct http_handler handler;
    struct listener *listener;
    struct MHD_Daemon *daemon;
    struct loop_watch *watch; // of libmicrohttpd's epoll set
    struct loop_timer *tick, *again;
    struct connection *connections;
    struct connection *arriving;  // the connection that MHD_add_connection is being called for
    struct connection *to_settle; // those to be looked at when libmicrohttpd has run
    struct connection *chunks;    // the only one whose body in chunks libmicrohttpd may be reading now
    size_t untouched;             // connections that are
    int dead_fd;                  // a socket whose other end is closed
    size_t exchanges;
    size_t body_bytes; // memory of all the bodies that are arriving
    bool run_wanted, quiet;
};

extern const char HTTP_CLIENT_LEFT[], HTTP_SLOW_READER[], HTTP_OUT_OF_MEMORY[]; // why an exchange failed

// ---- http_connection.c

void connection_set_phase(struct connection *connection, enum phase phase, uint64_t patience_ms);
void connection_offer(struct connection *connection); // it has something to read from now on
void connection_suspend(struct connection *connection);
void connection_resume(struct connection *connection); // does nothing where it is not suspended
// The client has gone, or has to: cuts the connection off, and says so to the exchange under way.
void connection_leave(struct connection *connection, const char *why);
void connection_settle_later(struct connection *connection); // once libmicrohttpd has run
void connection_settle(struct connection *connection);
// Whether the answer now under way has to be the connection's last: what follows the request was not looked at.
bool connection_ends(const struct connection *connection);
// libmicrohttpd has passed on a header with a body in chunks behind it: it stops there.
void connection_begin_chunks(struct connection *connection);
// One that is suspended, and was answered past libmicrohttpd: the client has time to read the answer, while
// libmicrohttpd gets nothing more of what it sends.
void connection_dismiss(struct connection *connection);
void connection_tick(struct http *http);
int connection_open_daemon(struct http *http, struct error *error);
void connection_close_daemon(struct http *http); // also what was opened in part
bool connection_arrives(void *user, int fd, struct loop_watch *watch, const struct http_vetted *vetted);

// ---- http.c: what libmicrohttpd calls

enum MHD_Result http_on_request(void *user, struct MHD_Connection *mhd, const char *target, const char *method,
                                const char *version, const char *data, size_t *data_bytes, void **context);
void http_on_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code);

// In mid-body libmicrohttpd takes no answer, and has sent nothing: the error is written to the socket, and the
// connection ends.
void http_refuse_body(struct connection *connection, const struct error *error);

#endif
