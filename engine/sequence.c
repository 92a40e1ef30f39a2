#include "engine/sequence.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 16 * 1024 * 1024 }; // of one event: a token's own text and what was held back before it

// The text that guesses are looked up in begins with what is expected, if anything is.
static int begin_speculator(struct sequence *sequence, const struct engine_request *request, struct error *error) {
    struct speculator *speculator = &sequence->speculator;
    size_t text = request->expected_tokens + request->prompt_tokens + sequence->tokens_max;
    int code = speculator_init(speculator, request->one_by_one ? 0 : text, error);
    if (code || !speculator->lookup) return code;
    for (size_t i = 0; i < request->expected_tokens; i++) lookup_add(speculator->lookup, request->expected[i]);
    for (size_t i = 0; i < request->prompt_tokens; i++) lookup_add(speculator->lookup, request->prompt[i]);
    if (request->expected_tokens > 0) lookup_expect_beginning(speculator->lookup);
    return 0;
}

int sequence_create(struct sequence **out, const struct engine_request *request, size_t tokens_max,
                    const struct sequence_ways *ways, const struct sequence_model *model, struct job_bell *bell,
                    struct error *error) {
    struct sequence *sequence = calloc(1, sizeof *sequence);
    if (!sequence) return error_set(error, ERROR_MEMORY, "no memory for a sequence");
    sequence->model = model;
    sequence->prompt_tokens = request->prompt_tokens;
    sequence->tokens_max = tokens_max;
    sequence->brief = request->prompt_tokens <= ways->brief_tokens;
    sequence->client = request->client;
    sequence->keeps_answer = ways->keeps_answer;
    // Keys and values of one arithmetic are not for a prompt of the other, unless those of answers are for all.
    sequence->salt = sequence->brief && !ways->keeps_answer ? ~request->salt : request->salt;
    sequence->ignore_eos = request->ignore_eos;
    sequence->want_logprobs = request->want_logprobs;
    sequence->prompt_logprobs = request->prompt_logprobs;
    sequence->top_logprobs = request->top_logprobs;
    sequence->pages_max = kv_cache_pages_for(request->prompt_tokens + tokens_max);
    sequence->submitted_at = clock_seconds();
    buffer_init(&sequence->piece, TEXT_BYTES_MAX);
    buffer_init(&sequence->text, TEXT_BYTES_MAX);
    detokenizer_init(&sequence->detokenizer, model->tokenizer,
                     request->strip_space && tokenizer_strips_space(model->tokenizer));

    int code = stop_matcher_init(&sequence->stop_matcher, request->stops, request->stop_count, error);
    if (code) goto failed;
    code = sampler_create(&sequence->sampler, &request->sampling, model->vocab_size, error);
    if (code) goto failed;

    if (ways->speculates && (code = begin_speculator(sequence, request, error))) goto failed;

    size_t tokens = request->prompt_tokens + (ways->keeps_answer ? tokens_max : 0);
    sequence->prompt = calloc(tokens, sizeof *sequence->prompt);
    sequence->pages = calloc((size_t)sequence->pages_max, sizeof *sequence->pages);
    if (!sequence->prompt || !sequence->pages) {
        code = error_set(error, ERROR_MEMORY, "no memory for a prompt of %zu tokens", request->prompt_tokens);
        goto failed;
    }
    memcpy(sequence->prompt, request->prompt, request->prompt_tokens * sizeof *sequence->prompt);
    for (size_t i = 0; i < sequence->prompt_tokens; i++) sampler_saw_prompt(sequence->sampler, sequence->prompt[i]);

    code = job_create(&sequence->job, bell, request->wake, request->wake_user, error);
    if (code) goto failed;
    *out = sequence;
    return 0;

failed:
    sequence_destroy(sequence);
    return code;
}

void sequence_destroy(struct sequence *sequence) {
    if (!sequence) return;
    job_drop(sequence->job);
    free(sequence->pages);
    free(sequence->prompt);
    speculator_finish(&sequence->speculator);
    sampler_destroy(sequence->sampler);
    stop_matcher_finish(&sequence->stop_matcher);
    buffer_finish(&sequence->text);
    buffer_finish(&sequence->piece);
    free(sequence);
}

// ---- Pages

bool sequence_take_pages(struct sequence *sequence, struct prefix_cache *cache, int positions) {
    int wanted = kv_cache_pages_for(sequence->computed + (size_t)positions);
    while (sequence->page_count < wanted) {
        int32_t page = sequence->page_count < sequence->pages_max ? prefix_take(cache) : -1;
        if (page < 0) return false;
        sequence->pages[sequence->page_count++] = page;
    }
    return true;
}

// From the end: see engine/prefix_cache.h.
void sequence_give_pages(struct sequence *sequence, struct prefix_cache *cache) {
    while (sequence->page_count > 0) prefix_give(cache, sequence->pages[--sequence->page_count]);
}

// The page before its page number `at`.
static int32_t before(const struct sequence *sequence, int at) {
    return at > 0 ? sequence->pages[at - 1] : -1;
}

// Pages of others can be held only where its own end, all of them whole and known.
static bool can_reuse(const struct sequence *sequence) {
    return !sequence->suspect && !sequence->prompt_logprobs && sequence_prompt_left(sequence) > 0 &&
           sequence->page_count == sequence->pages_kept &&
           sequence->computed == (size_t)sequence->page_count * KV_PAGE_TOKENS;
}

// The whole page that goes on behind `parent`, its page number `at`; -1: none, or the prompt's last token is in it.
static int32_t find_page(const struct sequence *sequence, const struct prefix_cache *cache, int at, int32_t parent) {
    size_t first = (size_t)at * KV_PAGE_TOKENS;
    if (first + KV_PAGE_TOKENS >= sequence->prompt_tokens) return -1;
    return prefix_find(cache, sequence->salt, parent, sequence->prompt + first);
}

int sequence_find_pages(const struct sequence *sequence, const struct prefix_cache *cache, int *idle) {
    int count = 0;
    *idle = 0;
    if (!can_reuse(sequence)) return 0;
    int32_t page = before(sequence, sequence->page_count);
    while ((page = find_page(sequence, cache, sequence->page_count + count, page)) >= 0) {
        *idle += cache->pages[page].holders == 0;
        count++;
    }
    return count;
}

void sequence_reuse_pages(struct sequence *sequence, struct prefix_cache *cache) {
    if (!can_reuse(sequence)) return;
    int32_t page;
    while ((page = find_page(sequence, cache, sequence->page_count, before(sequence, sequence->page_count))) >= 0) {
        prefix_hold(cache, page);
        sequence->pages[sequence->page_count++] = page;
        sequence->pages_kept++;
        sequence->computed += KV_PAGE_TOKENS;
        sequence->cached += KV_PAGE_TOKENS;
    }
}

// A page that begins as the prompt goes on, for *same tokens; -1: there is none.
static int32_t find_part(const struct sequence *sequence, const struct prefix_cache *cache, int *same) {
    if (!can_reuse(sequence)) return -1;
    size_t left = sequence_prompt_left(sequence) - 1; // but for the last
    return prefix_find_part(cache, sequence->salt, before(sequence, sequence->page_count),
                            sequence->prompt + sequence->computed,
                            left < KV_PAGE_TOKENS ? (int)left : KV_PAGE_TOKENS, same);
}

int sequence_known_part(const struct sequence *sequence, const struct prefix_cache *cache) {
    int same;
    return find_part(sequence, cache, &same) < 0 ? 0 : same;
}

void sequence_reuse_part(struct sequence *sequence, struct prefix_cache *cache) {
    int same;
    int32_t from = find_part(sequence, cache, &same);
    if (from < 0) return;
    prefix_hold(cache, from); // or it might be taken to be copied onto itself
    if (sequence_take_pages(sequence, cache, 1)) {
        kv_cache_copy(cache->pool, from, sequence->pages[sequence->page_count - 1]);
        sequence->computed += (size_t)same;
        sequence->cached += (size_t)same;
    }
    prefix_give(cache, from);
}

bool sequence_follows(const struct sequence *sequence, const struct sequence *other, int known) {
    if (other->number >= sequence->number || sequence_prompt_left(other) == 0 || !can_reuse(sequence)) return false;
    if (other->suspect || other->prompt_logprobs) return false; // it makes nothing known; its reader may be slow
    int at = sequence->page_count;
    if (other->pages_kept != at || before(other, at) != before(sequence, at)) return false; // behind, or past it
    if ((size_t)other->pages_kept != other->computed / KV_PAGE_TOKENS) return false; // it makes nothing known
    if (other->salt != sequence->salt) return false;
    size_t same = sequence->computed, most = sequence->prompt_tokens - 1;
    if (most > other->prompt_tokens) most = other->prompt_tokens;
    while (same < most && same < sequence->computed + KV_PAGE_TOKENS && sequence->prompt[same] == other->prompt[same])
        same++;
    return same >= sequence->computed + (size_t)known + PREFIX_PART_TOKENS_MIN;
}

void sequence_keep_pages(struct sequence *sequence, struct prefix_cache *cache) {
    if (sequence->suspect) return;
    bool answers = sequence->computed > sequence->prompt_tokens;
    size_t known = answers && !sequence->keeps_answer ? sequence->prompt_tokens : sequence->computed;
    size_t first = (size_t)sequence->pages_kept * KV_PAGE_TOKENS;
    for (; first + KV_PAGE_TOKENS <= known; first += KV_PAGE_TOKENS) {
        int at = sequence->pages_kept;
        int32_t own = sequence->pages[at];
        int32_t page =
            prefix_keep(cache, sequence->salt, before(sequence, at), own, sequence->prompt + first, KV_PAGE_TOKENS);
        if (page < 0) return;
        if (page != own) { // somebody else was quicker: one of the two is enough
            prefix_hold(cache, page);
            prefix_give(cache, own);
            sequence->pages[at] = page;
        }
        sequence->pages_kept++;
    }
    if (sequence_prompt_left(sequence) > 0 || first >= known) return;
    prefix_keep(cache, sequence->salt, before(sequence, sequence->pages_kept), sequence->pages[sequence->pages_kept],
                sequence->prompt + first, (int)(known - first));
}

// ---- The answer

static bool is_eos(const struct sequence_model *model, int32_t token) {
    for (int i = 0; i < model->eos_count; i++)
        if (model->eos[i] == token) return true;
    return false;
}

static void finish(struct sequence *sequence, enum finish_reason reason) {
    sequence->finished = true;
    sequence->finish = reason;
}

// No token comes any more: what detokenizer and stop matcher held back is given out, unless it ends in a stop string.
static void flush_text(struct sequence *sequence) {
    buffer_clear(&sequence->piece);
    if (!detokenizer_flush(&sequence->detokenizer, &sequence->piece)) sequence->text.failed = true;
    if (stop_matcher_add(&sequence->stop_matcher, sequence->piece.data, sequence->piece.bytes, &sequence->text))
        finish(sequence, FINISH_STOP);
    else
        stop_matcher_flush(&sequence->stop_matcher, &sequence->text);
}

// The log-probability of a token under these logits, with as many alternatives as the request wants.
static int fill_token(const struct sequence *sequence, const float *logits, struct engine_token *out,
                      struct error *error) {
    int tops = sampler_logprobs(logits, sequence->model->vocab_size, out->token, &out->logprob, out->top,
                                sequence->top_logprobs, error);
    if (tops < 0) return tops;
    out->top_count = tops;
    return 0;
}

static int no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for the next piece of the answer");
}

// Posts the text that is ready, with the token it ends in (-1: none).
static int post_text(struct sequence *sequence, int32_t token, const float *logits, struct error *error) {
    struct buffer *text = &sequence->text;
    if (text->failed) return no_memory(error);
    int tops = sequence->want_logprobs ? sequence->top_logprobs : 0;
    struct engine_event *event = engine_event_create(ENGINE_EVENT_TEXT, token >= 0, tops, text->data, text->bytes);
    if (!event) return no_memory(error);
    if (token >= 0) {
        event->tokens[0].token = token;
        event->tokens[0].logprob = NAN;
        int code = sequence->want_logprobs ? fill_token(sequence, logits, &event->tokens[0], error) : 0;
        if (code) {
            engine_event_destroy(event);
            return code;
        }
    }
    job_post(sequence->job, event);
    return 0;
}

static int choose(struct sequence *sequence, const float *logits, struct error *error) {
    int32_t token;
    int code = sampler_choose(sequence->sampler, logits, &token, error);
    if (code) return code;

    buffer_clear(&sequence->text);
    if (is_eos(sequence->model, token) && !sequence->ignore_eos) {
        finish(sequence, FINISH_STOP);
        flush_text(sequence);
        return sequence->text.bytes > 0 || sequence->text.failed ? post_text(sequence, -1, NULL, error) : 0;
    }

    if (sequence->keeps_answer) sequence->prompt[sequence->prompt_tokens + sequence->generated] = token;
    sequence->newest = token;
    sequence->generated++;
    sampler_saw_answer(sequence->sampler, token);
    speculator_saw(&sequence->speculator, token);
    buffer_clear(&sequence->piece);
    if (!detokenizer_add(&sequence->detokenizer, token, &sequence->piece)) return no_memory(error);
    if (stop_matcher_add(&sequence->stop_matcher, sequence->piece.data, sequence->piece.bytes, &sequence->text)) {
        finish(sequence, FINISH_STOP);
    } else if (sequence->generated == sequence->tokens_max) {
        finish(sequence, FINISH_LENGTH);
        flush_text(sequence);
    }
    return post_text(sequence, token, logits, error);
}

// Row r stands at position computed + r and tells how likely the prompt's next token was.
static int post_prompt(struct sequence *sequence, int rows, const float *logits, struct error *error) {
    bool first = sequence->computed == 0;
    size_t told = sequence->prompt_tokens - 1 - sequence->computed;
    if (told > (size_t)rows) told = (size_t)rows;
    struct engine_event *event =
        engine_event_create(ENGINE_EVENT_PROMPT, (int)told + first, sequence->top_logprobs, NULL, 0);
    if (!event) return no_memory(error);

    struct engine_token *token = event->tokens;
    if (first) {
        token->token = sequence->prompt[0];
        token->logprob = NAN; // nothing comes before it
        token++;
    }
    for (size_t row = 0; row < told; row++, token++) {
        token->token = sequence->prompt[sequence->computed + row + 1];
        int code = fill_token(sequence, logits + row * (size_t)sequence->model->vocab_size, token, error);
        if (code) {
            engine_event_destroy(event);
            return code;
        }
    }
    if (event->token_count > 0)
        job_post(sequence->job, event);
    else
        engine_event_destroy(event);
    return 0;
}

int sequence_prefilled(struct sequence *sequence, int rows, const float *logits, struct error *error) {
    if (sequence->prompt_logprobs) {
        int code = post_prompt(sequence, rows, logits, error);
        if (code) return code;
        logits += (size_t)(rows - 1) * (size_t)sequence->model->vocab_size; // of the chunk's last row
    }
    sequence->computed += (size_t)rows;
    if (sequence_prompt_left(sequence) > 0) return 0;

    sequence->answering_at = clock_seconds();
    if (sequence->tokens_max == 0) {
        finish(sequence, FINISH_LENGTH);
        return 0;
    }
    return choose(sequence, logits, error);
}

int sequence_guess_room(const struct sequence *sequence) {
    size_t left = sequence->tokens_max - sequence->generated - 1; // but for the one that comes without guessing
    int room = job_room(sequence->job) - JOB_EVENTS_A_STEP;
    if (!sequence->speculator.lookup || room < 0) return 0;
    return left < (size_t)room ? (int)left : room;
}

int sequence_decoded(struct sequence *sequence, int rows, const float *logits, struct error *error) {
    struct speculator *speculator = &sequence->speculator;
    int code = 0, right = 0;
    for (int row = 0; row < rows; row++) {
        size_t generated = sequence->generated;
        sequence->computed++;
        code = choose(sequence, logits + (size_t)row * (size_t)sequence->model->vocab_size, error);
        if (code || sequence->generated == generated || row + 1 == rows) break;
        if (sequence->newest != speculator->guess[row]) break;
        right++;
        if (sequence->finished) break;
    }
    speculator->guesses_made += (size_t)rows - 1;
    speculator->guesses_right += (size_t)right;
    return code;
}

struct engine_usage sequence_usage(const struct sequence *sequence) {
    double now = clock_seconds();
    double admitted = sequence->admitted_at > 0 ? sequence->admitted_at : now;
    double answering = sequence->answering_at > 0 ? sequence->answering_at : now;
    return (struct engine_usage){
        .prompt_tokens = sequence->prompt_tokens,
        .cached_tokens = sequence->cached,
        .completion_tokens = sequence->generated,
        .guessed_right = sequence->speculator.guesses_right,
        .guessed_wrong = sequence->speculator.guesses_made - sequence->speculator.guesses_right,
        .queue_seconds = admitted - sequence->submitted_at,
        .prompt_seconds = answering - admitted,
        .decode_seconds = now - answering,
    };
}
