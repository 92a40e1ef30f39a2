// One row of the table of fields, for those who read requests by it and those who write about it: schema.c and
// schema_text.c.
#ifndef API_SCHEMA_FIELD_H
#define API_SCHEMA_FIELD_H

#include "api/schema.h"

struct schema_reading; // what is at hand while a field is read

enum field_type { FIELD_BOOLEAN, FIELD_INTEGER, FIELD_NUMBER, FIELD_STRING, FIELD_OBJECT, FIELD_VALUE };

enum field_use {
    USE_STORE,   // checked against type and range, stored at offset
    USE_READ,    // by a function
    USE_NOTHING, // checked against the type; without effect
    USE_REFUSE,  // unless the value is one of `accepts`
};

struct schema_field {
    const char *name;
    unsigned endpoints;
    enum field_use use;
    enum field_type type;
    double min, max; // FIELD_INTEGER and FIELD_NUMBER
    double standard; // USE_STORE: the value when absent; NAN: none
    size_t offset;   // USE_STORE: in struct parameters
    int (*read)(const struct schema_reading *reading, const json_t *value, struct error *error); // USE_READ
    const char *accepts; // USE_REFUSE: a JSON array of the values that ask for nothing; NULL: none
    const char *value;   // words for type and range where those do not say it all
    const char *schema;  // FIELD_VALUE, but for USE_REFUSE: the same as members of a JSON Schema
    const char *absent;  // words for the default, likewise
    const char *help;    // the meaning, or why it is refused
};

#define FIELD_REQUIRED "required" // in the place of words for a default

extern const struct schema_field SCHEMA_FIELDS[]; // up to one without a name

// Type and range in words: "a number between 0 and 2".
void schema_describe(const struct schema_field *field, char *out, size_t bytes);

#endif
