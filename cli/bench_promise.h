// What the server promises to those who are being answered, measured over HTTP by tandem bench --serve: how long a
// stream stands still while somebody else's long prompt is read, and how soon the place of a client who leaves is free.
#ifndef CLI_BENCH_PROMISE_H
#define CLI_BENCH_PROMISE_H

#include "cli/bench_work.h"

#include <jansson.h>

enum { BENCH_PROMISE_PROMPT_TOKENS = 2000 }; // or what the model's context has room for

#define BENCH_PROMISE_GAP 1.5 // times a chunk and a step: the longest that a stream stands still

struct bench_promises {
    int prompt_tokens; // of the prompt that came; 0: nothing was measured
    double step_ms;    // of the stream alone: the median
    double chunk_ms; // a prompt of one chunk, alone: to its first token, the median
    double gap_ms;   // between two tokens of the stream while the prompt was read: the longest
    int leavers;     // clients that have left
    double free_ms;  // from a client's leaving to a free place: the median, and the longest
    double free_ms_max;
};

// Against the server on that port, which serves bench->engine and has nothing else to do.
int bench_promises_measure(struct bench *bench, int port, int runs, struct bench_promises *out, struct error *error);

void bench_promises_print(const struct bench_promises *promises);
json_t *bench_promises_json(const struct bench_promises *promises); // null where nothing was measured; NULL: no memory

#endif
