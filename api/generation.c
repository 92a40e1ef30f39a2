#include "api/generation.h"

#include "api/generation_kind.h"
#include "api/json.h"
#include "api/sse.h"
#include "base/checksum.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { ARENA_BYTES_MAX = 64 * 1024 * 1024, HEAD_BYTES_MAX = 16 * 1024 };

// ---- Parsing

// A name for what may change the answers of one seed: the model and how it is held.
static uint64_t fingerprint(const struct engine_info *info) {
    char text[512];
    snprintf(text, sizeof text, "%s|%s|%s|%" PRIu64 "|%" PRId64, info->model_name, info->architecture, info->weights,
             info->parameters, info->created);
    return checksum(0, text, strlen(text));
}

static bool write_head(struct generation *generation) {
    const struct engine_info *info = engine_info(generation->engine);
    const struct generation_kind *kind = generation->kind;
    struct buffer *head = &generation->head;
    buffer_format(head, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", generation->id,
                  generation->parameters.stream ? kind->chunk_object : kind->object, (long long)time(NULL));
    json_write_text(head, info->model_name);
    buffer_format(head, ",\"system_fingerprint\":\"fp_%016" PRIx64 "\",\"choices\":[", fingerprint(info));
    return !head->failed;
}

// Draws the id and, where none was given, the seed.
static int draw(struct generation *generation, struct error *error) {
    uint64_t random[3];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return error_set(error, ERROR_INTERNAL, "the system gives no random numbers");
    snprintf(generation->id, sizeof generation->id, "%s%016" PRIx64 "%08x", generation->kind->id_prefix, random[0],
             (unsigned)random[1]);
    generation->seed = generation->parameters.seed_given ? (uint64_t)generation->parameters.seed : random[2];
    return ERROR_NONE;
}

int generation_add_prompts(struct generation *generation, const char *field, size_t count, struct error *error) {
    const struct engine_info *info = engine_info(generation->engine);
    size_t n = (size_t)generation->parameters.n;
    if (count == 0) return error_set_param(error, ERROR_ARGUMENT, field, "'%s' must not be empty", field);
    if (count > GENERATION_JOBS_MAX / n)
        return error_set_param(error, ERROR_ARGUMENT, field,
                               "%zu prompts with 'n' = %zu ask for more than %d answers in one request", count, n,
                               GENERATION_JOBS_MAX);
    // More than there are places for would be told to come back later, for ever.
    if (count * n > (size_t)info->sequences_max + (size_t)info->queue_max)
        return error_set_param(error, ERROR_ARGUMENT, n > 1 ? "n" : field,
                               "%zu answers are asked for at once ('n' = %zu, prompts: %zu); this server has places "
                               "for %d (%d that decode and %d that wait)",
                               count * n, n, count, info->sequences_max + info->queue_max, info->sequences_max,
                               info->queue_max);
    generation->prompts = ARENA_ARRAY(generation->arena, struct prompt, count);
    if (!generation->prompts) return error_set_code(error, ERROR_MEMORY);
    generation->prompt_count = count;
    return ERROR_NONE;
}

size_t generation_certain_bytes(const char *text, size_t bytes, enum space space) {
    size_t certain = 0, width;
    for (const char *end = text + bytes; text < end; text += width) {
        uint32_t c;
        width = utf8_decode(text, (size_t)(end - text), &c);
        if (width > 0 && utf8_is_white_space(c)) continue;
        if (width == 0 || space == SPACE_IN_FRONT) return certain + (size_t)(end - text);
        certain += width;
    }
    return certain;
}

int generation_check_bytes(const struct generation *generation, const char *field, size_t bytes, struct error *error) {
    const struct engine_info *info = engine_info(generation->engine);
    size_t longest = (size_t)info->token_bytes_max, context = (size_t)info->context_tokens;
    size_t tokens = bytes / longest + (bytes % longest > 0);
    if (tokens <= context) return ERROR_NONE;
    return error_set_param(error, ERROR_CONTEXT_LENGTH, field,
                           "'%s' has at least %zu tokens (%zu bytes), but the model's context is %zu tokens", field,
                           tokens, bytes, context);
}

static int add_choices(struct generation *generation, struct error *error) {
    size_t n = (size_t)generation->parameters.n, count = generation->prompt_count * n;
    generation->choices = ARENA_ARRAY(generation->arena, struct choice, count);
    if (!generation->choices) return error_set_code(error, ERROR_MEMORY);
    generation->choice_count = count;
    for (size_t i = 0; i < count; i++) {
        struct choice *choice = &generation->choices[i];
        choice->index = i;
        choice->prompt = &generation->prompts[i / n];
        buffer_init(&choice->text, API_REPLY_BYTES_MAX / count);
        for (int list = 0; list < LOGPROB_LISTS; list++)
            buffer_init(&choice->logprobs[list], API_REPLY_BYTES_MAX / count);
    }
    return ERROR_NONE;
}

int generation_parse(const struct generation_kind *kind, const struct engine *engine, const char *body, size_t bytes,
                     struct generation **out, struct error *error) {
    int code = ERROR_NONE;
    struct generation *generation = NULL;
    json_t *root = NULL;
    struct arena *arena = arena_create(ARENA_BYTES_MAX);
    if (!arena || !(generation = ARENA_NEW(arena, struct generation))) {
        arena_destroy(arena);
        return error_set_code(error, ERROR_MEMORY);
    }
    generation->kind = kind;
    generation->engine = engine;
    generation->arena = arena;
    buffer_init(&generation->head, HEAD_BYTES_MAX);

    struct error cause = {0};
    root = json_read("The body", body, bytes, &cause);
    code = cause.code;
    if (root) code = schema_read(kind->endpoint, root, engine_info(engine), arena, &generation->parameters, &cause);
    if (code == 0) code = kind->read_prompts(generation, &cause);
    if (code == 0) code = add_choices(generation, &cause);
    if (code == 0) code = draw(generation, &cause);
    if (code == 0 && !write_head(generation)) code = error_set_code(&cause, ERROR_MEMORY);
    json_decref(root);
    generation->parameters.messages = generation->parameters.prompt = NULL; // they lived in the body
    generation->parameters.prediction = NULL;

    if (code != 0) {
        if (error) *error = cause;
        generation_destroy(generation);
        return code;
    }
    *out = generation;
    return ERROR_NONE;
}

void generation_destroy(struct generation *generation) {
    if (!generation) return;
    for (size_t i = 0; i < generation->choice_count; i++) {
        buffer_finish(&generation->choices[i].text);
        for (int list = 0; list < LOGPROB_LISTS; list++) buffer_finish(&generation->choices[i].logprobs[list]);
    }
    for (size_t i = 0; i < generation->prompt_count; i++) {
        token_list_finish(&generation->prompts[i].list);
        token_list_finish(&generation->prompts[i].expected);
    }
    buffer_finish(&generation->head);
    arena_destroy(generation->arena);
}

// ---- Jobs

const char *generation_id(const struct generation *generation) {
    return generation->id;
}

bool generation_streams(const struct generation *generation) {
    return generation->parameters.stream;
}

size_t generation_jobs(const struct generation *generation) {
    return generation->choice_count;
}

void generation_job(const struct generation *generation, size_t job, struct engine_request *out) {
    const struct parameters *p = &generation->parameters;
    const struct prompt *prompt = generation->choices[job].prompt;
    // With a seed of the client's, a prompt's answers do not depend on the prompts beside it.
    uint64_t seed = generation->seed + (p->seed_given ? job % (size_t)p->n : job);
    // Evaluation harnesses score a prompt by echo, log-probabilities and one new token, and drop the last entry of
    // the lists: the new token must stand there even when it is the end of turn, which is not told otherwise.
    bool scores = p->echo && p->logprobs && p->tokens_max == 1;
    *out = (struct engine_request){
        .prompt = prompt->tokens,
        .prompt_tokens = prompt->token_count,
        .expected = prompt->expected.ids,
        .expected_tokens = prompt->expected.count,
        .tokens_max = (int)p->tokens_max,
        .sampling =
            {
                .temperature = (float)p->temperature,
                .top_p = (float)p->top_p,
                .min_p = (float)p->min_p,
                .top_k = (int)p->top_k,
                .repetition_penalty = (float)p->repetition_penalty,
                .presence_penalty = (float)p->presence_penalty,
                .frequency_penalty = (float)p->frequency_penalty,
                .seed = seed,
                .bias = p->bias,
                .bias_count = p->bias_count,
            },
        .stop_count = p->stop_count,
        .ignore_eos = p->ignore_eos || scores,
        .strip_space = generation->kind->endpoint == FOR_CHAT,
        .want_logprobs = p->logprobs,
        .top_logprobs = (int)p->top_logprobs,
        // The engine takes a request for no new tokens only with these; without echo they go nowhere.
        .prompt_logprobs = (p->echo && p->logprobs) || p->tokens_max == 0,
    };
    memcpy(out->stops, p->stops, sizeof out->stops);
}

// ---- Usage

static double at_least(double value, double least) {
    return value > least ? value : least;
}

static size_t least_cached(const struct choice *choices, size_t n) {
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < n; i++)
        if (choices[i].ended && choices[i].usage.cached_tokens < least) least = choices[i].usage.cached_tokens;
    return least < SIZE_MAX ? least : 0;
}

struct totals {
    size_t prompt_tokens, cached_tokens, completion_tokens, guessed_right, guessed_wrong;
    size_t decoded_tokens; // all but the first of each answer, which comes of the prompt's last step
    double queue_seconds, prompt_seconds, decode_seconds; // of the slowest job
};

// A prompt counts once, however many answers it has: as computed by the one that found least of it in the cache. The
// others found what that one had computed.
static struct totals total(const struct generation *generation) {
    struct totals sum = {0};
    size_t n = (size_t)generation->parameters.n;
    for (size_t i = 0; i < generation->choice_count; i++) {
        const struct choice *choice = &generation->choices[i];
        if (i % n == 0) {
            sum.prompt_tokens += choice->prompt->token_count;
            sum.cached_tokens += least_cached(choice, n);
        }
        size_t tokens = choice->ended ? choice->usage.completion_tokens : choice->tokens_seen;
        sum.completion_tokens += tokens;
        sum.guessed_right += choice->usage.guessed_right;
        sum.guessed_wrong += choice->usage.guessed_wrong;
        sum.decoded_tokens += tokens > 0 ? tokens - 1 : 0;
        sum.queue_seconds = at_least(choice->usage.queue_seconds, sum.queue_seconds);
        sum.prompt_seconds = at_least(choice->usage.prompt_seconds, sum.prompt_seconds);
        sum.decode_seconds = at_least(choice->usage.decode_seconds, sum.decode_seconds);
    }
    return sum;
}

static void write_usage(const struct totals *sum, struct buffer *out) {
    buffer_format(out,
                  "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%zu,\"audio_tokens\":0},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
                  "\"accepted_prediction_tokens\":%zu,\"rejected_prediction_tokens\":%zu}}",
                  sum->prompt_tokens, sum->completion_tokens, sum->prompt_tokens + sum->completion_tokens,
                  sum->cached_tokens, sum->guessed_right, sum->guessed_wrong);
}

static double rate(size_t tokens, double seconds) {
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static double decode_rate(const struct totals *sum) {
    return rate(sum->decoded_tokens, sum->decode_seconds);
}

static void write_timings(const struct totals *sum, struct buffer *out) {
    size_t computed = sum->prompt_tokens - (sum->cached_tokens < sum->prompt_tokens ? sum->cached_tokens : 0);
    buffer_format(out,
                  "{\"queue_seconds\":%.6f,\"prompt_tokens\":%zu,\"cached_tokens\":%zu,\"prompt_seconds\":%.6f,"
                  "\"prompt_tokens_per_second\":%.2f,\"completion_tokens\":%zu,\"decode_seconds\":%.6f,"
                  "\"decode_tokens_per_second\":%.2f}",
                  sum->queue_seconds, sum->prompt_tokens, sum->cached_tokens, sum->prompt_seconds,
                  rate(computed, sum->prompt_seconds), sum->completion_tokens, sum->decode_seconds, decode_rate(sum));
}

// ---- Streams

static void begin_chunk(const struct generation *generation, struct buffer *out) {
    sse_begin(out);
    buffer_append(out, generation->head.data, generation->head.bytes);
}

static void end_chunk(const struct generation *generation, bool with_timings, struct buffer *out) {
    buffer_text(out, "]");
    if (generation->parameters.include_usage) buffer_text(out, ",\"usage\":null");
    if (with_timings) {
        struct totals sum = total(generation);
        buffer_text(out, ",\"timings\":");
        write_timings(&sum, out);
    }
    buffer_text(out, "}");
    sse_end(out);
}

static void usage_chunk(const struct generation *generation, struct buffer *out) {
    struct totals sum = total(generation);
    begin_chunk(generation, out);
    buffer_text(out, "],\"usage\":");
    write_usage(&sum, out);
    buffer_text(out, ",\"timings\":");
    write_timings(&sum, out);
    buffer_text(out, "}");
    sse_end(out);
}

static void stream_piece(const struct generation *generation, struct choice *choice, const char *text, size_t bytes,
                         struct buffer *out) {
    begin_chunk(generation, out);
    generation->kind->write_piece(generation, choice, text, bytes, out);
    end_chunk(generation, false, out);
    for (int list = 0; list < LOGPROB_LISTS; list++) buffer_clear(&choice->logprobs[list]);
}

// What comes before the first event of a choice: chat's role, and the prompt where it is to be repeated.
static void stream_opening(const struct generation *generation, struct choice *choice, struct buffer *out) {
    if (generation->kind->write_first) {
        begin_chunk(generation, out);
        generation->kind->write_first(choice, out);
        end_chunk(generation, false, out);
    }
    const struct text_span *echo = &choice->prompt->echo;
    if (generation->parameters.echo) stream_piece(generation, choice, echo->text, echo->bytes, out);
}

static void stream_event(const struct generation *generation, struct choice *choice, const struct engine_event *event,
                         struct buffer *out) {
    if (event->text_bytes > 0 || choice->logprobs[0].bytes > 0)
        stream_piece(generation, choice, event->text, event->text_bytes, out);
    if (!choice->ended) return;
    bool usage = generation->parameters.include_usage, complete = generation_complete(generation);
    begin_chunk(generation, out);
    generation->kind->write_last(choice, out);
    end_chunk(generation, complete && !usage, out);
    if (complete && usage) usage_chunk(generation, out);
    if (complete) sse_done(out);
}

// ---- Events

static void fail(struct generation *generation, const struct error *error, struct buffer *out) {
    generation->failed = true;
    generation->error = *error;
    if (generation->parameters.stream) sse_error(out, error);
}

static void cut(struct buffer *buffer, size_t bytes) {
    buffer->failed = false;
    if (!buffer->data) return;
    buffer->bytes = bytes;
    buffer->data[bytes] = '\0';
}

// What was collected or written did not fit. A stream's error event takes the place of what this event began.
static void fail_for_space(struct generation *generation, struct buffer *out, size_t mark) {
    struct error error = {0};
    if (generation->parameters.stream) {
        error_set_code(&error, ERROR_MEMORY);
        cut(out, mark);
    } else {
        error_set(&error, ERROR_TOO_LARGE, "The answer is larger than the %d MiB sent at once, or memory is short",
                  API_REPLY_BYTES_MAX / 1024 / 1024);
    }
    fail(generation, &error, out);
}

static bool choice_failed(const struct choice *choice) {
    bool failed = choice->text.failed;
    for (int list = 0; list < LOGPROB_LISTS; list++) failed |= choice->logprobs[list].failed;
    return failed;
}

static void note_tokens(const struct generation *generation, struct choice *choice, const struct engine_event *event) {
    bool of_prompt = event->type == ENGINE_EVENT_PROMPT;
    if (!of_prompt) choice->tokens_seen += (size_t)event->token_count;
    if (!generation->parameters.logprobs || (of_prompt && !generation->parameters.echo)) return;
    for (int i = 0; i < event->token_count; i++)
        generation->kind->add_logprob(generation, choice, &event->tokens[i], of_prompt);
}

void generation_event(struct generation *generation, size_t job, const struct engine_event *event, struct buffer *out) {
    if (generation_complete(generation) || job >= generation->choice_count) return;
    struct choice *choice = &generation->choices[job];
    if (choice->ended) return;
    bool stream = generation->parameters.stream, first = !choice->begun;
    size_t mark = stream ? out->bytes : 0;
    choice->begun = true;
    choice->ended = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
    if (choice->ended) choice->usage = event->usage;
    if (event->type == ENGINE_EVENT_ERROR) {
        fail(generation, &event->error, out);
        return;
    }
    choice->finish = event->finish;
    generation->ended_count += choice->ended;

    const struct text_span *echo = &choice->prompt->echo;
    if (first && stream)
        stream_opening(generation, choice, out);
    else if (first && generation->parameters.echo)
        buffer_append(&choice->text, echo->text, echo->bytes);
    note_tokens(generation, choice, event);
    if (stream)
        stream_event(generation, choice, event, out);
    else
        buffer_append(&choice->text, event->text, event->text_bytes);
    if (choice_failed(choice) || (stream && out->failed)) fail_for_space(generation, out, mark);
}

void generation_fail(struct generation *generation, const struct error *error, struct buffer *out) {
    if (!generation_complete(generation)) fail(generation, error, out);
}

bool generation_complete(const struct generation *generation) {
    return generation->failed || generation->ended_count == generation->choice_count;
}

// ---- The whole answer

void generation_result(struct generation *generation, struct api_reply *reply) {
    if (generation->failed) {
        api_reply_error(reply, &generation->error);
        return;
    }
    struct buffer *body = &reply->body;
    struct totals sum = total(generation);
    buffer_append(body, generation->head.data, generation->head.bytes);
    for (size_t i = 0; i < generation->choice_count; i++) {
        if (i > 0) buffer_text(body, ",");
        generation->kind->write_whole(generation, &generation->choices[i], body);
    }
    buffer_text(body, "],\"usage\":");
    write_usage(&sum, body);
    buffer_text(body, ",\"timings\":");
    write_timings(&sum, body);
    buffer_text(body, "}");
    if (body->failed) {
        fail_for_space(generation, NULL, 0);
        api_reply_error(reply, &generation->error);
    }
}

void generation_name_field(const struct generation *generation, struct error *error) {
    if (error->param[0] || (error->code != ERROR_CONTEXT_LENGTH && error->code != ERROR_KV_CAPACITY)) return;
    snprintf(error->param, sizeof error->param, "%s", generation->kind->endpoint == FOR_CHAT ? "messages" : "prompt");
}

struct generation_summary generation_summary(const struct generation *generation) {
    struct totals sum = total(generation);
    const char *finish = "";
    if (generation->failed)
        finish = "error";
    else if (generation_complete(generation))
        finish = finish_reason_text(FINISH_STOP);
    for (size_t i = 0; !generation->failed && generation_complete(generation) && i < generation->choice_count; i++)
        if (generation->choices[i].finish == FINISH_LENGTH) finish = finish_reason_text(FINISH_LENGTH);
    return (struct generation_summary){
        .model = engine_info(generation->engine)->model_name,
        .prompt_tokens = sum.prompt_tokens,
        .completion_tokens = sum.completion_tokens,
        .queue_seconds = sum.queue_seconds,
        .prompt_seconds = sum.prompt_seconds,
        .decode_seconds = sum.decode_seconds,
        .tokens_per_second = decode_rate(&sum),
        .finish = finish,
        .error = generation->error,
    };
}
