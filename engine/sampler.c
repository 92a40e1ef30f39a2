#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sampler {
    struct sampling sampling; // its bias points to `bias`
    struct logit_bias *bias;  // [sampling.bias_count]
    int vocab_size;
    uint64_t random; // SplitMix64's state

    float *adjusted; // [vocab_size] logits after bias and penalties; NULL where there are none
    double *weights; // [vocab_size] scratch of a draw; NULL at temperature 0
    int32_t *seen;   // [seen_count] distinct tokens of prompt and answer; NULL without penalties
    int seen_count;
    bool *is_seen;          // [vocab_size]
    uint32_t *answer_count; // [vocab_size] how often each token stands in the answer
};

// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. One addition
// and one mixing function; every seed is as good as any other, so the request's seed is the state itself.
static uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Uniform in [0, 1): the upper 53 bits.
static double random_unit(uint64_t *state) {
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

int sampler_create(struct sampler **out, const struct sampling *sampling, int vocab_size, struct error *error) {
    size_t vocab = (size_t)vocab_size;
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler) goto no_memory;
    sampler->sampling = *sampling;
    sampler->sampling.bias = NULL;
    sampler->vocab_size = vocab_size;
    sampler->random = sampling->seed;

    if (sampling->bias_count > 0) {
        sampler->bias = calloc(sampling->bias_count, sizeof *sampler->bias);
        if (!sampler->bias) goto no_memory;
        memcpy(sampler->bias, sampling->bias, sampling->bias_count * sizeof *sampler->bias);
        sampler->sampling.bias = sampler->bias;
    }
    bool penalties =
        sampling->repetition_penalty != 1 || sampling->presence_penalty != 0 || sampling->frequency_penalty != 0;
    if (penalties) {
        sampler->seen = calloc(vocab, sizeof *sampler->seen);
        sampler->is_seen = calloc(vocab, sizeof *sampler->is_seen);
        sampler->answer_count = calloc(vocab, sizeof *sampler->answer_count);
        if (!sampler->seen || !sampler->is_seen || !sampler->answer_count) goto no_memory;
    }
    if (penalties || sampling->bias_count > 0) {
        sampler->adjusted = calloc(vocab, sizeof *sampler->adjusted);
        if (!sampler->adjusted) goto no_memory;
    }
    if (sampling->temperature > 0) {
        sampler->weights = calloc(vocab, sizeof *sampler->weights);
        if (!sampler->weights) goto no_memory;
    }
    *out = sampler;
    return 0;

no_memory:
    sampler_destroy(sampler);
    return error_set(error, ERROR_MEMORY, "no memory for a sampler over %d tokens", vocab_size);
}

void sampler_destroy(struct sampler *sampler) {
    if (!sampler) return;
    free(sampler->weights);
    free(sampler->adjusted);
    free(sampler->answer_count);
    free(sampler->is_seen);
    free(sampler->seen);
    free(sampler->bias);
    free(sampler);
}

static void see(struct sampler *sampler, int32_t token) {
    if (sampler->is_seen[token]) return;
    sampler->is_seen[token] = true;
    sampler->seen[sampler->seen_count++] = token;
}

void sampler_saw_prompt(struct sampler *sampler, int32_t token) {
    if (sampler->seen) see(sampler, token);
}

void sampler_saw_answer(struct sampler *sampler, int32_t token) {
    if (!sampler->seen) return;
    see(sampler, token);
    sampler->answer_count[token]++;
}

// Bias and penalties, on a copy; the logits themselves where there is neither.
static const float *adjust(struct sampler *sampler, const float *logits) {
    if (!sampler->adjusted) return logits;
    const struct sampling *sampling = &sampler->sampling;
    float *adjusted = sampler->adjusted;
    memcpy(adjusted, logits, (size_t)sampler->vocab_size * sizeof *adjusted);

    for (size_t i = 0; i < sampling->bias_count; i++) adjusted[sampling->bias[i].token] += sampling->bias[i].bias;
    for (int i = 0; i < sampler->seen_count; i++) {
        int32_t token = sampler->seen[i];
        float *logit = &adjusted[token];
        if (*logit < 0)
            *logit *= sampling->repetition_penalty;
        else
            *logit /= sampling->repetition_penalty;
        if (sampler->answer_count[token] > 0)
            *logit -= sampling->presence_penalty + (float)sampler->answer_count[token] * sampling->frequency_penalty;
    }
    return adjusted;
}

// The most likely token, the smallest id among equals; -1 when there is none or a value is NaN or +inf.
static int32_t find_first(const float *logits, int count) {
    float most = -INFINITY, sum = 0;
    int32_t first = -1;
    for (int32_t i = 0; i < count; i++) {
        if (logits[i] > most) {
            most = logits[i];
            first = i;
        }
        sum += logits[i] * 0; // finite: 0; -inf, +inf and NaN: NaN
    }
    if (most == INFINITY) return -1;
    if (sum == 0) return first;
    for (int32_t i = 0; i < count; i++) // rare: -inf is allowed, NaN is not
        if (isnan(logits[i])) return -1;
    return first;
}

static int check_first(int32_t first, struct error *error) {
    if (first >= 0) return 0;
    return error_set(error, ERROR_NUMERIC, "the model's logits are not finite, or every token is ruled out");
}

// ---- The draw
//
// Every token has a weight. top_k, top_p and min_p set the weights of those they rule out to zero, and the draw is
// over what is left. Nothing is sorted: the least likely token that stays is found digit by digit, in four passes
// whatever the logits are.

// Larger for larger floats; -0 and 0 are the same.
static uint32_t key_of(float logit) {
    uint32_t bits;
    logit += 0.0f;
    memcpy(&bits, &logit, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Keeps the shortest run of the most likely tokens whose weights reach `wanted` together; smaller ids go first
// among equals. The others' weights become zero.
static void keep_first(struct sampler *sampler, const float *logits, double wanted) {
    double *weights = sampler->weights, before = 0; // the weight of all that are more likely than the last one
    uint32_t last = 0, known = 0;                   // its key, and which bits of it are known
    for (int shift = 24; shift >= 0; shift -= 8) {
        double sums[256] = {0}; // by the next digit
        for (int i = 0; i < sampler->vocab_size; i++) {
            uint32_t key = key_of(logits[i]);
            if ((key & known) == last) sums[key >> shift & 0xff] += weights[i];
        }
        uint32_t digit = 255;
        while (digit > 0 && before + sums[digit] < wanted) before += sums[digit--];
        last |= digit << shift;
        known |= 0xffu << shift;
    }
    for (int i = 0; i < sampler->vocab_size; i++) {
        uint32_t key = key_of(logits[i]);
        if (key > last) continue;
        if (key < last || before >= wanted)
            weights[i] = 0;
        else
            before += weights[i];
    }
}

static double total_weight(const struct sampler *sampler) {
    double total = 0;
    for (int i = 0; i < sampler->vocab_size; i++) total += sampler->weights[i];
    return total;
}

// `first` is the most likely token. Its weight is 1, and the others' are relative to it: the difference of logits is
// at most 0, so that a tiny temperature makes 0 of it or -inf, never +inf.
static int32_t draw(struct sampler *sampler, const float *logits, int32_t first) {
    const struct sampling *sampling = &sampler->sampling;
    double *weights = sampler->weights;
    int vocab_size = sampler->vocab_size;

    for (int i = 0; i < vocab_size; i++) weights[i] = 1; // for top_k all count alike
    if (sampling->top_k > 0) keep_first(sampler, logits, sampling->top_k);
    for (int i = 0; i < vocab_size; i++)
        if (weights[i] > 0)
            weights[i] = exp(((double)logits[i] - (double)logits[first]) / (double)sampling->temperature);
    if (sampling->top_p < 1) keep_first(sampler, logits, (double)sampling->top_p * total_weight(sampler));
    for (int i = 0; i < vocab_size; i++)
        if (weights[i] < (double)sampling->min_p) weights[i] = 0;

    double left = random_unit(&sampler->random) * total_weight(sampler);
    for (int32_t i = 0; i < vocab_size; i++) {
        left -= weights[i];
        if (left < 0) return i;
    }
    return first; // top_p 0 leads here, and rounding
}

int sampler_choose(struct sampler *sampler, const float *logits, int32_t *token, struct error *error) {
    const float *adjusted = adjust(sampler, logits);
    int32_t first = find_first(adjusted, sampler->vocab_size);
    int code = check_first(first, error);
    if (code) return code;
    *token = sampler->sampling.temperature > 0 ? draw(sampler, adjusted, first) : first;
    return 0;
}

// ---- Log-probabilities

struct candidate {
    float logit;
    int32_t token;
};

static bool comes_before(struct candidate a, struct candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The `wanted` first tokens in order, and their number; tokens at -inf are never among them. Few are wanted, so that
// hardly any token gets further than the comparison with the last of those held.
static int select_first(const float *logits, int count, int wanted, struct candidate *out) {
    int held = 0;
    for (int32_t token = 0; token < count && wanted > 0; token++) {
        struct candidate candidate = {logits[token], token};
        if (candidate.logit == -INFINITY || (held == wanted && !comes_before(candidate, out[held - 1]))) continue;
        int at = held < wanted ? held++ : held - 1;
        for (; at > 0 && comes_before(candidate, out[at - 1]); at--) out[at] = out[at - 1];
        out[at] = candidate;
    }
    return held;
}

int sampler_logprobs(const float *logits, int vocab_size, int32_t token, float *logprob, struct token_logprob *top,
                     int count, struct error *error) {
    int32_t first = find_first(logits, vocab_size);
    int code = check_first(first, error);
    if (code) return code;

    double most = (double)logits[first], sum = 0;
    for (int i = 0; i < vocab_size; i++) sum += exp((double)logits[i] - most);
    double all = most + log(sum);
    *logprob = (float)((double)logits[token] - all);

    struct candidate sorted[ENGINE_TOP_LOGPROBS_MAX];
    if (count > ENGINE_TOP_LOGPROBS_MAX) count = ENGINE_TOP_LOGPROBS_MAX;
    int held = select_first(logits, vocab_size, count, sorted);
    for (int i = 0; i < held; i++)
        top[i] = (struct token_logprob){sorted[i].token, (float)((double)sorted[i].logit - all)};
    return held;
}
