#include "cli/bench_report.h"

#include "base/file.h"
#include "cli/amounts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BYTES_MAX = 1 << 20 }; // a thousand times what is written
#define UNSTEADY 0.1               // a machine that does nothing else deviates by some hundredths

static double median(const struct bench_samples *samples) {
    return bench_median(samples->of, samples->count);
}

// ---- The table

void bench_print_head(const struct bench *bench, bool table) {
    const struct engine_info *info = engine_info(bench->engine);
    char amount[AMOUNT_BYTES];
    printf("%s, weights in %s: %s, %s in %.2f s\n%s\n\n", info->model_name, info->weights,
           amount_of_bytes(amount, (double)info->weight_bytes), bench->synthetic ? "made" : "loaded",
           info->load_seconds, info->device);
    if (info->weights_note[0]) printf("weights chosen: %s\n\n", info->weights_note);
    if (table) printf("%-34s %12s %9s  %s\n", "", "tokens/s", "stddev", "of the machine's limit");
    fflush(stdout);
}

void bench_name_point(const struct bench_point *point, char *out, size_t bytes) {
    if (point->prefill)
        snprintf(out, bytes, "prefill of %d tokens", point->tokens);
    else
        snprintf(out, bytes, "decode, batch %d, context %d", point->batch, point->tokens);
}

void bench_print_result(const struct bench *bench, const struct bench_result *result) {
    char name[64];
    bench_name_point(&result->point, name, sizeof name);
    printf("%-34s %12.1f %9.1f", name, bench_rate(result), bench_deviation(result->rate, result->runs));
    if (bench->arithmetic && result->point.prefill)
        printf("  %3.0f %% of the %s peak", 100 * bench_share_of_peak(bench, result), bench->arithmetic);
    else if (bench->arithmetic && bench->cached)
        printf("    – (the weights fit the cache)");
    else if (bench->arithmetic)
        printf("  %3.0f %% of the read rate", 100 * bench_share_of_bandwidth(bench, result));
    printf("\n");
    fflush(stdout);
}

// Of the shortest prompt that is no mere word.
static double first_token_ms(const struct bench_report *report) {
    for (int i = 0; i < report->result_count; i++) {
        const struct bench_result *result = &report->results[i];
        if (result->point.prefill && result->point.tokens >= 128)
            return 1e3 * bench_median(result->first_token, result->runs);
    }
    return 0;
}

void bench_print_steadiness(const struct bench_report *report) {
    double most = 0; // of the deviations, as shares of their rates
    for (int i = 0; i < report->result_count; i++) {
        const struct bench_result *result = &report->results[i];
        most = fmax(most, bench_deviation(result->rate, result->runs) / bench_rate(result));
    }
    for (int i = 0; i < report->served.row_count; i++)
        most = fmax(most, report->served.rows[i].deviation / report->served.rows[i].rate);
    if (most > UNSTEADY)
        printf("\nruns of one figure deviate by up to %.0f %%: something else was running, or the\n"
               "processor changed its clock; what was measured is less sure than that\n",
               100 * most);
}

void bench_print_end(const struct bench_report *report) {
    const struct bench *bench = report->bench;
    printf("\nfirst token of a prompt of 128 tokens after %.0f ms; memory %.0f MiB when loaded, %.0f MiB at most\n",
           first_token_ms(report), (double)report->load_rss_bytes / (1 << 20),
           (double)report->peak_rss_bytes / (1 << 20));
    if (!bench->arithmetic) return;
    printf("this machine: reads %.1f GB/s; at best %.2f TFLOP/s in f32", median(&bench->read_bytes) / 1e9,
           median(&bench->f32) / 1e12);
    if (median(&bench->bf16) > 0) printf(", %.2f in bf16", median(&bench->bf16) / 1e12);
    if (median(&bench->int8) > 0) printf(", %.2f TOPS in int8", median(&bench->int8) / 1e12);
    printf(" (medians of %d measurements)\n", bench->read_bytes.count);
    if (median(&bench->peak) > 0)
        printf("prompts are multiplied in %s: at best %.2f T%s with the kernels that were used\n", bench->arithmetic,
               median(&bench->peak) / 1e12, strcmp(bench->arithmetic, "int8") == 0 ? "OPS" : "FLOP/s");
}

// ---- The profile

static void print_device(const struct engine_device_work *work, double steps) {
    if (work->mixtures == 0) return;
    printf("  OpenCL, a step: %.1f calls (%.1f of halved answers); the CPU worked %.3f ms beside them, waited %.3f ms "
           "in\n  %.1f waits for them, and left them the bus for %.3f ms, %.1f times\n",
           (double)work->mixtures / steps, (double)work->halves / steps, 1e3 * work->beside_seconds / steps,
           1e3 * work->wait_seconds / steps, (double)work->waits / steps, 1e3 * work->held_seconds / steps,
           (double)work->holds / steps);
}

void bench_print_profile(const struct bench_result *result) {
    static const char *const NAMES[] = {ENGINE_STAGES(NAMED_NAME)};
    char name[64];
    const struct bench_sum *all = &result->all;
    bench_name_point(&result->point, name, sizeof name);
    printf("\n%-34s %10s %7s %9s %11s\n", name, "ms a step", "share", "GB/s", "GFLOP/s");
    for (int i = 0; i < ENGINE_STAGE_COUNT && all->steps > 0; i++) {
        const struct engine_stage_work *work = &all->stages[i];
        printf("  %-32s %10.3f %5.1f %%", NAMES[i], 1e3 * work->seconds / all->steps,
               100 * work->seconds / all->seconds);
        if (work->seconds > 0 && work->bytes > 0) printf(" %9.1f", work->bytes / work->seconds / 1e9);
        if (work->seconds > 0 && work->operations > 0) printf(" %11.1f", work->operations / work->seconds / 1e9);
        printf("\n");
    }
    printf("  %-32s %10.3f\n", "the whole step", 1e3 * all->seconds / (all->steps ? all->steps : 1));
    print_device(&all->device, all->steps ? all->steps : 1);
}

// ---- JSON

// The processor's own name.
static void read_cpu(char *out, size_t bytes) {
    char line[256];
    snprintf(out, bytes, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(out, bytes, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(file);
}

// null: not known.
static json_t *number(double value) {
    return value > 0 ? json_real(value) : json_null();
}

static json_t *json_result(const struct bench *bench, const struct bench_result *result) {
    double rate = bench_rate(result), deviation = bench_deviation(result->rate, result->runs);
    if (result->point.prefill)
        return json_pack("{s:i, s:f, s:f, s:o}", "tokens", result->point.tokens, "tokens_per_s", rate, "stddev",
                         deviation, "share_of_peak", number(bench_share_of_peak(bench, result)));
    return json_pack("{s:i, s:i, s:f, s:f, s:o}", "batch", result->point.batch, "context", result->point.tokens,
                     "tokens_per_s", rate, "stddev", deviation, "share_of_bandwidth",
                     number(bench_share_of_bandwidth(bench, result)));
}

json_t *bench_json(const struct bench_report *report) {
    const struct bench *bench = report->bench;
    const struct engine_info *info = engine_info(bench->engine);
    char cpu[128];
    read_cpu(cpu, sizeof cpu);
    json_t *prefill = json_array(), *decode = json_array();
    for (int i = 0; i < report->result_count; i++)
        json_array_append_new(report->results[i].point.prefill ? prefill : decode,
                              json_result(bench, &report->results[i]));
    json_t *served = report->served.row_count ? bench_serve_json(&report->served) : json_null();
    json_t *promises = bench_promises_json(&report->served.promises);
    json_t *guesses = report->guessed ? bench_guess_json(&report->guesses) : json_null();
    return json_pack("{s:{s:s, s:i, s:o, s:o, s:o, s:o}, s:s, s:s, s:s, s:s, s:{s:f, s:f}, s:o, s:o, s:o, s:o, s:o, "
                     "s:o, s:f, s:i}",                                                                    //
                     "machine", "cpu", cpu, "threads", info->threads,                                     //
                     "read_gbps", number(median(&bench->read_bytes) / 1e9),                               //
                     "f32_tflops", number(median(&bench->f32) / 1e12),                                    //
                     "bf16_tflops", number(median(&bench->bf16) / 1e12),                                  //
                     "int8_tops", number(median(&bench->int8) / 1e12),                                    //
                     "model", info->model_name, "weights", info->weights, "placement", report->placement, //
                     "kernels", report->kernels, "load", "seconds", report->load_seconds, "rss_mib",
                     (double)report->load_rss_bytes / (1 << 20), "prefill", prefill, "decode", decode, "serve", served,
                     "promises", promises, "guess", guesses, "ttft_ms", number(first_token_ms(report)), "peak_rss_mib",
                     (double)report->peak_rss_bytes / (1 << 20), "runs", bench->runs);
}

// ---- The change

static bool has_rates(const json_t *rows) {
    size_t i;
    json_t *row;
    if (!json_is_array(rows)) return false;
    json_array_foreach(rows, i, row) if (!json_is_number(json_object_get(row, "tokens_per_s"))) return false;
    return true;
}

int bench_read_json(const char *path, json_t **out, struct error *error) {
    json_error_t cause;
    char *text;
    size_t bytes;
    int code = file_load_or_pipe(path, JSON_BYTES_MAX, &text, &bytes, error);
    if (code) return code;
    json_t *json = json_loadb(text, bytes, 0, &cause);
    free(text);
    if (!json)
        return error_set(error, ERROR_FORMAT, "%s:%d: %s; expected what tandem bench --json writes", path, cause.line,
                         cause.text);
    if (!has_rates(json_object_get(json, "prefill")) || !has_rates(json_object_get(json, "decode"))) {
        json_decref(json);
        return error_set(error, ERROR_FORMAT, "%s: expected what tandem bench --json writes", path);
    }
    *out = json;
    return 0;
}

static bool same(const json_t *a, const json_t *b, const char *key) {
    return json_equal(json_object_get(a, key), json_object_get(b, key)) ||
           (!json_object_get(a, key) && !json_object_get(b, key));
}

static void print_change(const char *what, double before, double after, bool noise) {
    printf("%-34s %10.1f %10.1f %+7.1f %%%s\n", what, before, after, before > 0 ? 100 * (after / before - 1) : 0.0,
           noise ? "  within the noise" : "");
}

static double value(const json_t *row, const char *key) {
    return json_number_value(json_object_get(row, key));
}

// No further apart than the runs' standard deviations, then and now, add up to.
static bool is_noise(const json_t *before, const json_t *after) {
    return fabs(value(after, "tokens_per_s") - value(before, "tokens_per_s")) <=
           value(before, "stddev") + value(after, "stddev");
}

static void print_rows(const char *kind, const json_t *old, const json_t *now) {
    size_t i, j;
    json_t *before, *after;
    char name[64];
    json_array_foreach(json_object_get(now, kind), i, after) {
        json_array_foreach(json_object_get(old, kind), j, before) {
            if (!same(before, after, "tokens") || !same(before, after, "batch") || !same(before, after, "context"))
                continue;
            struct bench_point point = {.prefill = strcmp(kind, "prefill") == 0};
            const char *length = point.prefill ? "tokens" : "context";
            point.tokens = (int)json_integer_value(json_object_get(after, length));
            point.batch = (int)json_integer_value(json_object_get(after, "batch"));
            bench_name_point(&point, name, sizeof name);
            print_change(name, value(before, "tokens_per_s"), value(after, "tokens_per_s"), is_noise(before, after));
        }
    }
}

void bench_print_change(const json_t *old, const json_t *now) {
    printf("\n%-34s %10s %10s %9s\n", "tokens/s", "before", "now", "change");
    print_rows("prefill", old, now);
    print_rows("decode", old, now);
    static const char *const FACTS[] = {"model", "weights", "placement", "kernels"};
    for (size_t i = 0; i < sizeof FACTS / sizeof *FACTS; i++) {
        const char *then = json_string_value(json_object_get(old, FACTS[i])); // NULL: it was not told yet
        if (then && !same(old, now, FACTS[i])) printf("mind: %s was \"%s\" then\n", FACTS[i], then);
    }
    double before = value(json_object_get(old, "machine"), "read_gbps");
    double after = value(json_object_get(now, "machine"), "read_gbps");
    if (before > 0 && after > 0) print_change("(the machine reads, GB/s)", before, after, false);
}
