#include "engine/sequence.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 16 * 1024 * 1024 }; // of one event: a token's own text and what was held back before it

int sequence_create(struct sequence **out, const struct engine_request *request, size_t tokens_max,
                    const struct sequence_model *model, struct job_bell *bell, struct error *error) {
    struct sequence *sequence = calloc(1, sizeof *sequence);
    if (!sequence) return error_set(error, ERROR_MEMORY, "no memory for a sequence");
    sequence->model = model;
    sequence->prompt_tokens = request->prompt_tokens;
    sequence->tokens_max = tokens_max;
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

    sequence->prompt = calloc(request->prompt_tokens, sizeof *sequence->prompt);
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
    sampler_destroy(sequence->sampler);
    stop_matcher_finish(&sequence->stop_matcher);
    buffer_finish(&sequence->text);
    buffer_finish(&sequence->piece);
    free(sequence);
}

bool sequence_take_pages(struct sequence *sequence, struct kv_cache *cache, int positions) {
    int wanted = kv_cache_pages_for(sequence->computed + (size_t)positions);
    while (sequence->page_count < wanted) {
        int32_t page = sequence->page_count < sequence->pages_max ? kv_cache_take(cache) : -1;
        if (page < 0) return false;
        sequence->pages[sequence->page_count++] = page;
    }
    return true;
}

void sequence_give_pages(struct sequence *sequence, struct kv_cache *cache) {
    while (sequence->page_count > 0) kv_cache_give(cache, sequence->pages[--sequence->page_count]);
}

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

    sequence->newest = token;
    sequence->generated++;
    sampler_saw_answer(sequence->sampler, token);
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

int sequence_decoded(struct sequence *sequence, const float *logits, struct error *error) {
    sequence->computed++;
    return choose(sequence, logits, error);
}

struct engine_usage sequence_usage(const struct sequence *sequence) {
    double now = clock_seconds();
    double admitted = sequence->admitted_at > 0 ? sequence->admitted_at : now;
    double answering = sequence->answering_at > 0 ? sequence->answering_at : now;
    return (struct engine_usage){
        .prompt_tokens = sequence->prompt_tokens,
        .completion_tokens = sequence->generated,
        .queue_seconds = admitted - sequence->submitted_at,
        .prompt_seconds = answering - admitted,
        .decode_seconds = now - answering,
    };
}
