#include "api/model_names.h"

#include "base/buffer.h"

#include <string.h>

enum { LIST_BYTES_MAX = 256 }; // of what an error says; further names are left out there

static const char *all_names(const struct engine_info *info) {
    return info->model_names ? info->model_names : info->model_name;
}

// The next of "a,b": its bytes, and *at behind its comma.
static size_t next_name(const char **at, const char **name) {
    size_t bytes = strcspn(*at, ",");
    *name = *at;
    *at += bytes + ((*at)[bytes] == ',');
    return bytes;
}

static void list(const struct engine_info *info, struct buffer *out) {
    const char *name;
    for (const char *at = all_names(info); *at && out->bytes < LIST_BYTES_MAX;) {
        size_t bytes = next_name(&at, &name);
        buffer_format(out, "%s'%.*s'", out->bytes ? ", " : "", (int)bytes, name);
    }
}

int model_names_check(const struct engine_info *info, const char *name, struct error *error) {
    const char *known;
    for (const char *at = all_names(info); *at;) {
        size_t bytes = next_name(&at, &known);
        if (strlen(name) == bytes && memcmp(name, known, bytes) == 0) return 0;
    }
    struct buffer names;
    buffer_init(&names, 4 * LIST_BYTES_MAX);
    list(info, &names);
    int code =
        error_set_param(error, ERROR_MODEL_NOT_FOUND, "model", "The model '%.64s' does not exist; this server has %s",
                        name, names.data ? names.data : "another");
    buffer_finish(&names);
    return code;
}
