#include "engine/stage_bytes.h"

#include <math.h>

double stage_bytes_matrix(const struct matrix *matrix) {
    return (double)weight_format_bytes(matrix->format, matrix->rows, matrix->columns);
}

double stage_bytes_expert(const struct expert *expert) {
    return stage_bytes_matrix(&expert->gate) + stage_bytes_matrix(&expert->up) + stage_bytes_matrix(&expert->down);
}

struct stage_keys stage_keys(const struct attention *attention, const struct batch *batch) {
    struct stage_keys keys = {0, 0};
    for (int s = 0; s < batch->sequences; s++) {
        const struct batch_sequence *sequence = &batch->sequence[s];
        int before = sequence->position < attention->window - 1 ? sequence->position : attention->window - 1;
        keys.read += before + sequence->count;
        for (int i = 0; i < sequence->count; i++) {
            int seen = sequence->position + i + 1;
            keys.seen += seen < attention->window ? seen : attention->window;
        }
    }
    return keys;
}

double stage_bytes_keys(const struct attention *attention, const struct kv_cache *cache, double keys) {
    return keys * 2 * attention->kv_heads * (double)(cache->block_bytes / KV_PAGE_TOKENS);
}

double stage_experts_chosen(const struct router *router, int rows) {
    return router->experts * (1 - pow(1 - (double)router->top_k / router->experts, rows));
}
