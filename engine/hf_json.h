// Reading the JSON files of a Hugging Face model directory: bounded, checked, and with messages that name the
// file, the key, what was found and what was expected. Pure functions over jansson values.
#ifndef ENGINE_HF_JSON_H
#define ENGINE_HF_JSON_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

// Parses a file of at most bytes_max bytes whose top is an object; nesting and the number of values are bounded,
// a key may not come twice. ERROR_NOT_FOUND: there is no such file. The caller owns *out.
int hf_json_load(const char *path, size_t bytes_max, json_t **out, struct error *error);
// The same from memory; `path` is for messages.
int hf_json_parse(const char *text, size_t bytes, const char *path, json_t **out, struct error *error);

// A required integer in [min, max]. 4096.0 is one too: files with an integer beyond 64 bits are read as reals.
int hf_json_int(const json_t *object, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                struct error *error);
// The same, with `otherwise` where the key is absent or null.
int hf_json_int_or(const json_t *object, const char *path, const char *key, int64_t min, int64_t max,
                   int64_t otherwise, int64_t *out, struct error *error);
// A number in [min, max]; required, or with a default.
int hf_json_real(const json_t *object, const char *path, const char *key, double min, double max, double *out,
                 struct error *error);
int hf_json_real_or(const json_t *object, const char *path, const char *key, double min, double max,
                    double otherwise, double *out, struct error *error);
int hf_json_bool_or(const json_t *object, const char *path, const char *key, bool otherwise, bool *out,
                    struct error *error);
// A required string; it belongs to the object.
int hf_json_string(const json_t *object, const char *path, const char *key, const char **out, struct error *error);

// "an integer", "a string", …: what a value is, for messages.
const char *hf_json_kind(const json_t *value);

#endif
