// Where the time of a decode step goes: bench_decode [weights] [rows] [context] [kv] [steps]
//
// Steps of the shape of Phi-tiny-MoE, stage after stage as the architecture calls them, each row another sequence, all
// weights from memory. Printed are the median step, its share of what the machine reads at best, and of each stage the
// microseconds in a layer, with those in brackets that reading its bytes would not have taken.
#include "tests/kernels/stage_data.h"

#include "base/clock.h"
#include "base/doubles.h"

#include <omp.h>
#include <sys/mman.h>

enum { HIDDEN = 4096, INNER = 448, EXPERTS = 16, HEADS = 16, KV_HEADS = 4, HEAD_DIM = 128, LAYERS = 32, VOCAB = 32064 };
enum { Q = HEADS * HEAD_DIM, KV = KV_HEADS * HEAD_DIM, TOP_K = 2, WINDOW = 2047, STEPS_MAX = 512 };

enum stage { NORM, QKV, ATTENTION, OUTPUT, ROUTE, EXPERT, HEAD, STAGES };
static const char *const NAMES[STAGES] = {"norm", "q, k, v", "attention", "output", "route", "experts", "head"};


struct work {
    void *state;
    enum weight_format format;
    int rows, context;
    unsigned char *weights;
    size_t weight_bytes;
    struct layer layer[LAYERS];
    struct linear q[LAYERS], k[LAYERS], v[LAYERS], o[LAYERS], head;
    struct kv_cache cache;
    struct batch_sequence *sequence;
    struct attention attention;
    struct norm norm;
    struct routing routing;
    float *routed, *x, *normed, *qx, *kx, *vx, *attended, *logits;
};

static struct random dice = {1};

struct pass {
    double seconds[STAGES], bytes[STAGES];
};

static double lap(double *since) {
    double before = *since;
    *since = clock_seconds();
    return *since - before;
}

static double bytes_of(const struct matrix *m) {
    return (double)weight_format_bytes(m->format, m->rows, m->columns);
}

static void run_layer(struct work *w, int l, struct pass *pass) {
    const struct stages *stages = &cpu_stages;
    int rows = w->rows;
    const struct batch batch = {.tokens = rows, .answers = rows, .sequences = rows, .sequence = w->sequence};
    double since = clock_seconds();
    stages->norm(w->state, &w->norm, w->x, w->normed, rows);
    pass->seconds[NORM] += lap(&since);
    stages->linears(w->state, (const struct linear *[]){&w->q[l], &w->k[l], &w->v[l]}, 3, w->normed,
                    (float *[]){w->qx, w->kx, w->vx}, rows);
    pass->seconds[QKV] += lap(&since);
    pass->bytes[QKV] += bytes_of(&w->q[l].weight) + bytes_of(&w->k[l].weight) + bytes_of(&w->v[l].weight);
    stages->attention(w->state, &w->attention, &batch, &w->cache, l, w->qx, w->kx, w->vx, w->attended);
    pass->seconds[ATTENTION] += lap(&since);
    pass->bytes[ATTENTION] +=
        (double)rows * (w->context + 1) * KV_HEADS * 2 * (double)(w->cache.block_bytes / KV_PAGE_TOKENS);
    stages->linear(w->state, &w->o[l], w->attended, w->x, rows, true);
    pass->seconds[OUTPUT] += lap(&since);
    pass->bytes[OUTPUT] += bytes_of(&w->o[l].weight);
    stages->norm(w->state, &w->norm, w->x, w->normed, rows);
    pass->seconds[NORM] += lap(&since);
    stages->route(w->state, &w->layer[l].router, w->routed, rows, &w->routing);
    pass->seconds[ROUTE] += lap(&since);
    pass->bytes[ROUTE] += EXPERTS * HIDDEN * 4.0;
    stages->experts(w->state, &w->layer[l], &w->routing, w->normed, w->x, rows);
    pass->seconds[EXPERT] += lap(&since);
    bool chosen[EXPERTS] = {false};
    for (int i = 0; i < rows * TOP_K; i++) chosen[w->routing.expert[i]] = true;
    for (int e = 0; e < EXPERTS; e++)
        if (chosen[e]) pass->bytes[EXPERT] += 3 * bytes_of(&w->layer[l].experts[e].gate);
}

static struct pass run_step(struct work *w) {
    struct pass pass = {{0}, {0}};
    for (size_t i = 0; i < (size_t)w->rows * HIDDEN; i++) w->x[i] = random_float(&dice);
    cpu_stages.rows_are(w->state, ROWS_OF_ANSWERS);
    for (int l = 0; l < LAYERS; l++) run_layer(w, l, &pass);
    double since = clock_seconds();
    cpu_stages.linear(w->state, &w->head, w->x, w->logits, w->rows, false);
    pass.seconds[HEAD] += lap(&since);
    pass.bytes[HEAD] += bytes_of(&w->head.weight);
    return pass;
}

static struct matrix cut(struct work *w, enum weight_format format, int rows, int columns, size_t *at) {
    struct matrix m = {format, rows, columns, w->weights + *at};
    *at += (weight_format_bytes(format, rows, columns) + 63) / 64 * 64;
    return m;
}

static size_t lay_out(struct work *w) {
    size_t at = 0;
    enum weight_format f = w->format, fine = weight_format_fine(f);
    for (int l = 0; l < LAYERS; l++) {
        w->q[l].weight = cut(w, f, Q, HIDDEN, &at);
        w->k[l].weight = cut(w, f, KV, HIDDEN, &at);
        w->v[l].weight = cut(w, f, KV, HIDDEN, &at);
        w->o[l].weight = cut(w, f, HIDDEN, Q, &at);
        if (!w->layer[l].experts) w->layer[l].experts = calloc(EXPERTS, sizeof(struct expert));
        for (int e = 0; e < EXPERTS; e++)
            w->layer[l].experts[e] = (struct expert){cut(w, f, INNER, HIDDEN, &at), cut(w, f, INNER, HIDDEN, &at),
                                                     cut(w, f, HIDDEN, INNER, &at)};
    }
    w->head.weight = cut(w, fine, VOCAB, HIDDEN, &at);
    return at;
}

// One piece of valid blocks, over and over.
static void make_weights(struct work *w) {
    size_t bytes = w->weight_bytes = lay_out(w);
    w->weights = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->weights == MAP_FAILED) exit(1);
    madvise(w->weights, bytes, MADV_HUGEPAGE); // as the loader holds them
    struct owned_matrix piece = random_matrix(&dice, w->format, 16, HIDDEN, 0);
    size_t piece_bytes = weight_format_bytes(w->format, 16, HIDDEN);
    struct owned_matrix fine = random_matrix(&dice, weight_format_fine(w->format), 16, HIDDEN, 0);
    size_t fine_bytes = weight_format_bytes(weight_format_fine(w->format), 16, HIDDEN);
    size_t head_bytes = (size_t)bytes_of(&w->head.weight), head_at = bytes - (head_bytes + 63) / 64 * 64;
#pragma omp parallel for
    for (size_t i = 0; i < head_at; i += piece_bytes)
        memcpy(w->weights + i, piece.matrix.data, head_at - i < piece_bytes ? head_at - i : piece_bytes);
    for (size_t i = 0; i < head_bytes; i += fine_bytes) memcpy(w->weights + head_at + i, fine.matrix.data, fine_bytes);
    lay_out(w);
}

static void prepare(struct work *w, enum kv_format kv) {
    struct error error;
    size_t rows = (size_t)w->rows;
    int each = kv_cache_pages_for((size_t)w->context + 1), pages = each * w->rows;
    if (kv_cache_init(&w->cache, kv, LAYERS, KV_HEADS, HEAD_DIM, pages, &error) != 0) exit(1);
    float *values = random_floats(&dice, HEAD_DIM);
    for (unsigned char *block = w->cache.data; block < w->cache.data + w->cache.data_bytes;
         block += w->cache.block_bytes)
        for (int p = 0; p < KV_PAGE_TOKENS; p++) kv_cache_put(&w->cache, block, p, values);
    free(values);
    int32_t *page = allocate((size_t)pages, sizeof *page);
    w->sequence = allocate(rows, sizeof *w->sequence);
    for (int p = 0; p < pages; p++) page[p] = p;
    for (int r = 0; r < w->rows; r++) w->sequence[r] = (struct batch_sequence){r, 1, w->context, page + r * each};
    float *one = allocate(HIDDEN, sizeof *one), *zero = calloc(HIDDEN, sizeof *zero);
    for (int i = 0; i < HIDDEN; i++) one[i] = 1;
    w->norm = (struct norm){HIDDEN, 1e-5f, one, zero};
    for (int l = 0; l < LAYERS; l++)
        w->layer[l].router = (struct router){EXPERTS, TOP_K, 0.01f, random_floats(&dice, EXPERTS * HIDDEN), HIDDEN};
    w->routing = (struct routing){0, TOP_K, allocate(rows * TOP_K, sizeof(int32_t)), allocate(rows * TOP_K, 4)};
    float *angle = random_floats(&dice, (size_t)(w->context + 1) * HEAD_DIM / 2);
    w->attention = (struct attention){HEADS, KV_HEADS, HEAD_DIM, WINDOW, angle, angle, true};
    w->routed = random_floats(&dice, rows * HIDDEN); // weights that repeat make all rows alike: to one expert
    w->x = allocate(rows * HIDDEN, sizeof(float));
    w->normed = allocate(rows * HIDDEN, sizeof(float));
    w->qx = allocate(rows * Q, sizeof(float));
    w->kx = allocate(rows * KV, sizeof(float));
    w->vx = allocate(rows * KV, sizeof(float));
    w->attended = allocate(rows * Q, sizeof(float));
    w->logits = allocate(rows * VOCAB, sizeof(float));
    make_weights(w);
}

static void report(const struct pass *passes, int count, double bandwidth, int rows) {
    double values[STEPS_MAX], bytes = 0, all;
    for (int i = 0; i < count; i++) {
        values[i] = 0;
        for (int s = 0; s < STAGES; s++) {
            values[i] += passes[i].seconds[s];
            bytes += passes[i].bytes[s];
        }
    }
    bytes /= count;
    all = doubles_median(values, (size_t)count);
    printf("%.2f ms, %.1f tokens/s, %.1f %% |", 1e3 * all, rows / all, 100 * bytes / all / bandwidth);
    for (int s = 0; s < STAGES; s++) {
        double of = 0;
        for (int i = 0; i < count; i++) {
            values[i] = passes[i].seconds[s];
            of += passes[i].bytes[s] / count;
        }
        double middle = doubles_median(values, (size_t)count), each = s == HEAD ? 1 : LAYERS;
        printf(" %s %.1f", NAMES[s], 1e6 * middle / each);
        if (of > 0) printf(" (-%.1f)", 1e6 * (middle - of / bandwidth) / each);
    }
    printf("\n");
}

static int number(int argc, char **argv, int i, int otherwise) {
    return argc > i ? (int)strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    static struct work work;
    static struct pass passes[STEPS_MAX];
    double rates[STEPS_MAX];
    enum kv_format kv = KV_F16;
    work.format = WEIGHTS_INT8;
    work.rows = number(argc, argv, 2, 1);
    work.context = number(argc, argv, 3, 64);
    int steps = number(argc, argv, 5, 20), measured = 0;
    if (argc > 1 && !weight_format_parse(argv[1], &work.format)) return 64;
    if (argc > 4 && !kv_format_parse(argv[4], &kv)) return 64;
    if (work.rows < 1 || work.context < 0 || steps < 1 || steps > STEPS_MAX) return 64;
    prepare(&work, kv);
    const struct stage_limits limits = {.tokens_max = work.rows,
                                        .sequences_max = work.rows,
                                        .context_max = work.context + 1,
                                        .hidden = HIDDEN,
                                        .heads = HEADS,
                                        .kv_heads = KV_HEADS,
                                        .head_dim = HEAD_DIM,
                                        .intermediate = INNER,
                                        .experts = EXPERTS,
                                        .vocab = VOCAB,
                                        .threads = omp_get_max_threads()};
    struct error error;
    if (cpu_stages.open(&work.state, &limits, &error)) return 1;
    printf("%s\n", cpu_stages.describe(work.state));
    for (int i = -1; i < steps; i++) { // the first warms up
        struct pass pass = run_step(&work);
        if (i >= 0) passes[i] = pass;
        if (i % 8 != 0) continue;
        struct engine_limits peaks;
        cpu_measure(work.state, work.format, work.weights, work.weight_bytes, &peaks);
        rates[measured++] = peaks.read_bytes;
    }
    printf("%s, %d rows at %d, reading %.1f GB/s\n", weight_format_name(work.format), work.rows, work.context,
           1e-9 * doubles_median(rates, (size_t)measured));
    report(passes, steps, doubles_median(rates, (size_t)measured), work.rows);
    cpu_stages.close(work.state);
    return 0;
}
