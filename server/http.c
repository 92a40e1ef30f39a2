#include "server/http.h"

#include "server/http_syntax.h"
#include "server/listener.h"
#include "server/refusal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h> // netinet/tcp.h lacks tcpi_bytes_acked
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TICK_MS = 250,
    LINGER_MS = 2000,
    SPARE_CONNECTIONS = 16,
};

// One thread does it all. Newer versions have to be told, or MHD_add_connection would only do half of its work.
#if MHD_VERSION >= 0x00097707
enum { ONE_THREAD = MHD_USE_NO_THREAD_SAFETY };
#else
enum { ONE_THREAD = 0 };
#endif

// Later requests on a connection as strict as the first, as far as a version can be told. (The older
// MHD_OPTION_STRICT_FOR_CLIENT refuses nothing more that we want refused, and does it in HTML.)
#if MHD_VERSION >= 0x00097701
#define STRICTNESS MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1,
#else
#define STRICTNESS
#endif

// What a connection's deadline is for.
enum phase { PHASE_IDLE, PHASE_BODY, PHASE_WORK, PHASE_ANSWER };

// Beyond OPEN, all that we still do for a connection is closing it.
enum fate { FATE_OPEN, FATE_REFUSED /* answered past libmicrohttpd */, FATE_GONE };

struct connection {
    struct connection *next, **link; // in http->connections
    struct http *http;
    struct MHD_Connection *mhd;
    int fd;
    struct loop_watch *watch; // for the client's leaving
    enum phase phase;
    uint64_t deadline_ms; // of the phase; moved by progress in PHASE_ANSWER
    uint64_t taken;       // bytes that the client's machine had acknowledged when last looked at
    enum fate fate;
    struct exchange exchange;
    bool active;                   // an exchange is under way: `header` was called, `finished` was not
    bool delivered;                // `request` was called
    size_t received;               // bytes of the body so far
    bool refuse_early;             // answer before the body, and close
    bool discard;                  // there is an answer already: the body goes nowhere
    bool streaming;                // the answer is a stream that may go on for long
    bool suspended;                // libmicrohttpd leaves it alone until we resume it
    bool half_closed;              // the client sends no more
    bool linger;                   // closed while the client may still be sending
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
    struct connection *arriving; // the connection that MHD_add_connection is being called for
    size_t exchanges;
    size_t body_bytes; // memory of all the bodies that are arriving
    bool run_wanted, quiet;
};

static struct connection *connection_of(const struct exchange *exchange) {
    return (struct connection *)((char *)exchange - offsetof(struct connection, exchange));
}

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

static void before_wait(void *user) {
    struct http *http = user;
    if (!http->run_wanted) return;
    http->run_wanted = false;
    MHD_run(http->daemon);
    MHD_UNSIGNED_LONG_LONG wait_ms;
    if (MHD_get_timeout(http->daemon, &wait_ms) == MHD_YES) loop_timer_start(http->again, wait_ms, 0);
}

// ---- Connections

static void set_phase(struct connection *connection, enum phase phase, uint64_t patience_ms) {
    connection->phase = phase;
    connection->deadline_ms = loop_now_ms(connection->http->loop) + patience_ms;
}

// The fastest way out that libmicrohttpd's interface leaves: it will find the socket dead.
static void cut_off(struct connection *connection) {
    shutdown(connection->fd, SHUT_RDWR);
    want_run(connection->http);
}

static void resume(struct connection *connection) {
    if (!connection->suspended) return;
    connection->suspended = false;
    if (connection->phase == PHASE_ANSWER)
        set_phase(connection, PHASE_ANSWER, connection->http->options.slow_reader_ms);
    MHD_resume_connection(connection->mhd);
    want_run(connection->http);
}

static void suspend(struct connection *connection) {
    connection->suspended = true;
    MHD_suspend_connection(connection->mhd);
}

static const char CLIENT_LEFT[] = "the client left", OUT_OF_MEMORY[] = "out of memory";

static void leave(struct connection *connection, const char *why) {
    if (connection->fate != FATE_OPEN) return;
    connection->fate = FATE_GONE;
    if (connection->active) {
        connection->exchange.failed = why;
        connection->http->handler.gone(connection->http->handler.user, &connection->exchange);
    }
    if (connection->suspended)
        resume(connection); // its next callback reports the failure
    else
        cut_off(connection);
}

static bool takes_time(const struct connection *connection) {
    return connection->active && (connection->phase == PHASE_WORK || connection->streaming);
}

// The client has closed its side, which we take for leaving while an answer takes time. Nobody reads the socket
// then, so nobody else would notice; and libmicrohttpd also misses a close that comes together with a request.
static void on_disconnect(void *user, int events) {
    struct connection *connection = user;
    if (!(events & LOOP_DISCONNECT)) return;
    loop_watch_stop(connection->watch);
    connection->half_closed = true;
    if (takes_time(connection)) leave(connection, CLIENT_LEFT);
}

static bool nothing_unread(const struct connection *connection) {
    char byte;
    return recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

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
static bool on_connected(void *user, int fd, struct loop_watch *watch) {
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
    loop_watch_stop(watch);
    loop_watch_redirect(watch, on_disconnect, connection);
    buffer_init(&connection->exchange.body, http->options.body_bytes_max);
    set_phase(connection, PHASE_IDLE, http->options.header_ms);
    http->arriving = connection; // for on_notify_connection
    enum MHD_Result added = MHD_add_connection(http->daemon, fd, NULL, 0);
    http->arriving = NULL;
    want_run(http);
    if (added != MHD_YES) { // it has closed the socket
        loop_watch_destroy(connection->watch);
        free(connection);
        return false;
    }
    loop_watch_start(watch, LOOP_DISCONNECT);
    return true;
}

// ---- Reading a request

void http_take_body(struct exchange *exchange, struct buffer *out) {
    struct connection *connection = connection_of(exchange);
    *out = exchange->body;
    buffer_init(&exchange->body, out->bytes_max);
    connection->http->body_bytes -= out->capacity;
}

static void note_cause(struct exchange *exchange, const struct error *error) {
    exchange->cause = error->code;
    snprintf(exchange->cause_param, sizeof exchange->cause_param, "%s", error->param);
}

// status 0: what belongs to the error's code.
static void reply_error(struct exchange *exchange, int status, const struct error *error, const char *allow) {
    struct api_reply reply;
    api_reply_init(&reply);
    api_reply_error(&reply, error);
    if (status) reply.status = status;
    note_cause(exchange, error);
    http_reply(exchange, &reply, allow);
}

void http_reply_error(struct exchange *exchange, const struct error *error, const char *allow) {
    reply_error(exchange, 0, error, allow);
}

struct header_scan {
    struct http_facts facts;
    const char *id;
    bool expects_continue;
    int status; // to refuse with
    struct error error;
};

static enum MHD_Result scan_line(void *user, enum MHD_ValueKind kind, const char *name, size_t name_bytes,
                                 const char *value, size_t value_bytes) {
    (void)kind;
    struct header_scan *scan = user;
    scan->status = http_facts_line(&scan->facts, name, name_bytes, value, value_bytes, &scan->error);
    if (name_bytes == 12 && strcasecmp(name, "x-request-id") == 0) scan->id = value;
    if (name_bytes == 6 && strcasecmp(name, "expect") == 0) scan->expects_continue = true;
    return scan->status == 0 ? MHD_YES : MHD_NO;
}

static void begin(struct connection *connection, const char *target, const char *method, const char *version) {
    struct http *http = connection->http;
    struct exchange *exchange = &connection->exchange;
    *exchange = (struct exchange){.method = method, .target = target, .body = exchange->body};
    exchange->started_ms = loop_now_ms(http->loop);
    connection->delivered = connection->refuse_early = connection->discard = connection->streaming = false;
    connection->received = 0;
    connection->active = true;
    http->exchanges++;

    struct header_scan scan = {0};
    MHD_get_connection_values_n(connection->mhd, MHD_HEADER_KIND, scan_line, &scan);
    if (!scan.status) scan.status = http_facts_end(&scan.facts, strcmp(version, "HTTP/1.0") == 0, &scan.error);
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(connection->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!scan.status && size && size->header_size > HTTP_HEADER_BYTES_MAX)
        scan.status = http_header_too_large(&scan.error);
    exchange->host = scan.facts.host;
    request_id_choose(exchange->id, scan.id);
    if (scan.status) {
        connection->refuse_early = true; // where the message ends is in doubt: close
        reply_error(exchange, scan.status, &scan.error, NULL);
        return;
    }
    bool has_body = scan.facts.encodings > 0 || scan.facts.content_length > 0;
    if (has_body) set_phase(connection, PHASE_BODY, http->options.body_ms);

    http->handler.header(http->handler.user, exchange);
    if (!exchange->status && scan.facts.content_length > http->options.body_bytes_max) {
        struct error error;
        error_set(&error, ERROR_TOO_LARGE, "the body has %llu bytes; at most %zu are accepted",
                  (unsigned long long)scan.facts.content_length, http->options.body_bytes_max);
        reply_error(exchange, 0, &error, NULL);
    }
    if (!exchange->status) return;
    connection->discard = has_body;
    connection->refuse_early =
        has_body && (scan.expects_continue || scan.facts.content_length > http->options.body_bytes_max);
}

// In mid-body libmicrohttpd takes no answer, and has sent nothing: we answer on the socket ourselves.
static void refuse_body(struct connection *connection, const struct error *error) {
    struct exchange *exchange = &connection->exchange;
    exchange->status = api_error_status(error->code);
    note_cause(exchange, error);
    refusal_send(connection->fd, exchange->status, exchange->id, error);
    connection->linger = true;
    connection->fate = FATE_REFUSED; // whatever libmicrohttpd asks next is answered by closing
}

static enum MHD_Result take_body(struct connection *connection, const char *data, size_t bytes) {
    struct http *http = connection->http;
    struct buffer *body = &connection->exchange.body;
    if (connection->fate != FATE_OPEN) return MHD_NO;

    size_t before = body->capacity;
    connection->received += bytes;
    bool fits = connection->received <= body->bytes_max;
    if (fits && connection->discard) return MHD_YES;
    bool room = fits && buffer_append(body, data, bytes);
    http->body_bytes += body->capacity - before;
    if (room && http->body_bytes / HTTP_BODIES_MAX <= http->options.body_bytes_max) return MHD_YES;

    struct error error;
    if (fits)
        error_set_code(&error, ERROR_BUSY);
    else
        error_set(&error, ERROR_TOO_LARGE, "the body has more than the %zu bytes that are accepted", body->bytes_max);
    refuse_body(connection, &error);
    return MHD_NO;
}

// ---- Answering

// Bytes of all answers on this connection that the client's machine has acknowledged; 0 where that can not be told.
static uint64_t bytes_taken(const struct connection *connection) {
    struct tcp_info info;
    socklen_t bytes = sizeof info;
    if (getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return 0;
    return bytes < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked ? 0
                                                                                              : info.tcpi_bytes_acked;
}

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    MHD_add_response_header(response, name, value);
}

static enum MHD_Result queue(struct connection *connection) {
    struct MHD_Response *response = connection->response;
    connection->response = NULL;
    connection->linger = connection->linger || connection->refuse_early;
    if (connection->refuse_early) add_header(response, "Connection", "close"); // 1.0 would go on after a GET
    connection->taken = bytes_taken(connection);
    set_phase(connection, PHASE_ANSWER, connection->http->options.slow_reader_ms);
    enum MHD_Result queued = MHD_queue_response(connection->mhd, (unsigned)connection->exchange.status, response);
    MHD_destroy_response(response); // libmicrohttpd holds its own reference
    return queued;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *mhd, const char *target, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **context) {
    struct http *http = user;
    struct connection *connection = *context;
    if (!connection) { // the first call: the header is here
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        *context = connection = info->socket_context;
        begin(connection, target, method, version);
        if (connection->fate != FATE_OPEN) return MHD_NO;
        return connection->refuse_early ? queue(connection) : MHD_YES;
    }
    if (*data_bytes > 0) {
        enum MHD_Result taken = take_body(connection, data, *data_bytes);
        *data_bytes = 0;
        return taken;
    }
    if (connection->fate != FATE_OPEN) return MHD_NO;
    if (!connection->response && !connection->delivered) {
        connection->delivered = true;
        set_phase(connection, PHASE_WORK, 0);
        http->handler.request(http->handler.user, &connection->exchange);
        if (!connection->response && connection->half_closed) leave(connection, CLIENT_LEFT);
        if (connection->fate != FATE_OPEN) return MHD_NO;
    }
    if (connection->response) return queue(connection);
    suspend(connection);
    return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code) {
    (void)mhd;
    struct http *http = user;
    struct connection *connection = *context;
    if (!connection) return; // it ended before its header did
    *context = NULL;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && connection->fate == FATE_OPEN && !connection->exchange.failed)
        connection->exchange.failed = CLIENT_LEFT;
    if (connection->response) MHD_destroy_response(connection->response); // one that was never queued
    connection->response = NULL;
    connection->suspended = connection->active = false;
    http->exchanges--;
    http->handler.finished(http->handler.user, &connection->exchange);
    struct buffer body;
    http_take_body(&connection->exchange, &body);
    buffer_finish(&body);
    set_phase(connection, PHASE_IDLE, http->options.idle_ms);
}

static void answer(struct exchange *exchange, struct MHD_Response *response, int status, const char *content_type) {
    struct connection *connection = connection_of(exchange);
    exchange->status = status;
    connection->response = response;
    add_header(response, "Content-Type", content_type);
    add_header(response, "x-request-id", exchange->id);
    if (connection->http->quiet) add_header(response, "Connection", "close");
    resume(connection);
}

const char *http_header(const struct exchange *exchange, const char *name) {
    return MHD_lookup_connection_value(connection_of(exchange)->mhd, MHD_HEADER_KIND, name);
}

void http_reply(struct exchange *exchange, struct api_reply *reply, const char *allow) {
    if (reply->body.failed) {
        struct error error;
        error_set_code(&error, ERROR_MEMORY);
        buffer_clear(&reply->body);
        api_reply_error(reply, &error);
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(reply->body.bytes, reply->body.data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        buffer_finish(&reply->body);
        leave(connection_of(exchange), OUT_OF_MEMORY);
        return;
    }
    buffer_init(&reply->body, reply->body.bytes_max); // the response owns the bytes now
    char text[32];
    if (reply->retry_after_seconds > 0) {
        snprintf(text, sizeof text, "%.0f", reply->retry_after_seconds < 1 ? 1 : reply->retry_after_seconds);
        add_header(response, "retry-after", text);
        snprintf(text, sizeof text, "%.0f", reply->retry_after_seconds * 1000);
        add_header(response, "retry-after-ms", text);
    }
    if (reply->never_retry) add_header(response, "x-should-retry", "false");
    if (allow) add_header(response, "Allow", allow);
    answer(exchange, response, reply->status, reply->content_type);
}

static ssize_t on_read(void *user, uint64_t position, char *out, size_t bytes_max) {
    (void)position;
    struct connection *connection = user;
    struct http *http = connection->http;
    if (connection->fate != FATE_OPEN) return MHD_CONTENT_READER_END_WITH_ERROR;
    ssize_t got = http->handler.read(http->handler.user, &connection->exchange, out, bytes_max);
    set_phase(connection, PHASE_ANSWER, http->options.slow_reader_ms);
    if (got > 0) return got;
    if (got == HTTP_READ_LATER) {
        suspend(connection);
        return 0;
    }
    connection->streaming = false; // once the end is on its way the client may leave as it likes
    if (got == HTTP_READ_END) return MHD_CONTENT_READER_END_OF_STREAM;
    connection->exchange.failed = OUT_OF_MEMORY;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

void http_stream(struct exchange *exchange, const char *content_type) {
    struct connection *connection = connection_of(exchange);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024, on_read, connection, NULL);
    if (!response) {
        leave(connection, OUT_OF_MEMORY);
        return;
    }
    connection->streaming = true;
    add_header(response, "Cache-Control", "no-cache");
    answer(exchange, response, 200, content_type);
}

void http_wake(struct exchange *exchange) {
    resume(connection_of(exchange));
}

size_t http_exchanges(const struct http *http) {
    return http->exchanges;
}

// ---- Deadlines

static void check_deadline(struct connection *connection) {
    switch (connection->phase) {
    case PHASE_IDLE:
        cut_off(connection);
        break;
    case PHASE_BODY: {
        struct error error;
        error_set(&error, ERROR_TIMEOUT, "the request's body did not arrive in time");
        refuse_body(connection, &error);
        shutdown(connection->fd, SHUT_WR);
        set_phase(connection, PHASE_IDLE, LINGER_MS); // time to read the answer; then it is cut off
        break;
    }
    case PHASE_WORK:
        break; // the engine takes the time it takes; disconnects are watched for
    case PHASE_ANSWER:
        if (!connection->suspended) leave(connection, "the client reads too slowly"); // there are bytes for it
        break;
    }
}

// How fast a client reads is its own business, as long as it does.
static void note_progress(struct connection *connection) {
    uint64_t taken = bytes_taken(connection);
    if (taken == connection->taken) return;
    connection->taken = taken;
    set_phase(connection, PHASE_ANSWER, connection->http->options.slow_reader_ms);
}

static void on_tick(void *user) {
    struct http *http = user;
    listener_tick(http->listener);
    uint64_t now = loop_now_ms(http->loop);
    for (struct connection *connection = http->connections; connection; connection = connection->next) {
        if (connection->phase == PHASE_ANSWER && !connection->suspended) note_progress(connection);
        if (now >= connection->deadline_ms)
            check_deadline(connection);
        else if (connection->half_closed && connection->phase <= PHASE_BODY && nothing_unread(connection))
            cut_off(connection);
    }
}

// ---- Life

static void on_refused(void *user, int status, const char *request_id, const struct error *error) {
    struct http *http = user;
    http->handler.refused(http->handler.user, status, request_id, error);
}

// The router decodes what it needs by itself: a decoded "%2F" or "%00" could not be told from the real thing.
static size_t keep_escapes(void *user, struct MHD_Connection *mhd, char *text) {
    (void)user;
    (void)mhd;
    return strlen(text);
}

static int open_daemon(struct http *http, struct error *error) {
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | ONE_THREAD, 0, NULL, NULL, on_request,
        http, MHD_OPTION_CONNECTION_LIMIT, (unsigned)(http->options.connections_max + SPARE_CONNECTIONS),
        MHD_OPTION_NOTIFY_CONNECTION, on_notify_connection, http, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, STRICTNESS MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) return error_set(error, ERROR_IO, "the HTTP library could not start");
    http->watch = loop_watch_create(http->loop, info->epoll_fd, on_ready, http);
    http->tick = loop_timer_create(http->loop, on_tick, http);
    http->again = loop_timer_create(http->loop, on_again, http);
    if (!http->watch || !http->tick || !http->again) return error_set_code(error, ERROR_MEMORY);
    return 0;
}

int http_create(struct http **out, struct loop *loop, const struct http_options *options,
                const struct http_handler *handler, struct error *error) {
    struct http *http = calloc(1, sizeof *http);
    if (!http) {
        close(options->listen_fd);
        return error_set_code(error, ERROR_MEMORY);
    }
    http->loop = loop;
    http->options = *options;
    http->handler = *handler;
    struct listener_options door = {
        .fd = options->listen_fd,
        .connections_max = options->connections_max,
        .header_ms = options->header_ms,
        .linger_ms = LINGER_MS,
        .connected = on_connected,
        .refused = on_refused,
        .user = http,
    };
    int code = listener_create(&http->listener, loop, &door, error);
    if (!code) code = open_daemon(http, error);
    if (code) {
        http_destroy(http);
        return code;
    }
    loop_before_wait(loop, before_wait, http);
    loop_watch_start(http->watch, LOOP_READABLE);
    loop_timer_start(http->tick, TICK_MS, TICK_MS);
    *out = http;
    return 0;
}

void http_quiesce(struct http *http) {
    http->quiet = true;
    listener_close(http->listener);
}

void http_abort(struct http *http) {
    for (struct connection *connection = http->connections; connection; connection = connection->next)
        leave(connection, "the server stopped");
}

void http_destroy(struct http *http) {
    if (!http) return;
    loop_before_wait(http->loop, NULL, NULL);
    if (http->daemon) {
        // Stopping with suspended connections is against libmicrohttpd's rules: resume them, let each find out
        // that it is cut off, then stop.
        http_abort(http);
        MHD_run(http->daemon);
        loop_watch_destroy(http->watch); // before its descriptor is closed
        MHD_stop_daemon(http->daemon);
    }
    loop_timer_destroy(http->tick);
    loop_timer_destroy(http->again);
    listener_destroy(http->listener);
    free(http);
}
