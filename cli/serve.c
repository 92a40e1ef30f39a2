// tandem serve: loads a model, says what it did, and serves until it is told to stop.
#include "base/settings_file.h"
#include "cli/command.h"
#include "cli/model_settings.h"
#include "cli/place.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/server.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_NAME "tandem.yaml"

// ---- What it takes

struct serve_settings {
    char *config; // "": the file that came with the program
};
static const struct setting SERVE_SETTINGS[] = {
    {NULL, "--config", "TANDEM_CONFIG", SETTING_TEXT, offsetof(struct serve_settings, config), 0, 0, NULL, "", "",
     "a YAML file of settings, or none; without it the one that came with the program"},
};

static struct serve_settings own;
static struct model_settings model;
static struct config config;
static const struct setting_table TABLES[] = {
    {MODEL_SETTINGS, MODEL_SETTING_COUNT, &model},
    {CONFIG_SETTINGS, CONFIG_SETTING_COUNT, &config},
    {SERVE_SETTINGS, sizeof SERVE_SETTINGS / sizeof *SERVE_SETTINGS, &own},
};
enum { TABLE_COUNT = sizeof TABLES / sizeof *TABLES };
static char config_path[PATH_MAX + sizeof CONFIG_NAME]; // what was read; "": no file
static const struct example EXAMPLES[] = {
    {"tandem serve", "the built-in model, for this machine only, on http://127.0.0.1:8080"},
    {"tandem serve --model Phi-tiny-MoE-instruct --port 9000", "a model as downloaded from Hugging Face"},
    {"tandem serve --host 0.0.0.0", "for other machines too; there are no keys yet, so mind who can reach it"},
    {"TANDEM_THREADS=4 tandem serve --kv-tokens 64K", "four threads, and room for 65,536 tokens in the KV cache"},
    {NULL, NULL},
};

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
    if (config_path[0]) printf("  settings %s\n", config_path);
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
    struct server *server = NULL;
    code = server_create(&server, &config, &socket, engine, &error);
    if (!code) code = server_watch_signals(server, &error);
    if (code) {
        server_destroy(server);
        engine_close(engine);
        return command_fail(&serve_command, &error, code == ERROR_ARGUMENT ? EXIT_USAGE : 1);
    }
    announce(engine_info(engine), &socket);
    server_run(server);
    server_destroy(server);
    engine_close(engine);
    log_write(LOG_INFO, "stopped");
    return 0;
}

// The file that is named, or the one in a checkout or an installation: "" where there is none.
static void find_config(void) {
    static const char *const places[] = {"../configs", "../../../configs", TANDEM_CONFIG_DIR};
    char place[PATH_MAX];
    if (own.config[0])
        snprintf(config_path, sizeof config_path, "%s", strcmp(own.config, "none") == 0 ? "" : own.config);
    else if (place_find(place, places, sizeof places / sizeof *places, CONFIG_NAME))
        snprintf(config_path, sizeof config_path, "%s/" CONFIG_NAME, place);
}

// Environment and flags have named the file; they win over what it says, so they are read once more.
static int read_config(int count, char **arguments) {
    struct error error = {0};
    find_config();
    if (!config_path[0]) return 0;
    if (settings_read_file(TABLES, TABLE_COUNT, config_path, &error) ||
        settings_read_environment(TABLES, TABLE_COUNT, &error) ||
        settings_read_flags(TABLES, TABLE_COUNT, count, arguments, NULL, &error))
        return command_misused(&serve_command, &error);
    return 0;
}

static int run(int count, char **arguments) {
    int exit_code = command_begin(&serve_command, count, arguments, NULL);
    if (!exit_code) exit_code = read_config(count, arguments);
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
    .description = "A setting is read from a YAML file, then from its environment variable, then from its flag; the "
                   "last one wins. configs/tandem.yaml is such a file, with every setting in it. Ctrl-C or SIGTERM "
                   "stops accepting, lets what is being answered end, and exits; a second one exits at once.",
    .tables = TABLES,
    .table_count = TABLE_COUNT,
    .examples = EXAMPLES,
    .run = run,
};
