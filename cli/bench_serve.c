#include "cli/bench_serve.h"

#include "base/smaller.h"
#include "cli/load.h"
#include "server/log.h"
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUEUE = 1024, PAGE_SPARE_TOKENS = 64 };

// Clients that ask again as soon as they are answered; and then, of the rate that they reached, so large a share, with
// requests that come evenly whatever is under way.
static const struct {
    int clients;
    bool quick;
} CLOSED[] = {{1, true}, {8, true}, {32, false}, {128, false}};
static const double SHARES[] = {0.5, 0.9};
enum {
    CLOSED_COUNT = sizeof CLOSED / sizeof *CLOSED,
    SHARE_COUNT = sizeof SHARES / sizeof *SHARES,
    OPEN_REQUESTS_MIN = 32,               // at a rate of our own; otherwise one for each client
    ASKED_MIN = 8,                        // at a rate that was asked for
    ENGINE_CLIENTS_MAX = BENCH_BATCH_MAX, // what the engine is asked without a server
};
_Static_assert((int)CLOSED_COUNT *(1 + (int)SHARE_COUNT) <= (int)BENCH_SERVED_MAX, "a row for each");

size_t bench_serve_kv_tokens(void) {
    return (size_t)BENCH_BATCH_MAX * (BENCH_SERVE_PROMPT_TOKENS + BENCH_SERVE_NEW_TOKENS + PAGE_SPARE_TOKENS);
}

int bench_serve_queue(void) {
    return QUEUE;
}

// ---- The server

struct service {
    struct config config;
    struct setting_table table;
    struct server *server;
    pthread_t thread;
    int port;
};

static void *serve(void *user) {
    server_run(user);
    return NULL;
}

static int start(struct service *service, struct engine *engine, struct error *error) {
    struct listener_socket socket;
    service->table = (struct setting_table){CONFIG_SETTINGS, &service->config};
    log_open(LOG_ERROR, LOG_TEXT);
    int code = settings_init(&service->table, error);
    if (!code) code = listener_bind(&socket, "127.0.0.1", 0, error);
    if (!code) code = server_create(&service->server, &service->config, &socket, NULL, engine, error);
    if (!code && pthread_create(&service->thread, NULL, serve, service->server)) {
        server_destroy(service->server);
        service->server = NULL;
        code = error_set(error, ERROR_MEMORY, "no thread for the server");
    }
    if (!code) service->port = (int)strtol(strrchr(socket.address, ':') + 1, NULL, 10);
    return code;
}

static void stop(struct service *service) {
    if (service->server) {
        server_stop(service->server);
        pthread_join(service->thread, NULL);
        server_destroy(service->server);
    }
    settings_finish(&service->table);
}

// ---- Asking it

static char *write_prompt(void *user) {
    return bench_write_prompt(user, BENCH_SERVE_PROMPT_TOKENS);
}

static struct bench_quantiles quantiles(const struct load_times *times) {
    return (struct bench_quantiles){1e3 * load_quantile(times, 0.5), 1e3 * load_quantile(times, 0.95),
                                    1e3 * load_quantile(times, 0.99)};
}

static struct bench_quantiles mean(struct bench_quantiles a, double weight, struct bench_quantiles b) {
    return (struct bench_quantiles){a.p50 + (b.p50 - a.p50) * weight, a.p95 + (b.p95 - a.p95) * weight,
                                    a.p99 + (b.p99 - a.p99) * weight};
}

static void tell(const struct bench_served *row, int run, int runs) {
    if (!isatty(STDERR_FILENO)) return;
    fprintf(stderr, "\r\033[Kover HTTP, %d clients: run %d of %d", row->clients, run + 1, runs);
    fflush(stderr);
}

// Over HTTP and without it in turn, so that what disturbs one disturbs the other. Quantiles are means of the runs'.
static int measure(struct bench *bench, int port, int runs, struct bench_served *row, struct error *error) {
    double tokens = 0, seconds = 0, engine_seconds = 0, rates[BENCH_RUNS_MAX] = {0};
    int code = 0, each = row->requests;
    struct load_plan plan = {.port = port,
                             .requests = each,
                             .clients = row->clients,
                             .per_second = row->per_second,
                             .new_tokens = BENCH_SERVE_NEW_TOKENS,
                             .prompt = write_prompt,
                             .user = bench};
    bool alone = row->per_second == 0 && row->clients <= ENGINE_CLIENTS_MAX;
    for (int run = 0; !code && run < runs; run++) {
        tell(row, run, runs);
        struct load_outcome outcome;
        code = load_run(&plan, &outcome, error);
        if (!code && outcome.refused)
            code = error_set(error, ERROR_BUSY, "the server refused %d of %d requests", outcome.refused, each);
        if (!code) {
            tokens += (double)outcome.tokens;
            seconds += outcome.seconds;
            rates[run] = (double)outcome.tokens / outcome.seconds;
            row->first = mean(row->first, 1.0 / (run + 1), quantiles(&outcome.first));
            row->between = mean(row->between, 1.0 / (run + 1), quantiles(&outcome.between));
            row->whole = mean(row->whole, 1.0 / (run + 1), quantiles(&outcome.whole));
        }
        load_finish(&outcome);
        double taken = 0;
        if (!code && alone)
            code = bench_drive(bench, row->clients, each, BENCH_SERVE_PROMPT_TOKENS, BENCH_SERVE_NEW_TOKENS, &taken,
                               error);
        engine_seconds += taken;
    }
    row->requests = runs * each;
    row->rate = code ? 0 : tokens / seconds;
    row->deviation = code ? 0 : bench_deviation(rates, runs);
    row->engine_rate = code || !alone ? 0 : (double)row->requests * BENCH_SERVE_NEW_TOKENS / engine_seconds;
    return code;
}

// ---- The table

static void print_head(void) {
    printf("\nover HTTP: prompts of %d tokens, answers of %d\n%-27s %9s %8s %8s %20s %20s %20s\n",
           BENCH_SERVE_PROMPT_TOKENS, BENCH_SERVE_NEW_TOKENS, "", "tokens/s", "times 1", "of the", "ms to first token",
           "from one to next", "to the end");
    printf("%-27s %9s %8s %8s %20s %20s %20s\n", "", "in all", "client's", "engine's", "p50 / p95 / p99",
           "p50 / p95 / p99", "p50 / p95 / p99");
    fflush(stdout);
}

static void print_quantiles(const struct bench_quantiles *of) {
    char text[64];
    snprintf(text, sizeof text, "%.0f / %.0f / %.0f", of->p50, of->p95, of->p99);
    printf(" %20s", text);
}

static void print_row(const struct bench_served *row) {
    char name[64], share[32] = "", times[32] = "";
    if (row->per_second > 0)
        snprintf(name, sizeof name, "%.2f requests a second", row->per_second);
    else
        snprintf(name, sizeof name, "%d client%s", row->clients, row->clients == 1 ? "" : "s");
    if (row->engine_rate > 0) snprintf(share, sizeof share, "%.1f %%", 100 * row->rate / row->engine_rate);
    if (row->times_one > 0) snprintf(times, sizeof times, "%.2f", row->times_one);
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    printf("%-27s %9.1f %8s %8s", name, row->rate, times, share);
    print_quantiles(&row->first);
    print_quantiles(&row->between);
    print_quantiles(&row->whole);
    printf("\n");
    fflush(stdout);
}

static json_t *quantiles_json(const struct bench_quantiles *of) {
    return json_pack("{s:f, s:f, s:f}", "p50", of->p50, "p95", of->p95, "p99", of->p99);
}

static json_t *known(double value) {
    return value > 0 ? json_real(value) : json_null();
}

json_t *bench_serve_json(const struct bench_service *service) {
    json_t *list = json_array();
    for (int i = 0; i < service->row_count; i++) {
        const struct bench_served *row = &service->rows[i];
        json_array_append_new(list, json_pack("{s:i, s:i, s:o, s:f, s:f, s:o, s:o, s:o, s:o, s:o}", "clients",
                                              row->clients, "requests", row->requests, "requests_per_s",
                                              known(row->per_second), "tokens_per_s", row->rate, "stddev",
                                              row->deviation, "times_one_client", known(row->times_one),
                                              "engine_tokens_per_s", known(row->engine_rate), "first_token_ms",
                                              quantiles_json(&row->first), "between_tokens_ms",
                                              quantiles_json(&row->between), "whole_ms", quantiles_json(&row->whole)));
    }
    return list;
}

// ---- All of it

// One more row, which says what to measure.
static int add_row(struct bench *bench, int port, int runs, const struct bench_served *wanted,
                   struct bench_service *out, struct error *error) {
    struct bench_served *row = &out->rows[out->row_count];
    *row = *wanted;
    int code = measure(bench, port, runs, row, error);
    if (code) return code;
    if (row->per_second == 0 && out->rows[0].clients == 1) row->times_one = row->rate / out->rows[0].rate;
    print_row(row);
    out->row_count++;
    return 0;
}

// As fast as they are answered.
static int add_closed(struct bench *bench, int port, int clients, struct bench_service *out, struct error *error) {
    const struct bench_served wanted = {.clients = clients, .requests = clients};
    return add_row(bench, port, bench->runs, &wanted, out, error);
}

// At a fixed rate, however many are under way.
static int add_rate(struct bench *bench, int port, int requests, double per_second, struct bench_service *out,
                    struct error *error) {
    const struct bench_served wanted = {.clients = requests, .requests = requests, .per_second = per_second};
    return add_row(bench, port, 1, &wanted, out, error);
}

// At shares of the rate that the row before has reached.
static int add_open(struct bench *bench, int port, struct bench_service *out, struct error *error) {
    const struct bench_served closed = out->rows[out->row_count - 1];
    int code = 0, requests = larger(closed.clients, OPEN_REQUESTS_MIN);
    for (int i = 0; !code && i < SHARE_COUNT; i++)
        code = add_rate(bench, port, requests, SHARES[i] * closed.rate / BENCH_SERVE_NEW_TOKENS, out, error);
    return code;
}

static int measure_all(struct bench *bench, int port, bool quick, struct bench_service *out, struct error *error) {
    int code = 0;
    for (int i = 0; !code && i < CLOSED_COUNT; i++) {
        if (quick && !CLOSED[i].quick) continue;
        code = add_closed(bench, port, CLOSED[i].clients, out, error);
        if (!code && !quick) code = add_open(bench, port, out, error);
    }
    return code;
}

static int measure_some(struct bench *bench, int port, int clients, bool quick, struct bench_service *out,
                        struct error *error) {
    int code = add_closed(bench, port, 1, out, error);
    if (!code && clients > 1) code = add_closed(bench, port, clients, out, error);
    return code || quick ? code : add_open(bench, port, out, error);
}

int bench_serve(struct bench *bench, int clients, double per_second, bool quick, struct bench_service *out,
                struct error *error) {
    struct service service = {0};
    struct bench_served warm_up = {.clients = 1, .requests = 1};
    *out = (struct bench_service){0};
    int code = start(&service, bench->engine, error);
    if (!code) print_head();
    if (!code) code = measure(bench, service.port, 1, &warm_up, error);
    if (!code)
        code = per_second > 0 ? add_rate(bench, service.port, larger(clients, ASKED_MIN), per_second, out, error)
               : clients > 0  ? measure_some(bench, service.port, clients, quick, out, error)
                              : measure_all(bench, service.port, quick, out, error);
    if (!code && clients <= 1 && per_second == 0) {
        code = bench_promises_measure(bench, service.port, bench->runs, &out->promises, error);
        if (!code) bench_promises_print(&out->promises);
    }
    stop(&service);
    return code;
}
