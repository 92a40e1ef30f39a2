// Measuring who is how fast: the experts of the model's first layer on both devices, all else on the CPU.
#include "engine/placement_cost.h"

#include "base/clock.h"
#include "engine/opencl/opencl.h"
#include "engine/placement.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Trying a device: its answers beside the CPU's, and how long both take

struct trial {
    float *x, *expected, *found; // [rows][hidden]
    struct routing routing[2];   // of the CPU, of the device
    int rows, hidden;
};

static void trial_finish(struct trial *trial) {
    free(trial->x);
    free(trial->expected);
    free(trial->found);
    for (int i = 0; i < 2; i++) {
        free(trial->routing[i].expert);
        free(trial->routing[i].weight);
    }
}

static int trial_create(struct trial *trial, int rows, const struct layer *layer, struct error *error) {
    size_t hidden = (size_t)layer->router.hidden, count = (size_t)rows * hidden;
    *trial = (struct trial){.rows = rows, .hidden = layer->router.hidden};
    trial->x = calloc(count, sizeof *trial->x);
    trial->expected = calloc(count, sizeof *trial->expected);
    trial->found = calloc(count, sizeof *trial->found);
    bool all = trial->x && trial->expected && trial->found;
    for (int i = 0; i < 2; i++) {
        struct routing *routing = &trial->routing[i];
        routing->expert = calloc((size_t)rows * ROUTE_TOP_K_MAX, sizeof *routing->expert);
        routing->weight = calloc((size_t)rows * ROUTE_TOP_K_MAX, sizeof *routing->weight);
        all = all && routing->expert && routing->weight;
    }
    if (!all) {
        trial_finish(trial);
        return error_set(error, ERROR_MEMORY, "out of memory for trying the device");
    }
    uint32_t random = 1;
    for (size_t i = 0; i < count; i++) { // as a norm leaves them: around 0, of size 1
        random = random * 1664525 + 1013904223;
        trial->x[i] = ((float)(random >> 8) * 0x1p-24f - 0.5f) * 3.4f;
    }
    return 0;
}

// Rounding moves a row by far less than a part in twenty of its size, even where the CPU multiplies in bf16; a kernel
// that is wrong moves it by all of it. Where rounding turned a row's route, the row says nothing; one in eight may.
static int trial_compare(const struct trial *trial, struct error *error) {
    int turned = 0;
    for (int r = 0; r < trial->rows; r++) {
        int top_k = trial->routing[0].top_k;
        size_t route_bytes = (size_t)top_k * sizeof(int32_t), at = (size_t)r * (size_t)trial->hidden;
        if (memcmp(trial->routing[0].expert + r * top_k, trial->routing[1].expert + r * top_k, route_bytes) != 0) {
            turned++;
            continue;
        }
        double squares = 0, wrong = 0;
        for (int i = 0; i < trial->hidden; i++) {
            double difference = (double)trial->found[at + (size_t)i] - (double)trial->expected[at + (size_t)i];
            squares += (double)trial->expected[at + (size_t)i] * (double)trial->expected[at + (size_t)i];
            wrong += difference * difference;
        }
        if (!(sqrt(wrong) <= 0.05 * sqrt(squares) + 1e-6))
            return error_set(error, ERROR_INTERNAL,
                             "the device computes wrongly: row %d of %d is off by %.3g of its size (tried with the "
                             "model's first layer)",
                             r, trial->rows, sqrt(wrong / squares));
    }
    if (turned * 8 <= trial->rows + 7) return 0;
    return error_set(error, ERROR_INTERNAL,
                     "the device routes wrongly: %d of %d rows (tried with the model's first layer)", turned,
                     trial->rows);
}

static enum row_kind kind_of(int rows) {
    return rows <= ENGINE_PLACEMENT_ANSWERS ? ROWS_OF_ANSWERS : ROWS_OF_PROMPTS;
}

static void rows_are(const struct placement_devices *devices, enum row_kind kind) {
    if (devices->inner->rows_are) devices->inner->rows_are(devices->state, kind);
}

// Once to warm up and at least once for the time, of which the least counts: whoever else uses the machine only makes
// it longer.
enum { RUNS_LEAST = 2, RUNS_MOST = 6 };
static const double RUNS_SECONDS = 0.1; // then it is enough

static bool once_more(int run, double began_at) {
    return run < RUNS_LEAST || (run < RUNS_MOST && clock_seconds() - began_at < RUNS_SECONDS);
}

// Whether a run's time is the one to keep.
static bool is_best(int run, double seconds, double best) {
    return run < RUNS_LEAST || seconds < best;
}

static int run_device(struct trial *trial, const struct placement_devices *devices, int run,
                      struct engine_placement_point *point, struct error *error) {
    double began_at = clock_seconds();
    memset(trial->found, 0, (size_t)trial->rows * (size_t)trial->hidden * sizeof *trial->found);
    int code =
        opencl_begin(devices->opencl, 0, devices->layers, trial->x, trial->rows, kind_of(trial->rows), error);
    double handing_seconds = clock_seconds() - began_at;
    if (!code) code = opencl_end(devices->opencl, 0, trial->found, &trial->routing[1], error);
    double seconds = clock_seconds() - began_at;
    if (code || !is_best(run, seconds, point->device_seconds)) return code;
    point->handing_seconds = handing_seconds;
    point->device_seconds = seconds;
    return 0;
}

static void run_cpu(struct trial *trial, const struct placement_devices *devices, int run,
                    struct engine_placement_point *point) {
    const struct layer *layer = devices->layers;
    double began_at = clock_seconds();
    memset(trial->expected, 0, (size_t)trial->rows * (size_t)trial->hidden * sizeof *trial->expected);
    devices->inner->route(devices->state, &layer->router, trial->x, trial->rows, &trial->routing[0]);
    devices->inner->experts(devices->state, layer, &trial->routing[0], trial->x, trial->expected, trial->rows);
    double seconds = clock_seconds() - began_at;
    if (is_best(run, seconds, point->cpu_seconds)) point->cpu_seconds = seconds;
}

// Both devices, once, or for the time. same_bits becomes false if answers have others.
static int try_rows(const struct placement_devices *devices, int rows, bool timed,
                    struct engine_placement_point *point, bool *same_bits, struct error *error) {
    struct trial trial;
    int code = trial_create(&trial, rows, devices->layers, error);
    if (code) return code;
    rows_are(devices, kind_of(rows));
    double began_at = clock_seconds();
    for (int run = 0; !code && (run == 0 || (timed && once_more(run, began_at))); run++) {
        if (devices->opencl) code = run_device(&trial, devices, run, point, error);
        if (!code) run_cpu(&trial, devices, run, point);
    }
    if (!code && devices->opencl) code = trial_compare(&trial, error);
    if (!code && kind_of(rows) == ROWS_OF_ANSWERS)
        *same_bits &= memcmp(trial.expected, trial.found, (size_t)rows * (size_t)trial.hidden * sizeof(float)) == 0;
    trial_finish(&trial);
    return code;
}

// ---- What follows

static const double WORTH = 0.9; // of the time is what it may take at most

bool engine_placement_pays(double plain_seconds, double seconds) {
    return plain_seconds > 0 && seconds <= WORTH * plain_seconds;
}

int engine_placement_pays_from(const int *rows, const bool *pays, int count) {
    int least = count;
    while (least > 0 && pays[least - 1]) least--;
    return least == 0 ? 1 : least == count ? 0 : rows[least];
}

static struct placement_costs costs_of(const struct engine_placement_point *point, double times) {
    return (struct placement_costs){times * point->device_seconds, times * point->handing_seconds,
                                    times * point->cpu_seconds, times * point->rest_seconds};
}

struct placement_costs placement_costs_at(const struct engine_placement *found, bool answers, int rows) {
    const struct engine_placement_point *below = NULL, *above = NULL;
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        if ((point->rows <= ENGINE_PLACEMENT_ANSWERS) != answers) continue;
        if (point->rows <= rows) below = point;
        if (point->rows >= rows && !above) above = point;
    }
    if (!below && !above) return (struct placement_costs){0};
    if (!below) return costs_of(above, 1);
    if (!above) return costs_of(below, (double)rows / below->rows);
    if (below == above) return costs_of(below, 1);
    double share = (double)(rows - below->rows) / (above->rows - below->rows);
    const struct placement_costs low = costs_of(below, 1 - share), high = costs_of(above, share);
    return (struct placement_costs){low.device + high.device, low.handing + high.handing, low.cpu + high.cpu,
                                    low.rest + high.rest};
}

// A layer's seconds, on each side.
struct sides {
    double device, cpu; // the device's experts; the CPU's own, while the device is at work, and handing over the others
};

static struct sides sides_of(const struct placement_costs *costs, const struct placement_part *part, int layer) {
    double share = (double)__builtin_popcountll(part->of_layer[layer]) / part->experts;
    return (struct sides){share * costs->device, (1 - share) * costs->cpu + (share > 0 ? costs->handing : 0)};
}

// All layers, one part after the other: the experts wait for all else, and all else for the experts.
static double whole_seconds(const struct placement_costs *costs, const struct placement_part *part) {
    double seconds = 0;
    for (int l = 0; l < part->layers; l++) {
        const struct sides sides = sides_of(costs, part, l);
        seconds += costs->rest + fmax(sides.device, sides.cpu);
    }
    return seconds;
}

// All layers of answers in two halves: each side has both, one after the other, and the slower one is never idle.
static double halved_seconds(const struct engine_placement *found, const struct placement_part *part, int rows) {
    const struct placement_costs half = placement_costs_at(found, true, (rows + 1) / 2);
    double seconds = 0;
    for (int l = 0; l < part->layers; l++) {
        const struct sides sides = sides_of(&half, part, l);
        seconds += 2 * fmax(sides.device, half.rest + sides.cpu);
    }
    return seconds;
}

// All layers of a prompt in two halves, each half of the work, and at the ends one side waits for the other's half.
static double passing_seconds(const struct placement_costs *costs, const struct placement_part *part) {
    double slower = 0, faster = 0;
    for (int l = 0; l < part->layers; l++) {
        const struct sides sides = sides_of(costs, part, l);
        slower += fmax(sides.device, costs->rest + sides.cpu);
        faster += fmin(sides.device, costs->rest + sides.cpu);
    }
    return slower + faster / part->layers / 2;
}

int placement_halves_from(const struct engine_placement *found, const struct placement_part *part) {
    int from = 0;
    for (int i = found->point_count - 1; i >= 0; i--) {
        const struct engine_placement_point *point = &found->points[i];
        if (point->rows > ENGINE_PLACEMENT_ANSWERS) continue;
        if (point->rows < 2 || !(point->device_seconds > 0)) break;
        const struct placement_costs costs = costs_of(point, 1);
        if (!engine_placement_pays(whole_seconds(&costs, part), halved_seconds(found, part, point->rows))) break;
        from = point->rows;
    }
    return from;
}

void placement_conclude(struct engine_placement *found, const struct placement_part *part, int halves_from) {
    found->halves_from = halves_from > 0 ? halves_from : placement_halves_from(found, part);
    for (int i = 0; i < found->point_count; i++) {
        struct engine_placement_point *point = &found->points[i];
        const struct placement_costs costs = costs_of(point, 1);
        bool answers = point->rows <= ENGINE_PLACEMENT_ANSWERS;
        bool halved = answers && found->halves_from > 0 && point->rows >= found->halves_from && point->rows > 1;
        double split = halved                                                ? halved_seconds(found, part, point->rows)
                       : !answers && point->rows >= ENGINE_PLACEMENT_HALVES ? passing_seconds(&costs, part)
                                                                             : whole_seconds(&costs, part);
        point->cpu_rate = point->rows / (part->layers * (costs.rest + costs.cpu) + point->head_seconds);
        point->split_rate = costs.device > 0 ? point->rows / (split + point->head_seconds) : 0;
    }
}

int placement_worth_from(const struct engine_placement *found, bool answers, bool by_number) {
    int rows[ENGINE_PLACEMENT_POINTS], count = 0;
    bool pays[ENGINE_PLACEMENT_POINTS];
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        if ((point->rows <= ENGINE_PLACEMENT_ANSWERS) != answers) continue;
        rows[count] = point->rows;
        pays[count++] = point->split_rate > 0 && engine_placement_pays(1 / point->cpu_rate, 1 / point->split_rate);
    }
    int from = engine_placement_pays_from(rows, pays, count);
    return by_number || from == 1 ? from : 0;
}

// ---- What is no expert

// The widest of the products around attention, and room for what goes in and comes out of them.
static float *products_room(const struct placement_devices *devices, int rows) {
    const struct layer *layer = devices->layers;
    const struct linear *all[] = {&layer->q, &layer->k, &layer->v, &layer->o, devices->head};
    size_t most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t width = all[i] ? (size_t)all[i]->weight.rows + (size_t)all[i]->weight.columns : 0;
        if (width > most) most = width;
    }
    return calloc((size_t)rows * most, sizeof(float));
}

static double time_products(const struct placement_devices *devices, const struct linear *const *products, size_t count,
                            float *room, int rows) {
    double best = 0, first_at = clock_seconds();
    for (int run = 0; once_more(run, first_at); run++) {
        double began_at = clock_seconds();
        for (size_t i = 0; i < count; i++)
            devices->inner->linear(devices->state, products[i], room,
                                     room + (size_t)rows * (size_t)products[i]->weight.columns, rows, false);
        double seconds = clock_seconds() - began_at;
        if (is_best(run, seconds, best)) best = seconds;
    }
    return best;
}

static int time_rest(const struct placement_devices *devices, struct engine_placement_point *point,
                     struct error *error) {
    const struct layer *layer = devices->layers;
    const struct linear *around[] = {&layer->q, &layer->k, &layer->v, &layer->o}, *head = devices->head;
    float *room = products_room(devices, point->rows);
    if (!room) return error_set(error, ERROR_MEMORY, "out of memory for trying the device");
    int outputs = point->rows <= ENGINE_PLACEMENT_ANSWERS ? point->rows : 1; // of a prompt only the last one's
    point->rest_seconds = time_products(devices, around, sizeof around / sizeof *around, room, point->rows);
    point->head_seconds = head ? time_products(devices, &head, 1, room, outputs) : 0;
    free(room);
    return 0;
}

// What the CPU reads from memory at best, by the largest matrix there is.
static double measure_bus(const struct placement_devices *devices) {
    const struct matrix *most = devices->head ? &devices->head->weight : &devices->layers->q.weight;
    size_t bytes = most->data ? weight_format_bytes(most->format, most->rows, most->columns) : 0;
    if (!devices->inner->measure_reading || bytes == 0) return 0;
    return devices->inner->measure_reading(devices->state, most->data, bytes);
}

// ---- All sizes of calls

// Less than these is noise, or a number of rows that suits better.
static const double LONGER = 1.25, DEARER = 4;
enum { AGAIN_MOST = 6 }; // so often a size is measured once more, whichever it is

static bool is_longer(const struct engine_placement_point *less, const struct engine_placement_point *more) {
    return less->cpu_seconds > LONGER * more->cpu_seconds || less->device_seconds > LONGER * more->device_seconds ||
           less->rest_seconds > LONGER * more->rest_seconds;
}

// For each row, though rows share what is read. (One row's experts may lie in a cache that eight rows' do not fit into:
// of that, half as much could come.)
static bool is_dearer(const struct engine_placement_point *more, const struct engine_placement_point *less) {
    double most = DEARER * more->rows / less->rows;
    return more->cpu_seconds > most * less->cpu_seconds || more->device_seconds > most * less->device_seconds ||
           more->rest_seconds > most * less->rest_seconds;
}

struct engine_placement_point *placement_contradiction(struct engine_placement *found) {
    for (int i = 0; i < found->point_count; i++)
        for (int j = i + 1; j < found->point_count; j++) {
            struct engine_placement_point *less = &found->points[i], *more = &found->points[j];
            if (kind_of(less->rows) != kind_of(more->rows)) continue;
            if (is_longer(less, more)) return less;
            if (is_dearer(more, less)) return more;
        }
    return NULL;
}

static int measure_point(const struct placement_devices *devices, int rows, struct engine_placement_point *out,
                         bool *same_bits, struct error *error) {
    *out = (struct engine_placement_point){.rows = rows};
    int code = try_rows(devices, rows, true, out, same_bits, error);
    return code ? code : time_rest(devices, out, error);
}

void placement_keep_less(struct engine_placement_point *point, const struct engine_placement_point *other) {
    point->cpu_seconds = fmin(point->cpu_seconds, other->cpu_seconds);
    point->rest_seconds = fmin(point->rest_seconds, other->rest_seconds);
    point->head_seconds = fmin(point->head_seconds, other->head_seconds);
    if (other->device_seconds >= point->device_seconds) return;
    point->device_seconds = other->device_seconds;
    point->handing_seconds = other->handing_seconds;
}

int placement_measure(const struct placement_devices *devices, struct engine_placement *found, struct error *error) {
    static const int ROWS[ENGINE_PLACEMENT_POINTS] = {1, 8, 16, ENGINE_PLACEMENT_ANSWERS, 128, 512};
    struct engine_placement_point *at, again;
    int code = 0;
    found->point_count = 0;
    found->same_bits = devices->opencl;
    for (int i = 0; !code && i < ENGINE_PLACEMENT_POINTS; i++) {
        int most = devices->rows_max, rows = ROWS[i] < most ? ROWS[i] : most;
        if (i > 0 && rows <= found->points[found->point_count - 1].rows) break;
        code = measure_point(devices, rows, &found->points[found->point_count], &found->same_bits, error);
        if (!code) found->point_count++;
    }
    for (int i = 0; !code && i < AGAIN_MOST && (at = placement_contradiction(found)); i++) {
        code = measure_point(devices, at->rows, &again, &found->same_bits, error);
        if (!code) placement_keep_less(at, &again);
    }
    found->contradictory = !code && placement_contradiction(found);
    found->read_bytes = measure_bus(devices);
    found->from_cache = false;
    found->age_seconds = 0;
    rows_are(devices, ROWS_BY_NUMBER);
    return code;
}

int placement_check(const struct placement_devices *devices, struct engine_placement *found, struct error *error) {
    static const int ROWS[] = {ENGINE_PLACEMENT_ANSWERS / 4, ENGINE_PLACEMENT_ANSWERS + 8};
    int code = 0;
    found->same_bits = devices->opencl;
    for (size_t i = 0; !code && i < sizeof ROWS / sizeof *ROWS; i++) {
        struct engine_placement_point ignored = {0};
        int rows = ROWS[i] < devices->rows_max ? ROWS[i] : devices->rows_max;
        code = try_rows(devices, rows, false, &ignored, &found->same_bits, error);
    }
    rows_are(devices, ROWS_BY_NUMBER);
    return code;
}
