#include "api/json.h"

#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

// ---- Reading

// Counts brackets and commas outside strings. Whether they match is the parser's business.
static int check_bounds(const char *what, const char *body, size_t bytes, struct error *error) {
    size_t depth = 0, containers = 0, values = 1;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = body[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == ',') {
            values++;
        } else if (c == '[' || c == '{') {
            containers++;
            if (++depth > JSON_DEPTH_MAX)
                return error_set(error, ERROR_ARGUMENT, "%s nests deeper than %d levels", what, JSON_DEPTH_MAX);
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    if (containers > JSON_CONTAINERS_MAX)
        return error_set(error, ERROR_ARGUMENT, "%s holds %zu objects and arrays, at most %d are allowed", what,
                         containers, JSON_CONTAINERS_MAX);
    if (values > JSON_VALUES_MAX)
        return error_set(error, ERROR_ARGUMENT, "%s holds more than %d values", what, JSON_VALUES_MAX);
    return ERROR_NONE;
}

// What people write that is not JSON. NULL: nothing that is known.
static const char *slip(const char *body, const json_error_t *cause) {
    size_t at = cause->position > 0 ? (size_t)cause->position - 1 : 0; // the last byte that was read
    bool closes = body[at] == '}' || body[at] == ']';
    if (strstr(cause->text, "near '''"))
        return "a single quote (') stands where only double quotes (\") can; some shells pass on those around it";
    if (strstr(cause->text, "near 'True'") || strstr(cause->text, "near 'False'") || strstr(cause->text, "near 'None'"))
        return "it is true, false and null in JSON, not True, False and None";
    while (closes && at > 0 && strchr(" \t\r\n", body[at - 1])) at--;
    return closes && at > 0 && body[at - 1] == ',' ? "a comma stands before a closing bracket" : NULL;
}

// Words of our own: the parser's would quote the body.
static const char *syntax_text(const char *body, const json_error_t *cause) {
    switch (json_error_code(cause)) {
    case json_error_invalid_utf8:
        return "it is not valid UTF-8";
    case json_error_premature_end_of_input:
        return "it ends too early";
    case json_error_end_of_input_expected:
        return "something follows the object";
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return "NUL characters (\\u0000) are not allowed";
    case json_error_duplicate_key:
        return "a key is given twice";
    case json_error_numeric_overflow:
        return "a number is too large";
    default:
        break;
    }
    if (strstr(cause->text, "Unicode")) return "a surrogate (\\ud800 to \\udfff) stands alone";
    const char *known = slip(body, cause);
    return known ? known : "it does not parse";
}

static const char *kind(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_NULL:
        return "null";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "a number";
    }
}

json_t *json_read(const char *what, const char *body, size_t bytes, struct error *error) {
    if (bytes == 0) {
        error_set(error, ERROR_ARGUMENT, "%s is empty, a JSON object was expected", what);
        return NULL;
    }
    if (check_bounds(what, body, bytes, error) != 0) return NULL;

    json_error_t cause = {0};
    json_t *root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &cause);
    bool no_memory = json_error_code(&cause) == json_error_out_of_memory || cause.text[0] == '\0';
    if (!root && no_memory) { // the parser gives no reason when it runs out of memory
        error_set_code(error, ERROR_MEMORY);
    } else if (!root) {
        error_set(error, ERROR_ARGUMENT, "%s is not valid JSON: %s (line %d, column %d)", what,
                  syntax_text(body, &cause), cause.line, cause.column);
    } else if (!json_is_object(root)) {
        error_set(error, ERROR_ARGUMENT, "%s must be a JSON object, got %s", what, kind(root));
        json_decref(root);
        root = NULL;
    }
    return root;
}

// ---- Writing

// What must not stand in a string as it is. Beyond JSON's own list these are the characters that some clients'
// line readers take for the end of a line, which would tear an event of a stream: U+0085, U+2028, U+2029.
static bool is_escaped(uint32_t c) {
    return c < 0x20 || c == '"' || c == '\\' || c == 0x85 || c == 0x2028 || c == 0x2029;
}

static void write_escaped(struct buffer *out, uint32_t c) {
    switch (c) {
    case '"':
        buffer_append(out, "\\\"", 2);
        break;
    case '\\':
        buffer_append(out, "\\\\", 2);
        break;
    case '\n':
        buffer_append(out, "\\n", 2);
        break;
    case '\r':
        buffer_append(out, "\\r", 2);
        break;
    case '\t':
        buffer_append(out, "\\t", 2);
        break;
    default:
        buffer_format(out, "\\u%04x", (unsigned)c);
    }
}

void json_write_string(struct buffer *out, const char *text, size_t bytes) {
    buffer_append(out, "\"", 1);
    if (bytes == 0) text = ""; // it may be NULL
    size_t plain = 0;          // start of the run that can be copied as it is
    for (size_t at = 0; at < bytes;) {
        uint32_t c = 0;
        size_t width = utf8_decode(text + at, bytes - at, &c);
        if (width > 0 && !is_escaped(c)) {
            at += width;
            continue;
        }
        buffer_append(out, text + plain, at - plain);
        if (width > 0)
            write_escaped(out, c);
        else
            buffer_append(out, "\xef\xbf\xbd", 3);
        at += width > 0 ? width : 1;
        plain = at;
    }
    buffer_append(out, text + plain, bytes - plain);
    buffer_append(out, "\"", 1);
}

void json_write_text(struct buffer *out, const char *text) {
    json_write_string(out, text, strlen(text));
}
