// tandem serve: loads a model, says what it did, and serves until it is told to stop.
#include "base/clock.h"
#include "cli/command.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/server.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- The built-in model

static bool is_model(const char *dir) {
    char path[PATH_MAX];
    int bytes = snprintf(path, sizeof path, "%s/config.json", dir);
    return bytes > 0 && bytes < (int)sizeof path && access(path, R_OK) == 0;
}

// Beside the program first, so that of two checkouts each serves its own model: in a build tree, then installed.
// TANDEM_DEMO_MODEL is where the build found it.
static const char *built_in_model(char out[PATH_MAX]) {
    static const char *const places[] = {"../models/demo", "../share/tandem/models/demo", "../../../models/demo"};
    char program[PATH_MAX];
    ssize_t bytes = readlink("/proc/self/exe", program, sizeof program - 1);
    if (bytes > 0) {
        program[bytes] = '\0';
        *strrchr(program, '/') = '\0'; // the link is absolute
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            int length = snprintf(out, PATH_MAX, "%s/%s", program, places[i]);
            if (length > 0 && length < PATH_MAX && is_model(out)) return out;
        }
    }
#ifdef TANDEM_DEMO_MODEL
    if (is_model(TANDEM_DEMO_MODEL)) return TANDEM_DEMO_MODEL;
#endif
    return NULL;
}

// ---- Loading

struct progress {
    double start, shown;
    bool terminal;
};

static void show_progress(void *user, const char *what, double share) {
    struct progress *progress = user;
    double now = clock_seconds();
    if (!progress->terminal || now - progress->start < 1 || now - progress->shown < 0.1) return;
    progress->shown = now;
    fprintf(stderr, "\r\033[K%s: %.0f %%", what, share * 100);
    fflush(stderr);
}

static int load(struct engine **out, const struct config *config, const char *model, struct error *error) {
    struct progress progress = {.start = clock_seconds(), .terminal = isatty(STDERR_FILENO)};
    struct engine_options options = {
        .model_dir = model,
        .stages = config->kernels,
        .threads = config->threads,
        .sequences_max = config->sequences_max,
        .queue_max = config->queue_max,
        .kv_tokens = config->kv_tokens,
        .prefill_tokens_max = config->prefill_tokens_max,
        .progress = show_progress,
        .progress_user = &progress,
    };
    if (!weight_format_parse(config->weights, &options.weights))
        return error_set(error, ERROR_ARGUMENT, "`%s` is no format of weights", config->weights);
    int code = engine_open(out, &options, error);
    if (progress.shown > 0) fputs("\r\033[K", stderr);
    return code;
}

// ---- Saying what is served

static void print_count(const char *what, double count) {
    if (count >= 1e9)
        printf("%.2f billion %s", count / 1e9, what);
    else
        printf("%.1f million %s", count / 1e6, what);
}

// An address that a client on this machine can use.
static void client_address(char out[LISTENER_ADDRESS_BYTES], const char *bound) {
    const char *port = strrchr(bound, ':');
    if (strncmp(bound, "0.0.0.0:", 8) == 0)
        snprintf(out, LISTENER_ADDRESS_BYTES, "127.0.0.1%s", port);
    else if (strncmp(bound, "[::]:", 5) == 0)
        snprintf(out, LISTENER_ADDRESS_BYTES, "[::1]%s", port);
    else
        snprintf(out, LISTENER_ADDRESS_BYTES, "%s", bound);
}

static void announce(const struct engine_info *info, const struct listener_socket *socket) {
    char address[LISTENER_ADDRESS_BYTES];
    client_address(address, socket->address);
    printf("Tandem %s serves %s on http://%s\n\n", TANDEM_VERSION, info->model_name, socket->address);
    printf("  model    %s, ", info->architecture);
    print_count("parameters (", (double)info->parameters);
    print_count("for a token)\n", (double)info->parameters_active);
    printf("  weights  %s, %.1f MB, loaded in %.2f s\n", info->weights, (double)info->weight_bytes / 1e6,
           info->load_seconds);
    printf("  devices  %s\n", info->device);
    printf("  threads  %d\n", info->threads);
    printf("  context  %d tokens; the KV cache holds %zu\n\n", info->context_tokens, info->kv_tokens);
    printf("Try:\n  curl -N http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
           "    -d '{\"model\": \"%s\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": "
           "\"What is the capital of France?\"}]}'\n\n",
           address, info->model_name);
    fflush(stdout);
}

// ---- The command

static enum log_level log_level_of(const char *name) {
    static const char *const names[] = {
        [LOG_ERROR] = "error", [LOG_WARNING] = "warning", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};
    for (int level = LOG_ERROR; level < LOG_DEBUG; level++)
        if (strcmp(names[level], name) == 0) return (enum log_level)level;
    return LOG_DEBUG;
}

static int fail(const struct error *error, int code) {
    fprintf(stderr, "tandem serve: %s\n", error->message);
    return code;
}

static int serve(const struct config *config) {
    struct error error = {0};
    char place[PATH_MAX];
    const char *model = config->model[0] ? config->model : built_in_model(place);
    if (!model) {
        fprintf(stderr, "tandem serve: the built-in model was not found; name one with --model DIRECTORY\n");
        return EXIT_BAD_MODEL;
    }
    struct listener_socket socket; // before the model: a port in use is known at once
    int code = listener_bind(&socket, config->host, config->port, &error);
    if (code) return fail(&error, code == ERROR_ARGUMENT ? EXIT_USAGE : 1);

    struct engine *engine;
    if (load(&engine, config, model, &error)) {
        close(socket.fd);
        return fail(&error, EXIT_BAD_MODEL);
    }
    struct server *server;
    if (server_create(&server, config, &socket, engine, &error)) {
        engine_close(engine);
        return fail(&error, 1);
    }
    announce(engine_info(engine), &socket);
    server_run(server);
    server_destroy(server);
    engine_close(engine);
    log_write(LOG_INFO, "stopped");
    return 0;
}

static int run(int count, char **arguments) {
    struct config config;
    struct error error = {0};
    if (config_init(&config, &error)) return fail(&error, 1);
    int exit_code;
    if (config_read_environment(&config, &error) || config_read_flags(&config, count, arguments, &error)) {
        exit_code = fail(&error, EXIT_USAGE);
        fprintf(stderr, "tandem serve --help lists all settings\n");
    } else {
        log_open(log_level_of(config.log_level));
        exit_code = serve(&config);
    }
    config_finish(&config);
    return exit_code;
}

static void help(struct buffer *out) {
    buffer_text(out, "Usage: tandem serve [SETTINGS]\n\n"
                     "A setting is read from its environment variable, then from its flag, which wins.\n\n");
    config_help(out);
}

const struct command serve_command = {"serve", "load a model and serve the OpenAI API", run, help};
