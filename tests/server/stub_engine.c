// An engine without a model: scripted tokens at a fixed rate, on a thread of its own, so that the server can be
// tested (and watched by ThreadSanitizer) alone. It keeps the promises of engine.h: a bounded queue of events
// that pauses the job, wake calls, cancellation, ERROR_BUSY, ERROR_SHUTDOWN.
//
// A prompt is its bytes. An answer is "t0 t1 t2 …", tokens_max of them. What the prompt contains decides more:
// "too-long" is refused, "fail-now" fails before the first token, "fail-later" after the third, "silent" gives no token
// at all, "together" makes all tokens at once, before anybody is woken, and "<name>" makes it "name.0 name.1 …". The
// environment's STUB_STEP_US is the time from token to token.
#include "tests/server/stub_engine.h"

#include "engine/watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct engine_job {
    struct engine_job *next; // in engine->jobs
    struct engine *engine;
    int tokens_max, made;
    size_t prompt_tokens;
    char name[16]; // "": none
    bool fail_now, fail_later, silent, together;
    bool ended, cancelled, released;
    bool waking; // the engine's thread is in its wake call
    void (*wake)(void *user);
    void *wake_user;
    struct engine_event *events[ENGINE_JOB_EVENTS_MAX + 1]; // a ring; the last place is for the last event
    size_t head, count;
};

struct engine {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool stop;
    struct engine_job *jobs;
    struct engine_info info;
    struct engine_stats stats;
    long step_us;
    int sequences_max, queue_max;
};

static const char *const WEIGHT_NAMES[] = {"f32", "bf16"};

// ---- The engine's thread. The lock is held unless said otherwise.

static void wake(struct engine_job *job) {
    job->waking = true;
    pthread_mutex_unlock(&job->engine->lock); // wake may not be called with a lock that the loop wants
    job->wake(job->wake_user);
    pthread_mutex_lock(&job->engine->lock);
    job->waking = false;
    pthread_cond_broadcast(&job->engine->changed);
}

static void queue(struct engine_job *job, struct engine_event *event) {
    job->events[(job->head + job->count++) % (ENGINE_JOB_EVENTS_MAX + 1)] = event;
}

static void push(struct engine_job *job, struct engine_event *event) {
    queue(job, event);
    if (job->count == 1) wake(job);
}

static struct engine_event *new_event(enum engine_event_type type) {
    struct engine_event *event = calloc(1, sizeof *event);
    if (!event) abort();
    event->type = type;
    return event;
}

static void end(struct engine_job *job, int code) {
    struct engine_event *event = new_event(code ? ENGINE_EVENT_ERROR : ENGINE_EVENT_DONE);
    event->finish = job->made >= job->tokens_max ? FINISH_LENGTH : FINISH_STOP;
    event->usage = (struct engine_usage){.prompt_tokens = job->prompt_tokens,
                                         .completion_tokens = (size_t)job->made,
                                         .decode_seconds = 1e-6 * (double)(job->made * job->engine->step_us)};
    if (code) error_set_code(&event->error, code);
    job->ended = true;
    push(job, event);
}

static struct engine_event *new_token(struct engine_job *job) {
    struct engine_event *event = new_event(ENGINE_EVENT_TEXT);
    char text[32];
    event->text_bytes =
        (size_t)snprintf(text, sizeof text, job->name[0] ? "%s.%d " : "%st%d ", job->name, job->made++);
    event->text = strdup(text);
    event->token_count = 1;
    event->tokens = calloc(1, sizeof *event->tokens);
    job->engine->stats.completion_tokens++;
    return event;
}

static void step(struct engine_job *job) {
    if (job->ended) return;
    if (job->cancelled || job->engine->stop) {
        end(job, job->cancelled ? ERROR_CANCELLED : ERROR_SHUTDOWN);
    } else if (job->fail_later && job->count > 0) {
        return; // the server takes one by one, so that a stream has begun before the failure
    } else if (job->fail_now || (job->fail_later && job->made == 3)) {
        end(job, ERROR_NUMERIC);
    } else if (!job->silent && job->made == job->tokens_max) {
        end(job, 0);
    } else if (!job->silent && job->count < ENGINE_JOB_EVENTS_MAX) {
        bool woken = job->count > 0;
        do queue(job, new_token(job));
        while (job->together && job->made < job->tokens_max && job->count < ENGINE_JOB_EVENTS_MAX);
        if (!woken) wake(job);
    }
}

static void free_job(struct engine_job *job) {
    for (; job->count > 0; job->count--) {
        engine_event_destroy(job->events[job->head]);
        job->head = (job->head + 1) % (ENGINE_JOB_EVENTS_MAX + 1);
    }
    free(job);
}

static void *run(void *user) {
    struct engine *engine = user;
    pthread_mutex_lock(&engine->lock);
    for (;;) {
        int running = 0, live = 0;
        for (struct engine_job **link = &engine->jobs, *job; (job = *link);) {
            if (!job->ended && !job->released) running++;
            if (running <= engine->sequences_max || job->cancelled || engine->stop) step(job);
            if (job->released) {
                *link = job->next;
                free_job(job);
                continue;
            }
            live += !job->ended;
            link = &job->next;
        }
        engine->stats.steps++;
        engine->stats.running = live < engine->sequences_max ? live : engine->sequences_max;
        engine->stats.waiting = live - engine->stats.running;
        engine->stats.held_up = engine->stats.waiting > 0;
        engine->stats.looks++;
        if (engine->stop && !engine->jobs) break;
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += engine->step_us * 1000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

// ---- What engine.h promises

int engine_open(struct engine **out, const struct engine_options *options, struct error *error) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return error_set_code(error, ERROR_MEMORY);
    const char *step = getenv("STUB_STEP_US");
    engine->step_us = step ? strtol(step, NULL, 10) : STUB_STEP_US;
    engine->sequences_max = options->sequences_max ? options->sequences_max : ENGINE_SEQUENCES_STANDARD;
    engine->queue_max = options->queue_max ? options->queue_max : ENGINE_QUEUE_STANDARD;
    engine->info = (struct engine_info){.model_name = "stub",
                                        .architecture = "stub",
                                        .weights = "f32",
                                        .device = "scripted tokens",
                                        .context_tokens = 100000,
                                        .vocab_size = 256,
                                        .token_bytes_max = 1,
                                        .sequences_max = engine->sequences_max,
                                        .queue_max = engine->queue_max,
                                        .threads = 1,
                                        .kv_tokens = 100000};
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->changed, NULL);
    if (pthread_create(&engine->thread, NULL, run, engine) != 0) {
        free(engine);
        return error_set(error, ERROR_INTERNAL, "no thread");
    }
    *out = engine;
    return 0;
}

void engine_close(struct engine *engine) {
    if (!engine) return;
    pthread_mutex_lock(&engine->lock);
    engine->stop = true;
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
    pthread_join(engine->thread, NULL);
    pthread_cond_destroy(&engine->changed);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

const struct engine_info *engine_info(const struct engine *engine) {
    return &engine->info;
}

void engine_stats(struct engine *engine, struct engine_stats *out) {
    pthread_mutex_lock(&engine->lock);
    *out = engine->stats;
    pthread_mutex_unlock(&engine->lock);
}

void engine_balance(const struct engine *engine, struct engine_balance *out) {
    (void)engine;
    *out = (struct engine_balance){.rows = {1000001, 2000002}, .evenness = 0.75, .busiest = 0.25};
}

void token_list_finish(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

static pthread_mutex_t tokenizing_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t tokenizing_changed = PTHREAD_COND_INITIALIZER;
static bool tokenizing_held;

void stub_engine_hold_tokenizing(bool held) {
    pthread_mutex_lock(&tokenizing_lock);
    tokenizing_held = held;
    pthread_cond_broadcast(&tokenizing_changed);
    pthread_mutex_unlock(&tokenizing_lock);
}

int engine_text_tokens(const struct engine *engine, const char *text, size_t bytes, bool parse_special,
                       struct token_list *out, struct error *error) {
    (void)engine;
    (void)parse_special;
    pthread_mutex_lock(&tokenizing_lock);
    while (tokenizing_held) pthread_cond_wait(&tokenizing_changed, &tokenizing_lock);
    pthread_mutex_unlock(&tokenizing_lock);
    int32_t *ids = realloc(out->ids, (out->count + bytes + 1) * sizeof *ids);
    if (!ids) return error_set_code(error, ERROR_MEMORY);
    out->ids = ids;
    for (size_t i = 0; i < bytes; i++) ids[out->count++] = (unsigned char)text[i];
    out->capacity = out->count;
    return 0;
}

int engine_chat_tokens(const struct engine *engine, const struct chat_message *messages, size_t count,
                       struct token_list *out, struct error *error) {
    for (size_t i = 0; i < count; i++) {
        int code = engine_text_tokens(engine, messages[i].content, messages[i].content_bytes, false, out, error);
        if (code) return code;
    }
    return engine_text_tokens(engine, "\n", 1, false, out, error); // never empty
}

const char *engine_token_text(const struct engine *engine, int32_t id, size_t *bytes) {
    (void)engine;
    (void)id;
    *bytes = 1;
    return "t";
}

static bool contains(const struct engine_request *request, const char *word) {
    size_t length = strlen(word);
    for (size_t at = 0; at + length <= request->prompt_tokens; at++) {
        size_t same = 0;
        while (same < length && request->prompt[at + same] == word[same]) same++;
        if (same == length) return true;
    }
    return false;
}

static void read_name(struct engine_job *job, const struct engine_request *request) {
    size_t at = 0, bytes = 0;
    while (at < request->prompt_tokens && request->prompt[at] != '<') at++;
    for (at++; at < request->prompt_tokens && request->prompt[at] != '>' && bytes < sizeof job->name - 1; at++)
        job->name[bytes++] = (char)request->prompt[at];
}

int engine_submit(struct engine *engine, const struct engine_request *request, struct engine_job **out,
                  struct error *error) {
    if (contains(request, "too-long")) return error_set_code(error, ERROR_CONTEXT_LENGTH);
    struct engine_job *job = calloc(1, sizeof *job);
    if (!job) return error_set_code(error, ERROR_MEMORY);
    job->engine = engine;
    job->tokens_max = request->tokens_max < 0 ? 16 : request->tokens_max;
    job->prompt_tokens = request->prompt_tokens;
    read_name(job, request);
    job->fail_now = contains(request, "fail-now");
    job->fail_later = contains(request, "fail-later");
    job->silent = contains(request, "silent");
    job->together = contains(request, "together");
    job->wake = request->wake;
    job->wake_user = request->wake_user;
    pthread_mutex_lock(&engine->lock);
    int live = 0;
    struct engine_job **link = &engine->jobs;
    for (; *link; link = &(*link)->next) live += !(*link)->ended && !(*link)->released;
    bool full = live >= engine->sequences_max + engine->queue_max;
    if (!full) *link = job;
    pthread_mutex_unlock(&engine->lock);
    if (full) {
        free(job);
        return error_set_code(error, ERROR_BUSY);
    }
    *out = job;
    return 0;
}

struct engine_event *engine_job_next(struct engine_job *job) {
    struct engine_event *event = NULL;
    pthread_mutex_lock(&job->engine->lock);
    if (job->count > 0) {
        event = job->events[job->head];
        job->head = (job->head + 1) % (ENGINE_JOB_EVENTS_MAX + 1);
        job->count--;
    }
    pthread_mutex_unlock(&job->engine->lock);
    return event;
}

void engine_event_destroy(struct engine_event *event) {
    if (!event) return;
    free(event->text);
    free(event->tokens);
    free(event);
}

bool engine_job_awaits_reader(struct engine_job *job) {
    pthread_mutex_lock(&job->engine->lock);
    bool awaits = job->count == ENGINE_JOB_EVENTS_MAX && !job->ended;
    pthread_mutex_unlock(&job->engine->lock);
    return awaits;
}

void engine_job_cancel(struct engine_job *job) {
    pthread_mutex_lock(&job->engine->lock);
    job->cancelled = true;
    pthread_cond_broadcast(&job->engine->changed);
    pthread_mutex_unlock(&job->engine->lock);
}

void engine_job_release(struct engine_job *job) {
    if (!job) return;
    struct engine *engine = job->engine;
    pthread_mutex_lock(&engine->lock);
    job->cancelled = job->ended = true; // so that no event and no wake call follow
    while (job->waking) pthread_cond_wait(&engine->changed, &engine->lock);
    job->released = true; // the engine's thread frees it
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->lock);
}

const char *finish_reason_text(enum finish_reason reason) {
    return reason == FINISH_STOP ? "stop" : "length";
}

const char *weight_format_name(enum weight_format format) {
    return WEIGHT_NAMES[format];
}

bool weight_format_parse(const char *name, enum weight_format *out) {
    *out = strcmp(name, "bf16") == 0 ? WEIGHTS_BF16 : WEIGHTS_F32;
    return true;
}
