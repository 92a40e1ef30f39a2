// What a server listens on: a port, or a Unix socket in its place. It is bound before the model is loaded, so that what
// is wrong is known at once. Whoever holds the struct may use it, one thread at a time.
#ifndef SERVER_LISTENER_SOCKET_H
#define SERVER_LISTENER_SOCKET_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

enum { LISTENER_ADDRESS_BYTES = 320, LISTENER_PATH_BYTES = 108 };

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

// What remains to be done once clients may come. Another server may have been quicker on a port that both could bind.
int listener_listen(const struct listener_socket *socket, struct error *error);

// Closes it where no listener has taken it over, and removes its file, if it is still its own. Signal handlers may.
void listener_unbind(struct listener_socket *socket);

#endif
