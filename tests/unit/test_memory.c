// An engine that runs out of memory: each allocation of opening the built-in model and of one answer fails once, and
// all from it on. Every time the error says so, nothing hangs, everything is given back, and nothing else is harmed.
// The linker puts the functions named __wrap_ in place of those that allocate, in Tandem's own code (meson.build);
// jansson is given them too. What oneDNN, OpenMP and the C library allocate inside does not fail here.
#include "base/file.h"
#include "engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- Memory that fails

static struct {
    atomic_long asked, held; // allocations since the start of a run, and those not given back
    atomic_long fails_at;    // -1: none
    atomic_bool goes_on_failing;
} memory = {.fails_at = -1};

static bool fails(void) {
    long number = atomic_fetch_add(&memory.asked, 1), at = atomic_load(&memory.fails_at);
    if (at < 0 || number < at || (number > at && !atomic_load(&memory.goes_on_failing))) return false;
    errno = ENOMEM;
    return true;
}

static void *count(void *block) {
    if (block) atomic_fetch_add(&memory.held, 1);
    return block;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t number, size_t bytes);
void *__real_realloc(void *block, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
char *__real_realpath(const char *path, char *out);
void __real_free(void *block);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t number, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
char *__wrap_realpath(const char *path, char *out);
void __wrap_free(void *block);

void *__wrap_malloc(size_t bytes) {
    return fails() ? NULL : count(__real_malloc(bytes));
}

void *__wrap_calloc(size_t number, size_t bytes) {
    return fails() ? NULL : count(__real_calloc(number, bytes));
}

void *__wrap_realloc(void *block, size_t bytes) {
    if (fails()) return NULL;
    void *moved = __real_realloc(block, bytes);
    return block ? moved : count(moved);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return fails() ? NULL : count(__real_aligned_alloc(alignment, bytes));
}

char *__wrap_strdup(const char *text) {
    return fails() ? NULL : count(__real_strdup(text));
}

char *__wrap_realpath(const char *path, char *out) {
    return fails() ? NULL : count(__real_realpath(path, out));
}

void __wrap_free(void *block) {
    if (block) atomic_fetch_sub(&memory.held, 1);
    __real_free(block);
}

// ---- One run

// Reads a job to its end. 0, or the code that it ended with.
static int read_job(struct engine_job *job) {
    for (struct engine_event *event; (event = engine_job_wait(job));) {
        bool last = event->type == ENGINE_EVENT_DONE || event->type == ENGINE_EVENT_ERROR;
        int code = event->type == ENGINE_EVENT_ERROR ? (int)event->error.code : 0;
        engine_event_destroy(event);
        if (last) return code;
    }
    fail_msg("a job without an end");
    return -1;
}

// An answer that makes use of everything that needs memory.
static int answer(struct engine *engine, struct error *error) {
    const char *question = "Hello! What is the capital of France, and what is 3 + 4?";
    const struct chat_message message = {"user", question, strlen(question)};
    struct token_list prompt = {0};
    int code = engine_chat_tokens(engine, &message, 1, &prompt, error);
    if (!code) {
        const struct logit_bias bias = {5, 1};
        struct engine_request request = {.prompt = prompt.ids,
                                         .prompt_tokens = prompt.count,
                                         .tokens_max = 8,
                                         .stops = {{"zzz", 3}},
                                         .stop_count = 1,
                                         .ignore_eos = true,
                                         .want_logprobs = true,
                                         .top_logprobs = 3,
                                         .prompt_logprobs = true,
                                         .strip_space = true,
                                         .sampling = {.temperature = 1,
                                                      .top_p = 0.9f,
                                                      .repetition_penalty = 1.1f,
                                                      .seed = 1,
                                                      .bias = &bias,
                                                      .bias_count = 1}};
        struct engine_job *job = NULL;
        code = engine_submit(engine, &request, &job, error);
        if (!code) code = read_job(job);
        engine_job_release(job);
    }
    token_list_finish(&prompt);
    return code;
}

// 0, or the code that opening or answering ended with. All memory is given back.
static int run(enum weight_format weights, long fails_at, bool goes_on) {
    struct engine *engine = NULL;
    struct error error = {0};
    const struct engine_options options = {.model_dir = "models/demo",
                                           .weights = weights,
                                           .threads = 1,
                                           .sequences_max = 2,
                                           .speculate = SPECULATE_AUTO,
                                           .kv_tokens = 256,
                                           .prefill_tokens_max = 32};
    long held = atomic_load(&memory.held);
    atomic_store(&memory.asked, 0);
    atomic_store(&memory.goes_on_failing, goes_on);
    atomic_store(&memory.fails_at, fails_at);
    int code = engine_open(&engine, &options, &error);
    if (!code) {
        code = answer(engine, &error);
        if (code && !goes_on && answer(engine, &error)) fail_msg("allocation %ld: it harmed the next answer", fails_at);
    } else {
        assert_null(engine);
    }
    engine_close(engine);
    atomic_store(&memory.fails_at, -1);
    if (atomic_load(&memory.held) != held)
        fail_msg("allocation %ld: %ld were not given back", fails_at, atomic_load(&memory.held) - held);
    return code;
}

// Some failures do no harm: the model is called "model", or a product is computed without oneDNN.
enum { HARMLESS_MAX = 16 };

static void check_all(enum weight_format weights, bool goes_on) {
    assert_int_equal(run(weights, -1, false), 0);
    long all = atomic_load(&memory.asked), harmless = 0;
    assert_in_range(all, 50, 5000);
    for (long i = 0; i < all; i++) {
        int code = run(weights, i, goes_on);
        if (code != ERROR_MEMORY && code != 0) fail_msg("allocation %ld of %ld: code %d", i, all, code);
        harmless += code == 0;
    }
    assert_in_range(harmless, 0, HARMLESS_MAX);
}

static void one_fails(void **state) {
    (void)state;
    check_all(WEIGHTS_BF16, false);
    check_all(WEIGHTS_F32, false);
}

static void all_fail_from_one_on(void **state) {
    (void)state;
    check_all(WEIGHTS_BF16, true);
}

// Memory that fails while a pipe is read is not told as a pipe that says too much.
static void a_pipe_is_read(void **state) {
    (void)state;
    char name[32], *text;
    size_t bytes;
    struct error error;
    int failed = 0;
    for (int code = -1; code; failed += code != 0) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(write(ends[1], "Tandem", 6), 6);
        close(ends[1]);
        snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
        atomic_store(&memory.asked, 0);
        atomic_store(&memory.goes_on_failing, false);
        atomic_store(&memory.fails_at, failed);
        code = file_load_or_pipe(name, 6, &text, &bytes, &error);
        atomic_store(&memory.fails_at, -1);
        if (code) assert_int_equal(code, ERROR_MEMORY);
        close(ends[0]);
    }
    assert_in_range(failed, 1, 8);
    assert_string_equal(text, "Tandem");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_is_read),
        cmocka_unit_test(one_fails),
        cmocka_unit_test(all_fail_from_one_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
