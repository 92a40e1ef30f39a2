#include "engine/admission.h"

#include "base/plural.h"

static int check_token(int32_t token, int vocab_size, const char *where, struct error *error) {
    if (token >= 0 && token < vocab_size) return 0;
    return error_set(error, ERROR_ARGUMENT, "token id %d in the %s is outside the vocabulary, which is 0 to %d",
                     (int)token, where, vocab_size - 1);
}

static int check_range(const char *name, float value, double least, double most, struct error *error) {
    if ((double)value >= least && (double)value <= most) return 0; // NaN is neither
    return error_set_param(error, ERROR_ARGUMENT, name, "%s is %g; it has to be between %g and %g", name, (double)value,
                           least, most);
}

// Wider than what the API lets through: here only what keeps the arithmetic finite matters.
static int check_sampling(const struct sampling *sampling, int vocab_size, struct error *error) {
    int code;
    if ((code = check_range("temperature", sampling->temperature, 0, 1000, error))) return code;
    if ((code = check_range("top_p", sampling->top_p, 0, 1, error))) return code;
    if ((code = check_range("min_p", sampling->min_p, 0, 1, error))) return code;
    if ((code = check_range("repetition_penalty", sampling->repetition_penalty, 0.01, 100, error))) return code;
    if ((code = check_range("presence_penalty", sampling->presence_penalty, -100, 100, error))) return code;
    if ((code = check_range("frequency_penalty", sampling->frequency_penalty, -100, 100, error))) return code;
    if (sampling->top_k < 0)
        return error_set_param(error, ERROR_ARGUMENT, "top_k", "top_k is %d; it has to be 0 (off) or more",
                               sampling->top_k);
    for (size_t i = 0; i < sampling->bias_count; i++) {
        if ((code = check_token(sampling->bias[i].token, vocab_size, "logit_bias", error))) return code;
        if ((code = check_range("logit_bias", sampling->bias[i].bias, -1e4, 1e4, error))) return code;
    }
    return 0;
}

static int check_fields(const struct engine_request *request, struct error *error) {
    if (request->prompt_tokens < 1) return error_set(error, ERROR_ARGUMENT, "the prompt is empty");
    if (request->tokens_max < -1 || (request->tokens_max == 0 && !request->prompt_logprobs))
        return error_set(error, ERROR_ARGUMENT, "%d new tokens can not be generated", request->tokens_max);
    if (request->stop_count < 0 || request->stop_count > ENGINE_STOPS_MAX)
        return error_set_param(error, ERROR_ARGUMENT, "stop", "%d stop strings; at most %d are possible",
                               request->stop_count, ENGINE_STOPS_MAX);
    for (int i = 0; i < request->stop_count; i++)
        if (request->stops[i].bytes == 0)
            return error_set_param(error, ERROR_ARGUMENT, "stop", "a stop string is empty");
    if (request->top_logprobs < 0 || request->top_logprobs > ENGINE_TOP_LOGPROBS_MAX)
        return error_set_param(error, ERROR_ARGUMENT, "top_logprobs",
                               "top_logprobs is %d; it has to be between 0 and %d", request->top_logprobs,
                               ENGINE_TOP_LOGPROBS_MAX);
    return 0;
}

// How many new tokens there can be: what is asked for, or for -1 what context and cache have room for.
static int check_length(const struct engine_request *request, const struct admission_limits *limits, size_t *tokens_max,
                        struct error *error) {
    size_t prompt = request->prompt_tokens;
    size_t asked = request->tokens_max < 0 ? 1 : (size_t)request->tokens_max; // -1: at least one
    if (prompt > limits->context_tokens || asked > limits->context_tokens - prompt) {
        if (request->tokens_max < 0)
            return error_set(error, ERROR_CONTEXT_LENGTH,
                             "the prompt has %zu token%s, which leaves no room for an answer: the model's context is "
                             "%zu tokens",
                             prompt, plural(prompt), limits->context_tokens);
        return error_set(error, ERROR_CONTEXT_LENGTH,
                         "the prompt has %zu token%s and %zu new one%s %s asked for, %zu together: the model's context "
                         "is %zu tokens",
                         prompt, plural(prompt), asked, plural(asked), plural_are(asked), prompt + asked,
                         limits->context_tokens);
    }
    if (prompt > limits->kv_tokens || asked > limits->kv_tokens - prompt)
        return error_set(error, ERROR_KV_CAPACITY,
                         "the prompt has %zu token%s and at least %zu new one%s %s asked for, %zu together: the KV "
                         "cache holds %zu tokens",
                         prompt, plural(prompt), asked, plural(asked), plural_are(asked), prompt + asked,
                         limits->kv_tokens);
    size_t room = limits->context_tokens < limits->kv_tokens ? limits->context_tokens : limits->kv_tokens;
    *tokens_max = request->tokens_max < 0 ? room - prompt : asked;
    return 0;
}

int admission_check(const struct engine_request *request, const struct admission_limits *limits, size_t *tokens_max,
                    struct error *error) {
    int code = check_fields(request, error);
    if (code) return code;
    code = check_sampling(&request->sampling, limits->vocab_size, error);
    if (code) return code;
    code = check_length(request, limits, tokens_max, error); // before the loop: a prompt may be far too long
    if (code) return code;
    if (request->expected_tokens > limits->context_tokens)
        return error_set_param(error, ERROR_ARGUMENT, "prediction",
                               "the prediction has %zu tokens: the model's context is %zu tokens",
                               request->expected_tokens, limits->context_tokens);
    for (size_t i = 0; i < request->prompt_tokens; i++)
        if ((code = check_token(request->prompt[i], limits->vocab_size, "prompt", error))) return code;
    for (size_t i = 0; i < request->expected_tokens; i++)
        if ((code = check_token(request->expected[i], limits->vocab_size, "prediction", error))) return code;
    return 0;
}
