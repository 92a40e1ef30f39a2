// What was measured, kept in a file for the next start: as it was, or not believed; and what follows from it.
#include "base/build_id.h"
#include "engine/placement_cost.h"
#include "tests/unit/placement_rig.h"

// ---- Files

static struct engine_placement some_figures(void) {
    static const double OF[][4] = {{1, 0.1, 0.3, 4}, {8, 1.0 / 3, 2, 0}, {512, 1e-9, 7e3, 1}};
    struct engine_placement found = {.point_count = 3, .read_bytes = 4e10 / 3};
    for (int i = 0; i < 3; i++)
        found.points[i] = (struct engine_placement_point){.rows = (int)OF[i][0],
                                                          .cpu_seconds = 1,
                                                          .device_seconds = OF[i][1],
                                                          .handing_seconds = OF[i][1] / 2,
                                                          .rest_seconds = OF[i][2],
                                                          .head_seconds = OF[i][3]};
    return found;
}

static void figures_are_kept(void **unused) {
    (void)unused;
    char root[] = "/tmp/tandem-cache-XXXXXX", directory[64];
    assert_non_null(mkdtemp(root));
    snprintf(directory, sizeof directory, "%s/a/b", root); // is made
    struct engine_placement found = some_figures(), read = {.device = "device"};
    assert_false(placement_cache_read(directory, "key", 1000, &read));
    placement_cache_write(directory, "key", 1000, &found);
    assert_true(placement_cache_read(directory, "key", 1060, &read));
    assert_true(read.from_cache && read.age_seconds == 60 && read.point_count == 3);
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
    char directory[] = "/tmp/tandem-cache-XXXXXX", path[512], text[4096];
    assert_non_null(mkdtemp(directory));
    const struct engine_placement found = some_figures();
    struct engine_placement read;
    placement_cache_write(directory, "key", 1000, &found);
    size_t bytes = load_only_file(directory, path, text, sizeof text);
    FILE *file;
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

// ---- Starts

// The second start has the first one's figures, tries the device all the same, and calls it far less often.
static void the_next_start_does_not_measure(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    assert_non_null(mkdtemp(directory));
    long calls[3];
    stop_clock(); // nothing takes longer than anything else
    for (int i = 0; i < 3; i++) {
        const struct placement_options options = {
            .way = PLACEMENT_SPLIT, .cache = directory, .kernels = i == 2 ? "cl_kernels" : NULL};
        opencl_inject(0, OPENCL_FAULT_ONCE);
        struct placement *placement = open_well(options);
        calls[i] = opencl_inject(0, OPENCL_FAULT_ONCE);
        const struct engine_placement *found = placement_found(placement);
        assert_int_equal(found->point_count, 5);
        assert_true(found->from_cache == (i == 1)); // kernels of a directory may be others each time
        assert_true(found->points[0].on_device);
        placement_close(placement);
    }
    assert_true(calls[1] < calls[0]);

    clock_step = 0.1;
    opencl_inject(1, OPENCL_FAULT_SILENCE); // which only a wait for what was begun notices
    struct placement *placement = open_well((struct placement_options){.way = PLACEMENT_SPLIT, .cache = directory});
    opencl_inject(0, OPENCL_FAULT_ONCE);
    clock_stopped = false;
    assert_non_null(strstr(placement_degraded(placement), "has not answered"));
    placement_close(placement);
    some_is_left();
    usleep(100000); // what it was about to write, it writes
    remove_all(directory);
}

static bool contradictory;

int __real_placement_measure(const struct placement_devices *devices, struct engine_placement *found,
                             struct error *error);
int __wrap_placement_measure(const struct placement_devices *devices, struct engine_placement *found,
                             struct error *error);
int __wrap_placement_measure(const struct placement_devices *devices, struct engine_placement *found,
                             struct error *error) {
    int code = __real_placement_measure(devices, found, error);
    found->contradictory |= contradictory;
    return code;
}

// What contradicts itself decides, for there is nothing better, but not for the next start; that is told.
static void contradictory_figures_are_not_kept(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    assert_non_null(mkdtemp(directory));
    stop_clock();
    for (int i = 0; i < 3; i++) {
        contradictory = i == 0;
        struct placement *placement =
            open_well((struct placement_options){.way = PLACEMENT_SPLIT, .cache = directory});
        assert_true(placement_found(placement)->contradictory == (i == 0));
        assert_true(placement_found(placement)->from_cache == (i == 2));
        assert_true((strstr(placement_describe(placement), "contradict") != NULL) == (i == 0));
        placement_close(placement);
    }
    clock_stopped = false;
    remove_all(directory);
}

// Nothing that another build has measured counts: its kernels may have been others.
static void a_build_has_its_own(void **unused) {
    (void)unused;
    need_device();
    char directory[] = "/tmp/tandem-cache-XXXXXX", path[512], text[4096], build[BUILD_ID_BYTES];
    keep_figures(directory, &(struct pace){{1, 1}, {1, 1}, 1});
    load_only_file(directory, path, text, sizeof text);
    build_id(build);
    assert_true(strlen(build) >= 16 && strspn(build, "0123456789abcdef") == strlen(build));
    assert_non_null(strstr(text, build));
    remove_all(directory);
}

// `auto` goes by the figures, in each phase by itself.
static void figures_decide(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        struct pace pace;
        bool few, many;
    } CASES[] = {
        {{{1, 1}, {2, 2}, 0.1}, true, true},
        {{{1, 3}, {2, 2}, 0.1}, true, false},
        {{{3, 1}, {2, 2}, 0.1}, false, true},
        {{{1.9, 1.9}, {2, 2}, 0.1}, false, false}, // too little to tell from noise
        {{{2.1, 2.1}, {2, 2}, 1}, false, true},    // a prompt's pass beside all else
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char directory[] = "/tmp/tandem-cache-XXXXXX";
        keep_figures(directory, &CASES[i].pace);
        struct placement *placement = open_well((struct placement_options){.explain = true, .cache = directory});
        const struct engine_placement *found = placement_found(placement);
        assert_true(found->from_cache);
        for (int p = 0; p < POINTS; p++) {
            bool answers = found->points[p].rows <= ENGINE_PLACEMENT_ANSWERS;
            assert_true(found->points[p].on_device == (answers ? CASES[i].few : CASES[i].many));
        }
        bool few = calls_for(placement, 5) > 0, many = calls_for(placement, 40) > 0;
        if (few != CASES[i].few || many != CASES[i].many) fail_msg("case %zu: %d, %d", i, few, many);
        placement_close(placement);
        remove_all(directory);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_kept),
        cmocka_unit_test(damaged_figures_are_not_believed),
        DEVICE_TEST(the_next_start_does_not_measure),
        DEVICE_TEST(contradictory_figures_are_not_kept),
        DEVICE_TEST(a_build_has_its_own),
        DEVICE_TEST(figures_decide),
    };
    return cmocka_run_group_tests_name("placement_cache", tests, open_model, close_model);
}
