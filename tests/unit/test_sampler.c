// The sampler: hand-computed cases, a plain re-implementation that sorts everything, and statistics of draws.
// Every seed is fixed, so that a test passes always or never.
#include "engine/sampler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB_MAX = 32064 };

static struct sampling greedy(void) {
    return (struct sampling){.top_p = 1, .repetition_penalty = 1};
}

static struct sampling warm(float temperature, uint64_t seed) {
    return (struct sampling){.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .seed = seed};
}

static struct sampler *open_sampler(const struct sampling *sampling, int vocab) {
    struct sampler *sampler = NULL;
    struct error error;
    assert_int_equal(sampler_create(&sampler, sampling, vocab, &error), 0);
    return sampler;
}

static int32_t choose(struct sampler *sampler, const float *logits) {
    int32_t token = -1;
    struct error error;
    assert_int_equal(sampler_choose(sampler, logits, &token, &error), 0);
    return token;
}

// One greedy choice after the prompt and answer tokens given (each list ends in -1).
static int32_t choose_after(const struct sampling *sampling, const float *logits, int vocab, const int *prompt,
                            const int *answer) {
    struct sampler *sampler = open_sampler(sampling, vocab);
    for (; *prompt >= 0; prompt++) sampler_saw_prompt(sampler, *prompt);
    for (; *answer >= 0; answer++) sampler_saw_answer(sampler, *answer);
    int32_t token = choose(sampler, logits);
    assert_int_equal(choose(sampler, logits), token); // choosing changes nothing
    sampler_destroy(sampler);
    return token;
}

#define TOKENS(...) ((const int[]){__VA_ARGS__, -1})
#define NONE TOKENS(-1)

static double random_unit(void) {
    return (double)random() / 2147483648.0;
}

// ---- The most likely

static void greedy_takes_the_most_likely(void **state) {
    (void)state;
    struct sampling sampling = greedy();
    assert_int_equal(choose_after(&sampling, (float[]){-3, -1, -2}, 3, NONE, NONE), 1);
    assert_int_equal(choose_after(&sampling, (float[]){1, 5, 5, 5}, 4, NONE, NONE), 1); // the smallest id
    assert_int_equal(choose_after(&sampling, (float[]){-INFINITY, -1e38f, -INFINITY}, 3, NONE, NONE), 1);
    assert_int_equal(choose_after(&sampling, (float[]){7}, 1, NONE, NONE), 0);
}

static void not_finite_is_an_error(void **state) {
    (void)state;
    const float bad[][3] = {
        {1, NAN, 2}, {NAN, -INFINITY, 0}, {1, INFINITY, 2}, {INFINITY, NAN, 0}, {-INFINITY, -INFINITY, -INFINITY},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int temperature = 0; temperature < 2; temperature++) {
            struct sampling sampling = warm((float)temperature, 1);
            struct sampler *sampler = open_sampler(&sampling, 3);
            int32_t token = 77;
            struct error error = {0};
            assert_int_equal(sampler_choose(sampler, bad[i], &token, &error), ERROR_NUMERIC);
            assert_int_equal(error.code, ERROR_NUMERIC);
            float logprob;
            assert_int_equal(sampler_logprobs(bad[i], 3, 0, &logprob, NULL, 0, &error), ERROR_NUMERIC);
            sampler_destroy(sampler);
        }
}

// ---- Bias and penalties

static void bias_is_added(void **state) {
    (void)state;
    struct logit_bias bias[] = {{1, -100}, {2, 1.5f}, {2, 1}};
    struct sampling sampling = greedy();
    sampling.bias = bias;
    sampling.bias_count = 3;
    const float logits[] = {1, 9, -1, 0};
    struct sampler *sampler = open_sampler(&sampling, 4);
    bias[2].bias = -50;                           // it was copied
    assert_int_equal(choose(sampler, logits), 2); // 1, -91, 1.5, 0
    sampler_destroy(sampler);

    bias[1].bias = bias[2].bias = 0;
    bias[0] = (struct logit_bias){1, -INFINITY};
    assert_int_equal(choose_after(&sampling, logits, 4, NONE, NONE), 0);
    float logprob;
    struct error error;
    assert_int_equal(sampler_logprobs(logits, 4, 1, &logprob, NULL, 0, &error), 0); // of the model itself
    assert_true(logprob > -0.001f);
}

// As transformers' RepetitionPenaltyLogitsProcessor: negative logits are multiplied, others divided, once a token.
static void repetition_penalty_divides_or_multiplies(void **state) {
    (void)state;
    struct sampling sampling = greedy();
    sampling.repetition_penalty = 2;
    assert_int_equal(choose_after(&sampling, (float[]){2, 1.5f}, 2, NONE, NONE), 0);
    assert_int_equal(choose_after(&sampling, (float[]){2, 1.5f}, 2, TOKENS(0), NONE), 1); // 1, 1.5
    assert_int_equal(choose_after(&sampling, (float[]){2, 1.5f}, 2, NONE, TOKENS(0)), 1);
    assert_int_equal(choose_after(&sampling, (float[]){-1, -1.5f}, 2, TOKENS(0), NONE), 1);          // -2, -1.5
    assert_int_equal(choose_after(&sampling, (float[]){2, 0.9f}, 2, TOKENS(0, 0, 0), TOKENS(0)), 0); // still 1, 0.9
    sampling.repetition_penalty = 0.5f;
    assert_int_equal(choose_after(&sampling, (float[]){2, 3}, 2, TOKENS(0), NONE), 0); // 4, 3
}

// As OpenAI documents them: mu[j] -= c[j] * frequency + (c[j] > 0) * presence, c counting the answer alone.
static void presence_and_frequency_penalties_are_subtracted(void **state) {
    (void)state;
    struct sampling sampling = greedy();
    sampling.presence_penalty = 0.6f;
    const float logits[] = {2, 1.5f};
    assert_int_equal(choose_after(&sampling, logits, 2, TOKENS(0, 0), NONE), 0);       // the prompt does not count
    assert_int_equal(choose_after(&sampling, logits, 2, NONE, TOKENS(0)), 1);          // 1.4, 1.5
    assert_int_equal(choose_after(&sampling, logits, 2, NONE, TOKENS(0, 0, 0, 1)), 0); // 1.4, 0.9

    sampling.presence_penalty = 0;
    sampling.frequency_penalty = 0.2f;
    assert_int_equal(choose_after(&sampling, logits, 2, NONE, TOKENS(0, 0)), 0);    // 1.6, 1.5
    assert_int_equal(choose_after(&sampling, logits, 2, NONE, TOKENS(0, 0, 0)), 1); // 1.4, 1.5
    sampling.presence_penalty = -1;
    sampling.frequency_penalty = -1;
    assert_int_equal(choose_after(&sampling, (float[]){2, -1.5f}, 2, NONE, TOKENS(1, 1, 1)), 1); // 2, 2.5
}

static void bias_then_repetition_then_presence(void **state) {
    (void)state;
    struct sampling sampling = greedy();
    struct logit_bias bias = {0, -3};
    sampling.repetition_penalty = 2;
    sampling.bias = &bias;
    sampling.bias_count = 1;
    assert_int_equal(choose_after(&sampling, (float[]){1, -3}, 2, TOKENS(0), NONE), 1); // (1 - 3) * 2 = -4

    sampling.bias_count = 0;
    sampling.presence_penalty = 1;
    // 4 / 2 - 1 = 1; the other way round it would be (4 - 1) / 2 = 1.5
    assert_int_equal(choose_after(&sampling, (float[]){4, 1.2f}, 2, NONE, TOKENS(0)), 1);
}

// ---- Draws: the plain re-implementation

struct entry {
    long double weight;
    float logit;
    int32_t token;
};

static int by_weight(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

// All tokens that stay possible, the most likely first, with weights that sum to 1.
static int plain_candidates(const struct sampling *sampling, const float *logits, int vocab, struct entry *out) {
    int count = 0;
    for (int32_t i = 0; i < vocab; i++)
        if (logits[i] > -INFINITY) out[count++] = (struct entry){0, logits[i], i};
    qsort(out, (size_t)count, sizeof *out, by_weight);
    if (sampling->top_k > 0 && count > sampling->top_k) count = sampling->top_k;

    long double total = 0, sum = 0;
    for (int i = 0; i < count; i++) {
        out[i].weight = expl(((long double)logits[out[i].token] - (long double)logits[out[0].token]) /
                             (long double)sampling->temperature);
        total += out[i].weight;
    }
    if (sampling->top_p < 1) {
        int kept = 0;
        while (kept < count) {
            sum += out[kept++].weight;
            if (sum >= (long double)sampling->top_p * total) break;
        }
        count = kept;
    }
    int kept = 1;
    while (kept < count && out[kept].weight >= (long double)sampling->min_p) kept++;
    total = 0;
    for (int i = 0; i < kept; i++) total += out[i].weight;
    for (int i = 0; i < kept; i++) out[i].weight /= total;
    return kept;
}

static struct entry *find(struct entry *entries, int count, int32_t token) {
    for (int i = 0; i < count; i++)
        if (entries[i].token == token) return &entries[i];
    return NULL;
}

static struct sampling random_sampling(int vocab) {
    struct sampling sampling = warm((float)(0.05 + 2 * random_unit()), (uint64_t)random());
    if (random() % 2) sampling.top_k = 1 + (int)(random() % (random() % 2 ? vocab + 5 : 8));
    if (random() % 2) sampling.top_p = (float)(random() % 8 == 0 ? 0 : random() % 4 == 0 ? 0.999 : random_unit());
    if (random() % 2) sampling.min_p = (float)(random() % 8 == 0 ? 1 : random_unit() * random_unit());
    return sampling;
}

static void random_logits(float *logits, int vocab) {
    double width = random() % 4 == 0 ? 0.5 : 8;
    for (int i = 0; i < vocab; i++) {
        logits[i] = (float)(width * (random_unit() + random_unit() - 1));
        if (random() % 3 == 0) logits[i] = roundf(logits[i]); // ties
        if (random() % 10 == 0) logits[i] = -INFINITY;
    }
    logits[random() % vocab] = (float)width;
}

// Whatever the settings, only tokens of the plain set are drawn, and with few of them, all are.
static void draws_stay_inside_the_plain_set(void **state) {
    (void)state;
    enum { VOCAB = 700, DRAWS = 40 };
    static float logits[VOCAB], before[VOCAB];
    static struct entry entries[VOCAB];
    srandom(11);
    int smallest_sets = 0;
    for (int round = 0; round < 1500; round++) {
        int vocab = 1 + (int)(random() % VOCAB);
        random_logits(logits, vocab);
        memcpy(before, logits, sizeof logits);
        struct sampling sampling = random_sampling(vocab);
        int count = plain_candidates(&sampling, logits, vocab, entries);
        struct sampler *sampler = open_sampler(&sampling, vocab);
        for (int i = 0; i < DRAWS; i++) assert_non_null(find(entries, count, choose(sampler, logits)));
        smallest_sets += count == 1;
        assert_memory_equal(before, logits, sizeof logits);
        sampler_destroy(sampler);
    }
    assert_true(smallest_sets > 50); // the settings were not too tame
}

// Pearson's chi-square of many draws against the plain weights. With d degrees of freedom it is about
// d ± √(2d); the bound is six standard deviations and a half above, and the seed is fixed. Tokens expected fewer
// than ten times are counted together.
static void check_distribution(struct sampling sampling, const float *logits, int vocab) {
    enum { DRAWS = 20000 };
    static struct entry entries[VOCAB_MAX];
    static int counts[VOCAB_MAX];
    int count = plain_candidates(&sampling, logits, vocab, entries);
    memset(counts, 0, sizeof counts);
    struct sampler *sampler = open_sampler(&sampling, vocab);
    for (int i = 0; i < DRAWS; i++) counts[choose(sampler, logits)]++;
    sampler_destroy(sampler);

    double chi = 0, rare_expected = 0;
    int rare = 0, freedom = -1, drawn = 0;
    for (int i = 0; i < count; i++) {
        double expected = (double)entries[i].weight * DRAWS;
        int seen = counts[entries[i].token];
        drawn += seen;
        if (expected < 10) {
            rare_expected += expected;
            rare += seen;
        } else {
            chi += (seen - expected) * (seen - expected) / expected;
            freedom++;
        }
    }
    assert_int_equal(drawn, DRAWS);
    if (rare_expected >= 10) {
        chi += (rare - rare_expected) * (rare - rare_expected) / rare_expected;
        freedom++;
    }
    if (freedom < 1) return;
    double bound = freedom + 6.5 * sqrt(2.0 * freedom);
    if (chi > bound) fail_msg("chi-square %g with %d degrees of freedom exceeds %g", chi, freedom, bound);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    const float logits[] = {2, 1, 0.5f, 0.5f, 0, -1, -INFINITY, 1.9f, -3, 0.25f};
    const int vocab = sizeof logits / sizeof *logits;
    uint64_t seed = 1;
    for (int temperature = 0; temperature < 3; temperature++)
        for (int top_k = 0; top_k < 3; top_k++)
            for (int top_p = 0; top_p < 3; top_p++)
                for (int min_p = 0; min_p < 2; min_p++) {
                    struct sampling sampling = warm((float[]){0.5f, 1, 2}[temperature], seed++);
                    sampling.top_k = (int[]){0, 4, 20}[top_k];
                    sampling.top_p = (float[]){1, 0.9f, 0.5f}[top_p];
                    sampling.min_p = (float[]){0, 0.2f}[min_p];
                    check_distribution(sampling, logits, vocab);
                }
}

// An almost flat distribution: top_p keeps thousands of candidates.
static void large_vocabularies_are_drawn_from_alike(void **state) {
    (void)state;
    enum { VOCAB = 6000 };
    static float logits[VOCAB];
    static struct entry entries[VOCAB_MAX];
    srandom(5);
    for (int i = 0; i < VOCAB; i++) logits[i] = (float)random_unit();
    struct sampling sampling = warm(1, 3);
    sampling.top_p = 0.9f;
    int count = plain_candidates(&sampling, logits, VOCAB, entries);
    assert_in_range(count, VOCAB / 2, VOCAB - 1);
    struct sampler *sampler = open_sampler(&sampling, VOCAB);
    int near_the_end = 0;
    for (int i = 0; i < 3000; i++) {
        struct entry *entry = find(entries, count, choose(sampler, logits));
        assert_non_null(entry);
        near_the_end += entry - entries > count - count / 10;
    }
    // The last tenth of the set weighs some 8 % (the flattest end of e^x): 240 of 3000, give or take 15.
    assert_in_range(near_the_end, 150, 330);
    sampler_destroy(sampler);
}

// Equal logits, so that every weight is exactly 1: a set that reaches top_p exactly is complete, and nobody who is
// exactly min_p times as likely as the first is dropped.
static void limits_belong_to_the_set(void **state) {
    (void)state;
    static const float logits[8];
    for (int with_min_p = 0; with_min_p < 2; with_min_p++) {
        struct sampling sampling = warm(1, 6);
        sampling.top_p = with_min_p ? 1 : 0.5f;
        sampling.min_p = with_min_p ? 1 : 0;
        struct sampler *sampler = open_sampler(&sampling, 8);
        int counts[8] = {0};
        for (int i = 0; i < 800; i++) counts[choose(sampler, logits)]++;
        for (int i = 0; i < 8; i++) assert_int_equal(counts[i] > 0, with_min_p || i < 4);
        sampler_destroy(sampler);
    }
}

static void extreme_temperatures_do_no_harm(void **state) {
    (void)state;
    const float logits[] = {-1e30f, 3, 2.9999f, 3, -3e38f, -INFINITY};
    const float tiny[] = {FLT_TRUE_MIN, FLT_MIN, 1e-30f, 1e-9f};
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        int counts[6] = {0};
        struct sampling sampling = warm(tiny[i], 9);
        struct sampler *sampler = open_sampler(&sampling, 6);
        for (int draw = 0; draw < 1000; draw++) counts[choose(sampler, logits)]++;
        assert_int_equal(counts[1] + counts[3], 1000); // only what is most likely, and both of them
        assert_in_range(counts[1], 400, 600);          // 500 ± 16
        sampler_destroy(sampler);
    }
    check_distribution(warm(1000, 2), (float[]){0, 5, -5, 2}, 4);
    check_distribution(warm(FLT_MAX, 2), (float[]){-3e38f, 3e38f, 0}, 3);
}

static void ruled_out_tokens_are_never_drawn(void **state) {
    (void)state;
    static float logits[1000];
    for (int i = 0; i < 1000; i++) logits[i] = i == 41 || i == 977 ? -5 : -INFINITY;
    for (int top_k = 0; top_k < 4; top_k++)
        for (int top_p = 0; top_p < 2; top_p++) {
            struct sampling sampling = warm(1, 4);
            sampling.top_k = top_k * 300;
            sampling.top_p = top_p ? 0.99f : 1;
            struct sampler *sampler = open_sampler(&sampling, 1000);
            int first = 0;
            for (int i = 0; i < 200; i++) {
                int32_t token = choose(sampler, logits);
                assert_true(token == 41 || token == 977);
                first += token == 41;
            }
            assert_in_range(first, 60, 140); // 100 ± 7
            sampler_destroy(sampler);
        }
}

// SplitMix64 from seed 1234567 gives 6457827717110365317, 3203168211198807973, 9817491932198370423,
// 4593380528125082431, 16408922859458223821 (its published test values): as shares of 2^64 they fall here.
static void the_seed_decides(void **state) {
    (void)state;
    static const float logits[1000]; // all equal
    const int32_t expected[] = {350, 173, 532, 249, 889};
    struct sampling sampling = warm(1, 1234567);
    struct sampler *sampler = open_sampler(&sampling, 1000);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(choose(sampler, logits), expected[i]);
    sampler_destroy(sampler);

    int equal = 0;
    for (uint64_t seed = 0; seed < 500; seed++) { // neighbouring seeds have nothing in common
        sampling.seed = seed;
        struct sampler *one = open_sampler(&sampling, 1000);
        sampling.seed = seed + 1;
        struct sampler *other = open_sampler(&sampling, 1000);
        equal += choose(one, logits) == choose(other, logits);
        sampler_destroy(one);
        sampler_destroy(other);
    }
    assert_in_range(equal, 0, 5); // one in a thousand is chance
}

// ---- Log-probabilities

static void logprobs_by_hand(void **state) {
    (void)state;
    const float logits[] = {logf(1), logf(2), logf(4), logf(1)}; // of 8
    struct token_logprob top[4];
    float logprob;
    struct error error;
    assert_int_equal(sampler_logprobs(logits, 4, 1, &logprob, top, 4, &error), 4);
    assert_true(fabsf(logprob - logf(0.25f)) < 1e-6f);
    const int32_t order[] = {2, 1, 0, 3};
    const float expected[] = {0.5f, 0.25f, 0.125f, 0.125f};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabsf(top[i].logprob - logf(expected[i])) < 1e-6f);
    }
    assert_int_equal(sampler_logprobs(logits, 4, 3, &logprob, NULL, 0, &error), 0);
    assert_true(fabsf(logprob - logf(0.125f)) < 1e-6f);

    const float ruled_out[] = {-INFINITY, 1, -INFINITY};
    assert_int_equal(sampler_logprobs(ruled_out, 3, 0, &logprob, top, 3, &error), 1);
    assert_true(logprob == -INFINITY);
    assert_int_equal(top[0].token, 1);
    assert_true(top[0].logprob == 0);
}

// Against extended precision. Log-probabilities here reach -30, where a float's step is 1.9e-6: half of that from
// the last rounding, and nothing worth mentioning before it.
static void logprobs_are_accurate(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    static struct entry entries[VOCAB_MAX];
    struct sampling plain = warm(1, 0);
    srandom(3);
    for (int round = 0; round < 4; round++) {
        double offset = (double[]){0, 1000, -5000, 30}[round % 4];
        for (int i = 0; i < VOCAB_MAX; i++) logits[i] = (float)(offset + 25 * (random_unit() - 0.5));
        for (int i = 0; i < 30; i++) // ties among the first
            logits[random() % VOCAB_MAX] = (float)(offset + 14 + i / 3);
        int count = plain_candidates(&plain, logits, VOCAB_MAX, entries);
        assert_int_equal(count, VOCAB_MAX);

        struct token_logprob top[ENGINE_TOP_LOGPROBS_MAX];
        float logprob;
        struct error error;
        for (int i = 0; i < VOCAB_MAX; i += 1 + i) {
            int got = sampler_logprobs(logits, VOCAB_MAX, entries[i].token, &logprob, top, i % 21, &error);
            assert_int_equal(got, i % 21);
            long double truth = logl(entries[i].weight);
            assert_true(fabsl((long double)logprob - truth) <= 1e-6L);
        }
        assert_int_equal(sampler_logprobs(logits, VOCAB_MAX, 0, &logprob, top, 20, &error), 20);
        for (int i = 0; i < 20; i++) {
            assert_int_equal(top[i].token, entries[i].token);
            assert_true(fabsl((long double)top[i].logprob - logl(entries[i].weight)) <= 1e-6L);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_most_likely),
        cmocka_unit_test(not_finite_is_an_error),
        cmocka_unit_test(bias_is_added),
        cmocka_unit_test(repetition_penalty_divides_or_multiplies),
        cmocka_unit_test(presence_and_frequency_penalties_are_subtracted),
        cmocka_unit_test(bias_then_repetition_then_presence),
        cmocka_unit_test(draws_stay_inside_the_plain_set),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(large_vocabularies_are_drawn_from_alike),
        cmocka_unit_test(limits_belong_to_the_set),
        cmocka_unit_test(extreme_temperatures_do_no_harm),
        cmocka_unit_test(ruled_out_tokens_are_never_drawn),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(logprobs_by_hand),
        cmocka_unit_test(logprobs_are_accurate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
