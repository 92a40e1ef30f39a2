// Attention of the CPU at every level against the reference: pages in any order, windows shorter and longer than
// the context, prompts in chunks, several sequences in a batch, and that nobody's result depends on the others. Keys
// and values are held in one format after the other, setting by setting.
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

enum { SEQUENCES_MAX = 8, CONTEXT = 3200, PAGES_EACH = CONTEXT / KV_PAGE_TOKENS, LAYERS = 2, LAYER = 1 };

struct shape {
    int heads, kv_heads, head_dim;
};

static const struct shape SHAPES[] = {{4, 2, 16}, {6, 2, 32},  {16, 4, 128}, {3, 3, 6},
                                      {1, 1, 64}, {8, 1, 100}, {70, 1, 8}};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof SHAPES[0] };

// One step, with what is in the cache before it.
struct setting {
    struct shape shape;
    struct attention attention;
    float *rope; // cosines, then sines: [2][CONTEXT][head_dim / 2]
    struct kv_cache cache;
    int32_t pages[SEQUENCES_MAX][PAGES_EACH];
    struct batch_sequence sequence[SEQUENCES_MAX];
    bool prompts; // all rows are of prompts; else of answers
    struct batch batch;
    float *q, *k, *v;
    size_t q_count, kv_count;
};

static void fill_cache(struct random *random, const struct kv_cache *cache) {
    float row[128];
    assert_in_range(cache->head_dim, 1, 128);
    for (unsigned char *block = cache->data; block < cache->data + cache->data_bytes; block += cache->block_bytes)
        for (int p = 0; p < KV_PAGE_TOKENS; p++) {
            for (int i = 0; i < cache->head_dim; i++) row[i] = random_float(random);
            kv_cache_put(cache, block, p, row);
        }
}

static unsigned char *copy_cache(const struct kv_cache *cache) {
    return memcpy(allocate(cache->data_bytes, 1), cache->data, cache->data_bytes);
}

// counts[s] new rows of sequence s behind positions[s] old ones. The cache is full of random numbers, so the old
// keys and values are there, and what lies behind the end would be noticed.
static struct setting setting_of(struct random *random, struct shape shape, int window, int sequences,
                                 const int *positions, const int *counts) {
    struct setting s = {.shape = shape};
    size_t half = (size_t)shape.head_dim / 2;
    s.rope = allocate(2 * CONTEXT * half, sizeof *s.rope);
    int last = 0;
    for (int i = 0; i < sequences; i++) last = positions[i] + counts[i] > last ? positions[i] + counts[i] : last;
    for (int p = 0; p < last; p++)
        for (size_t i = 0; i < half; i++) {
            double angle = p * pow(10000, -(double)i / (double)half);
            s.rope[(size_t)p * half + i] = (float)cos(angle);
            s.rope[(CONTEXT + (size_t)p) * half + i] = (float)sin(angle);
        }
    s.attention =
        (struct attention){shape.heads, shape.kv_heads, shape.head_dim, window, s.rope, s.rope + CONTEXT * half, false};

    int pages = 1, order[SEQUENCES_MAX * PAGES_EACH]; // one that belongs to nobody
    for (int i = 0; i < sequences; i++) pages += kv_cache_pages_for((size_t)(positions[i] + counts[i]));
    struct error error;
    static unsigned made;
    enum kv_format format = (enum kv_format)(made++ % KV_FORMAT_COUNT);
    assert_int_equal(kv_cache_init(&s.cache, format, LAYERS, shape.kv_heads, shape.head_dim, pages, &error), 0);
    fill_cache(random, &s.cache);
    for (int i = 0; i < pages; i++) order[i] = i;
    for (int i = pages - 1; i > 0; i--) {
        int j = random_below(random, i + 1), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    int rows = 0, next = 0;
    for (int i = 0; i < sequences; i++) {
        for (int p = 0; p < kv_cache_pages_for((size_t)(positions[i] + counts[i])); p++) s.pages[i][p] = order[next++];
        s.sequence[i] = (struct batch_sequence){rows, counts[i], positions[i], NULL};
        rows += counts[i];
    }
    s.batch = (struct batch){.tokens = rows, .sequences = sequences};
    s.q_count = (size_t)rows * (size_t)(shape.heads * shape.head_dim);
    s.kv_count = (size_t)rows * (size_t)(shape.kv_heads * shape.head_dim);
    s.q = random_floats(random, s.q_count);
    s.k = random_floats(random, s.kv_count);
    s.v = random_floats(random, s.kv_count);
    return s;
}

static void setting_free(struct setting *s) {
    free(s->rope);
    free(s->q);
    free(s->k);
    free(s->v);
    kv_cache_finish(&s->cache);
}

static struct stage_limits limits_of(const struct setting *s) {
    return (struct stage_limits){.tokens_max = s->batch.tokens,
                                 .sequences_max = s->batch.sequences,
                                 .context_max = CONTEXT,
                                 .hidden = 8,
                                 .heads = s->shape.heads,
                                 .kv_heads = s->shape.kv_heads,
                                 .head_dim = s->shape.head_dim,
                                 .intermediate = 8,
                                 .experts = 2,
                                 .vocab = 8,
                                 .threads = 2};
}

// Runs sequences [first, first + count) and leaves what they write in out, at their rows, and in the cache.
static void run_some(const struct stages *stages, void *state, struct setting *s, int first, int count, float *out) {
    struct batch_sequence sequence[SEQUENCES_MAX];
    int row = s->sequence[first].first, rows = 0;
    for (int i = 0; i < count; i++) {
        sequence[i] = s->sequence[first + i];
        sequence[i].first -= row;
        sequence[i].pages = s->pages[first + i];
        rows += sequence[i].count;
    }
    struct batch batch = {.tokens = rows, .answers = s->prompts ? 0 : rows, .sequences = count, .sequence = sequence};
    size_t q_width = s->q_count / (size_t)s->batch.tokens, kv_width = s->kv_count / (size_t)s->batch.tokens;
    float *q = copy_floats(s->q + (size_t)row * q_width, (size_t)rows * q_width);
    float *k = copy_floats(s->k + (size_t)row * kv_width, (size_t)rows * kv_width);
    float *v = copy_floats(s->v + (size_t)row * kv_width, (size_t)rows * kv_width);
    float *found = allocate((size_t)rows * q_width, sizeof *found);
    stages->attention(state, &s->attention, &batch, &s->cache, LAYER, q, k, v, found);
    memcpy(out + (size_t)row * q_width, found, (size_t)rows * q_width * sizeof *out);
    free(found);
    free(v);
    free(k);
    free(q);
}

static void compare(const char *name, const float *found, const float *expected, size_t count, double tolerance) {
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)found[i] - (double)expected[i]) <= tolerance))
            fail_msg("%s, value %zu: found %.9g, expected %.9g ± %.3g", name, i, (double)found[i], (double)expected[i],
                     tolerance);
}

// Values lie within ±1 and keys and queries turn by angles, so |q · k| / √d ≤ 2 √d. A score is off by δ = (4√d + 12)
// roundings of that, its exponential by e^δ - 1 and three roundings more; the output is a weighted mean of values
// within ±1, so it is off by no more than twice that, and by the rounding of its sums. A key too many or too few
// would show as about 1 / keys.
static double tolerance_of(const struct setting *s, int keys) {
    double d = s->shape.head_dim, score = (4 * sqrt(d) + 12) * 0x1p-24 * 2 * sqrt(d);
    return 2 * (score + 4 * 0x1p-24) + (4 * sqrt(keys) + 16) * 0x1p-24;
}

// Prompts are multiplied in bf16 where the device can: queries, keys, weights and values are off by at most 2^-9 of
// themselves, each in its own direction. Of a single key the value's rounding is all there is, at most 2^-9; of many, a
// score is off by 2^-9 · √(2/3) · √(Σ (q k)² / d), three thousandths of a weight at five standard deviations, but then
// the mean of values within ±1 evens errors out as it evens out the values themselves.
static const double BF16_TOLERANCE = 0x1p-8;

// What was written, as it was held: a rounding in f32 may have tipped one of the format.
static void compare_caches(const struct kv_cache *found, const unsigned char *data) {
    static const double ROUNDING[KV_FORMAT_COUNT] = {[KV_F32] = 4 * 0x1p-24, [KV_F16] = 0x1p-10, [KV_INT8] = 1.5 / 127};
    struct kv_cache expected = *found;
    size_t blocks = found->data_bytes / found->block_bytes;
    expected.data = copy_cache(found);
    memcpy(expected.data, data, found->data_bytes);
    for (size_t b = 0; b < blocks; b++) {
        size_t at = b * found->block_bytes;
        if (memcmp(found->data + at, expected.data + at, found->block_bytes) == 0) continue;
        for (int p = 0; p < KV_PAGE_TOKENS; p++) {
            float x[128], y[128];
            kv_cache_get(found, found->data + at, p, x);
            kv_cache_get(&expected, expected.data + at, p, y);
            compare("cache", x, y, (size_t)found->head_dim, 2 * ROUNDING[found->format]);
        }
    }
    free(expected.data);
}

// Where the reference's own keys were rounded the other way, a score is off by a rounding of one of them at most, and
// the result by that of one value.
static double held_tolerance(const struct setting *s) {
    return s->cache.format == KV_F32 ? 0 : s->cache.format == KV_F16 ? 0x1p-9 : 4.0 / 127;
}

static void check_rows(struct setting *s) {
    struct stage_limits limits = limits_of(s);
    struct error error;
    void *reference;
    unsigned char *before = copy_cache(&s->cache);
    float *expected = allocate(s->q_count, sizeof *expected);
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    run_some(&reference_stages, reference, s, 0, s->batch.sequences, expected);
    reference_stages.close(reference);
    unsigned char *after = copy_cache(&s->cache);
    float *found = allocate(s->q_count, sizeof *found);

    for (int d = 0; d < DEVICE_COUNT; d++) {
        void *state = open_device(&DEVICES[d], &limits);
        if (!state) continue;
        memcpy(s->cache.data, before, s->cache.data_bytes);
        float *behind = ((struct cpu *)state)->score; // where partial results end
        behind[0] = 0.5f;
        run_some(&cpu_stages, state, s, 0, s->batch.sequences, found);
        assert_true(behind[0] == 0.5f);
        bool narrow = s->prompts && s->attention.narrow && DEVICES[d].options.bf16 != BF16_NONE;
        compare(DEVICES[d].name, found, expected, s->q_count,
                (narrow ? BF16_TOLERANCE : tolerance_of(s, CONTEXT)) + held_tolerance(s));
        compare_caches(&s->cache, after);

        memcpy(s->cache.data, before, s->cache.data_bytes);
        float *alone = allocate(s->q_count, sizeof *alone);
        for (int i = 0; i < s->batch.sequences; i++) run_some(&cpu_stages, state, s, i, 1, alone);
        assert_memory_equal(alone, found, s->q_count * sizeof *found);
        free(alone);
        cpu_stages.close(state);
    }
    memcpy(s->cache.data, before, s->cache.data_bytes);
    free(found);
    free(after);
    free(expected);
    free(before);
}

// As answers' rows and as prompts', exact ones and such as may be rounded.
static void check_setting(struct setting *s) {
    for (int way = 0; way < 3; way++) {
        s->prompts = way > 0;
        s->attention.narrow = way > 1;
        check_rows(s);
    }
}

// ---- The reference against a plain reading of the definition, for one head and few keys

static void reference_by_hand(void **unused) {
    (void)unused;
    struct random random = {11};
    struct setting s = setting_of(&random, (struct shape){1, 1, 4}, 3, 1, (int[]){33}, (int[]){1});
    struct stage_limits limits = limits_of(&s);
    struct error error;
    void *reference;
    float out[4];
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    run_some(&reference_stages, reference, &s, 0, 1, out);

    // The new row is at position 33 and sees 31, 32 and itself; pages hold 32 positions.
    double q[4], weight[3], total = 0;
    float key[4], value[3][4];
    for (int i = 0; i < 2; i++) {
        double c = (double)s.attention.rope_cos[33 * 2 + i], n = (double)s.attention.rope_sin[33 * 2 + i];
        q[i] = (double)s.q[i] * c - (double)s.q[i + 2] * n;
        q[i + 2] = (double)s.q[i + 2] * c + (double)s.q[i] * n;
    }
    for (int j = 0; j < 3; j++) {
        kv_cache_get(&s.cache, kv_cache_block(&s.cache, LAYER, s.pages[0][(31 + j) / 32], 0, 0), (31 + j) % 32, key);
        kv_cache_get(&s.cache, kv_cache_block(&s.cache, LAYER, s.pages[0][(31 + j) / 32], 1, 0), (31 + j) % 32,
                     value[j]);
        weight[j] =
            exp((q[0] * (double)key[0] + q[1] * (double)key[1] + q[2] * (double)key[2] + q[3] * (double)key[3]) / 2);
        total += weight[j];
    }
    for (int i = 0; i < 4; i++) {
        double expected = 0;
        for (int j = 0; j < 3; j++) expected += weight[j] / total * (double)value[j][i];
        assert_true(fabs((double)out[i] - expected) < 1e-6);
    }
    reference_stages.close(reference);
    setting_free(&s);
}

// ---- One sequence: positions and chunks around the edges of pages and windows

static void windows(void **unused) {
    (void)unused;
    static const int WINDOWS[] = {1, 2, 31, 32, 33, 100, CONTEXT}, POSITIONS[] = {0, 1, 31, 32, 63, 100};
    struct random random = {12};
    for (int w = 0; w < 7; w++)
        for (int p = 0; p < 6; p++)
            for (int i = 0; i < 2; i++) {
                if (SANITIZED && (w + 2 * p + i) % 8 != 0) continue;
                struct shape shape = SHAPES[(w + p) % SHAPE_COUNT];
                int count = i == 0 ? 1 : 2 + random_below(&random, 70);
                struct setting s = setting_of(&random, shape, WINDOWS[w], 1, &POSITIONS[p], &count);
                check_setting(&s);
                setting_free(&s);
            }
}

static void long_contexts(void **unused) {
    (void)unused;
    static const int CASES[][3] = {{2047, 3100, 1}, {2047, 2046, 3},   {CONTEXT, 3199, 1},
                                   {600, 1500, 40}, {CONTEXT, 0, 150}, {300, 0, 420}};
    struct random random = {13};
    for (int i = 0; i < 6; i += SANITIZED ? 3 : 1) {
        struct setting s = setting_of(&random, SHAPES[i % 3], CASES[i][0], 1, &CASES[i][1], &CASES[i][2]);
        check_setting(&s);
        setting_free(&s);
    }
}

// NaN everywhere in the cache but at the positions that the sequences have behind them.
static void spoil_unwritten(struct setting *s, const unsigned char *before) {
    const struct kv_cache *cache = &s->cache;
    memset(cache->data, 0xff, cache->data_bytes); // NaN, in int8 as scale
    for (int i = 0; i < s->batch.sequences; i++)
        for (int p = 0; p < s->sequence[i].position; p++)
            for (int part = 0; part < 2; part++)
                for (int h = 0; h < s->shape.kv_heads; h++) {
                    void *block = kv_cache_block(cache, LAYER, s->pages[i][p / KV_PAGE_TOKENS], part, h);
                    unsigned char *to = kv_cache_row(cache, block, p % KV_PAGE_TOKENS);
                    memcpy(to, before + (to - cache->data), cache->row_bytes);
                    if (cache->format != KV_INT8) continue;
                    to = (unsigned char *)(kv_cache_scales(cache, block) + p % KV_PAGE_TOKENS);
                    memcpy(to, before + (to - cache->data), sizeof(float));
                }
}

// ---- Several sequences, some decoding, some in a chunk of their prompt

static void company(void **unused) {
    (void)unused;
    static const int POSITIONS[][SEQUENCES_MAX] = {{5, 0, 40, 95, 31, 32, 700, 1}, {1, 2, 3, 4, 5, 6, 7, 1200}};
    static const int COUNTS[][SEQUENCES_MAX] = {{1, 1, 1, 1, 1, 1, 1, 1}, {1, 20, 1, 33, 2, 1, 9, 1}};
    static const int LONG[SEQUENCES_MAX] = {3000, 2100, 2500, 3199, 2047, 2200, 2300, 2400}; // all parts that can be
    struct random random = {14};
    for (int shape = 0; shape < SHAPE_COUNT; shape++)
        for (int i = 0; i < 2; i++) {
            struct setting s =
                setting_of(&random, SHAPES[shape], shape % 2 ? 50 : CONTEXT, SEQUENCES_MAX, POSITIONS[i], COUNTS[i]);
            check_setting(&s);
            setting_free(&s);
        }
    struct setting s = setting_of(&random, SHAPES[0], CONTEXT, SEQUENCES_MAX, LONG, COUNTS[0]);
    check_setting(&s);
    setting_free(&s);
}

// What lies in the pages where a sequence has not written, and in pages that are not its own, is never read: not
// even a NaN there, left by a sequence that failed, changes a bit.
static void what_others_left(void **unused) {
    (void)unused;
    static const int POSITIONS[] = {5, 0, 40, 95, 31, 32, 700, 0}, COUNTS[] = {1, 20, 1, 33, 2, 1, 1, 1};
    struct random random = {17};
    for (int shape = 0; shape < SHAPE_COUNT; shape += SANITIZED ? 2 : 1) {
        struct setting s =
            setting_of(&random, SHAPES[shape], shape % 2 ? 50 : CONTEXT, SEQUENCES_MAX, POSITIONS, COUNTS);
        struct stage_limits limits = limits_of(&s);
        struct error error;
        s.prompts = s.attention.narrow = shape % 3 > 0;
        unsigned char *before = copy_cache(&s.cache);
        float *clean = allocate(s.q_count, sizeof *clean), *found = allocate(s.q_count, sizeof *found);
        for (int d = -1; d < DEVICE_COUNT; d++) {
            const struct stages *stages = d < 0 ? &reference_stages : &cpu_stages;
            void *state = NULL;
            if (d < 0)
                assert_int_equal(stages->open(&state, &limits, &error), 0);
            else
                state = open_device(&DEVICES[d], &limits);
            if (!state) continue;
            memcpy(s.cache.data, before, s.cache.data_bytes);
            run_some(stages, state, &s, 0, s.batch.sequences, clean);
            spoil_unwritten(&s, before);
            run_some(stages, state, &s, 0, s.batch.sequences, found);
            assert_memory_equal(found, clean, s.q_count * sizeof *found);
            stages->close(state);
        }
        free(found);
        free(clean);
        free(before);
        setting_free(&s);
    }
}

// A prompt in chunks gives what the whole prompt gives, to the bit: in chunks that end anywhere.
static void chunks(void **unused) {
    (void)unused;
    enum { ALL = 600 }; // more keys than are taken at once
    static const int CHUNKS[] = {7, 17, 70, 599};
    struct random random = {15};
    const int nothing = 0, all = ALL;
    for (int shape = 0; shape < SHAPE_COUNT; shape += SANITIZED ? 3 : 1) {
        struct setting s = setting_of(&random, SHAPES[shape], shape % 2 ? 290 : CONTEXT, 1, &nothing, &all);
        struct stage_limits limits = limits_of(&s);
        float *whole = allocate(s.q_count, sizeof *whole), *pieces = allocate(s.q_count, sizeof *pieces);
        s.prompts = true;
        for (int d = 0; d < DEVICE_COUNT * 2; d++) {
            s.attention.narrow = d >= DEVICE_COUNT;
            void *state = open_device(&DEVICES[d % DEVICE_COUNT], &limits);
            if (!state) continue;
            run_some(&cpu_stages, state, &s, 0, 1, whole);
            unsigned char *cache = copy_cache(&s.cache);
            struct setting part = s;
            for (size_t c = 0; c < sizeof CHUNKS / sizeof *CHUNKS; c += SANITIZED ? 2 : 1) {
                for (int first = 0; first < ALL; first += CHUNKS[c]) {
                    int count = ALL - first < CHUNKS[c] ? ALL - first : CHUNKS[c];
                    part.sequence[0] = (struct batch_sequence){first, count, first, NULL};
                    run_some(&cpu_stages, state, &part, 0, 1, pieces);
                }
                assert_memory_equal(pieces, whole, s.q_count * sizeof *whole);
                assert_memory_equal(s.cache.data, cache, s.cache.data_bytes);
            }
            free(cache);
            cpu_stages.close(state);
        }
        free(pieces);
        free(whole);
        setting_free(&s);
    }
}

// Scores too large for exp without the shift by the largest, and numbers that are not finite.
static void extremes(void **unused) {
    (void)unused;
    struct random random = {16};
    const int positions[2] = {40, 70}, counts[2] = {1, 20};
    struct setting s = setting_of(&random, SHAPES[2], CONTEXT, 2, positions, counts);
    struct stage_limits limits = limits_of(&s);
    size_t q_width = s.q_count / 21;
    float *out = allocate(s.q_count, sizeof *out), *clean = allocate(s.q_count, sizeof *clean);
    for (int d = 0; d < DEVICE_COUNT * 2; d++) {
        s.prompts = s.attention.narrow = d >= DEVICE_COUNT;
        void *state = open_device(&DEVICES[d % DEVICE_COUNT], &limits);
        if (!state) continue;
        struct setting large = s;
        large.q = copy_floats(s.q, s.q_count);
        for (size_t i = 0; i < s.q_count; i++) large.q[i] *= 1e4f;
        run_some(&cpu_stages, state, &large, 0, 2, out);
        for (size_t i = 0; i < s.q_count; i++) assert_true(fabsf(out[i]) <= 1.00001f); // a mean of values within ±1

        run_some(&cpu_stages, state, &s, 0, 2, clean);
        memcpy(large.q, s.q, s.q_count * sizeof *s.q);
        large.q[3] = NAN;
        run_some(&cpu_stages, state, &large, 0, 2, out);
        assert_true(isnan(out[0]));
        assert_memory_equal(out + q_width, clean + q_width, 20 * q_width * sizeof *out); // the other sequence
        free(large.q);
        cpu_stages.close(state);
    }
    free(clean);
    free(out);
    setting_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_by_hand), cmocka_unit_test(windows), cmocka_unit_test(long_contexts),
        cmocka_unit_test(company),           cmocka_unit_test(chunks),  cmocka_unit_test(extremes),
        cmocka_unit_test(what_others_left),
    };
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
