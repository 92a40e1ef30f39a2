// tandem inspect: what a model is and what of it fits here, without loading it.
#include "base/plural.h"
#include "base/wrap.h"
#include "cli/amounts.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/model_settings.h"
#include "engine/inspect.h"
#include "engine/watch.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INDENT = 13 };

struct inspect_settings {
    bool placement, json;
};
static struct inspect_settings settings;
static struct model_settings opened; // with --placement

#define AT(member) offsetof(struct inspect_settings, member)
static const struct setting ROWS[] = {
    {NULL, "--placement", NULL, SETTING_SWITCH, AT(placement), 0, 0, NULL, "false", "",
     "load the model, measure the CPU and the OpenCL device with it, and say who will compute the experts"},
    {NULL, "--json", NULL, SETTING_SWITCH, AT(json), 0, 0, NULL, "false", "", "the same as JSON, on one line"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {
    {MODEL_SETTINGS, &opened},
    {ROWS, &settings},
};

static const struct example EXAMPLES[] = {
    {"tandem inspect", "the built-in model"},
    {"tandem inspect Phi-tiny-MoE-instruct", "a model as downloaded from Hugging Face: does it fit this machine?"},
    {"tandem inspect --json Phi-tiny-MoE-instruct | jq .weights.bf16.kv_tokens",
     "how many tokens the KV cache could hold beside the weights"},
    {"tandem inspect --placement Phi-tiny-MoE-instruct", "would the GPU help, and how much?"},
    {"tandem inspect --placement --experts-opencl 0-7 Phi-tiny-MoE-instruct", "and with half of the experts?"},
    {NULL, NULL},
};

static bool fits(const struct engine_outline *model, const struct engine_machine *machine, int format) {
    return machine->memory_bytes >= model->weight_bytes[format];
}

// ---- For people

static void print_model(const struct engine_outline *model) {
    char all[AMOUNT_BYTES], active[AMOUNT_BYTES], files[AMOUNT_BYTES];
    printf("%s: %s, %s parameters, %s for a token\n\n", model->model_name, model->architecture,
           amount_of_things(all, (double)model->parameters),
           amount_of_things(active, (double)model->parameters_active));
    printf("  layers     %d of width %d; %d heads of %d over %d of keys and values\n", model->layers, model->hidden,
           model->heads, model->head_dim, model->kv_heads);
    printf("  experts    %d of width %d in each layer, %d for a token\n", model->experts, model->expert_width,
           model->experts_per_token);
    printf("  context    %d tokens", model->context_tokens);
    if (model->window_tokens < model->context_tokens)
        printf(", of which a token sees the last %d", model->window_tokens);
    printf("\n  files      %zu of weights, %s, %s\n", model->file_count,
           amount_of_bytes(files, (double)model->file_bytes), model->file_weights);
}

// "<|end|>* <|user|>", in lines; a star for what ends an answer.
static void print_specials(const struct engine_outline *model) {
    struct buffer words, lines;
    buffer_init(&words, 1 << 20);
    buffer_init(&lines, 2 << 20);
    for (int i = 0; i < model->special_count; i++)
        buffer_format(&words, "%s%s%s", i ? " " : "", model->specials[i].text,
                      model->specials[i].ends_answer ? "*" : "");
    wrap_text(&lines, words.data ? words.data : "none", INDENT, INDENT, WRAP_COLUMNS);
    printf("  specials   %s\n%*s(* ends an answer)\n", lines.data ? lines.data : "", INDENT, "");
    buffer_finish(&lines);
    buffer_finish(&words);
}

static void print_text(const struct engine_outline *model) {
    if (model->token_count == 0) {
        printf("  tokenizer  not supported\n");
        return;
    }
    printf("  tokenizer  BPE with byte fallback; %d of %d tokens are known\n", model->token_count, model->vocab_size);
    printf("  chat       %s%s\n", model->chat_template ? model->chat_template : "the template is not supported",
           model->chat_template_assumed ? ", assumed: the files have no chat template" : "");
    print_specials(model);
}

static void print_fit(const struct engine_outline *model) {
    struct engine_machine machine = engine_machine();
    printf("  KV cache   %.1f KiB for each token of a conversation\n\n", (double)model->kv_bytes_per_token / 1024);
    if (machine.memory_bytes == 0) {
        printf("How much memory is free here can not be read.\n");
        return;
    }
    char amount[AMOUNT_BYTES];
    printf("Here, with %s of memory free and %d cores:\n\n", amount_of_bytes(amount, (double)machine.memory_bytes),
           machine.cores);
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) {
        struct engine_kv_sizes sizes = engine_kv_sizes(model, (enum weight_format)i, &machine, 0);
        printf("  --weights %-6s%s", weight_format_name((enum weight_format)i),
               amount_of_bytes(amount, (double)model->weight_bytes[i]));
        if (!fits(model, &machine, i))
            printf(", which does not fit\n");
        else
            printf("; room for %zu tokens of KV cache, %.1f contexts; serve takes %zu\n", sizes.most,
                   (double)sizes.most / model->context_tokens, sizes.standard);
    }
}

static void print_ago(double amount, const char *unit) {
    printf("%.0f %s%s ago (--cache none measures again)", amount, unit, plural((size_t)lround(amount)));
}

static void print_age(const struct engine_placement *placement) {
    double hours = placement->age_seconds / 3600;
    if (!placement->from_cache)
        printf("now");
    else if (hours < 1)
        print_ago(placement->age_seconds / 60, "minute");
    else if (hours < 48)
        print_ago(hours, "hour");
    else
        print_ago(hours / 24, "day");
}

// How many times as long as on the CPU alone it takes with OpenCL.
static double times_of(const struct engine_placement_point *point) {
    return point->cpu_rate / point->split_rate;
}

// The slowest of the sizes of answers, or of prompts, that one of the devices has: the one that decides.
static const struct engine_placement_point *slowest_of(const struct engine_placement *placement, bool answers,
                                                       bool on_device) {
    const struct engine_placement_point *slowest = NULL;
    for (int i = 0; i < placement->point_count; i++) {
        const struct engine_placement_point *point = &placement->points[i];
        if ((point->rows <= ENGINE_PLACEMENT_ANSWERS) != answers || !(point->split_rate > 0)) continue;
        if (point->on_device == on_device && (!slowest || times_of(point) > times_of(slowest))) slowest = point;
    }
    return slowest;
}

// Who has the experts of answers, or of prompts, and why; maybe OpenCL those of many answers and the CPU those of few.
static void print_reason(const struct engine_placement *placement, bool answers) {
    const struct engine_placement_point *device = slowest_of(placement, answers, true);
    const struct engine_placement_point *cpu = slowest_of(placement, answers, false);
    const int from = answers ? placement->answers_from : device ? 1 : 0; // maybe beyond what was measured
    if (device || cpu) printf("%s: ", answers ? "Answers" : "Prompts");
    if (from > 0) printf("OpenCL");
    if (from > 0 && cpu) printf(" from %d at once on", from);
    if (device) {
        const char *rows = plural((size_t)device->rows);
        printf(", as even %d row%s take%s %.2f times as long with it as on the CPU alone", device->rows, rows,
               rows[0] ? "" : "s", times_of(device));
    }
    if (from > 0) printf(cpu ? "; fewer: " : ".\n");
    if (cpu && from > 0 && from == opened.experts_decode_from)
        printf("the CPU, as was asked for.\n");
    else if (cpu)
        printf("the CPU, as %d row%s would take %.2f times as long with OpenCL%s.\n", cpu->rows,
               plural((size_t)cpu->rows), times_of(cpu), times_of(cpu) < 1 ? ", too little to tell from noise" : "");
}

// The size of answers from which on they go in halves, of those that OpenCL has.
static void print_halves(const struct engine_placement *placement) {
    int from = placement->halves_from > placement->answers_from ? placement->halves_from : placement->answers_from;
    if (placement->answers_from == 0) return;
    if (placement->halves_from > 0)
        printf("%d answers at once and more are split in two halves, so that both devices have work.\n", from);
    else
        printf("Answers at once are not split in halves: both would read all weights, for too little.\n");
}

static void print_placement(const struct engine_placement *placement) {
    printf("\nWho computes the experts, as measured ");
    print_age(placement);
    printf(": milliseconds for a layer, and tokens a second\nof the whole model with nothing to attend to yet. Up to "
           "%d rows are so many answers at once, more are a\nprompt's tokens.\n\n"
           "   rows   experts on CPU   on OpenCL   handing over   all else on CPU    all CPU    split   experts on\n",
           ENGINE_PLACEMENT_ANSWERS);
    for (int i = 0; i < placement->point_count; i++) {
        const struct engine_placement_point *point = &placement->points[i];
        printf("  %5d %16.2f ", point->rows, point->cpu_seconds * 1e3);
        if (point->device_seconds > 0)
            printf("%11.2f %14.2f", point->device_seconds * 1e3, point->handing_seconds * 1e3);
        else
            printf("%11s %14s", "-", "-");
        printf(" %17.2f %10.1f ", point->rest_seconds * 1e3, point->cpu_rate);
        if (point->device_seconds > 0)
            printf("%8.1f", point->split_rate);
        else
            printf("%8s", "-");
        printf("   %s\n", point->on_device ? "OpenCL" : "CPU");
    }
    if (placement->contradictory)
        printf("\nThese figures contradict each other: a size, or each of its rows, takes too long beside others, also\n"
               "when it was measured again. Is the machine busy? They are not kept, and the next start measures anew.\n");
    if (placement->device[0]) printf("\n");
    print_reason(placement, true);
    print_reason(placement, false);
    print_halves(placement);
    if (placement->read_bytes > 0) printf("The CPU reads %.1f GB/s of memory.\n", placement->read_bytes / 1e9);
    printf("\nOpenCL: %s\n", placement->device[0] ? placement->device : placement->why);
    if (placement->device[0] && placement->why[0]) printf("not used: %s\n", placement->why);
}

// ---- For programs

static json_t *json_placement(const struct engine_placement *placement) {
    json_t *points = json_array();
    for (int i = 0; i < placement->point_count; i++) {
        const struct engine_placement_point *point = &placement->points[i];
        json_array_append_new(points,
                              json_pack("{s:i, s:f, s:f, s:f, s:f, s:b, s:f, s:f}", "rows", point->rows, "cpu_ms",
                                        point->cpu_seconds * 1e3, "opencl_ms", point->device_seconds * 1e3,
                                        "handing_over_ms", point->handing_seconds * 1e3, "rest_ms",
                                        point->rest_seconds * 1e3, "on_opencl", point->on_device, "cpu_tokens_per_s",
                                        point->cpu_rate, "split_tokens_per_s", point->split_rate));
    }
    return json_pack("{s:s, s:s, s:s, s:b, s:b, s:f, s:i, s:b, s:i, s:f, s:o}", "device", placement->device, "why",
                     placement->why, "figures_of", placement->key, "contradictory", placement->contradictory,
                     "from_cache", placement->from_cache, "age_s", placement->age_seconds, "halves_from",
                     placement->halves_from, "same_bits", placement->same_bits, "answers_from",
                     placement->answers_from, "read_gbps", placement->read_bytes / 1e9, "points", points);
}

static json_t *json_weights(const struct engine_outline *model, const struct engine_machine *machine) {
    json_t *weights = json_object();
    for (int i = 0; i < WEIGHT_FORMAT_COUNT; i++) {
        struct engine_kv_sizes sizes = engine_kv_sizes(model, (enum weight_format)i, machine, 0);
        bool known = machine->memory_bytes > 0, fit = known && fits(model, machine, i);
        json_object_set_new(weights, weight_format_name((enum weight_format)i),
                            json_pack("{s:I, s:b, s:I, s:I}", "bytes", (json_int_t)model->weight_bytes[i], "fits", fit,
                                      "kv_tokens", (json_int_t)(fit ? sizes.most : 0), "kv_tokens_standard",
                                      (json_int_t)sizes.standard));
    }
    return weights;
}

static json_t *json_specials(const struct engine_outline *model) {
    json_t *specials = json_array();
    for (int i = 0; i < model->special_count; i++)
        json_array_append_new(specials,
                              json_pack("{s:i, s:s, s:b}", "id", model->specials[i].id, "text", model->specials[i].text,
                                        "ends_answer", model->specials[i].ends_answer));
    return specials;
}

// What is not known is null; placement is NULL where nobody asked.
static bool print_json(const struct engine_outline *model, const struct engine_placement *placement) {
    struct engine_machine machine = engine_machine();
    bool supported = model->unsupported.code == ERROR_NONE;
    json_t *top =
        json_pack("{s:s, s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:{s:I, s:I, s:s}, s:I, "
                  "s:s?, s:b, s:o, "
                  "s:{s:I, s:i}, s:o, s:b, s:s?}",
                  "model", model->model_name, "architecture", model->architecture, "parameters",
                  (json_int_t)model->parameters, "parameters_active", (json_int_t)model->parameters_active, "layers",
                  model->layers, "hidden", model->hidden, "heads", model->heads, "kv_heads", model->kv_heads,
                  "head_dim", model->head_dim, "experts", model->experts, "experts_per_token", model->experts_per_token,
                  "expert_width", model->expert_width, "context_tokens", model->context_tokens, "window_tokens",
                  model->window_tokens, "vocab", model->vocab_size, "files", "count", (json_int_t)model->file_count,
                  "bytes", (json_int_t)model->file_bytes, "weights", model->file_weights, "kv_bytes_per_token",
                  (json_int_t)model->kv_bytes_per_token, "chat_template", model->chat_template, "chat_template_assumed",
                  model->chat_template_assumed, "special_tokens", json_specials(model), "machine", "memory_free_bytes",
                  (json_int_t)machine.memory_bytes, "cores", machine.cores, "weights", json_weights(model, &machine),
                  "supported", supported, "unsupported", supported ? NULL : model->unsupported.message);
    if (top && placement) json_object_set_new(top, "placement", json_placement(placement));
    char *text = top ? json_dumps(top, JSON_COMPACT) : NULL;
    bool ok = text && puts(text) >= 0;
    free(text);
    json_decref(top);
    return ok;
}

// ---- The command

static int measure(const char *directory, struct engine **engine) {
    struct error error = {0};
    if (interrupt_set(INTERRUPT_ENDS, &error)) return command_fail(&inspect_command, &error, EXIT_OTHER);
    opened.placement = opened.experts_prefill = opened.experts_decode = "auto";
    const struct engine_options options = {.model_dir = directory, .explain_placement = true};
    if (model_settings_open(&opened, options, engine, &error) == 0) return EXIT_WELL;
    return model_settings_fail(&inspect_command, &error);
}

static int inspect(const char *directory) {
    struct error error = {0};
    struct engine_outline model;
    struct engine *engine = NULL;
    enum kv_format kv = KV_F16;
    kv_format_parse(opened.kv, &kv); // one of the choices
    if (engine_inspect(&model, directory, kv, &error)) return command_fail(&inspect_command, &error, EXIT_BAD_MODEL);
    int exit_code = EXIT_WELL;
    bool supported = model.unsupported.code == ERROR_NONE;
    if (supported && settings.placement) exit_code = measure(directory, &engine);
    const struct engine_placement *placement = engine ? engine_placement(engine) : NULL;
    if (settings.json) {
        if (!print_json(&model, placement)) exit_code = EXIT_OTHER;
    } else {
        print_model(&model);
        print_text(&model);
        print_fit(&model);
        if (placement) print_placement(placement);
    }
    if (!supported) exit_code = command_fail(&inspect_command, &model.unsupported, EXIT_BAD_MODEL);
    engine_close(engine);
    engine_outline_finish(&model);
    return exit_code;
}

// Commands that run a model take --placement with one of these.
static bool is_placement(const char *text) {
    static const char *const NAMES[] = {PLACEMENTS(NAMED_NAME)};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(text, NAMES[i]) == 0) return true;
    return false;
}

static int run(int count, char **arguments) {
    struct error error = {0};
    char place[PATH_MAX];
    const char *directory = NULL;
    int exit_code = command_begin(&inspect_command, count, arguments, &directory);
    if (!exit_code && directory && !*directory) { // an unset shell variable?
        error_set(&error, ERROR_ARGUMENT, "DIR is ``, but must be a directory");
        exit_code = command_misused(&inspect_command, &error);
    }
    if (!exit_code && settings.placement && directory && is_placement(directory) && access(directory, F_OK)) {
        error_set(&error, ERROR_ARGUMENT,
                  "--placement takes no value here, and there is no directory `%s`: both devices are measured, whoever "
                  "would compute the experts", directory);
        exit_code = command_misused(&inspect_command, &error);
    }
    if (!exit_code && !directory && model_settings_directory(&opened, place, &directory, &error))
        exit_code = command_fail(&inspect_command, &error, EXIT_BAD_MODEL);
    if (!exit_code) exit_code = inspect(directory);
    command_end(&inspect_command);
    return exit_code;
}

const struct command inspect_command = {
    .name = "inspect",
    .summary = "say what a model is, and whether it fits this machine",
    .operand = "[DIR]",
    .description =
        "Reads the configs, the headers of the weights' files and the tokenizer of a model's directory, but no "
        "weights: it takes a moment, however large the model is. The memory that is free now is what counts. "
        "The room for keys and values is what --kv-tokens of serve may be at most; where it is not set, serve "
        "takes enough for all answers that it computes at once, or half of the room. Without DIR, the model "
        "that --model names, or the built-in one.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
