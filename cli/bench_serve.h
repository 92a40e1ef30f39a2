// tandem bench --serve: the same engine behind a real server, asked over HTTP by many clients at once.
#ifndef CLI_BENCH_SERVE_H
#define CLI_BENCH_SERVE_H

#include "cli/bench_promise.h"
#include "cli/bench_work.h"

#include <jansson.h>

enum {
    BENCH_SERVE_PROMPT_TOKENS = 64,
    BENCH_SERVE_NEW_TOKENS = 32,
    BENCH_SERVED_MAX = 12, // rows
    BENCH_SERVE_CLIENTS_MAX = 1024,
};

struct bench_quantiles { // milliseconds
    double p50, p95, p99;
};

struct bench_served {
    int clients;        // requests under way at most
    int requests;       // of all runs
    double per_second;  // that requests came at; 0: as soon as a client had its answer
    double rate;        // tokens a second: those of all answers by the time of all runs
    double deviation;   // of single runs' rates; 0 of one run
    double times_one;   // that of one client; 0: at a rate, or not measured
    double engine_rate; // the same work handed to the engine itself; 0: not measured
    struct bench_quantiles first, between, whole; // to the first token, from one to the next, to the end
};

// Tokens of KV cache, and answers that may wait, for what is measured here.
size_t bench_serve_kv_tokens(void);
int bench_serve_queue(void);

struct bench_service {
    struct bench_served rows[BENCH_SERVED_MAX]; // [row_count]
    int row_count;
    struct bench_promises promises;
};

// Serves bench->engine on a port of its own and measures; rows are printed as they come, then what was promised.
// clients: 1 and so many; 0: 1, 8, 32 and 128. per_second: instead, as many requests, one row of them at that rate; 0:
// no such. quick: fewer rows.
int bench_serve(struct bench *bench, int clients, double per_second, bool quick, struct bench_service *out,
                struct error *error);

json_t *bench_serve_json(const struct bench_service *service); // the rows; NULL: out of memory

#endif
