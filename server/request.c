#include "server/request.h"

#include "api/endpoint.h"
#include "api/sse.h"
#include "base/clock.h"
#include "server/access_log.h"
#include "server/admit.h"
#include "server/client.h"
#include "server/metrics.h"
#include "server/stream.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TICK_MS = 250,
    PUMPED_A_TURN_MAX = 64, // when a thousand streams get a token at once, /health still goes in between
};

struct request {                  // one that generates
    struct request *next, **link; // in requests->live
    struct requests *requests;
    struct exchange *exchange; // NULL once it has finished
    const struct generation_kind *kind;
    uint64_t key; // the number of the API key; 0 where there are none
    uint64_t asker;
    struct buffer body;

    bool parsing;          // a thread of the pool works on it: `parsed` is that thread's until it is done
    atomic_bool abandoned; // nobody waits for the result any more
    struct {
        int code;
        struct generation *generation;
        struct error error;
    } parsed;
    struct generation *generation;
    struct engine_job **jobs; // [job_count]; NULL: not submitted or ended
    double *told_seconds;     // [job_count]: when its last token was passed on; 0: none was
    size_t job_count;
    bool first_told; // a token was passed on
    char client[LISTENER_PEER_BYTES];

    struct stream stream;
    bool answered, streaming; // the answer has begun; it is a stream
    bool cancelled;           // by a DELETE, once: it ends as soon as its turn comes
    struct error failure;     // of a job, before the answer began

    atomic_bool woken;          // it is in requests->woken or ->pending
    struct request *next_woken; // belongs to who set `woken`, then to the loop thread
};

struct requests {
    struct requests_options options;
    struct api_context context;
    const struct exchange *asking; // who is answered at once now, and his API key: for `cancel`
    uint64_t asking_key;
    struct request *live;
    size_t body_bytes; // memory of all the bodies that wait to be parsed
    struct loop_wake *wake;
    struct loop_timer *tick;
    uint64_t looks_told;                    // the engine's, when others were last said to be held up
    _Atomic(struct request *) woken;        // a stack: the engine pushes, the loop takes all
    struct request *pending, **pending_end; // a queue: taken off the stack, to be pumped
};

// ---- Life of a request

// Whoever asks: by the API key, or where there are none by the address.
static uint64_t asker_of(uint64_t key, const char *client) {
    return key ? key : client_number(client);
}

static struct request *request_create(struct requests *requests, struct exchange *exchange,
                                      const struct generation_kind *kind, uint64_t key) {
    struct request *request = calloc(1, sizeof *request);
    if (!request) return NULL;
    request->requests = requests;
    request->exchange = exchange;
    request->kind = kind;
    http_client(exchange, request->client); // while it is there
    request->key = key;
    request->asker = asker_of(key, request->client);
    stream_init(&request->stream, loop_now_ms(requests->options.loop));
    request->next = requests->live;
    request->link = &requests->live;
    if (request->next) request->next->link = &request->next;
    requests->live = request;
    exchange->user = request;
    return request;
}

// Frees it unless someone still holds it: the exchange, the pool, or the stack of the woken.
static void release(struct request *request) {
    if (request->exchange || request->parsing || atomic_load(&request->woken)) return;
    *request->link = request->next;
    if (request->next) request->next->link = request->link;
    stream_finish(&request->stream);
    buffer_finish(&request->body);
    generation_destroy(request->generation);
    free(request->jobs);
    free(request->told_seconds);
    free(request);
}

static void release_jobs(struct request *request) {
    for (size_t i = 0; i < request->job_count; i++) {
        engine_job_release(request->jobs[i]); // cancels what runs
        request->jobs[i] = NULL;
    }
}

// ---- Answers

// In milliseconds, of an answer that is whole: where the time went.
static void note_timing(struct request *request) {
    if (!request->generation || !generation_complete(request->generation) || request->failure.code) return;
    struct generation_summary sum = generation_summary(request->generation);
    snprintf(request->exchange->timing, HTTP_TIMING_BYTES, "queue;dur=%.1f, prompt;dur=%.1f, decode;dur=%.1f, ",
             sum.queue_seconds * 1e3, sum.prompt_seconds * 1e3, sum.decode_seconds * 1e3);
}

static void reply_error(struct exchange *exchange, const struct error *error, const char *allow) {
    if (api_error_status(error->code) >= 500) log_about(LOG_WARNING, exchange->id, "%s", error->message);
    http_reply_error(exchange, error, allow);
}

static void begin_stream(struct request *request) {
    request->answered = request->streaming = true;
    http_stream(request->exchange, SSE_CONTENT_TYPE);
}

// Ends it for a reason from outside its jobs.
static void fail(struct request *request, const struct error *error) {
    release_jobs(request);
    if (request->streaming) {
        generation_fail(request->generation, error, &request->stream.out);
        http_wake(request->exchange);
    } else if (!request->answered) {
        request->answered = true;
        reply_error(request->exchange, error, NULL);
    }
}

// Sends on what the events have added.
static void settle(struct request *request) {
    bool complete = generation_complete(request->generation);
    if (complete) release_jobs(request);
    if (request->streaming) {
        if (complete || stream_bytes(&request->stream) > 0) http_wake(request->exchange);
    } else if (request->failure.code) { // while the status is still ours to choose
        request->answered = true;
        reply_error(request->exchange, &request->failure, NULL);
    } else if (generation_streams(request->generation)) {
        if (complete || stream_bytes(&request->stream) > 0) begin_stream(request);
    } else if (complete) {
        struct api_reply reply;
        api_reply_init(&reply);
        generation_result(request->generation, &reply);
        request->answered = true;
        note_timing(request);
        http_reply(request->exchange, &reply, NULL);
    }
}

// ---- Events of the engine

// Several tokens at once have taken an equal share of the time each.
static void note_tokens(struct request *request, size_t job, int tokens) {
    struct metrics *metrics = request->requests->options.metrics;
    double now = clock_seconds(), last = request->told_seconds[job];
    metrics_add(metrics, METRIC_COMPLETION_TOKENS, tokens);
    if (!request->first_told) metrics_observe(metrics, METRIC_FIRST_TOKEN, now - request->exchange->started_seconds, 1);
    if (last > 0) metrics_observe(metrics, METRIC_BETWEEN_TOKENS, (now - last) / tokens, (uint64_t)tokens);
    request->first_told = true;
    request->told_seconds[job] = now;
}

static void take_event(struct request *request, size_t job, struct engine_event *event) {
    if (event->type == ENGINE_EVENT_ERROR && !request->failure.code) request->failure = event->error;
    bool last = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
    if (event->type == ENGINE_EVENT_TEXT && event->token_count > 0) note_tokens(request, job, event->token_count);
    if (event->type == ENGINE_EVENT_DONE)
        metrics_observe(request->requests->options.metrics, METRIC_QUEUE_SECONDS, event->usage.queue_seconds, 1);
    generation_event(request->generation, job, event, &request->stream.out);
    engine_event_destroy(event);
    if (!last) return;
    engine_job_release(request->jobs[job]);
    request->jobs[job] = NULL;
}

static void pump(struct request *request) {
    if (!request->generation || generation_complete(request->generation)) return;
    request->stream.stalled = false;
    for (size_t job = 0; job < request->job_count; job++)
        while (request->jobs[job] && !generation_complete(request->generation)) {
            if (stream_full(&request->stream)) {
                request->stream.stalled = true; // no wake comes for what is left: the reader comes back for it
                break;
            }
            struct engine_event *event = engine_job_next(request->jobs[job]);
            if (!event) break;
            take_event(request, job, event);
        }
    settle(request);
}

// From any thread, the engine's above all: puts the request on the stack, once.
static void wake(void *user) {
    struct request *request = user;
    struct requests *requests = request->requests;
    if (atomic_exchange(&request->woken, true)) return;
    struct request *top = atomic_load(&requests->woken);
    do request->next_woken = top;
    while (!atomic_compare_exchange_weak(&requests->woken, &top, request));
    if (!top) loop_wake_send(requests->wake);
}

// A DELETE has named it.
static void end_cancelled(struct request *request) {
    struct error error;
    request->abandoned = true; // its body need not be parsed any more
    error_set(&error, ERROR_CANCELLED, "a DELETE request has ended this answer");
    fail(request, &error);
}

// Moves the stack behind the queue, the first to be pushed first.
static void queue_woken(struct requests *requests) {
    struct request *reversed = NULL, *next;
    for (struct request *request = atomic_exchange(&requests->woken, NULL); request; request = next) {
        next = request->next_woken;
        request->next_woken = reversed;
        reversed = request;
    }
    *requests->pending_end = reversed;
    while (*requests->pending_end) requests->pending_end = &(*requests->pending_end)->next_woken;
}

static void take_woken(void *user) {
    struct requests *requests = user;
    queue_woken(requests);
    for (int i = 0; requests->pending && i < PUMPED_A_TURN_MAX; i++) {
        struct request *request = requests->pending;
        requests->pending = request->next_woken;
        if (!requests->pending) requests->pending_end = &requests->pending;
        atomic_store(&request->woken, false); // from here on it may be pushed again
        if (!request->exchange || request->exchange->failed)
            release(request);
        else if (request->cancelled)
            end_cancelled(request);
        else
            pump(request);
    }
    if (requests->pending && requests->wake) loop_wake_send(requests->wake);
}

// ---- From the body to the jobs

static void submit(struct request *request) {
    struct requests *requests = request->requests;
    struct error error;
    size_t count = generation_jobs(request->generation);
    request->jobs = calloc(count, sizeof *request->jobs);
    request->told_seconds = calloc(count, sizeof *request->told_seconds);
    if (!request->jobs || !request->told_seconds) {
        error_set_code(&error, ERROR_MEMORY);
        fail(request, &error);
        return;
    }
    request->job_count = count;
    for (size_t i = 0; i < count; i++) {
        struct engine_request job;
        generation_job(request->generation, i, &job);
        job.salt = request->key;
        job.client = request->asker;
        job.wake = wake;
        job.wake_user = request;
        error = (struct error){0};
        if (engine_submit(requests->options.engine, &job, &request->jobs[i], &error) != 0) {
            request->jobs[i] = NULL;
            generation_name_field(request->generation, &error);
            fail(request, &error);
            return;
        }
    }
    size_t prompt_tokens = generation_summary(request->generation).prompt_tokens;
    metrics_add(requests->options.metrics, METRIC_PROMPT_TOKENS, (double)prompt_tokens);
}

static void drop_body(struct request *request) {
    request->requests->body_bytes -= request->body.capacity;
    buffer_finish(&request->body);
}

static void parse(void *user) { // on the pool
    struct request *request = user;
    if (atomic_load(&request->abandoned)) {
        request->parsed.code = ERROR_CANCELLED;
        return;
    }
    const char *body = request->body.data ? request->body.data : "";
    request->parsed.code = generation_parse(request->kind, request->requests->options.engine, body, request->body.bytes,
                                            &request->parsed.generation, &request->parsed.error);
}

static void parsed(void *user) {
    struct request *request = user;
    request->parsing = false;
    drop_body(request);
    if (request->parsed.code == 0) request->generation = request->parsed.generation;
    if (!request->exchange) {
        release(request);
    } else if (request->exchange->failed || request->answered || request->cancelled) {
        return; // it is on its way out
    } else if (request->parsed.code) {
        request->answered = true;
        reply_error(request->exchange, &request->parsed.error, NULL);
    } else {
        submit(request);
    }
}

// ---- From another connection

static bool bears(const struct request *request, const char *id) {
    return strcmp(request->exchange->id, id) == 0 ||
           (request->generation && strcmp(generation_id(request->generation), id) == 0);
}

// They end in the loop's next turn, and not under the feet of whoever asks for it.
static bool cancel(void *user, const struct generation_kind *kind, const char *id) {
    struct requests *requests = user;
    char client[LISTENER_PEER_BYTES];
    bool found = false;
    http_client(requests->asking, client);
    uint64_t asker = asker_of(requests->asking_key, client);
    for (struct request *request = requests->live; request; request = request->next) {
        if (request->asker != asker || request->kind != kind || request->cancelled) continue;
        if (!request->exchange || request->exchange->failed) continue;
        if (!bears(request, id) || (request->answered && !request->streaming)) continue;
        if (request->generation && generation_complete(request->generation)) continue;
        request->cancelled = found = true;
        wake(request);
    }
    return found;
}

// ---- What http tells

static void on_header(void *user, struct exchange *exchange) {
    struct requests *requests = user;
    struct route route = {0};
    struct error error = {0};
    size_t key;
    const struct admit_rules rules = {
        .keys = requests->options.keys,
        .local_host = requests->options.local_host,
        .shutting_down = requests->context.shutting_down,
    };
    int code = admit(&rules, exchange, &route, &key, &error);
    if (code == ERROR_METHOD && http_preflight(exchange)) return;
    if (code) {
        reply_error(exchange, &error, code == ERROR_METHOD ? route.allow : NULL);
    } else if (route.endpoint->answer) {
        struct api_reply reply;
        api_reply_init(&reply);
        requests->asking = exchange;
        requests->asking_key = key;
        route.endpoint->answer(&requests->context, route.parameter, &reply);
        http_reply(exchange, &reply, NULL);
    } else if (!request_create(requests, exchange, route.endpoint->generation, key)) {
        error_set_code(&error, ERROR_MEMORY);
        reply_error(exchange, &error, NULL);
    }
}

static void on_request(void *user, struct exchange *exchange) {
    struct requests *requests = user;
    struct request *request = exchange->user;
    struct error error;
    if (request->cancelled) return; // it is on its way out
    http_take_body(exchange, &request->body);
    requests->body_bytes += request->body.capacity;
    metrics_add(requests->options.metrics, METRIC_BODY_BYTES, (double)request->body.bytes);
    if (requests->body_bytes > requests->options.body_bytes_max) {
        drop_body(request);
        error_set_code(&error, ERROR_BUSY);
        fail(request, &error);
        return;
    }
    request->parsing = true;
    if (loop_work(requests->options.loop, parse, parsed, request) == 0) return;
    request->parsing = false;
    drop_body(request);
    error_set_code(&error, ERROR_MEMORY);
    fail(request, &error);
}

static ssize_t on_read(void *user, struct exchange *exchange, char *out, size_t bytes_max) {
    struct requests *requests = user;
    struct request *request = exchange->user;
    size_t bytes = stream_read(&request->stream, out, bytes_max, loop_now_ms(requests->options.loop));
    if (request->stream.stalled && stream_has_room(&request->stream)) pump(request);
    if (bytes > 0) return (ssize_t)bytes;
    if (stream_bytes(&request->stream) > 0)
        return (ssize_t)stream_read(&request->stream, out, bytes_max, loop_now_ms(requests->options.loop));
    if (request->stream.out.failed) return HTTP_READ_FAILED;
    return generation_complete(request->generation) ? HTTP_READ_END : HTTP_READ_LATER;
}

// One that is complete and not yet read holds no place.
static bool is_behind(void *user, struct exchange *exchange) {
    (void)user;
    const struct request *request = exchange->user;
    for (size_t i = 0; request && i < request->job_count; i++)
        if (request->jobs[i] && engine_job_awaits_reader(request->jobs[i])) return true;
    return false;
}

// Once for each time that the engine has looked who can be let in: what is given up now is seen the next time.
static bool are_held_up(void *user) {
    struct requests *requests = user;
    struct engine_stats stats;
    engine_stats(requests->options.engine, &stats);
    if (!stats.held_up || stats.looks == requests->looks_told) return false;
    requests->looks_told = stats.looks;
    return true;
}

static void on_gone(void *user, struct exchange *exchange) {
    (void)user;
    struct request *request = exchange->user;
    if (!request) return;
    atomic_store(&request->abandoned, true);
    release_jobs(request); // at once, not only when the connection has been taken down
}

// 499 is what proxies log for a client that left before it was answered.
static int status_of(const struct exchange *exchange) {
    return exchange->status ? exchange->status : api_error_status(ERROR_CANCELLED);
}

static void log_end(const struct exchange *exchange, const struct generation_summary *summary, double seconds) {
    const struct request *request = exchange->user;
    enum log_level level = request || status_of(exchange) >= 400 ? LOG_INFO : LOG_DEBUG;
    if (!log_enabled(level)) return;
    enum error_code cause = exchange->cause ? exchange->cause : summary ? summary->error.code : ERROR_NONE;
    char client[LISTENER_PEER_BYTES];
    http_client(exchange, client);
    struct access access = {
        .method = exchange->method,
        .target = exchange->target,
        .route = exchange->endpoint ? exchange->endpoint->path : NULL,
        .request_id = exchange->id,
        .client = request ? request->client : client,
        .status = status_of(exchange),
        .cause = cause ? api_error_name(cause) : NULL,
        .param = exchange->cause_param,
        .failed = exchange->failed,
        .seconds = seconds,
        .generation_id = summary ? generation_id(request->generation) : NULL,
        .summary = summary,
    };
    access_log(level, &access);
}

static enum metric_outcome outcome_of(const struct exchange *exchange, const struct generation_summary *summary) {
    enum error_code cause = exchange->cause ? exchange->cause : summary->error.code;
    if (cause == ERROR_CANCELLED || (!cause && exchange->failed)) return OUTCOME_CANCELLED;
    if (cause) return api_error_status(cause) < 500 ? OUTCOME_REFUSED : OUTCOME_ERROR;
    return strcmp(summary->finish, finish_reason_text(FINISH_STOP)) == 0 ? OUTCOME_STOP : OUTCOME_LENGTH;
}

static void count_generation(struct request *request, const struct generation_summary *summary) {
    struct metrics *metrics = request->requests->options.metrics;
    enum metric_outcome outcome = outcome_of(request->exchange, summary);
    metrics_count_generation(metrics, outcome);
    if (outcome == OUTCOME_STOP || outcome == OUTCOME_LENGTH)
        metrics_observe(metrics, METRIC_GENERATION_SECONDS, clock_seconds() - request->exchange->started_seconds, 1);
}

static void on_finished(void *user, struct exchange *exchange) {
    struct requests *requests = user;
    struct request *request = exchange->user;
    struct generation_summary summary;
    bool generates = request && request->generation;
    if (generates) {
        summary = generation_summary(request->generation);
        count_generation(request, &summary);
    }
    metrics_count_request(requests->options.metrics, exchange->endpoint, status_of(exchange));
    log_end(exchange, generates ? &summary : NULL, clock_seconds() - exchange->started_seconds);
    if (!request) return;
    atomic_store(&request->abandoned, true);
    release_jobs(request);
    request->exchange = NULL;
    release(request);
}

static void on_refused(void *user, const struct listener_refused *refused) {
    struct requests *requests = user;
    metrics_count_request(requests->options.metrics, NULL, refused->status);
    struct access access = {
        .refusal = refused->error->message,
        .request_id = refused->request_id,
        .client = refused->client,
        .status = refused->status,
        .cause = api_error_name(refused->error->code),
    };
    access_log(LOG_INFO, &access);
}

// ---- All of them

// A stream that has been silent for long gets a comment: the client and all between see that it lives.
static void on_tick(void *user) {
    struct requests *requests = user;
    uint64_t now = loop_now_ms(requests->options.loop);
    for (struct request *request = requests->live; request; request = request->next) {
        if (!request->exchange || request->exchange->failed || request->job_count == 0) continue;
        if (request->answered && !request->streaming) continue;
        if (!generation_streams(request->generation) || generation_complete(request->generation)) continue;
        if (stream_bytes(&request->stream) > 0) continue;
        if (now - request->stream.sent_ms < requests->options.heartbeat_ms) continue;
        buffer_text(&request->stream.out, SSE_HEARTBEAT);
        settle(request);
    }
}

int requests_create(struct requests **out, const struct requests_options *options, struct error *error) {
    struct requests *requests = calloc(1, sizeof *requests);
    if (!requests) return error_set_code(error, ERROR_MEMORY);
    requests->options = *options;
    requests->context = (struct api_context){
        .engine = options->engine,
        .write_metrics = options->write_metrics,
        .write_metrics_user = options->write_metrics_user,
        .cancel = cancel,
        .cancel_user = requests,
    };
    requests->pending_end = &requests->pending;
    requests->wake = loop_wake_create(options->loop, take_woken, requests);
    requests->tick = loop_timer_create(options->loop, on_tick, requests);
    if (!requests->wake || !requests->tick) {
        requests_stop(requests);
        requests_destroy(requests);
        return error_set_code(error, ERROR_MEMORY);
    }
    loop_timer_start(requests->tick, TICK_MS, TICK_MS);
    *out = requests;
    return 0;
}

struct http_handler requests_handler(struct requests *requests) {
    return (struct http_handler){
        .header = on_header,
        .request = on_request,
        .read = on_read,
        .behind = is_behind,
        .held_up = are_held_up,
        .gone = on_gone,
        .finished = on_finished,
        .refused = on_refused,
        .user = requests,
    };
}

void requests_refuse_new(struct requests *requests) {
    requests->context.shutting_down = true;
}

size_t requests_body_memory(const struct requests *requests) {
    return requests->body_bytes;
}

void requests_fail(struct requests *requests, const struct error *error) {
    for (struct request *request = requests->live; request; request = request->next) {
        if (request->exchange && !request->exchange->failed) fail(request, error);
    }
}

void requests_stop(struct requests *requests) {
    if (!requests) return;
    loop_wake_destroy(requests->wake);
    loop_timer_destroy(requests->tick);
    requests->wake = NULL;
    requests->tick = NULL;
}

void requests_destroy(struct requests *requests) {
    if (!requests) return;
    do take_woken(requests); // frees those that only the stack or the queue still held
    while (requests->pending);
    free(requests);
}
