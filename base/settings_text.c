// What is said of settings: help.
#include "base/settings.h"

#include <math.h>
#include <string.h>

enum { HELP_COLUMN = 28 };

static void number(const struct setting *setting, double value, struct buffer *out) {
    static const char letters[] = "KMG";
    int letter = -1;
    if (setting->type == SETTING_SIZE)
        for (; letter < 2 && value >= 1024 && fmod(value, 1024) == 0; letter++) value /= 1024;
    buffer_format(out, "%.12g", value);
    if (letter >= 0) buffer_append(out, &letters[letter], 1);
}

static bool has_range(const struct setting *setting) {
    return setting->type != SETTING_TEXT && setting->type != SETTING_CHOICE && setting->type != SETTING_SWITCH;
}

// Of a switch that is off it need not be said.
static bool has_default(const struct setting *setting) {
    return setting->fallback[0] && !(setting->type == SETTING_SWITCH && strcmp(setting->fallback, "false") == 0);
}

// "0 to 65535, default 8080, TANDEM_PORT"
static void facts(const struct setting *setting, struct buffer *out) {
    const char *comma = "";
    if (has_range(setting)) {
        number(setting, setting->least, out);
        buffer_text(out, " to ");
        number(setting, setting->most, out);
        if (setting->unit[0]) buffer_format(out, " %s", setting->unit);
        comma = ", ";
    }
    if (has_default(setting)) {
        buffer_format(out, "%sdefault %s", comma, setting->fallback);
        comma = ", ";
    }
    if (setting->environment) buffer_format(out, "%s%s", comma, setting->environment);
}

static void help_row(const struct setting *setting, struct buffer *out) {
    static const char *const kinds[] = {
        [SETTING_TEXT] = " TEXT", [SETTING_CHOICE] = " ", [SETTING_INT] = " N",   [SETTING_SIZE] = " N",
        [SETTING_SECONDS] = " S", [SETTING_NUMBER] = " X", [SETTING_SWITCH] = "",
    };
    size_t start = out->bytes;
    buffer_format(out, "  %s%s", setting->flag, kinds[setting->type]);
    if (setting->type == SETTING_CHOICE)
        for (const char *c = setting->choices; *c; c++) buffer_append(out, *c == ' ' ? "|" : c, 1);
    size_t width = out->bytes - start;
    if (width < HELP_COLUMN)
        buffer_format(out, "%*s", (int)(HELP_COLUMN - width), "");
    else
        buffer_format(out, "\n%*s", HELP_COLUMN, "");
    buffer_format(out, "%s\n", setting->help);
    if (!has_range(setting) && !has_default(setting) && !setting->environment) return;
    buffer_format(out, "%*s", HELP_COLUMN, "");
    facts(setting, out);
    buffer_text(out, "\n");
}

static size_t section_bytes(const struct setting *setting) {
    return setting->name ? strcspn(setting->name, ".") : 0;
}

static bool same_section(const struct setting *a, const struct setting *b) {
    size_t bytes = section_bytes(a);
    return bytes == section_bytes(b) && (bytes == 0 || memcmp(a->name, b->name, bytes) == 0);
}

// Whether a row before this one is of its section.
static bool seen(const struct setting_table *tables, const struct setting_table *last, const struct setting *row) {
    for (const struct setting_table *table = tables; table <= last; table++)
        for (const struct setting *other = table->rows; other < table->rows + table->count; other++) {
            if (other == row) return false;
            if (same_section(other, row)) return true;
        }
    return false;
}

static void help_section(const struct setting_table *tables, size_t table_count, const struct setting *first,
                         struct buffer *out) {
    if (first->name)
        buffer_format(out, "%c%.*s\n", first->name[0] & ~0x20, (int)section_bytes(first) - 1, first->name + 1);
    else
        buffer_text(out, "Options\n");
    for (const struct setting_table *table = tables; table < tables + table_count; table++)
        for (size_t i = 0; i < table->count; i++)
            if (same_section(&table->rows[i], first)) help_row(&table->rows[i], out);
}

bool settings_help(const struct setting_table *tables, size_t table_count, struct buffer *out) {
    for (const struct setting_table *table = tables; table < tables + table_count; table++)
        for (size_t i = 0; i < table->count; i++)
            if (!seen(tables, table, &table->rows[i])) {
                if (&table->rows[i] != tables->rows) buffer_text(out, "\n"); // it is not the first of all
                help_section(tables, table_count, &table->rows[i], out);
            }
    return !out->failed;
}
