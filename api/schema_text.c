// What is said of request fields: on the command line, in OpenAPI's YAML, and in errors.
#include "api/schema_field.h"

#include "api/json.h"
#include "base/wrap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_required(const struct schema_field *field) {
    return field->absent && strcmp(field->absent, FIELD_REQUIRED) == 0;
}

void schema_describe(const struct schema_field *field, char *out, size_t bytes) {
    const char *words = field->value ? field->value : "";
    switch (field->type) {
    case FIELD_INTEGER:
        snprintf(out, bytes, "an integer between %.0f and %.0f", field->min, field->max);
        return;
    case FIELD_NUMBER:
        snprintf(out, bytes, "a number between %g and %g", field->min, field->max);
        return;
    case FIELD_BOOLEAN:
        words = "true or false";
        break;
    case FIELD_STRING:
        words = "a string";
        break;
    case FIELD_OBJECT:
        words = "an object";
        break;
    case FIELD_VALUE:
        break;
    }
    snprintf(out, bytes, "%s", words);
}

// ---- For people

enum { VALUE_COLUMN = 28 };

// "a number between 0 and 2, default 1"
static void write_value(const struct schema_field *field, char *out, size_t bytes) {
    char value[160];
    schema_describe(field, value, sizeof value);
    if (field->use == USE_REFUSE)
        snprintf(out, bytes, "%s%s", field->accepts ? "only one of " : "no value",
                 field->accepts ? field->accepts : "");
    else if (field->use == USE_NOTHING)
        snprintf(out, bytes, "%s", value);
    else if (field->absent)
        snprintf(out, bytes, "%s, %s%s", value, is_required(field) ? "" : "default: ", field->absent);
    else if (field->type == FIELD_BOOLEAN)
        snprintf(out, bytes, "%s, default: false", value);
    else
        snprintf(out, bytes, "%s, default: %g", value, field->standard);
}

static void write_field(const struct schema_field *field, struct buffer *out) {
    static const char *const only[] = {[FOR_CHAT] = " (chat)", [FOR_COMPLETION] = " (completions)", [FOR_BOTH] = ""};
    char value[256];
    size_t start = out->bytes;
    buffer_format(out, "  %s%s ", field->name, only[field->endpoints]);
    size_t width = out->bytes - start;
    if (width <= VALUE_COLUMN)
        buffer_format(out, "%*s", (int)(VALUE_COLUMN - width), "");
    else
        buffer_format(out, "\n%*s", VALUE_COLUMN, "");
    write_value(field, value, sizeof value);
    wrap_text(out, value, VALUE_COLUMN, VALUE_COLUMN, WRAP_COLUMNS);
    buffer_format(out, "\n%*s", VALUE_COLUMN, "");
    wrap_text(out, field->help, VALUE_COLUMN, VALUE_COLUMN, WRAP_COLUMNS);
    buffer_text(out, "\n");
}

void schema_text(struct buffer *out) {
    buffer_text(out, "Honoured\n");
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->use == USE_STORE || field->use == USE_READ) write_field(field, out);
    buffer_text(out, "\nAccepted, without effect\n");
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->use == USE_NOTHING) write_field(field, out);
    buffer_text(out, "\nRefused, but for a value that asks for nothing\n");
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->use == USE_REFUSE) write_field(field, out);
    buffer_text(out, "\nEvery other field is an error that names it. null is the same as absent.\n");
}

// ---- For programs

// The members of a schema that say what is accepted; null is, wherever a field may be absent.
static void write_accepted(const struct schema_field *field, struct buffer *out) {
    static const char *const TYPES[] = {
        [FIELD_BOOLEAN] = "boolean", [FIELD_INTEGER] = "integer", [FIELD_NUMBER] = "number",
        [FIELD_STRING] = "string",   [FIELD_OBJECT] = "object",
    };
    if (field->use == USE_REFUSE && !field->accepts)
        buffer_text(out, "\"type\": \"null\"");
    else if (field->use == USE_REFUSE)
        buffer_format(out, "\"enum\": %.*s, null]", (int)strlen(field->accepts) - 1, field->accepts);
    else if (field->schema)
        buffer_text(out, field->schema);
    else
        buffer_format(out, "\"type\": [\"%s\", \"null\"]", TYPES[field->type]);
    if (field->type == FIELD_INTEGER)
        buffer_format(out, ", \"minimum\": %.0f, \"maximum\": %.0f", field->min, field->max);
    if (field->type == FIELD_NUMBER) buffer_format(out, ", \"minimum\": %g, \"maximum\": %g", field->min, field->max);
}

static void write_description(const struct schema_field *field, struct buffer *out) {
    static const char *const USES[] = {[USE_NOTHING] = "Without effect. ", [USE_REFUSE] = "Else refused: "};
    char text[512];
    const char *use = field->use == USE_NOTHING || field->use == USE_REFUSE ? USES[field->use] : "";
    bool words = field->absent && !is_required(field);
    snprintf(text, sizeof text, "%s%s%s%s%s", use, field->help, words ? " Default: " : "", words ? field->absent : "",
             words ? "." : "");
    buffer_text(out, ", \"description\": ");
    json_write_text(out, text);
}

void schema_openapi(unsigned endpoint, int indent, struct buffer *out) {
    buffer_format(out, "%*stype: object\n%*srequired:\n", indent, "", indent, "");
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++)
        if (field->endpoints & endpoint && is_required(field))
            buffer_format(out, "%*s- %s\n", indent + 2, "", field->name);
    buffer_format(out, "%*sadditionalProperties: {type: \"null\"}\n%*sproperties:\n", indent, "", indent, "");
    for (const struct schema_field *field = SCHEMA_FIELDS; field->name; field++) {
        if (!(field->endpoints & endpoint)) continue;
        buffer_format(out, "%*s%s: {", indent + 2, "", field->name);
        write_accepted(field, out);
        if (field->use == USE_STORE && field->type == FIELD_BOOLEAN) buffer_text(out, ", \"default\": false");
        bool number = field->type == FIELD_INTEGER || field->type == FIELD_NUMBER;
        if (number && !isnan(field->standard)) buffer_format(out, ", \"default\": %g", field->standard);
        write_description(field, out);
        buffer_text(out, "}\n");
    }
}
