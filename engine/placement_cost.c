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

// Twice: once to warm up, and once more for the time.
static int trial_run(struct trial *trial, const struct placement_devices *devices, int runs,
                     struct engine_placement_point *point, struct error *error) {
    const struct layer *layer = devices->layers;
    size_t bytes = (size_t)trial->rows * (size_t)trial->hidden * sizeof(float);
    const enum row_kind kind = kind_of(trial->rows);
    rows_are(devices, kind);
    for (int run = 0; run < runs; run++) {
        double began_at = clock_seconds();
        memset(trial->found, 0, bytes);
        int code = 0;
        if (devices->opencl) {
            code = opencl_begin(devices->opencl, 0, layer, trial->x, trial->rows, kind, error);
            point->handing_seconds = clock_seconds() - began_at;
            if (!code) code = opencl_end(devices->opencl, 0, trial->found, &trial->routing[1], error);
            point->device_seconds = clock_seconds() - began_at;
        }
        if (code) return code;

        began_at = clock_seconds();
        memset(trial->expected, 0, bytes);
        devices->inner->route(devices->state, &layer->router, trial->x, trial->rows, &trial->routing[0]);
        devices->inner->experts(devices->state, layer, &trial->routing[0], trial->x, trial->expected, trial->rows);
        point->cpu_seconds = clock_seconds() - began_at;
    }
    return devices->opencl ? trial_compare(trial, error) : 0;
}

// ---- What follows

static double line_between(double x, double x1, double y1, double x2, double y2) {
    return y1 + (y2 - y1) * (x - x1) / (x2 - x1);
}

struct placement_costs placement_costs_at(const struct engine_placement *found, bool answers, int rows) {
    const struct engine_placement_point *below = NULL, *above = NULL;
    for (int i = 0; i < found->point_count; i++) {
        const struct engine_placement_point *point = &found->points[i];
        if ((point->rows <= ENGINE_PLACEMENT_ANSWERS) != answers) continue;
        if (point->rows <= rows) below = point;
        if (point->rows >= rows && !above) above = point;
    }
    if (!below && !above) return (struct placement_costs){0, 0};
    if (!below) return (struct placement_costs){above->device_seconds, above->rest_seconds};
    if (!above) {
        double times = (double)rows / below->rows;
        return (struct placement_costs){times * below->device_seconds, times * below->rest_seconds};
    }
    if (below == above) return (struct placement_costs){below->device_seconds, below->rest_seconds};
    return (struct placement_costs){
        line_between(rows, below->rows, below->device_seconds, above->rows, above->device_seconds),
        line_between(rows, below->rows, below->rest_seconds, above->rows, above->rest_seconds)};
}

// A layer of answers in two halves: each device has both, one after the other, and the slower one is never idle.
static double halved(const struct engine_placement *found, int rows) {
    const struct placement_costs half = placement_costs_at(found, true, (rows + 1) / 2);
    return 2 * (half.device > half.rest ? half.device : half.rest);
}

int placement_halves_from(const struct engine_placement *found) {
    int from = 0;
    for (int i = found->point_count - 1; i >= 0; i--) {
        const struct engine_placement_point *point = &found->points[i];
        if (point->rows > ENGINE_PLACEMENT_ANSWERS) continue;
        if (point->rows < 2 || !(point->device_seconds > 0)) break;
        if (!placement_pays(point->rest_seconds + point->device_seconds, halved(found, point->rows))) break;
        from = point->rows;
    }
    return from;
}

// ---- How fast the model will be

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
    double best = INFINITY;
    for (int run = 0; run < 2; run++) {
        double began_at = clock_seconds();
        for (size_t i = 0; i < count; i++)
            devices->inner->linear(devices->state, products[i], room,
                                     room + (size_t)rows * (size_t)products[i]->weight.columns, rows, false);
        double seconds = clock_seconds() - began_at;
        if (seconds < best) best = seconds;
    }
    return best;
}

// Two halves pass each other: while the device has one, the CPU has the other. Of a prompt's the work is half as much
// each, and at the ends one of them waits.
static void predict(const struct placement_devices *devices, struct engine_placement *found,
                    struct engine_placement_point *point, double head_seconds) {
    double layers = devices->layer_count, rest = point->rest_seconds, device = point->device_seconds;
    double slower = rest > device ? rest : device, faster = rest > device ? device : rest;
    double split = layers * (rest + device);
    if (point->rows > ENGINE_PLACEMENT_ANSWERS)
        split = layers * slower + faster / 2;
    else if (found->halves_from > 0 && point->rows >= found->halves_from)
        split = layers * halved(found, point->rows);
    point->cpu_rate = point->rows / (layers * (rest + point->cpu_seconds) + head_seconds);
    point->split_rate = device > 0 ? point->rows / (split + head_seconds) : 0;
}

static int time_rest(const struct placement_devices *devices, struct engine_placement_point *point,
                     double *head_seconds, struct error *error) {
    const struct layer *layer = devices->layers;
    const struct linear *around[] = {&layer->q, &layer->k, &layer->v, &layer->o}, *head = devices->head;
    float *room = products_room(devices, point->rows);
    if (!room) return error_set(error, ERROR_MEMORY, "out of memory for trying the device");
    int outputs = point->rows <= ENGINE_PLACEMENT_ANSWERS ? point->rows : 1; // of a prompt only the last one's
    point->rest_seconds = time_products(devices, around, sizeof around / sizeof *around, room, point->rows);
    *head_seconds = head ? time_products(devices, &head, 1, room, outputs) : 0;
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

static int measure_points(const struct placement_devices *devices, struct engine_placement *found,
                          double head_seconds[ENGINE_PLACEMENT_POINTS], struct error *error) {
    static const int ROWS[ENGINE_PLACEMENT_POINTS] = {1, 8, 16, ENGINE_PLACEMENT_ANSWERS, 128, 512};
    int code = 0;
    for (int i = 0; !code && i < ENGINE_PLACEMENT_POINTS; i++) {
        struct engine_placement_point *point = &found->points[found->point_count];
        struct trial trial;
        int most = devices->rows_max, rows = ROWS[i] < most ? ROWS[i] : most;
        if (i > 0 && rows <= found->points[found->point_count - 1].rows) break;
        *point = (struct engine_placement_point){.rows = rows};
        code = trial_create(&trial, rows, devices->layers, error);
        if (code) return code;
        code = trial_run(&trial, devices, 2, point, error);
        trial_finish(&trial);
        if (!code) code = time_rest(devices, point, &head_seconds[found->point_count], error);
        if (!code) found->point_count++;
    }
    return code;
}

int placement_measure(const struct placement_devices *devices, struct engine_placement *found, struct error *error) {
    double head_seconds[ENGINE_PLACEMENT_POINTS];
    found->point_count = 0;
    int code = measure_points(devices, found, head_seconds, error);
    found->halves_from = placement_halves_from(found);
    for (int i = 0; i < found->point_count; i++) predict(devices, found, &found->points[i], head_seconds[i]);
    found->read_bytes = measure_bus(devices);
    found->from_cache = false;
    found->age_seconds = 0;
    rows_are(devices, ROWS_BY_NUMBER);
    return code;
}

int placement_check(const struct placement_devices *devices, struct error *error) {
    static const int ROWS[] = {ENGINE_PLACEMENT_ANSWERS / 4, ENGINE_PLACEMENT_ANSWERS + 8};
    int code = 0;
    for (size_t i = 0; !code && i < sizeof ROWS / sizeof *ROWS; i++) {
        struct engine_placement_point point;
        struct trial trial;
        int rows = ROWS[i] < devices->rows_max ? ROWS[i] : devices->rows_max;
        code = trial_create(&trial, rows, devices->layers, error);
        if (code) break;
        code = trial_run(&trial, devices, 1, &point, error);
        trial_finish(&trial);
    }
    rows_are(devices, ROWS_BY_NUMBER);
    return code;
}
