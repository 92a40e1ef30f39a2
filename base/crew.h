// Work in pieces that several threads share, the caller's among them. They end with it: there is no pool. And how far
// it is, told by the caller's thread. Any thread may call; nothing here keeps state.
#ifndef BASE_CREW_H
#define BASE_CREW_H

#include <stdbool.h>

enum { CREW_THREADS_MAX = 64 }; // beyond these, the disk or the memory is what takes time

struct crew_report {
    void (*tell)(void *user, const char *what, double share); // NULL: nobody listens
    void *user;
    const char *what; // "loading weights"
    double next_at;   // nothing is told before that
};

// Nothing is told of work that takes no longer than quiet_seconds.
struct crew_report crew_report(void (*tell)(void *user, const char *what, double share), void *user, const char *what,
                               double quiet_seconds);
// Tells, unless it just has.
void crew_tell(struct crew_report *report, double share);

// Calls `piece` on so many threads at once (on fewer where they can not be started) until it says that none is left,
// and returns when all pieces are done. `share` says how many have been taken, for the report; both NULL: nothing is
// told.
void crew_run(int threads, bool (*piece)(void *work), void *work, struct crew_report *report,
              double (*share)(void *work));

#endif
