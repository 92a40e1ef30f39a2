// The table of weight formats (engine/engine.h), read.
#include "engine/engine.h"

#include <string.h>

static const struct {
    const char *name;
    size_t outputs, columns, bytes;
} FORMATS[] = {
#define WEIGHT_ROW(format, name, outputs, columns, bytes) {name, outputs, columns, bytes},
    WEIGHT_FORMATS(WEIGHT_ROW)
#undef WEIGHT_ROW
};

const char *weight_format_name(enum weight_format format) {
    return FORMATS[format].name;
}

size_t weight_format_bytes(enum weight_format format, int rows, int columns) {
    size_t high = ((size_t)rows + FORMATS[format].outputs - 1) / FORMATS[format].outputs;
    size_t wide = ((size_t)columns + FORMATS[format].columns - 1) / FORMATS[format].columns;
    return high * wide * FORMATS[format].bytes;
}

enum weight_format weight_format_fine(enum weight_format format) {
    return format == WEIGHTS_INT4 ? WEIGHTS_INT8 : format;
}

bool weight_format_parse(const char *name, enum weight_format *out) {
    WEIGHT_FORMATS(NAMED_MATCH)
    return false;
}
