#include "engine/scheduler.h"

// The first prompt at or behind the turn that may run, going round; count when there is none.
static size_t find_prompt(const struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t at = (scheduler->turn % count + i) % count;
        if (!sequences[at].paused && sequences[at].prompt_left > 0) return at;
    }
    return count;
}

static bool any_decodes(const struct scheduler_sequence *sequences, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!sequences[i].paused && sequences[i].prompt_left == 0) return true;
    return false;
}

struct schedule scheduler_next(struct scheduler *scheduler, const struct scheduler_sequence *sequences, size_t count) {
    size_t prompt = find_prompt(scheduler, sequences, count);
    bool prefills = prompt < count, decodes = any_decodes(sequences, count);
    if (decodes && !(prefills && scheduler->decoded_last)) {
        scheduler->decoded_last = true;
        return (struct schedule){.kind = SCHEDULE_DECODE};
    }
    if (!prefills) return (struct schedule){.kind = SCHEDULE_NOTHING};

    size_t left = sequences[prompt].prompt_left, most = (size_t)scheduler->prefill_tokens_max;
    scheduler->decoded_last = false;
    scheduler->turn = prompt + 1;
    return (struct schedule){SCHEDULE_PREFILL, prompt, (int)(left < most ? left : most)};
}
