#include "server/http_inside.h"
#include "server/refusal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h> // netinet/tcp.h lacks tcpi_bytes_acked
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPARE_CONNECTIONS = 16 };

// One thread does it all. Newer versions have to be told, or MHD_add_connection would only do half of its work.
#if MHD_VERSION >= 0x00097707
enum { ONE_THREAD = MHD_USE_NO_THREAD_SAFETY };
#else
enum { ONE_THREAD = 0 };
#endif

const char HTTP_CLIENT_LEFT[] = "the client left", HTTP_SLOW_READER[] = "the client reads too slowly",
           HTTP_OUT_OF_MEMORY[] = "out of memory";

// ---- Running libmicrohttpd

static void want_run(struct http *http) {
    http->run_wanted = true;
}

static void on_ready(void *user, int events) {
    (void)events;
    want_run(user);
}

static void on_again(void *user) {
    want_run(user);
}

// ---- One connection

void connection_set_phase(struct connection *connection, enum phase phase, uint64_t patience_ms) {
    connection->phase = phase;
    connection->deadline_ms = loop_now_ms(connection->http->loop) + patience_ms;
}

void connection_offer(struct connection *connection) {
    connection_set_phase(connection, PHASE_ANSWER, connection->http->options.slow_reader_ms);
    connection->behind = false;
}

void connection_suspend(struct connection *connection) {
    connection->suspended = true;
    MHD_suspend_connection(connection->mhd);
}

void connection_resume(struct connection *connection) {
    if (!connection->suspended) return;
    connection->suspended = false;
    if (connection->phase == PHASE_ANSWER) connection_offer(connection);
    MHD_resume_connection(connection->mhd);
    want_run(connection->http);
}

// The fastest way out that libmicrohttpd's interface leaves: it will find the socket dead. Where its buffer is full and
// it does not look, it gives up a second later.
static void cut_off(struct connection *connection) {
    shutdown(connection->fd, SHUT_RDWR);
    MHD_set_connection_option(connection->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 1U);
    connection->waiting = false;
    connection_resume(connection);
    want_run(connection->http);
}

void connection_leave(struct connection *connection, const char *why) {
    if (connection->fate != FATE_OPEN) return;
    connection->fate = FATE_GONE;
    if (connection->active) {
        connection->exchange.failed = why;
        connection->http->handler.gone(connection->http->handler.user, &connection->exchange);
    }
    if (connection->suspended && connection->phase > PHASE_BODY)
        connection_resume(connection); // its next callback reports the failure
    else
        cut_off(connection);
}

static bool takes_time(const struct connection *connection) {
    return connection->active && (connection->phase == PHASE_WORK || connection->streaming);
}

static bool nothing_unread(const struct connection *connection) {
    char byte;
    return recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static bool tcp_state(const struct connection *connection, struct tcp_info *out) {
    socklen_t bytes = sizeof *out;
    return getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, out, &bytes) == 0 &&
           bytes >= offsetof(struct tcp_info, tcpi_bytes_received) + sizeof out->tcpi_bytes_received;
}

// Bytes of all answers on this connection that the client's machine has acknowledged. Where that can not be told, of a
// Unix socket, those of streams that do not lie in it any more, more or less: it counts what they take up there.
static uint64_t bytes_taken(const struct connection *connection) {
    struct tcp_info info;
    if (tcp_state(connection, &info)) return info.tcpi_bytes_acked;
    int lying = 0;
    if (ioctl(connection->fd, SIOCOUTQ, &lying) != 0 || lying < 0) lying = 0;
    return connection->passed_on > (uint64_t)lying ? connection->passed_on - (uint64_t)lying : 0;
}

static uint64_t bytes_received(const struct connection *connection) {
    struct tcp_info info;
    return tcp_state(connection, &info) ? info.tcpi_bytes_received : UINT64_MAX;
}

static uint64_t bytes_unread(const struct connection *connection) {
    int unread = 0;
    return ioctl(connection->fd, FIONREAD, &unread) == 0 ? (uint64_t)unread : 0;
}

// Bytes that libmicrohttpd has read: all that came, less what still lies in the socket. UINT64_MAX: nobody knows.
static uint64_t bytes_read(const struct connection *connection) {
    uint64_t unread = bytes_unread(connection); // first: what comes in between counts as read, which ends a connection
    uint64_t received = bytes_received(connection); // rather than trusting it
    return received == UINT64_MAX ? received : received - unread;
}

// The same, but what comes in between does not count: for a client that is not to suffer from sending fast.
static uint64_t bytes_surely_read(const struct connection *connection) {
    uint64_t received = bytes_received(connection);
    uint64_t unread = bytes_unread(connection);
    return received != UINT64_MAX && received > unread ? received - unread : 0;
}

bool connection_ends(const struct connection *connection) {
    if (connection->chunked || connection->uncounted) return true; // where it ends, libmicrohttpd alone knows
    if (connection->vetted > 0) return false;
    if (connection->more_follows) return true;
    return bytes_received(connection) > connection->vetted_bytes && bytes_read(connection) > connection->vetted_bytes;
}

// ---- Between requests
//
// libmicrohttpd is kept from reading a connection whose next header has not been looked at: it would answer some
// mistakes with a page of its own, and overlook others. So behind every answer it suspends the connection, and the next
// header is looked at where it lies, in the socket, as the listener does with the first. What it has read beyond the
// requests that were looked at (a client need not wait for an answer) is never taken for a request: the connection
// ends.
//
// A body in chunks is framed all along, and can not be looked at beforehand. So libmicrohttpd is kept from reading such
// bodies as well, but for one connection at a time: when it reports a mistake, we know whose it is, and answer before
// it does. It overlooks some; but what never ends is ours to end, before its buffer is full and it would wait for ever.

void connection_settle_later(struct connection *connection) {
    if (connection->settle_link) return;
    struct http *http = connection->http;
    connection->settle_next = http->to_settle;
    connection->settle_link = &http->to_settle;
    if (connection->settle_next) connection->settle_next->settle_link = &connection->settle_next;
    http->to_settle = connection;
}

static void settle_never(struct connection *connection) {
    if (!connection->settle_link) return;
    *connection->settle_link = connection->settle_next;
    if (connection->settle_next) connection->settle_next->settle_link = connection->settle_link;
    connection->settle_link = NULL;
}

// libmicrohttpd has run, or is done with a request of a connection that stays: keeps it from reading on where it may
// not.
void connection_settle(struct connection *connection) {
    if (connection->fate != FATE_OPEN || connection->suspended) return;
    bool between = !connection->active && connection->vetted == 0;
    bool in_chunks = connection->active && connection->chunked && connection->phase == PHASE_BODY;
    if (!between && !in_chunks) return;
    connection_suspend(connection);
    connection->waiting = between;
    connection->seen = 0;
    loop_watch_start(connection->watch, LOOP_READABLE | LOOP_DISCONNECT);
}

static void settle_all(struct http *http) {
    while (http->to_settle) {
        struct connection *connection = http->to_settle;
        settle_never(connection);
        connection_settle(connection);
    }
}

// From now on only its leaving is of interest.
static void watch_leaving(struct connection *connection) {
    if (connection->half_closed)
        loop_watch_stop(connection->watch);
    else
        loop_watch_start(connection->watch, LOOP_DISCONNECT);
}

// The socket of a connection that is suspended, so that libmicrohttpd's epoll set has not got it: what libmicrohttpd is
// left with is a dead one. -1: there are no descriptors left.
static int take_socket(struct connection *connection) {
    loop_watch_destroy(connection->watch);
    connection->watch = NULL;
    listener_peer(connection->fd, connection->peer);
    int fd = fcntl(connection->fd, F_DUPFD_CLOEXEC, 0);
    (void)dup2(connection->http->dead_fd, connection->fd); // needs no descriptor that there is not
    return fd;
}

// Answers a header that libmicrohttpd has not seen, and never will.
static void refuse_next(struct connection *connection, int status, const struct error *error) {
    int fd = take_socket(connection);
    if (fd >= 0) listener_refuse(connection->http->listener, fd, status, error);
    connection->fate = FATE_REFUSED;
    cut_off(connection);
}

static void look_at_next(struct connection *connection) {
    struct http *http = connection->http;
    struct http_vetted vetted;
    struct error error;
    bool waited = connection->seen > 0;
    int status = listener_peek(http->listener, connection->fd, &connection->seen, &vetted, &error);
    if (status < 0 || (status == 0 && connection->half_closed)) { // no more will come
        cut_off(connection);
    } else if (status == 0) {
        if (!waited) connection_set_phase(connection, PHASE_IDLE, http->options.header_ms);
    } else if (status == 200) {
        connection->waiting = false;
        connection->vetted = vetted.requests;
        connection->vetted_bytes += vetted.bytes;
        connection->more_follows = vetted.more_follows;
        connection_resume(connection); // watched as before: most are answered before the loop looks again
    } else {
        refuse_next(connection, status, &error);
    }
}

void connection_begin_chunks(struct connection *connection) {
    connection->untouched = connection->header_again = true;
    connection->http->untouched++;
    connection->received_before = 0;
    connection->read_before = bytes_read(connection);
    connection_suspend(connection); // and not a byte of the body further
}

static void touch(struct connection *connection) {
    if (connection->untouched) connection->http->untouched--;
    connection->untouched = false;
}

// Were libmicrohttpd to read what still comes of a body in chunks, its complaints would be taken for another's.
void connection_dismiss(struct connection *connection) {
    touch(connection);
    int fd = take_socket(connection);
    if (fd >= 0) listener_linger(connection->http->listener, fd);
    cut_off(connection);
}

// Sizes and trailers without a byte of the body between them: nobody needs so much.
static bool makes_no_progress(struct connection *connection) {
    enum { IDLE_BYTES_MAX = 4096 };
    if (connection->received == connection->received_before && connection->uncounted)
        return bytes_unread(connection) > 0; // it reads no more: its buffer is full
    if (connection->received == connection->received_before)
        return bytes_surely_read(connection) > connection->read_before + IDLE_BYTES_MAX;
    connection->received_before = connection->received;
    connection->read_before = bytes_read(connection);
    return false;
}

// libmicrohttpd makes what it can of the bytes that are there, for this connection alone.
static void read_chunks(struct connection *connection) {
    struct http *http = connection->http;
    watch_leaving(connection);
    touch(connection);
    http->chunks = connection;
    connection_resume(connection);
    connection_settle_later(connection);
    MHD_run(http->daemon);
    bool there = http->chunks == connection; // it is not freed
    http->chunks = NULL;
    if (there && connection->active && connection->phase == PHASE_BODY && connection->fate == FATE_OPEN &&
        makes_no_progress(connection)) {
        struct error error;
        error_set_code(&error, ERROR_CHUNKS);
        connection_suspend(connection); // so that it is dismissed
        http_refuse_body(connection, &error);
    }
    settle_all(http);
}

static void read_untouched(struct http *http) {
    struct connection *connection = http->untouched > 0 ? http->connections : NULL;
    while (connection && !connection->untouched) connection = connection->next;
    if (connection) read_chunks(connection);
}

// The client has closed its side, which we take for leaving while an answer takes time. Nobody reads the socket
// then, so nobody else would notice; and libmicrohttpd also misses a close that comes together with a request.
static void on_socket(void *user, int events) {
    struct connection *connection = user;
    if (events & LOOP_DISCONNECT) connection->half_closed = true;
    if (connection->waiting) {
        look_at_next(connection);
    } else if (connection->suspended && connection->phase == PHASE_BODY) {
        read_chunks(connection);
    } else {
        watch_leaving(connection);
        if (connection->half_closed && takes_time(connection)) connection_leave(connection, HTTP_CLIENT_LEFT);
    }
}

// libmicrohttpd is about to answer a mistake with a page of its own.
static void on_complaint(void *user, const char *format, va_list arguments) {
    (void)arguments;
    struct http *http = user;
    struct connection *connection = http->chunks;
    if (!connection || connection->fate != FATE_OPEN || !strstr(format, "Error processing request")) return;
    struct error error;
    error_set_code(&error, ERROR_CHUNKS);
    http_refuse_body(connection, &error);
}

// Twice where libmicrohttpd asks for it: one that was suspended behind an answer it only finds ready to be read the
// first time. What is left then waits for the loop's next turn, so that others get theirs.
static void before_wait(void *user) {
    struct http *http = user;
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    if (!http->run_wanted) return;
    http->run_wanted = false;
    bool asks = true;
    for (int i = 0; i < 2 && asks && wait_ms == 0; i++) {
        MHD_run(http->daemon);
        settle_all(http);
        asks = MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES;
    }
    while (http->untouched > 0) read_untouched(http);
    if (MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES) loop_timer_start(http->again, wait_ms, 0);
}

// ---- Coming and going

static void on_notify_connection(void *user, struct MHD_Connection *mhd, void **context,
                                 enum MHD_ConnectionNotificationCode code) {
    struct http *http = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct connection *connection = http->arriving;
        *context = connection;
        connection->mhd = mhd;
        connection->next = http->connections;
        connection->link = &http->connections;
        if (connection->next) connection->next->link = &connection->next;
        http->connections = connection;
        return;
    }
    struct connection *connection = *context;
    settle_never(connection);
    if (http->chunks == connection) http->chunks = NULL;
    if (connection->untouched) http->untouched--;
    loop_watch_destroy(connection->watch); // before the descriptor is closed
    connection->watch = NULL;
    *connection->link = connection->next;
    if (connection->next) connection->next->link = connection->link;
    if (connection == http->arriving) return; // it did not work out: on_connected cleans up
    int copy = connection->linger ? fcntl(connection->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy >= 0) listener_linger(http->listener, copy);
    free(connection);
    listener_left(http->listener);
}

// From the listener: a socket with a whole, proper header in it.
bool connection_arrives(void *user, int fd, struct loop_watch *watch, const struct http_vetted *vetted) {
    struct http *http = user;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        loop_watch_destroy(watch);
        close(fd);
        return false;
    }
    connection->http = http;
    connection->fd = fd;
    connection->watch = watch;
    connection->vetted = vetted->requests;
    connection->vetted_bytes = vetted->bytes;
    connection->more_follows = vetted->more_follows;
    connection->uncounted = bytes_received(connection) == UINT64_MAX;
    loop_watch_redirect(watch, on_socket, connection);
    buffer_init(&connection->exchange.body, http->options.body_bytes_max);
    connection_set_phase(connection, PHASE_IDLE, http->options.header_ms);
    http->arriving = connection; // for on_notify_connection
    enum MHD_Result added = MHD_add_connection(http->daemon, fd, NULL, 0);
    http->arriving = NULL;
    want_run(http);
    if (added != MHD_YES) { // it has closed the socket
        loop_watch_destroy(connection->watch);
        free(connection);
        return false;
    }
    return true;
}

// ---- Deadlines

static void check_deadline(struct connection *connection) {
    struct error error;
    switch (connection->phase) {
    case PHASE_IDLE:
        if (connection->waiting && connection->seen > 0) {
            error_set(&error, ERROR_TIMEOUT, "the request's header did not arrive in time");
            refuse_next(connection, api_error_status(error.code), &error);
        } else {
            cut_off(connection);
        }
        break;
    case PHASE_BODY:
        error_set(&error, ERROR_TIMEOUT, "the request's body did not arrive in time");
        http_refuse_body(connection, &error);
        break;
    case PHASE_WORK:
        break; // the engine takes the time it takes; disconnects are watched for
    case PHASE_ANSWER:
        if (!connection->suspended && !connection->uncounted)
            connection_leave(connection, HTTP_SLOW_READER); // there are bytes for it
        break;
    }
}

// How fast a client reads is its own business, as long as it does. Returns how many bytes it has taken since the last
// time.
static uint64_t note_progress(struct connection *connection) {
    uint64_t before = connection->taken, taken = bytes_taken(connection);
    if (taken == before) return 0;
    connection->taken = taken;
    connection_set_phase(connection, PHASE_ANSWER, connection->http->options.slow_reader_ms);
    return taken > before ? taken - before : 0;
}

// Whose stream stands still is excused for a while, and for a millisecond more with each byte that it takes. Systems
// tell of reading in pieces, of up to 64 kB on one machine: so one piece may excuse it for long.
static bool stands_still(struct connection *connection, uint64_t taken, uint64_t now) {
    const struct http *http = connection->http;
    uint64_t least = now + http->options.blocking_reader_ms, most = now + http->options.slow_reader_ms;
    if (!connection->streaming || connection->fate != FATE_OPEN) return false;
    bool was_behind = connection->behind;
    connection->behind = http->handler.behind(http->handler.user, &connection->exchange);
    if (!connection->behind) return false;
    if (!was_behind) { // what was taken until now may only have filled its machine's buffers
        if (connection->excused_ms < least) connection->excused_ms = least;
    } else if (taken > 0) {
        uint64_t excused = (connection->excused_ms > now ? connection->excused_ms : now) + taken;
        connection->excused_ms = excused < most ? excused : most;
    }
    return now >= connection->excused_ms;
}

void connection_tick(struct http *http) {
    uint64_t now = loop_now_ms(http->loop);
    struct connection *stillest = NULL; // one at a time: its place may be enough
    for (struct connection *connection = http->connections, *next; connection; connection = next) {
        next = connection->next;
        bool reads = connection->phase == PHASE_ANSWER && !connection->suspended;
        bool still = reads && stands_still(connection, note_progress(connection), now);
        if (now >= connection->deadline_ms)
            check_deadline(connection);
        else if (connection->half_closed && connection->phase <= PHASE_BODY && nothing_unread(connection))
            cut_off(connection);
        else if (still && (!stillest || connection->excused_ms < stillest->excused_ms))
            stillest = connection;
    }
    if (stillest && http->handler.held_up(http->handler.user)) connection_leave(stillest, HTTP_SLOW_READER);
}

// ---- The daemon

// The router decodes what it needs by itself: a decoded "%2F" or "%00" could not be told from the real thing.
static size_t keep_escapes(void *user, struct MHD_Connection *mhd, char *text) {
    (void)user;
    (void)mhd;
    return strlen(text);
}

static int dead_socket(void) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return -1;
    close(pair[1]);
    return pair[0];
}

int connection_open_daemon(struct http *http, struct error *error) {
    http->dead_fd = dead_socket();
    if (http->dead_fd < 0) return error_set(error, ERROR_IO, "no socket can be made: %s", strerror(errno));
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG | ONE_THREAD, 0, NULL,
        NULL, http_on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_complaint, http, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(http->options.connections_max + SPARE_CONNECTIONS), MHD_OPTION_NOTIFY_CONNECTION,
        on_notify_connection, http, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, http, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, NULL, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) return error_set(error, ERROR_IO, "the HTTP library could not start");
    http->watch = loop_watch_create(http->loop, info->epoll_fd, on_ready, http);
    http->again = loop_timer_create(http->loop, on_again, http);
    if (!http->watch || !http->again) return error_set_code(error, ERROR_MEMORY);
    loop_before_wait(http->loop, before_wait, http);
    loop_watch_start(http->watch, LOOP_READABLE);
    return 0;
}

void connection_close_daemon(struct http *http) {
    loop_before_wait(http->loop, NULL, NULL);
    if (http->daemon) {
        // Stopping with suspended connections is against libmicrohttpd's rules: resume them, let each find out
        // that it is cut off, then stop.
        http_abort(http);
        MHD_run(http->daemon);
        loop_watch_destroy(http->watch); // before its descriptor is closed
        MHD_stop_daemon(http->daemon);
    }
    loop_timer_destroy(http->again);
    if (http->dead_fd >= 0) close(http->dead_fd);
}
