#include "api/schema_field.h"

#include "api/json.h"
#include "api/model_names.h"
#include "api/ranges.h"
#include "base/nearest.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// What is at hand while a field is read.
struct schema_reading {
    struct parameters *out;
    struct arena *arena;
    const struct engine_info *info;
};

static int read_model(const struct schema_reading *reading, const json_t *value, struct error *error);
static int read_seed(const struct schema_reading *reading, const json_t *value, struct error *error);
static int read_stop(const struct schema_reading *reading, const json_t *value, struct error *error);
static int read_logit_bias(const struct schema_reading *reading, const json_t *value, struct error *error);
static int read_stream_options(const struct schema_reading *reading, const json_t *value, struct error *error);

#define STOPS "a string or an array of at most 4 strings"
#define STOP_SCHEMA \
    "\"anyOf\": [{\"type\": \"string\", \"minLength\": 1, \"maxLength\": 1024}, {\"type\": \"array\", \"maxItems\": " \
    "4, " \
    "\"items\": {\"type\": \"string\", \"minLength\": 1, \"maxLength\": 1024}}, {\"type\": \"null\"}]"
_Static_assert(ENGINE_STOPS_MAX == 4 && SCHEMA_STOP_BYTES_MAX == 1024, "what STOPS and STOP_SCHEMA say");

#define TOKENS_SCHEMA \
    "{\"type\": \"array\", \"minItems\": 1, \"items\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": " \
    "2147483647}}"
#define PROMPT_SCHEMA \
    "\"anyOf\": [{\"type\": \"string\", \"minLength\": 1}, {\"type\": \"array\", \"minItems\": 1, " \
    "\"items\": {\"type\": \"string\", \"minLength\": 1}}, " TOKENS_SCHEMA ", " \
    "{\"type\": \"array\", \"minItems\": 1, \"items\": " TOKENS_SCHEMA "}]"

#define BIAS_SCHEMA \
    "\"type\": [\"object\", \"null\"], \"maxProperties\": 1024, " \
    "\"propertyNames\": {\"pattern\": \"^(0|[1-9][0-9]{0,8})$\"}, " \
    "\"additionalProperties\": {\"type\": \"number\", \"minimum\": -100, \"maximum\": 100}"
_Static_assert(SCHEMA_BIASES_MAX == 1024, "what BIAS_SCHEMA says");

#define STREAM_OPTIONS_SCHEMA \
    "\"type\": [\"object\", \"null\"], \"properties\": {\"include_usage\": {\"type\": [\"boolean\", \"null\"]}, " \
    "\"include_obfuscation\": {\"type\": [\"boolean\", \"null\"]}}, \"additionalProperties\": {\"type\": \"null\"}"

#define PREDICTION_SCHEMA \
    "\"type\": [\"object\", \"null\"], \"required\": [\"type\", \"content\"], \"properties\": " \
    "{\"type\": {\"const\": \"content\"}, \"content\": {\"anyOf\": [{\"type\": \"string\"}, " \
    "{\"type\": \"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#/components/schemas/TextPart\"}}]}}, " \
    "\"additionalProperties\": {\"type\": \"null\"}"

#define AT(member) USE_STORE, .offset = offsetof(struct parameters, member)
#define BOOLEAN(member, ...) AT(member), .type = FIELD_BOOLEAN, .help = __VA_ARGS__
#define VALUE(member, words, json, ...) \
    AT(member), .type = FIELD_VALUE, .value = words, .schema = json, .absent = FIELD_REQUIRED, .help = __VA_ARGS__
#define INTEGER(...) INTEGER_(__VA_ARGS__) // a range of api/ranges.h is three arguments
#define INTEGER_(member, low, high, otherwise, ...) \
    AT(member), .type = FIELD_INTEGER, .min = low, .max = high, .standard = otherwise, .help = __VA_ARGS__
#define NUMBER(...) NUMBER_(__VA_ARGS__)
#define NUMBER_(member, low, high, otherwise, ...) \
    AT(member), .type = FIELD_NUMBER, .min = low, .max = high, .standard = otherwise, .help = __VA_ARGS__
#define READ(function, words, json, otherwise, ...) \
    USE_READ, .type = FIELD_VALUE, .read = function, .value = words, .schema = json, .absent = otherwise, \
              .help = __VA_ARGS__
#define NOTHING(kind, ...) USE_NOTHING, .type = kind, .help = __VA_ARGS__
#define REFUSE(values, ...) USE_REFUSE, .type = FIELD_VALUE, .accepts = values, .help = __VA_ARGS__

// clang-format off
const struct schema_field SCHEMA_FIELDS[] = {
    {"model", FOR_BOTH, READ(read_model, "a string", "\"type\": [\"string\", \"null\"]", "the loaded model",
        "Must name the loaded model.")},
    {"messages", FOR_CHAT, VALUE(messages, "an array of messages",
        "\"type\": \"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#/components/schemas/Message\"}",
        "Roles system, developer (the same), user, assistant; content: a string, or parts of type text (joined by "
        "line breaks). A message's name is without effect.")},
    {"prompt", FOR_COMPLETION, VALUE(prompt,
        "a string, an array of strings, an array of token ids, or an array of those", PROMPT_SCHEMA,
        "Text or tokens to continue.")},
    {"stream", FOR_BOTH, BOOLEAN(stream, "Answer by server-sent events while the text comes.")},
    {"stream_options", FOR_BOTH, READ(read_stream_options, "an object", STREAM_OPTIONS_SCHEMA, "{}",
        "include_usage: a last chunk with the usage, only with stream; include_obfuscation is without effect.")},
    {"max_tokens", FOR_CHAT, INTEGER(tokens_max, 1, INT32_MAX, NAN, "New tokens at most; 0 is refused.",
        .absent = "what the context has room for")},
    {"max_tokens", FOR_COMPLETION, INTEGER(tokens_max, 0, INT32_MAX, NAN,
        "New tokens at most; 0: only the prompt, for echo.", .absent = "16")},
    {"max_completion_tokens", FOR_BOTH, INTEGER(max_completion_tokens, 1, INT32_MAX, NAN,
        "The same as max_tokens.", .absent = "max_tokens")},
    {"n", FOR_BOTH, INTEGER(n, 1, SCHEMA_CHOICES_MAX, 1, "Answers to each prompt.")},
    {"temperature", FOR_BOTH, NUMBER(temperature, RANGE_TEMPERATURE, "0: always the most likely token.")},
    {"top_p", FOR_BOTH, NUMBER(top_p, RANGE_TOP_P, "Choose among the most likely tokens that make up this share.")},
    {"top_k", FOR_BOTH, INTEGER(top_k, RANGE_TOP_K, "Choose among so many of the most likely; 0 and -1: all.")},
    {"min_p", FOR_BOTH, NUMBER(min_p, RANGE_MIN_P, "Drop what is less likely than this share of the most likely.")},
    {"repetition_penalty", FOR_BOTH, NUMBER(repetition_penalty, LIMITS_REPETITION_PENALTY, NAN,
        "Divides the logits of tokens seen in prompt and answer; 1: off.", .absent = "1")},
    {"repeat_penalty", FOR_BOTH, NUMBER(repeat_penalty, LIMITS_REPETITION_PENALTY, NAN,
        "The same as repetition_penalty.", .absent = "repetition_penalty")},
    {"presence_penalty", FOR_BOTH, NUMBER(presence_penalty, RANGE_PENALTY,
        "Taken from the logit of each token in the answer.")},
    {"frequency_penalty", FOR_BOTH, NUMBER(frequency_penalty, RANGE_PENALTY,
        "The same, times how often it occurs there.")},
    {"logit_bias", FOR_BOTH, READ(read_logit_bias, "an object from token ids to numbers between -100 and 100",
        BIAS_SCHEMA, "{}", "Added to the tokens' logits.")},
    {"seed", FOR_BOTH, READ(read_seed, "an integer of 64 bits",
        "\"type\": [\"integer\", \"null\"], \"minimum\": -9223372036854775808, \"maximum\": 9223372036854775807",
        "random", "The same seed and request give the same text; choice i of a prompt takes seed + i.")},
    {"stop", FOR_BOTH, READ(read_stop, STOPS, STOP_SCHEMA, "none",
        "The answer ends before the first of these. The empty string is refused, the empty array is none.")},
    {"logprobs", FOR_CHAT, BOOLEAN(logprobs, "Tell each token's log-probability.")},
    {"top_logprobs", FOR_CHAT, INTEGER(top_logprobs, 0, ENGINE_TOP_LOGPROBS_MAX, NAN,
        "And so many alternatives; only with logprobs.", .absent = "0")},
    {"logprobs", FOR_COMPLETION, INTEGER(top_logprobs, 0, ENGINE_TOP_LOGPROBS_MAX, NAN,
        "Tell each token's log-probability and so many alternatives.", .absent = "none")},
    {"prediction", FOR_CHAT, AT(prediction), .type = FIELD_VALUE, .value = "an object of type content",
        .schema = PREDICTION_SCHEMA, .absent = "none", .help = "What the answer is expected to be: where it is, it "
        "comes faster. Never changes an answer."},
    {"echo", FOR_COMPLETION, BOOLEAN(echo, "Put the prompt in front of the answer, with log-probabilities too.")},
    {"ignore_eos", FOR_BOTH, BOOLEAN(ignore_eos, "Go on after the model's end of turn.")},
    {"parse_special", FOR_COMPLETION, BOOLEAN(parse_special,
        "Where the prompt spells a special token, take it for that token.")},
    {"best_of", FOR_COMPLETION, INTEGER(best_of, 1, SCHEMA_CHOICES_MAX, NAN, "Must equal n.", .absent = "n")},

    {"user", FOR_BOTH, NOTHING(FIELD_STRING, "No users are told apart.")},
    {"safety_identifier", FOR_BOTH, NOTHING(FIELD_STRING, "No users are told apart.")},
    {"metadata", FOR_BOTH, NOTHING(FIELD_OBJECT, "Nothing is stored.")},
    {"store", FOR_BOTH, NOTHING(FIELD_BOOLEAN, "Nothing is stored.")},
    {"service_tier", FOR_BOTH, NOTHING(FIELD_STRING, "There is one.")},
    {"prompt_cache_key", FOR_BOTH, NOTHING(FIELD_STRING, "Never changes an answer.")},
    {"prompt_cache_options", FOR_BOTH, NOTHING(FIELD_OBJECT, "Never changes an answer.")},
    {"prompt_cache_retention", FOR_BOTH, NOTHING(FIELD_STRING, "Never changes an answer.")},
    {"cache_prompt", FOR_BOTH, NOTHING(FIELD_BOOLEAN, "Never changes an answer.")},
    {"parallel_tool_calls", FOR_CHAT, NOTHING(FIELD_BOOLEAN, "There are no tool calls.")},

    {"tools", FOR_CHAT, REFUSE("[[]]", "tool calls are not supported")},
    {"tool_choice", FOR_CHAT, REFUSE("[\"none\", \"auto\"]", "tool calls are not supported")},
    {"functions", FOR_CHAT, REFUSE("[[]]", "function calls are not supported")},
    {"function_call", FOR_CHAT, REFUSE("[\"none\", \"auto\"]", "function calls are not supported")},
    {"response_format", FOR_CHAT, REFUSE("[{\"type\": \"text\"}]",
        "only plain text is generated, JSON is not enforced")},
    {"modalities", FOR_CHAT, REFUSE("[[\"text\"]]", "only text is generated")},
    {"audio", FOR_CHAT, REFUSE(NULL, "only text is generated")},
    {"web_search_options", FOR_CHAT, REFUSE(NULL, "the server does not search")},
    {"moderation", FOR_CHAT, REFUSE(NULL, "the server does not moderate")},
    {"reasoning_effort", FOR_CHAT, REFUSE("[\"none\"]", "the model does not reason before it answers")},
    {"verbosity", FOR_CHAT, REFUSE("[\"medium\"]", "the model has one verbosity")},
    {"suffix", FOR_COMPLETION, REFUSE("[\"\"]", "the model does not fill in the middle")},
    {"typical_p", FOR_BOTH, REFUSE("[1]", "typical sampling is not supported")},
    {"min_tokens", FOR_BOTH, REFUSE("[0]", "a least number of tokens is not supported")},
    {"skip_special_tokens", FOR_BOTH, REFUSE("[true]", "special tokens have no text")},
    {.name = NULL},
};
// clang-format on

// ---- Words

static void describe_value(const json_t *value, char *out, size_t bytes) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        snprintf(out, bytes, "an object");
        break;
    case JSON_ARRAY:
        snprintf(out, bytes, "an array of %zu", json_array_size(value));
        break;
    case JSON_STRING:
        snprintf(out, bytes, json_string_length(value) > 40 ? "\"%.40s…\"" : "\"%s\"", json_string_value(value));
        break;
    case JSON_INTEGER:
        snprintf(out, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(out, bytes, "%.12g", json_real_value(value));
        break;
    case JSON_TRUE:
        snprintf(out, bytes, "true");
        break;
    case JSON_FALSE:
        snprintf(out, bytes, "false");
        break;
    case JSON_NULL:
        snprintf(out, bytes, "null");
        break;
    }
}

int schema_mismatch(struct error *error, const char *field, const char *expected, const json_t *value) {
    char found[64];
    describe_value(value, found, sizeof found);
    return error_set_param(error, ERROR_ARGUMENT, field, "'%s' must be %s, got %s", field, expected, found);
}

static int unrecognized(struct error *error, const char *field, const struct nearest *nearest) {
    bool like = nearest->word[0];
    return error_set_param(error, ERROR_ARGUMENT, field, "Unrecognized request argument supplied: %.64s%s%s%s", field,
                           like ? "; did you mean " : "", nearest->word, like ? "?" : "");
}

int schema_check_members(struct error *error, const char *field, const json_t *object, const char *const known[2]) {
    for (void *at = json_object_iter((json_t *)object); at; at = json_object_iter_next((json_t *)object, at)) {
        const char *key = json_object_iter_key(at);
        if (json_is_null(json_object_iter_value(at)) || strcmp(key, known[0]) == 0 || strcmp(key, known[1]) == 0)
            continue;
        char name[ERROR_PARAM_BYTES];
        struct nearest nearest;
        snprintf(name, sizeof name, "%s.%.40s", field, key);
        nearest_init(&nearest, key, strlen(key));
        for (int i = 0; i < 2; i++) nearest_consider(&nearest, known[i], strlen(known[i]));
        return unrecognized(error, name, &nearest);
    }
    return ERROR_NONE;
}

// ---- Fields that a function reads

static int read_model(const struct schema_reading *reading, const json_t *value, struct error *error) {
    if (!json_is_string(value)) return schema_mismatch(error, "model", "a string", value);
    return model_names_check(reading->info, json_string_value(value), error);
}

bool schema_whole_number(const json_t *value, int64_t *out) {
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double real = json_real_value(value);
    if (real != floor(real) || fabs(real) > 9007199254740992.0)
        return false; // 2^53: every integer is exact up to there
    *out = (int64_t)real;
    return true;
}

static int read_seed(const struct schema_reading *reading, const json_t *value, struct error *error) {
    if (!schema_whole_number(value, &reading->out->seed))
        return schema_mismatch(error, "seed", "an integer of 64 bits", value);
    reading->out->seed_given = true;
    return ERROR_NONE;
}

static int add_stop(const struct schema_reading *reading, const json_t *value, struct error *error) {
    struct parameters *out = reading->out;
    size_t bytes = json_string_length(value);
    if (!json_is_string(value) || bytes == 0)
        return schema_mismatch(error, "stop", STOPS ", none of them empty", value);
    if (bytes > SCHEMA_STOP_BYTES_MAX)
        return error_set_param(error, ERROR_ARGUMENT, "stop",
                               "'stop' has a string of %zu bytes, at most %d are allowed", bytes,
                               SCHEMA_STOP_BYTES_MAX);
    char *text = arena_copy(reading->arena, json_string_value(value), bytes);
    if (!text) return error_set_code(error, ERROR_MEMORY);
    out->stops[out->stop_count++] = (struct text_span){text, bytes};
    return ERROR_NONE;
}

static int read_stop(const struct schema_reading *reading, const json_t *value, struct error *error) {
    if (!json_is_array(value)) return add_stop(reading, value, error);
    if (json_array_size(value) > ENGINE_STOPS_MAX) return schema_mismatch(error, "stop", STOPS, value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        int code = add_stop(reading, json_array_get(value, i), error);
        if (code != 0) return code;
    }
    return ERROR_NONE;
}

// A token id as a JSON key: decimal digits without leading zeros.
static bool token_key(const char *key, int vocab_size, int32_t *out) {
    size_t digits = strspn(key, "0123456789");
    if (digits == 0 || digits > 9 || key[digits] != '\0' || (digits > 1 && key[0] == '0')) return false;
    int32_t id = 0;
    for (size_t i = 0; i < digits; i++) id = 10 * id + (key[i] - '0');
    *out = id;
    return id < vocab_size;
}

static int read_logit_bias(const struct schema_reading *reading, const json_t *value, struct error *error) {
    if (!json_is_object(value))
        return schema_mismatch(error, "logit_bias", "an object from token ids to numbers", value);
    size_t count = json_object_size(value);
    if (count > SCHEMA_BIASES_MAX)
        return error_set_param(error, ERROR_ARGUMENT, "logit_bias",
                               "'logit_bias' has %zu entries, at most %d are allowed", count, SCHEMA_BIASES_MAX);
    struct logit_bias *biases = ARENA_ARRAY(reading->arena, struct logit_bias, count);
    if (!biases) return error_set_code(error, ERROR_MEMORY);

    size_t used = 0;
    for (void *at = json_object_iter((json_t *)value); at; at = json_object_iter_next((json_t *)value, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *bias = json_object_iter_value(at);
        if (!token_key(key, reading->info->vocab_size, &biases[used].token))
            return error_set_param(error, ERROR_ARGUMENT, "logit_bias",
                                   "'logit_bias' must have token ids between 0 and %d as keys, got \"%.40s\"",
                                   reading->info->vocab_size - 1, key);
        double number = json_number_value(bias);
        if (!json_is_number(bias) || number < -100 || number > 100)
            return schema_mismatch(error, "logit_bias", "an object of numbers between -100 and 100", bias);
        biases[used++].bias = (float)number;
    }
    reading->out->bias = biases;
    reading->out->bias_count = used;
    return ERROR_NONE;
}

static int read_stream_options(const struct schema_reading *reading, const json_t *value, struct error *error) {
    static const char *const names[] = {"include_usage", "include_obfuscation"};
    if (!json_is_object(value)) return schema_mismatch(error, "stream_options", "an object", value);
    int code = schema_check_members(error, "stream_options", value, names);
    if (code != 0) return code;
    for (int i = 0; i < 2; i++) {
        const json_t *option = json_object_get(value, names[i]);
        char field[ERROR_PARAM_BYTES];
        if (!option || json_is_null(option) || json_is_boolean(option)) continue;
        snprintf(field, sizeof field, "stream_options.%s", names[i]);
        return schema_mismatch(error, field, "true or false", option);
    }
    reading->out->include_usage = json_is_true(json_object_get(value, names[0]));
    if (reading->out->include_usage && !reading->out->stream)
        return error_set_param(error, ERROR_ARGUMENT, "stream_options",
                               "'stream_options.include_usage' is only allowed when 'stream' is true");
    return ERROR_NONE;
}

// ---- The rest

static void *place(const struct schema_field *field, struct parameters *out) {
    return (char *)out + field->offset;
}

static void store_standard(const struct schema_field *field, struct parameters *out) {
    switch (field->type) {
    case FIELD_BOOLEAN:
        *(bool *)place(field, out) = false;
        break;
    case FIELD_INTEGER:
        *(int64_t *)place(field, out) = isnan(field->standard) ? PARAMETER_ABSENT : (int64_t)field->standard;
        break;
    case FIELD_NUMBER:
        *(double *)place(field, out) = field->standard;
        break;
    default:
        *(const json_t **)place(field, out) = NULL;
    }
}

static bool type_fits(const struct schema_field *field, const json_t *value) {
    int64_t whole;
    switch (field->type) {
    case FIELD_BOOLEAN:
        return json_is_boolean(value);
    case FIELD_INTEGER:
        return schema_whole_number(value, &whole) && (double)whole >= field->min && (double)whole <= field->max;
    case FIELD_NUMBER:
        return json_is_number(value) && json_number_value(value) >= field->min &&
               json_number_value(value) <= field->max;
    case FIELD_STRING:
        return json_is_string(value);
    case FIELD_OBJECT:
        return json_is_object(value);
    case FIELD_VALUE:
        return true;
    }
    return false;
}

static void store(const struct schema_field *field, const json_t *value, struct parameters *out) {
    switch (field->type) {
    case FIELD_BOOLEAN:
        *(bool *)place(field, out) = json_is_true(value);
        break;
    case FIELD_INTEGER:
        schema_whole_number(value, place(field, out));
        break;
    case FIELD_NUMBER:
        *(double *)place(field, out) = json_number_value(value);
        break;
    default:
        *(const json_t **)place(field, out) = value;
    }
}

// As JSON Schema has it: 1.0 is 1.
static bool equal(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static int refuse(const struct schema_field *field, const json_t *value, struct error *error) {
    bool asks_nothing = false;
    json_t *accepted = field->accepts ? json_loads(field->accepts, 0, NULL) : NULL;
    if (field->accepts && !accepted) return error_set_code(error, ERROR_MEMORY);
    for (size_t i = 0; i < json_array_size(accepted); i++) asks_nothing |= equal(json_array_get(accepted, i), value);
    json_decref(accepted);
    if (asks_nothing) return ERROR_NONE;
    return error_set_param(error, ERROR_UNSUPPORTED, field->name, "'%s' is refused: %s", field->name, field->help);
}

static int read_field(const struct schema_field *field, const struct schema_reading *reading, const json_t *value,
                      struct error *error) {
    char expected[160];
    if (!type_fits(field, value)) {
        schema_describe(field, expected, sizeof expected);
        return schema_mismatch(error, field->name, expected, value);
    }
    switch (field->use) {
    case USE_STORE:
        store(field, value, reading->out);
        break;
    case USE_READ:
        return field->read(reading, value, error);
    case USE_NOTHING:
        break;
    case USE_REFUSE:
        return refuse(field, value, error);
    }
    return ERROR_NONE;
}

static const struct schema_field *find(unsigned endpoint, const char *name) {
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->endpoints & endpoint && strcmp(field->name, name) == 0) return field;
    return NULL;
}

static int check_names(unsigned endpoint, const json_t *body, struct error *error) {
    for (void *at = json_object_iter((json_t *)body); at; at = json_object_iter_next((json_t *)body, at)) {
        const char *name = json_object_iter_key(at);
        if (find(endpoint, name) || json_is_null(json_object_iter_value(at))) continue;
        struct nearest nearest;
        nearest_init(&nearest, name, strlen(name));
        for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
            if (field->endpoints & endpoint) nearest_consider(&nearest, field->name, strlen(field->name));
        return unrecognized(error, name, &nearest);
    }
    return ERROR_NONE;
}

// What one field means beside another.
static int merge(unsigned endpoint, struct parameters *p, struct error *error) {
    if (p->tokens_max == PARAMETER_ABSENT) p->tokens_max = p->max_completion_tokens;
    if (p->max_completion_tokens != PARAMETER_ABSENT && p->max_completion_tokens != p->tokens_max)
        return error_set_param(error, ERROR_ARGUMENT, "max_tokens",
                               "'max_tokens' (%" PRId64 ") and 'max_completion_tokens' (%" PRId64
                               ") mean the same and differ; give one of them",
                               p->tokens_max, p->max_completion_tokens);
    if (p->tokens_max == PARAMETER_ABSENT) p->tokens_max = endpoint == FOR_CHAT ? -1 : 16;

    if (isnan(p->repetition_penalty)) p->repetition_penalty = p->repeat_penalty;
    if (!isnan(p->repeat_penalty) && p->repeat_penalty != p->repetition_penalty)
        return error_set_param(error, ERROR_ARGUMENT, "repetition_penalty",
                               "'repetition_penalty' (%g) and 'repeat_penalty' (%g) mean the same and differ; "
                               "give one of them",
                               p->repetition_penalty, p->repeat_penalty);
    if (isnan(p->repetition_penalty)) p->repetition_penalty = 1;

    if (p->best_of != PARAMETER_ABSENT && p->best_of != p->n)
        return error_set_param(error, ERROR_UNSUPPORTED, "best_of",
                               "'best_of' (%" PRId64 ") must equal 'n' (%" PRId64 ")", p->best_of, p->n);

    if (endpoint == FOR_COMPLETION) p->logprobs = p->top_logprobs != PARAMETER_ABSENT;
    if (p->top_logprobs > 0 && !p->logprobs)
        return error_set_param(error, ERROR_ARGUMENT, "top_logprobs", "'top_logprobs' requires 'logprobs' to be true");
    if (p->top_logprobs == PARAMETER_ABSENT) p->top_logprobs = 0;
    if (p->top_k < 0) p->top_k = 0;
    return ERROR_NONE;
}

int schema_read(unsigned endpoint, const json_t *body, const struct engine_info *info, struct arena *arena,
                struct parameters *out, struct error *error) {
    struct schema_reading reading = {out, arena, info};
    *out = (struct parameters){.best_of = PARAMETER_ABSENT, .top_logprobs = PARAMETER_ABSENT};
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->endpoints & endpoint && field->use == USE_STORE) store_standard(field, out);

    // Unknown names first: a slip of the pen is the likelier cause of whatever else is wrong.
    int code = check_names(endpoint, body, error);
    if (code != 0) return code;
    // In the table's order: stream comes before stream_options.
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++) {
        const json_t *value = field->endpoints & endpoint ? json_object_get(body, field->name) : NULL;
        if (!value || json_is_null(value)) continue;
        code = read_field(field, &reading, value, error);
        if (code != 0) return code;
    }
    return merge(endpoint, out, error);
}
