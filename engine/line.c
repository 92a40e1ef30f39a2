// Who waits, who is admitted, and how sequences end. The engine thread's; its steps are in steps.c.
//
// A sequence is admitted when the KV pages that it can still need are sure: those that running sequences can still
// need, and its own, are no more than the pages that are free or idle. Taking a page lowers both sides by one. Holding
// a page that others have computed lowers what it needs by one, and what is there by one at most (an idle one is idle
// no more). What ends lowers the first side and not the second. So once admitted, a sequence never runs out of pages
// half-way, whatever is shared; and when nobody runs, all pages are free or idle, and the head of the line fits.
#include "engine/engine_private.h"

#include "base/clock.h"
#include "base/plural.h"

#include <limits.h>
#include <math.h>
#include <string.h>

// ---- Coming

enum { CLIENTS_TOLD_APART = 256 }; // two in one of so many heaps count as one

static unsigned heap_of(uint64_t client) {
    return client % CLIENTS_TOLD_APART;
}

// The line is full. Whoever has the most in it gives one place up, his newest, to a client who has at least two fewer:
// so nobody keeps others out, and nobody takes back what he gave. False: there is none such. With the lock held.
static bool make_room(struct engine *engine, uint64_t client) {
    int counts[CLIENTS_TOLD_APART] = {0}, length = engine->stats.waiting, newest = length - 1;
    unsigned most = 0;
    for (int i = 0; i < length; i++) {
        unsigned heap = heap_of(engine->waiting[i]->client);
        if (++counts[heap] > counts[most]) most = heap;
    }
    if (counts[most] < counts[heap_of(client)] + 2) return false;
    while (heap_of(engine->waiting[newest]->client) != most) newest--;
    struct sequence *sequence = engine->waiting[newest];
    memmove(engine->waiting + newest, engine->waiting + newest + 1, (size_t)(length - 1 - newest) * sizeof sequence);
    engine->stats.waiting--;
    sequence->gave_way = true;
    sequence->next_leaving = engine->gave_way;
    engine->gave_way = sequence;
    return true;
}

// As many can wait as queue_max says, and those for whom there is a place only not yet.
int line_enter(struct engine *engine, struct sequence *sequence, struct error *error) {
    int code = 0;
    pthread_mutex_lock(&engine->lock);
    struct engine_stats *stats = &engine->stats;
    if (engine->closing) {
        code = error_set_code(error, ERROR_SHUTDOWN);
    } else if (stats->running + stats->waiting >= engine->sequences_max + engine->queue_max &&
               !make_room(engine, sequence->client)) {
        int count = stats->running + stats->waiting; // who has a place only not yet counts as waiting, too
        code = error_set(error, ERROR_BUSY, "%d request%s %s running or waiting, as many as may; try again later",
                         count, plural((size_t)count), plural_are((size_t)count));
        double seconds = pace_sends_away(&engine->pace, stats->running > 0, stats->waiting, clock_seconds());
        if (error) error->retry_seconds = seconds;
    } else {
        engine->waiting[stats->waiting++] = sequence;
    }
    pthread_mutex_unlock(&engine->lock);
    return code;
}

// ---- Ends

// With the lock held.
void line_count_pages(struct engine *engine) {
    engine->stats.kv_pages_used = (size_t)prefix_held(&engine->prefix);
    engine->stats.kv_pages_kept = (size_t)engine->prefix.idle;
}

// The place is free, and anybody who looks at the statistics sees so, before the job hears of its end.
void line_end(struct engine *engine, int place, const struct error *error) {
    struct sequence *sequence = engine->places[place];
    if (!error) sequence_keep_pages(sequence, &engine->prefix);
    sequence_give_pages(sequence, &engine->prefix);
    engine->places[place] = NULL;

    pthread_mutex_lock(&engine->lock);
    engine->stats.running--;
    pace_ends(&engine->pace, clock_seconds());
    line_count_pages(engine);
    pthread_mutex_unlock(&engine->lock);

    struct engine_usage usage = sequence_usage(sequence);
    job_end(sequence->job, sequence->finish, &usage, error);
    sequence_destroy(sequence);
}

static bool has_waited_enough(const struct engine *engine, const struct sequence *sequence, double now) {
    return engine->queue_seconds_max > 0 && now - sequence->submitted_at >= engine->queue_seconds_max;
}

// One that has left the line. error NULL: it was cancelled, gave way, or else has waited too long.
static void end_waiting(struct engine *engine, struct sequence *sequence, const struct error *error) {
    struct engine_usage usage = sequence_usage(sequence);
    struct error own;
    if (!error && job_is_cancelled(sequence->job)) {
        error_set_code(&own, ERROR_CANCELLED);
    } else if (!error) {
        if (sequence->gave_way)
            error_set(&own, ERROR_BUSY,
                      "the line is full, and most who wait are this client's: this request gave way to "
                      "another client's; try again later");
        else
            error_set(&own, ERROR_BUSY, "this request has waited %.1f s for its turn; try again later",
                      usage.queue_seconds);
        pthread_mutex_lock(&engine->lock);
        own.retry_seconds =
            pace_sends_away(&engine->pace, engine->stats.running > 0, engine->stats.waiting, clock_seconds());
        pthread_mutex_unlock(&engine->lock);
    }
    job_end(sequence->job, FINISH_STOP, &usage, error ? error : &own);
    sequence_destroy(sequence);
}

// Takes those out of the line whose job was cancelled or has waited too long, or with an error all, and ends them and
// those that gave way.
static void end_line(struct engine *engine, const struct error *error) {
    double now = clock_seconds();
    pthread_mutex_lock(&engine->lock);
    struct sequence *leaving = engine->gave_way, *next;
    engine->gave_way = NULL;
    int length = engine->stats.waiting;
    engine->stats.waiting = 0;
    for (int i = 0; i < length; i++) {
        struct sequence *sequence = engine->waiting[i];
        if (error || job_is_cancelled(sequence->job) || has_waited_enough(engine, sequence, now)) {
            sequence->next_leaving = leaving;
            leaving = sequence;
        } else {
            engine->waiting[engine->stats.waiting++] = sequence;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    for (; leaving; leaving = next) {
        next = leaving->next_leaving;
        end_waiting(engine, leaving, error);
    }
}

void line_end_leaving(struct engine *engine) {
    struct error error;
    error_set_code(&error, ERROR_CANCELLED);
    end_line(engine, NULL);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i] && job_is_cancelled(engine->places[i]->job)) line_end(engine, i, &error);
}

void line_end_all(struct engine *engine) {
    struct error error;
    error_set_code(&error, ERROR_SHUTDOWN);
    end_line(engine, &error);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i]) line_end(engine, i, &error);
}

// ---- Admission

static int find_free_place(const struct engine *engine) {
    for (int i = 0; i < engine->sequences_max; i++)
        if (!engine->places[i]) return i;
    return -1;
}

// Pages that nobody who runs can need.
static int spare_pages(const struct engine *engine) {
    int spare = prefix_available(&engine->prefix);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i]) spare -= engine->places[i]->pages_max - engine->places[i]->page_count;
    return spare;
}

// Whether it fits when it holds what others have computed of its prompt.
static bool fits_shared(const struct engine *engine, const struct sequence *sequence, int spare) {
    int idle, found = sequence_find_pages(sequence, &engine->prefix, &idle);
    return sequence->pages_max - found <= spare - idle;
}

static int count_running(const struct engine *engine, uint64_t client) {
    int count = 0;
    for (int i = 0; i < engine->sequences_max; i++) count += engine->places[i] && engine->places[i]->client == client;
    return count;
}

// Who is next, as a place in the line: of those that fit, the first one of whoever has the fewest running; but the head
// once it has been passed over often enough. Only for the head it is looked up what it would share: that takes a
// moment. -1: nobody. With the lock held.
static int find_next(const struct engine *engine) {
    struct sequence *const *waiting = engine->waiting;
    if (engine->stats.waiting == 0) return -1;
    int spare = spare_pages(engine), best = -1, fewest = INT_MAX;
    bool head_fits = fits_shared(engine, waiting[0], spare);
    if (waiting[0]->overtaken == engine->sequences_max) return head_fits ? 0 : -1;
    for (int i = 0; i < engine->stats.waiting && fewest > 0; i++) {
        bool fits = i == 0 ? head_fits : waiting[i]->pages_max <= spare;
        if (!fits || (best >= 0 && waiting[i]->client == waiting[best]->client)) continue;
        int running = count_running(engine, waiting[i]->client);
        if (running >= fewest) continue;
        fewest = running;
        best = i;
    }
    return best;
}

// Takes the next sequence out of the line, if there is a place; NULL: none can run now.
static struct sequence *take_next(struct engine *engine, bool place) {
    struct sequence *next = NULL;
    pthread_mutex_lock(&engine->lock);
    int at = place ? find_next(engine) : -1;
    engine->stats.held_up = at < 0 && engine->stats.waiting > 0;
    engine->stats.looks++;
    if (at >= 0) {
        struct sequence **from = engine->waiting + at;
        next = *from;
        if (at > 0) engine->waiting[0]->overtaken++;
        if (engine->stats.running == 0) pace_begins(&engine->pace, clock_seconds());
        pace_lets_in(&engine->pace);
        engine->stats.waiting--;
        engine->stats.running++;
        memmove(from, from + 1, (size_t)(engine->stats.waiting - at) * sizeof *from);
    }
    pthread_mutex_unlock(&engine->lock);
    return next;
}

void line_admit(struct engine *engine) {
    for (;;) {
        int place = find_free_place(engine);
        struct sequence *sequence = take_next(engine, place >= 0);
        if (!sequence) return;
        sequence->admitted_at = clock_seconds();
        sequence->number = engine->admitted++;
        sequence_reuse_pages(sequence, &engine->prefix);
        engine->places[place] = sequence;
    }
}

// ---- Nothing to do

// Until the bell rings, or the first of those that wait has waited enough. All that run may be waiting for their
// readers.
void line_sleep(struct engine *engine) {
    double seconds = INFINITY;
    pthread_mutex_lock(&engine->lock);
    if (engine->stats.waiting > 0 && engine->queue_seconds_max > 0)
        seconds = engine->waiting[0]->submitted_at + engine->queue_seconds_max - clock_seconds();
    pthread_mutex_unlock(&engine->lock);
    job_bell_wait_for(&engine->bell, seconds);
}
