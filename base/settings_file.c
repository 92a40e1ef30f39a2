#include "base/settings_file.h"

#include "base/file.h"
#include "base/nearest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

enum { KEYS_BYTES_MAX = 512, NAME_BYTES = 128 };

// One file while it is read.
struct reading {
    const struct setting_table *tables;
    size_t table_count;
    const char *path;
    yaml_document_t document;
    struct error *error;
};

static size_t line_of(const yaml_node_t *node) {
    return node->start_mark.line + 1;
}

static int wrong(struct reading *reading, const yaml_node_t *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int wrong(struct reading *reading, const yaml_node_t *node, const char *format, ...) {
    char message[ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return error_set(reading->error, ERROR_ARGUMENT, "%s:%zu: %s", reading->path, line_of(node), message);
}

// ---- Rows by section and key. A section is named by the way to it, "engine.experts"; "" is the whole file.

// What a row is called below a section, "experts.prefill" below "engine"; NULL: it is elsewhere.
static const char *below(const struct setting *row, const char *section) {
    size_t bytes = strlen(section);
    if (!row->name || bytes == 0) return row->name;
    return strncmp(row->name, section, bytes) == 0 && row->name[bytes] == '.' ? row->name + bytes + 1 : NULL;
}

static const struct setting *find_row(const struct reading *reading, const char *name,
                                      const struct setting_table **out) {
    for (const struct setting_table *table = reading->tables; table < reading->tables + reading->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++)
            if (row->name && strcmp(row->name, name) == 0) {
                *out = table;
                return row;
            }
    return NULL;
}

static bool has_section(const struct reading *reading, const char *section) {
    for (const struct setting_table *table = reading->tables; table < reading->tables + reading->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++)
            if (below(row, section)) return true;
    return false;
}

// ---- What might have stood there instead

// Whether a row before this one has the same key in the section.
static bool key_seen(const struct reading *reading, const char *section, const struct setting *last) {
    const char *key = below(last, section);
    size_t bytes = strcspn(key, ".");
    for (const struct setting_table *table = reading->tables;; table++)
        for (const struct setting *row = table->rows; row->flag; row++) {
            if (row == last) return false;
            const char *other = below(row, section);
            if (other && strcspn(other, ".") == bytes && memcmp(other, key, bytes) == 0) return true;
        }
}

// Names a section's keys, "host, port", and finds the nearest to what is written.
static void find_choices(const struct reading *reading, const char *section, struct buffer *names,
                         struct nearest *nearest) {
    for (const struct setting_table *table = reading->tables; table < reading->tables + reading->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++) {
            const char *key = below(row, section);
            if (!key || key_seen(reading, section, row)) continue;
            int bytes = (int)strcspn(key, ".");
            buffer_format(names, "%s%.*s", names->bytes ? ", " : "", bytes, key);
            nearest_consider(nearest, key, (size_t)bytes);
        }
}

// A row of this key in whatever section; NULL: there is none.
static const struct setting *find_key(const struct reading *reading, const char *key) {
    for (const struct setting_table *table = reading->tables; table < reading->tables + reading->table_count; table++)
        for (const struct setting *row = table->rows; row->flag; row++) {
            size_t bytes = setting_section_bytes(row);
            if (bytes > 0 && strcmp(row->name + bytes + 1, key) == 0) return row;
        }
    return NULL;
}

// " (it belongs in `engine`)", " (did you mean `port`?)", or nothing.
static void write_hint(char *out, size_t bytes, const struct setting *elsewhere, const struct nearest *nearest) {
    if (elsewhere)
        snprintf(out, bytes, " (it belongs in `%.*s`)", (int)setting_section_bytes(elsewhere), elsewhere->name);
    else if (nearest->word[0])
        snprintf(out, bytes, " (did you mean `%s`?)", nearest->word);
    else
        *out = '\0';
}

static int unknown(struct reading *reading, const yaml_node_t *node, const char *section, const char *written) {
    char hint[NEAREST_BYTES + 32];
    struct buffer names;
    struct nearest nearest;
    buffer_init(&names, KEYS_BYTES_MAX);
    nearest_init(&nearest, written, strlen(written));
    find_choices(reading, section, &names, &nearest);
    write_hint(hint, sizeof hint, find_key(reading, written), &nearest);
    const char *list = names.data ? names.data : "none";
    int code = *section ? wrong(reading, node, "unknown key `%.60s` in `%s`%s; keys there are: %s", written, section,
                                hint, list)
                        : wrong(reading, node, "unknown section `%.60s`%s; sections are: %s", written, hint, list);
    buffer_finish(&names);
    return code;
}

// ---- Nodes

static const char *kind_of(const yaml_node_t *node) {
    return node->type == YAML_SEQUENCE_NODE ? "a list" : node->type == YAML_MAPPING_NODE ? "a section" : "a value";
}

static yaml_node_t *node_at(struct reading *reading, yaml_node_item_t index) {
    return yaml_document_get_node(&reading->document, index);
}

// A scalar's text; NULL for what is none, or holds a NUL.
static const char *text_of(const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE) return NULL;
    const char *text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

// Nothing, or one of YAML's words for it. In quotes they are texts.
static bool is_nothing(const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp((const char *)node->data.scalar.value, words[i]) == 0) return true;
    return false;
}

// The key of a pair, which no pair before it may have.
static int read_key(struct reading *reading, const yaml_node_t *mapping, const yaml_node_pair_t *pair,
                    const char **out) {
    const yaml_node_t *node = node_at(reading, pair->key);
    *out = text_of(node);
    if (!*out) return wrong(reading, node, "expected a name and `:`, found %s", kind_of(node));
    for (const yaml_node_pair_t *other = mapping->data.mapping.pairs.start; other < pair; other++) {
        const yaml_node_t *earlier = node_at(reading, other->key);
        if (strcmp((const char *)earlier->data.scalar.value, *out) == 0)
            return wrong(reading, node, "`%.60s` stands here a second time; the first is in line %zu", *out,
                         line_of(earlier));
    }
    return 0;
}

// A path that a file names, from where the file lies: it means the same whoever starts the program, and from where. The
// caller's to free; NULL: out of memory.
static char *beside(const char *file, const char *text) {
    char *whole = realpath(file, NULL), *path;
    const char *slash = whole ? strrchr(whole, '/') : NULL;
    int bytes = slash ? asprintf(&path, "%.*s%s", (int)(slash - whole + 1), whole, text) : asprintf(&path, "%s", text);
    free(whole);
    return bytes < 0 ? NULL : path;
}

// One value of a list, behind a separator.
static int write_item(struct reading *reading, const struct setting *row, const yaml_node_t *node,
                      const char *separator, struct buffer *out) {
    const char *text = text_of(node);
    if (!text || !*text || is_nothing(node))
        return wrong(reading, node, "%s has %s in its list, where values belong", row->name,
                     text ? "nothing" : kind_of(node));
    buffer_format(out, "%s%s", separator, text);
    return 0;
}

static int no_list(struct reading *reading, const struct setting *row, const yaml_node_t *node) {
    return wrong(reading, node, "%s is %s of nothing; remove the line for the default", row->name, kind_of(node));
}

static int write_section(struct reading *reading, const struct setting *row, const yaml_node_t *section,
                         struct buffer *out);

// "0-3,7". Where lists may have names, what has one begins another list, be it written [0-3: 0-7, 4: [2, 5]] or, as the
// flag's text that YAML takes apart, [0-3:0-7, 4:2, 5]: "0-3:0-7;4:2,5".
static int write_list(struct reading *reading, const struct setting *row, const yaml_node_t *list, bool names,
                      struct buffer *out) {
    const yaml_node_item_t *first = list->data.sequence.items.start, *end = list->data.sequence.items.top;
    int code = first == end ? no_list(reading, row, list) : 0;
    const yaml_node_t *named = NULL; // the last one with a name
    for (const yaml_node_item_t *item = first; !code && item < end; item++) {
        const yaml_node_t *node = node_at(reading, *item);
        const char *text = text_of(node);
        bool begins = names && (node->type == YAML_MAPPING_NODE || (text && strchr(text, ':')));
        if (begins && !named && item > first)
            return wrong(reading, node, "%s: what stands in front of this has no name, and needs one too", row->name);
        if (!begins && named && named->type == YAML_MAPPING_NODE)
            return wrong(reading, node, "%s: this stands behind a list with a name; put it into that, or name it, too",
                         row->name);
        if (begins) named = node;
        code = begins && node->type == YAML_MAPPING_NODE
                   ? write_section(reading, row, node, out)
                   : write_item(reading, row, node, item == first ? "" : begins ? ";" : ",", out);
    }
    return code;
}

// A section of lists, each behind its name.
static int write_section(struct reading *reading, const struct setting *row, const yaml_node_t *section,
                         struct buffer *out) {
    const yaml_node_pair_t *first = section->data.mapping.pairs.start, *end = section->data.mapping.pairs.top;
    int code = first == end ? no_list(reading, row, section) : 0;
    for (const yaml_node_pair_t *pair = first; !code && pair < end; pair++) {
        const yaml_node_t *node = node_at(reading, pair->value);
        const char *name;
        code = read_key(reading, section, pair, &name);
        if (code) break;
        buffer_format(out, "%s%s:", out->bytes ? ";" : "", name);
        code = node->type == YAML_SEQUENCE_NODE ? write_list(reading, row, node, false, out)
                                                : write_item(reading, row, node, "", out);
    }
    return code;
}

// Whether a row's lists may have names.
static bool has_names(const struct setting *row) {
    return row->type == SETTING_LIST && row->most >= 1;
}

// A list or lists as one text; the caller's to free.
static int join(struct reading *reading, const struct setting *row, const yaml_node_t *node, char **out) {
    struct buffer joined;
    buffer_init(&joined, SETTINGS_FILE_BYTES_MAX);
    int code = node->type == YAML_MAPPING_NODE ? write_section(reading, row, node, &joined)
                                               : write_list(reading, row, node, has_names(row), &joined);
    *out = code || joined.failed ? NULL : strdup(joined.data);
    buffer_finish(&joined);
    return code || *out ? code : error_set_code(reading->error, ERROR_MEMORY);
}

static int read_value(struct reading *reading, const struct setting_table *table, const struct setting *row,
                      const yaml_node_t *key_node, const yaml_node_t *node) {
    const char *text = text_of(node);
    bool list = (node->type == YAML_SEQUENCE_NODE && row->type == SETTING_LIST) ||
                (node->type == YAML_MAPPING_NODE && has_names(row));
    if (!text && !list)
        return wrong(reading, node, "%s is %s, but must be one value%s", row->name, kind_of(node),
                     row->type == SETTING_LIST ? " or a list of them" : "");
    if (is_nothing(node))
        return wrong(reading, key_node, "%s has no value; remove the line for the default", row->name);
    if (text && !*text && !*row->fallback) text = row->fallback; // "" where that is the default

    char source[ERROR_MESSAGE_BYTES], *made = NULL;
    snprintf(source, sizeof source, "%s:%zu: %s", reading->path, line_of(node), row->name);
    bool relative = row->type == SETTING_PATH && *text && *text != '/' && strncmp(text, "~/", 2) != 0;
    int code = list ? join(reading, row, node, &made) : 0;
    if (relative) made = beside(reading->path, text);
    if (relative && !made) code = error_set_code(reading->error, ERROR_MEMORY);
    if (!code) code = settings_set(table, row, made ? made : text, source, reading->error);
    free(made);
    return code;
}

static int read_section(struct reading *reading, const char *section, const yaml_node_t *node);

// A key of a section: a setting, or a section within it.
static int read_pair(struct reading *reading, const char *section, const yaml_node_pair_t *pair, const char *key) {
    const yaml_node_t *key_node = node_at(reading, pair->key), *node = node_at(reading, pair->value);
    const struct setting_table *table;
    char name[NAME_BYTES];
    int bytes = snprintf(name, sizeof name, "%s%s%s", section, *section ? "." : "", key);
    bool known = !strchr(key, '.') && bytes > 0 && (size_t)bytes < sizeof name;
    const struct setting *row = known ? find_row(reading, name, &table) : NULL;
    if (row) return read_value(reading, table, row, key_node, node);
    if (known && has_section(reading, name)) return read_section(reading, name, node);
    return unknown(reading, key_node, section, key);
}

static int read_section(struct reading *reading, const char *section, const yaml_node_t *node) {
    if (is_nothing(node)) return 0; // all its keys are comments
    if (node->type != YAML_MAPPING_NODE)
        return *section ? wrong(reading, node, "`%s` is a section: its keys stand below it, indented, as `key: value`",
                                section)
                        : wrong(reading, node, "expected sections with keys, found %s", kind_of(node));
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const char *key;
        int code = read_key(reading, node, pair, &key);
        if (!code) code = read_pair(reading, section, pair, key);
        if (code) return code;
    }
    return 0;
}

static int read_document(struct reading *reading) {
    const yaml_node_t *root = yaml_document_get_root_node(&reading->document);
    return root ? read_section(reading, "", root) : 0;
}

// ---- The file

static bool is_indented_by_tab(const char *text, size_t line) {
    for (; line > 1 && text; line--) text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
    return text && text[strspn(text, " ")] == '\t';
}

// What libyaml says of a text that is not YAML. Where bytes are no characters it knows their offset only.
static int broken(const yaml_parser_t *parser, const char *path, const char *text, struct error *error) {
    size_t line = parser->problem_mark.line + 1;
    if (parser->error == YAML_MEMORY_ERROR) return error_set_code(error, ERROR_MEMORY);
    if (parser->error == YAML_READER_ERROR) {
        line = 1;
        for (size_t i = 0; i < parser->problem_offset; i++) line += text[i] == '\n';
    }
    const char *problem = parser->problem ? parser->problem : "it is not YAML";
    if (parser->error == YAML_SCANNER_ERROR && is_indented_by_tab(text, line))
        return error_set(error, ERROR_FORMAT, "%s:%zu: begins with a tab, where YAML wants blanks", path, line);
    if (!parser->context) return error_set(error, ERROR_FORMAT, "%s:%zu: %s", path, line, problem);
    return error_set(error, ERROR_FORMAT, "%s:%zu: %s, %s that begins in line %zu", path, line, problem,
                     parser->context, parser->context_mark.line + 1);
}

// Reads the one document there may be, and looks for a second.
static int parse(struct reading *reading, yaml_parser_t *parser, const char *text) {
    if (!yaml_parser_load(parser, &reading->document)) return broken(parser, reading->path, text, reading->error);
    int code = read_document(reading);
    yaml_document_delete(&reading->document);
    if (code) return code;

    if (!yaml_parser_load(parser, &reading->document)) return broken(parser, reading->path, text, reading->error);
    const yaml_node_t *second = yaml_document_get_root_node(&reading->document);
    if (second) code = wrong(reading, second, "a second document begins; only one is read");
    yaml_document_delete(&reading->document);
    return code;
}

int settings_read_file(const struct setting_table *tables, size_t table_count, const char *path, struct error *error) {
    char *text;
    size_t bytes;
    int code = file_load_or_pipe(path, SETTINGS_FILE_BYTES_MAX, &text, &bytes, error);
    if (code) return code;
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) code = error_set_code(error, ERROR_MEMORY);
    if (!code) {
        struct reading reading = {.tables = tables, .table_count = table_count, .path = path, .error = error};
        yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
        code = parse(&reading, &parser, text);
        yaml_parser_delete(&parser);
    }
    free(text);
    return code;
}
