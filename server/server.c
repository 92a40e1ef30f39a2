#include "server/server.h"

#include "base/plural.h"
#include "engine/watch.h"
#include "server/http.h"
#include "server/log.h"
#include "server/loop.h"
#include "server/metrics.h"
#include "server/process_usage.h"
#include "server/request.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    OTHER_DESCRIPTORS = 320, // pipes, files that are opened for a moment, connections that are being turned away
    DRAIN_CHECK_MS = 20,
    FAREWELL_MS = 2000, // for the errors sent at the end of the drain to reach the clients
};

struct server {
    struct engine *engine;
    struct loop *loop;
    struct requests *requests;
    struct http *http;
    struct loop_signal *interrupt, *terminate; // NULL: not watched
    struct loop_wake *stop;
    struct loop_timer *drain;
    struct metrics metrics;
    size_t connections_max;
    uint64_t drain_ms;
    uint64_t fail_at_ms, stop_at_ms; // while draining
    bool draining, failed_rest;
};

static uint64_t milliseconds(double seconds) {
    return (uint64_t)(seconds * 1000);
}

// As many descriptors as the connections need beside those in use, or as the system allows: then fewer connections.
static size_t connections_possible(size_t wanted, size_t used) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
    rlim_t needed = wanted + OTHER_DESCRIPTORS + used;
    if (limit.rlim_cur < needed) {
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > needed ? needed : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= needed) return wanted;
    size_t left = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    size_t possible = left > 2 * OTHER_DESCRIPTORS ? left - OTHER_DESCRIPTORS : left / 2;
    log_write(LOG_WARNING, "this process may have %llu open files, so %zu connections instead of %zu",
              (unsigned long long)limit.rlim_cur, possible, wanted);
    return possible;
}

static void on_drain(void *user) {
    struct server *server = user;
    uint64_t now = loop_now_ms(server->loop);
    size_t left = http_exchanges(server->http);
    if (left == 0 || now >= server->stop_at_ms) {
        loop_stop(server->loop);
    } else if (now >= server->fail_at_ms && !server->failed_rest) {
        server->failed_rest = true;
        log_write(LOG_WARNING, "%zu request%s did not end in time: the answer is an error", left, plural(left));
        struct error error;
        error_set_code(&error, ERROR_SHUTDOWN);
        requests_fail(server->requests, &error);
    }
}

static void on_stop(void *user) {
    struct server *server = user;
    if (server->draining) return;
    server->draining = true;
    size_t running = http_exchanges(server->http);
    log_write(LOG_INFO, "shutting down; %zu request%s may end within %.0f s (once more to stop at once)", running,
              plural(running), (double)server->drain_ms / 1000);
    server->fail_at_ms = loop_now_ms(server->loop) + server->drain_ms;
    server->stop_at_ms = server->fail_at_ms + FAREWELL_MS;
    requests_refuse_new(server->requests);
    http_quiesce(server->http);
    loop_timer_start(server->drain, 0, DRAIN_CHECK_MS);
}

static void on_signal(void *user, int number) {
    struct server *server = user;
    if (server->draining) {
        size_t left = http_exchanges(server->http);
        log_write(LOG_WARNING, "stopped at once; %zu request%s cut off", left, left == 1 ? " was" : "s were");
        _exit(128 + number);
    }
    on_stop(server);
}

// What others count is looked up when it is asked for.
static void write_metrics(void *user, struct buffer *out) {
    struct server *server = user;
    struct metrics *metrics = &server->metrics;
    const struct engine_info *info = engine_info(server->engine);
    struct engine_stats stats;
    engine_stats(server->engine, &stats);
    metrics_set(metrics, METRIC_SEQUENCES_RUNNING, stats.running);
    metrics_set(metrics, METRIC_SEQUENCES_MAX, info->sequences_max);
    metrics_set(metrics, METRIC_QUEUE_LENGTH, stats.waiting);
    metrics_set(metrics, METRIC_QUEUE_MAX, info->queue_max);
    metrics_set(metrics, METRIC_KV_PAGES, (double)stats.kv_pages);
    metrics_set(metrics, METRIC_KV_PAGES_USED, (double)stats.kv_pages_used);
    metrics_set(metrics, METRIC_KV_PAGES_KEPT, (double)stats.kv_pages_kept);
    metrics_set(metrics, METRIC_ENGINE_CACHED_TOKENS, (double)stats.cached_tokens);
    metrics_set(metrics, METRIC_ENGINE_STEPS, (double)stats.steps);
    metrics_set(metrics, METRIC_ENGINE_STEP_RUNNING, stats.step_running_seconds);
    metrics_set(metrics, METRIC_ENGINE_PROMPT_TOKENS, (double)stats.prompt_tokens);
    metrics_set(metrics, METRIC_ENGINE_COMPLETION_TOKENS, (double)stats.completion_tokens);
    metrics_set(metrics, METRIC_ENGINE_GUESSED_TOKENS, (double)stats.guessed_tokens);
    metrics_set(metrics, METRIC_ENGINE_GUESSED_RIGHT, (double)stats.guessed_right);

    struct engine_balance balance;
    engine_balance(server->engine, &balance);
    metrics_set(metrics, METRIC_EXPERT_CHOICES_PROMPTS, (double)balance.rows[ENGINE_ROWS_PROMPTS]);
    metrics_set(metrics, METRIC_EXPERT_CHOICES_ANSWERS, (double)balance.rows[ENGINE_ROWS_ANSWERS]);
    metrics_set(metrics, METRIC_EXPERT_EVENNESS, balance.evenness);
    metrics_set(metrics, METRIC_EXPERT_BUSIEST, balance.busiest);

    metrics_set(metrics, METRIC_EXCHANGES, (double)http_exchanges(server->http));
    metrics_set(metrics, METRIC_CONNECTIONS, (double)http_connections(server->http));
    metrics_set(metrics, METRIC_CONNECTIONS_MAX, (double)server->connections_max);
    metrics_set(metrics, METRIC_BODY_MEMORY,
                (double)(http_body_memory(server->http) + requests_body_memory(server->requests)));

    struct process_usage usage;
    process_usage_read(&usage);
    metrics_set(metrics, METRIC_PROCESS_CPU, usage.cpu_seconds);
    metrics_set(metrics, METRIC_PROCESS_RESIDENT, (double)usage.resident_bytes);
    metrics_set(metrics, METRIC_PROCESS_VIRTUAL, (double)usage.virtual_bytes);
    metrics_set(metrics, METRIC_PROCESS_FILES, (double)usage.open_files);
    metrics_set(metrics, METRIC_PROCESS_FILES_MAX, (double)usage.files_max);
    metrics_write(metrics, info, out);
}

static int open_http(struct server *server, const struct config *config, const struct listener_socket *socket,
                     struct error *error) {
    struct process_usage usage;
    process_usage_read(&usage);
    server->connections_max = connections_possible((size_t)config->connections_max, usage.open_files);
    struct http_options options = {
        .socket = *socket,
        .connections_max = server->connections_max,
        .body_bytes_max = config->body_bytes_max,
        .header_ms = milliseconds(config->header_seconds),
        .body_ms = milliseconds(config->body_seconds),
        .idle_ms = milliseconds(config->idle_seconds),
        .slow_reader_ms = milliseconds(config->slow_reader_seconds),
        .blocking_reader_ms = milliseconds(config->blocking_reader_seconds),
        .cors_origin = config->cors_origin,
    };
    struct http_handler handler = requests_handler(server->requests);
    return http_create(&server->http, server->loop, &options, &handler, error);
}

// A page's origin has a scheme and no path: browsers compare it letter by letter.
static int check_origin(const char *origin, struct error *error) {
    if (!origin || !*origin || strcmp(origin, "*") == 0) return 0;
    const char *host = strstr(origin, "://");
    if (host && host[3] && !strpbrk(host + 3, "/ ,*")) return 0;
    return error_set(error, ERROR_ARGUMENT, "--cors-origin is `%.100s`; it must be * or one origin like %s", origin,
                     "http://localhost:3000, without a path");
}

int server_create(struct server **out, const struct config *config, const struct listener_socket *socket,
                  const struct api_keys *keys, struct engine *engine, struct error *error) {
    signal(SIGPIPE, SIG_IGN); // a client that left is an error code, not a reason to die
    struct server *server = calloc(1, sizeof *server);
    struct listener_socket own = *socket; // until http takes it over
    if (!server) {
        listener_unbind(&own);
        return error_set_code(error, ERROR_MEMORY);
    }
    server->engine = engine;
    server->drain_ms = milliseconds(config->drain_seconds);
    struct process_usage usage;
    process_usage_read(&usage);
    metrics_set(&server->metrics, METRIC_PROCESS_START, usage.start_seconds); // once: each reading differs a little

    int code = check_origin(config->cors_origin, error);
    if (!code) code = loop_create(&server->loop, error);
    if (!code) {
        struct requests_options options = {
            .loop = server->loop,
            .engine = engine,
            .keys = keys,
            .local_host = socket->loopback ? socket->host : NULL,
            .heartbeat_ms = milliseconds(config->heartbeat_seconds),
            .body_bytes_max = HTTP_BODIES_MAX * config->body_bytes_max,
            .metrics = &server->metrics,
            .write_metrics = write_metrics,
            .write_metrics_user = server,
        };
        code = requests_create(&server->requests, &options, error);
    }
    if (code)
        listener_unbind(&own);
    else
        code = open_http(server, config, socket, error);
    if (!code) {
        server->drain = loop_timer_create(server->loop, on_drain, server);
        server->stop = loop_wake_create(server->loop, on_stop, server);
        if (!server->drain || !server->stop) code = error_set_code(error, ERROR_MEMORY);
    }
    if (code) {
        server_destroy(server);
        return code;
    }
    *out = server;
    return 0;
}

int server_watch_signals(struct server *server, struct error *error) {
    server->interrupt = loop_signal_create(server->loop, SIGINT, on_signal, server);
    server->terminate = loop_signal_create(server->loop, SIGTERM, on_signal, server);
    return server->interrupt && server->terminate ? 0 : error_set_code(error, ERROR_MEMORY);
}

void server_run(struct server *server) {
    loop_run(server->loop);
}

void server_stop(struct server *server) {
    loop_wake_send(server->stop);
}

void server_destroy(struct server *server) {
    if (!server) return;
    loop_signal_destroy(server->interrupt);
    loop_signal_destroy(server->terminate);
    loop_timer_destroy(server->drain);
    loop_wake_destroy(server->stop);
    http_destroy(server->http);
    requests_stop(server->requests);
    loop_destroy(server->loop);
    requests_destroy(server->requests);
    free(server);
}
