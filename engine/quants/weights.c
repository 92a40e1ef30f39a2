// The table of weight formats (engine/engine.h), read.
#include "engine/engine.h"

#include <string.h>

const char *weight_format_name(enum weight_format format) {
    switch (format) {
#define WEIGHT_CASE(name, text, bytes) \
    case name: return text;
        WEIGHT_FORMATS(WEIGHT_CASE)
#undef WEIGHT_CASE
    }
    return "unknown";
}

size_t weight_format_bytes(enum weight_format format) {
    switch (format) {
#define WEIGHT_CASE(name, text, bytes) \
    case name: return bytes;
        WEIGHT_FORMATS(WEIGHT_CASE)
#undef WEIGHT_CASE
    }
    return 0;
}

bool weight_format_parse(const char *name, enum weight_format *out) {
#define WEIGHT_MATCH(format, text, bytes) \
    if (strcmp(name, text) == 0) { \
        *out = format; \
        return true; \
    }
    WEIGHT_FORMATS(WEIGHT_MATCH)
#undef WEIGHT_MATCH
    return false;
}
