// One answer of the engine, followed from submit to its last event. For commands that wait for it; Ctrl-C and SIGTERM
// as noted by cli/interrupt.h cut it short.
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include "base/buffer.h"
#include "engine/engine.h"

struct answer {
    enum finish_reason finish;
    struct engine_usage usage; // of a cut answer too
    double first_seconds;      // from submit to the first event
};

// Called with each event, the last one too, on the caller's thread. A code that is not 0 cancels the rest.
typedef int answer_take(void *user, const struct engine_event *event, struct error *error);

// ERROR_CANCELLED: a signal was noted. `request` brings no wake function of its own.
int answer_follow(struct engine *engine, const struct engine_request *request, answer_take *take, void *user,
                  struct answer *out, struct error *error);

// Tokens a second. Of the prompt those that were computed: what the prefix cache knew is not. Of the answer, the first
// token comes of the prompt's last step, and does not count.
double answer_prompt_rate(const struct engine_usage *usage);
double answer_decode_rate(const struct engine_usage *usage);

// "36 prompt tokens, 24 of them known, in 0.01 s (1200/s), 7 new ones in 0.03 s (200.0/s)"
void answer_write_timings(const struct answer *answer, struct buffer *out);

#endif
