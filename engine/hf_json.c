#include "engine/hf_json.h"

#include "base/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 64,          // nesting of arrays and objects; the files of a model need 8
    VALUES_MAX = 2000000,    // a value takes up to 100 bytes once parsed; a vocabulary of 150,000 needs 600,000
    FOUND_BYTES = 96,        // of a value quoted in a message
    QUOTED_CHARACTERS = 40,  // of a string quoted in a message
};

static const double INTEGER_REAL_MAX = 9007199254740992.0; // 2^53: beyond it a double skips integers

// What the parser would spend is known before it spends it: one pass over the text bounds depth and values.
static int scan(const char *text, size_t bytes, const char *path, struct error *error) {
    size_t depth = 0, values = 1;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') i++;
            if (c == '"') in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c == ']' || c == '}') depth -= depth > 0;
        if (c == ',') values++;
        if (c == '[' || c == '{') {
            values++;
            if (++depth > DEPTH_MAX)
                return error_set(error, ERROR_FORMAT, "%s: JSON nested more than %d deep", path, DEPTH_MAX);
        }
        if (values > VALUES_MAX)
            return error_set(error, ERROR_FORMAT, "%s: more than %d JSON values", path, VALUES_MAX);
    }
    return 0;
}

int hf_json_parse(const char *text, size_t bytes, const char *path, json_t **out, struct error *error) {
    int rc = scan(text, bytes, path, error);
    if (rc) return rc;

    json_error_t cause = {0}; // out of memory jansson may leave it as it is
    json_t *top = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &cause);
    // Tokenizers write "no limit" as 10^30, which no integer of ours holds: then every number becomes a real.
    if (!top && json_error_code(&cause) == json_error_numeric_overflow)
        top = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &cause);
    if (!top) {
        if (json_error_code(&cause) == json_error_out_of_memory)
            return error_set(error, ERROR_MEMORY, "%s: out of memory while parsing", path);
        return error_set(error, ERROR_FORMAT, "%s: not valid JSON at line %d, column %d: %s", path, cause.line,
                         cause.column, cause.text);
    }
    if (!json_is_object(top)) {
        error_set(error, ERROR_FORMAT, "%s: expected an object, found %s", path, hf_json_kind(top));
        json_decref(top);
        return ERROR_FORMAT;
    }
    *out = top;
    return 0;
}

int hf_json_load(const char *path, size_t bytes_max, json_t **out, struct error *error) {
    char *text;
    size_t bytes;
    int rc = file_load(path, bytes_max, &text, &bytes, error);
    if (rc) return rc;
    rc = hf_json_parse(text, bytes, path, out, error);
    free(text);
    return rc;
}

const char *hf_json_kind(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return "an unknown value";
}

// The value itself where it is short, its kind where it is not.
static const char *found(const json_t *value, char text[FOUND_BYTES]) {
    if (json_is_integer(value))
        snprintf(text, FOUND_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, FOUND_BYTES, "%.10g", json_real_value(value));
    else if (json_is_string(value))
        snprintf(text, FOUND_BYTES, "\"%.*s\"", QUOTED_CHARACTERS, json_string_value(value));
    else
        snprintf(text, FOUND_BYTES, "%s", hf_json_kind(value));
    return text;
}

static bool absent(const json_t *value) {
    return !value || json_is_null(value);
}

static bool whole_number(const json_t *value, int64_t *out) {
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double real = json_is_real(value) ? json_real_value(value) : NAN;
    if (!(fabs(real) <= INTEGER_REAL_MAX) || real != floor(real)) return false;
    *out = (int64_t)real;
    return true;
}

int hf_json_int(const json_t *object, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                struct error *error) {
    const json_t *value = json_object_get(object, key);
    int64_t number;
    if (!whole_number(value, &number) || number < min || number > max) {
        char text[FOUND_BYTES];
        if (min == max)
            return error_set(error, ERROR_FORMAT, "%s: %s: expected %" PRId64 ", found %s", path, key, min,
                             found(value, text));
        return error_set(error, ERROR_FORMAT, "%s: %s: expected an integer from %" PRId64 " to %" PRId64 ", found %s",
                         path, key, min, max, found(value, text));
    }
    *out = number;
    return 0;
}

int hf_json_int_or(const json_t *object, const char *path, const char *key, int64_t min, int64_t max,
                   int64_t otherwise, int64_t *out, struct error *error) {
    if (!absent(json_object_get(object, key))) return hf_json_int(object, path, key, min, max, out, error);
    *out = otherwise;
    return 0;
}

int hf_json_real(const json_t *object, const char *path, const char *key, double min, double max, double *out,
                 struct error *error) {
    const json_t *value = json_object_get(object, key);
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= min && number <= max)) {
        char text[FOUND_BYTES];
        return error_set(error, ERROR_FORMAT, "%s: %s: expected a number from %g to %g, found %s", path, key, min, max,
                         found(value, text));
    }
    *out = number;
    return 0;
}

int hf_json_real_or(const json_t *object, const char *path, const char *key, double min, double max,
                    double otherwise, double *out, struct error *error) {
    if (!absent(json_object_get(object, key))) return hf_json_real(object, path, key, min, max, out, error);
    *out = otherwise;
    return 0;
}

int hf_json_bool_or(const json_t *object, const char *path, const char *key, bool otherwise, bool *out,
                    struct error *error) {
    const json_t *value = json_object_get(object, key);
    if (!absent(value) && !json_is_boolean(value)) {
        char text[FOUND_BYTES];
        return error_set(error, ERROR_FORMAT, "%s: %s: expected true or false, found %s", path, key,
                         found(value, text));
    }
    *out = absent(value) ? otherwise : json_is_true(value);
    return 0;
}

int hf_json_string(const json_t *object, const char *path, const char *key, const char **out, struct error *error) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value)) {
        char text[FOUND_BYTES];
        return error_set(error, ERROR_FORMAT, "%s: %s: expected a string, found %s", path, key, found(value, text));
    }
    *out = json_string_value(value);
    return 0;
}
