// What can be known before an engine is opened: of a model's directory, of this machine, of OpenCL's devices. Any
// thread, where nothing else is said.
#ifndef ENGINE_INSPECT_H
#define ENGINE_INSPECT_H

#include "engine/engine.h"

struct engine_special_token {
    int32_t id;
    char *text;
    bool ends_answer;
};

// What a model's directory says of it. Texts and specials are its own; engine_outline_finish frees them.
struct engine_outline {
    char *model_name;
    const char *architecture;
    int layers, hidden, heads, kv_heads, head_dim, experts, experts_per_token, expert_width;
    int vocab_size, context_tokens, window_tokens; // of attention; the context where there is no window
    uint64_t parameters, parameters_active;
    size_t file_count, file_bytes; // of weights
    const char *file_weights;      // how most of them are held there: "BF16"
    size_t weight_bytes[WEIGHT_FORMAT_COUNT]; // once opened in that format
    size_t kv_bytes_per_token; // once opened with that format of keys and values
    int token_count; // those the tokenizer knows; 0: it could not be read, and what follows is not known either
    const char *chat_template;
    bool chat_template_assumed; // the files have none: it is what the special tokens suggest
    struct engine_special_token *specials; // [special_count], by id
    int special_count;
    struct error unsupported; // code not ERROR_NONE: why engine_open would refuse what is described here
};

// Reads configs, the headers of the checkpoint and the tokenizer, and checks them as engine_open does, with the same
// errors; no weight is read. Only what is sound but not supported is described all the same, as far as it goes.
int engine_inspect(struct engine_outline *out, const char *model_dir, enum kv_format kv, struct error *error);
void engine_outline_finish(struct engine_outline *outline);

// What this process may use: bytes of memory that are free (0: unknown), physical cores
// (engine/machine.h says which).
struct engine_machine {
    size_t memory_bytes;
    size_t cache_bytes; // of the processor's largest cache; 0: unknown
    int cores;
};
struct engine_machine engine_machine(void);

// The KV cache of a model in that format on that machine, in tokens: what engine_open takes where no size is asked for,
// and the largest that it takes (SIZE_MAX where the free memory is not known). sequences_max as in engine_options.
struct engine_kv_sizes {
    size_t standard, most;
};
struct engine_kv_sizes engine_kv_sizes(const struct engine_outline *model, enum weight_format weights,
                                       const struct engine_machine *machine, int sequences_max);

// What OpenCL has here. Loads its drivers into the process; any thread, one at a time, while no engine is open.
struct engine_opencl_device {
    char name[128], platform[128], driver[64];
    bool gpu;
    const char *refused; // "has no compiler": why it will not do; NULL: it will
    const char *kernels; // "sub-group": those it gets
};
enum { ENGINE_OPENCL_DEVICES_MAX = 16 };
// Up to so many devices, and how many there are. ERROR_UNSUPPORTED: no library, or no driver.
int engine_opencl_devices(struct engine_opencl_device out[ENGINE_OPENCL_DEVICES_MAX], int *count, struct error *error);

#endif
