// The memory bus that the CPU and the device share, with figures and a clock of the test's: how long both take is said,
// and whether the device is done.
#include "engine/stage_bytes.h"
#include "tests/unit/placement_rig.h"

static const double STEP = 1e-5, SLACK = 30 * 1e-5; // of the clock, and what asking it takes

static bool busy[STAGE_SLOTS], reads_host_memory;

bool __wrap_opencl_is_done(const struct opencl *opencl, int slot);
bool __wrap_opencl_is_done(const struct opencl *opencl, int slot) {
    (void)opencl;
    return !busy[slot];
}

bool __wrap_opencl_shares_memory(const struct opencl *opencl);
bool __wrap_opencl_shares_memory(const struct opencl *opencl) {
    (void)opencl;
    return reads_host_memory;
}

static int put_back(void **unused) {
    clock_stopped = reads_host_memory = false;
    memset(busy, 0, sizeof busy);
    return no_faults(unused);
}
#define BUS_TEST(function) cmocka_unit_test_teardown(function, put_back)

static struct placement *open_paced(struct placement_options options, const struct pace *pace) {
    char directory[] = "/tmp/tandem-cache-XXXXXX";
    keep_figures(directory, pace);
    options.way = PLACEMENT_SPLIT;
    options.cache = directory;
    struct placement *placement = open_well(options);
    assert_true(placement_found(placement)->from_cache);
    remove_all(directory);
    return placement;
}

static float x[ROWS_MAX * 64], y[ROWS_MAX * 64];

static void begin(struct placement *placement, int slot, int rows) {
    fill_rows(x, rows);
    placement_stages(placement)->mixture_begin(placement_state(placement), slot, &model->layers[1], x, rows, rows);
}

static void end(struct placement *placement, int slot) {
    static float weight[2 * ROWS_MAX];
    static int32_t expert[2 * ROWS_MAX];
    struct routing routing = {.expert = expert, .weight = weight};
    placement_stages(placement)->mixture_end(placement_state(placement), slot, y, &routing);
}

static void read_weights(struct placement *placement, int times) {
    static float in[64], out[512];
    clock_step = STEP;
    for (int i = 0; i < times; i++)
        placement_stages(placement)->linear(placement_state(placement), &model->layers[0].q, in, out, 1, false);
    clock_step = 0;
}

static double expert_bytes(void) {
    return stage_bytes_expert(&model->layers[1].experts[0]);
}

// ---- All experts on the device

// The CPU leaves the device its share, for as long as it computes and no longer.
static void the_device_has_its_share(void **unused) {
    (void)unused;
    need_device();
    static const struct {
        enum bus_share share;
        bool reads_host_memory, shared;
    } CASES[] = {{BUS_SHARE_ON, false, true},
                 {BUS_SHARE_OFF, true, false},
                 {BUS_SHARE_AUTO, true, true},
                 {BUS_SHARE_AUTO, false, false}};
    static const struct pace PACE = {{5, 5}, {3, 3}, 1};
    double wanted = stage_experts_chosen(&model->layers[1].router, 5) * expert_bytes() / 5e-3; // a second
    double each = stage_bytes_matrix(&model->layers[0].q.weight) / wanted;
    double expected = mix_on_cpu(5);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        reads_host_memory = CASES[i].reads_host_memory;
        struct placement *placement = // half of the bus is the CPU's
            open_paced((struct placement_options){.bus_share = CASES[i].share, .bus_bytes = 2 * wanted}, &PACE);
        stop_clock();
        read_weights(placement, 4);
        assert_int_equal(work_of(placement).holds, 0); // the device is idle
        same_sum(mix(placement, 5), expected);

        busy[0] = true;
        begin(placement, 0, 5);
        read_weights(placement, 4);
        struct engine_device_work work = work_of(placement);
        int holds = CASES[i].shared ? 3 : 0; // the first one had nothing to wait for
        assert_int_equal(work.holds, holds);
        assert_int_equal(work.mixtures, 2);
        close_to(work.held_seconds, holds * each, SLACK);
        assert_true(work.beside_seconds > 0);

        busy[0] = false;
        read_weights(placement, 4);
        end(placement, 0);
        assert_int_equal(work_of(placement).holds, holds);
        same_sum(mix(placement, 5), expected);
        placement_close(placement);
        clock_stopped = false;
    }
}

// Where it is the longer one at all else, waiting would make it longer still.
static void a_longer_cpu_does_not_wait(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_paced((struct placement_options){.bus_share = BUS_SHARE_ON, .bus_bytes = 1e6},
                                             &(struct pace){{5, 5}, {9, 9}, 6});
    stop_clock();
    busy[0] = true;
    begin(placement, 0, 5);
    read_weights(placement, 4);
    assert_int_equal(work_of(placement).holds, 0);
    busy[0] = false;
    end(placement, 0);
    placement_close(placement);
}

// One that is lost while the CPU waits for it, or never answers, leaves nothing to wait for.
static void a_lost_device_has_no_share(void **unused) {
    (void)unused;
    need_device();
    struct placement *placement = open_paced((struct placement_options){.bus_share = BUS_SHARE_ON, .bus_bytes = 1e6},
                                             &(struct pace){{5, 5}, {9, 9}, 1});
    stop_clock();
    busy[0] = true;
    opencl_inject(1, OPENCL_FAULT_SILENCE);
    begin(placement, 0, 5);
    read_weights(placement, 2);
    assert_int_equal(work_of(placement).holds, 1);
    clock_step = 0.1;
    end(placement, 0); // it is given up
    clock_step = 0;
    opencl_inject(0, OPENCL_FAULT_ONCE);
    assert_non_null(strstr(placement_degraded(placement), "has not answered"));
    read_weights(placement, 2);
    assert_int_equal(work_of(placement).holds, 1);
    placement_close(placement);
    some_is_left();
    usleep(100000); // what it was about to write, it writes
}

// ---- Some of them

enum { MANY = 40 };
static const char HALF[] = "0-7"; // of sixteen

// How many experts of each half those rows choose.
static void count_chosen(int chosen[2]) {
    static float weight[2 * MANY];
    static int32_t expert[2 * MANY];
    struct routing routing = {.expert = expert, .weight = weight};
    struct placement *cpu = open_placement(PLACEMENT_CPU);
    bool seen[16] = {0};
    assert_int_equal(model->config.experts, 16);
    fill_rows(x, MANY);
    placement_stages(cpu)->route(placement_state(cpu), &model->layers[1].router, x, MANY, &routing);
    for (int i = 0; i < 2 * MANY; i++) seen[expert[i]] = true;
    for (int e = 0; e < 16; e++) chosen[e / 8] += seen[e];
    placement_close(cpu);
}

// A device that has half of the experts takes half of the time, and the CPU has the other half's to compute.
static void the_longer_one_is_told_by_its_own_experts(void **unused) {
    (void)unused;
    need_device();
    int chosen[2] = {0};
    count_chosen(chosen);
    assert_true(chosen[0] > 2 && chosen[1] > 2);
    double share = (double)chosen[0] / (chosen[0] + chosen[1]);
    double even = (8 * share - 1) / (1 - share); // so long at all experts, the CPU is as long as a device of 8 ms
    double wanted = (chosen[0] + chosen[1]) * expert_bytes() / 8e-3;
    double each = stage_bytes_matrix(&model->layers[0].q.weight) / wanted;
    for (int longer = 0; longer < 2; longer++) {
        double cpu = longer ? 1.1 * even : 0.9 * even;
        struct placement *placement = open_paced(
            (struct placement_options){.bus_share = BUS_SHARE_ON, .bus_bytes = 2 * wanted, .experts_opencl = HALF},
            &(struct pace){{8, 8}, {cpu, cpu}, 1});
        stop_clock();
        busy[0] = true;
        begin(placement, 0, MANY);
        read_weights(placement, 3);
        assert_int_equal(work_of(placement).holds, longer ? 0 : 2);
        close_to(work_of(placement).held_seconds, longer ? 0 : 2 * each, SLACK);
        busy[0] = false;
        end(placement, 0);
        placement_close(placement);
        clock_stopped = false;
    }
}

// What the CPU reads of its own experts, while the device has gone on to the next part, it has had.
static void the_cpus_experts_are_asked_for(void **unused) {
    (void)unused;
    need_device();
    int chosen[2] = {0};
    count_chosen(chosen);
    double wanted = (chosen[0] + chosen[1]) * expert_bytes() / 8e-3;
    struct placement *placement = open_paced(
        (struct placement_options){.bus_share = BUS_SHARE_ON, .bus_bytes = 2 * wanted, .experts_opencl = HALF},
        &(struct pace){{8, 8}, {1, 1}, 1});
    stop_clock();
    begin(placement, 0, MANY);
    busy[1] = true;
    begin(placement, 1, MANY);
    end(placement, 0);
    assert_int_equal(work_of(placement).holds, 0); // the first to ask
    read_weights(placement, 1);
    assert_int_equal(work_of(placement).holds, 1);
    close_to(work_of(placement).held_seconds, chosen[1] * expert_bytes() / wanted, SLACK);
    busy[1] = false;
    end(placement, 1);
    placement_close(placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        BUS_TEST(the_device_has_its_share),
        BUS_TEST(a_longer_cpu_does_not_wait),
        BUS_TEST(a_lost_device_has_no_share),
        BUS_TEST(the_longer_one_is_told_by_its_own_experts),
        BUS_TEST(the_cpus_experts_are_asked_for),
    };
    return cmocka_run_group_tests_name("placement_bus", tests, open_model, close_model);
}
