// The fields of a generating request, as one table: name, endpoints, type, range, default, meaning. Parsing and the
// documentation come from it. Every field is honoured, accepted as documented without effect, or refused by name;
// null is the same as absent. Pure; any thread.
#ifndef API_SCHEMA_H
#define API_SCHEMA_H

#include "base/arena.h"
#include "base/buffer.h"
#include "engine/engine.h"

#include <jansson.h>

enum { FOR_CHAT = 1, FOR_COMPLETION = 2, FOR_BOTH = FOR_CHAT | FOR_COMPLETION }; // endpoints

enum {
    SCHEMA_CHOICES_MAX = 16,      // n
    SCHEMA_STOP_BYTES_MAX = 1024, // of one stop string
    SCHEMA_BIASES_MAX = 1024,     // entries of logit_bias
};

#define PARAMETER_ABSENT INT64_MIN // an integer that was not given; a number that was not given is NAN

// What a body says, checked and with its defaults.
struct parameters {
    bool stream, include_usage, logprobs, echo, ignore_eos, parse_special;
    int64_t n, tokens_max; // tokens_max -1: what the context has room for
    int64_t top_logprobs;  // 0..20
    int64_t top_k;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    bool seed_given;
    int64_t seed;
    struct text_span stops[ENGINE_STOPS_MAX]; // in the arena
    int stop_count;
    const struct logit_bias *bias; // [bias_count], in the arena
    size_t bias_count;
    const json_t *messages, *prompt, *prediction; // unchecked; live as long as the body; NULL: absent

    int64_t best_of, max_completion_tokens; // other names and companions of the above, merged into them
    double repeat_penalty;
};

// Reads all fields of a body. endpoint is FOR_CHAT or FOR_COMPLETION.
int schema_read(unsigned endpoint, const json_t *body, const struct engine_info *info, struct arena *arena,
                struct parameters *out, struct error *error);

// A whole number, whether written 3 or 3.0. False: it is none.
bool schema_whole_number(const json_t *value, int64_t *out);

// An error that says what was found: "'field' must be <expected>, got <value>". Returns ERROR_ARGUMENT.
int schema_mismatch(struct error *error, const char *field, const char *expected, const json_t *value);

// An error where an object has a member beside the two that are known, and not null: which one was meant, perhaps.
int schema_check_members(struct error *error, const char *field, const json_t *object, const char *const known[2]);

// The table for people: plain text, lines of 90 columns at most.
void schema_text(struct buffer *out);

// And for programs: the JSON Schema of a body as lines of YAML, each with so many spaces in front.
void schema_openapi(unsigned endpoint, int indent, struct buffer *out);

#endif
