#include "server/config.h"

#include "engine/engine.h"
#include "server/log.h"

#define AT(member) offsetof(struct config, member)

// Names as choices: each with a space in front, the first of which is left out.
#define LEVELS (&LOG_LEVELS(NAMED_WORD)[1])
#define FORMATS (&LOG_FORMATS(NAMED_WORD)[1])
#define PREFIXES (&PREFIX_MODES(NAMED_WORD)[1])

// A constant as the text of a default.
#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)

const struct setting CONFIG_SETTINGS[] = {
    {"server.host", "--host", "TANDEM_HOST", SETTING_TEXT, AT(host), 0, 0, NULL, CONFIG_HOST, "",
     "address or name to listen on; 0.0.0.0 lets other machines in"},
    {"server.port", "--port", "TANDEM_PORT", SETTING_INT, AT(port), 0, 65535, NULL, TEXT_OF(CONFIG_PORT),
     "", "port to listen on; 0 picks a free one"},
    {"server.unix_socket", "--unix-socket", "TANDEM_UNIX_SOCKET", SETTING_PATH, AT(unix_socket), 0, 0, NULL, "", "",
     "a Unix socket instead of a port: its path"},
    {"server.unix_socket_mode", "--unix-socket-mode", "TANDEM_UNIX_SOCKET_MODE", SETTING_CHOICE, AT(unix_socket_mode),
     0, 0, "600 660 666", "600", "", "who may connect to it: its owner, its group too, or anyone"},
    {"server.connections_max", "--connections-max", "TANDEM_CONNECTIONS_MAX", SETTING_INT, AT(connections_max), 1, 1e6,
     NULL, "4096", "", "open connections; the next one is answered 429"},
    {"server.body_bytes_max", "--body-bytes-max", "TANDEM_BODY_BYTES_MAX", SETTING_SIZE, AT(body_bytes_max), 1 << 10,
     1 << 30, NULL, "8M", "bytes", "largest request body; a larger one is answered 413"},
    {"server.header_seconds", "--header-seconds", "TANDEM_HEADER_SECONDS", SETTING_SECONDS, AT(header_seconds), 0.1,
     3600, NULL, "10", "seconds", "for a request's header to arrive"},
    {"server.body_seconds", "--body-seconds", "TANDEM_BODY_SECONDS", SETTING_SECONDS, AT(body_seconds), 0.1, 3600, NULL,
     "30", "seconds", "for a request's body to arrive"},
    {"server.idle_seconds", "--idle-seconds", "TANDEM_IDLE_SECONDS", SETTING_SECONDS, AT(idle_seconds), 0.1, 86400,
     NULL, "75", "seconds", "between two requests on one connection"},
    {"server.slow_reader_seconds", "--slow-reader-seconds", "TANDEM_SLOW_READER_SECONDS", SETTING_SECONDS,
     AT(slow_reader_seconds), 0.1, 86400, NULL, "60", "seconds",
     "without taking a byte of an answer that is there: disconnected"},
    {"server.blocking_reader_seconds", "--blocking-reader-seconds", "TANDEM_BLOCKING_READER_SECONDS", SETTING_SECONDS,
     AT(blocking_reader_seconds), 0.1, 86400, NULL, "20", "seconds",
     "that a stream may stand still while a request waits for its place, and a second more for each kilobyte taken: "
     "disconnected"},
    {"server.heartbeat_seconds", "--heartbeat-seconds", "TANDEM_HEARTBEAT_SECONDS", SETTING_SECONDS,
     AT(heartbeat_seconds), 0.1, 86400, NULL, "15", "seconds", "of silence on a stream before a comment is sent"},
    {"server.drain_seconds", "--drain-seconds", "TANDEM_DRAIN_SECONDS", SETTING_SECONDS, AT(drain_seconds), 0, 86400,
     NULL, "30", "seconds", "for running requests to end after SIGTERM or Ctrl-C"},
    {"server.cors_origin", "--cors-origin", "TANDEM_CORS_ORIGIN", SETTING_TEXT, AT(cors_origin), 0, 0, NULL, "", "",
     "web pages that may ask: http://localhost:3000, say, or * for all"},
    {"server.api_key", "--api-key", "TANDEM_API_KEY", SETTING_SECRET, AT(api_key), 1, 0, NULL, "", "",
     "a,b,c: keys, one of which a request must have; ps shows flags to others"},
    {"server.api_key_file", "--api-key-file", "TANDEM_API_KEY_FILE", SETTING_PATH, AT(api_key_file), 1, 0, NULL, "", "",
     "file with such keys, one a line; # begins a comment"},
    {"server.log_level", "--log-level", "TANDEM_LOG_LEVEL", SETTING_CHOICE, AT(log_level), 0, 0, LEVELS, "info", "",
     "least important lines to log; debug has every request"},
    {"server.log_format", "--log-format", "TANDEM_LOG_FORMAT", SETTING_CHOICE, AT(log_format), 0, 0, FORMATS, "text",
     "", "lines for a person, or one JSON object each"},
    {"engine.max_sequences", "--max-sequences", "TANDEM_MAX_SEQUENCES", SETTING_INT, AT(sequences_max), 1,
     ENGINE_SEQUENCES_MAX, NULL, TEXT_OF(ENGINE_SEQUENCES_STANDARD), "", "answers that are computed at once"},
    {"engine.queue", "--queue", "TANDEM_QUEUE", SETTING_INT, AT(queue_max), 1, ENGINE_QUEUE_MAX, NULL,
     TEXT_OF(ENGINE_QUEUE_STANDARD), "", "answers that may wait (n for each prompt); the next one is answered 429"},
    {"engine.queue_seconds", "--queue-seconds", "TANDEM_QUEUE_SECONDS", SETTING_SECONDS, AT(queue_seconds_max), 0,
     86400, NULL, "120", "seconds", "for an answer to wait, then it is answered 429; 0: as long as it takes"},
    {"engine.kv_tokens", "--kv-tokens", "TANDEM_KV_TOKENS", SETTING_SIZE, AT(kv_tokens), 0, 1 << 30, NULL, "0",
     "tokens", "capacity of the KV cache, in steps of 32; 0: by context and free memory"},
    {"engine.prefill_tokens", "--prefill-tokens", "TANDEM_PREFILL_TOKENS", SETTING_INT, AT(prefill_tokens_max), 1,
     ENGINE_PREFILL_TOKENS_MAX, NULL, TEXT_OF(ENGINE_PREFILL_TOKENS_STANDARD), "tokens",
     "of prompts in one step, the chunk; short ones together may be four"},
    {"engine.token_gap", "--token-gap", "TANDEM_TOKEN_GAP", SETTING_SECONDS, AT(token_gap), 0, 3600, NULL,
     CONFIG_TOKEN_GAP, "seconds", "between two tokens of a stream: the chunk is made to fit; 0: it never is"},
    {"engine.prefix_cache", "--prefix-cache", "TANDEM_PREFIX_CACHE", SETTING_CHOICE, AT(prefix_cache), 0, 0, PREFIXES,
     "prompts", "", "what is kept for requests that begin alike, and not read again"},
    {"model.name", "--model-name", "TANDEM_MODEL_NAME", SETTING_TEXT, AT(model_name), 0, 0, NULL, "", "",
     "what clients may call the model: NAME[,NAME...], the first in answers"},
    {.flag = NULL},
};
