#include "cli/suggest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXPERTS_MAX = 64, // of a layer, that a device takes
    CHOICES = 2,      // of a row
    LIST_BYTES_MAX = 64 << 10,
};

void suggest_add(struct suggest_work *work, enum engine_rows kind, long rows, double times) {
    work->calls[kind][SUGGEST_ROWS_MAX] += times * (double)(rows / SUGGEST_ROWS_MAX);
    if (rows % SUGGEST_ROWS_MAX) work->calls[kind][rows % SUGGEST_ROWS_MAX] += times;
}

// ---- Between what was measured

struct known {
    double at, value;
};

// Along straight lines; below the first in proportion, beyond the last as it went on to there.
static double between(const struct known *known, int count, double at) {
    if (at <= known[0].at || count == 1) return known[0].value * at / known[0].at;
    int i = 1;
    while (i < count - 1 && known[i].at < at) i++;
    const struct known *a = &known[i - 1], *b = &known[i];
    double value = a->value + (b->value - a->value) * (at - a->at) / (b->at - a->at);
    return value > 0 ? value : 0;
}

// What calls cost, by their rows, and experts, by how many of those they have.
struct costs {
    int count, halves_from; // answers at once; 0: never
    struct known rest[ENGINE_PLACEMENT_POINTS];    // of a layer
    struct known handing[ENGINE_PLACEMENT_POINTS]; // a layer's rows to the device
    struct known head[ENGINE_PLACEMENT_POINTS];    // what is not in layers
    struct known cpu[ENGINE_PLACEMENT_POINTS];     // an expert
    struct known device[ENGINE_PLACEMENT_POINTS];
};

// The trials' rows were spread evenly. With fewer rows than experts not all of those were called for, and none took
// less than reading its weights does.
static void read_costs(struct costs *costs, const struct engine_placement *found, int experts) {
    costs->count = found->point_count;
    costs->halves_from = found->halves_from;
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        double rows = point->rows, share = experts > CHOICES ? (double)CHOICES / experts : 1;
        double called = experts * (1 - pow(1 - share, rows)), each = CHOICES * rows / called;
        costs->rest[i] = (struct known){rows, point->rest_seconds};
        costs->handing[i] = (struct known){rows, point->handing_seconds};
        costs->head[i] = (struct known){rows, point->head_seconds};
        costs->cpu[i] = (struct known){each, point->cpu_seconds / called};
        costs->device[i] = (struct known){each, fmax(point->device_seconds - point->handing_seconds, 0) / called};
    }
}

// ---- A layer, its experts shared out

struct sharing {
    const struct costs *costs;
    const struct engine_choices *choices;
    const struct suggest_work *work;
    double *share; // [ENGINE_ROWS_KINDS][layers][experts] of a layer's choices
};

static double share_of(const struct sharing *sharing, int kind, int layer, int expert) {
    const struct engine_choices *choices = sharing->choices;
    return sharing
        ->share[((size_t)kind * (size_t)choices->layers + (size_t)layer) * (size_t)choices->experts + (size_t)expert];
}

// The experts' cost of a call, on one device each.
static void expert_costs(const struct sharing *sharing, int kind, int layer, int rows, double cpu[EXPERTS_MAX],
                         double device[EXPERTS_MAX]) {
    for (int e = 0; e < sharing->choices->experts; e++) {
        double own = CHOICES * rows * share_of(sharing, kind, layer, e);
        cpu[e] = between(sharing->costs->cpu, sharing->costs->count, own);
        device[e] = between(sharing->costs->device, sharing->costs->count, own);
    }
}

// Two halves pass each other: while the device has experts of one, the CPU works on the other. Without them the CPU
// waits for the slower of both.
static double layer_seconds(const struct costs *costs, int kind, int rows, double cpu, double device) {
    double rest = between(costs->rest, costs->count, rows), handing = between(costs->handing, costs->count, rows);
    int halves_from = kind == ENGINE_ROWS_PROMPTS ? ENGINE_PLACEMENT_HALVES : costs->halves_from;
    if (halves_from > 0 && rows >= halves_from) return handing + fmax(rest + cpu, device);
    return handing + rest + fmax(cpu, device);
}

static double cpu_layer_seconds(const struct costs *costs, int rows, double cpu) {
    return between(costs->rest, costs->count, rows) + cpu;
}

struct plan {
    unsigned kinds; // of rows that the device has a part in, a bit each
    int from;       // so many answers at once, and more, are the device's
    double seconds[ENGINE_ROWS_KINDS];
    uint64_t *experts; // [layers] the device's, a bit each; NULL: all
};

static bool is_devices(const struct plan *plan, int kind, int rows) {
    return (plan->kinds >> kind & 1) && (kind != ENGINE_ROWS_ANSWERS || rows >= plan->from);
}

struct ranked {
    int expert;
    double cpu, device; // seconds, of all calls
};

// Those first that the device is better at than the CPU, and among equals the busiest.
static int compare_ranked(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    double left = x->cpu * y->device, right = y->cpu * x->device;
    if (left != right) return left < right ? 1 : -1;
    if (x->cpu != y->cpu) return x->cpu < y->cpu ? 1 : -1;
    return x->expert - y->expert;
}

// How the device would have them, for the calls that it has a part in.
static void rank(const struct sharing *sharing, const struct plan *plan, int layer,
                 struct ranked ranked[EXPERTS_MAX]) {
    int experts = sharing->choices->experts;
    double cpu[EXPERTS_MAX], device[EXPERTS_MAX];
    for (int e = 0; e < experts; e++) ranked[e] = (struct ranked){.expert = e};
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
        for (int rows = 1; rows <= SUGGEST_ROWS_MAX; rows++) {
            double times = sharing->work->calls[kind][rows];
            if (times <= 0 || !is_devices(plan, kind, rows)) continue;
            expert_costs(sharing, kind, layer, rows, cpu, device);
            for (int e = 0; e < experts; e++) {
                ranked[e].cpu += times * cpu[e];
                ranked[e].device += times * device[e];
            }
        }
    qsort(ranked, (size_t)experts, sizeof *ranked, compare_ranked);
}

// Adds to out[n] the seconds of a kind's calls in a layer where the device has the first n of those ranked, if it has a
// part in them.
static void add_seconds(const struct sharing *sharing, const struct plan *plan, int kind, int layer,
                        const struct ranked *ranked, double out[EXPERTS_MAX + 1]) {
    int experts = sharing->choices->experts;
    double cpu[EXPERTS_MAX], device[EXPERTS_MAX];
    for (int rows = 1; rows <= SUGGEST_ROWS_MAX; rows++) {
        double times = sharing->work->calls[kind][rows], left = 0, taken = 0;
        if (times <= 0) continue;
        expert_costs(sharing, kind, layer, rows, cpu, device);
        for (int e = 0; e < experts; e++) left += cpu[e];
        double alone = cpu_layer_seconds(sharing->costs, rows, left);
        out[0] += times * alone;
        for (int n = 1; n <= experts; n++) {
            if (!is_devices(plan, kind, rows)) {
                out[n] += times * alone;
                continue;
            }
            left = fmax(left - cpu[ranked[n - 1].expert], 0);
            taken += device[ranked[n - 1].expert];
            out[n] += times * layer_seconds(sharing->costs, kind, rows, left, taken);
        }
    }
}

// ---- All layers

static double total(const struct plan *plan) {
    return plan->seconds[ENGINE_ROWS_ANSWERS] + plan->seconds[ENGINE_ROWS_PROMPTS];
}

// How many of a layer's ranked experts the device has: as many as take the least time in all.
static int split_layer(int experts, double seconds[ENGINE_ROWS_KINDS][EXPERTS_MAX + 1], unsigned kinds) {
    int best = 0;
    double least = INFINITY;
    for (int n = 0; n <= experts; n++) {
        double sum = 0;
        for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
            if (kinds >> kind & 1) sum += seconds[kind][n];
        if (sum >= least) continue;
        least = sum;
        best = n;
    }
    return best;
}

// experts: room for those of each layer, which are to be shared out; NULL: the device has all or none.
static void make_plan(const struct sharing *sharing, unsigned kinds, int from, uint64_t *experts, struct plan *plan) {
    const struct engine_choices *choices = sharing->choices;
    *plan = (struct plan){.kinds = kinds, .from = from, .experts = experts};
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++) {
        const double *calls = sharing->work->calls[kind];
        for (int rows = 1; rows <= SUGGEST_ROWS_MAX; rows++)
            plan->seconds[kind] += calls[rows] * between(sharing->costs->head, sharing->costs->count, rows);
    }
    for (int layer = 0; layer < choices->layers; layer++) {
        struct ranked ranked[EXPERTS_MAX];
        double seconds[ENGINE_ROWS_KINDS][EXPERTS_MAX + 1] = {{0}};
        rank(sharing, plan, layer, ranked);
        for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
            add_seconds(sharing, plan, kind, layer, ranked, seconds[kind]);
        int taken = experts ? split_layer(choices->experts, seconds, kinds) : choices->experts;
        for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++) plan->seconds[kind] += seconds[kind][taken];
        if (!experts) continue;
        experts[layer] = 0;
        for (int n = 0; n < taken; n++) experts[layer] |= UINT64_C(1) << ranked[n].expert;
    }
}

static bool was_measured(const struct engine_placement *found, int answers) {
    for (int i = 0; i < found->point_count && answers <= ENGINE_PLACEMENT_ANSWERS; i++)
        if (found->points[i].rows == answers) return true;
    return false;
}

// From how many answers at once on the device pays with all of their experts, of the sizes that were measured and of
// the text's. 0: it never does.
static int answers_from(const struct sharing *sharing, const struct engine_placement *found) {
    enum { KIND = ENGINE_ROWS_ANSWERS };
    struct suggest_work one = {0};
    const struct sharing alone = {sharing->costs, sharing->choices, &one, sharing->share};
    int sizes[SUGGEST_ROWS_MAX], count = 0;
    bool pays[SUGGEST_ROWS_MAX];
    for (int rows = 1; rows <= SUGGEST_ROWS_MAX; rows++) {
        struct plan cpu, device;
        if (!was_measured(found, rows) && !(sharing->work->calls[KIND][rows] > 0)) continue;
        one.calls[KIND][rows] = 1;
        make_plan(&alone, 0, 1, NULL, &cpu);
        make_plan(&alone, 1u << KIND, 1, NULL, &device);
        one.calls[KIND][rows] = 0;
        sizes[count] = rows;
        pays[count++] = engine_placement_pays(cpu.seconds[KIND], device.seconds[KIND]);
    }
    return engine_placement_pays_from(sizes, pays, count);
}

// The best, of which others have to be better by more than what may be noise. room: [2][layers] for its experts, and
// for those of one that is tried.
static void choose(const struct sharing *sharing, const struct engine_placement *found, const struct plan *cpu,
                   uint64_t *room, struct plan *best) {
    enum { ALL_KINDS = (1 << ENGINE_ROWS_KINDS) - 1 };
    size_t layers = (size_t)sharing->choices->layers;
    struct plan other;
    unsigned kinds = 0;
    int many = found->same_bits && cpu->seconds[ENGINE_ROWS_ANSWERS] > 0 ? answers_from(sharing, found) : 0;
    const int from = many > 0 ? many : 1;
    make_plan(sharing, ALL_KINDS, 1, NULL, &other);
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
        if (engine_placement_pays(cpu->seconds[kind], other.seconds[kind])) kinds |= 1u << kind;
    if (many > 0) kinds |= 1u << ENGINE_ROWS_ANSWERS;
    make_plan(sharing, kinds, from, NULL, best);
    for (kinds = 1; kinds <= ALL_KINDS; kinds++) {
        if (many > 0 && !(kinds >> ENGINE_ROWS_ANSWERS & 1)) continue; // few of them are the CPU's as it is
        make_plan(sharing, kinds, from, room + layers, &other);
        if (!engine_placement_pays(total(best), total(&other))) continue;
        memcpy(room, other.experts, layers * sizeof *room);
        *best = other;
        best->experts = room;
    }
}

// ---- In words

// "0-3,7"
static void write_set(uint64_t set, int count, struct buffer *out) {
    const char *comma = "";
    for (int first = 0; first < count; first++) {
        int last = first;
        if (!(set >> first & 1)) continue;
        while (last + 1 < count && (set >> (last + 1) & 1)) last++;
        buffer_format(out, last > first ? "%s%d-%d" : "%s%d", comma, first, last);
        comma = ",";
        first = last;
    }
}

// "0-7" for all layers, or "0-3:0-7;4:2,5"; those that are not named have none.
static char *write_lists(const uint64_t *experts, const struct engine_choices *choices) {
    struct buffer text;
    buffer_init(&text, LIST_BYTES_MAX);
    for (int first = 0, last; first < choices->layers; first = last + 1) {
        for (last = first; last + 1 < choices->layers && experts[last + 1] == experts[first];) last++;
        if (!experts[first]) continue;
        if (text.bytes) buffer_text(&text, ";");
        if (last > first && last - first + 1 < choices->layers) buffer_format(&text, "%d-%d:", first, last);
        if (last == first && choices->layers > 1) buffer_format(&text, "%d:", first);
        write_set(experts[first], choices->experts, &text);
    }
    char *list = text.failed || !text.data ? NULL : strdup(text.data);
    buffer_finish(&text);
    return list;
}

bool suggestion_yaml(const struct suggestion *suggestion, struct buffer *out) {
    buffer_format(out, "engine:\n  experts:\n    prefill: %s\n    decode: %s\n", suggestion->who[ENGINE_ROWS_PROMPTS],
                  suggestion->who[ENGINE_ROWS_ANSWERS]);
    if (suggestion->decode_from) buffer_format(out, "    decode_from: %d\n", suggestion->decode_from);
    if (suggestion->experts) buffer_format(out, "    opencl: \"%s\"\n", suggestion->experts);
    return !out->failed;
}

// ---- The suggestion

static bool device_is_known(const struct engine_placement *found) {
    for (int i = 0; i < found->point_count; i++)
        if (!(found->points[i].device_seconds > 0)) return false;
    return true;
}

// Where a kind had no rows in a layer, they are taken to be spread evenly.
static int read_shares(struct sharing *sharing, struct error *error) {
    const struct engine_choices *choices = sharing->choices;
    size_t experts = (size_t)choices->experts, layers = (size_t)choices->layers;
    uint64_t rows_of[EXPERTS_MAX];
    sharing->share = calloc(ENGINE_ROWS_KINDS * layers * experts, sizeof *sharing->share);
    if (!sharing->share) return error_set_code(error, ERROR_MEMORY);
    for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++)
        for (size_t l = 0; l < layers; l++) {
            double *share = sharing->share + ((size_t)kind * layers + l) * experts;
            double rows = (double)engine_choices_rows(choices, (enum engine_rows)kind, (int)l, rows_of);
            for (size_t e = 0; e < experts; e++)
                share[e] = rows > 0 ? (double)rows_of[e] / (CHOICES * rows) : 1 / (double)experts;
        }
    return 0;
}

int suggest_placement(const struct engine_placement *found, const struct engine_choices *choices,
                      const struct suggest_work *work, struct suggestion *out, struct error *error) {
    struct costs costs;
    struct sharing sharing = {.costs = &costs, .choices = choices, .work = work};
    *out = (struct suggestion){.who = {"auto", "auto"}};
    if (found->point_count == 0 || choices->layers < 1 || choices->experts > EXPERTS_MAX) return 0;
    read_costs(&costs, found, choices->experts);
    uint64_t *room = calloc(2 * (size_t)choices->layers, sizeof *room);
    int code = room ? read_shares(&sharing, error) : error_set_code(error, ERROR_MEMORY);
    struct plan cpu, best;
    if (!code) {
        make_plan(&sharing, 0, 1, NULL, &cpu);
        best = cpu;
        if (device_is_known(found)) choose(&sharing, found, &cpu, room, &best);
        if (best.experts && !(out->experts = write_lists(best.experts, choices)))
            code = error_set_code(error, ERROR_MEMORY);
    }
    for (int kind = 0; !code && kind < ENGINE_ROWS_KINDS; kind++) {
        out->cpu_seconds[kind] = cpu.seconds[kind];
        out->seconds[kind] = best.seconds[kind];
        if (cpu.seconds[kind] > 0) out->who[kind] = best.kinds >> kind & 1 ? "opencl" : "cpu";
    }
    if (!code && best.from > 1) out->decode_from = best.from;
    free(sharing.share);
    free(room);
    return code;
}

void suggestion_finish(struct suggestion *suggestion) {
    free(suggestion->experts);
    *suggestion = (struct suggestion){0};
}
