// The engine: tokens in, tokens out. With watch.h (what can be seen of it at work) and inspect.h (what can be known
// before it is opened) all of engine/ that server/ and cli/ include.
//
// One thread inside the engine owns the model's devices and the KV cache and runs the step loop; everything
// here that takes a `const struct engine *` is a pure reader and may be called from any thread at once.
// A job belongs to the engine from engine_submit until its last event (DONE or ERROR) has been queued, and
// its handle to the caller until engine_job_release. Which calls a thread may make is said at each.
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/error.h"
#include "base/named.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ENGINE_TOP_LOGPROBS_MAX = 20, // alternatives a request may ask for at each token
    ENGINE_STOPS_MAX = 4,         // stop strings a request may bring
    ENGINE_JOB_EVENTS_MAX = 64,   // events a job may hold unread; then its sequence pauses

    ENGINE_DEGRADED_BYTES = 256,

    // The most that the options below may be.
    ENGINE_SEQUENCES_MAX = 1024,
    ENGINE_QUEUE_MAX = 65536,
    ENGINE_PREFILL_TOKENS_MAX = 65536,
    ENGINE_THREADS_MAX = 1024,
};

// What they are where they are 0. Macros, so that help texts can be made of them.
#define ENGINE_SEQUENCES_STANDARD 32
#define ENGINE_QUEUE_STANDARD 64
#define ENGINE_PREFILL_TOKENS_STANDARD 512

// ---- Opening a model

// How weights are held in memory. One row a format: name on the command line, and the blocks that a matrix is held in:
// outputs, columns (what is ragged is filled up), bytes. Embedding and head are never held in less than int8.
#define WEIGHT_FORMATS(X) \
    X(WEIGHTS_F32, "f32", 1, 1, 4) \
    X(WEIGHTS_BF16, "bf16", 1, 1, 2) \
    X(WEIGHTS_INT8, "int8", 16, 64, 1088) \
    X(WEIGHTS_INT4, "int4", 16, 64, 576)

enum weight_format {
    WEIGHT_FORMATS(NAMED_VALUE)
};
enum { WEIGHT_FORMAT_COUNT = 0 WEIGHT_FORMATS(NAMED_ONE) };

// How keys and values are held. One row a format: name on the command line, bytes of a value, and of a scale that the
// values of one position and head share.
#define KV_FORMATS(X) \
    X(KV_F16, "f16", 2, 0) \
    X(KV_F32, "f32", 4, 0) \
    X(KV_INT8, "int8", 1, 4)

enum kv_format {
    KV_FORMATS(NAMED_VALUE)
};
enum { KV_FORMAT_COUNT = 0 KV_FORMATS(NAMED_ONE) };

// Shapes that a model with random weights can be made in, to see what a machine would do with a model that is not
// there. One row a shape: name, layers, hidden, heads, heads of keys and values, their width, experts' width,
// vocabulary.
#define SYNTHETIC_MODELS(X) \
    X("phi-tiny-moe", 32, 4096, 16, 4, 128, 448, 32064) \
    X("phi-mini-moe", 32, 4096, 32, 8, 128, 960, 32064) \
    X("phi-toy-moe", 2, 64, 4, 2, 32, 48, 512)

// Which kernels compute. One row each: name, explanation. Behind the second, kernels of the CPU that are forced, to
// compare them or to be without some.
#define ENGINE_KERNELS(X) \
    X("cpu", "the best there are for this processor") \
    X("reference", "plain C without any art, to compare with") \
    X("plain", "plain C") \
    X("avx2", "AVX2") \
    X("avx-vnni", "AVX2, and AVX-VNNI for int8 and int4") \
    X("avx512", "AVX-512, and its VNNI for int8 and int4") \
    X("amx", "AVX-512, and AMX for bf16, int8 and int4")

// Who computes the experts. One row each: its name for settings, what it means.
#define PLACEMENTS(X) \
    X(PLACEMENT_AUTO, "auto", "whichever was measured faster at start, without a GPU the CPU") \
    X(PLACEMENT_CPU, "cpu", "everything on the CPU") \
    X(PLACEMENT_SPLIT, "split", "the experts on the OpenCL device, whatever it is")

// What multiplies the rows of prompts by the experts on an OpenCL device. One row each: its name for settings, what it
// means.
#define OPENCL_PRODUCTS(X) \
    X(OPENCL_PRODUCTS_AUTO, "auto", \
      "on a GPU whichever was faster when it was opened, elsewhere and for int8 and int4 our own kernels") \
    X(OPENCL_PRODUCTS_OWN, "own", "our own kernels") \
    X(OPENCL_PRODUCTS_CLBLAST, "clblast", "CLBlast, if it is there and gives known answers, else our own kernels")

// Where the experts' weights are while an OpenCL device computes. One row each: its name for settings, what it means.
#define OPENCL_WEIGHTS(X) \
    X(OPENCL_WEIGHTS_AUTO, "auto", "staged where the device's memory is too small for all of them") \
    X(OPENCL_WEIGHTS_RESIDENT, "resident", "all on the device, or where the host has them if it reads that") \
    X(OPENCL_WEIGHTS_STAGED, "staged", "two experts' at a time, copied while the device computes")

// Whether the CPU leaves an OpenCL device its share of the memory bus (engine/bandwidth.h). One row each: its name for
// settings, what it means.
#define BUS_SHARES(X) \
    X(BUS_SHARE_AUTO, "auto", "where both read the same memory, as with a GPU in the processor") \
    X(BUS_SHARE_OFF, "off", "never") \
    X(BUS_SHARE_ON, "on", "with any device")

// What of a request is kept, so that others which begin with it need not compute it again. One row each: its name on
// the command line. Keys and values of prompts are the same to the bit however they were computed, so with the first of
// these no answer depends on what was asked before. Those of answers are computed one by one, in other arithmetic (f32
// even where prompts are multiplied in bf16): with them a conversation's next turn reads less, and the last bits of its
// log-probabilities may depend on whether they were still there.
#define PREFIX_MODES(X) \
    X(PREFIX_PROMPTS, "prompts") \
    X(PREFIX_ANSWERS, "answers") /* and prompts */ \
    X(PREFIX_OFF, "off")

enum prefix_mode {
    PREFIX_MODES(NAMED_VALUE)
};

// Whether answers may take several tokens a step where what comes next can be guessed from the text
// (engine/speculate.h). They are the same either way. One row each: its name on the command line.
#define SPECULATE_MODES(X) \
    X(SPECULATE_OFF, "off") \
    X(SPECULATE_AUTO, "auto") /* where it pays */

enum speculate_mode {
    SPECULATE_MODES(NAMED_VALUE)
};

struct engine_step; // engine/watch.h

struct engine_options {
    const char *model_dir;      // a Hugging Face model directory
    const char *synthetic;      // instead of that, one of SYNTHETIC_MODELS: random weights, made in memory. There is no
                                // tokenizer: prompts are token ids, and so is the text of an answer
    const char *model_names;    // what clients may call it, "a,b": the first stands in answers; NULL or "": the
                                // directory's last component
    enum weight_format weights; // what matrices are held in
    bool weights_auto; // instead of that, chosen: bf16 for models of up to 1 GiB, for larger ones int8, or int4
                       // where int8 does not fit into the memory that is free
    const char *cache;          // a directory for conversions to int8 and int4, and for what was measured of an OpenCL
                                // device, made where it is not there; NULL: none
    const char *stages;         // a name of ENGINE_KERNELS; NULL: the first
    const char *placement;      // one of PLACEMENTS; NULL: "auto"
    const char *experts_prefill; // "auto", as placement says (also for NULL), or "cpu" or "opencl", whatever it says
    const char *experts_decode;  // the same, for answers
    int experts_decode_from; // OpenCL has the experts of no fewer answers at once than these, if its bits are the
                             // CPU's; 0: of any number, or with "auto" of as many as was measured to be faster. What
                             // counts is a step's rows: a guessed token is one more, and so is each of a brief prompt's
    const char *experts_layers;  // whose experts OpenCL may have: "0-15,20"; NULL or "": all
    const char *experts_opencl;  // which of them: "0-7", or by layers "0-3:0-7;4:2,5"; NULL or "": all
    const char *cl_kernels;     // a directory of OpenCL kernels that go before the built-in ones; NULL or "": none
    const char *cl_products;    // one of OPENCL_PRODUCTS; NULL: "auto"
    const char *cl_weights;     // one of OPENCL_WEIGHTS; NULL: "auto"
    const char *bus_share;      // one of BUS_SHARES; NULL: "auto"
    int halves_from;        // so many answers at once are computed in two halves where a device has the experts; 0: as
                            // measured
    bool explain_placement;     // measure both devices for engine_placement, whatever runs where
    const char *trace;          // a file for a timeline of the devices, see engine/trace.h; NULL or "": none
    int threads;                // OpenMP threads; 0: one for each physical core (engine/machine.h)
    bool unpinned;              // they run wherever they are put, also where each could keep to a core of its own
    int sequences_max;          // sequences decoding at once; 0: ENGINE_SEQUENCES_STANDARD
    int queue_max;              // jobs waiting beyond those; 0: ENGINE_QUEUE_STANDARD
    size_t kv_tokens;           // capacity of the KV cache; 0: chosen as engine_kv_sizes tells. What does not fit the
                                // memory that is free is ERROR_ARGUMENT, and names what would.
                                // A request without a limit (tokens_max -1) reserves all that the context has left:
                                // with less than sequences_max contexts here, such requests wait for each other
    enum kv_format kv;          // what keys and values are held in
    int prefill_tokens_max;     // prompt tokens in one step; 0: ENGINE_PREFILL_TOKENS_STANDARD. While no answers are
                                // written, prompts that are no longer go together, see engine/scheduler.h
    double step_target_seconds; // fewer of them while answers are being written, so that a step takes no longer; 0: no
                                // target
    double queue_seconds_max;   // a job that has waited so long for its turn ends with ERROR_BUSY; 0: it waits on
    enum prefix_mode prefix;    // what is kept for requests that begin alike
    enum speculate_mode speculate;

    // Called from the opening thread once loading has taken a second, and then ten times a second at most: what is
    // being done, and the share done (0..1).
    void (*progress)(void *user, const char *what, double share);
    void *progress_user;

    // A line for a person. While the engine is opened, from the thread that does so: something will be slow, and what
    // helps. Later, from the engine thread: a device has failed, and what is done about it. NULL: nobody hears.
    void (*warn)(void *user, const char *line);
    void *warn_user;

    // Called from the engine thread after every step; NULL: never. Time is kept stage by stage then.
    void (*watch)(void *user, const struct engine_step *step);
    void *watch_user;
};

struct engine;

// Loads, checks and binds a model and starts the engine thread. The cause of a failure names the file, the
// tensor or key, what was found and what was expected.
int engine_open(struct engine **out, const struct engine_options *options, struct error *error);

// Stops the engine thread. Jobs that still run end with ERROR_SHUTDOWN: their handles can be read and released
// afterwards too. No other call may be under way. Takes NULL.
void engine_close(struct engine *engine);

struct engine_info {
    const char *model_name;   // the id that clients use: the first of model_names, or the directory's last component
    const char *model_names;  // all that they may use, with commas between; NULL: only model_name
    const char *architecture; // "phimoe"
    const char *weights;      // "bf16"
    const char *weights_note; // for a person, where they were chosen: which and why; else ""
    const char *cache_note;   // for a person: what became of the cache of conversions; "" without one
    bool cache_lost;          // it could not be written: the next start converts again
    const char *device;       // one line for a person: which kernels run where, on how many threads
    int context_tokens;
    int vocab_size;
    int token_bytes_max;          // of the longest token in a text: fewer tokens than bytes / this can not be
    int sequences_max, queue_max; // jobs that decode at once, and that may wait beyond those
    int threads;
    bool pinned;                // each of them keeps to a core of its own
    uint64_t parameters;        // all of them
    uint64_t parameters_active; // used for one token
    size_t weight_bytes;        // held in memory or mapped
    size_t kv_tokens;           // capacity of the KV cache, of all sequences together
    size_t kv_tokens_max;       // the largest there was room for; SIZE_MAX where that is not known
    size_t kv_bytes_per_token;
    int64_t created;            // modification time of the model's files, seconds since 1970
    double load_seconds;
};
const struct engine_info *engine_info(const struct engine *engine); // lives as long as the engine

struct engine_stats {
    int running, waiting;          // sequences and jobs, now
    uint64_t looks;                // for somebody to let in: before each step, and behind each who was let in
    bool held_up;                  // at the last of them somebody was left, for want of a place or of pages
    size_t kv_pages, kv_pages_used; // used: by the running sequences
    size_t kv_pages_kept;           // by nobody, but kept in case a prompt begins with what they hold
    uint64_t steps;                // finished steps since the start
    uint64_t prompt_tokens, completion_tokens; // computed since the start
    uint64_t cached_tokens;        // of prompts, found in kept pages instead, since the start
    uint64_t guessed_tokens,
        guessed_right;             // of answers, computed on a guess; those that were right are among the above
    double step_running_seconds;   // how long the step in progress has been running; 0: none is
    char degraded[ENGINE_DEGRADED_BYTES]; // why less than was asked for runs, as on a device that failed; "": all is
                                          // well
};
void engine_stats(struct engine *engine, struct engine_stats *out); // any thread; never waits for a step

// ---- Text and tokens: pure, any thread. Not on the server's loop thread: a long text takes milliseconds.

struct token_list {
    int32_t *ids;
    size_t count, capacity;
};
void token_list_finish(struct token_list *list); // frees what a call below has put there

struct chat_message {
    const char *role;    // "system", "user" or "assistant"
    const char *content; // UTF-8, may hold NUL
    size_t content_bytes;
};

// The model's chat format around the messages, ready for the assistant's turn. Content never becomes a
// special token, whatever it spells.
int engine_chat_tokens(const struct engine *engine, const struct chat_message *messages, size_t count,
                       struct token_list *out, struct error *error);

// Text as it stands. parse_special: whether "<|end|>" and its like become special tokens.
int engine_text_tokens(const struct engine *engine, const char *text, size_t bytes, bool parse_special,
                       struct token_list *out, struct error *error);

// The bytes of one token as they appear inside a text (a piece of a character for byte tokens; the written
// form, such as "<|end|>", for special tokens). Lives as long as the engine. NULL for an id out of range.
const char *engine_token_text(const struct engine *engine, int32_t id, size_t *bytes);

// ---- Jobs

struct logit_bias {
    int32_t token;
    float bias; // added to the token's logit
};

// How the next token is chosen. Every field is honoured; see engine/sampler.h for the order.
struct sampling {
    float temperature;        // 0: always the most likely
    float top_p;              // 1: off
    float min_p;              // 0: off
    int top_k;                // 0: off
    float repetition_penalty; // 1: off; divides or multiplies the logits of tokens seen in prompt and answer
    float presence_penalty;   // 0: off; taken from the logit of each token seen in the answer
    float frequency_penalty;  // 0: off; the same, times how often
    uint64_t seed;            // the same seed, model and settings give the same text
    const struct logit_bias *bias;
    size_t bias_count;
};

struct text_span {
    const char *text;
    size_t bytes;
};

struct engine_request {
    const int32_t *prompt; // copied
    size_t prompt_tokens;  // at least 1
    int tokens_max;        // new tokens; -1: as many as the context has room for; 0 only with prompt_logprobs
    struct sampling sampling; // copied, the bias too
    struct text_span stops[ENGINE_STOPS_MAX]; // copied; the answer ends before the first of them
    int stop_count;
    bool ignore_eos;      // go on after the model's end-of-turn tokens
    bool want_logprobs;   // each token's log-probability
    int top_logprobs;     // and that many alternatives, 0..20
    bool prompt_logprobs; // the prompt's tokens too, before the first new one: all of it is computed
    bool strip_space;     // the answer is a text of its own, as in a chat: the one space that the tokenizer puts in
                          // front of a text is not part of it. Otherwise the answer continues the prompt's text

    const int32_t *expected; // [expected_tokens] what the answer is expected to be, in whole or in part, where somebody
    size_t expected_tokens;  // knows: guesses are looked up there too. Copied; it changes no answer
    bool one_by_one;         // never more than one token a step, whatever engine_options say

    uint64_t salt;        // whose, as a number. Prompts are found in the cache only where the same one has sent
                          // them: how fast an answer comes tells nobody else what was asked. (No two may be each
                          // other's complement: that keeps brief prompts apart.)
    uint64_t client;      // who asks, as a number: places to run and places in the line are shared out among those
                          // who ask, not among what they ask

    // Called from the engine thread when an event is queued where there was none. Must return at once, may not
    // call the engine, and may not wait for a lock that its owner holds while releasing the job. NULL: never.
    void (*wake)(void *user);
    void *wake_user;
};

struct engine_job;

// Checks and queues a request. Any thread. ERROR_CONTEXT_LENGTH names both numbers; ERROR_BUSY: the queue is full,
// and the error's retry_seconds say when it is worth another try, going by how fast jobs have ended. Where a client
// with more jobs waiting than this one's fills the queue, the newest of his jobs ends in ERROR_BUSY instead.
int engine_submit(struct engine *engine, const struct engine_request *request, struct engine_job **out,
                  struct error *error);

enum engine_event_type {
    ENGINE_EVENT_PROMPT, // log-probabilities of prompt tokens, in order, possibly in several events
    ENGINE_EVENT_TEXT,   // new text, and the tokens generated since the last event; either may be empty: text can
                         // be held back when its tokens are told, and comes with later ones or alone at the end
    ENGINE_EVENT_DONE,   // the last event of a job that went well
    ENGINE_EVENT_ERROR,  // the last event of one that did not
};

enum finish_reason { FINISH_STOP, FINISH_LENGTH };

struct token_logprob {
    int32_t token;
    float logprob; // natural logarithm, of the model's own distribution (before penalties and temperature)
};

struct engine_token {
    int32_t token;
    float logprob; // NAN where it was not asked for, and for the prompt's first token: nothing comes before it
    int top_count;
    struct token_logprob *top; // [top_count], most likely first
};

struct engine_usage {
    size_t prompt_tokens;
    size_t cached_tokens;     // of these, found in the prefix cache
    size_t completion_tokens; // those that events told of; the end-of-turn token is not among them
    size_t guessed_right;     // of these, so many came of guesses
    size_t guessed_wrong;     // tokens that were computed on a guess and are not in the answer
    double queue_seconds, prompt_seconds, decode_seconds;
};

struct engine_event {
    enum engine_event_type type;
    char *text; // whole UTF-8 characters and a NUL; what might be the start of a stop string is held back
    size_t text_bytes;
    struct engine_token *tokens; // [token_count]
    int token_count;
    enum finish_reason finish; // DONE
    struct engine_usage usage; // DONE and ERROR
    struct error error;        // ERROR
};

// The job's next event, in order; NULL when there is none now. One consumer thread per job at a time.
struct engine_event *engine_job_next(struct engine_job *job);
void engine_event_destroy(struct engine_event *event); // takes NULL

// As engine_job_next, but waits for one. For command-line programs; never on the loop thread.
struct engine_event *engine_job_wait(struct engine_job *job);

// Whether it keeps its place and waits until some of its events are read. Any thread.
bool engine_job_awaits_reader(struct engine_job *job);

// Asks for an early end: the sequence and its KV pages are free within one step, and the job ends with
// ERROR_CANCELLED unless it had ended already. Any thread, any number of times.
void engine_job_cancel(struct engine_job *job);

// Gives the handle back, cancelling what still runs. No wake call is under way or will come once this returns.
void engine_job_release(struct engine_job *job); // takes NULL

// A one-line name for a finish reason as OpenAI spells it: "stop", "length".
const char *finish_reason_text(enum finish_reason reason);

// Name and lookup of weight formats, from the table above. weight_format_parse returns false for an unknown name.
const char *weight_format_name(enum weight_format format);
size_t weight_format_bytes(enum weight_format format, int rows, int columns); // of a matrix
enum weight_format weight_format_fine(enum weight_format format); // for embedding and head where others are in `format`
bool prefix_mode_parse(const char *name, enum prefix_mode *out); // false for an unknown name
bool speculate_mode_parse(const char *name, enum speculate_mode *out); // false for an unknown name
bool weight_format_parse(const char *name, enum weight_format *out);
bool kv_format_parse(const char *name, enum kv_format *out); // false for an unknown name

#endif
