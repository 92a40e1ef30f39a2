// A timeline of what the devices do, as a file for chrome://tracing or ui.perfetto.dev: spans on three tracks. The
// engine thread's.
#ifndef ENGINE_TRACE_H
#define ENGINE_TRACE_H

#include "base/error.h"
#include "base/named.h"

// One row a track: its name for a person.
#define TRACE_TRACKS(X) X(TRACE_STEPS, "steps") X(TRACE_CPU, "CPU") X(TRACE_OPENCL, "OpenCL device")

enum trace_track {
    TRACE_TRACKS(NAMED_VALUE)
    TRACE_TRACK_COUNT
};

enum { TRACE_SPANS_MAX = 2 << 20 }; // then no more are written: some 200 MB

struct trace;

// Creates the file, or empties it.
int trace_open(struct trace **out, const char *path, struct error *error);
void trace_close(struct trace *trace); // takes NULL

// From one time of base/clock.h to another; name is of plain letters, as in JSON. A trace that is NULL takes it and
// does nothing.
void trace_span(struct trace *trace, enum trace_track track, const char *name, int rows, double began_at,
                double ended_at);

#endif
