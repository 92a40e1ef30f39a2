// What an endpoint adds to a generation: how it reads its prompts and how it writes one choice. For
// api/generation.c and the endpoints alone; everything else uses api/generation.h.
#ifndef API_GENERATION_KIND_H
#define API_GENERATION_KIND_H

#include "api/generation.h"
#include "api/schema.h"

enum { GENERATION_JOBS_MAX = 64 }; // choices of one request, over all its prompts

enum { LOGPROB_LISTS = 4 }; // parallel lists in which a kind collects log-probabilities

struct prompt {
    const int32_t *tokens; // [token_count], in list or in the arena
    size_t token_count;
    struct token_list list; // what the tokenizer gave
    struct token_list expected; // what the answer may be, in a prediction's words
    struct text_span echo;  // the text to repeat; in the arena; only with `echo`
};

// One answer: one job of the engine.
struct choice {
    size_t index;
    const struct prompt *prompt;
    struct buffer text;                    // the answer so far; unused in a stream
    struct buffer logprobs[LOGPROB_LISTS]; // JSON list items; in a stream only those of the piece at hand
    size_t echoed_bytes;                   // of the prompt's text, covered by the tokens told so far
    size_t offset;                         // where the next token begins in the text, in characters
    size_t tokens_seen;                    // new tokens, while the job runs
    bool begun, ended;
    enum finish_reason finish;
    struct engine_usage usage; // once ended
};

struct generation {
    const struct generation_kind *kind;
    const struct engine *engine;
    struct arena *arena;
    struct parameters parameters;
    uint64_t seed;
    char id[48];
    struct buffer head; // `{"id":…,"choices":[`: what every object of the answer begins with

    struct prompt *prompts; // [prompt_count], in the arena
    size_t prompt_count;
    struct choice *choices; // [choice_count], in the arena
    size_t choice_count, ended_count;
    bool failed;
    struct error error; // why
};

struct generation_kind {
    unsigned endpoint; // FOR_CHAT or FOR_COMPLETION
    const char *id_prefix, *object, *chunk_object;

    // Fills in prompts and prompt_count from parameters.
    int (*read_prompts)(struct generation *generation, struct error *error);

    // Adds a token to the choice's lists.
    void (*add_logprob)(const struct generation *generation, struct choice *choice, const struct engine_token *token,
                        bool of_prompt);

    // A choice object of a stream: the first (NULL: this kind has none), a piece with the log-probabilities of its
    // tokens, and the last; and that of an answer in one.
    void (*write_first)(const struct choice *choice, struct buffer *out);
    void (*write_piece)(const struct generation *generation, const struct choice *choice, const char *text,
                        size_t bytes, struct buffer *out);
    void (*write_last)(const struct choice *choice, struct buffer *out);
    void (*write_whole)(const struct generation *generation, const struct choice *choice, struct buffer *out);
};

// For read_prompts: `count` empty prompts (at least 1), or an error that names the field and the limit.
int generation_add_prompts(struct generation *generation, const char *field, size_t count, struct error *error);

// Bytes of a text that are sure to be in its tokens: all but the white space that special tokens may swallow, in
// front of it or wherever there is one in it.
enum space { SPACE_IN_FRONT, SPACE_ANYWHERE };
size_t generation_certain_bytes(const char *text, size_t bytes, enum space space);

// Refuses a text of so many bytes where even tokens of the longest kind would not fit the context: without the work
// of tokenizing it, which could keep others waiting.
int generation_check_bytes(const struct generation *generation, const char *field, size_t bytes, struct error *error);

#endif
