#include "cli/bench_promise.h"

#include "base/clock.h"
#include "cli/load.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    STREAM_PROMPT_TOKENS = 64,
    STREAM_TOKENS_MAX = 1024, // it is left long before
    TOKENS_BEFORE = 12,       // of the stream, before the prompt comes or its client leaves
    RUNS_MAX = 5,             // more tell no more
    LEAVERS = 4,              // of a run
    STEPS_MAX = RUNS_MAX * LEAVERS * TOKENS_BEFORE,
    PATIENCE_MS = 600 * 1000,
    LOOK_AGAIN_US = 50,
};

// One answer on its way, of which only the moments matter when tokens come.
struct ear {
    int fd;          // -1: closed
    size_t matched;  // bytes of MARK that the last piece ended in
    int tokens;      // so far
    double heard_at; // the last
    size_t bytes;    // of the answer
    char start[13];  // its first bytes
};

static const char MARK[] = "data: {"; // an event: where a stream is not at its end, it tells of a token

// How many events end in a piece.
static int count_marks(struct ear *ear, const char *piece, size_t bytes) {
    int count = 0;
    for (size_t i = 0; i < bytes; i++) {
        ear->matched = piece[i] == MARK[ear->matched] ? ear->matched + 1 : piece[i] == MARK[0];
        if (ear->matched < sizeof MARK - 1) continue;
        ear->matched = 0;
        count++;
    }
    return count;
}

static int fail(const char *what, struct error *error) {
    return error_set(error, ERROR_IO, "%s: %s", what, strerror(errno));
}

static int silent(struct error *error) {
    return error_set(error, ERROR_TIMEOUT, "the server was silent for %d s", PATIENCE_MS / 1000);
}

// Reads what is there. *tokens: that have come with it.
static int hear(struct ear *ear, int *tokens, struct error *error) {
    char piece[16 * 1024];
    ssize_t got = recv(ear->fd, piece, sizeof piece, 0);
    *tokens = 0;
    if (got < 0) return errno == EINTR ? 0 : fail("could not hear from the server", error);
    if (got == 0) return error_set(error, ERROR_IO, "a stream ended after %d tokens", ear->tokens);
    for (size_t i = 0; i < (size_t)got && ear->bytes + i < sizeof ear->start - 1; i++)
        ear->start[ear->bytes + i] = piece[i];
    ear->bytes += (size_t)got;
    if (ear->bytes >= sizeof ear->start - 1 && strcmp(ear->start, "HTTP/1.1 200") != 0)
        return error_set(error, ERROR_FORMAT, "the server's answer is no stream: %s", ear->start);
    *tokens = count_marks(ear, piece, (size_t)got);
    ear->tokens += *tokens;
    return 0;
}

static int ask(struct bench *bench, int port, int prompt_tokens, int new_tokens, struct ear *out, struct error *error) {
    *out = (struct ear){.fd = -1};
    char *prompt = bench_write_prompt(bench, prompt_tokens);
    if (!prompt) return error_set_code(error, ERROR_MEMORY);
    int code = load_send(port, prompt, new_tokens, &out->fd, error);
    free(prompt);
    out->heard_at = clock_seconds();
    return code;
}

static void leave(struct ear *ear) {
    if (ear->fd >= 0) close(ear->fd);
    ear->fd = -1;
}

// Waits for the next tokens of a stream. *seconds: since those before.
static int next_token(struct ear *ear, double *seconds, struct error *error) {
    int code = 0, tokens = 0;
    while (!code && tokens == 0) {
        struct pollfd polled = {.fd = ear->fd, .events = POLLIN};
        int ready = poll(&polled, 1, PATIENCE_MS);
        if (ready == 0) code = silent(error);
        if (ready > 0) code = hear(ear, &tokens, error);
    }
    double now = clock_seconds();
    *seconds = now - ear->heard_at;
    ear->heard_at = now;
    return code;
}

// ---- One after the other

// A prompt as long as a chunk, alone, to its first token.
static int time_chunk(struct bench *bench, int port, int tokens, double *seconds, struct error *error) {
    struct ear ear;
    int code = ask(bench, port, tokens, 1, &ear, error);
    if (!code) code = next_token(&ear, seconds, error);
    leave(&ear);
    return code;
}

// Begins a stream, and hears its first tokens: so long are steps.
static int begin_stream(struct bench *bench, int port, struct ear *out, double *steps, int *step_count,
                        struct error *error) {
    int room = engine_info(bench->engine)->context_tokens - STREAM_PROMPT_TOKENS;
    double first;
    int code = ask(bench, port, STREAM_PROMPT_TOKENS, room < STREAM_TOKENS_MAX ? room : STREAM_TOKENS_MAX, out, error);
    if (!code) code = next_token(out, &first, error);
    for (int i = 1; !code && i < TOKENS_BEFORE; i++) {
        double step;
        code = next_token(out, &step, error);
        if (!code && *step_count < STEPS_MAX) steps[(*step_count)++] = step;
    }
    return code;
}

// The client of the only stream goes; waits for its place to be free.
static int time_leaving(struct bench *bench, struct ear *ear, double *seconds, struct error *error) {
    struct engine_stats stats;
    leave(ear);
    double left_at = clock_seconds();
    do {
        usleep(LOOK_AGAIN_US);
        engine_stats(bench->engine, &stats);
        *seconds = clock_seconds() - left_at;
        if (*seconds > PATIENCE_MS / 1000.0)
            return error_set(error, ERROR_TIMEOUT, "a client has left, and its place is not free");
    } while (stats.running > 0);
    return 0;
}

static void note_gap(struct ear *ear, double *longest) {
    double now = clock_seconds();
    *longest = fmax(*longest, now - ear->heard_at);
    ear->heard_at = now;
}

// The longest that a stream stands still from the moment a prompt is sent to its first token.
static int time_gap(struct bench *bench, int port, int tokens, struct ear *stream, double *longest,
                    struct error *error) {
    struct ear other;
    int code = ask(bench, port, tokens, 1, &other, error), arrived = 0;
    while (!code && arrived == 0) {
        struct pollfd polled[] = {{.fd = stream->fd, .events = POLLIN}, {.fd = other.fd, .events = POLLIN}};
        int more = 0, ready = poll(polled, 2, PATIENCE_MS);
        if (ready < 0 && errno != EINTR) code = fail("could not wait for the server", error);
        if (ready == 0) code = silent(error);
        if (!code && ready > 0 && polled[0].revents) code = hear(stream, &more, error);
        if (more > 0) note_gap(stream, longest);
        if (!code && ready > 0 && polled[1].revents) code = hear(&other, &arrived, error);
    }
    leave(&other);
    double last; // the token that came with the prompt's last chunk, or the next
    if (!code) code = next_token(stream, &last, error);
    if (!code) *longest = fmax(*longest, last);
    return code;
}

// ---- All of it

int bench_promises_measure(struct bench *bench, int port, int runs, struct bench_promises *out, struct error *error) {
    double chunks[RUNS_MAX], free_of[RUNS_MAX * LEAVERS], steps[STEPS_MAX], longest = 0;
    int context = engine_info(bench->engine)->context_tokens, step_count = 0, leavers = 0, code = 0;
    int room = context - 1, tokens = room < BENCH_PROMISE_PROMPT_TOKENS ? room : BENCH_PROMISE_PROMPT_TOKENS;
    int chunk = tokens < ENGINE_PREFILL_TOKENS_STANDARD ? tokens : ENGINE_PREFILL_TOKENS_STANDARD;
    *out = (struct bench_promises){0};
    if (runs > RUNS_MAX) runs = RUNS_MAX;
    if (room < STREAM_PROMPT_TOKENS + 2 * TOKENS_BEFORE) return 0; // too little to say anything
    for (int run = 0; !code && run < runs; run++) {
        struct ear stream = {.fd = -1};
        code = time_chunk(bench, port, chunk, &chunks[run], error);
        if (!code) code = begin_stream(bench, port, &stream, steps, &step_count, error);
        if (!code) code = time_gap(bench, port, tokens, &stream, &longest, error);
        for (int i = 0; !code && i < LEAVERS; i++) {
            if (i > 0) code = begin_stream(bench, port, &stream, steps, &step_count, error);
            if (!code) code = time_leaving(bench, &stream, &free_of[leavers++], error);
        }
        leave(&stream);
    }
    if (code) return code;
    *out = (struct bench_promises){.prompt_tokens = tokens,
                                   .step_ms = 1e3 * bench_median(steps, step_count),
                                   .chunk_ms = 1e3 * bench_median(chunks, runs),
                                   .gap_ms = 1e3 * longest,
                                   .leavers = leavers,
                                   .free_ms = 1e3 * bench_median(free_of, leavers)};
    for (int i = 0; i < leavers; i++) out->free_ms_max = fmax(out->free_ms_max, 1e3 * free_of[i]);
    return 0;
}

// ---- Telling

static double gap_promised(const struct bench_promises *promises) {
    return BENCH_PROMISE_GAP * (promises->chunk_ms + promises->step_ms);
}

void bench_promises_print(const struct bench_promises *promises) {
    if (promises->prompt_tokens == 0) return;
    printf("\nwhile a prompt of %d tokens comes, a stream stands still for %.1f ms at most; promised: %.1f, which is\n"
           "%.1f times a chunk (%.1f ms) and a step (%.1f ms)\n",
           promises->prompt_tokens, promises->gap_ms, gap_promised(promises), BENCH_PROMISE_GAP, promises->chunk_ms,
           promises->step_ms);
    printf("when a client leaves, its place is free after %.1f ms, the longest of %d %.1f ms; promised: one step,\n"
           "which is %.1f ms\n",
           promises->free_ms, promises->leavers, promises->free_ms_max, promises->step_ms);
}

json_t *bench_promises_json(const struct bench_promises *promises) {
    if (promises->prompt_tokens == 0) return json_null();
    return json_pack("{s:i, s:f, s:f, s:{s:f, s:f}, s:{s:f, s:f, s:i, s:f}}", "prompt_tokens", promises->prompt_tokens,
                     "chunk_ms", promises->chunk_ms, "step_ms", promises->step_ms, "longest_gap", "ms",
                     promises->gap_ms, "promised_ms", gap_promised(promises), "free_place", "ms", promises->free_ms,
                     "longest_ms", promises->free_ms_max, "leavers", promises->leavers, "promised_ms",
                     promises->step_ms);
}
