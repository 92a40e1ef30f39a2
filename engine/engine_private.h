// What an engine is made of: shared by engine.c, which opens it and takes requests, and steps.c, its thread.
#ifndef ENGINE_ENGINE_PRIVATE_H
#define ENGINE_ENGINE_PRIVATE_H

#include "engine/admission.h"
#include "engine/chat_template.h"
#include "engine/job.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/pace.h"
#include "engine/placement.h"
#include "engine/profile.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/speculate.h"
#include "engine/stages.h"
#include "engine/tokenizer.h"

#include <pthread.h>

enum { PROMPT_LOGPROB_ROWS = 64 }; // logits of prompts that are held at once

struct engine_measurement { // that another thread waits for
    const void *memory;
    size_t bytes;
    struct engine_limits *out;
};

struct engine {
    // Read-only once open.
    struct engine_info info;
    char *model_name, *model_names; // model_names NULL: there is but one
    struct model *model;
    struct tokenizer *tokenizer;
    const struct chat_template *chat_template;
    const struct stages *stages; // from opening the devices on those that placement runs
    struct sequence_model sequence_model;
    struct admission_limits limits;
    bool unpinned;
    int threads, sequences_max, queue_max, prefill_tokens_max;
    int answer_rows_max;       // of one batch: one of each sequence, or fewer sequences' with guesses
    int rows_max, outputs_max; // of one batch
    enum weight_format weights;
    const char *kernels; // a name of ENGINE_KERNELS
    enum prefix_mode prefix_mode;
    bool speculates;
    double queue_seconds_max;                                  // 0: none
    struct placement_options placement_options; // but for what the model and the stages add
    void (*watch)(void *user, const struct engine_step *step); // NULL: nobody does
    void *watch_user;

    // The engine thread's alone.
    struct placement *placement; // of the stages on devices
    struct trace *trace;         // opened and closed with the engine; NULL: none is kept
    struct engine_placement placement_found; // set before anybody else sees the engine
    void *stages_state;
    size_t brief_tokens;         // see struct sequence_ways; set before anybody else sees the engine
    struct profile *profile; // around the stages while somebody watches, else NULL
    struct forward *forward;
    struct kv_cache cache;
    struct prefix_cache prefix; // whose pages are whose
    uint64_t admitted;          // sequences, ever
    struct scheduler scheduler;
    struct step_costs costs;
    struct speculator **speculators; // [sequences_max] of those that decode in the next step
    int *guess_room;                 // [sequences_max]
    struct sequence **places;         // [sequences_max] the running ones; NULL: free
    struct scheduler_sequence *shown; // [sequences_max] what the scheduler saw of them
    int *rows;                        // [sequences_max] and what it said
    int32_t *token, *position;        // [rows_max] the batch
    int32_t *output;                  // [outputs_max]
    struct batch_sequence *run;       // [answer_rows_max] a prompt's chunk, or one row of an answer
    int *place_of;                    // [answer_rows_max] whose run it is
    float *logits;                    // [outputs_max][vocab]

    pthread_t thread;
    bool started;
    struct job_bell bell;   // there is something to look at
    struct job_bell opened; // the engine thread has its devices, or open_error
    struct error open_error;
    struct job_bell measured; // engine_measure has its figures

    pthread_mutex_t lock; // guards what follows; held for moments, never during a step or with another lock
    bool closing;
    struct sequence **waiting; // [sequences_max + queue_max] the line, its head first
    struct sequence *gave_way; // out of the line, and not ended yet; linked by next_leaving
    struct engine_stats stats; // waiting is its length
    struct pace pace;
    double step_started_at;                 // 0: no step is in progress
    struct engine_measurement *measurement; // NULL: none is wanted
};

// The last component of the real path, for "models/demo/" and "." have one too. The caller frees it; NULL: no memory.
char *engine_model_name(const char *dir);

// line.c, any thread's: puts a sequence at the end of the line. ERROR_BUSY, and it is the caller's still: the line is
// full.
int line_enter(struct engine *engine, struct sequence *sequence, struct error *error);

// line.c, the engine thread's: ends the sequence at a place (error NULL: it went well), those that were cancelled or
// have waited too long, all; admits who fits; sleeps until there is something to look at; counts pages for the
// statistics, with the lock held.
void line_end(struct engine *engine, int place, const struct error *error);
void line_end_leaving(struct engine *engine);
void line_end_all(struct engine *engine);
void line_admit(struct engine *engine);
void line_sleep(struct engine *engine);
void line_count_pages(struct engine *engine);

// The engine thread, from devices opened (or open_error) to devices closed. argument: the engine.
void *engine_run(void *argument);

#endif
