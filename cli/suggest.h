// Who should compute which experts: from what was measured of both devices, and from what prompts really called for.
// Pure.
#ifndef CLI_SUGGEST_H
#define CLI_SUGGEST_H

#include "base/buffer.h"
#include "engine/engine.h"
#include "engine/watch.h"

enum { SUGGEST_ROWS_MAX = ENGINE_PREFILL_TOKENS_STANDARD };

// What was computed: how many calls of so many rows there were. Above SUGGEST_ROWS_MAX they are several.
struct suggest_work {
    double calls[ENGINE_ROWS_KINDS][SUGGEST_ROWS_MAX + 1];
};
void suggest_add(struct suggest_work *work, enum engine_rows kind, long rows, double times);

struct suggestion {
    const char *who[ENGINE_ROWS_KINDS];    // "cpu", "opencl"; "auto": there were no such rows, or nothing was measured
    int decode_from;                       // so many answers at once, and more, are OpenCL's; 0: any number
    char *experts;                         // for --experts-opencl; NULL: all of a layer's are one device's
    double cpu_seconds[ENGINE_ROWS_KINDS]; // that all of this work would take on the CPU alone, but for what is
                                           // attended to
    double seconds[ENGINE_ROWS_KINDS];     // and as suggested
};

// Takes the fastest of: the CPU; the device for one kind of rows, or for both; and both devices sharing out each
// layer's experts. What does not pay clearly (engine_placement_pays) is left to the simpler one. Where both devices
// give answers the same bits, the device has them from so many at once on as `auto` would find it, if it would; else
// all or none, as they are in this text. ERROR_MEMORY.
int suggest_placement(const struct engine_placement *found, const struct engine_choices *choices,
                      const struct suggest_work *work, struct suggestion *out, struct error *error);
void suggestion_finish(struct suggestion *suggestion);

// As a settings file. False when out of memory.
bool suggestion_yaml(const struct suggestion *suggestion, struct buffer *out);

#endif
