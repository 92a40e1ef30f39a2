// Where the time of a prefill goes: bench_prefill [rows] [device] [layers] [weights] [threads] [kv]
//
// Passes of the shape of Phi-tiny-MoE over `layers` layers, whose weights all come from memory, stage after stage as
// the architecture calls them. Printed are each stage's milliseconds for the model's 32 layers, the median of several
// passes, beside what the machine reads and multiplies at best.
#include "tests/kernels/stage_data.h"

#include "base/clock.h"
#include "base/doubles.h"

#include <omp.h>
#include <sys/mman.h>

enum { HIDDEN = 4096, INNER = 448, EXPERTS = 16, HEADS = 16, KV_HEADS = 4, HEAD_DIM = 128, LAYERS = 32 };
enum { Q = HEADS * HEAD_DIM, KV = KV_HEADS * HEAD_DIM, TOP_K = 2, WINDOW = 2047, PASSES = 5 };
static const size_t LAYER_WEIGHTS = (size_t)HIDDEN * (2 * Q + 2 * KV) + (size_t)EXPERTS * 3 * INNER * HIDDEN;
static const float WEIGHT_MOST = 0.027f; // a row times a vector of unit variance has unit variance
static enum weight_format format;
static enum kv_format kv;

enum stage { NORM, QKV, ATTENTION, OUTPUT, ROUTE, EXPERT, STAGES };
static const char *const NAMES[STAGES] = {"norm", "q, k, v", "attention", "output", "route", "experts"};

struct pass {
    double seconds[STAGES];
};

struct work {
    const struct stages *stages;
    void *state;
    int rows, layers;
    const unsigned char *weights; // [layers][layer_bytes()]
    struct kv_cache cache;
    struct batch_sequence sequence;
    struct attention attention;
    struct norm norm;
    struct router router;
    struct routing routing;
    float *input, *x, *normed, *q, *k, *v, *attended;
};

static struct random dice = {1};

static struct matrix cut(const unsigned char **at, int rows, int columns) {
    struct matrix matrix = {format, rows, columns, *at};
    *at += weight_format_bytes(format, rows, columns);
    return matrix;
}

static size_t layer_bytes(void) { // all shapes are of whole blocks
    return LAYER_WEIGHTS / HIDDEN / 16 * weight_format_bytes(format, 16, HIDDEN);
}

// ---- A pass

static double lap(double *since) {
    double before = *since;
    *since = clock_seconds();
    return *since - before;
}

static void run_layer(struct work *work, int l, struct pass *pass) {
    const struct stages *stages = work->stages;
    const unsigned char *at = work->weights + (size_t)l * layer_bytes();
    int rows = work->rows;
    struct linear q = {cut(&at, Q, HIDDEN), NULL}, k = {cut(&at, KV, HIDDEN), NULL}, v = {cut(&at, KV, HIDDEN), NULL};
    struct linear o = {cut(&at, HIDDEN, Q), NULL};
    struct expert experts[EXPERTS];
    for (int e = 0; e < EXPERTS; e++)
        experts[e] = (struct expert){cut(&at, INNER, HIDDEN), cut(&at, INNER, HIDDEN), cut(&at, HIDDEN, INNER)};
    const struct layer layer = {.router = work->router, .experts = experts};
    const struct batch batch = {.tokens = rows, .sequences = 1, .sequence = &work->sequence};

    double since = clock_seconds();
    stages->norm(work->state, &work->norm, work->x, work->normed, rows);
    pass->seconds[NORM] += lap(&since);
    stages->linear(work->state, &q, work->normed, work->q, rows, false);
    stages->linear(work->state, &k, work->normed, work->k, rows, false);
    stages->linear(work->state, &v, work->normed, work->v, rows, false);
    pass->seconds[QKV] += lap(&since);
    stages->attention(work->state, &work->attention, &batch, &work->cache, 0, work->q, work->k, work->v,
                      work->attended);
    pass->seconds[ATTENTION] += lap(&since);
    stages->linear(work->state, &o, work->attended, work->x, rows, true);
    pass->seconds[OUTPUT] += lap(&since);
    stages->norm(work->state, &work->norm, work->x, work->normed, rows);
    pass->seconds[NORM] += lap(&since);
    stages->route(work->state, &work->router, work->normed, rows, &work->routing);
    pass->seconds[ROUTE] += lap(&since);
    stages->experts(work->state, &layer, &work->routing, work->normed, work->x, rows);
    pass->seconds[EXPERT] += lap(&since);
}

static struct pass run_pass(struct work *work) {
    struct pass pass = {{0}};
    memcpy(work->x, work->input, (size_t)work->rows * HIDDEN * sizeof *work->x);
    for (int l = 0; l < work->layers; l++) run_layer(work, l, &pass);
    for (int s = 0; s < STAGES; s++) pass.seconds[s] *= (double)LAYERS / work->layers;
    return pass;
}

// ---- What it works on

// As the engine's are held: a file's in small pages, its own in large ones. Filled from one matrix of random numbers.
static const unsigned char *make_weights(int layers) {
    enum { ROWS = 192 };
    size_t bytes = (size_t)layers * layer_bytes(), piece = weight_format_bytes(format, ROWS, HIDDEN);
    float *values = random_floats(&dice, (size_t)ROWS * HIDDEN);
    struct owned_matrix owned = random_matrix(&dice, WEIGHTS_BF16, ROWS, HIDDEN, 0);
    for (int i = 0; i < ROWS * HIDDEN; i++) {
        values[i] *= WEIGHT_MOST;
        ((uint16_t *)owned.memory)[i] = bf16_of_float(values[i]);
    }
    if (weight_format_packed(format)) owned = packed_matrix(format, ROWS, HIDDEN, values);
    unsigned char *weights = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (weights == MAP_FAILED) exit(1);
    if (weight_format_packed(format)) madvise(weights, bytes, MADV_HUGEPAGE);
#pragma omp parallel for
    for (size_t i = 0; i < bytes; i += piece)
        memcpy(weights + i, owned.matrix.data, bytes - i < piece ? bytes - i : piece);
    free(owned.memory);
    return weights;
}

static void prepare(struct work *work) {
    struct error error;
    size_t rows = (size_t)work->rows;
    int pages = kv_cache_pages_for(rows);
    if (kv_cache_init(&work->cache, kv, 1, KV_HEADS, HEAD_DIM, pages, &error) != 0) exit(1);
    int32_t *page = allocate((size_t)pages, sizeof *page);
    for (int p = 0; p < pages; p++) page[p] = p;
    work->sequence = (struct batch_sequence){0, work->rows, 0, page};
    float *one = allocate(HIDDEN, sizeof *one), *zero = calloc(HIDDEN, sizeof *zero);
    for (int i = 0; i < HIDDEN; i++) one[i] = 1;
    work->norm = (struct norm){HIDDEN, 1e-5f, one, zero};
    work->router = (struct router){EXPERTS, TOP_K, 0.01f, random_floats(&dice, EXPERTS * HIDDEN), HIDDEN};
    work->routing = (struct routing){0, TOP_K, allocate(rows * TOP_K, sizeof(int32_t)), allocate(rows * TOP_K, 4)};
    float *angle = random_floats(&dice, rows * HEAD_DIM / 2);
    work->attention = (struct attention){HEADS, KV_HEADS, HEAD_DIM, WINDOW, angle, angle, true};
    work->input = random_floats(&dice, rows * HIDDEN);
    work->x = allocate(rows * HIDDEN, sizeof(float));
    work->normed = allocate(rows * HIDDEN, sizeof(float));
    work->q = allocate(rows * Q, sizeof(float));
    work->k = allocate(rows * KV, sizeof(float));
    work->v = allocate(rows * KV, sizeof(float));
    work->attended = allocate(rows * Q, sizeof(float));
    work->weights = make_weights(work->layers);
}

// ---- Figures

static void report(const struct work *work, const struct pass *passes, const struct engine_limits *limits) {
    double rows = work->rows, total[PASSES] = {0};
    const double weights[STAGES] = {
        [QKV] = HIDDEN * (Q + 2.0 * KV), [OUTPUT] = (double)HIDDEN * Q, [EXPERT] = 3.0 * INNER * HIDDEN * TOP_K};
    double operations = 0;
    for (int s = 0; s < STAGES; s++) {
        double seconds[PASSES];
        for (int i = 0; i < PASSES; i++) total[i] += seconds[i] = passes[i].seconds[s];
        double work_of = 2 * weights[s] * rows * LAYERS, middle = doubles_median(seconds, PASSES);
        operations += work_of;
        printf("%-10s %8.1f ms", NAMES[s], 1e3 * middle);
        if (work_of > 0) printf(" %8.2f TFLOP/s", work_of / middle * 1e-12);
        printf("\n");
    }
    double all = doubles_median(total, PASSES);
    printf("%-10s %8.1f ms %8.2f TFLOP/s, %.0f tokens/s without embedding and head", "all", 1e3 * all,
           operations / all * 1e-12, rows / all);
    printf("; %.3f of %.2f TFLOP/s; %.1f GB/s\n", operations / all / limits->bf16, limits->bf16 * 1e-12,
           limits->read_bytes * 1e-9);
}

static int number(int argc, char **argv, int i, int otherwise) {
    return argc > i ? (int)strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    struct work work = {.stages = &cpu_stages, .rows = number(argc, argv, 1, 512), .layers = number(argc, argv, 3, 8)};
    int threads = number(argc, argv, 5, omp_get_max_threads());
    format = WEIGHTS_BF16;
    if (argc > 4 && !weight_format_parse(argv[4], &format)) return 64;
    kv = KV_F16;
    if (argc > 6 && !kv_format_parse(argv[6], &kv)) return 64;
    if (work.rows < 1 || work.layers < 1 || threads < 1) return 64;
    prepare(&work);
    const struct stage_limits limits = {.tokens_max = work.rows,
                                        .sequences_max = 1,
                                        .context_max = work.rows,
                                        .hidden = HIDDEN,
                                        .heads = HEADS,
                                        .kv_heads = KV_HEADS,
                                        .head_dim = HEAD_DIM,
                                        .intermediate = INNER,
                                        .experts = EXPERTS,
                                        .vocab = 32064,
                                        .threads = threads};
    for (int d = 0; d < DEVICE_COUNT; d++) {
        if (argc > 2 && strcmp(argv[2], "all") != 0 && strcmp(argv[2], DEVICES[d].name) != 0) continue;
        work.state = open_device(&DEVICES[d], &limits);
        if (!work.state) continue;
        cpu_stages.rows_are(work.state, ROWS_OF_PROMPTS);
        printf("%s; %d rows, %d layers in %s, keys and values in %s\n", cpu_stages.describe(work.state), work.rows,
               work.layers, weight_format_name(format), argc > 6 ? argv[6] : "f16");
        struct engine_limits peaks;
        struct pass passes[PASSES];
        run_pass(&work);
        for (int i = 0; i < PASSES; i++) passes[i] = run_pass(&work);
        cpu_measure(work.state, format, work.weights, (size_t)work.layers * layer_bytes(), &peaks);
        report(&work, passes, &peaks);
        cpu_stages.close(work.state);
    }
    return 0;
}
