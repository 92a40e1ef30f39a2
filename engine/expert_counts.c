#include "engine/expert_counts.h"

#include "base/checked.h"

#include <math.h>
#include <stdlib.h>

struct expert_counts {
    int layers, experts;
    size_t count;
    uint64_t *pairs; // [ENGINE_ROWS_KINDS][layers][experts][experts]; NULL: there are too many experts
};

int expert_counts_create(struct expert_counts **out, int layers, int experts, struct error *error) {
    struct expert_counts *counts = calloc(1, sizeof *counts);
    if (!counts) return error_set(error, ERROR_MEMORY, "out of memory for counting experts");
    *counts = (struct expert_counts){.layers = layers, .experts = experts};
    bool few = experts <= EXPERT_COUNTS_EXPERTS_MAX;
    size_t pairs = (size_t)experts * (size_t)experts;
    if (few && checked_mul((size_t)layers * ENGINE_ROWS_KINDS, pairs, &counts->count))
        counts->pairs = calloc(counts->count, sizeof *counts->pairs);
    if (counts->pairs || !few) {
        *out = counts;
        return 0;
    }
    expert_counts_destroy(counts);
    return error_set(error, ERROR_MEMORY, "out of memory for counting experts");
}

void expert_counts_destroy(struct expert_counts *counts) {
    if (!counts) return;
    free(counts->pairs);
    free(counts);
}

static uint64_t read_count(const uint64_t *count) {
    return __atomic_load_n(count, __ATOMIC_RELAXED);
}

// Nobody else writes: no more is needed than that readers never see half a number.
void expert_counts_add(struct expert_counts *counts, enum engine_rows rows, int layer, const struct routing *routing) {
    if (!counts->pairs) return;
    size_t experts = (size_t)counts->experts;
    uint64_t *pairs = counts->pairs + ((size_t)rows * (size_t)counts->layers + (size_t)layer) * experts * experts;
    for (int r = 0; r < routing->rows; r++) {
        const int32_t *chosen = routing->expert + r * routing->top_k; // two: config.c takes no other
        uint64_t *pair = &pairs[(size_t)chosen[0] * experts + (size_t)chosen[1]];
        __atomic_store_n(pair, read_count(pair) + 1, __ATOMIC_RELAXED);
    }
}

int expert_counts_copy(const struct expert_counts *counts, struct engine_choices *out, struct error *error) {
    *out = (struct engine_choices){.layers = counts->layers, .experts = counts->experts};
    if (!counts->pairs)
        return error_set(error, ERROR_UNSUPPORTED, "a layer has %d experts; they are counted for up to %d",
                         counts->experts, EXPERT_COUNTS_EXPERTS_MAX);
    out->pairs = calloc(counts->count, sizeof *out->pairs);
    if (!out->pairs) return error_set(error, ERROR_MEMORY, "out of memory for the counts of experts");
    for (size_t i = 0; i < counts->count; i++) out->pairs[i] = read_count(&counts->pairs[i]);
    return 0;
}

void engine_choices_finish(struct engine_choices *choices) {
    free(choices->pairs);
    *choices = (struct engine_choices){0};
}

// ---- What follows from the pairs

// Rows of each expert of a layer in out[experts]; how many rows there are.
static uint64_t count_rows(const uint64_t *pairs, size_t experts, uint64_t *out) {
    uint64_t rows = 0;
    for (size_t e = 0; e < experts; e++) out[e] = 0;
    for (size_t first = 0; first < experts; first++)
        for (size_t second = 0; second < experts; second++) {
            uint64_t count = read_count(&pairs[first * experts + second]);
            rows += count;
            out[first] += count;
            out[second] += count;
        }
    return rows;
}

uint64_t engine_choices_rows(const struct engine_choices *choices, enum engine_rows rows, int layer, uint64_t *out) {
    size_t experts = (size_t)choices->experts, at = (size_t)rows * (size_t)choices->layers + (size_t)layer;
    return count_rows(choices->pairs + at * experts * experts, experts, out);
}

double engine_choices_evenness(const uint64_t *rows_of, int experts) {
    double sum = 0, entropy = 0;
    for (int e = 0; e < experts; e++) sum += (double)rows_of[e];
    for (int e = 0; sum > 0 && e < experts; e++) {
        double share = (double)rows_of[e] / sum;
        if (share > 0) entropy -= share * log(share);
    }
    return sum > 0 ? exp(entropy) / experts : 0;
}

void expert_counts_balance(const struct expert_counts *counts, struct engine_balance *out) {
    uint64_t one[EXPERT_COUNTS_EXPERTS_MAX], all[EXPERT_COUNTS_EXPERTS_MAX];
    size_t experts = (size_t)counts->experts, layers = (size_t)counts->layers;
    double sum = 0;
    int busy = 0; // layers that have had rows
    *out = (struct engine_balance){0};
    for (size_t l = 0; counts->pairs && l < layers; l++) {
        uint64_t rows = 0;
        for (size_t e = 0; e < experts; e++) all[e] = 0;
        for (size_t kind = 0; kind < ENGINE_ROWS_KINDS; kind++) {
            uint64_t some = count_rows(counts->pairs + (kind * layers + l) * experts * experts, experts, one);
            for (size_t e = 0; e < experts; e++) all[e] += one[e];
            out->rows[kind] += some;
            rows += some;
        }
        for (size_t e = 0; rows > 0 && e < experts; e++)
            if ((double)all[e] / (double)rows > out->busiest) out->busiest = (double)all[e] / (double)rows;
        sum += engine_choices_evenness(all, counts->experts);
        busy += rows > 0;
    }
    out->evenness = busy > 0 ? sum / busy : 0;
}
