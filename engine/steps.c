// The engine thread: it opens the devices, runs the step loop, and closes them.
//
// The life of a job. engine_submit checks the request (admission.c), makes a sequence of it with all that it will
// need (sequence.c) and puts it at the end of the waiting line; the caller gets the job (job.c), which both sides
// share. The engine thread does the rest, in rounds:
//
//   1. sequences whose job was cancelled end, waiting or running, and their pages are free again;
//   2. the head of the line is admitted while a place is free and the KV pages that it can need at most are not
//      promised to others. So what was admitted never runs out of pages half-way. While the head does not fit,
//      others behind it that do may go first, but only sequences_max of them: then the line waits with it, and
//      it is admitted as soon as enough of those that run have ended;
//   3. the scheduler names the next step (scheduler.c): a chunk of one prompt, or one token for all that decode;
//   4. the step becomes a batch (batch.h), the model's forward pass runs, and each sequence gets its logits,
//      chooses its token and posts an event to its job. A sequence whose reader is behind is left out;
//   5. a sequence that is finished or has failed gives its pages back and posts its last event.
//
// With nothing to do it sleeps until the bell rings. A request without a limit of its own (tokens_max -1) reserves
// the rest of the context, which is why the KV cache is by default as large as all sequences can need together,
// unless that is more than a quarter of the memory that is free. In a cache of one context such a request runs
// alone, and nobody can overtake it: no page is left that is not promised.
#include "engine/engine_private.h"

#include "base/clock.h"

#include <string.h>

// ---- Ends

// The place is free, and anybody who looks at the statistics sees so, before the job hears of its end.
static void end_running(struct engine *engine, int place, const struct error *error) {
    struct sequence *sequence = engine->places[place];
    sequence_give_pages(sequence, &engine->cache);
    engine->pages_reserved -= sequence->pages_max;
    engine->places[place] = NULL;

    pthread_mutex_lock(&engine->lock);
    engine->stats.running--;
    engine->stats.kv_pages_used = (size_t)engine->cache.pages_used;
    pthread_mutex_unlock(&engine->lock);

    struct engine_usage usage = sequence_usage(sequence);
    job_end(sequence->job, sequence->finish, &usage, error);
    sequence_destroy(sequence);
}

static void end_waiting(struct sequence *sequence, const struct error *error) {
    struct engine_usage usage = sequence_usage(sequence);
    job_end(sequence->job, FINISH_STOP, &usage, error);
    sequence_destroy(sequence);
}

// Takes those out of the line whose job was cancelled, or all of them, and ends them.
static void end_line(struct engine *engine, bool all, const struct error *error) {
    struct sequence *leaving = NULL, *next;
    pthread_mutex_lock(&engine->lock);
    int length = engine->stats.waiting;
    engine->stats.waiting = 0;
    for (int i = 0; i < length; i++) {
        struct sequence *sequence = engine->waiting[i];
        if (all || job_is_cancelled(sequence->job)) {
            sequence->next_leaving = leaving;
            leaving = sequence;
        } else {
            engine->waiting[engine->stats.waiting++] = sequence;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    for (; leaving; leaving = next) {
        next = leaving->next_leaving;
        end_waiting(leaving, error);
    }
}

static void end_cancelled(struct engine *engine) {
    struct error error;
    error_set_code(&error, ERROR_CANCELLED);
    end_line(engine, false, &error);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i] && job_is_cancelled(engine->places[i]->job)) end_running(engine, i, &error);
}

static void end_all(struct engine *engine) {
    struct error error;
    error_set_code(&error, ERROR_SHUTDOWN);
    end_line(engine, true, &error);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i]) end_running(engine, i, &error);
}

// ---- Admission to the steps

static int find_free_place(const struct engine *engine) {
    for (int i = 0; i < engine->sequences_max; i++)
        if (!engine->places[i]) return i;
    return -1;
}

// Who is next, as a place in the line: the first whose pages can be promised, but not past a head that has been
// overtaken often enough. -1: nobody. With the lock held.
static int find_next(const struct engine *engine) {
    int pages = engine->cache.pages - engine->pages_reserved, length = engine->stats.waiting;
    if (length > 0 && engine->waiting[0]->overtaken == engine->sequences_max) length = 1;
    for (int i = 0; i < length; i++)
        if (engine->waiting[i]->pages_max <= pages) return i;
    return -1;
}

// Takes the next sequence out of the line; NULL: none can run now.
static struct sequence *take_next(struct engine *engine) {
    struct sequence *next = NULL;
    pthread_mutex_lock(&engine->lock);
    int at = find_next(engine);
    if (at >= 0) {
        struct sequence **from = engine->waiting + at;
        next = *from;
        if (at > 0) engine->waiting[0]->overtaken++;
        engine->stats.waiting--;
        engine->stats.running++;
        memmove(from, from + 1, (size_t)(engine->stats.waiting - at) * sizeof *from);
    }
    pthread_mutex_unlock(&engine->lock);
    return next;
}

static void admit(struct engine *engine) {
    for (int place; (place = find_free_place(engine)) >= 0;) {
        struct sequence *sequence = take_next(engine);
        if (!sequence) return;
        sequence->admitted_at = clock_seconds();
        engine->pages_reserved += sequence->pages_max;
        engine->places[place] = sequence;
    }
}

static struct schedule plan(struct engine *engine) {
    for (int i = 0; i < engine->sequences_max; i++) {
        struct sequence *sequence = engine->places[i];
        engine->shown[i] = (struct scheduler_sequence){.paused = true};
        if (!sequence) continue;
        engine->shown[i].prompt_left = sequence_prompt_left(sequence);
        engine->shown[i].paused = job_is_paused(sequence->job);
    }
    return scheduler_next(&engine->scheduler, engine->shown, (size_t)engine->sequences_max);
}

// ---- Steps

static void run_forward(struct engine *engine, const struct batch *batch) {
    pthread_mutex_lock(&engine->lock);
    engine->step_started_at = clock_seconds();
    engine->stats.kv_pages_used = (size_t)engine->cache.pages_used;
    pthread_mutex_unlock(&engine->lock);

    if (engine->profile) profile_begin(engine->profile, batch);
    forward_run(engine->forward, batch, &engine->cache, engine->logits);
    if (engine->profile) profile_end(engine->profile);

    pthread_mutex_lock(&engine->lock);
    engine->step_started_at = 0;
    engine->stats.steps++;
    pthread_mutex_unlock(&engine->lock);
}

// The pages that a sequence's next positions need. The reservation makes sure of them: failing is a bug, and ends
// this sequence alone.
static bool take_pages(struct engine *engine, int place, int positions) {
    if (sequence_take_pages(engine->places[place], &engine->cache, positions)) return true;
    struct error error;
    error_set(&error, ERROR_INTERNAL, "the KV cache has fewer free pages than were reserved");
    end_running(engine, place, &error);
    return false;
}

// A sequence's part of a step is over: it is counted, and the sequence ends where it has failed or is finished.
static void conclude(struct engine *engine, int place, size_t prompt_tokens, size_t completion_tokens, int code,
                     const struct error *error) {
    pthread_mutex_lock(&engine->lock);
    engine->stats.prompt_tokens += prompt_tokens;
    engine->stats.completion_tokens += completion_tokens;
    pthread_mutex_unlock(&engine->lock);
    if (code || engine->places[place]->finished) end_running(engine, place, code ? error : NULL);
}

static void prefill_step(struct engine *engine, int place, int rows) {
    struct sequence *sequence = engine->places[place];
    if (sequence->prompt_logprobs && rows > engine->outputs_max) rows = engine->outputs_max;
    if (!take_pages(engine, place, rows)) return;

    bool completes = (size_t)rows == sequence_prompt_left(sequence);
    int outputs = sequence->prompt_logprobs ? rows : completes ? 1 : 0;
    for (int i = 0; i < rows; i++) engine->position[i] = (int32_t)sequence->computed + i;
    for (int i = 0; i < outputs; i++) engine->output[i] = rows - outputs + i;
    engine->run[0] = (struct batch_sequence){
        .first = 0, .count = rows, .position = (int)sequence->computed, .pages = sequence->pages};
    run_forward(engine, &(struct batch){.tokens = rows,
                                        .token = sequence->prompt + sequence->computed,
                                        .position = engine->position,
                                        .sequences = 1,
                                        .sequence = engine->run,
                                        .outputs = outputs,
                                        .output = engine->output});

    struct error error;
    int code = sequence_prefilled(sequence, rows, engine->logits, &error);
    conclude(engine, place, (size_t)rows, sequence->generated, code, &error);
}

// Runs the rows that decode_step has gathered, and gives each sequence its logits.
static void decode_rows(struct engine *engine, int rows) {
    if (rows == 0) return;
    run_forward(engine, &(struct batch){.tokens = rows,
                                        .token = engine->token,
                                        .position = engine->position,
                                        .sequences = rows,
                                        .sequence = engine->run,
                                        .outputs = rows,
                                        .output = engine->output});

    for (int row = 0; row < rows; row++) {
        int place = engine->place_of[row];
        struct sequence *sequence = engine->places[place];
        size_t generated = sequence->generated;
        struct error error;
        int code = sequence_decoded(sequence, engine->logits + (size_t)row * (size_t)engine->sequence_model.vocab_size,
                                    &error);
        conclude(engine, place, 0, sequence->generated - generated, code, &error);
    }
}

// One token for every sequence that decodes; STAGE_STEADY_ROWS of them at a time.
static void decode_step(struct engine *engine) {
    int rows = 0;
    for (int i = 0; i < engine->sequences_max; i++) {
        if (engine->shown[i].paused || engine->shown[i].prompt_left > 0 || !take_pages(engine, i, 1)) continue;
        const struct sequence *sequence = engine->places[i];
        engine->place_of[rows] = i;
        engine->token[rows] = sequence->newest;
        engine->position[rows] = (int32_t)sequence->computed;
        engine->output[rows] = rows;
        engine->run[rows] = (struct batch_sequence){
            .first = rows, .count = 1, .position = (int)sequence->computed, .pages = sequence->pages};
        if (++rows < STAGE_STEADY_ROWS) continue;
        decode_rows(engine, rows);
        rows = 0;
    }
    decode_rows(engine, rows);
}

static bool is_closing(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool closing = engine->closing;
    pthread_mutex_unlock(&engine->lock);
    return closing;
}

static void measure(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct engine_measurement *wanted = engine->measurement;
    engine->measurement = NULL;
    pthread_mutex_unlock(&engine->lock);
    if (!wanted) return;
    if (engine->stages->measure)
        engine->stages->measure(engine->stages_state, engine->weights, wanted->memory, wanted->bytes, wanted->out);
    job_bell_ring(&engine->measured);
}

// Tells whoever watches of what has run since the last time, if anything has.
static void show_step(struct engine *engine, double began_at, bool prefill) {
    const struct engine_step *step = profile_step(engine->profile, clock_seconds() - began_at, prefill);
    if (step) engine->watch(engine->watch_user, step);
}

static void run_steps(struct engine *engine) {
    while (!is_closing(engine)) {
        measure(engine);
        double began_at = clock_seconds();
        end_cancelled(engine);
        admit(engine);
        struct schedule next = plan(engine);
        switch (next.kind) {
        case SCHEDULE_NOTHING:
            job_bell_wait(&engine->bell);
            break;
        case SCHEDULE_PREFILL:
            prefill_step(engine, (int)next.sequence, next.tokens);
            break;
        case SCHEDULE_DECODE:
            decode_step(engine);
            break;
        }
        if (engine->profile) show_step(engine, began_at, next.kind == SCHEDULE_PREFILL);
    }
    end_all(engine);
}

// ---- The thread

static int open_devices(struct engine *engine, struct error *error) {
    const struct model_config *config = &engine->model->config;
    struct stage_limits limits = {
        .tokens_max = engine->rows_max,
        .sequences_max = engine->sequences_max < STAGE_STEADY_ROWS ? engine->sequences_max : STAGE_STEADY_ROWS,
        .context_max = config->context,
        .hidden = config->hidden,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .intermediate = config->intermediate,
        .experts = config->experts,
        .vocab = config->vocab,
        .threads = engine->threads,
        .kernels = engine->kernels,
    };
    int code = engine->stages->open(&engine->stages_state, &limits, error);
    if (code) return code;
    const struct stages *stages = engine->stages;
    void *state = engine->stages_state;
    if (engine->watch) {
        code = profile_create(&engine->profile, stages, state, &limits, error);
        if (code) return code;
        stages = &profile_stages;
        state = engine->profile;
    }
    return forward_create(&engine->forward, engine->model, stages, state, engine->rows_max, engine->outputs_max, error);
}

void *engine_run(void *argument) {
    struct engine *engine = argument;
    int code = open_devices(engine, &engine->open_error);
    if (!code) engine->info.device = engine->stages->describe(engine->stages_state);
    job_bell_ring(&engine->opened); // engine_open goes on
    if (!code) run_steps(engine);
    forward_destroy(engine->forward);
    profile_destroy(engine->profile);
    engine->stages->close(engine->stages_state);
    return NULL;
}
