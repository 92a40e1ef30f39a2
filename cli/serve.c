// tandem serve: loads a model, says what it did, and serves until it is told to stop.
#include "cli/amounts.h"
#include "cli/config_file.h"
#include "cli/model_settings.h"
#include "engine/engine.h"
#include "server/api_keys.h"
#include "server/config.h"
#include "server/listener_socket.h"
#include "server/log.h"
#include "server/server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- What it takes

static char *config_name; // "": the file that came with the program
static struct model_settings model;
static struct config config;
static struct api_keys keys;
static const struct setting_table TABLES[] = {
    {MODEL_SETTINGS, &model},
    {PLACEMENT_SETTINGS, &model},
    {CONFIG_SETTINGS, &config},
    {CONFIG_FILE_SETTINGS, &config_name},
};
enum { TABLE_COUNT = sizeof TABLES / sizeof *TABLES };
static char config_path[CONFIG_FILE_PATH_BYTES]; // what was read; "": no file
static const struct example EXAMPLES[] = {
    {"tandem serve", "the built-in model, for this machine only, on http://127.0.0.1:8080"},
    {"tandem serve --model Phi-tiny-MoE-instruct --port 9000", "a model as downloaded from Hugging Face"},
    {"tandem serve --model-name gpt-4o", "for programs that ask for that model whatever one says"},
    {"tandem serve --host 0.0.0.0 --api-key-file keys", "for other machines too, with one of the keys in that file"},
    {"tandem serve --unix-socket /run/tandem.sock --unix-socket-mode 660",
     "for a proxy of the same group, without a port"},
    {"TANDEM_THREADS=4 tandem serve --kv-tokens 64K", "four threads, and room for 65,536 tokens in the KV cache"},
    {NULL, NULL},
};

// ---- Saying what is served

// An address that a client on this machine can use.
static void client_address(char out[LISTENER_ADDRESS_BYTES], const struct listener_socket *socket) {
    const char *bound = socket->address, *port = strrchr(bound, ':');
    if (socket->path[0])
        snprintf(out, LISTENER_ADDRESS_BYTES, "localhost");
    else if (strncmp(bound, "0.0.0.0:", 8) == 0)
        snprintf(out, LISTENER_ADDRESS_BYTES, "127.0.0.1%s", port);
    else if (strncmp(bound, "[::]:", 5) == 0)
        snprintf(out, LISTENER_ADDRESS_BYTES, "[::1]%s", port);
    else
        snprintf(out, LISTENER_ADDRESS_BYTES, "%s", bound);
}

static const char *scheme(const struct listener_socket *socket) {
    return socket->path[0] ? "the Unix socket " : "http://";
}

// How long conversations may be, and how many of them keys and values are kept of. Where that is less than all that
// could run at once, why.
static void print_context(const struct engine_info *info) {
    char bytes[AMOUNT_BYTES];
    printf("  context  %d tokens\n", info->context_tokens);
    printf("  KV cache %zu tokens, %s when full", info->kv_tokens,
           amount_of_bytes(bytes, (double)info->kv_tokens * (double)info->kv_bytes_per_token));
    bool chosen = config.kv_tokens == 0;
    if (chosen && info->kv_tokens < (size_t)info->context_tokens * (size_t)info->sequences_max)
        printf("; %d whole contexts would be %zu, but half of the free memory is for others", info->sequences_max,
               (size_t)info->context_tokens * (size_t)info->sequences_max);
    if (info->kv_tokens_max < SIZE_MAX) printf(" (--kv-tokens: up to %zu fit)", info->kv_tokens_max);
    printf("\n\n");
}

static const char *settings_read(void) {
    return config_path[0] ? config_path : config_name[0] ? "none (--config none)" : "none found";
}

enum { ACCESS_BYTES = LISTENER_ADDRESS_BYTES + 128 };

// Who may use it. True: so many may that somebody had better know.
static bool describe_access(char out[ACCESS_BYTES], const struct listener_socket *socket) {
    if (keys.count > 0)
        snprintf(out, ACCESS_BYTES, "with %s%zu API key%s", keys.count > 1 ? "one of " : "", keys.count,
                 keys.count > 1 ? "s" : "");
    else if (socket->path[0])
        snprintf(out, ACCESS_BYTES, "whoever may open the socket (mode %s), without an API key",
                 config.unix_socket_mode);
    else if (socket->loopback)
        snprintf(out, ACCESS_BYTES, "from this machine only, without an API key");
    else
        snprintf(out, ACCESS_BYTES, "anyone who can reach %s can use it: there are no API keys (--api-key-file)",
                 socket->address);
    return keys.count == 0 && !socket->loopback && !socket->path[0];
}

// Clause by clause: with a GPU and what was measured of it there is a lot to say.
static void print_devices(const char *devices) {
    const char *label = "devices";
    for (const char *at = devices, *end; at; at = end ? end + 2 : NULL, label = "") {
        end = strstr(at, "; ");
        printf("  %-8s %.*s\n", label, end ? (int)(end - at) : (int)strlen(at), at);
    }
}

static void announce(const struct engine_info *info, const struct listener_socket *socket) {
    char access[ACCESS_BYTES];
    describe_access(access, socket);
    char address[LISTENER_ADDRESS_BYTES];
    client_address(address, socket);
    printf("Tandem %s serves %s on %s%s\n\n", TANDEM_VERSION, info->model_name, scheme(socket), socket->address);
    char all[AMOUNT_BYTES], active[AMOUNT_BYTES], weights[AMOUNT_BYTES];
    printf("  model    %s, %s parameters (%s for a token)\n", info->architecture,
           amount_of_things(all, (double)info->parameters), amount_of_things(active, (double)info->parameters_active));
    printf("  weights  %s, %s, loaded in %.2f s\n", info->weights, amount_of_bytes(weights, (double)info->weight_bytes),
           info->load_seconds);
    if (info->weights_note[0]) printf("           chosen: %s\n", info->weights_note);
    if (info->cache_note[0]) printf("  cache    %s\n", info->cache_note);
    printf("  settings %s\n", settings_read());
    printf("  access   %s\n", access);
    print_devices(info->device);
    if (info->pinned) printf("           each thread keeps to a core of its own (--pin)\n");
    print_context(info);
    printf("Try:\n  curl %s%s%s-N http://%s/v1/chat/completions %s\\\n"
           "    -d '{\"model\": \"%s\", \"stream\": true, \"temperature\": 0, \"messages\": [{\"role\": \"user\", "
           "\"content\": "
           "\"What is the capital of France?\"}]}'\n\n",
           socket->path[0] ? "--unix-socket " : "", socket->path, socket->path[0] ? " " : "", address,
           keys.count > 0 ? "-H \"Authorization: Bearer $KEY\" " : "", info->model_name);
    fflush(stdout);
    clearerr(stdout); // where nobody can be told, it serves all the same
}

// The same for a program that reads the log.
static void announce_in_log(const struct engine_info *info, const struct listener_socket *socket) {
    char access[ACCESS_BYTES], line[1024];
    bool warn = describe_access(access, socket);
    struct buffer facts;
    buffer_init(&facts, LOG_LINE_BYTES_MAX - sizeof line);
    log_member_text(&facts, "version", TANDEM_VERSION);
    log_member_text(&facts, "address", socket->address);
    log_member_text(&facts, "model", info->model_name);
    log_member_text(&facts, "model_path", model.model[0] ? model.model : "built-in");
    log_member_text(&facts, "architecture", info->architecture);
    log_member_text(&facts, "weights", info->weights);
    log_member_text(&facts, "weights_chosen", info->weights_note);
    log_member_text(&facts, "cache", info->cache_note);
    log_member_text(&facts, "settings", settings_read());
    log_member_text(&facts, "devices", info->device);
    buffer_format(&facts,
                  ",\"parameters\":%" PRIu64 ",\"weight_bytes\":%zu,\"load_seconds\":%.3f,\"threads\":%d,\"pinned\":%s,"
                  "\"context_tokens\":%d,\"kv_tokens\":%zu,\"sequences_max\":%d,\"queue_max\":%d,\"api_keys\":%zu",
                  info->parameters, info->weight_bytes, info->load_seconds, info->threads,
                  info->pinned ? "true" : "false", info->context_tokens, info->kv_tokens, info->sequences_max,
                  info->queue_max, keys.count);
    snprintf(line, sizeof line, "Tandem %s serves %s on %s%s", TANDEM_VERSION, info->model_name, scheme(socket),
             socket->address);
    log_members(LOG_INFO, line, &facts);
    log_write(warn ? LOG_WARNING : LOG_INFO, "access: %s", access);
    buffer_finish(&facts);
}

// ---- The command

static void log_warning(void *user, const char *line) {
    (void)user;
    log_write(LOG_WARNING, "%s", line);
}

// One that is said to be what it would be anyway can not be told from one that is not.
static void warn_of_unused_port(void) {
    if (config.unix_socket[0] && (config.port != CONFIG_PORT || strcmp(config.host, CONFIG_HOST) != 0))
        log_write(LOG_WARNING, "--unix-socket takes the place of a port: nothing listens on --host %s --port %d",
                  config.host, config.port);
}

// While the model is loaded there is nothing to end well: nobody has been answered, and nobody waits.
static struct listener_socket own_socket;

static void end_while_loading(int signal) {
    (void)signal;
    listener_unbind(&own_socket);
    _exit(EXIT_WELL);
}

static int serve(void) {
    struct error error = {0};
    struct listener_socket socket; // before the model: what is wrong here is known at once
    if (api_keys_read(&keys, config.api_key.text, config.api_key.source, config.api_key_file, &error))
        return command_fail(&serve_command, &error, EXIT_USAGE);
    int code = config.unix_socket[0] ? listener_bind_unix(&socket, config.unix_socket,
                                                          (mode_t)strtoul(config.unix_socket_mode, NULL, 8), &error)
                                     : listener_bind(&socket, config.host, config.port, &error);
    if (code) return command_fail(&serve_command, &error, code == ERROR_ARGUMENT ? EXIT_USAGE : 1);
    warn_of_unused_port();
    own_socket = socket;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = end_while_loading}, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = end_while_loading}, NULL);

    struct engine_options options = {
        .sequences_max = config.sequences_max,
        .queue_max = config.queue_max,
        .kv_tokens = config.kv_tokens,
        .model_names = config.model_name,
        .prefill_tokens_max = config.prefill_tokens_max,
        .step_target_seconds = config.token_gap,
        .queue_seconds_max = config.queue_seconds_max,
        .warn = log_warning,
    };
    prefix_mode_parse(config.prefix_cache, &options.prefix); // one of its names: the table of settings knows no other
    struct engine *engine;
    code = model_settings_open(&model, options, &engine, &error);
    if (code) {
        listener_unbind(&socket);
        return model_settings_fail(&serve_command, &error);
    }
    struct server *server = NULL;
    code = server_create(&server, &config, &socket, &keys, engine, &error);
    if (!code) code = server_watch_signals(server, &error);
    if (code) {
        server_destroy(server);
        engine_close(engine);
        return command_fail(&serve_command, &error, code == ERROR_ARGUMENT ? EXIT_USAGE : 1);
    }
    if (log_is_json()) // then all lines are
        announce_in_log(engine_info(engine), &socket);
    else
        announce(engine_info(engine), &socket);
    server_run(server);
    server_destroy(server);
    engine_close(engine);
    log_write(LOG_INFO, "stopped");
    return 0;
}

static int run(int count, char **arguments) {
    int exit_code = command_begin(&serve_command, count, arguments, NULL);
    if (!exit_code)
        exit_code = config_file_read(&serve_command, TABLES, TABLE_COUNT, config_name, count, arguments, config_path);
    if (!exit_code) {
        enum log_level level = LOG_INFO;
        log_level_parse(config.log_level, &level); // it is one of them: the settings' table says so
        enum log_format format = LOG_TEXT;
        log_format_parse(config.log_format, &format);
        log_open(level, format);
        exit_code = serve();
        api_keys_finish(&keys);
    }
    command_end(&serve_command);
    return exit_code;
}

const struct command serve_command = {
    .name = "serve",
    .summary = "load a model and serve the OpenAI API",
    .meant = "--model",
    .description =
        "A setting is read from a YAML file, then from its environment variable, then from its flag; the "
        "last one wins. configs/tandem.yaml is such a file, with every setting in it; paths in a file are "
        "relative to it. Ctrl-C or SIGTERM stops accepting, lets what is being answered end, and exits; a "
        "second one exits at once.\n\nOn a loopback address, which is the default, only requests are answered "
        "whose Host header is localhost, 127.0.0.1, [::1] or what --host says: a web page must not reach the "
        "server by a name of its own. A Unix socket (--unix-socket) can not be reached by web pages, and any name will "
        "do there; each request has a connection of its own.",
    .tables = TABLES,
    .table_count = TABLE_COUNT,
    .examples = EXAMPLES,
    .run = run,
};
