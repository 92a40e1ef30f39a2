#include "cli/sampling_settings.h"

#include "api/ranges.h"
#include "api/schema.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define AT(member) offsetof(struct sampling_settings, member)
#define ROW(...) ROW_(__VA_ARGS__) // a range of api/ranges.h is three arguments
#define ROW_(member, flag, type, least, most, standard, help) \
    { "sampling." #member, flag, NULL, type, AT(member), least, most, NULL, #standard, "", help }

const struct setting SAMPLING_SETTINGS[] = {
    ROW(max_tokens, "--max-tokens", SETTING_INT, 0, INT32_MAX, 0,
        "new tokens at most; 0: as many as the context has room for"),
    ROW(temperature, "--temperature", SETTING_NUMBER, RANGE_TEMPERATURE,
        "how daring the choice of a token is: 0 always takes the most likely, 1 follows the model's own chances"),
    ROW(top_p, "--top-p", SETTING_NUMBER, RANGE_TOP_P, "choose among the most likely tokens that make up this share"),
    ROW(top_k, "--top-k", SETTING_INT, RANGE_TOP_K, "choose among so many of the most likely; 0 and -1: all"),
    ROW(min_p, "--min-p", SETTING_NUMBER, RANGE_MIN_P, "drop what is less likely than this share of the most likely"),
    ROW(repetition_penalty, "--repetition-penalty", SETTING_NUMBER, RANGE_REPETITION_PENALTY,
        "divides the logits of tokens seen in prompt and answer; 1: off"),
    ROW(presence_penalty, "--presence-penalty", SETTING_NUMBER, RANGE_PENALTY,
        "taken from the logit of each token in the answer"),
    ROW(frequency_penalty, "--frequency-penalty", SETTING_NUMBER, RANGE_PENALTY,
        "the same, times how often it occurs there"),
    {"sampling.seed", "--seed", NULL, SETTING_TEXT, AT(seed), 0, 0, NULL, "", "",
     "a whole number of 64 bits: the same seed, prompt and settings give the same text; without it another each time"},
    {"sampling.stop", "--stop", NULL, SETTING_TEXTS, AT(stops), 0, ENGINE_STOPS_MAX, NULL, "", "",
     "the text ends before the first of these"},
    {.flag = NULL},
};

// Signed, as over the API.
static int read_seed(const char *text, uint64_t *out, struct error *error) {
    char *end;
    errno = 0;
    const char *digits = text + (text[0] == '-');
    int64_t seed = strtoll(text, &end, 10);
    if (*digits < '0' || *digits > '9' || *end || errno)
        return error_set(error, ERROR_ARGUMENT,
                         "--seed is `%.60s`, but must be a whole number from %" PRId64 " to %" PRId64, text, INT64_MIN,
                         INT64_MAX);
    *out = (uint64_t)seed;
    return 0;
}

static int draw_seed(uint64_t *out, struct error *error) {
    if (getrandom(out, sizeof *out, 0) == (ssize_t)sizeof *out) return 0;
    return error_set(error, ERROR_INTERNAL, "the system gives no random numbers");
}

static int take_stops(const struct setting_texts *stops, struct engine_request *out, struct error *error) {
    out->stop_count = (int)stops->count;
    for (size_t i = 0; i < stops->count; i++) {
        out->stops[i] = (struct text_span){stops->items[i], strlen(stops->items[i])};
        if (out->stops[i].bytes > SCHEMA_STOP_BYTES_MAX)
            return error_set(error, ERROR_ARGUMENT, "--stop has a text of %zu bytes, at most %d are possible",
                             out->stops[i].bytes, SCHEMA_STOP_BYTES_MAX);
    }
    return 0;
}

int sampling_settings_request(const struct sampling_settings *settings, struct engine_request *out,
                              struct error *error) {
    uint64_t seed = 0;
    int code = settings->seed[0] ? read_seed(settings->seed, &seed, error) : draw_seed(&seed, error);
    if (!code) code = take_stops(&settings->stops, out, error);
    if (code) return code;
    out->tokens_max = settings->max_tokens > 0 ? settings->max_tokens : -1;
    out->sampling = (struct sampling){
        .temperature = (float)settings->temperature,
        .top_p = (float)settings->top_p,
        .min_p = (float)settings->min_p,
        .top_k = settings->top_k > 0 ? settings->top_k : 0,
        .repetition_penalty = (float)settings->repetition_penalty,
        .presence_penalty = (float)settings->presence_penalty,
        .frequency_penalty = (float)settings->frequency_penalty,
        .seed = seed,
    };
    return 0;
}
