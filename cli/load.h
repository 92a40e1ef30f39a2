// Clients of an OpenAI server on this machine: as many streams at once as wanted, and when what arrived. For
// tandem bench --serve. The command's thread.
#ifndef CLI_LOAD_H
#define CLI_LOAD_H

#include "base/error.h"

#include <stddef.h>

enum { LOAD_REQUESTS_MAX = 1024 };

struct load_plan {
    int port; // on 127.0.0.1
    int requests;
    int clients;       // requests under way at most; the next is sent when one is answered
    double per_second; // that requests are sent at, however many are under way; 0: as fast as there are clients
    int new_tokens;    // of each answer

    // The token ids of another prompt, as JSON, to be freed by free. NULL: out of memory.
    char *(*prompt)(void *user);
    void *user;
};

struct load_times { // seconds, ascending once load_run has returned
    double *of;     // [count]
    size_t count, capacity;
};

struct load_outcome {
    double seconds; // from the first request to the end of the last answer
    size_t tokens;  // of all answers
    int refused;    // answered 429: there were more than the server takes
    struct load_times first, between, whole; // to the first token, from one to the next, to the end
};

// ERROR_IO and ERROR_FORMAT where the server does not answer as it should. The outcome is to be finished in any case.
int load_run(const struct load_plan *plan, struct load_outcome *out, struct error *error);
void load_finish(struct load_outcome *outcome);

// Sends one such request; the answer comes from *fd, which is the caller's. prompt: token ids as JSON.
int load_send(int port, const char *prompt, int new_tokens, int *fd, struct error *error);

double load_quantile(const struct load_times *times, double share); // 0.5: the median; 0 of none

#endif
