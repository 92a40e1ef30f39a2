#include "base/crew.h"

#include "base/clock.h"

#include <pthread.h>
#include <stddef.h>

static const double INTERVAL_SECONDS = 0.1; // between two reports

struct crew {
    bool (*piece)(void *work);
    void *work;
};

struct crew_report crew_report(void (*tell)(void *user, const char *what, double share), void *user, const char *what,
                               double quiet_seconds) {
    return (struct crew_report){tell, user, what, clock_seconds() + quiet_seconds};
}

void crew_tell(struct crew_report *report, double share) {
    double now = clock_seconds();
    if (!report->tell || now < report->next_at) return;
    report->tell(report->user, report->what, share);
    report->next_at = now + INTERVAL_SECONDS;
}

static void *help(void *argument) {
    const struct crew *crew = argument;
    while (crew->piece(crew->work)) continue;
    return NULL;
}

void crew_run(int threads, bool (*piece)(void *work), void *work, struct crew_report *report,
              double (*share)(void *work)) {
    struct crew crew = {piece, work};
    pthread_t helpers[CREW_THREADS_MAX];
    int wanted = (threads < CREW_THREADS_MAX ? threads : CREW_THREADS_MAX) - 1, started = 0;
    while (started < wanted && pthread_create(&helpers[started], NULL, help, &crew) == 0) started++;
    while (piece(work)) // all of them where no helper could be started
        if (report) crew_tell(report, share(work));
    for (int i = 0; i < started; i++) pthread_join(helpers[i], NULL);
}
