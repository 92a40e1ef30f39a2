// A job: what the engine and a caller share of a request. A bounded ring of events, a cancel flag, a reference
// for each side. The engine posts, the caller reads; engine.h says which calls are the caller's.
#ifndef ENGINE_JOB_H
#define ENGINE_JOB_H

#include "engine/engine.h"

#include <pthread.h>

// Wakes the engine thread: a submission, a cancellation, a reader that has caught up. Any thread rings.
struct job_bell {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool rung;
};

void job_bell_init(struct job_bell *bell);
void job_bell_finish(struct job_bell *bell);
void job_bell_ring(struct job_bell *bell);
void job_bell_wait(struct job_bell *bell);                     // until it has been rung since the last wait
// But no longer than so; INFINITY: as long as it takes. False: it has not been rung.
bool job_bell_wait_for(struct job_bell *bell, double seconds);

// Events that one step can add to a job: prompt log-probabilities, text, the end. A job with less room pauses.
enum { JOB_EVENTS_A_STEP = 3 };

// A job with two references, the engine's and the caller's. The bell lives until the job has ended.
int job_create(struct engine_job **out, struct job_bell *bell, void (*wake)(void *user), void *wake_user,
               struct error *error);
void job_drop(struct engine_job *job); // the engine's reference; takes NULL

bool job_is_cancelled(struct engine_job *job);

int job_room(struct engine_job *job); // events that it could hold besides those that are unread

// Whether its sequence has to wait for the reader: from a ring too full for a step until it is half empty.
bool job_is_paused(struct engine_job *job);

// Queues an event, which the job then owns. There must be room: see job_is_paused.
void job_post(struct engine_job *job, struct engine_event *event);

// Queues the last event. It was set aside when the job was created, so this can not fail. error NULL: DONE.
void job_end(struct engine_job *job, enum finish_reason finish, const struct engine_usage *usage,
             const struct error *error);

// One block of memory: the event, room for its tokens with `tops` alternatives each, and its text. NULL: no memory.
struct engine_event *engine_event_create(enum engine_event_type type, int tokens, int tops, const char *text,
                                         size_t text_bytes);

#endif
