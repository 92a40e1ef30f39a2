#include "cli/entry.h"

#include <string.h>

static const char QUOTES[] = "\"\"\"";
enum { QUOTES_BYTES = sizeof QUOTES - 1 };

void entry_init(struct entry *entry) {
    *entry = (struct entry){0};
    buffer_init(&entry->text, LINE_BYTES_MAX);
    buffer_init(&entry->line, LINE_BYTES_MAX);
}

void entry_finish(struct entry *entry) {
    buffer_finish(&entry->text);
    buffer_finish(&entry->line);
}

static void cut(struct buffer *text, size_t bytes) {
    text->bytes -= bytes;
    text->data[text->bytes] = '\0';
}

static bool ends_with(const struct buffer *text, const char *end, size_t bytes) {
    return text->bytes >= bytes && memcmp(text->data + text->bytes - bytes, end, bytes) == 0;
}

// Whether another line belongs to what there is. Takes away what said so, or what said that none does.
static bool goes_on(struct entry *entry) {
    struct buffer *text = &entry->text;
    if (!entry->quoted) {
        bool on = ends_with(text, "\\", 1);
        if (on) cut(text, 1);
        return on;
    }
    if (!ends_with(text, QUOTES, QUOTES_BYTES)) return true;
    cut(text, QUOTES_BYTES);
    if (ends_with(text, "\n", 1)) cut(text, 1); // the marks had a line of their own
    return false;
}

static void begin(struct entry *entry) {
    struct buffer *text = &entry->text;
    entry->quoted = text->bytes >= QUOTES_BYTES && memcmp(text->data, QUOTES, QUOTES_BYTES) == 0;
    if (entry->quoted) buffer_consume(text, QUOTES_BYTES);
}

enum line_result entry_read(struct entry *entry, struct line_reader *lines, const struct entry_prompts *prompts,
                            bool *empty, struct error *error) {
    enum line_result result = line_read(lines, prompts->first, &entry->text, empty, error);
    if (result != LINE_TEXT) return result;
    begin(entry);
    bool alone = entry->quoted && entry->text.bytes == 0; // the marks: the text begins in the next line
    while (goes_on(entry)) {
        result = line_read(lines, prompts->next, &entry->line, empty, error);
        *empty = false;
        if (result == LINE_END) break;
        if (result != LINE_TEXT) return result;
        if (!alone) buffer_text(&entry->text, "\n");
        alone = false;
        buffer_append(&entry->text, entry->line.data, entry->line.bytes);
        if (!entry->text.failed) continue;
        error_set(error, ERROR_TOO_LARGE, "what was entered has more than %d MiB, or memory is short",
                  LINE_BYTES_MAX / 1024 / 1024);
        return LINE_FAILED;
    }
    return LINE_TEXT;
}
