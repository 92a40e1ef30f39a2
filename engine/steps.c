// The engine thread: it opens the devices, runs the step loop, and closes them.
//
// The life of a job. engine_submit checks the request (admission.c), makes a sequence of it with all that it will
// need (sequence.c) and puts it at the end of the waiting line; the caller gets the job (job.c), which both sides
// share. The engine thread does the rest, in rounds:
//
//   1. sequences whose job was cancelled end, waiting or running, and their pages are free again; so do those that have
//      waited too long;
//   2. while a place is free, the line (line.c) admits one of those whose pages are sure, all that it can need at most:
//      the first one of whoever has the fewest running. The head of the line is passed over like this sequences_max
//      times at most: then the line waits with it, and it is admitted as soon as enough of those that run have ended;
//   3. each prompt takes over what others have computed of it (prefix_cache.c), or waits for one that is about to;
//   4. the scheduler names the next step (scheduler.c): one token for all that decode, and a chunk of the prompts. The
//      first step after a rest may be put off for a moment, so that prompts that are sent together go together;
//   5. where it pays, tokens of answers are guessed (speculate.c), to be computed behind the one that is sure;
//   6. the step becomes a batch (batch.h), the model's forward pass runs, and each sequence gets its logits,
//      chooses its tokens and posts an event for each to its job. A sequence whose reader is behind is left out;
//   7. a sequence that is finished or has failed gives its pages back and posts its last event.
//
// A step that all have left for whom it runs is broken off between two layers: the next round ends them.
//
// With nothing to do it sleeps until the bell rings. A request without a limit of its own (tokens_max -1) reserves
// the rest of the context, which is why the KV cache is by default as large as all sequences can need together,
// unless that is more than a quarter of the memory that is free. In a cache of one context such a request runs
// alone, and nobody can overtake it: no page is left that it can not need.
#include "engine/engine_private.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

// ---- Planning

// Prompts whose log-probabilities are wanted: their rows' logits are held at once, PROMPT_LOGPROB_ROWS in all.
static int count_told_prompts(const struct engine *engine) {
    int count = 0;
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i] && engine->places[i]->prompt_logprobs) count++;
    return count;
}

// Of those that a prompt had better wait for, because they come first to what it begins with too, the first one at a
// place or behind it; -1: there is none.
static int find_leader(const struct engine *engine, const struct sequence *sequence, int place) {
    if (!engine->prefix.enabled || sequence_prompt_left(sequence) == 0) return -1;
    int known = sequence_known_part(sequence, &engine->prefix);
    for (; place < engine->sequences_max; place++)
        if (engine->places[place] && sequence_follows(sequence, engine->places[place], known)) return place;
    return -1;
}

// Takes over what others have computed. False: it waits for one of them.
static bool prepare_prompt(struct engine *engine, struct sequence *sequence) {
    if (sequence_prompt_left(sequence) == 0) return true;
    sequence_reuse_pages(sequence, &engine->prefix);
    if (find_leader(engine, sequence, 0) >= 0) return false;
    sequence_reuse_part(sequence, &engine->prefix);
    return true;
}

// What the client of a prompt has in prompts that can be computed.
static size_t client_left(const struct engine *engine, int place) {
    size_t left = 0;
    for (int i = 0; i < engine->sequences_max; i++)
        if (!engine->shown[i].paused && engine->places[i]->client == engine->places[place]->client)
            left += engine->shown[i].prompt_left;
    return left;
}

// Whom a prompt waits for goes when this one's client would: one question that begins as another client's many do would
// stand behind them all.
static void hurry_leaders(struct engine *engine, int place) {
    const struct sequence *sequence = engine->places[place];
    size_t left = sequence_prompt_left(sequence) + client_left(engine, place);
    for (int i = 0; (i = find_leader(engine, sequence, i)) >= 0; i++)
        if (left < engine->shown[i].client_left) engine->shown[i].client_left = left;
}

// How many rows of each sequence come next, in engine->rows; their sum.
static int plan(struct engine *engine) {
    int told = count_told_prompts(engine);
    int told_rows = told > 0 && told < PROMPT_LOGPROB_ROWS ? PROMPT_LOGPROB_ROWS / told : 1;
    for (int i = 0; i < engine->sequences_max; i++) {
        struct sequence *sequence = engine->places[i];
        engine->shown[i] = (struct scheduler_sequence){.paused = true};
        if (!sequence || job_is_paused(sequence->job) || !prepare_prompt(engine, sequence)) continue;
        engine->shown[i] = (struct scheduler_sequence){.prompt_left = sequence_prompt_left(sequence),
                                                       .rows_max = sequence->prompt_logprobs ? told_rows : 0};
    }
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->shown[i].prompt_left > 0) engine->shown[i].client_left = client_left(engine, i);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i] && engine->shown[i].paused) hurry_leaders(engine, i);
    return scheduler_next(&engine->scheduler, engine->shown, (size_t)engine->sequences_max, engine->rows);
}

static bool decodes(const struct engine *engine, int place) {
    return engine->rows[place] > 0 && engine->places[place] && sequence_prompt_left(engine->places[place]) == 0;
}

// Adds guesses to a step of answers only. Beside a prompt's chunk they are left out: such a step is long enough.
static void guess(struct engine *engine) {
    int count = 0;
    if (!engine->speculates) return;
    for (int i = 0; i < engine->sequences_max; i++) {
        if (!decodes(engine, i)) continue;
        engine->speculators[count] = &engine->places[i]->speculator;
        engine->guess_room[count++] = engine->scheduler.planned > 0 ? 0 : sequence_guess_room(engine->places[i]);
    }
    speculate_plan(&engine->costs, engine->speculators, engine->guess_room, count);
    for (int i = 0; i < engine->sequences_max; i++)
        if (decodes(engine, i)) engine->rows[i] += engine->places[i]->speculator.guesses;
}

// ---- Batches

// The pages that a sequence's next positions need. Admission makes sure of them: failing is a bug, and ends this
// sequence alone.
static bool take_pages(struct engine *engine, int place, int positions) {
    if (sequence_take_pages(engine->places[place], &engine->prefix, positions)) return true;
    struct error error;
    error_set(&error, ERROR_INTERNAL, "the KV cache has fewer free pages than were reserved");
    line_end(engine, place, &error);
    return false;
}

// Adds `count` rows of a sequence to the batch, from a position on. Of the last `outputs` the logits are wanted.
static void add_run(struct engine *engine, struct batch *batch, int place, size_t position, const int32_t *tokens,
                    int count, int outputs) {
    const struct sequence *sequence = engine->places[place];
    int first = batch->tokens;
    for (int i = 0; i < count; i++) {
        engine->token[first + i] = tokens[i];
        engine->position[first + i] = (int32_t)position + i;
    }
    for (int i = count - outputs; i < count; i++) engine->output[batch->outputs++] = first + i;
    engine->place_of[batch->sequences] = place;
    engine->run[batch->sequences++] = (struct batch_sequence){
        .first = first, .count = count, .position = (int)position, .pages = sequence->pages};
    batch->tokens += count;
}

// What a step is made of: rows of answers, of how many, and rows of prompts.
struct step_kind {
    int answers, answer_rows, prompt_rows;
};

static void add_prompt(struct engine *engine, struct batch *batch, int place, int rows, struct step_kind *kind) {
    const struct sequence *sequence = engine->places[place];
    bool completes = (size_t)rows == sequence_prompt_left(sequence);
    add_run(engine, batch, place, sequence->computed, sequence->prompt + sequence->computed, rows,
            sequence->prompt_logprobs ? rows
            : completes               ? 1
                                      : 0);
    batch->brief += sequence->brief ? rows : 0;
    kind->prompt_rows += rows;
}

// The newest token, and those guessed behind it. Each is a run of its own, as one token of an answer always is, so that
// it is computed in the same way as without guesses, to the bit; the keys of those before it are in the cache by then.
static void add_answer(struct engine *engine, struct batch *batch, int place, int rows, struct step_kind *kind) {
    const struct sequence *sequence = engine->places[place];
    add_run(engine, batch, place, sequence->computed, &sequence->newest, 1, 1);
    for (int i = 1; i < rows; i++)
        add_run(engine, batch, place, sequence->computed + (size_t)i, &sequence->speculator.guess[i - 1], 1, 1);
    batch->answers += rows;
    kind->answers++;
    kind->answer_rows += rows;
}

// Answers first, then prompts that are computed in the same arithmetic.
enum order { ORDER_ANSWERS, ORDER_BRIEF_PROMPTS, ORDER_PROMPTS, ORDERS };

static enum order order_of(const struct engine *engine, int place) {
    return decodes(engine, place)         ? ORDER_ANSWERS
           : engine->places[place]->brief ? ORDER_BRIEF_PROMPTS
                                          : ORDER_PROMPTS;
}

static bool waits_for_step(const struct engine *engine, const struct sequence *sequence) {
    for (int i = 0; (i = find_leader(engine, sequence, i)) >= 0; i++)
        if (engine->rows[i] > 0) return true;
    return false;
}

// Whether the clients of all that is in the step have left while it runs, and nobody waits for what it computes of a
// prompt that begins as his does.
static bool is_unwanted(void *user) {
    struct engine *engine = user;
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->rows[i] > 0 && engine->places[i] && !job_is_cancelled(engine->places[i]->job)) return false;
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->rows[i] == 0 && engine->places[i] && !job_is_cancelled(engine->places[i]->job) &&
            waits_for_step(engine, engine->places[i]))
            return false;
    return true;
}

static struct batch gather(struct engine *engine, struct step_kind *kind) {
    struct batch batch = {.token = engine->token,
                          .position = engine->position,
                          .sequence = engine->run,
                          .output = engine->output,
                          .unwanted = is_unwanted,
                          .unwanted_user = engine};
    *kind = (struct step_kind){0};
    for (enum order order = ORDER_ANSWERS; order < ORDERS; order++)
        for (int i = 0; i < engine->sequences_max; i++) {
            if (engine->rows[i] == 0 || !engine->places[i] || order_of(engine, i) != order) continue;
            if (!take_pages(engine, i, engine->rows[i])) continue;
            if (order == ORDER_ANSWERS)
                add_answer(engine, &batch, i, engine->rows[i], kind);
            else
                add_prompt(engine, &batch, i, engine->rows[i], kind);
        }
    return batch;
}

// ---- Steps

// What others can see of a device that failed, or is back.
static void show_placement(struct engine *engine) {
    const char *degraded = placement_degraded(engine->placement);
    if (strncmp(degraded, engine->stats.degraded, sizeof engine->stats.degraded - 1) == 0) return;
    pthread_mutex_lock(&engine->lock);
    snprintf(engine->stats.degraded, sizeof engine->stats.degraded, "%s", degraded);
    pthread_mutex_unlock(&engine->lock);
}

// What may hang: others see since when.
static void begin_work(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->step_started_at = clock_seconds();
    line_count_pages(engine);
    pthread_mutex_unlock(&engine->lock);
}

static void end_work(struct engine *engine, unsigned steps) {
    pthread_mutex_lock(&engine->lock);
    engine->step_started_at = 0;
    engine->stats.steps += steps;
    pthread_mutex_unlock(&engine->lock);
    show_placement(engine);
}

// False: those who waited for it have left, and it was broken off.
static bool run_forward(struct engine *engine, const struct batch *batch) {
    begin_work(engine);
    if (engine->profile) profile_begin(engine->profile, batch);
    bool whole = forward_run(engine->forward, batch, &engine->cache, engine->logits);
    if (engine->profile) profile_end(engine->profile, whole);
    end_work(engine, whole);
    return whole;
}

static bool pin(struct engine *engine, bool pinned) {
    return engine->stages->pin && !engine->unpinned && engine->stages->pin(engine->stages_state, pinned);
}

static void retry_device(struct engine *engine) {
    begin_work(engine);
    pin(engine, false); // drivers start threads
    placement_retry(engine->placement);
    pin(engine, true);
    end_work(engine, 0);
}

// After numbers that are not finite: who knows since when, and in whose pages, there is nonsense. Nobody else goes on
// from what has been computed so far, or is on the way to being concluded in this step.
static void distrust_pages(struct engine *engine) {
    prefix_forget(&engine->prefix);
    for (int i = 0; i < engine->sequences_max; i++)
        if (engine->places[i] && engine->places[i]->page_count > 0) engine->places[i]->suspect = true;
}

// A sequence's part of a step is over: it gets its logits and is counted, and it ends where it has failed or is
// finished.
static void conclude(struct engine *engine, int place, int rows, const float *logits) {
    struct sequence *sequence = engine->places[place];
    bool prompt = sequence_prompt_left(sequence) > 0;
    size_t generated = sequence->generated, right = sequence->speculator.guesses_right, cached = 0;
    struct error error;
    int code = prompt ? sequence_prefilled(sequence, rows, logits, &error)
                      : sequence_decoded(sequence, rows, logits, &error);
    if (prompt && !code) sequence_keep_pages(sequence, &engine->prefix);
    if (prompt && sequence_prompt_left(sequence) == 0) cached = sequence->cached;
    if (code == ERROR_NUMERIC) distrust_pages(engine);

    pthread_mutex_lock(&engine->lock);
    engine->stats.prompt_tokens += prompt ? (size_t)rows : 0;
    engine->stats.cached_tokens += cached;
    engine->stats.completion_tokens += sequence->generated - generated;
    engine->stats.guessed_tokens += prompt ? 0 : (size_t)rows - 1;
    engine->stats.guessed_right += sequence->speculator.guesses_right - right;
    pthread_mutex_unlock(&engine->lock);
    if (code || sequence->finished) line_end(engine, place, code ? &error : NULL);
}

// False: it was broken off, and everybody in it is about to end.
static bool run_step(struct engine *engine, struct step_kind *kind) {
    struct batch batch = gather(engine, kind);
    if (batch.tokens == 0) return true;
    if (!run_forward(engine, &batch)) return false;
    const float *logits = engine->logits;
    for (int i = 0, output = 0, place; i < batch.sequences;) {
        int rows = 0, outputs = 0;
        for (place = engine->place_of[i]; i < batch.sequences && engine->place_of[i] == place; i++)
            rows += engine->run[i].count;
        int end = i < batch.sequences ? engine->run[i].first : batch.tokens;
        while (output + outputs < batch.outputs && engine->output[output + outputs] < end) outputs++;
        conclude(engine, place, rows, logits);
        logits += (size_t)outputs * (size_t)engine->sequence_model.vocab_size;
        output += outputs;
    }
    return true;
}

// Tells those who guess how long a step has taken.
static void account(struct engine *engine, const struct step_kind *kind, double seconds) {
    bool guessed = kind->answer_rows > kind->answers;
    if (!engine->speculates) return;
    if (kind->prompt_rows == 0) step_costs_measured(&engine->costs, kind->answers, kind->answer_rows, seconds);
    for (int i = 0; i < engine->sequences_max; i++) {
        if (engine->rows[i] == 0 || !engine->places[i]) continue;
        if (guessed)
            speculator_pays(&engine->places[i]->speculator, &engine->costs, kind->answers, seconds);
        else
            speculator_waits(&engine->places[i]->speculator, seconds);
    }
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
static void show_step(struct engine *engine, double began_at, const struct step_kind *kind) {
    const struct engine_step *step =
        profile_step(engine->profile, clock_seconds() - began_at, kind->prompt_rows > 0, kind->answers);
    if (step && engine->watch) engine->watch(engine->watch_user, step);
}

// The prompts that the next step after a rest has so far.
struct company {
    int rows; // 0: none yet
    double first_at, last_at;
};

// Waits for more prompts to come along with those that the next step has. False: it is time to go.
static bool await_company(struct engine *engine, struct company *company) {
    double now = clock_seconds();
    if (engine->stats.running == engine->sequences_max) return false; // nobody could come in
    if (company->rows == 0) company->first_at = now;
    if (company->rows != engine->scheduler.planned) company->last_at = now;
    company->rows = engine->scheduler.planned;
    double left = scheduler_patience(&engine->scheduler, now - company->first_at, now - company->last_at);
    return left > 0 && job_bell_wait_for(&engine->bell, left);
}

static void run_steps(struct engine *engine) {
    bool rested = true;
    struct company company = {0};
    while (!is_closing(engine)) {
        measure(engine);
        line_end_leaving(engine);
        line_admit(engine);
        if (plan(engine) == 0) {
            line_sleep(engine);
            rested = true;
            company = (struct company){0};
            continue;
        }
        if (rested && await_company(engine, &company)) continue;
        if (placement_retry_due(engine->placement)) retry_device(engine);
        rested = false;
        double began_at = clock_seconds(); // neither waiting nor trying a device is part of the step
        guess(engine);
        struct step_kind kind;
        if (!run_step(engine, &kind)) continue;
        double seconds = clock_seconds() - began_at;
        scheduler_measured(&engine->scheduler, seconds);
        account(engine, &kind, seconds);
        if (engine->profile) show_step(engine, began_at, &kind);
    }
    line_end_all(engine);
}

// ---- The thread

static int open_devices(struct engine *engine, struct error *error) {
    const struct model_config *config = &engine->model->config;
    struct stage_limits limits = model_stage_limits(config);
    limits.tokens_max = engine->rows_max;
    limits.sequences_max = engine->answer_rows_max;
    limits.threads = engine->threads;
    limits.kernels = engine->kernels;
    engine->placement_options.inner = engine->stages;
    engine->placement_options.weights = engine->weights;
    engine->placement_options.layers = engine->model->layers;
    engine->placement_options.layer_count = config->layers;
    engine->placement_options.head = &engine->model->head;
    engine->placement_options.trace = engine->trace;
    int code = placement_open(&engine->placement, &engine->placement_options, &limits, error);
    if (code) return code;
    engine->stages = placement_stages(engine->placement);
    engine->stages_state = placement_state(engine->placement);
    show_placement(engine);
    const struct stages *stages = engine->stages;
    void *state = engine->stages_state;
    // One alone reads so many tokens almost twice as fast, and of eight together none is slower (benchmarks/README.md).
    if (stages->unpacks && stages->unpacks(state, engine->weights)) engine->brief_tokens = STAGE_STEADY_ROWS;
    if (engine->watch || engine->trace) {
        code = profile_create(&engine->profile, stages, state, &limits, engine->trace, error);
        if (code) return code;
        stages = &profile_stages;
        state = engine->profile;
    }
    return forward_create(&engine->forward, engine->model, stages, state, engine->rows_max, engine->outputs_max, error);
}

void *engine_run(void *argument) {
    struct engine *engine = argument;
    int code = open_devices(engine, &engine->open_error);
    if (!code) {
        engine->info.device = placement_describe(engine->placement);
        engine->placement_found = *placement_found(engine->placement);
        engine->info.pinned = pin(engine, true);
    }
    job_bell_ring(&engine->opened); // engine_open goes on
    if (!code) run_steps(engine);
    forward_destroy(engine->forward);
    profile_destroy(engine->profile);
    placement_close(engine->placement);
    return NULL;
}
