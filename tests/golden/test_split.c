// The experts on an OpenCL device beside all of it on the CPU, in each format of weights, through the whole engine: the
// golden prompts of the built-in model, and beginnings of the longer ones, as most are brief (engine/sequence.h); each
// continued greedily and freely, eight at once, for 64 tokens where tokens are compared with the CPU's, for 8 where
// bits are, or what CLBlast does. The tokens are the same.
//
// In int8 and int4 the device computes what the CPU's kernels for bytes do, to the bit (cl_kernels/README.md), so
// log-probabilities have the same bits too, and no token can turn; nor where the device fails in the middle, or has
// some of the experts only.
//
// A CPU with AMX multiplies prompts of int8 and int4 in bf16, if it computes all of them. There, and in f32 and bf16,
// where sums have another order, log-probabilities of likely tokens move by hundredths, and a token that leads by less
// than 0.04 may turn, which changes all behind it: in at most one answer in ten, and in f32 in none. Found: with AMX
// one of 38 in int4, and one in int8; none else.
//
// CLBlast, which nobody gets in int8 and int4 without asking for it, multiplies such rows: it is held against what is
// computed without any rounding, plain C in f32, from the same weights. Log-probabilities of the token behind a prompt
// were within 0.00001 in f32 and bf16, 0.00008 in int8 and 0.00005 in int4; 0.001 is allowed, as to all f32 sums
// (test_parity.c). Beside the CPU's own kernels, whose rounding is theirs, tokens are the same in f32 and bf16; in int8
// and int4 tokens that lead by less than the CPU's rounding costs may turn: 0.04 was found.
#include "engine/engine.h"
#include "engine/opencl/opencl.h"
#include "engine/stages.h"
#include "tests/opencl_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROMPTS_MAX = 64,
    TOKENS_MAX = 1024,
    SHORT_TOKENS = 60,
    CALL_TOKENS = 512,   // of a prompt that are computed at once
    CALLS_TOKENS = 700,  // more than those, but not the longest
    PROMPT_TOKENS = STAGE_STEADY_ROWS + 1, // so few may be computed as answers are
    NEW_TOKENS = 64,
    SOME_TOKENS = 8,
    COMPANY = 8, // answered at once
    TURNED_MAX = 3,
    LAST_CALLS = 100, // of OpenCL, behind which the device fails: in the middle of the first prompt
};

static const double TIE = 0.04, CLBLAST_TIE = 0.08, EXACT = 1e-3; // of log-probabilities

struct answer {
    int32_t token[NEW_TOKENS];
    double lead[NEW_TOKENS]; // in log-probability, over the next likely one
    double first;            // log-probability of the first one
};

static struct answer on_cpu[PROMPTS_MAX], split[PROMPTS_MAX];

// Who computes what.
struct way {
    const char *placement, *products, *kernels;
    const char *experts; // of each layer that are the device's; NULL: all
    bool fails;          // the device, before long, and for ever
};

// The first `length` tokens of a prompt.
static struct engine_job *ask(struct engine *engine, const json_t *ids, size_t length, int new_tokens) {
    int32_t tokens[TOKENS_MAX];
    assert_in_range(length, 1, TOKENS_MAX);
    for (size_t i = 0; i < length; i++) tokens[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    const struct engine_request request = {.prompt = tokens,
                                           .prompt_tokens = length,
                                           .tokens_max = new_tokens,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                                           .want_logprobs = true,
                                           .top_logprobs = 2,
                                           .ignore_eos = true};
    struct engine_job *job;
    struct error error;
    if (engine_submit(engine, &request, &job, &error)) fail_msg("%s", error.message);
    return job;
}

static void hear(struct engine_job *job, int new_tokens, struct answer *out) {
    int count = 0;
    for (struct engine_event *event; (event = engine_job_wait(job)); engine_event_destroy(event)) {
        if (event->type == ENGINE_EVENT_ERROR) fail_msg("%s", event->error.message);
        for (int i = 0; i < event->token_count; i++, count++) {
            const struct engine_token *token = &event->tokens[i];
            assert_in_range(count, 0, new_tokens - 1);
            assert_int_equal(token->top_count, 2);
            if (count == 0) out->first = (double)token->top[0].logprob;
            out->token[count] = token->token;
            out->lead[count] = (double)token->top[0].logprob - (double)token->top[1].logprob;
        }
    }
    assert_int_equal(count, new_tokens);
    engine_job_release(job);
}

// All prompts of so many tokens, and a beginning of each longer one; how many. Skips where there is no device, or no
// CLBlast where that is wanted.
static int ask_all(const struct way *way, enum weight_format weights, size_t tokens_least, size_t tokens_most,
                   int new_tokens, struct answer out[PROMPTS_MAX]) {
    static const size_t BEGINNINGS[2] = {PROMPT_TOKENS, SHORT_TOKENS};
    const struct engine_options options = {.model_dir = "models/demo",
                                           .weights = weights,
                                           .stages = way->kernels,
                                           .placement = way->placement,
                                           .cl_products = way->products,
                                           .experts_opencl = way->experts,
                                           .threads = 2,
                                           .sequences_max = COMPANY,
                                           .queue_max = PROMPTS_MAX,
                                           .prefix = PREFIX_OFF};
    struct engine_job *jobs[PROMPTS_MAX];
    struct engine *engine;
    struct error error;
    struct engine_stats stats;
    json_error_t cause;
    if (strcmp(way->placement, "split") == 0) need_opencl();
    if (engine_open(&engine, &options, &error)) fail_msg("%s", error.message);
    engine_stats(engine, &stats);
    const char *device = engine_info(engine)->device;
    if (stats.degraded[0]) fail_msg("%s", stats.degraded);
    if (strstr(device, "without CLBlast: there is no")) {
        engine_close(engine);
        skip();
    }
    assert_true((strstr(device, "prompts by CLBlast") != NULL) == (strcmp(way->products, "clblast") == 0));
    if (way->fails) opencl_inject(LAST_CALLS, OPENCL_FAULT_ONWARDS);
    json_t *golden = json_load_file("tests/golden/data/demo.json", 0, &cause);
    if (!golden) fail_msg("%s", cause.text);
    const json_t *prompts = json_object_get(golden, "prompts");
    size_t all = json_array_size(prompts);
    int count = 0, cut = 0;
    assert_in_range(all, 20, PROMPTS_MAX);
    for (size_t i = 0; i < all; i++) {
        const json_t *ids = json_object_get(json_array_get(prompts, i), "tokens");
        size_t length = json_array_size(ids);
        assert_in_range(count, 0, PROMPTS_MAX - 2);
        if (length >= tokens_least && length <= tokens_most) jobs[count++] = ask(engine, ids, length, new_tokens);
        if (length > SHORT_TOKENS) jobs[count++] = ask(engine, ids, BEGINNINGS[cut++ % 2], new_tokens);
    }
    for (int i = 0; i < count; i++) hear(jobs[i], new_tokens, &out[i]);
    json_decref(golden);
    engine_stats(engine, &stats);
    assert_true((stats.degraded[0] != 0) == way->fails); // else the device has computed all of it
    opencl_inject(0, OPENCL_FAULT_ONCE);
    engine_close(engine);
    return count;
}

// How many answers have another token than the CPU's somewhere, which may lead by `tie` there.
static int count_turned(enum weight_format weights, int count, int new_tokens, double tie) {
    int turned = 0;
    double most = 0; // difference of the likeliest first tokens'
    for (int p = 0; p < count; p++) {
        int at = 0;
        if (split[p].token[0] == on_cpu[p].token[0]) most = fmax(most, fabs(split[p].first - on_cpu[p].first));
        while (at < new_tokens && split[p].token[at] == on_cpu[p].token[at]) at++;
        if (at == new_tokens) continue;
        double lead = on_cpu[p].lead[at];
        turned++;
        if (!(lead <= tie))
            fail_msg("%s, prompt %d, new token %d: %d on the CPU, which leads by %.4f; %d on both",
                     weight_format_name(weights), p, at, on_cpu[p].token[at], lead, split[p].token[at]);
    }
    print_message("%s: %d of %d answers have the same %d tokens; first log-probabilities within %.6f\n",
                  weight_format_name(weights), count - turned, count, new_tokens, most);
    return turned;
}

static void tokens_are_the_cpus(void **state) {
    static const struct way cpu = {"cpu", "own", "cpu", NULL, false}, both = {"split", "own", "cpu", NULL, false};
    enum weight_format weights = *(const enum weight_format *)*state;
    int count = ask_all(&cpu, weights, 1, TOKENS_MAX, NEW_TOKENS, on_cpu);
    assert_int_equal(ask_all(&both, weights, 1, TOKENS_MAX, NEW_TOKENS, split), count);
    assert_in_range(count_turned(weights, count, NEW_TOKENS, weights == WEIGHTS_F32 ? -1 : TIE), 0, TURNED_MAX);
}

static void check_same(enum weight_format weights, int count, const char *what) {
    for (int p = 0; p < count; p++)
        if (memcmp(&on_cpu[p], &split[p], sizeof split[p]) != 0)
            fail_msg("%s, %s, prompt %d: not the same bits", weight_format_name(weights), what, p);
}

// Kernels of the CPU that multiply prompts as bytes, as this machine's best ones do unless it has AMX.
static const char *byte_kernels(void) {
    static const char *const NAMES[] = {"avx-vnni", "avx2"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const struct engine_options options = {.model_dir = "models/demo", .stages = NAMES[i], .threads = 1};
        struct engine *engine;
        struct error error;
        int code = engine_open(&engine, &options, &error);
        if (!code) engine_close(engine);
        if (!code) return NAMES[i];
        assert_int_equal(code, ERROR_UNSUPPORTED);
    }
    skip();
    return NULL;
}

static void bits_are_the_cpus(void **state) {
    enum weight_format weights = *(const enum weight_format *)*state;
    if (weights != WEIGHTS_INT8 && weights != WEIGHTS_INT4) skip();
    const char *kernels = byte_kernels();
    const struct way cpu = {"cpu", "own", kernels, NULL, false}, both = {"split", "own", kernels, NULL, false};
    int count = ask_all(&both, weights, 1, CALLS_TOKENS, SOME_TOKENS, split);
    assert_int_equal(ask_all(&cpu, weights, 1, CALLS_TOKENS, SOME_TOKENS, on_cpu), count);
    check_same(weights, count, kernels);
}

// By whatever kernels: who computes a row makes no difference where a device takes part.
static void bits_whoever_has_them(void **state) {
    static const struct way both = {"split", "own", "cpu", NULL, false}, fails = {"split", "own", "cpu", NULL, true},
                            some = {"split", "own", "cpu", "0,2-3", false},
                            some_fail = {"split", "own", "cpu", "0,2-3", true};
    enum weight_format weights = *(const enum weight_format *)*state;
    if (weights != WEIGHTS_INT8 && weights != WEIGHTS_INT4) skip();
    int count = ask_all(&both, weights, 1, SHORT_TOKENS, SOME_TOKENS, on_cpu);
    assert_int_equal(ask_all(&fails, weights, 1, SHORT_TOKENS, SOME_TOKENS, split), count);
    check_same(weights, count, "a device that fails");
    assert_int_equal(ask_all(&some, weights, 1, SHORT_TOKENS, SOME_TOKENS, split), count);
    check_same(weights, count, "some experts");
    assert_int_equal(ask_all(&some_fail, weights, 1, SHORT_TOKENS, SOME_TOKENS, split), count);
    check_same(weights, count, "some experts, and a device that fails");
}

static void clblasts_tokens(void **state) {
    static const struct way cpu = {"cpu", "own", "cpu", NULL, false}, both = {"split", "clblast", "cpu", NULL, false};
    enum weight_format weights = *(const enum weight_format *)*state;
    double tie = weights == WEIGHTS_F32 ? -1 : weights == WEIGHTS_BF16 ? TIE : CLBLAST_TIE;
    int count = ask_all(&both, weights, 1, CALL_TOKENS, SOME_TOKENS, split); // skips before anything else is computed
    assert_int_equal(ask_all(&cpu, weights, 1, CALL_TOKENS, SOME_TOKENS, on_cpu), count);
    assert_in_range(count_turned(weights, count, SOME_TOKENS, tie), 0, TURNED_MAX);
}

// Of prompts, that is; a brief one's rows are bytes in int8 and int4, as answers' are.
static void clblast_is_exact(void **state) {
    static const struct way cpu = {"cpu", "own", "reference", NULL, false},
                            both = {"split", "clblast", "reference", NULL, false};
    enum weight_format weights = *(const enum weight_format *)*state;
    double most = 0;
    int count = ask_all(&both, weights, PROMPT_TOKENS, SHORT_TOKENS, 1, split);
    assert_int_equal(ask_all(&cpu, weights, PROMPT_TOKENS, SHORT_TOKENS, 1, on_cpu), count);
    for (int p = 0; p < count; p++) {
        double off = fabs(split[p].first - on_cpu[p].first);
        if (!(off <= EXACT) || split[p].token[0] != on_cpu[p].token[0])
            fail_msg("%s, short prompt %d: token %d of %.6f, expected %d of %.6f", weight_format_name(weights), p,
                     split[p].token[0], split[p].first, on_cpu[p].token[0], on_cpu[p].first);
        if (off > most) most = off;
    }
    print_message("%s: log-probabilities within %.6f of plain C's\n", weight_format_name(weights), most);
}

int main(void) {
    static const struct {
        const char *what;
        CMUnitTestFunction run;
    } KINDS[] = {{"%s", tokens_are_the_cpus},
                 {"%s as bytes", bits_are_the_cpus},
                 {"%s, whoever has them", bits_whoever_has_them},
                 {"%s by CLBlast", clblasts_tokens},
                 {"%s by CLBlast beside plain C", clblast_is_exact}};
    enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS, TEST_COUNT = KIND_COUNT * WEIGHT_FORMAT_COUNT };
    static enum weight_format formats[WEIGHT_FORMAT_COUNT];
    static char names[TEST_COUNT][64];
    static struct CMUnitTest tests[TEST_COUNT];
    for (size_t i = 0; i < TEST_COUNT; i++) {
        size_t f = i % WEIGHT_FORMAT_COUNT, kind = i / WEIGHT_FORMAT_COUNT;
        formats[f] = (enum weight_format)f;
        snprintf(names[i], sizeof names[i], KINDS[kind].what, weight_format_name(formats[f]));
        tests[i] = (struct CMUnitTest){.name = names[i], .test_func = KINDS[kind].run, .initial_state = &formats[f]};
    }
    if (getenv("TANDEM_TEST_ONLY")) cmocka_set_test_filter(getenv("TANDEM_TEST_ONLY"));
    return _cmocka_run_group_tests("split", tests, TEST_COUNT, NULL, NULL);
}
