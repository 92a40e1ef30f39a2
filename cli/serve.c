// tandem serve: loads a model, says what it did, and serves until it is told to stop.
#include "cli/command.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/server.h"

#include <limits.h>
#include <signal.h>
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
    bool terminal, shown;
};

static void show_progress(void *user, const char *what, double share) {
    struct progress *progress = user;
    if (!progress->terminal) return;
    progress->shown = true;
    fprintf(stderr, "\r\033[K%s: %.0f %%", what, share * 100);
    fflush(stderr);
}

static int load(struct engine **out, const struct config *config, const char *model, struct error *error) {
    struct progress progress = {.terminal = isatty(STDERR_FILENO)};
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
    if (progress.shown) fputs("\r\033[K", stderr);
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
    printf("Try:\n  curl -N http://%s/v1/chat/completions \\\n"
           "    -d '{\"model\": \"%s\", \"stream\": true, \"temperature\": 0, \"messages\": [{\"role\": \"user\", "
           "\"content\": "
           "\"What is the capital of France?\"}]}'\n\n",
           address, info->model_name);
    fflush(stdout);
}

// ---- The command

// The weights are read from the mapped files for as long as they are served. Where a file has been shortened or its
// disk fails, there is nothing left to compute with: say so and end.
static void on_bus_error(int signal) {
    (void)signal;
    static const char words[] = "tandem serve: a model file was shortened, or can not be read any more, while it was "
                                "served; start again\n";
    if (write(STDERR_FILENO, words, sizeof words - 1) < 0) _exit(1);
    _exit(EXIT_BAD_MODEL);
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

    sigaction(SIGBUS, &(struct sigaction){.sa_handler = on_bus_error}, NULL);
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
    enum log_level level = LOG_INFO;
    if (config_read_environment(&config, &error) || config_read_flags(&config, count, arguments, &error)) {
        exit_code = fail(&error, EXIT_USAGE);
        fprintf(stderr, "tandem serve --help lists all settings\n");
    } else {
        log_level_parse(config.log_level, &level); // it is one of them: the settings' table says so
        log_open(level);
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
