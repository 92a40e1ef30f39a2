// What is said of settings: in help, in a file, in the man page.
#include "base/roff.h"
#include "base/settings.h"
#include "base/wrap.h"

#include <math.h>
#include <string.h>

enum { HELP_COLUMN = 28, YAML_COLUMNS = 100 };

// ---- One setting's facts

static void number(const struct setting *setting, double value, struct buffer *out) {
    static const char letters[] = "KMG";
    int letter = -1;
    if (setting->type == SETTING_SIZE)
        for (; letter < 2 && value >= 1024 && fmod(value, 1024) == 0; letter++) value /= 1024;
    buffer_format(out, "%.12g", value);
    if (letter >= 0) buffer_append(out, &letters[letter], 1);
}

static bool has_range(const struct setting *setting) {
    return setting->type == SETTING_INT || setting->type == SETTING_SIZE || setting->type == SETTING_SECONDS ||
           setting->type == SETTING_NUMBER;
}

// Of a switch that is off it need not be said.
static bool has_default(const struct setting *setting) {
    return setting->fallback[0] && !(setting->type == SETTING_SWITCH && strcmp(setting->fallback, "false") == 0);
}

static bool has_facts(const struct setting *setting) {
    return has_range(setting) || has_default(setting) || setting->environment || setting->type == SETTING_TEXTS;
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
    if (setting->type == SETTING_TEXTS) {
        buffer_format(out, "may be given %.0f times", setting->most);
        comma = ", ";
    }
    if (has_default(setting)) {
        buffer_format(out, "%sdefault %s", comma, setting->fallback);
        comma = ", ";
    }
    if (setting->environment) buffer_format(out, "%s%s", comma, setting->environment);
}

// "--port N", "--weights f32|bf16", "--json"
static void flag_and_value(const struct setting *setting, struct buffer *out) {
    static const char *const kinds[] = {
        [SETTING_TEXT] = "TEXT", [SETTING_TEXTS] = "TEXT", [SETTING_LIST] = "LIST", [SETTING_SECRET] = "TEXT",
        [SETTING_PATH] = "PATH", [SETTING_CHOICE] = "",    [SETTING_INT] = "N",     [SETTING_SIZE] = "N",
        [SETTING_SECONDS] = "S", [SETTING_NUMBER] = "X",   [SETTING_SWITCH] = "",
    };
    buffer_text(out, setting->flag);
    if (setting->type == SETTING_SWITCH) return;
    buffer_format(out, " %s", kinds[setting->type]);
    if (setting->type == SETTING_CHOICE)
        for (const char *c = setting->choices; *c; c++) buffer_append(out, *c == ' ' ? "|" : c, 1);
}

// ---- Sections, in the order in which their first rows stand, wherever the others do

struct form {
    void (*section)(const struct setting *first, struct buffer *out);
    void (*row)(const struct setting *setting, struct buffer *out);
    const char *between_sections;
    bool of_files; // leave out what files do not have
};

// What a section is called in the one that it is in.
static const char *section_name(const struct setting *setting, int *bytes) {
    const char *end = setting->name + setting_section_bytes(setting), *name = end;
    while (name > setting->name && name[-1] != '.') name--;
    *bytes = (int)(end - name);
    return name;
}

// How many sections a section is in.
static int depth_of(const struct setting *setting) {
    int depth = -1;
    for (const char *at = setting->name; (at = strchr(at, '.')); at++) depth++;
    return depth;
}

static bool same_section(const struct setting *a, const struct setting *b) {
    size_t bytes = setting_section_bytes(a);
    return bytes == setting_section_bytes(b) && (bytes == 0 || memcmp(a->name, b->name, bytes) == 0);
}

// Whether a row before this one is of its section.
static bool seen(const struct setting_table *tables, const struct setting_table *last, const struct setting *row) {
    for (const struct setting_table *table = tables; table <= last; table++)
        for (const struct setting *other = table->rows; other->flag; other++) {
            if (other == row) return false;
            if (same_section(other, row)) return true;
        }
    return false;
}

static bool write_all(const struct form *form, const struct setting_table *tables, size_t table_count,
                      struct buffer *out) {
    const struct setting_table *end = tables + table_count;
    const char *between = "";
    for (const struct setting_table *table = tables; table < end; table++)
        for (const struct setting *first = table->rows; first->flag; first++) {
            if (seen(tables, table, first) || (form->of_files && !first->name)) continue;
            buffer_text(out, between);
            between = form->between_sections;
            form->section(first, out);
            for (const struct setting_table *other = tables; other < end; other++)
                for (const struct setting *row = other->rows; row->flag; row++)
                    if (same_section(row, first)) form->row(row, out);
        }
    return !out->failed;
}

// ---- Help

static void help_section(const struct setting *first, struct buffer *out) {
    int bytes = 0;
    const char *name = first->name ? section_name(first, &bytes) : "Options";
    buffer_format(out, "%c%.*s\n", name[0] & ~0x20, bytes ? bytes - 1 : (int)strlen(name) - 1, name + 1);
}

static void help_row(const struct setting *setting, struct buffer *out) {
    size_t start = out->bytes;
    buffer_text(out, "  ");
    flag_and_value(setting, out);
    size_t width = out->bytes - start;
    if (width < HELP_COLUMN)
        buffer_format(out, "%*s", (int)(HELP_COLUMN - width), "");
    else
        buffer_format(out, "\n%*s", HELP_COLUMN, "");
    wrap_text(out, setting->help, HELP_COLUMN, HELP_COLUMN, WRAP_COLUMNS);
    buffer_text(out, "\n");
    if (!has_facts(setting)) return;
    struct buffer known;
    buffer_init(&known, 1024);
    facts(setting, &known);
    buffer_format(out, "%*s", HELP_COLUMN, "");
    wrap_text(out, known.data ? known.data : "", HELP_COLUMN, HELP_COLUMN, WRAP_COLUMNS);
    buffer_text(out, "\n");
    out->failed |= known.failed;
    buffer_finish(&known);
}

bool settings_help(const struct setting_table *tables, size_t table_count, struct buffer *out) {
    static const struct form form = {help_section, help_row, "\n", false};
    return write_all(&form, tables, table_count, out);
}

// ---- A file

static void yaml_section(const struct setting *first, struct buffer *out) {
    int bytes;
    const char *name = section_name(first, &bytes);
    buffer_format(out, "%*s%.*s:\n", 2 * depth_of(first), "", bytes, name);
}

// What needs no quotes anywhere in YAML.
static bool is_plain(const char *text) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./_";
    return *text && text[strspn(text, plain)] == '\0';
}

// "# in lines".
static void yaml_comment(const char *text, int in, struct buffer *out) {
    struct buffer lines;
    buffer_init(&lines, 4096);
    wrap_text(&lines, text, 0, 0, YAML_COLUMNS - in - (int)strlen("# "));
    for (const char *at = lines.data ? lines.data : text; *at;) {
        int bytes = (int)strcspn(at, "\n");
        buffer_format(out, "%*s# %.*s\n", in, "", bytes, at);
        at += bytes + (at[bytes] == '\n');
    }
    out->failed |= lines.failed;
    buffer_finish(&lines);
}

//   # port to listen on; 0 picks a free one
//   # 0 to 65535, default 8080, TANDEM_PORT, --port
//   port: 8080
static void yaml_row(const struct setting *setting, struct buffer *out) {
    const char *quote = is_plain(setting->fallback) ? "" : "\"";
    int in = 2 * depth_of(setting) + 2;
    if (out->bytes && out->data[out->bytes - 2] != ':') buffer_text(out, "\n"); // not behind the section's name
    yaml_comment(setting->help, in, out);
    buffer_format(out, "%*s# ", in, "");
    if (setting->type == SETTING_CHOICE) buffer_format(out, "one of: %s, ", setting->choices);
    if (setting->type == SETTING_SWITCH) buffer_text(out, "true or false, ");
    if (setting->type == SETTING_LIST)
        buffer_text(out, setting->most >= 1 ? "a list, or a section of lists, " : "a list, ");
    facts(setting, out);
    buffer_format(out, "%s%s\n", has_facts(setting) ? ", " : "", setting->flag);
    const char *key = setting->name + setting_section_bytes(setting) + 1;
    buffer_format(out, "%*s%s: %s%s%s\n", in, "", key, quote, setting->fallback, quote);
}

bool settings_yaml(const struct setting_table *tables, size_t table_count, struct buffer *out) {
    static const struct form form = {yaml_section, yaml_row, "\n", true};
    return write_all(&form, tables, table_count, out);
}

// ---- The man page

static void roff_section(const struct setting *first, struct buffer *out) {
    buffer_text(out, ".PP\n");
    help_section(first, out);
}

static void roff_row(const struct setting *setting, struct buffer *out) {
    struct buffer text;
    buffer_init(&text, 1024);
    flag_and_value(setting, &text);
    buffer_text(out, ".TP\n.B ");
    roff_text(out, text.data ? text.data : setting->flag);
    buffer_text(out, "\n");
    roff_text(out, setting->help);
    buffer_text(out, "\n");
    buffer_clear(&text);
    if (has_facts(setting)) {
        facts(setting, &text);
        buffer_text(out, ".br\n");
        roff_text(out, text.data ? text.data : "");
        buffer_text(out, "\n");
    }
    out->failed |= text.failed;
    buffer_finish(&text);
}

bool settings_roff(const struct setting_table *tables, size_t table_count, struct buffer *out) {
    static const struct form form = {roff_section, roff_row, "", false};
    return write_all(&form, tables, table_count, out);
}
