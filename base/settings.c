#include "base/settings.h"

#include "base/checked.h"
#include "base/nearest.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

size_t setting_section_bytes(const struct setting *setting) {
    const char *point = setting->name ? strrchr(setting->name, '.') : NULL;
    return point ? (size_t)(point - setting->name) : 0;
}

// ---- One value

static void *member(const struct setting_table *table, const struct setting *setting) {
    return (char *)table->target + setting->offset;
}

static bool is_text(const struct setting *setting) {
    return setting->type == SETTING_TEXT || setting->type == SETTING_PATH || setting->type == SETTING_CHOICE;
}

static bool is_sourced(const struct setting *setting) {
    return setting->type == SETTING_SECRET || setting->type == SETTING_LIST;
}

static int refuse(const struct setting *setting, const char *text, const char *source, struct error *error) {
    struct buffer expected;
    buffer_init(&expected, 512);
    switch (setting->type) {
    case SETTING_TEXT:
    case SETTING_LIST:
    case SETTING_PATH:
    case SETTING_SECRET:
        buffer_text(&expected, "a text in UTF-8, not empty");
        break;
    case SETTING_TEXTS:
        buffer_format(&expected, "a text in UTF-8, not empty, and be given %.0f times at most", setting->most);
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
    case SETTING_NUMBER:
        buffer_format(&expected, "a number from %g to %g", setting->least, setting->most);
        break;
    case SETTING_SWITCH:
        buffer_text(&expected, "true or false");
        break;
    }
    const char *name = setting->name ? setting->name : setting->flag;
    const char *wanted = expected.data ? expected.data : "another value";
    if (setting->type == SETTING_SECRET)
        error_set_param(error, ERROR_ARGUMENT, name, "%s must be %s", source, wanted);
    else
        error_set_param(error, ERROR_ARGUMENT, name, "%s is `%.60s`, but must be %s", source, text, wanted);
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

// "~/x" below the home directory, where there is one; shells leave it alone in --flag=~/x, in files and in variables.
static bool set_path(char **out, const char *text) {
    const char *home = text[0] == '~' && text[1] == '/' ? getenv("HOME") : NULL;
    if (!home || !*home) return set_text(out, text);
    char *path;
    if (asprintf(&path, "%s%s", home, text + 1) < 0) return false;
    free(*out);
    *out = path;
    return true;
}

static bool set_sourced(struct setting_sourced *out, const char *text, const char *source) {
    return set_text(&out->source, source) && set_text(&out->text, text);
}

static bool add_text(struct setting_texts *out, const char *text) {
    char *copy = strdup(text), **items = copy ? reallocarray(out->items, out->count + 1, sizeof *items) : NULL;
    if (!items) {
        free(copy);
        return false;
    }
    out->items = items;
    out->items[out->count++] = copy;
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

static bool read_int(const char *text, int *out) {
    size_t value;
    bool minus = text[0] == '-';
    if (!read_whole(text + minus, false, &value) || value > INT32_MAX) return false;
    *out = minus ? -(int)value : (int)value;
    return true;
}

// Digits, with a point or an exponent; `unit` may follow.
static bool read_real(const char *text, const char *unit, double *out) {
    char *end;
    const char *digits = text + (text[0] == '-');
    if (digits[0] != '.' && (digits[0] < '0' || digits[0] > '9')) return false; // no nan, no white space
    if (digits[0] == '0' && (digits[1] & ~0x20) == 'X') return false;
    *out = strtod(text, &end);
    return end != text && (*end == '\0' || strcmp(end, unit) == 0) && isfinite(*out);
}

// As YAML's users write it; also 1 and 0.
static bool read_switch(const char *text, bool *out) {
    static const char *const words[][2] = {{"false", "true"}, {"no", "yes"}, {"off", "on"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        for (int value = 0; value < 2; value++)
            if (strcasecmp(text, words[i][value]) == 0) {
                *out = value;
                return true;
            }
    return false;
}

static bool in_range(const struct setting *setting, double value) {
    return value >= setting->least && value <= setting->most;
}

int settings_set(const struct setting_table *table, const struct setting *setting, const char *text, const char *source,
                 struct error *error) {
    void *out = member(table, setting);
    int number = 0;
    size_t size = 0;
    double real = 0;
    if (!*text && text != setting->fallback) return refuse(setting, text, source, error); // an unset shell variable?
    switch (setting->type) {
    case SETTING_PATH:
        if (!utf8_valid(text, strlen(text))) break;
        return set_path(out, text) ? 0 : error_set_code(error, ERROR_MEMORY);
    case SETTING_SECRET:
    case SETTING_LIST:
        if (!utf8_valid(text, strlen(text))) break;
        return set_sourced(out, text, source) ? 0 : error_set_code(error, ERROR_MEMORY);
    case SETTING_TEXT:
    case SETTING_CHOICE:
        if (!utf8_valid(text, strlen(text)) || (setting->type == SETTING_CHOICE && !is_choice(setting->choices, text)))
            break;
        return set_text(out, text) ? 0 : error_set_code(error, ERROR_MEMORY);
    case SETTING_TEXTS:
        if (!*text) return 0; // the default: none
        if (!utf8_valid(text, strlen(text)) || ((struct setting_texts *)out)->count >= (size_t)setting->most) break;
        return add_text(out, text) ? 0 : error_set_code(error, ERROR_MEMORY);
    case SETTING_INT:
        if (!read_int(text, &number) || !in_range(setting, number)) break;
        *(int *)out = number;
        return 0;
    case SETTING_SIZE:
        if (!read_whole(text, true, &size) || !in_range(setting, (double)size)) break;
        *(size_t *)out = size;
        return 0;
    case SETTING_SECONDS:
    case SETTING_NUMBER:
        if (!read_real(text, setting->type == SETTING_SECONDS ? "s" : "", &real) || !in_range(setting, real)) break;
        *(double *)out = real;
        return 0;
    case SETTING_SWITCH:
        if (!read_switch(text, out)) break;
        return 0;
    }
    return refuse(setting, text, source, error);
}

// ---- All of them

int settings_init(const struct setting_table *table, struct error *error) {
    int code = 0;
    for (const struct setting *row = table->rows; row->flag; row++) {
        void *out = member(table, row);
        if (is_text(row)) *(char **)out = NULL;
        if (row->type == SETTING_TEXTS) *(struct setting_texts *)out = (struct setting_texts){0};
        if (is_sourced(row)) *(struct setting_sourced *)out = (struct setting_sourced){0};
    }
    for (const struct setting *row = table->rows; row->flag && !code; row++)
        code = settings_set(table, row, row->fallback, "the default", error);
    if (code) settings_finish(table);
    return code;
}

static void finish_text(char **text) {
    free(*text);
    *text = NULL;
}

static void finish_texts(struct setting_texts *texts) {
    for (size_t i = 0; i < texts->count; i++) free(texts->items[i]);
    free(texts->items);
    *texts = (struct setting_texts){0};
}

static void finish_sourced(struct setting_sourced *sourced) {
    finish_text(&sourced->text);
    finish_text(&sourced->source);
}

void settings_finish(const struct setting_table *table) {
    for (const struct setting *row = table->rows; row->flag; row++) {
        void *out = member(table, row);
        if (is_text(row)) finish_text(out);
        if (row->type == SETTING_TEXTS) finish_texts(out);
        if (is_sourced(row)) finish_sourced(out);
    }
}

// One whose absence opens a door: who sets its variable does not want that.
static bool never_empty(const struct setting *setting) {
    return (is_text(setting) || is_sourced(setting)) && setting->least >= 1;
}

int settings_read_environment(const struct setting_table *tables, size_t table_count, struct error *error) {
    for (const struct setting_table *table = tables; table < tables + table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++) {
            const char *name = row->environment, *text = name ? getenv(name) : NULL;
            if (text && !*text && never_empty(row))
                return error_set(error, ERROR_ARGUMENT, "%s is set, but empty: unset it, or say what it is to be",
                                 name);
            int code = text && *text ? settings_set(table, row, text, name, error) : 0;
            if (code) return code;
        }
    return 0;
}

// ---- Flags

struct flags {
    const struct setting_table *tables;
    size_t table_count;
    const char **operand;
    bool has_operand;
};

static const struct setting *find_flag(const struct flags *flags, const char *argument, size_t bytes,
                                       const struct setting_table **out) {
    for (const struct setting_table *table = flags->tables; table < flags->tables + flags->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++) {
            if (strlen(row->flag) == bytes && memcmp(row->flag, argument, bytes) == 0) {
                *out = table;
                return row;
            }
        }
    return NULL;
}

// Its value is not repeated: it may be a secret.
static int unknown_flag(const struct flags *flags, const char *argument, struct error *error) {
    struct nearest nearest;
    size_t bytes = strcspn(argument, "=");
    nearest_init(&nearest, argument, bytes);
    for (const struct setting_table *table = flags->tables; table < flags->tables + flags->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++)
            nearest_consider(&nearest, row->flag, strlen(row->flag));
    nearest_consider(&nearest, "--help", strlen("--help"));
    int shown = bytes < 60 ? (int)bytes : 60;
    if (nearest.word[0])
        return error_set(error, ERROR_ARGUMENT, "`%.*s` is not a setting; did you mean %s?", shown, argument,
                         nearest.word);
    char flag[ERROR_PARAM_BYTES];
    snprintf(flag, sizeof flag, "%.*s", (int)bytes, argument);
    return error_set_param(error, ERROR_ARGUMENT, flag, "`%.*s` is not a setting", shown, argument);
}

static int take_operand(struct flags *flags, const char *argument, struct error *error) {
    if (!flags->operand || flags->has_operand)
        return error_set(error, ERROR_ARGUMENT, "`%.60s` is one argument too many", argument);
    flags->has_operand = true;
    *flags->operand = argument;
    return 0;
}

int settings_read_flags(const struct setting_table *tables, size_t table_count, int count, char *const *arguments,
                        const char **operand, struct error *error) {
    struct flags flags = {.tables = tables, .table_count = table_count, .operand = operand};
    bool only_operands = false;
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i], *equals = strchr(argument, '=');
        const struct setting_table *table;
        int code;
        if (only_operands || argument[0] != '-' || !argument[1]) { // "-" alone is a name for standard input
            code = take_operand(&flags, argument, error);
        } else if (strcmp(argument, "--") == 0) {
            only_operands = true;
            continue;
        } else {
            size_t bytes = equals ? (size_t)(equals - argument) : strlen(argument);
            const struct setting *setting = find_flag(&flags, argument, bytes, &table);
            if (!setting) return unknown_flag(&flags, argument, error);
            bool alone = setting->type == SETTING_SWITCH && !equals;
            if (!alone && !equals && i + 1 == count)
                return error_set(error, ERROR_ARGUMENT, "%s needs a value", setting->flag);
            const char *text = alone ? "true" : equals ? equals + 1 : arguments[++i];
            code = settings_set(table, setting, text, setting->flag, error);
        }
        if (code) return code;
    }
    return 0;
}
