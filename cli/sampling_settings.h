// The settings that every command which lets a model write takes: --max-tokens, --temperature and its like, --seed,
// --stop. Ranges and defaults are the API's.
#ifndef CLI_SAMPLING_SETTINGS_H
#define CLI_SAMPLING_SETTINGS_H

#include "base/settings.h"
#include "engine/engine.h"

struct sampling_settings {
    int max_tokens, top_k; // max_tokens 0: as many as the context has room for
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    char *seed; // "": another each time
    struct setting_texts stops;
};

extern const struct setting SAMPLING_SETTINGS[];

// Sets in a request what the settings say, and draws a seed where they say none; its other members stay. The request
// points into the settings. Checks what the table could not: ERROR_ARGUMENT.
int sampling_settings_request(const struct sampling_settings *settings, struct engine_request *out,
                              struct error *error);

#endif
