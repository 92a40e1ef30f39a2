// tandem bench: how fast a model runs here, beside what the machine could do at best.
#include "base/file.h"
#include "cli/bench_report.h"
#include "cli/bench_work.h"
#include "cli/command.h"
#include "cli/model_settings.h"
#include "engine/inspect.h"
#include "server/config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { QUICK_RUNS = 2 };

// ---- What it takes

struct bench_settings {
    char *synthetic, *json, *compare;
    int runs, clients;
    double token_gap, rate;
    bool quick, profile, serve, guess;
};
static struct bench_settings own;
static struct model_settings model;

#define SHAPE_CHOICE(name, ...) " " name
#define AT(member) offsetof(struct bench_settings, member)
static const struct setting ROWS[] = {
    {NULL, "--synthetic", NULL, SETTING_CHOICE, AT(synthetic), 0, 0, "none" SYNTHETIC_MODELS(SHAPE_CHOICE), "none", "",
     "instead of a model, random weights of this shape, made in memory"},
    {NULL, "--runs", NULL, SETTING_INT, AT(runs), 1, BENCH_RUNS_MAX, NULL, "5", "",
     "how often each is measured, after a warm-up"},
    {NULL, "--quick", NULL, SETTING_SWITCH, AT(quick), 0, 0, NULL, "false", "",
     "less of everything: two runs, whatever --runs says, no long contexts, less memory to read"},
    {NULL, "--profile", NULL, SETTING_SWITCH, AT(profile), 0, 0, NULL, "false", "",
     "say where the time went, stage by stage"},
    {NULL, "--serve", NULL, SETTING_SWITCH, AT(serve), 0, 0, NULL, "false", "",
     "instead, put a server in front and ask it over HTTP, many clients at once"},
    {NULL, "--clients", NULL, SETTING_INT, AT(clients), 0, BENCH_SERVE_CLIENTS_MAX, NULL, "0", "",
     "with --serve: 1 and so many; 0: 1, 8, 32 and 128"},
    {NULL, "--rate", NULL, SETTING_NUMBER, AT(rate), 0, 1000, NULL, "0", "requests a second",
     "with --serve: instead, as many requests as --clients says, at least 8, evenly at this rate; 0: all of it"},
    {NULL, "--token-gap", NULL, SETTING_SECONDS, AT(token_gap), 0, 3600, NULL, CONFIG_TOKEN_GAP, "seconds",
     "with --serve: as the server's setting of that name"},
    {NULL, "--guess", NULL, SETTING_SWITCH, AT(guess), 0, 0, NULL, "false", "",
     "instead, what guessing tokens gains and costs (--speculate), for one answer at a time"},
    {NULL, "--json", NULL, SETTING_PATH, AT(json), 0, 0, NULL, "", "", "a file to write the figures to"},
    {NULL, "--compare", NULL, SETTING_PATH, AT(compare), 0, 0, NULL, "", "",
     "a file that --json wrote; the change since then is printed"},
    {.flag = NULL},
};
static const struct setting_table TABLES[] = {
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
    {ROWS, &own},
};

static const struct example EXAMPLES[] = {
    {"tandem bench --synthetic phi-tiny-moe", "what this machine will do with Phi-tiny-MoE, before the download"},
    {"tandem bench --model Phi-tiny-MoE-instruct --json new.json --compare old.json", "is it faster than before?"},
    {"tandem bench --quick --profile", "the built-in model, and where the time goes"},
    {"tandem bench --guess", "what guessing gains where answers are foretold, and costs where they are not"},
    {"tandem bench --serve --synthetic phi-tiny-moe", "what many clients get, and how long they wait"},
    {NULL, NULL},
};

// ---- What is measured

static const struct bench_point POINTS[] = {
    {true, 1, 16, true},    {true, 1, 128, true},    {true, 1, 512, true}, {true, 1, 2000, false},
    {false, 1, 64, true},   {false, 4, 64, false},   {false, 8, 64, true}, {false, 16, 64, false},
    {false, 32, 64, false}, {false, 1, 2000, false},
};
enum { POINT_COUNT = sizeof POINTS / sizeof *POINTS };

static void tell(const struct bench_point *point, int run, int runs) {
    if (!isatty(STDERR_FILENO)) return;
    char name[64];
    bench_name_point(point, name, sizeof name);
    fprintf(stderr, "\r\033[K%s: run %d of %d", name, run + 1, runs);
    fflush(stderr);
}

static void clear_line(void) {
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
}

// Nothing is half done that anybody would see: files are written at the end, and memory goes with the process.
static void on_signal(int signal) {
    static const char line[] = "\r\033[K";
    if (isatty(STDERR_FILENO) && write(STDERR_FILENO, line, sizeof line - 1) < 0) _exit(EXIT_OTHER);
    _exit(128 + signal);
}

// A size that /proc/self/status tells; 0: it does not.
static size_t status_bytes(const char *key) {
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), ": %llu", &kib) == 1) break;
    fclose(file);
    return (size_t)kib * 1024;
}

// ---- The command

static int open_engine(struct bench *bench, struct error *error) {
    struct engine_options options = {
        .synthetic = strcmp(own.synthetic, "none") == 0 ? NULL : own.synthetic,
        .sequences_max = BENCH_BATCH_MAX,
        .prefix = PREFIX_OFF, // what is measured, is computed
        .watch = bench_watch,
        .watch_user = bench,
    };
    for (int i = 0; i < POINT_COUNT; i++) {
        size_t tokens = bench_kv_tokens(&POINTS[i], bench->runs);
        if (tokens > options.kv_tokens) options.kv_tokens = tokens;
    }
    if (own.serve) {
        options.kv_tokens = bench_serve_kv_tokens();
        options.queue_max = bench_serve_queue();
        options.step_target_seconds = own.token_gap;
        options.watch = NULL; // as a server runs it
    }
    if (own.guess) {
        options.kv_tokens = 2 * BENCH_GUESS_CONTEXT;
        options.watch = bench_guess_watch;
    }
    return model_settings_open(&model, options, &bench->engine, error);
}

static int measure_points(struct bench *bench, struct bench_report *report, struct bench_result *results,
                          struct error *error) {
    int code = bench_measure(bench, error);
    for (int i = 0; !code && i < POINT_COUNT; i++) {
        if (own.quick && !POINTS[i].quick) continue;
        struct bench_result *result = &results[report->result_count];
        code = bench_run(bench, &POINTS[i], result, error);
        clear_line();
        if (code == ERROR_CONTEXT_LENGTH) { // this model's context is shorter
            code = 0;
            continue;
        }
        if (!code) code = bench_measure(bench, error);
        if (code) break;
        bench_print_result(bench, result);
        report->result_count++;
    }
    return code;
}

static int write_json(const json_t *json, struct error *error) {
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    if (!text) return error_set(error, ERROR_MEMORY, "out of memory for the figures");
    int code = file_write(own.json, text, strlen(text), 0666, error);
    free(text);
    return code;
}

static int finish(struct bench_report *report, const json_t *old, struct error *error) {
    bench_print_steadiness(report);
    if (!own.serve && !own.guess) bench_print_end(report);
    for (int i = 0; own.profile && i < report->result_count; i++) bench_print_profile(&report->results[i]);
    json_t *json = bench_json(report);
    if (!json) return error_set(error, ERROR_MEMORY, "out of memory for the figures");
    if (old) bench_print_change(old, json);
    int code = own.json[0] ? write_json(json, error) : 0;
    json_decref(json);
    return code;
}

// Who has the experts. What was measured says of which calls; where nothing was, the settings have decided.
static const char *placement_of(const struct engine *engine) {
    const struct engine_placement *found = engine_placement(engine);
    bool used = found->device[0] && !found->why[0] && found->point_count == 0;
    for (int i = 0; i < found->point_count; i++) used |= found->points[i].on_device;
    return used ? "split" : "cpu";
}

static int measure(struct bench *bench, const json_t *old) {
    struct error error = {0};
    static struct bench_result results[POINT_COUNT];
    struct bench_report report = {.bench = bench, .results = results, .kernels = model.kernels};
    if (open_engine(bench, &error)) return model_settings_fail(&bench_command, &error);
    const struct engine_info *info = engine_info(bench->engine);
    report.placement = placement_of(bench->engine);
    bench->synthetic = strcmp(own.synthetic, "none") != 0;
    bench->one_by_one = !own.serve;
    bench->cached = info->weight_bytes <= engine_machine().cache_bytes;
    report.load_seconds = info->load_seconds;
    report.load_rss_bytes = status_bytes("VmRSS");
    size_t loading_rss_bytes = status_bytes("VmHWM");
    bool points = !own.serve && !own.guess;
    int code = points ? bench_take_memory(bench, own.quick, &error) : 0;
    if (!code) {
        bench_print_head(bench, points);
        code = own.serve   ? bench_serve(bench, own.clients, own.rate, own.quick, &report.served, &error)
               : own.guess ? bench_guess(bench, bench->runs, &report.guesses, &error)
                           : measure_points(bench, &report, results, &error);
        report.guessed = own.guess;
    }
    if (!code) { // the memory that was only read is no part of it
        size_t all = status_bytes("VmHWM"), working = all > bench->memory_bytes ? all - bench->memory_bytes : 0;
        report.peak_rss_bytes = working > loading_rss_bytes ? working : loading_rss_bytes;
        code = finish(&report, old, &error);
    }
    if (bench->memory) munmap(bench->memory, bench->memory_bytes);
    engine_close(bench->engine);
    return code ? command_fail(&bench_command, &error, EXIT_OTHER) : EXIT_WELL;
}

static int check_settings(struct error *error) {
    if (strcmp(own.synthetic, "none") != 0 && model.model[0])
        return error_set(error, ERROR_ARGUMENT, "--model and --synthetic exclude each other");
    if (own.serve && own.guess) return error_set(error, ERROR_ARGUMENT, "--serve and --guess exclude each other");
    if (own.rate > 0 && !own.serve) return error_set(error, ERROR_ARGUMENT, "--rate is of --serve; give both");
    return 0;
}

// What will be read and written is tried before minutes are spent.
static int open_files(json_t **old, struct error *error) {
    int code = own.compare[0] ? bench_read_json(own.compare, old, error) : 0;
    return code || !own.json[0] ? code : file_try_write(own.json, error);
}

static int run(int count, char **arguments) {
    struct error error = {0};
    struct bench bench = {.dice = 1, .tell = tell, .lock = PTHREAD_MUTEX_INITIALIZER};
    json_t *old = NULL;
    int exit_code = command_begin(&bench_command, count, arguments, NULL);
    if (!exit_code && check_settings(&error)) exit_code = command_misused(&bench_command, &error);
    if (!exit_code && open_files(&old, &error)) exit_code = command_fail(&bench_command, &error, EXIT_USAGE);
    if (!exit_code) {
        bench.runs = own.quick ? QUICK_RUNS : own.runs;
        sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, NULL);
        sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
        exit_code = measure(&bench, old);
    }
    json_decref(old);
    command_end(&bench_command);
    return exit_code;
}

const struct command bench_command = {
    .name = "bench",
    .summary = "measure how fast a model runs here, beside the machine's limits",
    .meant = "--model",
    .description =
        "Prefill is how fast prompts are read, decode how fast answers are written, for one sequence or for a "
        "batch of them together. The machine's own limits are measured in between, on the same threads: what "
        "it reads from memory, and its multiplications with operands in registers. Decode is bound by the "
        "first, prefill by the second; the shares say how near Tandem comes. Weights that fit the processor's cache "
        "are not read from memory, and have no share of that. A rate is all tokens by all the time of the runs, stddev "
        "how much single runs depart from it; --compare says of a change that is no larger than both deviations "
        "together that it is within the noise. Other programs disturb it.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
