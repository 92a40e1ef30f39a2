// The settings that every command which opens a model takes: --model, --weights, --cache, --kernels, --threads, …; and
// those of every command that lets it run: --placement, …
#ifndef CLI_MODEL_SETTINGS_H
#define CLI_MODEL_SETTINGS_H

#include "cli/command.h"
#include "engine/engine.h"

#include <limits.h>

struct model_settings {
    char *model; // "": the built-in one
    char *weights, *cache, *kv, *kernels;
    int threads;
    char *cl_kernels, *cl_products, *cl_weights, *speculate;
    char *placement, *experts_prefill, *experts_decode;
    struct setting_sourced experts_layers, experts_opencl;
    char *bus_share, *pin;
    int halves_from, experts_decode_from;
    char *trace;
};

extern const struct setting MODEL_SETTINGS[];     // which model, how it is held, what of it OpenCL may have
extern const struct setting PLACEMENT_SETTINGS[]; // who computes what: for commands that let it run, behind the others

// The directory of the model that is named, or of the built-in one, which `place` may be used for. ERROR_NOT_FOUND
// where there is none.
int model_settings_directory(const struct model_settings *settings, char place[PATH_MAX], const char **out,
                             struct error *error);

// Opens the model with what the settings say, and with `options` for everything else, among it another model; the
// progress of a long load shows on standard error where that is a terminal, and so do warnings unless options say who
// hears them. From then on a model file that can not be read any more ends the process with a message instead of a
// crash.
int model_settings_open(const struct model_settings *settings, struct engine_options options, struct engine **out,
                        struct error *error);
// Says why the model could not be opened; returns EXIT_USAGE where a setting is to blame, else EXIT_BAD_MODEL.
int model_settings_fail(const struct command *command, const struct error *error);

#endif
