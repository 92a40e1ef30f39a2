// tandem profile: which experts a set of prompts calls for, and what that says of where they should be computed.
#include "base/plural.h"
#include "cli/answer.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/model_settings.h"
#include "cli/suggest.h"
#include "engine/engine.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSIEST = 3, LINE_BYTES_MAX = 1 << 20, PROFILE_TOKENS_MAX = 1 << 20 };

struct profile_settings {
    char *system;
    int max_tokens, at_once;
    bool raw, json;
};
static struct profile_settings own;
static struct model_settings model;

#define AT(member) offsetof(struct profile_settings, member)
static const struct setting ROWS[] = {
    {NULL, "--max-tokens", NULL, SETTING_INT, AT(max_tokens), 1, PROFILE_TOKENS_MAX, NULL, "64", "",
     "tokens of each answer, at most"},
    {NULL, "--at-once", NULL, SETTING_INT, AT(at_once), 1, ENGINE_SEQUENCES_MAX, NULL, "1", "",
     "answers that will be written together where this is to be used, for the suggestion"},
    {NULL, "--system", NULL, SETTING_TEXT, AT(system), 0, 0, NULL, "", "",
     "the system's message in front of each prompt"},
    {NULL, "--raw", NULL, SETTING_SWITCH, AT(raw), 0, 0, NULL, "false", "",
     "prompts are texts to go on from, with no chat format around them"},
    {NULL, "--json", NULL, SETTING_SWITCH, AT(json), 0, 0, NULL, "false", "",
     "the same as JSON, on one line, with every expert and every pair"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {
    {ROWS, &own},
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
};

static const struct example EXAMPLES[] = {
    {"tandem profile questions.txt", "a prompt a line, each answered as in a chat of its own"},
    {"head -50 story.txt | tandem profile --raw --max-tokens 1", "texts that are only read"},
    {"tandem profile --json questions.txt | jq .layers[0].answers.rows",
     "how often the first layer's experts were chosen"},
    {NULL, NULL},
};

// ---- Running the prompts

struct totals {
    int prompts;
    double prompt_tokens, answer_tokens, prompt_seconds, decode_seconds;
    struct suggest_work work;
};

static int take_nothing(void *user, const struct engine_event *event, struct error *error) {
    (void)user;
    (void)event;
    (void)error;
    return 0;
}

static int run_prompt(struct engine *engine, const char *text, size_t bytes, struct totals *totals,
                      struct error *error) {
    const struct chat_message messages[] = {{"system", own.system, strlen(own.system)}, {"user", text, bytes}};
    struct token_list ids = {0};
    struct answer answer;
    int code = own.raw ? engine_text_tokens(engine, text, bytes, false, &ids, error)
                       : engine_chat_tokens(engine, messages + !own.system[0], 1 + !!own.system[0], &ids, error);
    const struct engine_request request = {.prompt = ids.ids,
                                           .prompt_tokens = ids.count,
                                           .tokens_max = own.max_tokens,
                                           .sampling = {.top_p = 1, .repetition_penalty = 1},
                                           .one_by_one = true}; // wrong guesses would be counted too
    if (!code) code = answer_follow(engine, &request, take_nothing, NULL, &answer, error);
    token_list_finish(&ids);
    if (code) return code;
    totals->prompts++;
    totals->prompt_tokens += (double)answer.usage.prompt_tokens;
    totals->answer_tokens += (double)answer.usage.completion_tokens;
    totals->prompt_seconds += answer.usage.prompt_seconds;
    totals->decode_seconds += answer.usage.decode_seconds;
    suggest_add(&totals->work, ENGINE_ROWS_PROMPTS, (long)answer.usage.prompt_tokens, 1);
    if (answer.usage.completion_tokens > 1) // the last token of an answer nobody reads
        suggest_add(&totals->work, ENGINE_ROWS_ANSWERS, own.at_once,
                    (double)(answer.usage.completion_tokens - 1) / own.at_once);
    return 0;
}

// Each line that is not empty.
static int run_prompts(struct engine *engine, FILE *file, const char *name, struct totals *totals,
                       struct error *error) {
    char *line = NULL;
    size_t capacity = 0;
    int code = 0;
    for (ssize_t length; !code && (length = getline(&line, &capacity, file)) >= 0;) {
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) length--;
        if (length == 0) continue;
        if (length > LINE_BYTES_MAX)
            code = error_set(error, ERROR_TOO_LARGE, "a prompt has %zd bytes; at most %d are read", length,
                             LINE_BYTES_MAX);
        else
            code = run_prompt(engine, line, (size_t)length, totals, error);
        if (code) error_prefix(error, "%s, prompt %d", name, totals->prompts + 1);
    }
    free(line);
    if (code) return code;
    if (interrupt_noted()) return error_set_code(error, ERROR_CANCELLED); // while it waited for a line
    if (ferror(file)) return error_set(error, ERROR_IO, "%s can not be read: %s", name, strerror(errno));
    return totals->prompts > 0 ? 0 : error_set(error, ERROR_ARGUMENT, "%s has no prompt: expected one a line", name);
}

// ---- What they say

struct ranked {
    int expert;
    uint64_t rows;
};

static int compare_ranked(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->rows != y->rows) return x->rows < y->rows ? 1 : -1;
    return x->expert - y->expert;
}

static struct ranked *rank(const uint64_t *rows_of, size_t experts) {
    struct ranked *ranked = calloc(experts, sizeof *ranked);
    for (size_t e = 0; ranked && e < experts; e++) ranked[e] = (struct ranked){(int)e, rows_of[e]};
    if (ranked) qsort(ranked, experts, sizeof *ranked, compare_ranked);
    return ranked;
}

// The two experts that most rows chose together, whichever came first.
static uint64_t closest(const struct engine_choices *choices, int layer, int *first, int *second) {
    int experts = choices->experts;
    uint64_t most = 0;
    *first = *second = 0;
    for (int a = 0; a < experts; a++)
        for (int b = a + 1; b < experts; b++) {
            uint64_t both = 0;
            for (int kind = 0; kind < ENGINE_ROWS_KINDS; kind++) {
                const uint64_t *pairs = choices->pairs + ((size_t)kind * (size_t)choices->layers + (size_t)layer) *
                                                             (size_t)experts * (size_t)experts;
                both += pairs[a * experts + b] + pairs[b * experts + a];
            }
            if (both <= most) continue;
            most = both;
            *first = a;
            *second = b;
        }
    return most;
}

// ---- For people

static int print_layer(const struct engine_choices *choices, int layer, uint64_t *rows_of, uint64_t *more) {
    uint64_t rows = engine_choices_rows(choices, ENGINE_ROWS_ANSWERS, layer, rows_of);
    rows += engine_choices_rows(choices, ENGINE_ROWS_PROMPTS, layer, more);
    for (int e = 0; e < choices->experts; e++) rows_of[e] += more[e];
    struct ranked *ranked = rank(rows_of, (size_t)choices->experts);
    if (!ranked) return ERROR_MEMORY;
    int first, second;
    uint64_t both = closest(choices, layer, &first, &second);
    double share = rows > 0 ? 100.0 / (double)rows : 0;
    printf("%6d %8llu %9.2f  ", layer, (unsigned long long)rows, engine_choices_evenness(rows_of, choices->experts));
    for (int i = 0; i < BUSIEST && i < choices->experts; i++)
        printf("%4d %2.0f %%", ranked[i].expert, share * (double)ranked[i].rows);
    printf("   %3d and %d: %.0f %%\n", first, second, share * (double)both);
    free(ranked);
    return 0;
}

// As comments, so that what is printed from here on is a settings file.
static void print_gain(const char *what, const struct suggestion *suggestion, enum engine_rows kind) {
    double alone = suggestion->cpu_seconds[kind], seconds = suggestion->seconds[kind];
    if (!(alone > 0 && seconds > 0)) return;
    printf("# %s: %.2f times as fast as on the CPU alone, %.3g s instead of %.3g\n", what, alone / seconds, seconds,
           alone);
}

static int print_suggestion(const struct suggestion *suggestion, const struct engine_placement *placement) {
    struct buffer yaml;
    buffer_init(&yaml, 1 << 20);
    if (!suggestion_yaml(suggestion, &yaml)) {
        buffer_finish(&yaml);
        return ERROR_MEMORY;
    }
    printf("\n# OpenCL: %s\n", placement->device[0] ? placement->device : placement->why);
    printf("# What was measured and counted suggests, for a settings file, and lets expect (but for attention):\n");
    print_gain("prompts", suggestion, ENGINE_ROWS_PROMPTS);
    print_gain("answers", suggestion, ENGINE_ROWS_ANSWERS);
    fputs(yaml.data, stdout);
    buffer_finish(&yaml);
    return 0;
}

static int print(const struct engine_choices *choices, const struct engine_placement *placement,
                 const struct totals *totals, const struct suggestion *suggestion, struct error *error) {
    uint64_t *rows_of = calloc(2 * (size_t)choices->experts, sizeof *rows_of);
    int code = rows_of ? 0 : ERROR_MEMORY;
    printf("%d prompt%s of %.0f tokens in all, %.0f token%s of answers\n\n", totals->prompts,
           plural((size_t)totals->prompts), totals->prompt_tokens, totals->answer_tokens,
           plural((size_t)totals->answer_tokens));
    printf(" layer     rows  evenness  busiest experts            most often together\n");
    for (int l = 0; !code && l < choices->layers; l++)
        code = print_layer(choices, l, rows_of, rows_of + choices->experts);
    free(rows_of);
    if (!code)
        printf("\nShares are of a layer's rows, each of which chooses two. Evenness 1: every expert has as many "
               "rows.\n");
    if (!code) code = print_suggestion(suggestion, placement);
    return code ? error_set_code(error, (enum error_code)code) : 0;
}

// ---- For programs

static json_t *json_rows(const struct engine_choices *choices, enum engine_rows kind, int layer, uint64_t *rows_of) {
    int experts = choices->experts;
    const uint64_t *pairs =
        choices->pairs + ((size_t)kind * (size_t)choices->layers + (size_t)layer) * (size_t)experts * (size_t)experts;
    uint64_t count = engine_choices_rows(choices, kind, layer, rows_of);
    json_t *rows = json_array(), *together = json_array();
    for (int e = 0; e < experts; e++) json_array_append_new(rows, json_integer((json_int_t)rows_of[e]));
    for (int a = 0; a < experts; a++)
        for (int b = 0; b < experts; b++)
            if (pairs[a * experts + b] > 0)
                json_array_append_new(together, json_pack("[i, i, I]", a, b, (json_int_t)pairs[a * experts + b]));
    return json_pack("{s:I, s:f, s:o, s:o}", "chosen", (json_int_t)count, "evenness",
                     engine_choices_evenness(rows_of, experts), "rows", rows, "first_second_rows", together);
}

// How many times as fast as on the CPU alone; null: there were no such rows, or nothing was measured.
static json_t *json_gain(const struct suggestion *suggestion, enum engine_rows kind) {
    double alone = suggestion->cpu_seconds[kind], seconds = suggestion->seconds[kind];
    return alone > 0 && seconds > 0 ? json_real(alone / seconds) : json_null();
}

static int print_json(const struct engine_choices *choices, const struct engine_placement *placement,
                      const struct totals *totals, const struct suggestion *suggestion, struct error *error) {
    uint64_t *rows_of = calloc((size_t)choices->experts, sizeof *rows_of);
    json_t *layers = json_array();
    for (int l = 0; rows_of && l < choices->layers; l++)
        json_array_append_new(layers,
                              json_pack("{s:o, s:o}", "prompts", json_rows(choices, ENGINE_ROWS_PROMPTS, l, rows_of),
                                        "answers", json_rows(choices, ENGINE_ROWS_ANSWERS, l, rows_of)));
    json_t *top = json_pack(
        "{s:i, s:f, s:f, s:f, s:f, s:i, s:o, s:{s:s, s:s, s:s, s:s, s:i, s:s?, s:o, s:o}}", "prompts", totals->prompts,
        "prompt_tokens", totals->prompt_tokens, "answer_tokens", totals->answer_tokens, "prompt_seconds",
        totals->prompt_seconds, "decode_seconds", totals->decode_seconds, "experts", choices->experts, "layers", layers,
        "suggested", "device", placement->device, "figures_of", placement->key, "experts_prefill",
        suggestion->who[ENGINE_ROWS_PROMPTS], "experts_decode", suggestion->who[ENGINE_ROWS_ANSWERS],
        "experts_decode_from", suggestion->decode_from, "experts_opencl", suggestion->experts, "prompts_gain",
        json_gain(suggestion, ENGINE_ROWS_PROMPTS), "answers_gain", json_gain(suggestion, ENGINE_ROWS_ANSWERS));
    char *text = rows_of && top ? json_dumps(top, JSON_COMPACT) : NULL;
    int code = text && puts(text) >= 0 ? 0 : error_set_code(error, text ? ERROR_IO : ERROR_MEMORY);
    free(text);
    json_decref(top);
    free(rows_of);
    return code;
}

// ---- The command

static int profile(FILE *file, const char *name) {
    struct error error = {0};
    struct engine *engine;
    struct engine_choices choices = {0};
    struct totals totals = {0};
    struct suggestion suggestion = {0};
    const struct engine_options options = {
        .sequences_max = 1, .queue_max = 1, .prefix = PREFIX_OFF, .explain_placement = true};
    if (interrupt_set(INTERRUPT_ENDS, &error)) return command_fail(&profile_command, &error, EXIT_OTHER);
    if (model_settings_open(&model, options, &engine, &error))
        return model_settings_fail(&profile_command, &error);
    int code = interrupt_set(INTERRUPT_IS_NOTED_ONCE, &error);
    if (!code) code = run_prompts(engine, file, name, &totals, &error);
    if (!code) code = engine_choices(engine, &choices, &error);
    const struct engine_placement *found = engine_placement(engine);
    if (!code) code = suggest_placement(found, &choices, &totals.work, &suggestion, &error);
    if (!code) code = (own.json ? print_json : print)(&choices, found, &totals, &suggestion, &error);
    suggestion_finish(&suggestion);
    engine_choices_finish(&choices);
    engine_close(engine);
    if (code == ERROR_CANCELLED && interrupt_noted()) return 128 + interrupt_noted();
    return code ? command_fail(&profile_command, &error, code == ERROR_ARGUMENT ? EXIT_USAGE : EXIT_OTHER) : EXIT_WELL;
}

static int run(int count, char **arguments) {
    struct error error = {0};
    const char *name = NULL;
    int exit_code = command_begin(&profile_command, count, arguments, &name);
    bool piped = !name || strcmp(name, "-") == 0;
    if (!exit_code && !name && isatty(STDIN_FILENO)) {
        error_set(&error, ERROR_ARGUMENT, "there are no prompts: name a file with one a line, or pipe them in");
        exit_code = command_misused(&profile_command, &error);
    }
    FILE *file = exit_code ? NULL : piped ? stdin : fopen(name, "re");
    if (!exit_code && !file) {
        error_set(&error, ERROR_IO, "%s can not be read: %s", name, strerror(errno));
        exit_code = command_fail(&profile_command, &error, EXIT_USAGE);
    }
    if (!exit_code) exit_code = profile(file, piped ? "standard input" : name);
    if (file && !piped) fclose(file);
    command_end(&profile_command);
    return exit_code;
}

const struct command profile_command = {
    .name = "profile",
    .summary = "run prompts and say which experts they call for",
    .operand = "[FILE]",
    .description =
        "Answers each line of FILE, or of standard input, with the most likely tokens, and counts for each layer which "
        "experts were chosen, how evenly, and which two go together. Then it says who should compute the experts: both "
        "devices are measured while the model is opened, as `tandem inspect --placement` does it.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
