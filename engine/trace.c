#include "engine/trace.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES_MAX = 512 };

struct trace {
    FILE *file;
    double began_at; // what all times are told from
    long spans;
};

static const char *const TRACKS[TRACE_TRACK_COUNT] = {TRACE_TRACKS(NAMED_NAME)};

// What can not be written is lost: a timeline with a hole is no reason to stop.
static void put(struct trace *trace, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct trace *trace, const char *format, ...) {
    char line[LINE_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length > 0 && length < LINE_BYTES_MAX) fwrite(line, 1, (size_t)length, trace->file);
}

int trace_open(struct trace **out, const char *path, struct error *error) {
    struct trace *trace = calloc(1, sizeof *trace);
    if (!trace) return error_set(error, ERROR_MEMORY, "out of memory for the timeline");
    trace->file = fopen(path, "we");
    if (!trace->file) {
        free(trace);
        return error_set(error, ERROR_ARGUMENT, "%s can not be written: %s", path, strerror(errno));
    }
    trace->began_at = clock_seconds();
    put(trace, "[\n");
    for (int i = 0; i < TRACE_TRACK_COUNT; i++)
        put(trace, "%s{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"args\":{\"name\":\"%s\"}}",
            i > 0 ? ",\n" : "", i, TRACKS[i]);
    *out = trace;
    return 0;
}

void trace_close(struct trace *trace) {
    if (!trace) return;
    put(trace, "\n]\n");
    fclose(trace->file);
    free(trace);
}

void trace_span(struct trace *trace, enum trace_track track, const char *name, int rows, double began_at,
                double ended_at) {
    if (!trace || trace->spans == TRACE_SPANS_MAX) return;
    trace->spans++;
    put(trace,
        ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"rows\":%d}}", name,
        (int)track, (began_at - trace->began_at) * 1e6, (ended_at - began_at) * 1e6, rows);
}
