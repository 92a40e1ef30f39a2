#include "cli/model_settings.h"

#include "cli/place.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct model_settings, member)

#define MEANING(value, name, meaning) "; " name ": " meaning
#define WEIGHTS "auto" WEIGHT_FORMATS(NAMED_WORD)
#define KV (&KV_FORMATS(NAMED_WORD)[1])
#define KERNELS_CHOICE(name, text) " " name
#define KERNELS (&ENGINE_KERNELS(KERNELS_CHOICE)[1])
#define PLACEMENT_WAYS (&PLACEMENTS(NAMED_WORD)[1])
#define CL_PRODUCTS (&OPENCL_PRODUCTS(NAMED_WORD)[1])
#define CL_WEIGHTS (&OPENCL_WEIGHTS(NAMED_WORD)[1])
#define SHARES (&BUS_SHARES(NAMED_WORD)[1])
#define SPECULATIONS (&SPECULATE_MODES(NAMED_WORD)[1])

const struct setting MODEL_SETTINGS[] = {
    {"model.path", "--model", "TANDEM_MODEL", SETTING_PATH, AT(model), 0, 0, NULL, "", "",
     "a Hugging Face model directory; without it the small built-in model"},
    {"model.weights", "--weights", "TANDEM_WEIGHTS", SETTING_CHOICE, AT(weights), 0, 0, WEIGHTS, "auto", "",
     "how weights are held in memory; auto: bf16 up to 1 GiB, beyond that int8, int4 if need be"},
    {"model.cache", "--cache", "TANDEM_CACHE", SETTING_PATH, AT(cache), 0, 0, NULL, "", "",
     "where int8, int4 and devices' figures are kept: a directory, or none; else ~/.cache/tandem"},
    {"engine.kv", "--kv", "TANDEM_KV", SETTING_CHOICE, AT(kv), 0, 0, KV, "f16", "",
     "how keys and values are held: f32 takes twice f16's memory, int8 half of it, and some accuracy"},
    {"engine.kernels", "--kernels", "TANDEM_KERNELS", SETTING_CHOICE, AT(kernels), 0, 0, KERNELS, "cpu", "",
     "cpu is the best for this processor; reference is plain C, to compare with; the others are forced"},
    {"engine.threads", "--threads", "TANDEM_THREADS", SETTING_INT, AT(threads), 0, ENGINE_THREADS_MAX, NULL, "0", "",
     "threads that compute; 0: one for each physical core, but for a laptop's low-power ones that share no cache with "
     "the others"},
    {"engine.pin", "--pin", "TANDEM_PIN", SETTING_CHOICE, AT(pin), 0, 0, "auto off", "auto", "",
     "whether each of them keeps to a core of its own; auto: where there is one for each core and all cores are alike, "
     "so that other programs can not push two onto one"},
    {"engine.cl_kernels", "--cl-kernels", "TANDEM_CL_KERNELS", SETTING_PATH, AT(cl_kernels), 0, 0, NULL, "", "",
     "a directory of OpenCL kernels to try instead of the built-in ones of the same names"},
    {"engine.cl_products", "--cl-products", "TANDEM_CL_PRODUCTS", SETTING_CHOICE, AT(cl_products), 0, 0,
     CL_PRODUCTS, "auto", "",
     "what multiplies prompts by experts on an OpenCL device" OPENCL_PRODUCTS(MEANING)},
    {"engine.cl_weights", "--cl-weights", "TANDEM_CL_WEIGHTS", SETTING_CHOICE, AT(cl_weights), 0, 0, CL_WEIGHTS, "auto",
     "", "where experts' weights are while an OpenCL device computes" OPENCL_WEIGHTS(MEANING)},
    {"engine.experts.layers", "--experts-layers", "TANDEM_EXPERTS_LAYERS", SETTING_LIST, AT(experts_layers), 0, 0, NULL,
     "", "", "the layers whose experts OpenCL may have, such as 0-15,20; all of them otherwise"},
    {"engine.experts.opencl", "--experts-opencl", "TANDEM_EXPERTS_OPENCL", SETTING_LIST, AT(experts_opencl), 0, 1,
     NULL, "", "", "the experts OpenCL may have there: 0-7, or by layers 0-3:0-7;4:2,5; others are the CPU's"},
    {"engine.experts.decode_from", "--experts-decode-from", "TANDEM_EXPERTS_DECODE_FROM", SETTING_INT,
     AT(experts_decode_from), 0, ENGINE_SEQUENCES_MAX, NULL, "0", "",
     "OpenCL has the experts of no fewer answers at once than these, where its bits are the CPU's; 0: of "
     "any number, or with auto as measured"},
    {"engine.halves_from", "--halves-from", "TANDEM_HALVES_FROM", SETTING_INT, AT(halves_from), 0, ENGINE_SEQUENCES_MAX,
     NULL, "0", "", "so many answers at once go through OpenCL and CPU in two halves; 0: where that is faster"},
    {.flag = NULL},
};

const struct setting PLACEMENT_SETTINGS[] = {
    {"engine.placement", "--placement", "TANDEM_PLACEMENT", SETTING_CHOICE, AT(placement), 0, 0, PLACEMENT_WAYS,
     "auto", "", "who computes the experts" PLACEMENTS(MEANING)},
    {"engine.experts.prefill", "--experts-prefill", "TANDEM_EXPERTS_PREFILL", SETTING_CHOICE, AT(experts_prefill), 0, 0,
     "auto cpu opencl", "auto", "", "who computes the experts of prompts; auto: what placement says"},
    {"engine.experts.decode", "--experts-decode", "TANDEM_EXPERTS_DECODE", SETTING_CHOICE, AT(experts_decode), 0, 0,
     "auto cpu opencl", "auto", "", "who computes the experts of answers; auto: what placement says"},
    {"engine.bus_share", "--bus-share", "TANDEM_BUS_SHARE", SETTING_CHOICE, AT(bus_share), 0, 0, SHARES, "auto", "",
     "whether the CPU leaves an OpenCL device its share of the memory bus" BUS_SHARES(MEANING)},
    {"engine.speculate", "--speculate", "TANDEM_SPECULATE", SETTING_CHOICE, AT(speculate), 0, 0, SPECULATIONS, "auto",
     "", "guess tokens that repeat the text, where that makes answers faster; they are the same"},
    {NULL, "--trace", "TANDEM_TRACE", SETTING_PATH, AT(trace), 0, 0, NULL, "", "",
     "a file for a timeline of the devices, which chrome://tracing and ui.perfetto.dev show"},
    {.flag = NULL},
};

// ---- Which model

// Beside the program first, so that of two checkouts each serves its own model: in a build tree, then installed.
// TANDEM_DEMO_MODEL is where the build found it.
static const char *built_in_model(char out[PATH_MAX]) {
    static const char *const places[] = {
        "../models/demo",
        "../share/tandem/models/demo",
        "../../../models/demo",
        TANDEM_DEMO_MODEL,
    };
    return place_find(out, places, sizeof places / sizeof *places, "config.json");
}

int model_settings_directory(const struct model_settings *settings, char place[PATH_MAX], const char **out,
                             struct error *error) {
    *out = settings->model[0] ? settings->model : built_in_model(place);
    if (*out) return 0;
    return error_set(error, ERROR_NOT_FOUND, "the built-in model was not found; name one with --model DIRECTORY");
}

// ---- Loading

// NULL: no cache.
static const char *cache_directory(const struct model_settings *settings, char place[PATH_MAX]) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *slash = strrchr(settings->cache, '/'); // in a file, it is a path like any other
    if (strcmp(slash ? slash + 1 : settings->cache, "none") == 0) return NULL;
    if (settings->cache[0]) return settings->cache;
    int length = base && base[0] == '/'   ? snprintf(place, PATH_MAX, "%s/tandem", base)
                 : home && home[0] == '/' ? snprintf(place, PATH_MAX, "%s/.cache/tandem", home)
                                          : -1;
    return length > 0 && length < PATH_MAX ? place : NULL;
}

struct progress {
    bool shown;
};

static void show_progress(void *user, const char *what, double share) {
    struct progress *progress = user;
    progress->shown = true;
    fprintf(stderr, "\r\033[K%s: %.0f %%", what, share * 100);
    fflush(stderr);
}

static void show_warning(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "tandem: %s\n", line);
}

// The weights are read from the mapped files for as long as they are used. Where a file has been shortened or its disk
// fails, there is nothing left to compute with: say so and end.
static void on_bus_error(int signal) {
    (void)signal;
    static const char words[] = "tandem: a model file was shortened, or can not be read any more, while it was in use; "
                                "start again\n";
    if (write(STDERR_FILENO, words, sizeof words - 1) < 0) _exit(1);
    _exit(EXIT_BAD_MODEL);
}

// What is wrong with a list is known once the model is: then where it comes from is said, too.
static void name_source(const struct model_settings *settings, struct error *error) {
    const struct {
        const char *param;
        const struct setting_sourced *list;
    } LISTS[] = {{"experts_layers", &settings->experts_layers}, {"experts_opencl", &settings->experts_opencl}};
    for (size_t i = 0; i < sizeof LISTS / sizeof *LISTS; i++)
        if (strcmp(error->param, LISTS[i].param) == 0) error_prefix(error, "%s", LISTS[i].list->source);
}

int model_settings_open(const struct model_settings *settings, struct engine_options options, struct engine **out,
                        struct error *error) {
    char place[PATH_MAX], cache[PATH_MAX];
    struct progress progress = {0};
    bool given = options.synthetic || options.model_dir;
    int code = given ? 0 : model_settings_directory(settings, place, &options.model_dir, error);
    if (code) return code;
    options.weights_auto = strcmp(settings->weights, "auto") == 0;
    options.cache = cache_directory(settings, cache);
    if (!options.weights_auto && !weight_format_parse(settings->weights, &options.weights))
        return error_set(error, ERROR_ARGUMENT, "`%s` is no format of weights", settings->weights);
    if (!kv_format_parse(settings->kv, &options.kv))
        return error_set(error, ERROR_ARGUMENT, "`%s` is no format of keys and values", settings->kv);
    options.stages = settings->kernels;
    options.threads = settings->threads;
    options.unpinned = settings->pin && strcmp(settings->pin, "off") == 0;
    options.cl_kernels = settings->cl_kernels;
    options.cl_products = settings->cl_products;
    options.placement = settings->placement;
    options.experts_prefill = settings->experts_prefill;
    options.experts_decode = settings->experts_decode;
    options.experts_layers = settings->experts_layers.text;
    options.experts_opencl = settings->experts_opencl.text;
    options.cl_weights = settings->cl_weights;
    options.bus_share = settings->bus_share;
    options.halves_from = settings->halves_from;
    options.experts_decode_from = settings->experts_decode_from;
    options.trace = settings->trace;
    if (settings->speculate)
        speculate_mode_parse(settings->speculate, &options.speculate); // inspect has none
    bool aloud = !options.warn; // who has another way to warn tells all that is known of the model, too
    if (aloud) options.warn = show_warning;
    if (isatty(STDERR_FILENO)) {
        options.progress = show_progress;
        options.progress_user = &progress;
    }
    signal(SIGXFSZ, SIG_IGN); // a limit on the size of files only costs the cache
    sigaction(SIGBUS, &(struct sigaction){.sa_handler = on_bus_error}, NULL);
    code = engine_open(out, &options, error);
    if (progress.shown) fputs("\r\033[K", stderr);
    if (!code && aloud && engine_info(*out)->cache_lost)
        fprintf(stderr, "tandem: the next start converts the weights again: the cache was %s\n",
                engine_info(*out)->cache_note);
    if (code) name_source(settings, error);
    return code;
}

int model_settings_fail(const struct command *command, const struct error *error) {
    return command_fail(command, error, error->code == ERROR_ARGUMENT ? EXIT_USAGE : EXIT_BAD_MODEL);
}
