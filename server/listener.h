// The front door: the connections that have not yet shown a whole request header, and the farewell to those that are
// turned away. Loop thread.
//
// A connection is handed on once its first header has arrived in full and is in order, still unread in the
// socket. Until then it costs a few bytes, has a deadline that activity does not extend, and every refusal is
// a JSON error. http_connection.c does the same with later headers, by the functions here.
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include "base/error.h"
#include "server/http_syntax.h"
#include "server/listener_socket.h"
#include "server/loop.h"

#include <stdbool.h>
#include <stddef.h>

enum { LISTENER_PEER_BYTES = 48 };

struct listener_refused { // a connection that was turned away before there was a request
    int status;
    const char *request_id, *client;
    const struct error *error;
};

struct listener_options {
    struct listener_socket socket; // its descriptor and file are taken over
    size_t connections_max; // beyond, a connection is told 429
    uint64_t header_ms;     // for the whole first header
    uint64_t linger_ms;     // for a client that is turned away to read why

    // Takes the descriptor and its watch over, also where it returns false (no memory).
    bool (*connected)(void *user, int fd, struct loop_watch *watch, const struct http_vetted *vetted);
    void (*refused)(void *user, const struct listener_refused *refused);
    void *user;
};

struct listener;
int listener_create(struct listener **out, struct loop *loop, const struct listener_options *options,
                    struct error *error);
void listener_close(struct listener *listener);   // accepts no more; drops who has not sent a header yet
void listener_destroy(struct listener *listener); // takes NULL

void listener_tick(struct listener *listener);                // now and then: looks after deadlines
size_t listener_connections(const struct listener *listener); // that wait for a header, and those handed on
void listener_left(struct listener *listener);                // a connection that was handed on is closed

// Looks at what a socket holds, without reading it; `seen`: how much of it has been looked at. 0: the header is not
// complete, and the socket becomes readable when more of it is there (but a Unix socket at once). -1: the client has
// gone. Otherwise as http_syntax_vet, and the socket becomes readable by any byte.
int listener_peek(struct listener *listener, int fd, size_t *seen, struct http_vetted *vetted, struct error *error);

// The address of the machine at the other end, of a Unix socket "uid 1000"; "": it has left.
void listener_peer(int fd, char out[LISTENER_PEER_BYTES]);

// Takes a descriptor over, answers it with an error, and lingers.
void listener_refuse(struct listener *listener, int fd, int status, const struct error *error);

// Takes a descriptor over whose last answer has been written: ends the sending side, swallows for a while what
// still comes, so that the answer is not lost in a reset, and closes.
void listener_linger(struct listener *listener, int fd);

#endif
