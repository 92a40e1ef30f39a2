// The front door: the listening socket, the connections that have not yet shown a whole request header, and the
// farewell to those that are turned away. Loop thread.
//
// A connection is handed on once its first header has arrived in full and is in order, still unread in the
// socket. Until then it costs a few bytes, has a deadline that activity does not extend, and every refusal is
// a JSON error. http_connection.c does the same with later headers, by the functions here.
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include "base/error.h"
#include "server/http_syntax.h"
#include "server/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/un.h>

enum { LISTENER_ADDRESS_BYTES = 320, LISTENER_PEER_BYTES = 48, LISTENER_PATH_BYTES = 108 };

struct listener_socket {
    int fd;
    bool loopback;                        // a port that only this machine can reach
    char host[256];                       // as the settings name it; "" for a Unix socket
    char address[LISTENER_ADDRESS_BYTES]; // "127.0.0.1:8080": what it is bound to; of a Unix socket, its path
    char path[LISTENER_PATH_BYTES];       // of a Unix socket; "": it is none
    dev_t device;                         // where its file is, and which: at the end another may lie in its place
    ino_t file;
};

// ERROR_ARGUMENT where that is a URL, or has brackets or a port, and how it would be said with --host.
int listener_check_host(const char *host, struct error *error);

// Keeps an address for a listener, which listens only once there is one: until then clients are refused, and balancers
// ask another server. Port 0: any free one.
int listener_bind(struct listener_socket *out, const char *host, int port, struct error *error);

// The address of a Unix socket at this path. ERROR_ARGUMENT where it is too long for one.
int listener_unix_address(struct sockaddr_un *out, const char *path, struct error *error);

// A Unix socket, whose file gets these permissions. One that lies there and that nobody listens on any more is
// replaced; any other file is left alone: ERROR_IO. The same where another program keeps a lock on its directory for
// two seconds. It listens at once, for another server takes a socket that refuses for one that was left behind; clients
// wait until there is a listener.
int listener_bind_unix(struct listener_socket *out, const char *path, mode_t mode, struct error *error);

// Closes it where no listener has taken it over, and removes its file, if it is still its own. Signal handlers may.
void listener_unbind(struct listener_socket *socket);

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
