// tandem serve: loads a model, says what it did, and serves until it is told to stop.
#include "cli/command.h"
#include "cli/model_settings.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/server.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static struct model_settings model;
static struct config config;
static const struct setting_table TABLES[] = {
    {MODEL_SETTINGS, MODEL_SETTING_COUNT, &model},
    {CONFIG_SETTINGS, CONFIG_SETTING_COUNT, &config},
};
static const struct example EXAMPLES[] = {
    {"tandem serve", "the built-in model, for this machine only, on http://127.0.0.1:8080"},
    {"tandem serve --model Phi-tiny-MoE-instruct --port 9000", "a model as downloaded from Hugging Face"},
    {"tandem serve --host 0.0.0.0", "for other machines too; there are no keys yet, so mind who can reach it"},
    {"TANDEM_THREADS=4 tandem serve --kv-tokens 64K", "four threads, and room for 65,536 tokens in the KV cache"},
    {NULL, NULL},
};

static int serve(void) {
    struct error error = {0};
    struct listener_socket socket; // before the model: a port in use is known at once
    int code = listener_bind(&socket, config.host, config.port, &error);
    if (code) return command_fail(&serve_command, &error, code == ERROR_ARGUMENT ? EXIT_USAGE : 1);

    struct engine_options options = {
        .sequences_max = config.sequences_max,
        .queue_max = config.queue_max,
        .kv_tokens = config.kv_tokens,
        .prefill_tokens_max = config.prefill_tokens_max,
    };
    struct engine *engine;
    if (model_settings_open(&model, options, &engine, &error)) {
        close(socket.fd);
        return command_fail(&serve_command, &error, EXIT_BAD_MODEL);
    }
    struct server *server;
    if (server_create(&server, &config, &socket, engine, &error)) {
        engine_close(engine);
        return command_fail(&serve_command, &error, 1);
    }
    announce(engine_info(engine), &socket);
    server_run(server);
    server_destroy(server);
    engine_close(engine);
    log_write(LOG_INFO, "stopped");
    return 0;
}

static int run(int count, char **arguments) {
    int exit_code = command_begin(&serve_command, count, arguments, NULL);
    if (!exit_code) {
        enum log_level level = LOG_INFO;
        log_level_parse(config.log_level, &level); // it is one of them: the settings' table says so
        log_open(level);
        exit_code = serve();
    }
    command_end(&serve_command);
    return exit_code;
}

const struct command serve_command = {
    .name = "serve",
    .summary = "load a model and serve the OpenAI API",
    .description = "A setting is read from its environment variable, then from its flag, which wins. Ctrl-C or SIGTERM "
                   "stops accepting, lets what is being answered end, and exits; a second one exits at once.",
    .tables = TABLES,
    .table_count = sizeof TABLES / sizeof *TABLES,
    .examples = EXAMPLES,
    .run = run,
};
