#include "cli/generate_json.h"

#include "api/json.h"
#include "api/logprobs.h"

#include <inttypes.h>

// ---- Tokens

static void write_entry(struct buffer *out, const struct engine *engine, int32_t token, float logprob) {
    buffer_format(out, "{\"id\":%" PRId32 ",\"token\":", token);
    logprobs_write_token(out, engine, token);
    buffer_text(out, ",\"bytes\":");
    logprobs_write_bytes(out, engine, token);
    buffer_text(out, ",\"logprob\":");
    logprobs_write_value(out, logprob);
}

void generate_json_token(struct buffer *out, const struct engine *engine, const struct engine_token *token) {
    if (out->bytes > 0) buffer_text(out, ",");
    write_entry(out, engine, token->token, token->logprob);
    buffer_text(out, ",\"top_logprobs\":[");
    for (int i = 0; i < token->top_count; i++) {
        if (i > 0) buffer_text(out, ",");
        write_entry(out, engine, token->top[i].token, token->top[i].logprob);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}

// ---- All of it

static void write_prompt(struct buffer *out, const struct engine_request *request) {
    buffer_text(out, ",\"prompt_tokens\":[");
    for (size_t i = 0; i < request->prompt_tokens; i++)
        buffer_format(out, i ? ",%" PRId32 : "%" PRId32, request->prompt[i]);
    buffer_text(out, "]");
}

static void write_usage(struct buffer *out, const struct engine_usage *usage) {
    buffer_format(out,
                  ",\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%zu},\"completion_tokens_details\":"
                  "{\"accepted_prediction_tokens\":%zu,\"rejected_prediction_tokens\":%zu}}",
                  usage->prompt_tokens, usage->completion_tokens, usage->prompt_tokens + usage->completion_tokens,
                  usage->cached_tokens, usage->guessed_right, usage->guessed_wrong);
}

static void write_timings(struct buffer *out, const struct engine *engine, const struct answer *answer) {
    const struct engine_usage *usage = &answer->usage;
    buffer_format(out,
                  ",\"timings\":{\"load_seconds\":%.6f,\"first_token_seconds\":%.6f,\"prompt_seconds\":%.6f,"
                  "\"prompt_tokens_per_second\":%.2f,\"decode_seconds\":%.6f,\"decode_tokens_per_second\":%.2f}",
                  engine_info(engine)->load_seconds, answer->first_seconds, usage->prompt_seconds,
                  answer_prompt_rate(usage), usage->decode_seconds, answer_decode_rate(usage));
}

void generate_json(struct buffer *out, const struct generate_report *report) {
    const struct engine_info *info = engine_info(report->engine);
    buffer_text(out, "{\"model\":");
    json_write_text(out, info->model_name);
    buffer_text(out, ",\"weights\":");
    json_write_text(out, info->weights);
    buffer_format(out, ",\"seed\":%" PRId64, (int64_t)report->request->sampling.seed);
    write_prompt(out, report->request);
    buffer_text(out, ",\"text\":");
    json_write_string(out, report->text->data, report->text->bytes);
    buffer_text(out, ",\"tokens\":[");
    buffer_append(out, report->tokens->data, report->tokens->bytes);
    buffer_format(out, "],\"finish_reason\":\"%s\"", finish_reason_text(report->answer->finish));
    write_usage(out, &report->answer->usage);
    write_timings(out, report->engine, report->answer);
    buffer_text(out, "}\n");
}
