#include "engine/job.h"

#include "base/checked.h"

#include <math.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BELL_SECONDS_MAX = 1000000 }; // longer is for ever

// Two locks: `lock` guards the ring and is held for moments; `waking` is held while wake runs, so that a release
// can wait for a call under way, while a wake that meets a reader of the ring never waits for it.
// Order where more than one is held: lock before the bell's.
struct engine_job {
    atomic_int references;
    atomic_bool cancelled;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct engine_event *events[ENGINE_JOB_EVENTS_MAX];
    int first, count;
    bool paused;               // until the ring is half empty
    bool ended;                // the last event has been queued
    struct engine_event *last; // set aside for the end; NULL once used
    struct job_bell *bell;     // NULL once ended: the engine may be gone by then

    pthread_mutex_t waking;
    void (*wake)(void *user); // NULL once released
    void *wake_user;
};

// ---- The bell

void job_bell_init(struct job_bell *bell) {
    *bell = (struct job_bell){0};
    pthread_mutex_init(&bell->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&bell->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void job_bell_finish(struct job_bell *bell) {
    pthread_cond_destroy(&bell->changed);
    pthread_mutex_destroy(&bell->lock);
}

void job_bell_ring(struct job_bell *bell) {
    pthread_mutex_lock(&bell->lock);
    bell->rung = true;
    pthread_cond_signal(&bell->changed);
    pthread_mutex_unlock(&bell->lock);
}

void job_bell_wait(struct job_bell *bell) {
    pthread_mutex_lock(&bell->lock);
    while (!bell->rung) pthread_cond_wait(&bell->changed, &bell->lock);
    bell->rung = false;
    pthread_mutex_unlock(&bell->lock);
}

bool job_bell_wait_for(struct job_bell *bell, double seconds) {
    if (seconds > BELL_SECONDS_MAX) {
        job_bell_wait(bell);
        return true;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double sum = (double)until.tv_nsec * 1e-9 + (seconds > 0 ? seconds : 0), whole = floor(sum);
    until.tv_sec += (time_t)whole;
    until.tv_nsec = (long)((sum - whole) * 1e9);

    pthread_mutex_lock(&bell->lock);
    while (!bell->rung && pthread_cond_timedwait(&bell->changed, &bell->lock, &until) == 0) continue;
    bool rung = bell->rung;
    bell->rung = false;
    pthread_mutex_unlock(&bell->lock);
    return rung;
}

// ---- Events

struct engine_event *engine_event_create(enum engine_event_type type, int tokens, int tops, const char *text,
                                         size_t text_bytes) {
    const size_t align = alignof(max_align_t);
    size_t head = (sizeof(struct engine_event) + align - 1) / align * align;
    size_t token_bytes, top_bytes, bytes;
    if (!checked_mul((size_t)tokens, sizeof(struct engine_token), &token_bytes)) return NULL;
    if (!checked_mul((size_t)tokens * sizeof(struct token_logprob), (size_t)tops, &top_bytes)) return NULL;
    if (!checked_add(head, token_bytes, &bytes) || !checked_add(bytes, top_bytes, &bytes)) return NULL;
    size_t text_at = bytes;
    if (!checked_add(bytes, text_bytes, &bytes) || !checked_add(bytes, 1, &bytes)) return NULL;

    char *block = calloc(1, bytes);
    if (!block) return NULL;
    struct engine_event *event = (struct engine_event *)block;
    event->type = type;
    event->token_count = tokens;
    event->tokens = (struct engine_token *)(block + head);
    struct token_logprob *top = (struct token_logprob *)(block + head + token_bytes);
    for (int i = 0; i < tokens; i++) event->tokens[i].top = top + (size_t)i * (size_t)tops;
    event->text = block + text_at;
    event->text_bytes = text_bytes;
    if (text_bytes) memcpy(event->text, text, text_bytes);
    return event;
}

void engine_event_destroy(struct engine_event *event) {
    free(event); // tokens and text lie in the same block
}

// ---- The engine's side

int job_create(struct engine_job **out, struct job_bell *bell, void (*wake)(void *user), void *wake_user,
               struct error *error) {
    struct engine_job *job = calloc(1, sizeof *job);
    struct engine_event *last = engine_event_create(ENGINE_EVENT_DONE, 0, 0, NULL, 0);
    if (!job || !last) {
        free(job);
        engine_event_destroy(last);
        return error_set(error, ERROR_MEMORY, "no memory for a job");
    }
    atomic_init(&job->references, 2);
    atomic_init(&job->cancelled, false);
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->changed, NULL);
    pthread_mutex_init(&job->waking, NULL);
    job->last = last;
    job->bell = bell;
    job->wake = wake;
    job->wake_user = wake_user;
    *out = job;
    return 0;
}

void job_drop(struct engine_job *job) {
    if (!job || atomic_fetch_sub(&job->references, 1) > 1) return;
    for (int i = 0; i < job->count; i++) engine_event_destroy(job->events[(job->first + i) % ENGINE_JOB_EVENTS_MAX]);
    engine_event_destroy(job->last);
    pthread_mutex_destroy(&job->waking);
    pthread_cond_destroy(&job->changed);
    pthread_mutex_destroy(&job->lock);
    free(job);
}

bool job_is_cancelled(struct engine_job *job) {
    return atomic_load(&job->cancelled);
}

int job_room(struct engine_job *job) {
    pthread_mutex_lock(&job->lock);
    int room = ENGINE_JOB_EVENTS_MAX - job->count;
    pthread_mutex_unlock(&job->lock);
    return room;
}

bool job_is_paused(struct engine_job *job) {
    pthread_mutex_lock(&job->lock);
    if (job->count > ENGINE_JOB_EVENTS_MAX - JOB_EVENTS_A_STEP) job->paused = true;
    bool paused = job->paused;
    pthread_mutex_unlock(&job->lock);
    return paused;
}

static void wake(struct engine_job *job) {
    pthread_mutex_lock(&job->waking);
    if (job->wake) job->wake(job->wake_user);
    pthread_mutex_unlock(&job->waking);
}

// With the lock held; tells whether the ring was empty.
static bool append(struct engine_job *job, struct engine_event *event) {
    job->events[(job->first + job->count) % ENGINE_JOB_EVENTS_MAX] = event;
    job->count++;
    pthread_cond_broadcast(&job->changed);
    return job->count == 1;
}

void job_post(struct engine_job *job, struct engine_event *event) {
    pthread_mutex_lock(&job->lock);
    bool was_empty = append(job, event);
    pthread_mutex_unlock(&job->lock);
    if (was_empty) wake(job);
}

void job_end(struct engine_job *job, enum finish_reason finish, const struct engine_usage *usage,
             const struct error *error) {
    pthread_mutex_lock(&job->lock);
    struct engine_event *last = job->last;
    last->finish = finish;
    last->usage = *usage;
    if (error) {
        last->type = ENGINE_EVENT_ERROR;
        last->error = *error;
    }
    job->last = NULL;
    job->bell = NULL;
    job->ended = true;
    bool was_empty = append(job, last);
    pthread_mutex_unlock(&job->lock);
    if (was_empty) wake(job);
}

// ---- The caller's side

// With the lock held and an event in the ring.
static struct engine_event *take(struct engine_job *job) {
    struct engine_event *event = job->events[job->first];
    job->first = (job->first + 1) % ENGINE_JOB_EVENTS_MAX;
    job->count--;
    if (job->paused && job->count <= ENGINE_JOB_EVENTS_MAX / 2) {
        job->paused = false;
        if (job->bell) job_bell_ring(job->bell);
    }
    return event;
}

struct engine_event *engine_job_next(struct engine_job *job) {
    pthread_mutex_lock(&job->lock);
    struct engine_event *event = job->count > 0 ? take(job) : NULL;
    pthread_mutex_unlock(&job->lock);
    return event;
}

struct engine_event *engine_job_wait(struct engine_job *job) {
    pthread_mutex_lock(&job->lock);
    while (job->count == 0 && !job->ended) pthread_cond_wait(&job->changed, &job->lock);
    struct engine_event *event = job->count > 0 ? take(job) : NULL;
    pthread_mutex_unlock(&job->lock);
    return event;
}

bool engine_job_awaits_reader(struct engine_job *job) {
    pthread_mutex_lock(&job->lock);
    bool awaits = job->paused && !job->ended;
    pthread_mutex_unlock(&job->lock);
    return awaits;
}

void engine_job_cancel(struct engine_job *job) {
    atomic_store(&job->cancelled, true);
    pthread_mutex_lock(&job->lock);
    if (job->bell) job_bell_ring(job->bell);
    pthread_mutex_unlock(&job->lock);
}

void engine_job_release(struct engine_job *job) {
    if (!job) return;
    pthread_mutex_lock(&job->waking);
    job->wake = NULL;
    pthread_mutex_unlock(&job->waking);
    engine_job_cancel(job);
    job_drop(job);
}

const char *finish_reason_text(enum finish_reason reason) {
    return reason == FINISH_STOP ? "stop" : "length";
}
