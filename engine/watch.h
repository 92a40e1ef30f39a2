// Watching the engine: where its time goes, which experts are chosen, what was measured of the devices, and what the
// machine could do at best. Which thread may ask is said at each.
#ifndef ENGINE_WATCH_H
#define ENGINE_WATCH_H

#include "base/error.h"
#include "base/named.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;

// What a step is made of. One row each: its name for a person.
#define ENGINE_STAGES(X) \
    X(ENGINE_STAGE_EMBED, "embedding") \
    X(ENGINE_STAGE_NORM, "norms") \
    X(ENGINE_STAGE_QKV, "q, k, v") \
    X(ENGINE_STAGE_ATTENTION, "attention") \
    X(ENGINE_STAGE_OUTPUT, "attention output") \
    X(ENGINE_STAGE_ROUTE, "router") \
    X(ENGINE_STAGE_EXPERTS, "experts") \
    X(ENGINE_STAGE_HEAD, "head") \
    X(ENGINE_STAGE_BETWEEN, "between stages") \
    X(ENGINE_STAGE_SAMPLE, "sampler, answers")

enum engine_stage {
    ENGINE_STAGES(NAMED_VALUE)
};
enum { ENGINE_STAGE_COUNT = 0 ENGINE_STAGES(NAMED_ONE) };

struct engine_stage_work {
    double seconds;
    double bytes;      // that had to be read: weights of the experts that were chosen, keys and values attended to
    double operations; // a multiplication and an addition are two
};

// What an OpenCL device has done, and the CPU for it.
struct engine_device_work {
    uint64_t mixtures;     // of experts, that it was given
    uint64_t halves;       // of these, halves of the answers of a step
    uint64_t waits;        // of the CPU, for what it had not finished
    double wait_seconds;   // so long
    double beside_seconds; // of the CPU's stages that began while the device was at work
    uint64_t holds;        // of the CPU, so that the device had its share of the memory bus
    double held_seconds;   // so long
};

struct engine_step {
    bool prefill; // rows of prompts are among its tokens, or else it is one for each sequence that decodes, and its
                  // guesses
    int tokens;
    int answers;    // sequences that decode
    double seconds; // from the end of the step before, unless the engine waited for work
    struct engine_stage_work stages[ENGINE_STAGE_COUNT]; // their seconds add up to the step's
    struct engine_device_work device;
};

// What the engine's own threads reach at best. Rates are of all threads together.
struct engine_limits {
    double read_bytes;          // a second, from memory
    double f32, bf16, int8;     // operations a second with operands in registers; 0: no such instructions here
    const char *arithmetic;     // what prompts are multiplied in: "bf16", "f32"
    double arithmetic_peak;     // and its rate above
};

// Measures for a fraction of a second, on the engine thread between two steps. memory: [bytes], written before, far
// larger than the caches. One thread at a time; all steps before it have been told to `watch` by then.
// ERROR_UNSUPPORTED for stages that are not made to be fast.
int engine_measure(struct engine *engine, const void *memory, size_t bytes, struct engine_limits *out,
                   struct error *error);

// Which experts the router has chosen since the start, in rows of each kind that were computed.
enum engine_rows { ENGINE_ROWS_ANSWERS, ENGINE_ROWS_PROMPTS, ENGINE_ROWS_KINDS };

struct engine_choices {
    int layers, experts;
    uint64_t *pairs; // [ENGINE_ROWS_KINDS][layers][experts][experts] rows by their first choice and their second
};
// A copy of them, for engine_choices_finish. Any thread; never waits for a step. ERROR_UNSUPPORTED: a layer has more
// experts than are counted.
int engine_choices(const struct engine *engine, struct engine_choices *out, struct error *error);
void engine_choices_finish(struct engine_choices *choices);
// How many rows each expert of a layer has had, in out[experts], where a row counts for both; how many rows there were.
uint64_t engine_choices_rows(const struct engine_choices *choices, enum engine_rows rows, int layer, uint64_t *out);
// Over how many experts rows are spread (e to the entropy of their shares), as a share of them: 1: evenly; 0: no rows.
double engine_choices_evenness(const uint64_t *rows_of, int experts);

// The same in four numbers. Any thread; takes some microseconds.
struct engine_balance {
    uint64_t rows[ENGINE_ROWS_KINDS]; // choices of two experts, of all layers
    double evenness;                  // the layers' mean; 0: no rows yet
    double busiest;                   // of any layer's expert: the share of its layer's rows that chose it
};
void engine_balance(const struct engine *engine, struct engine_balance *out);

// What was measured of the devices: the experts of the model's first layer, in calls of several sizes.
enum {
    ENGINE_PLACEMENT_POINTS = 6,
    ENGINE_PLACEMENT_ANSWERS = 32,
    ENGINE_PLACEMENT_HALVES = 34, // so many rows of prompts go through both devices in two halves
};

struct engine_placement_point {
    int rows;              // tokens in a call: up to ENGINE_PLACEMENT_ANSWERS they are answers', more are a prompt's
    double cpu_seconds;    // a layer's experts there
    double device_seconds; // and on the OpenCL device, from handing over to having them back; 0: not measured
    double handing_seconds; // of these, those in which the CPU hands over
    double rest_seconds;   // all else in a layer but attention itself, which is the CPU's
    double head_seconds;   // what follows the layers, the CPU's too; 0: not measured
    bool on_device;        // who has the experts in such calls
    double cpu_rate, split_rate; // tokens a second of the whole model that follow, with nothing attended to
};
struct engine_placement {
    const char *device; // the OpenCL device; "": there is none
    const char *why;    // why there is none, or why it is not used; "" otherwise
    const char *key;    // all that the figures depend on, in words; "": there is no device
    int point_count;    // 0: nothing was measured
    struct engine_placement_point points[ENGINE_PLACEMENT_POINTS];
    int halves_from;    // so many answers at once and more go in two halves, as options say or for speed; 0: none do
    bool same_bits;     // of answers on both devices: so few may be the CPU's and many the OpenCL device's
    int answers_from;   // so many at once and more are that one's, as options say or for speed; 0: all are the CPU's
    double read_bytes;  // a second, that the CPU reads from memory; 0: not measured
    bool contradictory; // a size, or its rows, take too long beside others, though tried again: they are not kept
    bool from_cache;    // the figures are of an earlier start; `cache` in engine_options has kept them
    double age_seconds; // then, so old
};
const struct engine_placement *engine_placement(const struct engine *engine); // lives as long as the engine

// Whether a way that takes so long is worth leaving the plainer one for, the CPU for a device or all experts on it for
// some: it has to be clearly faster, so that noise in what was measured does not decide. Whoever plans by figures asks
// this: `auto` for calls of each size, `tandem profile` for all calls of a text.
bool engine_placement_pays(double plain_seconds, double seconds);
// From which size of calls on it pays in all of those that are known: rows[count] rise, and pays[count] says where it
// does. 1: in every one, or there is none; 0: not in the largest.
int engine_placement_pays_from(const int *rows, const bool *pays, int count);

#endif
