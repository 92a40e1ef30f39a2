#include "server/metrics.h"

#include "base/wrap.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *type, *name, *labels, *help;
} TABLE[METRIC_COUNT] = {
#define METRIC_ROW(id, type, name, labels, help) [id] = {#type, name, labels, help},
    METRICS(METRIC_ROW)
#undef METRIC_ROW
};

static const char *const OUTCOMES[OUTCOME_COUNT] = {METRIC_OUTCOMES(NAMED_NAME)};

// The upper bounds of a histogram's buckets, in seconds; 0 ends them. From what a small model needs on a fast machine
// to what a large one needs on a slow one, finer where a person would tell the difference.
static const double BOUNDS[METRIC_COUNT][METRIC_BUCKETS_MAX + 1] = {
    [METRIC_FIRST_TOKEN] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300},
    [METRIC_BETWEEN_TOKENS] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5},
    [METRIC_GENERATION_SECONDS] = {0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800},
    [METRIC_QUEUE_SECONDS] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 300},
};

// ---- Counting

void metrics_count_request(struct metrics *metrics, const struct endpoint *endpoint, int status) {
    size_t route = endpoint ? (size_t)(endpoint - ENDPOINTS) : ENDPOINT_COUNT;
    if (status < METRIC_STATUS_FIRST || status >= METRIC_STATUS_END) return;
    metrics->requests[route][status - METRIC_STATUS_FIRST]++;
}

void metrics_count_generation(struct metrics *metrics, enum metric_outcome outcome) {
    metrics->generations[outcome]++;
}

void metrics_add(struct metrics *metrics, enum metric id, double amount) {
    metrics->values[id] += amount;
}

void metrics_set(struct metrics *metrics, enum metric id, double value) {
    metrics->values[id] = value;
}

void metrics_observe(struct metrics *metrics, enum metric id, double seconds, uint64_t times) {
    size_t bucket = 0;
    while (bucket < METRIC_BUCKETS_MAX && seconds > BOUNDS[id][bucket]) bucket++;
    metrics->buckets[id][bucket] += times;
    metrics->values[id] += seconds * (double)times;
}

// ---- Writing

// Whole numbers, of which most are counts, without a point; others with all the digits that they have.
static void write_value(struct buffer *out, double value) {
    buffer_format(out, value == floor(value) && fabs(value) < 1e15 ? " %.0f\n" : " %.15g\n", value);
}

static void write_label(struct buffer *out, const char *name, const char *value, const char *separator) {
    buffer_format(out, "%s%s=\"", separator, name);
    for (const char *at = value; *at; at++) {
        if (*at == '\\' || *at == '"') buffer_text(out, "\\");
        if (*at == '\n')
            buffer_text(out, "\\n");
        else
            buffer_append(out, at, 1);
    }
    buffer_text(out, "\"");
}

static void write_build(const struct engine_info *info, struct buffer *out) {
    buffer_text(out, TABLE[METRIC_BUILD_INFO].name);
    write_label(out, "version", TANDEM_VERSION, "{");
    write_label(out, "model", info->model_name, ",");
    write_label(out, "architecture", info->architecture, ",");
    write_label(out, "weights", info->weights, ",");
    buffer_text(out, "} 1\n");
}

// Two methods of one path are two endpoints, but one route.
static uint64_t requests_of(const struct metrics *metrics, const char *path, size_t status) {
    uint64_t sum = 0;
    for (size_t i = 0; i < ENDPOINT_COUNT; i++)
        if (strcmp(ENDPOINTS[i].path, path) == 0) sum += metrics->requests[i][status];
    return sum;
}

static void write_requests_of(const char *route, size_t status, uint64_t count, struct buffer *out) {
    buffer_text(out, TABLE[METRIC_REQUESTS].name);
    write_label(out, "route", route, "{");
    buffer_format(out, ",status=\"%zu\"} %llu\n", status + METRIC_STATUS_FIRST, (unsigned long long)count);
}

static bool is_repeated(size_t endpoint) {
    for (size_t i = 0; i < endpoint; i++)
        if (strcmp(ENDPOINTS[i].path, ENDPOINTS[endpoint].path) == 0) return true;
    return false;
}

// What has never happened is left out, but for the 200 of each path: a rate needs a point to start from.
static void write_requests(const struct metrics *metrics, struct buffer *out) {
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        if (is_repeated(i)) continue;
        for (size_t status = 0; status < METRIC_STATUS_END - METRIC_STATUS_FIRST; status++) {
            uint64_t count = requests_of(metrics, ENDPOINTS[i].path, status);
            if (count > 0 || status == 0) write_requests_of(ENDPOINTS[i].path, status, count, out);
        }
    }
    for (size_t status = 0; status < METRIC_STATUS_END - METRIC_STATUS_FIRST; status++) {
        uint64_t count = metrics->requests[ENDPOINT_COUNT][status];
        if (count > 0) write_requests_of("other", status, count, out);
    }
}

static void write_generations(const struct metrics *metrics, struct buffer *out) {
    for (size_t i = 0; i < OUTCOME_COUNT; i++) {
        buffer_text(out, TABLE[METRIC_GENERATIONS].name);
        write_label(out, "outcome", OUTCOMES[i], "{");
        buffer_format(out, "} %llu\n", (unsigned long long)metrics->generations[i]);
    }
}

static void write_histogram(const struct metrics *metrics, enum metric id, struct buffer *out) {
    const char *name = TABLE[id].name;
    uint64_t sum = 0;
    for (size_t i = 0; i < METRIC_BUCKETS_MAX && BOUNDS[id][i] > 0; i++) {
        sum += metrics->buckets[id][i];
        buffer_format(out, "%s_bucket{le=\"%g\"} %llu\n", name, BOUNDS[id][i], (unsigned long long)sum);
    }
    sum += metrics->buckets[id][METRIC_BUCKETS_MAX];
    buffer_format(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum", name, (unsigned long long)sum, name);
    write_value(out, metrics->values[id]);
    buffer_format(out, "%s_count %llu\n", name, (unsigned long long)sum);
}

void metrics_write(const struct metrics *metrics, const struct engine_info *info, struct buffer *out) {
    for (enum metric id = 0; id < METRIC_COUNT; id++) {
        buffer_format(out, "# HELP %s %s\n# TYPE %s %s\n", TABLE[id].name, TABLE[id].help, TABLE[id].name,
                      TABLE[id].type);
        if (id == METRIC_BUILD_INFO) {
            write_build(info, out);
        } else if (id == METRIC_REQUESTS) {
            write_requests(metrics, out);
        } else if (id == METRIC_GENERATIONS) {
            write_generations(metrics, out);
        } else if (BOUNDS[id][0] > 0) {
            write_histogram(metrics, id, out);
        } else {
            buffer_text(out, TABLE[id].name);
            write_value(out, metrics->values[id]);
        }
    }
}

void metrics_text(struct buffer *out) {
    enum { TEXT_COLUMN = 4 };
    for (enum metric id = 0; id < METRIC_COUNT; id++) {
        buffer_format(out, "%s (%s)\n%*s", TABLE[id].name, TABLE[id].type, TEXT_COLUMN, "");
        wrap_text(out, TABLE[id].help, TEXT_COLUMN, TEXT_COLUMN, WRAP_COLUMNS);
        buffer_text(out, "\n");
        if (TABLE[id].labels[0]) buffer_format(out, "%*slabels: %s\n", TEXT_COLUMN, "", TABLE[id].labels);
    }
}
