#include "cli/bench_work.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "base/doubles.h"
#include "engine/inspect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_TOKENS_MAX = 64, // a sequence's tokens are rounded up to pages of at most so many
    WARM_UP_STEPS = 2,    // of a decode, once all sequences are in it
    ID_BYTES_MAX = 12,    // of a token id in a text, with its comma
};
static const size_t MEMORY_BYTES_MAX = (size_t)2 << 30; // far more than any cache
static const size_t QUICK_CACHES = 16;                  // so much do for quick: new memory may cost seconds
static const size_t MEMORY_SHARE = 4;                   // of what is free

// ---- Figures

double bench_median(const double *values, int count) {
    double sorted[BENCH_RUNS_MAX];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    return doubles_median(sorted, (size_t)count);
}

static double mean_of(const double *values, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += values[i];
    return count ? sum / count : 0;
}

double bench_deviation(const double *values, int count) {
    double mean = mean_of(values, count), sum = 0;
    for (int i = 0; i < count; i++) sum += (values[i] - mean) * (values[i] - mean);
    return count > 1 ? sqrt(sum / (count - 1)) : 0;
}

double bench_rate(const struct bench_result *result) {
    return result->all.seconds > 0 ? result->all.tokens / result->all.seconds : 0;
}

// Two operations for each weight that a token passed through: attention itself has none.
double bench_share_of_peak(const struct bench *bench, const struct bench_result *result) {
    double peak = bench_median(bench->peak.of, bench->peak.count), operations = 0;
    for (int i = 0; i < ENGINE_STAGE_COUNT; i++)
        if (i != ENGINE_STAGE_ATTENTION) operations += result->all.stages[i].operations;
    return peak > 0 && result->all.seconds > 0 ? operations / result->all.seconds / peak : 0;
}

double bench_share_of_bandwidth(const struct bench *bench, const struct bench_result *result) {
    double rate = bench_median(bench->read_bytes.of, bench->read_bytes.count), bytes = 0;
    for (int i = 0; i < ENGINE_STAGE_COUNT; i++) bytes += result->all.stages[i].bytes;
    return rate > 0 && result->all.seconds > 0 && !bench->cached ? bytes / result->all.seconds / rate : 0;
}

// ---- The machine

int bench_take_memory(struct bench *bench, bool quick, struct error *error) {
    struct engine_machine machine = engine_machine();
    size_t bytes = machine.memory_bytes / MEMORY_SHARE, most = MEMORY_BYTES_MAX;
    if (quick && machine.cache_bytes > 0 && machine.cache_bytes < most / QUICK_CACHES)
        most = QUICK_CACHES * machine.cache_bytes;
    if (bytes == 0 || bytes > most) bytes = most;
    bench->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bench->memory == MAP_FAILED) {
        bench->memory = NULL;
        return error_set(error, ERROR_MEMORY, "out of memory for %.1f GB to read", (double)bytes / 1e9);
    }
    madvise(bench->memory, bytes, MADV_HUGEPAGE); // a hint: the machine's limit, not that of its small pages
    memset(bench->memory, 1, bytes);              // memory that was never written is one page of zeros
    bench->memory_bytes = bytes;
    return 0;
}

static void add_sample(struct bench_samples *samples, double value) {
    if (samples->count < BENCH_LIMITS_MAX) samples->of[samples->count++] = value;
}

int bench_measure(struct bench *bench, struct error *error) {
    struct engine_limits limits;
    int code = engine_measure(bench->engine, bench->memory, bench->memory_bytes, &limits, error);
    if (code == ERROR_UNSUPPORTED) return 0;
    if (code) return code;
    add_sample(&bench->read_bytes, limits.read_bytes);
    add_sample(&bench->f32, limits.f32);
    add_sample(&bench->bf16, limits.bf16);
    add_sample(&bench->int8, limits.int8);
    add_sample(&bench->peak, limits.arithmetic_peak);
    bench->arithmetic = limits.arithmetic;
    return 0;
}

// ---- Steps

static void add_sum(struct bench_sum *to, const struct bench_sum *from) {
    to->steps += from->steps;
    to->tokens += from->tokens;
    to->seconds += from->seconds;
    for (int i = 0; i < ENGINE_STAGE_COUNT; i++) {
        to->stages[i].seconds += from->stages[i].seconds;
        to->stages[i].bytes += from->stages[i].bytes;
        to->stages[i].operations += from->stages[i].operations;
    }
    to->device.mixtures += from->device.mixtures;
    to->device.halves += from->device.halves;
    to->device.waits += from->device.waits;
    to->device.wait_seconds += from->device.wait_seconds;
    to->device.beside_seconds += from->device.beside_seconds;
    to->device.holds += from->device.holds;
    to->device.held_seconds += from->device.held_seconds;
}

static void end_run(struct bench *bench) {
    struct bench_result *result = bench->result;
    if (bench->run.seconds > 0 && result->runs < bench->runs) {
        result->rate[result->runs++] = bench->run.tokens / bench->run.seconds;
        add_sum(&result->all, &bench->run);
    }
    bench->run = (struct bench_sum){0};
}

// A prefill's run is over with its job, a decode's after so many steps of the whole batch.
void bench_watch(void *user, const struct engine_step *step) {
    struct bench *bench = user;
    pthread_mutex_lock(&bench->lock);
    const struct bench_point *wanted = &bench->wanted;
    bool counts = bench->result && step->prefill == wanted->prefill && (step->prefill || step->tokens == wanted->batch);
    if (counts && bench->warm_up > 0) {
        bench->warm_up--;
        counts = false;
    }
    if (counts) {
        struct bench_sum sum = {
            .steps = 1, .tokens = step->tokens, .seconds = step->seconds, .device = step->device};
        memcpy(sum.stages, step->stages, sizeof sum.stages);
        add_sum(&bench->run, &sum);
        if (!step->prefill && bench->run.steps == BENCH_DECODE_STEPS) end_run(bench);
    }
    pthread_mutex_unlock(&bench->lock);
}

static void watch_for(struct bench *bench, const struct bench_point *point, struct bench_result *result, int warm_up) {
    pthread_mutex_lock(&bench->lock);
    bench->wanted = *point;
    bench->result = result;
    bench->warm_up = warm_up;
    bench->run = (struct bench_sum){0};
    pthread_mutex_unlock(&bench->lock);
}

// ---- Jobs

void bench_fill_prompt(struct bench *bench, int32_t *ids, int count) {
    uint64_t vocab = (uint64_t)engine_info(bench->engine)->vocab_size;
    for (int i = 0; i < count; i++) {
        bench->dice = bench->dice * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((bench->dice >> 33) % vocab);
    }
}

char *bench_write_prompt(struct bench *bench, int count) {
    struct buffer text;
    buffer_init(&text, (size_t)count * ID_BYTES_MAX + 2);
    for (int i = 0; i < count; i++) {
        int32_t id;
        bench_fill_prompt(bench, &id, 1);
        buffer_format(&text, "%c%d", i ? ',' : '[', (int)id);
    }
    buffer_text(&text, "]");
    if (!text.failed) return text.data;
    buffer_finish(&text);
    return NULL;
}

static int submit(struct bench *bench, int prompt_tokens, int new_tokens, struct engine_job **out,
                  struct error *error) {
    int32_t *prompt = calloc((size_t)prompt_tokens, sizeof *prompt);
    if (!prompt) return error_set(error, ERROR_MEMORY, "out of memory for a prompt of %d tokens", prompt_tokens);
    bench_fill_prompt(bench, prompt, prompt_tokens);
    const struct engine_request request = {.prompt = prompt,
                                           .prompt_tokens = (size_t)prompt_tokens,
                                           .tokens_max = new_tokens,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                                           .ignore_eos = true,
                                           .one_by_one = bench->one_by_one};
    int code = engine_submit(bench->engine, &request, out, error);
    free(prompt);
    return code;
}

// Reads one event. *ended: it was the last.
static int read_event(struct engine_job *job, bool *ended, struct error *error) {
    struct engine_event *event = engine_job_wait(job);
    int code = event->type == ENGINE_EVENT_ERROR ? (int)event->error.code : 0;
    if (code && error) *error = event->error;
    *ended = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
    engine_event_destroy(event);
    return code;
}

static int read_to_end(struct engine_job *job, double *first_at, struct error *error) {
    bool ended = false;
    int code = 0;
    while (!ended && !code) {
        code = read_event(job, &ended, error);
        if (*first_at == 0) *first_at = clock_seconds();
    }
    return code;
}

// ---- Points

static int prefill_once(struct bench *bench, int tokens, double *first_token, struct error *error) {
    struct engine_job *job;
    double began_at = clock_seconds(), first_at = 0;
    int code = submit(bench, tokens, 1, &job, error);
    if (code) return code;
    code = read_to_end(job, &first_at, error);
    engine_job_release(job);
    *first_token = first_at - began_at;
    return code;
}

// The step that ended a job may be told of a moment later than the job: so a run is counted before the next begins,
// when the engine has answered another question.
static int settle(struct bench *bench, struct error *error) {
    return bench_measure(bench, error);
}

static int run_prefill(struct bench *bench, const struct bench_point *point, struct bench_result *out,
                       struct error *error) {
    double ignored;
    watch_for(bench, point, NULL, 0);
    int code = prefill_once(bench, point->tokens, &ignored, error);
    for (int i = 0; !code && i < bench->runs; i++) {
        bench->tell(point, i, bench->runs);
        watch_for(bench, point, out, 0);
        code = prefill_once(bench, point->tokens, &out->first_token[i], error);
        if (!code) code = settle(bench, error);
        pthread_mutex_lock(&bench->lock);
        end_run(bench);
        pthread_mutex_unlock(&bench->lock);
    }
    return code;
}

// Tokens that each sequence makes: while the last of them come in, the first already decode.
static int new_tokens(const struct bench_point *point, int runs) {
    return point->prefill ? 1 : 2 * point->batch + WARM_UP_STEPS + runs * BENCH_DECODE_STEPS + 1;
}

// The runs of a decode follow each other without a word from this thread: `told` is the last that was told.
static void tell_run(struct bench *bench, const struct bench_point *point, const struct bench_result *out, int *told) {
    pthread_mutex_lock(&bench->lock);
    int run = out->runs < bench->runs ? out->runs : bench->runs - 1;
    pthread_mutex_unlock(&bench->lock);
    if (run > *told) bench->tell(point, *told = run, bench->runs);
}

static int run_decode(struct bench *bench, const struct bench_point *point, struct bench_result *out,
                      struct error *error) {
    struct engine_job *jobs[BENCH_BATCH_MAX];
    int started = 0, code = 0, living = point->batch, told = 0;
    bool ended[BENCH_BATCH_MAX] = {false};
    bench->tell(point, 0, bench->runs);
    watch_for(bench, point, out, WARM_UP_STEPS);
    while (!code && started < point->batch) {
        code = submit(bench, point->tokens, new_tokens(point, bench->runs), &jobs[started], error);
        if (!code) started++;
    }
    while (!code && living > 0) // an event of each in turn, so that none waits for its reader
        for (int i = 0; !code && i < started; i++) {
            if (ended[i]) continue;
            code = read_event(jobs[i], &ended[i], error);
            living -= ended[i];
            tell_run(bench, point, out, &told);
        }
    for (int i = 0; i < started; i++) engine_job_release(jobs[i]);
    watch_for(bench, point, NULL, 0);
    return code;
}

// Every job that is under way is a sequence of its own, so that reading an event of each in turn keeps none waiting.
int bench_drive(struct bench *bench, int together, int requests, int prompt_tokens, int new_tokens, double *seconds,
                struct error *error) {
    struct engine_job *jobs[BENCH_BATCH_MAX] = {NULL};
    int code = 0, sent = 0, ended = 0;
    double began_at = clock_seconds();
    while (!code && ended < requests) {
        for (int i = 0; !code && i < together && sent < requests; i++) {
            if (jobs[i]) continue;
            code = submit(bench, prompt_tokens, new_tokens, &jobs[i], error);
            sent += !code;
        }
        for (int i = 0; !code && i < together; i++) {
            if (!jobs[i]) continue;
            bool last = false;
            code = read_event(jobs[i], &last, error);
            if (!last) continue;
            engine_job_release(jobs[i]);
            jobs[i] = NULL;
            ended++;
        }
    }
    *seconds = clock_seconds() - began_at;
    for (int i = 0; i < together; i++) engine_job_release(jobs[i]);
    return code;
}

size_t bench_kv_tokens(const struct bench_point *point, int runs) {
    size_t each = (size_t)point->tokens + (size_t)new_tokens(point, runs) + PAGE_TOKENS_MAX;
    return point->prefill ? each : each * (size_t)point->batch;
}

int bench_run(struct bench *bench, const struct bench_point *point, struct bench_result *out, struct error *error) {
    *out = (struct bench_result){.point = *point};
    int code = point->prefill ? run_prefill(bench, point, out, error) : run_decode(bench, point, out, error);
    watch_for(bench, point, NULL, 0);
    return code;
}
