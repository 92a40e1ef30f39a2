// Opening and closing an engine, and what other threads ask of it. The engine thread's work is in steps.c; the
// life of a job is told at its top.
#include "engine/engine_private.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "engine/expert_counts.h"
#include "engine/architectures/architecture.h"
#include "engine/kv_room.h"
#include "engine/machine.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    MODEL_NAME_BYTES_MAX = 200,
};

// ---- The engine thread

// The devices are opened, used and closed by one thread: that is what OpenMP's and oneDNN's own state follow.
static int start_thread(struct engine *engine, struct error *error) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); // a weight that can not be read any more: whoever reads it, hears of it
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the business of the threads that others started
    int failed = pthread_create(&engine->thread, NULL, engine_run, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return error_set(error, ERROR_INTERNAL, "the engine thread can not be started: %s", strerror(failed));
    engine->started = true;

    job_bell_wait(&engine->opened);
    if (engine->open_error.code == ERROR_NONE) return 0;
    if (error) *error = engine->open_error;
    return engine->open_error.code;
}

// ---- Opening

static int pick(int given, int otherwise, int most, const char *name, int *out, struct error *error) {
    if (given < 0 || given > most)
        return error_set_param(error, ERROR_ARGUMENT, name, "%s is %d; it has to be between 0 (the default) and %d",
                               name, given, most);
    *out = given > 0 ? given : otherwise;
    return 0;
}

static int choose_kernels(struct engine *engine, const char *name, struct error *error) {
#define KERNELS_NAME(name, text) name,
    static const char *const NAMES[] = {ENGINE_KERNELS(KERNELS_NAME)};
#undef KERNELS_NAME
#define KERNELS_LISTED(name, text) ", " name
    static const char LIST[] = ENGINE_KERNELS(KERNELS_LISTED);
#undef KERNELS_LISTED
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        if (strcmp(name, NAMES[i]) != 0) continue;
        engine->stages = strcmp(name, reference_stages.name) == 0 ? &reference_stages : &cpu_stages;
        engine->kernels = NAMES[i];
        return 0;
    }
    return error_set_param(error, ERROR_ARGUMENT, "stages", "stages are \"%s\"; there are %s", name, LIST + 2);
}

static int read_placement(struct engine *engine, const struct engine_options *options, struct error *error) {
    struct placement_options *out = &engine->placement_options;
    const char *way = options->placement ? options->placement : "auto";
    if (!placement_parse(way, &out->way))
        return error_set_param(error, ERROR_ARGUMENT, "placement", "there is no placement \"%s\"", way);
    const char *phases[PLACEMENT_PHASES] = {options->experts_decode, options->experts_prefill};
    for (int i = 0; i < PLACEMENT_PHASES; i++)
        if (!placement_parse_phase(phases[i] ? phases[i] : "auto", &out->experts[i]))
            return error_set_param(error, ERROR_ARGUMENT, "experts", "experts can not be on \"%s\"", phases[i]);
    if (options->experts_layers && options->experts_layers[0]) out->experts_layers = options->experts_layers;
    if (options->experts_opencl && options->experts_opencl[0]) out->experts_opencl = options->experts_opencl;
    if (options->cl_kernels && options->cl_kernels[0]) out->kernels = options->cl_kernels;
    const char *products = options->cl_products ? options->cl_products : "auto";
    if (!opencl_products_parse(products, &out->products))
        return error_set_param(error, ERROR_ARGUMENT, "cl_products", "\"%s\" multiplies nothing", products);
    const char *where = options->cl_weights ? options->cl_weights : "auto";
    if (!opencl_weights_parse(where, &out->where))
        return error_set_param(error, ERROR_ARGUMENT, "cl_weights", "weights can not be \"%s\" on a device", where);
    out->cache = options->cache;
    const char *bus_share = options->bus_share ? options->bus_share : "auto";
    if (!bus_share_parse(bus_share, &out->bus_share))
        return error_set_param(error, ERROR_ARGUMENT, "bus_share", "the bus can not be shared \"%s\"", bus_share);
    int code = pick(options->halves_from, 0, ENGINE_SEQUENCES_MAX, "halves_from", &out->halves_from, error);
    if (!code)
        code = pick(options->experts_decode_from, 0, ENGINE_SEQUENCES_MAX, "experts_decode_from", &out->decode_from,
                    error);
    if (code) return code;
    out->explain = options->explain_placement;
    out->warn = options->warn;
    out->warn_user = options->warn_user;
    return 0;
}

static int read_options(struct engine *engine, const struct engine_options *options, struct error *error) {
    int code;
    if ((code = pick(options->sequences_max, ENGINE_SEQUENCES_STANDARD, ENGINE_SEQUENCES_MAX, "sequences_max",
                     &engine->sequences_max, error)))
        return code;
    if ((code =
             pick(options->queue_max, ENGINE_QUEUE_STANDARD, ENGINE_QUEUE_MAX, "queue_max", &engine->queue_max, error)))
        return code;
    if ((code = pick(options->prefill_tokens_max, ENGINE_PREFILL_TOKENS_STANDARD, ENGINE_PREFILL_TOKENS_MAX,
                     "prefill_tokens_max", &engine->prefill_tokens_max, error)))
        return code;
    engine->unpinned = options->unpinned;
    if ((code = pick(options->threads, machine_cores(""), ENGINE_THREADS_MAX, "threads", &engine->threads, error)))
        return code;

    // One row of each that decodes, or several of fewer, and prompts; logits of each, and of prompts whose
    // own are wanted.
    engine->speculates = options->speculate == SPECULATE_AUTO;
    engine->answer_rows_max = engine->sequences_max;
    if (engine->speculates && engine->answer_rows_max < SPECULATE_ROWS_MAX)
        engine->answer_rows_max = SPECULATE_ROWS_MAX;
    int together = scheduler_rows_max(engine->prefill_tokens_max), all = engine->sequences_max;
    if (together / all > engine->prefill_tokens_max) together = engine->prefill_tokens_max * all;
    engine->rows_max = together + engine->answer_rows_max;
    engine->outputs_max = PROMPT_LOGPROB_ROWS + engine->answer_rows_max;
    if (!(options->step_target_seconds >= 0))
        return error_set_param(error, ERROR_ARGUMENT, "step_target_seconds",
                               "step_target_seconds is %g; it has to be 0 (none) or more",
                               options->step_target_seconds);
    engine->scheduler.prefill_tokens_max = engine->prefill_tokens_max;
    engine->scheduler.step_target_seconds = options->step_target_seconds;
    engine->prefix_mode = options->prefix;
    if (!(options->queue_seconds_max >= 0))
        return error_set_param(error, ERROR_ARGUMENT, "queue_seconds_max",
                               "queue_seconds_max is %g; it has to be 0 (none) or more", options->queue_seconds_max);
    engine->queue_seconds_max = options->queue_seconds_max;

    if ((code = read_placement(engine, options, error))) return code;
    return choose_kernels(engine, options->stages ? options->stages : cpu_stages.name, error);
}

static int refuse_cache(const struct kv_room *room, size_t tokens, struct error *error) {
    return error_set_param(
        error, ERROR_ARGUMENT, "kv_tokens",
        "a KV cache of %zu tokens takes %.2f GB; %.2f GB of memory are free, and the weights take %.2f GB "
        "of them: at most %zu tokens fit",
        tokens, (double)tokens * (double)room->page_bytes / KV_PAGE_TOKENS / 1e9, (double)room->free_bytes / 1e9,
        (double)room->weight_bytes / 1e9, kv_room_most(room));
}

// free_bytes: of memory, before the weights took any.
static int open_cache(struct engine *engine, const struct engine_options *options, size_t free_bytes,
                      struct error *error) {
    size_t tokens = options->kv_tokens;
    const struct model_config *config = &engine->model->config;
    struct kv_room room = {.free_bytes = free_bytes,
                           .weight_bytes = engine->model->weight_bytes,
                           .page_bytes =
                               kv_cache_page_bytes(options->kv, config->layers, config->kv_heads, config->head_dim),
                           .context_tokens = (size_t)config->context,
                           .sequences = engine->sequences_max};
    if (room.page_bytes > 0 && tokens == 0) tokens = kv_room_standard(&room);
    if (room.page_bytes == 0 || tokens > (size_t)INT_MAX - KV_PAGE_TOKENS)
        return error_set_param(error, ERROR_ARGUMENT, "kv_tokens", "a KV cache of %zu tokens is not possible", tokens);
    if (tokens > kv_room_most(&room)) return refuse_cache(&room, tokens, error);
    engine->info.kv_tokens_max = kv_room_most(&room);
    engine->info.kv_bytes_per_token = room.page_bytes / KV_PAGE_TOKENS;
    int code = kv_cache_init(&engine->cache, options->kv, config->layers, config->kv_heads, config->head_dim,
                             kv_cache_pages_for(tokens), error);
    uint64_t seed;
    if (!code && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        code = error_set(error, ERROR_INTERNAL, "the system gives no random numbers");
    if (!code)
        code = prefix_cache_init(&engine->prefix, &engine->cache, engine->prefix_mode != PREFIX_OFF, seed, error);
    if (code) return code;
    engine->stats.kv_pages = (size_t)engine->cache.pages;
    engine->info.kv_tokens = (size_t)engine->cache.pages * KV_PAGE_TOKENS;
    return 0;
}

static int allocate(struct engine *engine, struct error *error) {
    size_t sequences = (size_t)engine->sequences_max, rows = (size_t)engine->rows_max;
    size_t answer_rows = (size_t)engine->answer_rows_max;
    size_t outputs = (size_t)engine->outputs_max, logits;
    engine->places = calloc(sequences, sizeof *engine->places);
    engine->shown = calloc(sequences, sizeof *engine->shown);
    engine->rows = calloc(sequences, sizeof *engine->rows);
    engine->speculators = calloc(sequences, sizeof *engine->speculators);
    engine->guess_room = calloc(sequences, sizeof *engine->guess_room);
    engine->run = calloc(answer_rows, sizeof *engine->run);
    engine->place_of = calloc(answer_rows, sizeof *engine->place_of);
    engine->token = calloc(rows, sizeof *engine->token);
    engine->position = calloc(rows, sizeof *engine->position);
    engine->output = calloc(outputs, sizeof *engine->output);
    if (checked_mul(outputs, (size_t)engine->model->config.vocab, &logits))
        engine->logits = calloc(logits, sizeof *engine->logits);
    engine->waiting = calloc(sequences + (size_t)engine->queue_max, sizeof *engine->waiting);
    if (engine->places && engine->shown && engine->rows && engine->speculators && engine->guess_room && engine->run &&
        engine->place_of && engine->token && engine->position && engine->output && engine->logits && engine->waiting)
        return 0;
    return error_set(error, ERROR_MEMORY, "no memory for batches of %d rows and %d outputs", engine->rows_max,
                     engine->outputs_max);
}

char *engine_model_name(const char *dir) {
    char *path = realpath(dir, NULL);
    const char *slash = path ? strrchr(path, '/') : NULL;
    const char *last = slash ? slash + 1 : "";
    char *name = strdup(*last && utf8_valid(last, strlen(last)) ? last : "model");
    free(path);
    return name;
}

// "a, b" without the spaces to *all, its first name to *first.
static int read_names(const char *given, char **first, char **all, struct error *error) {
    *all = strdup(given);
    if (!*all) return error_set(error, ERROR_MEMORY, "no memory for the model's names");
    char *out = *all;
    for (const char *at = given;; at++) {
        at += strspn(at, " ");
        size_t bytes = strcspn(at, ",");
        const char *end = at + bytes;
        while (bytes > 0 && at[bytes - 1] == ' ') bytes--;
        if (bytes == 0 || bytes > MODEL_NAME_BYTES_MAX)
            return error_set_param(
                error, ERROR_ARGUMENT, "model_names",
                "the model's names are `%.200s`; expected names of 1 to %d bytes, with commas between", given,
                MODEL_NAME_BYTES_MAX);
        memmove(out, at, bytes);
        out += bytes;
        *out = *end;
        if (!*end) break;
        at = end;
        out++;
    }
    *first = strndup(*all, strcspn(*all, ","));
    return *first ? 0 : error_set(error, ERROR_MEMORY, "no memory for the model's name");
}

// Threads that take turns hold all others up, wherever they meet.
static void warn_of_turns(const struct engine *engine, const struct engine_options *options) {
    char line[160];
    int cpus = machine_cpus("");
    if (!options->warn || cpus == 0 || engine->threads <= cpus) return;
    snprintf(line, sizeof line, "%d threads on %d CPU%s take turns and wait for each other: %d would be faster",
             engine->threads, cpus, cpus == 1 ? "" : "s", machine_cores(""));
    options->warn(options->warn_user, line);
}

static int open_tokenizer(struct engine *engine, const char *dir, struct model_config *config, struct error *error) {
    int code = tokenizer_open(&engine->tokenizer, dir, config->vocab, error);
    if (!code) code = chat_template_find(engine->tokenizer, &engine->chat_template, error);
    if (code) return code;
    config->eos_count = chat_template_add_ends(engine->tokenizer, config->eos, config->eos_count, MODEL_EOS_MAX);
    return 0;
}

static int open_model(struct engine *engine, const struct engine_options *options, struct error *error) {
    int code = model_open(&engine->model,
                          &(struct model_options){.dir = options->model_dir,
                                                  .synthetic = options->synthetic,
                                                  .weights = options->weights,
                                                  .weights_auto = options->weights_auto,
                                                  .cache = options->cache,
                                                  .threads = engine->threads,
                                                  .progress = options->progress,
                                                  .progress_user = options->progress_user},
                          error);
    if (code) return code;
    struct model_config *config = &engine->model->config;
    code = options->synthetic ? tokenizer_open_numbers(&engine->tokenizer, config->vocab, error)
                              : open_tokenizer(engine, options->model_dir, config, error);
    if (code) return code;
    if (!engine->model_name) // none was given
        engine->model_name = options->synthetic ? strdup(options->synthetic) : engine_model_name(options->model_dir);
    if (!engine->model_name) return error_set(error, ERROR_MEMORY, "no memory for the model's name");
    engine->sequence_model = (struct sequence_model){.tokenizer = engine->tokenizer,
                                                     .vocab_size = config->vocab,
                                                     .eos = config->eos,
                                                     .eos_count = config->eos_count};
    return 0;
}

static int longest_token(const struct tokenizer *tokenizer) {
    size_t longest = 1, bytes;
    for (int32_t id = 0; id < tokenizer_size(tokenizer); id++)
        if (tokenizer_piece(tokenizer, id, &bytes) && bytes > longest) longest = bytes;
    return longest < INT_MAX ? (int)longest : INT_MAX;
}

static void fill_info(struct engine *engine, double began_at) {
    const struct model *model = engine->model;
    struct engine_info *info = &engine->info; // device and what is said of the KV cache are set already
    info->model_name = engine->model_name;
    info->model_names = engine->model_names;
    info->architecture = model->architecture->name;
    info->weights = weight_format_name(model->weights);
    info->weights_note = model->weights_note;
    info->cache_note = model->cache_note;
    info->cache_lost = model->cache_lost;
    info->context_tokens = model->config.context;
    info->vocab_size = model->config.vocab;
    info->token_bytes_max = longest_token(engine->tokenizer);
    info->sequences_max = engine->sequences_max;
    info->queue_max = engine->queue_max;
    info->threads = engine->threads;
    info->parameters = model->parameters;
    info->parameters_active = model->parameters_active;
    info->weight_bytes = model->weight_bytes;
    info->created = model->created;
    info->load_seconds = clock_seconds() - began_at;
}

int engine_open(struct engine **out, const struct engine_options *options, struct error *error) {
    double began_at = clock_seconds();
    size_t free_bytes = machine_memory_available("");
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return error_set(error, ERROR_MEMORY, "no memory for the engine");
    job_bell_init(&engine->bell);
    job_bell_init(&engine->opened);
    job_bell_init(&engine->measured);
    pthread_mutex_init(&engine->lock, NULL);

    int code;
    if ((code = read_options(engine, options, error))) goto failed;
    warn_of_turns(engine, options);
    engine->watch = options->watch;
    engine->watch_user = options->watch_user;
    if (options->model_names && options->model_names[0] &&
        (code = read_names(options->model_names, &engine->model_name, &engine->model_names, error)))
        goto failed;
    if (options->trace && options->trace[0] && (code = trace_open(&engine->trace, options->trace, error))) goto failed;
    if ((code = open_model(engine, options, error))) goto failed;
    engine->weights = engine->model->weights;
    if ((code = open_cache(engine, options, free_bytes, error))) goto failed;
    if ((code = allocate(engine, error))) goto failed;
    engine->limits = (struct admission_limits){.vocab_size = engine->model->config.vocab,
                                               .context_tokens = (size_t)engine->model->config.context,
                                               .kv_tokens = engine->info.kv_tokens};
    if ((code = start_thread(engine, error))) goto failed;
    fill_info(engine, began_at);
    *out = engine;
    return 0;

failed:
    engine_close(engine);
    return code;
}

void engine_close(struct engine *engine) {
    if (!engine) return;
    if (engine->started) {
        pthread_mutex_lock(&engine->lock);
        engine->closing = true;
        pthread_mutex_unlock(&engine->lock);
        job_bell_ring(&engine->bell);
        pthread_join(engine->thread, NULL);
    }
    free(engine->waiting);
    free(engine->logits);
    free(engine->output);
    free(engine->position);
    free(engine->token);
    free(engine->place_of);
    free(engine->run);
    free(engine->guess_room);
    free(engine->speculators);
    free(engine->rows);
    free(engine->shown);
    free(engine->places);
    prefix_cache_finish(&engine->prefix);
    kv_cache_finish(&engine->cache);
    trace_close(engine->trace);
    tokenizer_close(engine->tokenizer);
    model_close(engine->model);
    free(engine->model_names);
    free(engine->model_name);
    pthread_mutex_destroy(&engine->lock);
    job_bell_finish(&engine->measured);
    job_bell_finish(&engine->opened);
    job_bell_finish(&engine->bell);
    free(engine);
}

// ---- What others may ask for

const struct engine_info *engine_info(const struct engine *engine) {
    return &engine->info;
}

void engine_stats(struct engine *engine, struct engine_stats *out) {
    pthread_mutex_lock(&engine->lock);
    *out = engine->stats;
    double started_at = engine->step_started_at;
    pthread_mutex_unlock(&engine->lock);
    out->step_running_seconds = started_at > 0 ? clock_seconds() - started_at : 0;
}

int engine_choices(const struct engine *engine, struct engine_choices *out, struct error *error) {
    return expert_counts_copy(forward_counts(engine->forward), out, error);
}

void engine_balance(const struct engine *engine, struct engine_balance *out) {
    expert_counts_balance(forward_counts(engine->forward), out);
}

const struct engine_placement *engine_placement(const struct engine *engine) {
    return &engine->placement_found;
}

int engine_measure(struct engine *engine, const void *memory, size_t bytes, struct engine_limits *out,
                   struct error *error) {
    struct engine_measurement measurement = {memory, bytes, out};
    *out = (struct engine_limits){0};
    pthread_mutex_lock(&engine->lock);
    engine->measurement = &measurement;
    pthread_mutex_unlock(&engine->lock);
    job_bell_ring(&engine->bell);
    job_bell_wait(&engine->measured);
    if (out->arithmetic) return 0;
    return error_set(error, ERROR_UNSUPPORTED, "the %s kernels have no limits to measure", engine->stages->name);
}

int engine_submit(struct engine *engine, const struct engine_request *request, struct engine_job **out,
                  struct error *error) {
    size_t tokens_max;
    int code = admission_check(request, &engine->limits, &tokens_max, error);
    if (code) return code;
    struct sequence *sequence;
    const struct sequence_ways ways = {.keeps_answer = engine->prefix_mode == PREFIX_ANSWERS,
                                       .brief_tokens = engine->brief_tokens,
                                       .speculates = engine->speculates};
    code = sequence_create(&sequence, request, tokens_max, &ways, &engine->sequence_model, &engine->bell, error);
    if (code) return code;

    struct engine_job *job = sequence->job; // the sequence may end before this function does
    code = line_enter(engine, sequence, error);
    if (code) {
        sequence_destroy(sequence);
        engine_job_release(job);
        return code;
    }
    job_bell_ring(&engine->bell);
    *out = job;
    return 0;
}

static int no_text(struct error *error) {
    return error_set(error, ERROR_UNSUPPORTED, "a model of random weights has no tokenizer; prompts are token ids");
}

int engine_chat_tokens(const struct engine *engine, const struct chat_message *messages, size_t count,
                       struct token_list *out, struct error *error) {
    if (!engine->chat_template) return no_text(error);
    return chat_template_render(engine->chat_template, engine->tokenizer, messages, count, out, error);
}

int engine_text_tokens(const struct engine *engine, const char *text, size_t bytes, bool parse_special,
                       struct token_list *out, struct error *error) {
    if (!tokenizer_encodes(engine->tokenizer)) return no_text(error);
    return tokenizer_encode(engine->tokenizer, text, bytes, parse_special, out, error);
}

const char *engine_token_text(const struct engine *engine, int32_t id, size_t *bytes) {
    return tokenizer_piece(engine->tokenizer, id, bytes);
}

bool speculate_mode_parse(const char *name, enum speculate_mode *out) {
    SPECULATE_MODES(NAMED_MATCH)
    return false;
}

bool prefix_mode_parse(const char *name, enum prefix_mode *out) {
    PREFIX_MODES(NAMED_MATCH)
    return false;
}
