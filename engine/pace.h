// The pace of the line: how fast those who run come to their end, and from that, when somebody for whom there is no
// room had better come back. Pure: it is told the time. The engine guards it with its lock.
//
// Each who is sent away is told a time of his own, as if those who were sent away before him stood in a line outside:
// so they come back one by one, as places come free, and not all at once.
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#include <stdbool.h>

#define PACE_UNKNOWN_SECONDS 1.0 // from one end to the next, at least, before there was any
#define PACE_RETRY_SECONDS_MIN 0.1
#define PACE_RETRY_SECONDS_MAX 60.0

struct pace {
    double ends,
        seconds;  // of those that have run, and what they took, one after the other; the older the less they count
    double since; // the last end, or when somebody began to run after nobody did
    int outside;  // sent away, less those that have been let in since
};

void pace_begins(struct pace *pace, double now); // somebody runs, after nobody did
void pace_ends(struct pace *pace, double now);   // one of those that run
void pace_lets_in(struct pace *pace);            // one of those that wait begins to run

// One more is sent away while somebody runs, or nobody does, and so many wait. Returns the seconds after which he may
// come back.
double pace_sends_away(struct pace *pace, bool running, int waiting, double now);

#endif
