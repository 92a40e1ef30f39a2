#include "engine/pace.h"

#define AGEING (1 - 1.0 / 32) // what an end counts after one more has come

void pace_begins(struct pace *pace, double now) {
    pace->since = now;
}

void pace_ends(struct pace *pace, double now) {
    pace->ends = AGEING * pace->ends + 1;
    pace->seconds = AGEING * pace->seconds + (now - pace->since);
    pace->since = now;
}

void pace_lets_in(struct pace *pace) {
    if (pace->outside > 0) pace->outside--;
}

// Seconds from one end to the next. The one that is still to come counts too where it is late.
static double seconds_each(const struct pace *pace, bool running, double now) {
    double each = pace->ends > 0 ? pace->seconds / pace->ends : PACE_UNKNOWN_SECONDS;
    double late = running ? (pace->seconds + now - pace->since) / (pace->ends + 1) : 0;
    return each > late ? each : late;
}

// At the latest when all who wait now have begun: then there is room, if nobody comes who was not sent away.
double pace_sends_away(struct pace *pace, bool running, int waiting, double now) {
    if (pace->outside < waiting || pace->outside == 0) pace->outside++;
    double seconds = pace->outside * seconds_each(pace, running, now);
    if (seconds < PACE_RETRY_SECONDS_MIN) return PACE_RETRY_SECONDS_MIN;
    return seconds < PACE_RETRY_SECONDS_MAX ? seconds : PACE_RETRY_SECONDS_MAX;
}
