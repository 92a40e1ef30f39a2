#include "base/clock.h"
#include "server/http_inside.h"
#include "server/refusal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TICK_MS = 250 };

static struct connection *connection_of(const struct exchange *exchange) {
    return (struct connection *)((char *)exchange - offsetof(struct connection, exchange));
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

struct header_scan {
    struct http_facts facts;
    const char *id;
    bool expects_continue;
    bool says_connection; // to end it behind the answer, most often
    int status;           // to refuse with
    struct error error;
};

static enum MHD_Result scan_line(void *user, enum MHD_ValueKind kind, const char *name, size_t name_bytes,
                                 const char *value, size_t value_bytes) {
    (void)kind;
    struct header_scan *scan = user;
    scan->status = http_facts_line(&scan->facts, name, name_bytes, value, value_bytes, &scan->error);
    if (name_bytes == 12 && strcasecmp(name, "x-request-id") == 0) scan->id = value;
    if (name_bytes == 6 && strcasecmp(name, "expect") == 0) scan->expects_continue = true;
    if (name_bytes == 10 && strcasecmp(name, "connection") == 0) scan->says_connection = true;
    return scan->status == 0 ? MHD_YES : MHD_NO;
}

static void begin(struct connection *connection, const char *target, const char *method, const char *version) {
    struct http *http = connection->http;
    struct exchange *exchange = &connection->exchange;
    *exchange = (struct exchange){.method = method, .target = target, .body = exchange->body};
    exchange->started_seconds = clock_seconds();
    connection->delivered = connection->refuse_early = connection->discard = connection->streaming = false;
    connection->received = 0;
    connection->active = true;
    if (connection->vetted > 0) connection->vetted--;
    http->exchanges++;

    struct header_scan scan = {0};
    MHD_get_connection_values_n(connection->mhd, MHD_HEADER_KIND, scan_line, &scan);
    bool http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    if (!scan.status) scan.status = http_facts_end(&scan.facts, http_1_0, &scan.error);
    connection->stays = !http_1_0 && !scan.says_connection;
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
    connection->chunked = scan.facts.encodings > 0;
    bool has_body = scan.facts.encodings > 0 || scan.facts.content_length > 0;

    http->handler.header(http->handler.user, exchange);
    if (!exchange->status && scan.facts.content_length > http->options.body_bytes_max) {
        struct error error;
        error_set(&error, ERROR_TOO_LARGE, "the body has %llu bytes; at most %zu are accepted",
                  (unsigned long long)scan.facts.content_length, http->options.body_bytes_max);
        reply_error(exchange, 0, &error, NULL);
    }
    if (has_body) connection_set_phase(connection, PHASE_BODY, http->options.body_ms);
    if (!exchange->status) return;
    connection->discard = has_body;
    connection->refuse_early =
        has_body && (scan.expects_continue || scan.facts.content_length > http->options.body_bytes_max);
}

void http_refuse_body(struct connection *connection, const struct error *error) {
    struct exchange *exchange = &connection->exchange;
    exchange->status = api_error_status(error->code);
    note_cause(exchange, error);
    refusal_send(connection->fd, exchange->status, exchange->id, error);
    shutdown(connection->fd, SHUT_WR); // nothing comes behind that
    connection->fate = FATE_REFUSED;   // whatever libmicrohttpd asks next is answered by closing
    connection->linger = !connection->suspended;
    connection_set_phase(connection, PHASE_IDLE, LINGER_MS); // time to read the answer; then it is cut off
    if (connection->suspended) connection_dismiss(connection);
}

void http_reply_error(struct exchange *exchange, const struct error *error, const char *allow) {
    struct connection *connection = connection_of(exchange);
    if (connection->phase == PHASE_BODY)
        http_refuse_body(connection, error);
    else
        reply_error(exchange, 0, error, allow);
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
    http_refuse_body(connection, &error);
    return MHD_NO;
}

// ---- Answering

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    MHD_add_response_header(response, name, value);
}

static enum MHD_Result queue(struct connection *connection) {
    struct MHD_Response *response = connection->response;
    connection->response = NULL;
    connection->linger = connection->linger || connection->refuse_early;
    bool ends = connection_ends(connection);
    connection->linger = connection->linger || ends;
    if (connection->refuse_early || ends || connection->http->quiet) {
        add_header(response, "Connection", "close"); // 1.0 would go on after a GET
        connection->stays = false;
    }
    connection_offer(connection);
    if (connection->uncounted)
        MHD_set_connection_option(connection->mhd, MHD_CONNECTION_OPTION_TIMEOUT,
                                  (unsigned)(connection->http->options.slow_reader_ms / 1000 + 1));
    enum MHD_Result queued = MHD_queue_response(connection->mhd, (unsigned)connection->exchange.status, response);
    MHD_destroy_response(response); // libmicrohttpd holds its own reference
    return queued;
}

enum MHD_Result http_on_request(void *user, struct MHD_Connection *mhd, const char *target, const char *method,
                                const char *version, const char *data, size_t *data_bytes, void **context) {
    struct http *http = user;
    struct connection *connection = *context;
    if (!connection) { // the first call: the header is here
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        connection = info->socket_context;
        if (connection->fate != FATE_OPEN) return MHD_NO;
        *context = connection;
        begin(connection, target, method, version);
        if (connection->fate != FATE_OPEN) return MHD_NO;
        if (connection->refuse_early) return queue(connection);
        if (connection->chunked) connection_begin_chunks(connection);
        return MHD_YES;
    }
    if (connection->header_again) {
        connection->header_again = false;
        return connection->fate == FATE_OPEN ? MHD_YES : MHD_NO;
    }
    if (*data_bytes > 0) {
        enum MHD_Result taken = take_body(connection, data, *data_bytes);
        *data_bytes = 0;
        return taken;
    }
    if (connection->fate != FATE_OPEN) return MHD_NO;
    if (!connection->response && !connection->delivered) {
        connection->delivered = true;
        connection_set_phase(connection, PHASE_WORK, 0);
        http->handler.request(http->handler.user, &connection->exchange);
        if (!connection->response && connection->half_closed) connection_leave(connection, HTTP_CLIENT_LEFT);
        if (connection->fate != FATE_OPEN) return MHD_NO;
    }
    if (connection->response) return queue(connection);
    connection_suspend(connection);
    return MHD_YES;
}

void http_on_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code) {
    (void)mhd;
    struct http *http = user;
    struct connection *connection = *context;
    if (!connection) return; // it ended before its header did
    *context = NULL;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && connection->fate == FATE_OPEN && !connection->exchange.failed)
        connection->exchange.failed =
            code == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED ? HTTP_SLOW_READER : HTTP_CLIENT_LEFT;
    if (connection->response) MHD_destroy_response(connection->response); // one that was never queued
    connection->response = NULL;
    connection->suspended = connection->active = false;
    http->exchanges--;
    http->handler.finished(http->handler.user, &connection->exchange);
    struct buffer body;
    http_take_body(&connection->exchange, &body);
    buffer_finish(&body);
    connection_set_phase(connection, PHASE_IDLE, http->options.idle_ms);
    // At once where we can: libmicrohttpd would put it into its epoll set, and we take it out of that again.
    if (connection->stays && code == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        connection_settle(connection);
    else
        connection_settle_later(connection);
}

static void add_cors(const struct http *http, struct MHD_Response *response) {
    const char *origin = http->options.cors_origin;
    if (!origin || !*origin) return;
    add_header(response, "Access-Control-Allow-Origin", origin);
    add_header(response, "Access-Control-Expose-Headers",
               "x-request-id, retry-after, retry-after-ms, x-should-retry, server-timing");
    if (strcmp(origin, "*") != 0) add_header(response, "Vary", "Origin");
}

static void answer(struct exchange *exchange, struct MHD_Response *response, int status, const char *content_type) {
    struct connection *connection = connection_of(exchange);
    exchange->status = status;
    connection->response = response;
    add_header(response, "Content-Type", content_type);
    add_header(response, "x-request-id", exchange->id);
    char timing[HTTP_TIMING_BYTES + 32];
    long long tenths_ms = (long long)((clock_seconds() - exchange->started_seconds) * 1e4); // print faster when whole
    snprintf(timing, sizeof timing, "%stotal;dur=%lld.%lld", exchange->timing, tenths_ms / 10, tenths_ms % 10);
    add_header(response, "Server-Timing", timing);
    add_cors(connection->http, response);
    connection_resume(connection);
}

const char *http_header(const struct exchange *exchange, const char *name) {
    return MHD_lookup_connection_value(connection_of(exchange)->mhd, MHD_HEADER_KIND, name);
}

void http_client(const struct exchange *exchange, char out[LISTENER_PEER_BYTES]) {
    const struct connection *connection = connection_of(exchange);
    if (connection->peer[0])
        memcpy(out, connection->peer, LISTENER_PEER_BYTES);
    else
        listener_peer(connection->fd, out);
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
        connection_leave(connection_of(exchange), HTTP_OUT_OF_MEMORY);
        return;
    }
    buffer_init(&reply->body, reply->body.bytes_max); // the response owns the bytes now
    if (reply->retry_after_seconds > 0) {
        char seconds[API_RETRY_BYTES], milliseconds[API_RETRY_BYTES];
        api_retry_after(reply->retry_after_seconds, seconds, milliseconds);
        add_header(response, "retry-after", seconds);
        add_header(response, "retry-after-ms", milliseconds);
    }
    if (reply->never_retry) add_header(response, "x-should-retry", "false");
    if (allow) add_header(response, "Allow", allow);
    if (reply->status == 401) add_header(response, "WWW-Authenticate", "Bearer realm=\"Tandem\"");
    answer(exchange, response, reply->status, reply->content_type);
}

bool http_preflight(struct exchange *exchange) {
    const char *origin = connection_of(exchange)->http->options.cors_origin;
    const char *wanted = http_header(exchange, "Access-Control-Request-Headers");
    if (!origin || !*origin || strcmp(exchange->method, "OPTIONS") != 0) return false;
    if (!http_header(exchange, "Origin") || !http_header(exchange, "Access-Control-Request-Method")) return false;
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!response) {
        connection_leave(connection_of(exchange), HTTP_OUT_OF_MEMORY);
        return true;
    }
    add_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE");
    if (wanted) add_header(response, "Access-Control-Allow-Headers", wanted); // which they are changes nothing here
    add_header(response, "Access-Control-Max-Age", "600");
    if (http_header(exchange, "Access-Control-Request-Private-Network")) // asked by pages from the Internet
        add_header(response, "Access-Control-Allow-Private-Network", "true");
    answer(exchange, response, 204, "text/plain");
    return true;
}

static ssize_t on_read(void *user, uint64_t position, char *out, size_t bytes_max) {
    (void)position;
    struct connection *connection = user;
    struct http *http = connection->http;
    if (connection->fate != FATE_OPEN) return MHD_CONTENT_READER_END_WITH_ERROR;
    ssize_t got = http->handler.read(http->handler.user, &connection->exchange, out, bytes_max);
    connection_set_phase(connection, PHASE_ANSWER, http->options.slow_reader_ms);
    if (got > 0) {
        connection->passed_on += (uint64_t)got;
        return got;
    }
    if (got == HTTP_READ_LATER) {
        connection_suspend(connection);
        return 0;
    }
    connection->streaming = false; // once the end is on its way the client may leave as it likes
    if (got == HTTP_READ_END) return MHD_CONTENT_READER_END_OF_STREAM;
    connection->exchange.failed = HTTP_OUT_OF_MEMORY;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

void http_stream(struct exchange *exchange, const char *content_type) {
    struct connection *connection = connection_of(exchange);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024, on_read, connection, NULL);
    if (!response) {
        connection_leave(connection, HTTP_OUT_OF_MEMORY);
        return;
    }
    connection->streaming = true;
    connection->excused_ms = 0;
    add_header(response, "Cache-Control", "no-cache");
    answer(exchange, response, 200, content_type);
}

void http_wake(struct exchange *exchange) {
    connection_resume(connection_of(exchange));
}

size_t http_exchanges(const struct http *http) {
    return http->exchanges;
}

size_t http_connections(const struct http *http) {
    return listener_connections(http->listener);
}

size_t http_body_memory(const struct http *http) {
    return http->body_bytes;
}

// ---- Life

static void on_refused(void *user, const struct listener_refused *refused) {
    struct http *http = user;
    http->handler.refused(http->handler.user, refused);
}

static void on_tick(void *user) {
    struct http *http = user;
    listener_tick(http->listener);
    connection_tick(http);
}

int http_create(struct http **out, struct loop *loop, const struct http_options *options,
                const struct http_handler *handler, struct error *error) {
    struct http *http = calloc(1, sizeof *http);
    if (!http) {
        struct listener_socket socket = options->socket;
        listener_unbind(&socket);
        return error_set_code(error, ERROR_MEMORY);
    }
    http->loop = loop;
    http->options = *options;
    http->handler = *handler;
    struct listener_options door = {
        .socket = options->socket,
        .connections_max = options->connections_max,
        .header_ms = options->header_ms,
        .linger_ms = LINGER_MS,
        .connected = connection_arrives,
        .refused = on_refused,
        .user = http,
    };
    http->dead_fd = -1;
    int code = listener_create(&http->listener, loop, &door, error);
    if (!code) code = connection_open_daemon(http, error);
    if (!code && !(http->tick = loop_timer_create(loop, on_tick, http))) code = error_set_code(error, ERROR_MEMORY);
    if (code) {
        http_destroy(http);
        return code;
    }
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
        connection_leave(connection, "the server stopped");
}

void http_destroy(struct http *http) {
    if (!http) return;
    connection_close_daemon(http);
    loop_timer_destroy(http->tick);
    listener_destroy(http->listener);
    free(http);
}
