// One generating request (chat or completion), from its JSON body to the bytes of its answer.
// Pure: it names the engine jobs it wants and turns their events into bytes; the server submits the jobs and
// moves the bytes. Parsed on a worker thread, then used on the loop thread alone. Its memory dies with it.
#ifndef API_GENERATION_H
#define API_GENERATION_H

#include "api/reply.h"
#include "engine/engine.h"

struct generation;      // owned by the server's request
struct generation_kind; // what an endpoint adds: how to read its body and how to write its answer

extern const struct generation_kind chat_generation, completion_generation;

// Reads, checks and tokenizes a body. Every field is honoured or refused by name.
int generation_parse(const struct generation_kind *kind, const struct engine *engine, const char *body, size_t bytes,
                     struct generation **out, struct error *error);
void generation_destroy(struct generation *generation); // takes NULL

const char *generation_id(const struct generation *generation); // "chatcmpl-…"
bool generation_streams(const struct generation *generation);   // answers by server-sent events

// The engine jobs it consists of: n choices for each prompt. The request's pointers live as long as the
// generation; the caller fills in wake and wake_user.
size_t generation_jobs(const struct generation *generation);
void generation_job(const struct generation *generation, size_t job, struct engine_request *out);

// Takes an event of a job. A stream's bytes are appended to out, ready to send; otherwise it is only noted.
// A failure (also of memory) ends a stream with an error event. Loop thread, as all that follows.
void generation_event(struct generation *generation, size_t job, const struct engine_event *event, struct buffer *out);

// Ends it at once for a reason from outside a job (shutdown, timeout, a job that could not be submitted):
// an error event to the stream, or the error as the result. Nothing happens when it is complete already.
void generation_fail(struct generation *generation, const struct error *error, struct buffer *out);

// Every job has ended, or one has failed: nothing more will come. (The server cancels what still runs.)
bool generation_complete(const struct generation *generation);

// The whole answer of one that does not stream, once complete; of any that has failed, its error (for a stream, as
// long as nothing has been sent).
void generation_result(struct generation *generation, struct api_reply *reply);

// For the log, never any text: tokens so far and how it ended.
struct generation_summary {
    const char *model;
    size_t prompt_tokens, completion_tokens;
    double queue_seconds, prompt_seconds, decode_seconds; // of the slowest job
    double tokens_per_second;                             // decoding, as the answer's timings say it
    const char *finish;                                   // "stop", "length", "error", or "" while it runs
    struct error error;                                   // of one that has failed
};
struct generation_summary generation_summary(const struct generation *generation);

// The field that the engine's refusal of a job is about, where that is the prompt: as the error's param.
void generation_name_field(const struct generation *generation, struct error *error);

#endif
