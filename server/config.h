// The settings. One table says all there is to know of each: its flag, its environment variable, its type and
// range, its default, its words in --help. Reading flags and environment, and the help text, come from it.
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

// Every member is set by one row of the table. Texts are owned copies.
struct config {
    char *host;
    int port;
    char *model; // "": the built-in one
    char *weights, *kernels;
    int threads, sequences_max, queue_max, prefill_tokens_max;
    size_t kv_tokens;
    size_t body_bytes_max;
    int connections_max;
    double header_seconds, body_seconds, idle_seconds, slow_reader_seconds, heartbeat_seconds, drain_seconds;
    char *log_level;
};

enum setting_type { SETTING_TEXT, SETTING_CHOICE, SETTING_INT, SETTING_SIZE, SETTING_SECONDS };

struct setting {
    const char *name;        // "server.port": section and key, as a file will have it
    const char *flag;        // "--port"
    const char *environment; // "TANDEM_PORT"
    enum setting_type type;
    size_t offset;        // of its member in struct config
    double least, most;   // numbers
    const char *choices;  // SETTING_CHOICE: "f32 bf16"
    const char *fallback; // the default, as a user would write it
    const char *unit;     // "seconds", "bytes", "": what the number counts
    const char *help;
};
extern const struct setting SETTINGS[];
extern const size_t SETTING_COUNT;

int config_init(struct config *config, struct error *error); // the defaults
void config_finish(struct config *config);

// Sets one. `source` says where the text comes from ("--port", "TANDEM_PORT", later a file and line) for the message.
int config_set(struct config *config, const struct setting *setting, const char *text, const char *source,
               struct error *error);

int config_read_environment(struct config *config, struct error *error);
// "--flag value" and "--flag=value". What follows is refused: serve takes no other arguments.
int config_read_flags(struct config *config, int count, char *const *arguments, struct error *error);

// The table as text, in sections, no line longer than 100 columns. False when out of memory.
bool config_help(struct buffer *out);

#endif
