#include "cli/bench_guess.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct bench_guess ROWS[BENCH_GUESS_ROWS] = {
    {.name = "foretold", .wrong_every = INT_MAX},
    {.name = "nothing foretold", .wrong_every = 0},
    {.name = "foretold, one in 16 wrong", .wrong_every = 16},
    {.name = "foretold, one in 3 wrong", .wrong_every = 3},
};

// Asked of a model that understands them; one of random weights gets random tokens.
static const char *const QUESTIONS[] = {
    "Tell me a story about a dog.",
    "Count from 1 to 20.",
    "What is Tandem?",
};
enum { SURE_STEPS = 4 }; // a mean of fewer is not told
enum { QUESTION_COUNT = sizeof QUESTIONS / sizeof *QUESTIONS };

struct question {
    struct token_list prompt;
    int32_t answer[BENCH_GUESS_NEW_TOKENS]; // [tokens] as it is without guesses
    int tokens;
};

void bench_guess_watch(void *user, const struct engine_step *step) {
    struct bench *bench = user;
    if (step->prefill || step->answers != 1 || step->tokens > BENCH_STEP_ROWS_MAX) return;
    pthread_mutex_lock(&bench->lock);
    bench->steps.seconds[step->tokens] += step->seconds;
    bench->steps.count[step->tokens]++;
    pthread_mutex_unlock(&bench->lock);
}

// ---- Asking

static int read_question(struct bench *bench, int number, struct question *question, struct error *error) {
    if (!bench->synthetic) {
        struct chat_message message = {"user", QUESTIONS[number], strlen(QUESTIONS[number])};
        return engine_chat_tokens(bench->engine, &message, 1, &question->prompt, error);
    }
    int32_t *ids = calloc(BENCH_GUESS_PROMPT_TOKENS, sizeof *ids);
    if (!ids) return error_set_code(error, ERROR_MEMORY);
    bench_fill_prompt(bench, ids, BENCH_GUESS_PROMPT_TOKENS);
    question->prompt = (struct token_list){ids, BENCH_GUESS_PROMPT_TOKENS, BENCH_GUESS_PROMPT_TOKENS};
    return 0;
}

// Adds what an event tells to the answer, or compares it where that is known.
static int take(struct question *question, const struct engine_event *event, bool known, int *at, struct error *error) {
    if (event->type == ENGINE_EVENT_ERROR) {
        *error = event->error;
        return (int)event->error.code;
    }
    for (int i = 0; i < event->token_count; i++, ++*at) {
        int32_t token = event->tokens[i].token;
        if (known && (*at >= question->tokens || question->answer[*at] != token))
            return error_set(error, ERROR_INTERNAL, "token %d of an answer is another with guesses than without", *at);
        question->answer[*at] = token;
        if (!known) question->tokens = *at + 1;
    }
    return 0;
}

// expected NULL: nothing is foretold.
static int ask(struct bench *bench, struct question *question, bool guess, const int32_t *expected,
               struct engine_usage *usage, struct error *error) {
    const struct engine_request request = {
        .prompt = question->prompt.ids,
        .prompt_tokens = question->prompt.count,
        .tokens_max = BENCH_GUESS_NEW_TOKENS,
        .ignore_eos = bench->synthetic,
        .expected = expected,
        .expected_tokens = expected ? (size_t)question->tokens : 0,
        .one_by_one = !guess,
        // Random weights that always say the most likely token repeat themselves, which is no open chat.
        .sampling = {.temperature = bench->synthetic ? 1 : 0, .top_p = 1, .repetition_penalty = 1, .seed = 1}};
    struct engine_job *job;
    bool known = question->tokens > 0, ended = false;
    int at = 0, code = engine_submit(bench->engine, &request, &job, error);
    if (code) return code;
    while (!ended && !code) {
        struct engine_event *event = engine_job_wait(job);
        ended = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
        *usage = event->usage;
        code = take(question, event, known, &at, error);
        engine_event_destroy(event);
    }
    engine_job_release(job);
    if (!code && known && at < question->tokens)
        code = error_set(error, ERROR_INTERNAL, "an answer of %d tokens ends after %d when it is asked for again",
                         question->tokens, at);
    return code;
}

static int measure(struct bench *bench, struct question *question, struct bench_guess *row, struct error *error) {
    int32_t expected[BENCH_GUESS_NEW_TOKENS];
    for (int i = 0; i < question->tokens; i++) {
        bool wrong = row->wrong_every > 0 && i % row->wrong_every == row->wrong_every - 1;
        expected[i] = wrong ? question->answer[i] ^ 1 : question->answer[i];
    }
    for (int guess = 0; guess <= 1; guess++) {
        struct engine_usage usage;
        int code = ask(bench, question, guess, row->wrong_every > 0 ? expected : NULL, &usage, error);
        if (code) return code;
        row->seconds[guess] += usage.decode_seconds;
        row->guessed += usage.guessed_right + usage.guessed_wrong;
        row->right += usage.guessed_right;
    }
    row->tokens += (size_t)question->tokens - 1;
    return 0;
}

// ---- Telling

static void print_head(void) {
    printf("%-34s %10s %10s %10s %9s %7s\n", "tokens/s of one answer", "without", "guessing", "gain", "guessed",
           "right");
    fflush(stdout);
}

static void print_row(const struct bench_guess *row) {
    double off = (double)row->tokens / row->seconds[0], on = (double)row->tokens / row->seconds[1];
    printf("%-34s %10.1f %10.1f %+8.1f %% %9zu %7zu\n", row->name, off, on, 100 * (on / off - 1), row->guessed,
           row->right);
    fflush(stdout);
}

static double step_seconds(const struct bench_steps *steps, int rows) {
    return steps->count[rows] > 0 ? steps->seconds[rows] / steps->count[rows] : 0;
}

static void print_steps(const struct bench_steps *steps) {
    double one = step_seconds(steps, 1);
    printf("\na step of one row takes %.2f ms;", 1e3 * one);
    for (int rows = 2; rows <= BENCH_STEP_ROWS_MAX; rows++)
        if (steps->count[rows] >= SURE_STEPS) printf(" of %d, %.2f times that;", rows, step_seconds(steps, rows) / one);
    printf("\n");
}

json_t *bench_guess_json(const struct bench_guesses *guesses) {
    json_t *list = json_array(), *steps = json_array();
    for (int i = 0; i < BENCH_GUESS_ROWS; i++) {
        const struct bench_guess *row = &guesses->rows[i];
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:I, s:I}", "text", row->name, "tokens_per_s_without",
                                              (double)row->tokens / row->seconds[0], "tokens_per_s",
                                              (double)row->tokens / row->seconds[1], "guessed",
                                              (json_int_t)row->guessed, "right", (json_int_t)row->right));
    }
    for (int i = 1; i <= BENCH_STEP_ROWS_MAX; i++)
        if (guesses->steps.count[i] > 0)
            json_array_append_new(steps, json_pack("{s:i, s:i, s:f}", "rows", i, "steps", guesses->steps.count[i], "ms",
                                                   1e3 * step_seconds(&guesses->steps, i)));
    return json_pack("{s:o, s:o}", "answers", list, "steps", steps);
}

// ---- All of it

int bench_guess(struct bench *bench, int rounds, struct bench_guesses *out, struct error *error) {
    struct question questions[QUESTION_COUNT] = {0};
    int count = bench->synthetic ? 1 : QUESTION_COUNT, code = 0;
    struct engine_usage usage;
    struct bench_guess *rows = out->rows;
    memcpy(rows, ROWS, sizeof ROWS);
    for (int i = 0; !code && i < count; i++) {
        code = read_question(bench, i, &questions[i], error);
        if (!code) code = ask(bench, &questions[i], false, NULL, &usage, error);
        if (!code && questions[i].tokens < 2) code = error_set(error, ERROR_UNSUPPORTED, "this model says nothing");
    }
    if (!code) print_head();
    for (int row = 0; !code && row < BENCH_GUESS_ROWS; row++) {
        for (int round = 0; round < rounds; round++)
            for (int i = 0; !code && i < count; i++) {
                if (isatty(STDERR_FILENO))
                    fprintf(stderr, "\r\033[K%s: run %d of %d", rows[row].name, round + 1, rounds);
                code = measure(bench, &questions[i], &rows[row], error);
            }
        if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
        if (!code) print_row(&rows[row]);
    }
    for (int i = 0; i < count; i++) token_list_finish(&questions[i].prompt);
    // The engine's thread tells of an answer's last step after its last event: that one may still come, and is left
    // out.
    pthread_mutex_lock(&bench->lock);
    out->steps = bench->steps;
    pthread_mutex_unlock(&bench->lock);
    if (!code) print_steps(&out->steps);
    return code;
}
