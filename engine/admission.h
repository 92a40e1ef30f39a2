// Admission: whether a request is sound and can ever run here. Pure; any thread.
#ifndef ENGINE_ADMISSION_H
#define ENGINE_ADMISSION_H

#include "engine/engine.h"

struct admission_limits {
    int vocab_size;
    size_t context_tokens; // the model's
    size_t kv_tokens;      // capacity of the whole KV cache
};

// Checks every field of a request and sets *tokens_max to the number of tokens it may generate.
// ERROR_CONTEXT_LENGTH and ERROR_KV_CAPACITY name the numbers; ERROR_ARGUMENT names the value and its range.
int admission_check(const struct engine_request *request, const struct admission_limits *limits, size_t *tokens_max,
                    struct error *error);

#endif
