// What the files of attention share. The engine thread plans the tasks; each is run by one thread of the team.
#ifndef ENGINE_CPU_ATTENTION_H
#define ENGINE_CPU_ATTENTION_H

#include "engine/cpu/cpu.h"

struct attention_task {
    const struct batch_sequence *sequence;
    bool prompt; // all of its blocks take the same way through the scores, whatever rows they have
    int kv_head;
    int first, rows;           // query rows: position-major, the heads of the group inside
    int page_first, page_last; // key pages [first, last) within the sequence
    int part, parts;           // of the keys
    size_t partial;            // first row in cpu->partial, where there are several parts
};

// What a call works on.
struct attention_call {
    const struct cpu *cpu;
    const struct attention *attention;
    const struct kv_cache *cache;
    int layer, group; // query heads for each key and value head
    float *q, *k, *out;
    const float *v;
};

// First and last position + 1 of the keys that query rows [first, last) of a sequence see.
struct share attention_keys(const struct attention_call *call, const struct batch_sequence *sequence, int first,
                            int last);

static inline const struct row_kernels *attention_rows(const struct attention_call *call) {
    return &call->cpu->kernels->rows[call->cache->format];
}

// The first `count` keys or values of a block as floats: where they are, or in `room` [count][head_dim].
const float *attention_floats(const struct attention_call *call, void *block, int count, float *room);

// Which vector of q and out belongs to a query row of a task.
static inline int attention_vector(const struct attention_call *call, const struct attention_task *task, int r) {
    int row = task->first + r, token = task->sequence->first + row / call->group;
    return token * call->attention->heads + task->kv_head * call->group + row % call->group;
}

// ---- attention_many.c: queries of a prompt, in bf16

// Whether rows of prompts, or others, are computed that way.
static inline bool attention_many(const struct attention_call *call, bool prompt) {
    return prompt && call->attention->narrow && call->cpu->attention_kernels;
}

size_t attention_many_floats(int head_dim); // of scratch

// Query rows of a task, where there are so many rows of prompts in all: few enough that every thread has some tasks, at
// least ATTENTION_ROWS.
int attention_many_rows(const struct attention_call *call, int prompts);

// Turns the queries itself.
void attention_many_task(const struct attention_call *call, const struct attention_task *task);

#endif
