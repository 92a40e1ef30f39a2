// The settings of the server, and of the engine behind it where only a server has a use for them.
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "base/settings.h"

// Every member is set by one row of the table. Texts are owned copies.
struct config {
    char *host;
    int port;
    char *unix_socket, *unix_socket_mode;
    int sequences_max, queue_max, prefill_tokens_max;
    size_t kv_tokens;
    size_t body_bytes_max;
    int connections_max;
    double header_seconds, body_seconds, idle_seconds, slow_reader_seconds, blocking_reader_seconds,
        heartbeat_seconds, drain_seconds;
    double queue_seconds_max, token_gap;
    char *log_level, *log_format, *cors_origin, *prefix_cache, *api_key_file;
    struct setting_sourced api_key;
    char *model_name; // "a,b": what clients may call the model
};

#define CONFIG_HOST "127.0.0.1" // the defaults
#define CONFIG_PORT 8080
#define CONFIG_TOKEN_GAP "0.5" // the default of --token-gap, which is bench's too

extern const struct setting CONFIG_SETTINGS[];

#endif
