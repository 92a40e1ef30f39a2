// What Prometheus is told: the text itself, number by number.
#include "server/metrics.h"
#include "base/wrap.h"
#include "server/process_usage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const struct engine_info INFO = {.model_name = "a \"model\"\n\\", .architecture = "phimoe", .weights = "bf16"};
static struct metrics metrics;

static int setup(void **state) {
    (void)state;
    metrics = (struct metrics){0};
    return 0;
}

static char *text_of(void) {
    static struct buffer out;
    buffer_finish(&out);
    buffer_init(&out, 1 << 20);
    metrics_write(&metrics, &INFO, &out);
    assert_false(out.failed);
    return out.data;
}

// A whole line, which must be there once.
static void has_line(const char *line) {
    char *text = text_of(), whole[256];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    char *at = strstr(text, whole);
    if (!at) fail_msg("`%s` is not in: %s", line, text);
    assert_null(strstr(at + 1, whole));
}

static void has_no(const char *part) {
    char *text = text_of();
    if (strstr(text, part)) fail_msg("`%s` is in: %s", part, text);
}

static const struct endpoint *endpoint(const char *path) {
    for (size_t i = 0; i < ENDPOINT_COUNT; i++)
        if (strcmp(ENDPOINTS[i].path, path) == 0) return &ENDPOINTS[i];
    fail_msg("no endpoint %s", path);
    return NULL;
}

static void test_numbers(void **state) {
    (void)state;
    has_line("# HELP tandem_engine_steps_total Steps that the engine has finished");
    has_line("# TYPE tandem_engine_steps_total counter");
    has_line("# TYPE tandem_kv_pages gauge");
    has_line("tandem_engine_steps_total 0");
    metrics_add(&metrics, METRIC_PROMPT_TOKENS, 3);
    metrics_add(&metrics, METRIC_PROMPT_TOKENS, 4);
    has_line("tandem_prompt_tokens_total 7");
    metrics_set(&metrics, METRIC_PROCESS_START, 1763709471.25);
    has_line("process_start_time_seconds 1763709471.25");
    metrics_set(&metrics, METRIC_PROCESS_VIRTUAL, 123456789012345.0);
    has_line("process_virtual_memory_bytes 123456789012345");
}

// A name with all that a label has to escape.
static void test_build(void **state) {
    (void)state;
    has_line("tandem_build_info{version=\"" TANDEM_VERSION "\",model=\"a \\\"model\\\"\\n\\\\\","
             "architecture=\"phimoe\",weights=\"bf16\"} 1");
}

static void test_requests(void **state) {
    (void)state;
    has_line("tandem_requests_total{route=\"/v1/models/{id}\",status=\"200\"} 0");
    has_no("route=\"other\"");
    metrics_count_request(&metrics, endpoint("/health"), 200);
    metrics_count_request(&metrics, endpoint("/health"), 200);
    metrics_count_request(&metrics, endpoint("/v1/completions"), 429);
    metrics_count_request(&metrics, NULL, 404);
    metrics_count_request(&metrics, NULL, 0); // not a status: nothing happens
    metrics_count_request(&metrics, NULL, 600);
    has_line("tandem_requests_total{route=\"/health\",status=\"200\"} 2");
    has_line("tandem_requests_total{route=\"/v1/completions\",status=\"200\"} 0");
    has_line("tandem_requests_total{route=\"/v1/completions\",status=\"429\"} 1");
    has_line("tandem_requests_total{route=\"other\",status=\"404\"} 1");
    has_no("status=\"0\"");
    has_no("status=\"600\"");
}

static void test_generations(void **state) {
    (void)state;
    metrics_count_generation(&metrics, OUTCOME_CANCELLED);
    has_line("tandem_generations_total{outcome=\"stop\"} 0");
    has_line("tandem_generations_total{outcome=\"cancelled\"} 1");
}

static void test_histogram(void **state) {
    (void)state;
    metrics_observe(&metrics, METRIC_BETWEEN_TOKENS, 0.0005, 1);
    metrics_observe(&metrics, METRIC_BETWEEN_TOKENS, 0.01, 3); // a bound belongs to its bucket
    metrics_observe(&metrics, METRIC_BETWEEN_TOKENS, 99, 1);
    has_line("# TYPE tandem_time_between_tokens_seconds histogram");
    has_line("tandem_time_between_tokens_seconds_bucket{le=\"0.001\"} 1");
    has_line("tandem_time_between_tokens_seconds_bucket{le=\"0.005\"} 1");
    has_line("tandem_time_between_tokens_seconds_bucket{le=\"0.01\"} 4");
    has_line("tandem_time_between_tokens_seconds_bucket{le=\"5\"} 4");
    has_line("tandem_time_between_tokens_seconds_bucket{le=\"+Inf\"} 5");
    has_line("tandem_time_between_tokens_seconds_sum 99.0305");
    has_line("tandem_time_between_tokens_seconds_count 5");
    has_line("tandem_time_to_first_token_seconds_count 0");
}

// Every metric is explained, on lines that fit a terminal.
static void test_help(void **state) {
    (void)state;
    struct buffer out;
    buffer_init(&out, 64 * 1024);
    metrics_text(&out);
#define IS_THERE(id, type, name, labels, help) assert_non_null(strstr(out.data, name));
    METRICS(IS_THERE)
    for (const char *line = out.data; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > WRAP_COLUMNS) fail_msg("too long for a terminal: %.120s", line);
    assert_non_null(strstr(out.data, "labels: route, status\n"));
    buffer_finish(&out);
}

// Against what can be known here: this test has just begun, and opens a file.
static void test_process(void **state) {
    (void)state;
    struct process_usage before, after;
    process_usage_read(&before);
    double age = (double)time(NULL) - before.start_seconds;
    assert_true(age > -2 && age < 3600);
    assert_true(before.resident_bytes > 0 && before.resident_bytes < before.virtual_bytes);
    assert_true(before.cpu_seconds >= 0);
    int fd = dup(0);
    assert_true(fd >= 0);
    process_usage_read(&after);
    close(fd);
    assert_int_equal(after.open_files, before.open_files + 1);
    assert_true(after.files_max >= after.open_files);
    char *memory = malloc(64 << 20);
    assert_non_null(memory);
    memset(memory, 1, 64 << 20);
    process_usage_read(&after);
    assert_true(memory[getpid() % 1024] == 1); // so that it is written
    free(memory);
    assert_true(after.resident_bytes > before.resident_bytes + (48 << 20));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_numbers, setup),   cmocka_unit_test_setup(test_build, setup),
        cmocka_unit_test_setup(test_requests, setup),  cmocka_unit_test_setup(test_generations, setup),
        cmocka_unit_test_setup(test_histogram, setup), cmocka_unit_test_setup(test_help, setup),
        cmocka_unit_test_setup(test_process, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
