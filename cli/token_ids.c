#include "cli/token_ids.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES_MAX = 40 }; // of what is wrong

static int add(struct token_list *ids, int32_t id, struct error *error) {
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64;
        int32_t *more = reallocarray(ids->ids, capacity, sizeof *more);
        if (!more) return error_set_code(error, ERROR_MEMORY);
        ids->ids = more;
        ids->capacity = capacity;
    }
    ids->ids[ids->count++] = id;
    return 0;
}

int token_ids_read(const char *text, struct token_list *out, struct error *error) {
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        size_t bytes = strcspn(at, ",");
        if (*at < '0' || *at > '9' || errno || id > INT32_MAX || end != at + bytes)
            return error_set(error, ERROR_ARGUMENT,
                             "`%.*s` is no token id; they are numbers with commas in between: 1,2,3",
                             (int)(bytes < SHOWN_BYTES_MAX ? bytes : SHOWN_BYTES_MAX), at);
        int code = add(out, (int32_t)id, error);
        if (code || !*end) return code;
        at = end;
    }
}
