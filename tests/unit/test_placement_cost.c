// What follows from figures, and that they are kept in a file as they are, or not believed.
#include "engine/placement_cache.h"
#include "engine/placement_cost.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_to(double found, double expected) {
    if (!(found - expected < 1e-9 && expected - found < 1e-9)) fail_msg("expected %.9f, found %.9f", expected, found);
}

static struct engine_placement figures(int count, const double (*of)[3]) { // rows, device, rest
    struct engine_placement found = {.point_count = count};
    for (int i = 0; i < count; i++)
        found.points[i] = (struct engine_placement_point){
            .rows = (int)of[i][0], .device_seconds = of[i][1], .rest_seconds = of[i][2], .cpu_seconds = 1};
    return found;
}

static void costs_between_what_was_measured(void **unused) {
    (void)unused;
    static const double OF[][3] = {{8, 3, 1}, {16, 5, 3}, {128, 20, 30}, {512, 80, 120}};
    static const struct {
        bool answers;
        int rows;
        double device, rest;
    } CASES[] = {{true, 1, 3, 1},     {true, 8, 3, 1},      {true, 10, 3.5, 1.5}, {true, 16, 5, 3},
                 {true, 32, 10, 6},   {false, 8, 20, 30},   {false, 320, 50, 75}, {false, 1024, 160, 240}};
    const struct engine_placement found = figures(4, OF), none = {0};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct placement_costs costs = placement_costs_at(&found, CASES[i].answers, CASES[i].rows);
        close_to(costs.device, CASES[i].device);
        close_to(costs.rest, CASES[i].rest);
    }
    close_to(placement_costs_at(&none, true, 8).device, 0);
}

// Two halves take twice the longer of their parts: they pay where both parts grow with the rows and are as long.
static void halves_that_pay(void **unused) {
    (void)unused;
    static const struct {
        double of[4][3];
        int from;
    } CASES[] = {
        {{{1, 1, 1}, {8, 8, 8}, {16, 16, 16}, {32, 32, 32}}, 8},
        {{{1, 1, 1}, {8, 1, 1}, {16, 16, 16}, {32, 32, 32}}, 16},    // 8 take as long as 1: they are read, not computed
        {{{1, 1, 1}, {8, 1.1, 1.1}, {16, 1.2, 1.2}, {32, 1.3, 1.3}}, 0}, // so do all
        {{{1, 0.1, 1}, {8, 0.8, 8}, {16, 1.6, 16}, {32, 3.2, 32}}, 0}, // the device has too little for the CPU to hide
        {{{1, 1, 1}, {8, 8, 8}, {16, 16, 16}, {32, 16, 16}}, 0}, // not where more of them do not pay
        {{{1, 0, 1}, {8, 0, 8}, {16, 0, 16}, {32, 0, 32}}, 0}, // no device
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct engine_placement found = figures(4, CASES[i].of);
        if (placement_halves_from(&found) != CASES[i].from)
            fail_msg("case %zu: from %d on", i, placement_halves_from(&found));
    }
}

// ---- Files

static void remove_all(const char *directory) {
    char path[512];
    DIR *files = opendir(directory);
    for (const struct dirent *file; files && (file = readdir(files));) {
        snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
        unlink(path);
    }
    closedir(files);
    rmdir(directory);
}

static const double KEPT[][3] = {{1, 0.1, 0.3}, {8, 1.0 / 3, 2}, {512, 1e-9, 7e3}};

static void figures_are_kept(void **unused) {
    (void)unused;
    char root[] = "/tmp/tandem-cache-XXXXXX", directory[64];
    assert_non_null(mkdtemp(root));
    snprintf(directory, sizeof directory, "%s/a/b", root); // is made
    struct engine_placement found = figures(3, KEPT), read = {.device = "device"};
    found.read_bytes = 4e10 / 3;
    found.halves_from = 8;
    found.points[2].split_rate = 17;
    assert_false(placement_cache_read(directory, "key", 1000, &read));
    placement_cache_write(directory, "key", 1000, &found);
    assert_true(placement_cache_read(directory, "key", 1060, &read));
    assert_true(read.from_cache && read.age_seconds == 60 && read.point_count == 3 && read.halves_from == 8);
    assert_true(read.read_bytes == found.read_bytes);
    assert_string_equal(read.device, "device"); // which is not the file's to say
    assert_memory_equal(read.points, found.points, sizeof found.points);
    assert_false(placement_cache_read(directory, "another key", 1060, &read));
    assert_false(placement_cache_read(directory, "key", 999, &read)); // a clock that was set
    assert_true(placement_cache_read(directory, "key", 1000 + PLACEMENT_CACHE_DAYS_MAX * 86400, &read));
    assert_false(placement_cache_read(directory, "key", 1001 + PLACEMENT_CACHE_DAYS_MAX * 86400, &read));
    remove_all(directory);
    snprintf(directory, sizeof directory, "%s/a", root);
    rmdir(directory);
    rmdir(root);
}

// Any byte of the file that is another, or missing, or one too many.
static void damaged_figures_are_not_believed(void **unused) {
    (void)unused;
    char directory[] = "/tmp/tandem-cache-XXXXXX", path[512] = "", text[4096];
    assert_non_null(mkdtemp(directory));
    const struct engine_placement found = figures(3, KEPT);
    struct engine_placement read;
    placement_cache_write(directory, "key", 1000, &found);
    DIR *files = opendir(directory);
    for (const struct dirent *file; (file = readdir(files));)
        if (file->d_name[0] != '.') snprintf(path, sizeof path, "%s/%s", directory, file->d_name);
    closedir(files);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    assert_in_range(bytes, 100, sizeof text - 2);
    for (size_t i = 0; i <= 2 * bytes; i++) {
        bool cut = i >= bytes;
        size_t at = cut ? i - bytes : i;
        file = fopen(path, "w");
        text[at] ^= cut ? 0 : 1;
        text[bytes] = '\n';
        fwrite(text, 1, !cut ? bytes : at == bytes ? bytes + 1 : at, file);
        text[at] ^= cut ? 0 : 1;
        fclose(file);
        if (placement_cache_read(directory, "key", 1000, &read)) fail_msg("%s byte %zu", cut ? "up to" : "with", at);
    }
    remove_all(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_between_what_was_measured),
        cmocka_unit_test(halves_that_pay),
        cmocka_unit_test(figures_are_kept),
        cmocka_unit_test(damaged_figures_are_not_believed),
    };
    return cmocka_run_group_tests_name("placement_cost", tests, NULL, NULL);
}
