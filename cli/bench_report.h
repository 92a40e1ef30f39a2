// What tandem bench says of its measurements: a table, a profile, JSON, and the change since an older JSON.
#ifndef CLI_BENCH_REPORT_H
#define CLI_BENCH_REPORT_H

#include "cli/bench_guess.h"
#include "cli/bench_serve.h"
#include "cli/bench_work.h"

#include <jansson.h>

struct bench_report {
    const struct bench *bench;
    const struct bench_result *results; // [result_count]
    int result_count;
    struct bench_service served; // with --serve
    struct bench_guesses guesses; // with --guess
    bool guessed;
    const char *placement, *kernels; // "split": OpenCL has experts, "cpu": it has none; what --kernels says
    double load_seconds;
    size_t load_rss_bytes, peak_rss_bytes;
};

// "decode, batch 8, context 64"
void bench_name_point(const struct bench_point *point, char *out, size_t bytes);

void bench_print_head(const struct bench *bench, bool table); // table: rows of bench_print_result follow
void bench_print_result(const struct bench *bench, const struct bench_result *result);
void bench_print_steadiness(const struct bench_report *report); // nothing where the runs agree
void bench_print_end(const struct bench_report *report);
void bench_print_profile(const struct bench_result *result);

json_t *bench_json(const struct bench_report *report); // NULL: out of memory

// Reads and checks what bench_json made once. ERROR_FORMAT for anything else.
int bench_read_json(const char *path, json_t **out, struct error *error);
void bench_print_change(const json_t *old, const json_t *now);

#endif
