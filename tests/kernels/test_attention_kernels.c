// The kernels of a prompt's attention at every level this machine has, step by step against double precision: scores as
// exact as f32's, weights, what has been summed up before, keys that are not there or not seen, ragged widths.
#include "engine/cpu/attention_kernels.h"
#include "tests/kernels/stage_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

enum { BLOCKS = 2, KEYS = BLOCKS * ATTENTION_KEYS, GROUP_QUERIES = 4 }; // heads that share a position

// A unit whose queries are at the positions from `position` on, and keys up to `count`.
struct scene {
    int width, padded, position, window, count;
    float *q;             // [ATTENTION_UNIT][width]
    float *keys, *values; // [KEYS][width]
    struct attention_unit unit;
    struct attention_work work;
    uint16_t *key_tiles, *value_tiles;
};

static void *tiles(size_t count, size_t size) {
    void *memory = aligned_alloc(64, (count * size + 63) / 64 * 64);
    assert_non_null(memory);
    memset(memory, 0xff, count * size); // NaN, which must not get anywhere
    return memory;
}

static struct scene *scene_of(struct random *random, int width, int position, int window) {
    struct scene *s = allocate(1, sizeof *s);
    *s = (struct scene){.width = width, .position = position, .window = window};
    s->padded = (width + ATTENTION_STEP - 1) / ATTENTION_STEP * ATTENTION_STEP;
    s->count = position + ATTENTION_UNIT / GROUP_QUERIES;
    s->q = random_floats(random, (size_t)(ATTENTION_UNIT * width));
    s->keys = random_floats(random, (size_t)(KEYS * width));
    s->values = random_floats(random, (size_t)(KEYS * width));
    size_t all = (size_t)s->padded;
    for (int i = 0; i < ATTENTION_UNIT; i++) {
        s->unit.query[i] = position + i / GROUP_QUERIES;
        s->unit.largest[i] = -INFINITY;
    }
    s->unit.q = tiles(2 * ATTENTION_UNIT * all, sizeof *s->unit.q);
    s->unit.sum = tiles(ATTENTION_UNIT * all, sizeof *s->unit.sum);
    s->key_tiles = tiles(2 * ATTENTION_KEYS * all, sizeof *s->key_tiles);
    s->value_tiles = tiles(ATTENTION_KEYS * all, sizeof *s->value_tiles);
    s->work = (struct attention_work){.keys = s->key_tiles,
                                      .values = s->value_tiles,
                                      .width = s->padded,
                                      .window = window,
                                      .scale = 1.44269504f / sqrtf((float)width),
                                      .score = tiles(2 * ATTENTION_SCORES, sizeof(float)),
                                      .weight = tiles(2 * ATTENTION_SCORES, sizeof(uint16_t))};
    s->work.unit = &s->unit;
    return s;
}

static void scene_free(struct scene *s) {
    free(s->work.weight);
    free(s->work.score);
    free(s->value_tiles);
    free(s->key_tiles);
    free(s->unit.sum);
    free(s->unit.q);
    free(s->values);
    free(s->keys);
    free(s->q);
    free(s);
}

static void load_queries(const struct attention_kernels *kernels, struct scene *s) {
    for (int g = 0; g < 2; g++)
        kernels->queries(s->q + g * ATTENTION_LANES * s->width, s->width, s->unit.q + g * ATTENTION_TILE);
}

static void load_block(const struct attention_kernels *kernels, struct scene *s, int block) {
    size_t page_values = (size_t)(ATTENTION_PAGE_KEYS * s->padded);
    s->work.position = block * ATTENTION_KEYS;
    int oldest = s->position - s->window + 1 - s->work.position, newest = s->count - s->work.position;
    s->work.first = oldest > 0 ? oldest / ATTENTION_PAGE_KEYS : 0;
    s->work.last =
        newest >= ATTENTION_KEYS ? ATTENTION_PAGES : (newest + ATTENTION_PAGE_KEYS - 1) / ATTENTION_PAGE_KEYS;
    for (int p = s->work.first; p < s->work.last; p++) {
        int key = s->work.position + p * ATTENTION_PAGE_KEYS, count = s->count - key;
        if (count > ATTENTION_PAGE_KEYS) count = ATTENTION_PAGE_KEYS;
        float *some = copy_floats(s->keys + key * s->width, (size_t)(count * s->width)); // no more than there are
        kernels->keys(some, count, s->width, s->key_tiles + 2 * page_values * (size_t)p);
        memcpy(some, s->values + key * s->width, (size_t)(count * s->width) * sizeof *some);
        kernels->values(some, count, s->width, s->value_tiles + page_values * (size_t)p);
        free(some);
    }
}

static bool seen(const struct scene *s, int query, int key) {
    return key <= s->unit.query[query] && key > s->unit.query[query] - s->window;
}

static double product(const struct scene *s, int query, int key, double *absolute) {
    double sum = 0;
    *absolute = 0;
    for (int i = 0; i < s->width; i++) {
        double term = (double)s->q[query * s->width + i] * (double)s->keys[key * s->width + i];
        sum += term;
        *absolute += fabs(term);
    }
    return sum;
}

// Three products of halves leave out the product of both rests, at most 2^-8 of either, and rounded rests add as much
// twice; the sum of 3 · width terms has roundings of its own. Rounded queries and keys alone would be off by some
// 2^-9 / √width of it all, three times as much at 256.
static void check_scores(const struct scene *s) {
    for (int query = 0; query < ATTENTION_UNIT; query++)
        for (int j = s->work.first * ATTENTION_PAGE_KEYS; j < s->work.last * ATTENTION_PAGE_KEYS; j++) {
            int key = s->work.position + j, lane = query % ATTENTION_LANES;
            float found = s->work.score[query / ATTENTION_LANES * ATTENTION_SCORES + j * ATTENTION_LANES + lane];
            double absolute, expected = product(s, query, key, &absolute);
            if (!seen(s, query, key)) {
                assert_true(isinf(found) && found < 0);
                continue;
            }
            double tolerance = (3 * 0x1p-16 + (4 * sqrt(3 * s->width) + 8) * 0x1p-24) * absolute;
            if (!(fabs((double)found - expected) <= tolerance))
                fail_msg("query %d, key %d: found %.9g, expected %.9g ± %.3g", query, key, (double)found, expected,
                         tolerance);
        }
}

// Values within ±1 and their weights are rounded to bf16, by at most 2^-8 of themselves, and the sum that the mean is
// divided by is that of the rounded weights: each of them pulls the mean by no more than 2^-8 of its distance, at
// most 2.
static void check_results(const struct attention_kernels *kernels, const struct scene *s) {
    enum { ROWS = ATTENTION_LANES - 1 };
    static const double TOLERANCE = 3 * 0x1p-8 + 0x1p-12;
    float *out = allocate((size_t)(ROWS * s->width), sizeof *out);
    for (int group = 0; group < 2; group++) {
        int row[ROWS];
        for (int r = 0; r < ROWS; r++) row[r] = ROWS - 1 - r;
        kernels->store(&s->unit, group, ROWS, row, s->width, out);
        for (int r = 0; r < ROWS; r++) {
            int query = group * ATTENTION_LANES + r;
            double total = 0, *mean = calloc((size_t)s->width, sizeof *mean);
            assert_non_null(mean);
            for (int key = 0; key < s->count; key++) {
                double absolute, weight = exp(product(s, query, key, &absolute) / sqrt(s->width));
                if (!seen(s, query, key)) continue;
                total += weight;
                for (int i = 0; i < s->width; i++) mean[i] += weight * (double)s->values[key * s->width + i];
            }
            for (int i = 0; i < s->width; i++)
                if (!(fabs((double)out[row[r] * s->width + i] - mean[i] / total) <= TOLERANCE))
                    fail_msg("query %d, place %d: found %.9g, expected %.9g", query, i,
                             (double)out[row[r] * s->width + i], mean[i] / total);
            free(mean);
        }
    }
    free(out);
}

static void run(const struct attention_kernels *kernels, struct random *random, int width, int position, int window) {
    struct scene *s = scene_of(random, width, position, window);
    kernels->begin();
    load_queries(kernels, s);
    for (int block = 0; block < BLOCKS; block++) {
        load_block(kernels, s, block);
        if (s->work.first >= s->work.last) continue;
        kernels->scores(&s->work, NULL);
        kernels->look(&s->work);
        check_scores(s);
        kernels->scores(NULL, &s->work);
        kernels->sums(&s->work);
    }
    check_results(kernels, s);
    kernels->end();
    scene_free(s);
}

static void attention_of_a_unit(void **unused) {
    (void)unused;
    static const int WIDTHS[] = {6, 32, 100, 128, 256}, POSITIONS[] = {0, 3, 30, 100, 250, 300, 500};
    static const int WINDOWS[] = {1, 40, 270, KEYS};
    struct random random = {71};
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct attention_kernels *kernels = attention_kernels_at((enum bf16_level)level);
        for (size_t i = 0; kernels && i < sizeof WIDTHS / sizeof *WIDTHS; i++)
            for (size_t p = 0; p < sizeof POSITIONS / sizeof *POSITIONS; p++)
                for (size_t w = 0; w < sizeof WINDOWS / sizeof *WINDOWS; w++)
                    run(kernels, &random, WIDTHS[i], POSITIONS[p], WINDOWS[w]);
    }
}

// What becomes of one unit's scores does not depend on whether another one's are multiplied beside them, and of how
// many pages.
static void units_side_by_side(void **unused) {
    (void)unused;
    static const int WIDTHS[] = {16, 96, 128}, POSITIONS[] = {7, 90, 240};
    struct random random = {72};
    for (int level = BF16_NONE + 1; level < BF16_LEVELS; level++) {
        const struct attention_kernels *kernels = attention_kernels_at((enum bf16_level)level);
        for (int i = 0; kernels && i < 9; i++) {
            int width = WIDTHS[i % 3];
            struct scene *one = scene_of(&random, width, POSITIONS[i / 3], KEYS);
            struct scene *other = scene_of(&random, width, POSITIONS[(i / 3 + 1) % 3], KEYS);
            size_t weights = 2 * ATTENTION_SCORES * sizeof(uint16_t);
            float total[ATTENTION_UNIT];
            kernels->begin();
            load_queries(kernels, one);
            load_queries(kernels, other);
            load_block(kernels, one, 0);
            load_block(kernels, other, 0);
            kernels->scores(&one->work, NULL);
            kernels->look(&one->work);
            kernels->scores(NULL, &one->work);
            void *alone = memcpy(allocate(1, weights), one->work.weight, weights);
            memcpy(total, one->unit.total, sizeof total);

            memset(one->work.weight, 0xff, weights);
            memset(one->unit.total, 0, sizeof total);
            kernels->scores(&other->work, &one->work);
            assert_memory_equal(one->work.weight, alone, weights);
            assert_memory_equal(one->unit.total, total, sizeof total);
            kernels->look(&other->work);
            check_scores(other);
            kernels->end();
            free(alone);
            scene_free(other);
            scene_free(one);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_of_a_unit),
        cmocka_unit_test(units_side_by_side),
    };
    return cmocka_run_group_tests_name("attention kernels", tests, NULL, NULL);
}
