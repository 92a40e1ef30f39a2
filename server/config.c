#include "server/config.h"

#include "base/checked.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "server/log.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define AT(member) offsetof(struct config, member)

// What another table names, as choices: each with a space in front, the first of which is left out.
#define CHOICE(value, name, other) " " name
#define LEVELS (&LOG_LEVELS(CHOICE)[1])
#define WEIGHTS (&WEIGHT_FORMATS(CHOICE)[1])

// A constant as the text of a default.
#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)

const struct setting SETTINGS[] = {
    {"server.host", "--host", "TANDEM_HOST", SETTING_TEXT, AT(host), 0, 0, NULL, "127.0.0.1", "",
     "address or name to listen on; 0.0.0.0 lets other machines in"},
    {"server.port", "--port", "TANDEM_PORT", SETTING_INT, AT(port), 0, 65535, NULL, "8080", "",
     "port to listen on; 0 picks a free one"},
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
    {"server.heartbeat_seconds", "--heartbeat-seconds", "TANDEM_HEARTBEAT_SECONDS", SETTING_SECONDS,
     AT(heartbeat_seconds), 0.1, 86400, NULL, "15", "seconds", "of silence on a stream before a comment is sent"},
    {"server.drain_seconds", "--drain-seconds", "TANDEM_DRAIN_SECONDS", SETTING_SECONDS, AT(drain_seconds), 0, 86400,
     NULL, "30", "seconds", "for running requests to end after SIGTERM or Ctrl-C"},
    {"server.log_level", "--log-level", "TANDEM_LOG_LEVEL", SETTING_CHOICE, AT(log_level), 0, 0, LEVELS, "info", "",
     "least important lines to log"},
    {"model.path", "--model", "TANDEM_MODEL", SETTING_TEXT, AT(model), 0, 0, NULL, "", "",
     "a Hugging Face model directory; without it the small built-in model"},
    {"model.weights", "--weights", "TANDEM_WEIGHTS", SETTING_CHOICE, AT(weights), 0, 0, WEIGHTS, "bf16", "",
     "how weights are held in memory"},
    {"engine.kernels", "--kernels", "TANDEM_KERNELS", SETTING_CHOICE, AT(kernels), 0, 0, "cpu reference", "cpu", "",
     "cpu is the fast one; reference is plain C, to compare with"},
    {"engine.threads", "--threads", "TANDEM_THREADS", SETTING_INT, AT(threads), 0, ENGINE_THREADS_MAX, NULL, "0", "",
     "threads that compute; 0: one for each physical core"},
    {"engine.max_sequences", "--max-sequences", "TANDEM_MAX_SEQUENCES", SETTING_INT, AT(sequences_max), 1,
     ENGINE_SEQUENCES_MAX, NULL, TEXT_OF(ENGINE_SEQUENCES_STANDARD), "", "answers that are computed at once"},
    {"engine.queue", "--queue", "TANDEM_QUEUE", SETTING_INT, AT(queue_max), 1, ENGINE_QUEUE_MAX, NULL,
     TEXT_OF(ENGINE_QUEUE_STANDARD), "", "answers that may wait (n for each prompt); the next one is answered 429"},
    {"engine.kv_tokens", "--kv-tokens", "TANDEM_KV_TOKENS", SETTING_SIZE, AT(kv_tokens), 0, 1 << 30, NULL, "0",
     "tokens", "capacity of the KV cache; 0: chosen from the context and the free memory"},
    {"engine.prefill_tokens", "--prefill-tokens", "TANDEM_PREFILL_TOKENS", SETTING_INT, AT(prefill_tokens_max), 1,
     ENGINE_PREFILL_TOKENS_MAX, NULL, TEXT_OF(ENGINE_PREFILL_TOKENS_STANDARD), "tokens",
     "of a prompt in one step; fewer let other streams run more smoothly"},
};
const size_t SETTING_COUNT = sizeof SETTINGS / sizeof *SETTINGS;

// ---- One value

static void *member(struct config *config, const struct setting *setting) {
    return (char *)config + setting->offset;
}

static int refuse(const struct setting *setting, const char *text, const char *source, struct error *error) {
    struct buffer expected;
    buffer_init(&expected, 512);
    switch (setting->type) {
    case SETTING_TEXT:
        buffer_text(&expected, "a text, not empty");
        break;
    case SETTING_CHOICE:
        buffer_format(&expected, "one of: %s", setting->choices);
        break;
    case SETTING_INT:
        buffer_format(&expected, "a whole number from %.0f to %.0f", setting->least, setting->most);
        break;
    case SETTING_SIZE:
        buffer_format(&expected, "a whole number from %.0f to %.0f, where K, M or G may follow", setting->least,
                      setting->most);
        break;
    case SETTING_SECONDS:
        buffer_format(&expected, "seconds from %g to %g", setting->least, setting->most);
        break;
    }
    error_set_param(error, ERROR_ARGUMENT, setting->name, "%s is `%.60s`, but must be %s", source, text,
                    expected.data ? expected.data : "another value");
    buffer_finish(&expected);
    return ERROR_ARGUMENT;
}

static bool is_choice(const char *choices, const char *text) {
    size_t bytes = strlen(text);
    if (bytes == 0 || strchr(text, ' ')) return false;
    for (const char *at = choices; (at = strstr(at, text)); at += bytes)
        if ((at == choices || at[-1] == ' ') && (at[bytes] == ' ' || at[bytes] == '\0')) return true;
    return false;
}

static bool set_text(char **out, const char *text) {
    char *copy = strdup(text);
    if (!copy) return false;
    free(*out);
    *out = copy;
    return true;
}

// Digits, and for sizes one of K, M, G (times 1024, 1024², 1024³), with "B" or "iB" behind it if one likes.
static bool read_whole(const char *text, bool with_unit, size_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') return false;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    size_t factor = 1;
    if (errno || value > SIZE_MAX) return false;
    if (with_unit && *end) {
        const char *letters = "KMG", *letter = strchr(letters, *end & ~0x20);
        if (!letter || !*letter) return false;
        factor = (size_t)1 << (10 * (letter - letters + 1));
        end++;
        if (strcasecmp(end, "B") == 0 || strcasecmp(end, "iB") == 0) end += strlen(end);
    }
    return *end == '\0' && checked_mul((size_t)value, factor, out);
}

static bool read_seconds(const char *text, double *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') return false;
    *out = strtod(text, &end);
    return (*end == '\0' || strcmp(end, "s") == 0) && isfinite(*out);
}

int config_set(struct config *config, const struct setting *setting, const char *text, const char *source,
               struct error *error) {
    void *out = member(config, setting);
    size_t whole = 0;
    double seconds = 0;
    if (!*text && text != setting->fallback) return refuse(setting, text, source, error); // an unset shell variable?
    switch (setting->type) {
    case SETTING_TEXT:
    case SETTING_CHOICE:
        if (!utf8_valid(text, strlen(text)) || (setting->type == SETTING_CHOICE && !is_choice(setting->choices, text)))
            return refuse(setting, text, source, error);
        return set_text(out, text) ? 0 : error_set_code(error, ERROR_MEMORY);
    case SETTING_INT:
    case SETTING_SIZE:
        if (!read_whole(text, setting->type == SETTING_SIZE, &whole) || (double)whole < setting->least ||
            (double)whole > setting->most)
            return refuse(setting, text, source, error);
        if (setting->type == SETTING_INT)
            *(int *)out = (int)whole;
        else
            *(size_t *)out = whole;
        return 0;
    case SETTING_SECONDS:
        if (!read_seconds(text, &seconds) || seconds < setting->least || seconds > setting->most)
            return refuse(setting, text, source, error);
        *(double *)out = seconds;
        return 0;
    }
    return error_set_code(error, ERROR_INTERNAL);
}

// ---- All of them

int config_init(struct config *config, struct error *error) {
    *config = (struct config){0};
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        int code = config_set(config, &SETTINGS[i], SETTINGS[i].fallback, "the default", error);
        if (code) {
            config_finish(config);
            return code;
        }
    }
    return 0;
}

void config_finish(struct config *config) {
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (SETTINGS[i].type == SETTING_TEXT || SETTINGS[i].type == SETTING_CHOICE) {
            char **text = member(config, &SETTINGS[i]);
            free(*text);
            *text = NULL;
        }
}

int config_read_environment(struct config *config, struct error *error) {
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *text = getenv(SETTINGS[i].environment);
        int code = text ? config_set(config, &SETTINGS[i], text, SETTINGS[i].environment, error) : 0;
        if (code) return code;
    }
    return 0;
}

static const struct setting *find_flag(const char *argument, size_t bytes) {
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (strlen(SETTINGS[i].flag) == bytes && memcmp(SETTINGS[i].flag, argument, bytes) == 0) return &SETTINGS[i];
    return NULL;
}

int config_read_flags(struct config *config, int count, char *const *arguments, struct error *error) {
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i], *equals = strchr(argument, '=');
        const struct setting *setting = find_flag(argument, equals ? (size_t)(equals - argument) : strlen(argument));
        if (!setting) return error_set(error, ERROR_ARGUMENT, "`%.60s` is not a setting", argument);
        if (!equals && i + 1 == count) return error_set(error, ERROR_ARGUMENT, "%s needs a value", setting->flag);
        int code = config_set(config, setting, equals ? equals + 1 : arguments[++i], setting->flag, error);
        if (code) return code;
    }
    return 0;
}

// ---- Help

enum { HELP_COLUMN = 28 };

static void help_number(const struct setting *setting, double number, struct buffer *out) {
    static const char letters[] = "KMG";
    int letter = -1;
    if (setting->type == SETTING_SIZE)
        for (; letter < 2 && number >= 1024 && fmod(number, 1024) == 0; letter++) number /= 1024;
    buffer_format(out, "%.12g", number);
    if (letter >= 0) buffer_append(out, &letters[letter], 1);
}

static void help_unit(const struct setting *setting, struct buffer *out) {
    if (setting->unit[0]) buffer_format(out, " %s", setting->unit);
}

// "0 to 65535, default 8080, TANDEM_PORT"
static void help_facts(const struct setting *setting, struct buffer *out) {
    bool number = setting->type != SETTING_TEXT && setting->type != SETTING_CHOICE;
    if (number) {
        help_number(setting, setting->least, out);
        buffer_text(out, " to ");
        help_number(setting, setting->most, out);
        help_unit(setting, out);
        buffer_text(out, ", ");
    }
    if (setting->fallback[0]) buffer_format(out, "default %s, ", setting->fallback);
    buffer_text(out, setting->environment);
}

static void help_row(const struct setting *setting, struct buffer *out) {
    static const char *const kinds[] = {
        [SETTING_TEXT] = "TEXT", [SETTING_CHOICE] = "",   [SETTING_INT] = "N",
        [SETTING_SIZE] = "N",    [SETTING_SECONDS] = "S",
    };
    size_t start = out->bytes;
    buffer_format(out, "  %s %s", setting->flag, kinds[setting->type]);
    if (setting->type == SETTING_CHOICE)
        for (const char *c = setting->choices; *c; c++) buffer_append(out, *c == ' ' ? "|" : c, 1);
    size_t width = out->bytes - start;
    if (width < HELP_COLUMN)
        buffer_format(out, "%*s", (int)(HELP_COLUMN - width), "");
    else
        buffer_format(out, "\n%*s", HELP_COLUMN, "");
    buffer_format(out, "%s\n%*s", setting->help, HELP_COLUMN, "");
    help_facts(setting, out);
    buffer_text(out, "\n");
}

bool config_help(struct buffer *out) {
    const char *section = "";
    size_t section_bytes = 0;
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *name = SETTINGS[i].name;
        size_t bytes = strcspn(name, ".");
        if (bytes != section_bytes || memcmp(name, section, bytes) != 0)
            buffer_format(out, "%s%c%.*s\n", i ? "\n" : "", name[0] & ~0x20, (int)bytes - 1, name + 1);
        section = name;
        section_bytes = bytes;
        help_row(&SETTINGS[i], out);
    }
    return !out->failed;
}
