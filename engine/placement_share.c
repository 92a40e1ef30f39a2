#include "engine/placement_share.h"

#include "base/block.h"

#include <stdlib.h>
#include <string.h>

struct placement_share {
    const struct stages *inner;
    void *state; // of inner
    int rows_max, hidden;
    struct routing routing[STAGE_SLOTS]; // [rows_max][top_k] each
    int32_t *only;                       // [rows_max][top_k]
    // Rows on their way through the CPU's experts, one choice each.
    float *x, *y; // [rows_max][hidden]
    float *sum;   // [rows_max][hidden] of a mixture's rows, before it is added to theirs
    int32_t *expert, *row; // [rows_max]
    float *weight;         // [rows_max]
    int rows;
    void *memory; // behind all of these
};

uint64_t placement_all_experts(int experts) {
    return experts >= 64 ? UINT64_MAX : (UINT64_C(1) << experts) - 1;
}

// ---- Lists

// One of "0-7,9" at *at, which goes behind it and its comma.
static bool read_range(const char **at, const char *end, int count, long *first, long *last) {
    char *behind;
    if (**at < '0' || **at > '9') return false;
    *first = *last = strtol(*at, &behind, 10);
    if (*behind == '-') {
        if (behind[1] < '0' || behind[1] > '9') return false;
        *last = strtol(behind + 1, &behind, 10);
    }
    if (behind > end || *first > *last || *last >= count) return false;
    bool more = behind < end;
    if (more && (*behind != ',' || behind + 1 == end)) return false;
    *at = more ? behind + 1 : behind;
    return true;
}

static int refuse(const char *param, const char *what, const char *text, int count, const char *example,
                  struct error *error) {
    return error_set_param(error, ERROR_ARGUMENT, param,
                           "%s are \"%.60s\"; expected numbers from 0 to %d, such as \"%s\"", what, text, count - 1,
                           example);
}

static bool read_layers(const char *at, const char *end, int count, bool *out) {
    long first, last;
    memset(out, 0, (size_t)count * sizeof *out);
    do {
        if (!read_range(&at, end, count, &first, &last)) return false;
        for (long i = first; i <= last; i++) out[i] = true;
    } while (at < end);
    return true;
}

static bool read_mask(const char *at, const char *end, int count, uint64_t *out) {
    long first, last;
    *out = 0;
    do {
        if (!read_range(&at, end, count < 64 ? count : 64, &first, &last)) return false;
        for (long i = first; i <= last; i++) *out |= UINT64_C(1) << i;
    } while (at < end);
    return true;
}

// `named`: room for a flag a layer.
static int read_by_layers(const char *text, int layers, int experts, bool *named, uint64_t *out, struct error *error) {
    for (const char *at = text; *at;) {
        const char *end = at + strcspn(at, ";"), *colon = memchr(at, ':', (size_t)(end - at));
        uint64_t mask;
        for (int i = 0; i < layers; i++) named[i] = true;
        if (colon && !read_layers(at, colon, layers, named))
            return refuse("experts_opencl", "layers of experts", text, layers, "0-3:0-7;4:2,5", error);
        if (!read_mask(colon ? colon + 1 : at, end, experts, &mask))
            return refuse("experts_opencl", "experts", text, experts, "0-7", error);
        for (int i = 0; i < layers; i++)
            if (named[i]) out[i] |= mask;
        at = *end ? end + 1 : end;
    }
    return 0;
}

int placement_read_experts(const char *layer_list, const char *expert_list, int layers, int experts, uint64_t *out,
                           struct error *error) {
    bool *named = calloc((size_t)layers + 1, sizeof *named);
    int code = 0;
    if (!named) return error_set(error, ERROR_MEMORY, "out of memory for the placement");
    for (int i = 0; i < layers; i++) out[i] = expert_list ? 0 : placement_all_experts(experts);
    if (expert_list) code = read_by_layers(expert_list, layers, experts, named, out, error);
    if (!code && layer_list && !read_layers(layer_list, layer_list + strlen(layer_list), layers, named))
        code = refuse("experts_layers", "layers", layer_list, layers, "0-3,7", error);
    for (int i = 0; !code && layer_list && i < layers; i++)
        if (!named[i]) out[i] = 0;
    free(named);
    return code;
}

// ---- Computing

int placement_share_create(struct placement_share **out, const struct stages *inner, void *state,
                           const struct stage_limits *limits, struct error *error) {
    struct placement_share *share = calloc(1, sizeof *share);
    if (!share) return error_set(error, ERROR_MEMORY, "out of memory for sharing out experts");
    *share = (struct placement_share){
        .inner = inner, .state = state, .rows_max = limits->tokens_max, .hidden = limits->hidden};
    size_t rows = (size_t)limits->tokens_max, hidden = (size_t)limits->hidden;
    struct routing *routing = share->routing;
    const struct block_part parts[] = {
        {&routing[0].expert, rows, ROUTE_TOP_K_MAX, sizeof(int32_t)},
        {&routing[0].weight, rows, ROUTE_TOP_K_MAX, sizeof(float)},
        {&routing[1].expert, rows, ROUTE_TOP_K_MAX, sizeof(int32_t)},
        {&routing[1].weight, rows, ROUTE_TOP_K_MAX, sizeof(float)},
        {&routing[2].expert, rows, ROUTE_TOP_K_MAX, sizeof(int32_t)},
        {&routing[2].weight, rows, ROUTE_TOP_K_MAX, sizeof(float)},
        {&share->only, rows, ROUTE_TOP_K_MAX, sizeof(int32_t)},
        {&share->x, rows, hidden, sizeof(float)},
        {&share->y, rows, hidden, sizeof(float)},
        {&share->sum, rows, hidden, sizeof(float)},
        {&share->expert, rows, 1, sizeof(int32_t)},
        {&share->row, rows, 1, sizeof(int32_t)},
        {&share->weight, rows, 1, sizeof(float)},
    };
    _Static_assert(STAGE_SLOTS == 3, "a routing for each slot");
    share->memory = block_create(parts, sizeof parts / sizeof *parts);
    if (!share->memory) {
        free(share);
        return error_set(error, ERROR_MEMORY, "out of memory for sharing out experts");
    }
    *out = share;
    return 0;
}

void placement_share_destroy(struct placement_share *share) {
    if (!share) return;
    free(share->memory);
    free(share);
}

struct routing *placement_share_routing(struct placement_share *share, int slot) {
    return &share->routing[slot];
}

struct routing placement_share_only(struct placement_share *share, const struct routing *routing, uint64_t experts) {
    struct routing only = *routing;
    only.expert = share->only;
    for (int i = 0; i < routing->rows * routing->top_k; i++)
        only.expert[i] = experts >> routing->expert[i] & 1 ? routing->expert[i] : -1;
    return only;
}

float *placement_share_sum(struct placement_share *share, int rows) {
    return memset(share->sum, 0, (size_t)rows * (size_t)share->hidden * sizeof *share->sum);
}

int placement_share_chosen(const struct routing *routing, uint64_t experts) {
    uint64_t chosen = 0;
    for (int i = 0; i < routing->rows * routing->top_k; i++) chosen |= UINT64_C(1) << routing->expert[i];
    return __builtin_popcountll(chosen & experts);
}

static void run_rows(struct placement_share *share, const struct layer *layer, float *y) {
    const struct routing routing = {.rows = share->rows, .top_k = 1, .expert = share->expert, .weight = share->weight};
    size_t width = (size_t)share->hidden;
    if (share->rows == 0) return;
    memset(share->y, 0, (size_t)share->rows * width * sizeof *share->y);
    share->inner->experts(share->state, layer, &routing, share->x, share->y, share->rows);
    for (int r = 0; r < share->rows; r++) {
        const float *from = share->y + (size_t)r * width;
        float *to = y + (size_t)share->row[r] * width;
        for (size_t i = 0; i < width; i++) to[i] += from[i];
    }
    share->rows = 0;
}

void placement_share_compute(struct placement_share *share, const struct layer *layer, const struct routing *routing,
                             uint64_t experts, const float *x, float *y) {
    size_t width = (size_t)share->hidden;
    share->rows = 0;
    for (int e = 0; e < layer->router.experts; e++)
        for (int i = 0; (experts >> e & 1) && i < routing->rows * routing->top_k; i++) {
            if (routing->expert[i] != e) continue;
            int to = share->rows++, row = i / routing->top_k;
            memcpy(share->x + (size_t)to * width, x + (size_t)row * width, width * sizeof *x);
            share->expert[to] = e;
            share->row[to] = row;
            share->weight[to] = routing->weight[i];
            if (share->rows == share->rows_max) run_rows(share, layer, y);
        }
    run_rows(share, layer, y);
}
