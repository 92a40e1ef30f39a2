// How fast the stages are on this machine: bench_stages [threads] [device]
//
// Bytes read a second as a share of what the machine can read, and operations a second (a multiplication and an
// addition are two), for the shapes of Phi-tiny-MoE. Weights are walked through, so they come from memory. Each
// figure is the best of several runs; where others use the machine, compare shares within one run.
#include "tests/kernels/stage_data.h"

#include "base/clock.h"

#include <math.h>
#include <omp.h>

enum { HIDDEN = 4096, INNER = 448, EXPERTS = 16, HEADS = 16, KV_HEADS = 4, HEAD_DIM = 128, CONTEXT = 4096 };
enum { TOKENS = 512, RUNS = 9, POOL_BYTES = 1 << 30 };

static struct random dice = {1};
static double bandwidth; // bytes a second that all threads can read

// Weights are cut from one pool, piece after piece, each in turn.
static unsigned char *pool;
static size_t pool_used;

static const void *weights(size_t bytes) {
    if (pool_used + bytes > POOL_BYTES) pool_used = 0;
    const void *piece = pool + pool_used;
    pool_used += bytes;
    return piece;
}

static struct matrix matrix_of(enum weight_format format, int rows, int columns) {
    return (struct matrix){format, rows, columns,
                           weights((size_t)rows * (size_t)columns * (format == WEIGHTS_F32 ? 4 : 2))};
}

// ---- Timing

static double best(const double *seconds) {
    double least = seconds[0];
    for (int i = 1; i < RUNS; i++) least = seconds[i] < least ? seconds[i] : least;
    return least;
}

static void report(const char *what, const char *device, double seconds, double bytes, double operations) {
    printf("%-34s %-18s %9.3f ms", what, device, 1e3 * seconds);
    if (bytes > 0) printf(" %7.1f GB/s %4.0f %%", bytes / seconds * 1e-9, 100 * bytes / seconds / bandwidth);
    if (operations > 0) printf(" %8.1f GFLOP/s", operations / seconds * 1e-9);
    printf("\n");
    fflush(stdout);
}

static double read_bandwidth(int threads) {
    const struct kernels *kernels = kernels_at(kernels_best());
    const float *all = (const float *)(const void *)pool;
    float largest = 0;
    double seconds[RUNS];
    for (int run = 0; run < RUNS; run++) {
        double start = clock_seconds();
#pragma omp parallel for num_threads(threads) reduction(max : largest) schedule(static)
        for (size_t page = 0; page < POOL_BYTES / 4096; page++)
            largest = fmaxf(largest, kernels->maximum(all + page * 1024, 1024));
        seconds[run] = clock_seconds() - start;
    }
    double rate = POOL_BYTES / best(seconds);
    printf("reading memory: %.1f GB/s on %d threads (largest %g)\n", rate * 1e-9, threads, (double)largest);
    return rate;
}

// ---- What is measured

static void bench_linear(const struct device *device, void *state, enum weight_format format, int outputs, int columns,
                         int rows, float *x, float *y) {
    double seconds[RUNS];
    for (int run = -1; run < RUNS; run++) { // the first warms up
        struct linear linear = {matrix_of(format, outputs, columns), NULL};
        double start = clock_seconds();
        cpu_stages.linear(state, &linear, x, y, rows, false);
        if (run >= 0) seconds[run] = clock_seconds() - start;
    }
    char what[64];
    double weights = (double)outputs * columns;
    snprintf(what, sizeof what, "%s %d × %d, %d rows", weight_format_name(format), outputs, columns, rows);
    report(what, device->name, best(seconds), weights * (double)weight_format_bytes(format, 1, 1), 2 * weights * rows);
}

static void bench_experts(const struct device *device, void *state, enum weight_format format, int rows, float *x,
                          float *y) {
    int32_t expert[TOKENS * 2];
    float weight[TOKENS * 2];
    struct routing routing = {rows, 2, expert, weight};
    bool chosen[EXPERTS] = {false};
    int experts = 0;
    for (int i = 0; i < rows * 2; i++) {
        expert[i] =
            i % 2 ? (expert[i - 1] + 1 + random_below(&dice, EXPERTS - 1)) % EXPERTS : random_below(&dice, EXPERTS);
        weight[i] = 1;
        chosen[expert[i]] = true;
    }
    for (int e = 0; e < EXPERTS; e++) experts += chosen[e];
    double seconds[RUNS];
    for (int run = -1; run < RUNS; run++) {
        struct expert all[EXPERTS];
        for (int e = 0; e < EXPERTS; e++)
            all[e] = (struct expert){matrix_of(format, INNER, HIDDEN), matrix_of(format, INNER, HIDDEN),
                                     matrix_of(format, HIDDEN, INNER)};
        struct layer layer = {.router = {EXPERTS, 2, 0.01f, NULL, HIDDEN}, .experts = all};
        double start = clock_seconds();
        cpu_stages.experts(state, &layer, &routing, x, y, rows);
        if (run >= 0) seconds[run] = clock_seconds() - start;
    }
    char what[64];
    double each = 3.0 * INNER * HIDDEN;
    snprintf(what, sizeof what, "%s experts, %d rows (%d of 16)", weight_format_name(format), rows, experts);
    report(what, device->name, best(seconds), each * experts * (double)weight_format_bytes(format, 1, 1),
           2 * each * rows * 2);
}

static void bench_attention(const struct device *device, void *state, int position, int rows, float *q, float *out) {
    struct kv_cache cache;
    struct error error;
    int pages = kv_cache_pages_for((size_t)(position + rows));
    if (kv_cache_init(&cache, KV_F16, 1, KV_HEADS, HEAD_DIM, pages, &error) != 0) exit(1);
    for (size_t i = 0; i < cache.data_bytes; i++) cache.data[i] = (unsigned char)random_below(&dice, 0x3c);
    int32_t page[CONTEXT / KV_PAGE_TOKENS];
    for (int p = 0; p < pages; p++) page[p] = p;
    static float cosine[CONTEXT * HEAD_DIM / 2], sine[CONTEXT * HEAD_DIM / 2];
    const struct attention attention = {HEADS, KV_HEADS, HEAD_DIM, CONTEXT, cosine, sine, true};
    const struct batch_sequence sequence = {0, rows, position, page};
    const struct batch batch = {.tokens = rows, .answers = rows == 1, .sequences = 1, .sequence = &sequence};
    float *k = q + (size_t)rows * HEADS * HEAD_DIM, *v = k + (size_t)rows * KV_HEADS * HEAD_DIM;
    double seconds[RUNS];
    for (int run = -1; run < RUNS; run++) {
        double start = clock_seconds();
        cpu_stages.attention(state, &attention, &batch, &cache, 0, q, k, v, out);
        if (run >= 0) seconds[run] = clock_seconds() - start;
    }
    char what[64];
    double keys = rows * (position + (rows + 1) / 2.0);
    snprintf(what, sizeof what, "attention, %d rows at %d", rows, position);
    report(what, device->name, best(seconds), 0, 4 * keys * HEADS * HEAD_DIM);
    kv_cache_finish(&cache);
}

static void bench_small(const struct device *device, void *state, int rows, float *x, float *y) {
    static float weight[HIDDEN], bias[HIDDEN], router_weight[EXPERTS * HIDDEN];
    const struct norm norm = {HIDDEN, 1e-5f, weight, bias};
    const struct router router = {EXPERTS, 2, 0.01f, router_weight, HIDDEN};
    int32_t expert[TOKENS * 2];
    float share[TOKENS * 2];
    struct routing routing = {rows, 2, expert, share};
    double norms[RUNS], routes[RUNS];
    for (int run = 0; run < RUNS; run++) {
        double start = clock_seconds();
        cpu_stages.norm(state, &norm, x, y, rows);
        norms[run] = clock_seconds() - start;
        start = clock_seconds();
        cpu_stages.route(state, &router, x, rows, &routing);
        routes[run] = clock_seconds() - start;
    }
    char what[64];
    snprintf(what, sizeof what, "norm, %d rows", rows);
    report(what, device->name, best(norms), 0, 0);
    snprintf(what, sizeof what, "route, %d rows", rows);
    report(what, device->name, best(routes), 0, 0);
}

static void bench(const struct device *device, void *state) {
    static const int SHAPES[][2] = {{2048, HIDDEN}, {512, HIDDEN}, {HIDDEN, 2048}, {INNER, HIDDEN}, {HIDDEN, INNER}};
    static const int ROWS[] = {1, 4, 8, 16, 64, 256, TOKENS};
    float *x = random_floats(&dice, (size_t)TOKENS * HIDDEN), *y = random_floats(&dice, (size_t)TOKENS * 32064);
    for (int format = WEIGHTS_F32; format <= WEIGHTS_BF16; format++) {
        for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s++)
            for (size_t r = 0; r < sizeof ROWS / sizeof ROWS[0]; r++)
                bench_linear(device, state, (enum weight_format)format, SHAPES[s][0], SHAPES[s][1], ROWS[r], x, y);
        bench_linear(device, state, (enum weight_format)format, format == WEIGHTS_F32 ? 16032 : 32064, HIDDEN, 1, x, y);
        for (size_t r = 0; r < sizeof ROWS / sizeof ROWS[0]; r++)
            bench_experts(device, state, (enum weight_format)format, ROWS[r], x, y);
    }
    bench_attention(device, state, 500, 1, x, y);
    bench_attention(device, state, 4000, 1, x, y);
    bench_attention(device, state, 0, 256, x, y);
    bench_attention(device, state, 2000, 256, x, y);
    bench_small(device, state, 1, x, y);
    bench_small(device, state, 256, x, y);
    free(y);
    free(x);
}

int main(int argc, char **argv) {
    long wanted = argc > 1 ? strtol(argv[1], NULL, 10) : omp_get_max_threads();
    int threads = wanted < 1 || wanted > 1024 ? 1 : (int)wanted;
    pool = aligned_alloc(4096, POOL_BYTES);
    if (!pool) return 1;
    for (size_t i = 0; i < POOL_BYTES / 2; i++) { // halves of numbers around 1, as f32 and as bf16
        uint16_t value = (uint16_t)(0x3f00 | (random_bits(&dice) & 0x80ff));
        memcpy(pool + 2 * i, &value, sizeof value);
    }
    bandwidth = read_bandwidth(threads);
    const struct stage_limits limits = {.tokens_max = TOKENS,
                                        .sequences_max = TOKENS,
                                        .context_max = CONTEXT,
                                        .hidden = HIDDEN,
                                        .heads = HEADS,
                                        .kv_heads = KV_HEADS,
                                        .head_dim = HEAD_DIM,
                                        .intermediate = INNER,
                                        .experts = EXPERTS,
                                        .vocab = 32064,
                                        .threads = threads};
    for (int d = 0; d < DEVICE_COUNT; d++) {
        if (argc > 2 && strcmp(argv[2], DEVICES[d].name) != 0) continue;
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        printf("%s\n", cpu_stages.describe(state));
        bench(&DEVICES[d], state);
        cpu_stages.close(state);
    }
    free(pool);
    return 0;
}
