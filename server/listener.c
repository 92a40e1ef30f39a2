#include "server/listener.h"

#include "server/http_syntax.h"
#include "server/refusal.h"
#include "server/request_id.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LOOK_AGAIN_MS = 10,      // at Unix sockets that hold part of a header
    ACCEPTS_A_TURN_MAX = 64, // so that a flood of connections can not hold up the streams
    DISMISSED_MAX = 256,     // beyond, those turned away are closed without waiting
    SWALLOWED_BYTES_MAX = 16 * 1024 * 1024,
};

struct guest {
    struct guest *next, **link; // in listener->guests
    struct listener *listener;
    struct loop_watch *watch;
    int fd;
    bool dismissed; // we only wait for it to go
    bool again;     // a Unix socket with part of a header in it: it is looked at now and then
    size_t seen;    // bytes of its header looked at, or swallowed since it was dismissed
    uint64_t deadline_ms;
};

struct listener {
    struct listener_options options;
    struct loop *loop;
    struct loop_watch *watch; // of the listening socket; NULL once closed
    bool resting;             // out of descriptors or memory: the next tick accepts again
    int spare_fd;             // given up where there are no others, to turn somebody away; -1: it is
    struct loop_timer *again; // for guests of whom we know no better
    struct guest *guests;
    size_t dismissed;
    size_t connections; // guests that wait for a header, and those handed on
    char header[HTTP_HEADER_BYTES_MAX];
};

// ---- Guests

static struct guest *guest_create(struct listener *listener, int fd, void (*callback)(void *user, int events),
                                  uint64_t patience_ms) {
    struct guest *guest = calloc(1, sizeof *guest);
    if (!guest) return NULL;
    guest->watch = loop_watch_create(listener->loop, fd, callback, guest);
    if (!guest->watch) {
        free(guest);
        return NULL;
    }
    guest->listener = listener;
    guest->fd = fd;
    guest->deadline_ms = loop_now_ms(listener->loop) + patience_ms;
    guest->next = listener->guests;
    guest->link = &listener->guests;
    if (guest->next) guest->next->link = &guest->next;
    listener->guests = guest;
    loop_watch_start(guest->watch, LOOP_READABLE | LOOP_DISCONNECT);
    return guest;
}

// Lets go of the guest and gives its descriptor back.
static int guest_release(struct guest *guest) {
    int fd = guest->fd;
    loop_watch_destroy(guest->watch); // NULL where it was handed on
    *guest->link = guest->next;
    if (guest->next) guest->next->link = guest->link;
    if (guest->dismissed)
        guest->listener->dismissed--;
    else
        guest->listener->connections--;
    free(guest);
    return fd;
}

// ---- Turning away

void listener_peer(int fd, char out[LISTENER_PEER_BYTES]) {
    struct sockaddr_storage peer = {0};
    struct ucred who;
    socklen_t bytes = sizeof who;
    if (getsockname(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof peer}) == 0 && peer.ss_family == AF_UNIX &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0) {
        snprintf(out, LISTENER_PEER_BYTES, "uid %u", who.uid);
        return;
    }
    bytes = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&peer, bytes, out, LISTENER_PEER_BYTES, NULL, 0, NI_NUMERICHOST) != 0)
        out[0] = '\0';
}

// Reads what has come: bytes that nobody has read make closing a reset, which takes the answer from the client. *seen:
// how many there were so far. False: no more are to be waited for.
static bool swallow(int fd, size_t *seen) {
    char sink[16 * 1024];
    for (int i = 0; i < 8; i++) { // bounded: a client that pours must not hold up the loop
        ssize_t got = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
        if (got > 0) *seen += (size_t)got;
        if (got > 0 && *seen < SWALLOWED_BYTES_MAX) continue;
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    }
    return true;
}

static void on_dismissed(void *user, int events) {
    (void)events;
    struct guest *guest = user;
    if (!swallow(guest->fd, &guest->seen)) close(guest_release(guest));
}

void listener_linger(struct listener *listener, int fd) {
    size_t seen = 0;
    shutdown(fd, SHUT_WR);
    bool more = swallow(fd, &seen);
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
    struct guest *guest = NULL;
    if (more && listener->dismissed < DISMISSED_MAX && listener->spare_fd >= 0)
        guest = guest_create(listener, fd, on_dismissed, listener->options.linger_ms);
    if (!guest) {
        close(fd);
        return;
    }
    guest->seen = seen;
    guest->dismissed = true;
    listener->dismissed++;
}

void listener_refuse(struct listener *listener, int fd, int status, const struct error *error) {
    char id[REQUEST_ID_BYTES];
    request_id_choose(id, NULL);
    refusal_send(fd, status, id, error);
    char client[LISTENER_PEER_BYTES];
    listener_peer(fd, client);
    const struct listener_refused refused = {.status = status, .request_id = id, .client = client, .error = error};
    listener->options.refused(listener->options.user, &refused);
    listener_linger(listener, fd);
}

// ---- The first header

// What was peeked at stays readable; without this the loop would turn until the rest comes.
static void wait_for(int fd, size_t bytes) {
    int least = (int)bytes;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof least);
}

int listener_peek(struct listener *listener, int fd, size_t *seen, struct http_vetted *vetted, struct error *error) {
    ssize_t got = recv(fd, listener->header, sizeof listener->header, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if ((size_t)got <= *seen) return -1; // readable, and nothing new: it has closed its side
    int status = http_syntax_vet(listener->header, (size_t)got, *seen, vetted, error);
    if (status == 0)
        wait_for(fd, (size_t)got + 1);
    else if (*seen > 0)
        wait_for(fd, 1);
    *seen = (size_t)got;
    return status;
}

static void hand_on(struct guest *guest, const struct http_vetted *vetted) {
    struct listener *listener = guest->listener;
    struct loop_watch *watch = guest->watch;
    guest->watch = NULL;
    listener->connections++; // before the guest's own place is given back
    if (!listener->options.connected(listener->options.user, guest_release(guest), watch, vetted))
        listener->connections--;
}

// A Unix socket can not be told to wait for more than a byte, and the loop would turn until the rest is there.
static void look_again_later(struct guest *guest) {
    guest->again = true;
    loop_watch_start(guest->watch, LOOP_DISCONNECT);
    loop_timer_start(guest->listener->again, LOOK_AGAIN_MS, 0);
}

static void on_guest(void *user, int events) {
    struct guest *guest = user;
    struct listener *listener = guest->listener;
    struct http_vetted vetted;
    struct error error;
    int status = listener_peek(listener, guest->fd, &guest->seen, &vetted, &error);
    bool is_unix = listener->options.socket.path[0];
    bool ended = events & LOOP_DISCONNECT; // no more will come, and libuv may have stopped looking
    if (status <= 0 && is_unix && !ended)
        look_again_later(guest);
    else if (status < 0 || (status == 0 && ended))
        close(guest_release(guest));
    else if (status == 200)
        hand_on(guest, &vetted);
    else if (status != 0)
        listener_refuse(listener, guest_release(guest), status, &error);
}

static void on_again(void *user) {
    struct listener *listener = user;
    for (struct guest *guest = listener->guests, *next; guest; guest = next) {
        next = guest->next;
        if (!guest->again) continue;
        guest->again = false;
        on_guest(guest, LOOP_READABLE);
    }
}

static void refuse_full(struct listener *listener, int fd) {
    struct error error;
    error_set(&error, ERROR_BUSY, "the server has all the connections it can take; try again later");
    listener_refuse(listener, fd, 429, &error);
}

static void welcome(struct listener *listener, int fd) {
    if (listener->connections >= listener->options.connections_max) {
        refuse_full(listener, fd);
        return;
    }
    struct guest *guest = guest_create(listener, fd, on_guest, listener->options.header_ms);
    if (!guest) {
        close(fd);
        return;
    }
    listener->connections++;
}

// Who is next; -1 with errno where nobody is, and where it does not work.
static int take_next(struct listener *listener) {
    return accept4(listener->options.socket.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void keep_spare(struct listener *listener) {
    if (listener->spare_fd < 0) listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

// There are no descriptors left, which is found before anybody is looked for: with the spare one, who is next, if
// anybody is, is told so and closed at once. 0, or why that did not work.
static int turn_away(struct listener *listener) {
    close(listener->spare_fd);
    listener->spare_fd = -1;
    int fd = take_next(listener), cause = fd < 0 ? errno : 0;
    if (fd >= 0) refuse_full(listener, fd);
    keep_spare(listener);
    return cause;
}

// Takes in who is next. 0, or why that did not work.
static int admit(struct listener *listener) {
    int fd = take_next(listener), cause = fd < 0 ? errno : 0;
    if (fd >= 0) welcome(listener, fd);
    return (cause == EMFILE || cause == ENFILE) && listener->spare_fd >= 0 ? turn_away(listener) : cause;
}

// It does not work with this one only, whose network's errors accept(2) passes on; the next may be well.
static bool is_of_one(int cause) {
    switch (cause) {
    case EINTR:
    case ECONNABORTED:
    case ENETDOWN:
    case EPROTO:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH: return true;
    default: return false;
    }
}

static void on_connection(void *user, int events) {
    (void)events;
    struct listener *listener = user;
    for (int i = 0; i < ACCEPTS_A_TURN_MAX; i++) {
        int cause = admit(listener);
        if (cause == EAGAIN) return; // that was all
        if (cause == 0 || is_of_one(cause)) continue;
        loop_watch_stop(listener->watch); // asking again at once would only burn time
        listener->resting = true;
        return;
    }
}

// ---- Life

int listener_create(struct listener **out, struct loop *loop, const struct listener_options *options,
                    struct error *error) {
    int code = listener_listen(&options->socket, error);
    if (code) {
        struct listener_socket socket = options->socket;
        listener_unbind(&socket);
        return code;
    }
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener) listener->watch = loop_watch_create(loop, options->socket.fd, on_connection, listener);
    if (listener) listener->again = loop_timer_create(loop, on_again, listener);
    if (!listener || !listener->watch || !listener->again) {
        if (listener) loop_watch_destroy(listener->watch);
        if (listener) loop_timer_destroy(listener->again);
        struct listener_socket socket = options->socket;
        listener_unbind(&socket);
        free(listener);
        return error_set_code(error, ERROR_MEMORY);
    }
    listener->options = *options;
    listener->loop = loop;
    listener->spare_fd = -1;
    keep_spare(listener);
    loop_watch_start(listener->watch, LOOP_READABLE);
    *out = listener;
    return 0;
}

void listener_close(struct listener *listener) {
    if (!listener->watch) return;
    loop_watch_destroy(listener->watch);
    listener->watch = NULL;
    listener_unbind(&listener->options.socket);
    for (struct guest *guest = listener->guests, *next; guest; guest = next) {
        next = guest->next;
        if (!guest->dismissed) close(guest_release(guest));
    }
}

void listener_destroy(struct listener *listener) {
    if (!listener) return;
    listener_close(listener);
    while (listener->guests) close(guest_release(listener->guests));
    if (listener->spare_fd >= 0) close(listener->spare_fd);
    loop_timer_destroy(listener->again);
    free(listener);
}

void listener_tick(struct listener *listener) {
    uint64_t now = loop_now_ms(listener->loop);
    keep_spare(listener);
    if (listener->resting && listener->watch) {
        listener->resting = false;
        loop_watch_start(listener->watch, LOOP_READABLE);
    }
    for (struct guest *guest = listener->guests, *next; guest; guest = next) {
        next = guest->next;
        if (now < guest->deadline_ms) continue;
        bool answer = !guest->dismissed && guest->seen > 0;
        int fd = guest_release(guest);
        if (!answer) {
            close(fd);
            continue;
        }
        struct error error;
        error_set(&error, ERROR_TIMEOUT, "the request's header did not arrive in time");
        listener_refuse(listener, fd, 408, &error);
    }
}

void listener_left(struct listener *listener) {
    listener->connections--;
}

size_t listener_connections(const struct listener *listener) {
    return listener->connections;
}
