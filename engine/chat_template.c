#include "engine/chat_template.h"

#include "base/buffer.h"

#include <ctype.h>
#include <string.h>

static const char WHERE[] = "chat_template (chat_template.jinja or tokenizer_config.json)"; // for messages

enum system_role { SYSTEM_ALWAYS, SYSTEM_UNLESS_EMPTY, SYSTEM_NEVER };

struct chat_template {
    const char *name;
    enum system_role system;
    bool bos; // <s> goes before all
};

static const struct chat_template FORMATS[] = {
    {"phi-3", SYSTEM_UNLESS_EMPTY, false},
    {"phi-3, empty system messages kept", SYSTEM_ALWAYS, false},
    {"phi-3 without system messages", SYSTEM_NEVER, false},
    {"phi-3 with <s>", SYSTEM_UNLESS_EMPTY, true},
    {"phi-3 with <s>, empty system messages kept", SYSTEM_ALWAYS, true},
    {"phi-3 with <s>, without system messages", SYSTEM_NEVER, true},
};

static const char *const MARKERS[] = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"};

// ---- Reading a template
//
// Into its canonical form: the tags alone, without white space and parentheses, strings between ' with their
// escapes resolved and those that + joins made one, a.b written as a['b'].

struct scan {
    const char *at, *end;
    struct buffer canonical;
    bool loose_space; // white space is left behind an output
    struct error *error;
};

static bool is_one_of(const char *text, size_t bytes, const char *const *words, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strlen(words[i]) == bytes && memcmp(words[i], text, bytes) == 0) return true;
    return false;
}

// Quotes some of a text that goes on or has a NUL behind it: whole characters.
static int unknown(const struct scan *scan, const char *what, const char *text, size_t bytes) {
    int quoted = bytes > 80 ? 80 : (int)bytes;
    while (((unsigned char)text[quoted] & 0xc0) == 0x80) quoted++;
    return error_set(scan->error, ERROR_UNSUPPORTED, "%s: not a format that is known: it has the %s \"%.*s\"", WHERE,
                     what, quoted, text);
}

static int unfinished(const struct scan *scan, const char *what) {
    return error_set(scan->error, ERROR_FORMAT, "%s: a %s has no end", WHERE, what);
}

static int no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "out of memory for a chat template");
}

static int scan_word(struct scan *scan) {
    static const char *const WORDS[] = {"for", "in", "if", "elif", "else", "endif", "endfor", "and", "message",
                                        "messages", "role", "content", "add_generation_prompt", "eos_token",
                                        "bos_token"};
    const char *start = scan->at;
    while (scan->at < scan->end && (isalnum((unsigned char)*scan->at) || *scan->at == '_')) scan->at++;
    size_t bytes = (size_t)(scan->at - start);
    if (!is_one_of(start, bytes, WORDS, sizeof WORDS / sizeof *WORDS)) return unknown(scan, "word", start, bytes);
    bool member = scan->canonical.bytes && scan->canonical.data[scan->canonical.bytes - 1] == '.';
    if (member) scan->canonical.bytes--;
    buffer_format(&scan->canonical, member ? "['%.*s']" : "%.*s", (int)bytes, start);
    return 0;
}

// Whether a string (with a NUL behind it) is made of markers, white space and the parts of '<|' + role + '|>'.
static bool is_markup(const char *text, size_t bytes) {
    static const char *const PARTS[] = {"<|", "|>"};
    for (const char *end = text + bytes; text < end;) {
        size_t step = isspace((unsigned char)*text) ? 1 : 0;
        for (size_t i = 0; i < sizeof MARKERS / sizeof *MARKERS && !step; i++)
            if (strncmp(text, MARKERS[i], strlen(MARKERS[i])) == 0) step = strlen(MARKERS[i]);
        if (!step && end - text >= 2 && is_one_of(text, 2, PARTS, 2)) step = 2;
        if (!step) return false;
        text += step;
    }
    return true;
}

static int scan_string(struct scan *scan) {
    static const char *const NAMES[] = {"role", "content", "system", "user", "assistant"};
    struct buffer *canonical = &scan->canonical;
    char quote = *scan->at++;
    // 'a' + 'b' is 'ab': go on with the string before.
    if (canonical->bytes >= 2 && memcmp(canonical->data + canonical->bytes - 2, "'+", 2) == 0)
        canonical->bytes -= 2;
    else
        buffer_append(canonical, "'", 1);
    size_t start = canonical->bytes;
    for (; scan->at < scan->end && *scan->at != quote; scan->at++) {
        if (*scan->at == '\'') return unknown(scan, "character", "'", 1);
        if (*scan->at != '\\') {
            buffer_append(canonical, scan->at, 1);
        } else {
            if (++scan->at == scan->end || *scan->at != 'n') return unknown(scan, "escape", scan->at - 1, 1);
            buffer_append(canonical, "\n", 1);
        }
    }
    if (scan->at == scan->end) return unfinished(scan, "string");
    scan->at++;
    if (canonical->failed) return no_memory(scan->error);
    const char *text = canonical->data + start;
    size_t bytes = canonical->bytes - start;
    if (!is_one_of(text, bytes, NAMES, sizeof NAMES / sizeof *NAMES) && !is_markup(text, bytes))
        return unknown(scan, "text", text, bytes);
    buffer_append(canonical, "'", 1);
    return 0;
}

// One tag, from behind its "{{" or "{%" to behind its end.
static int scan_tag(struct scan *scan, char kind) {
    const char end[3] = {kind == '{' ? '}' : kind, '}', '\0'};
    if (scan->at < scan->end && *scan->at == '-') scan->at++;
    buffer_format(&scan->canonical, "{%c", kind);
    while (scan->at < scan->end) {
        size_t left = (size_t)(scan->end - scan->at);
        if (*scan->at == '-' && left >= 3 && memcmp(scan->at + 1, end, 2) == 0) scan->at++;
        if (left >= 2 && memcmp(scan->at, end, 2) == 0) {
            scan->at += 2;
            buffer_append(&scan->canonical, end, 2);
            return 0;
        }
        char c = *scan->at;
        int rc = 0;
        if (isalnum((unsigned char)c) || c == '_')
            rc = scan_word(scan);
        else if (c == '\'' || c == '"')
            rc = scan_string(scan);
        else if (strchr("[]=+.", c) && c)
            buffer_append(&scan->canonical, scan->at++, 1);
        else if (isspace((unsigned char)c) || c == '(' || c == ')')
            scan->at++;
        else
            rc = unknown(scan, "character", scan->at, 1);
        if (rc) return rc;
    }
    return unfinished(scan, "tag");
}

static bool ends_with(const struct buffer *buffer, const char *text) {
    size_t bytes = strlen(text);
    return buffer->bytes >= bytes && memcmp(buffer->data + buffer->bytes - bytes, text, bytes) == 0;
}

// Text between tags. Only white space will do, and only where it leaves no trace: Jinja as transformers sets it
// up drops a newline behind a block, the blanks between a newline and a block, and all that a '-' faces; what is
// left behind an output other than <s> stands behind a marker, which may swallow it.
static int scan_between(struct scan *scan) {
    const char *first = scan->at, *start = first, *stop = memchr(start, '{', (size_t)(scan->end - start));
    if (!stop) stop = scan->end;
    scan->at = stop;
    for (const char *c = start; c < stop; c++)
        if (!isspace((unsigned char)*c)) return unknown(scan, "text", start, (size_t)(stop - start));

    bool after_block = ends_with(&scan->canonical, "%}");
    bool after_output = ends_with(&scan->canonical, "}}") && !ends_with(&scan->canonical, "{{bos_token}}");
    bool faces_dash = (scan->canonical.bytes && first[-3] == '-') || (scan->end - stop >= 3 && stop[2] == '-');
    if (after_block && start < stop && *start == '\n') start++;
    if (scan->end - stop >= 2 && stop[1] == '%') {
        const char *blanks = stop;
        while (blanks > first && (blanks[-1] == ' ' || blanks[-1] == '\t')) blanks--;
        bool new_line = blanks > first ? blanks[-1] == '\n' : scan->canonical.bytes == 0;
        if (new_line) stop = blanks;
    }
    if (start == stop || faces_dash) return 0;
    if (after_output) {
        scan->loose_space = true;
        return 0;
    }
    return unknown(scan, "white space", start, (size_t)(stop - start));
}

static int scan_template(struct scan *scan) {
    while (scan->at < scan->end) {
        int rc = scan_between(scan);
        if (rc) return rc;
        if (scan->at == scan->end) break;
        char kind = scan->end - scan->at >= 2 ? scan->at[1] : '\0';
        if (kind != '{' && kind != '%') return unknown(scan, "text", scan->at, (size_t)(scan->end - scan->at));
        scan->at += 2;
        rc = scan_tag(scan, kind);
        if (rc) return rc;
    }
    return scan->canonical.failed ? no_memory(scan->error) : 0;
}

// ---- Recognising it

static size_t occurrences(const char *text, const char *part) {
    size_t count = 0;
    while ((text = strstr(text, part))) {
        count++;
        text += strlen(part);
    }
    return count;
}

static int lacks(struct error *error, const char *what) {
    return error_set(error, ERROR_UNSUPPORTED, "%s: not a format that is known: it lacks %s", WHERE, what);
}

static int recognise(const char *canonical, struct chat_template *found, struct error *error) {
    bool any_role = strstr(canonical, "'<|'+message['role']+'|>\n'+message['content']+'<|end|>\n'");
    if (!any_role && !strstr(canonical, "'<|user|>\n'+message['content']+'<|end|>\n'"))
        return lacks(error, "'<|user|>\\n' + message['content'] + '<|end|>\\n'");
    if (!any_role && !strstr(canonical, "'<|assistant|>\n'+message['content']+'<|end|>\n'"))
        return lacks(error, "'<|assistant|>\\n' + message['content'] + '<|end|>\\n'");
    if (!strstr(canonical, "{%ifadd_generation_prompt%}{{'<|assistant|>\n'}}"))
        return lacks(error, "'<|assistant|>\\n' if add_generation_prompt");

    found->bos = strncmp(canonical, "{{bos_token}}", strlen("{{bos_token}}")) == 0;
    if (occurrences(canonical, "bos_token") != found->bos) return lacks(error, "bos_token at its start alone");

    bool system = strstr(canonical, "'<|system|>\n'+message['content']+'<|end|>\n'");
    bool unless_empty = strstr(canonical, "message['role']=='system'andmessage['content']%}");
    if (occurrences(canonical, "and") != unless_empty)
        return lacks(error, "a plain condition: message['role'] == 'system' and message['content'] is all it may join");
    if (any_role || (system && !unless_empty))
        found->system = SYSTEM_ALWAYS;
    else
        found->system = system ? SYSTEM_UNLESS_EMPTY : SYSTEM_NEVER;
    return 0;
}

static bool swallows_space(const struct tokenizer *tokenizer, int32_t id) {
    struct token_list none = {0};
    bool swallows = tokenizer_encode_after(tokenizer, id, "\n", 1, &none, NULL) == 0 && none.count == 0;
    token_list_finish(&none);
    return swallows;
}

// The markers must be there, leave alone what stands before them, and swallow the white space that is too much.
static int check_tokens(const struct tokenizer *tokenizer, const struct chat_template *format, bool loose_space,
                        struct error *error) {
    for (size_t i = 0; i < sizeof MARKERS / sizeof *MARKERS; i++) {
        if (i == 0 && format->system == SYSTEM_NEVER) continue;
        int32_t id = tokenizer_special(tokenizer, MARKERS[i]);
        if (id < 0)
            return error_set(error, ERROR_UNSUPPORTED, "tokenizer.json: Phi-3's chat format needs %s", MARKERS[i]);
        if (!tokenizer_leaves_text_before(tokenizer, id))
            return error_set(error, ERROR_UNSUPPORTED,
                             "tokenizer.json: lstrip and normalized are not supported for %s, which the chat format "
                             "uses", MARKERS[i]);
        if (loose_space && !swallows_space(tokenizer, id))
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s: white space between its outputs, which %s (without rstrip) does not swallow, is not "
                             "supported", WHERE, MARKERS[i]);
    }
    if (format->bos && tokenizer_bos_token(tokenizer) < 0)
        return error_set(error, ERROR_FORMAT, "%s: it uses bos_token, which tokenizer_config.json does not name",
                         WHERE);
    return 0;
}

int chat_template_find(const struct tokenizer *tokenizer, const struct chat_template **out, struct error *error) {
    const char *text = tokenizer_chat_template(tokenizer);
    struct chat_template found = FORMATS[0];
    struct scan scan = {.at = text, .end = text ? text + strlen(text) : NULL, .error = error};
    buffer_init(&scan.canonical, SIZE_MAX); // some times the text at most, which its file bounds
    int rc = text ? scan_template(&scan) : 0;
    if (rc == 0 && text) rc = recognise(scan.canonical.data ? scan.canonical.data : "", &found, error);
    buffer_finish(&scan.canonical);
    if (rc == 0) rc = check_tokens(tokenizer, &found, scan.loose_space, error);
    if (rc) return rc;

    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (FORMATS[i].system == found.system && FORMATS[i].bos == found.bos) *out = &FORMATS[i];
    return 0;
}

const char *chat_template_name(const struct chat_template *format) {
    return format->name;
}

// ---- The end of a turn

int chat_template_add_ends(const struct tokenizer *tokenizer, int32_t *ends, int count, int max) {
    static const char *const ENDS[] = {"<|end|>", "<|endoftext|>", "<|assistant|>"};
    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++) {
        int32_t id = tokenizer_special(tokenizer, ENDS[i]);
        int at = 0;
        while (at < count && ends[at] != id) at++;
        if (id >= 0 && at == count && count < max) ends[count++] = id;
    }
    return count;
}

// ---- Rendering

// A special token and the text behind it, which begins with a newline.
static int add_turn(const struct tokenizer *tokenizer, const char *marker, const char *content, size_t bytes,
                    struct token_list *out, struct error *error) {
    int32_t id = tokenizer_special(tokenizer, marker);
    struct buffer text;
    buffer_init(&text, SIZE_MAX);
    int rc = token_list_add(out, id) && buffer_append(&text, "\n", 1) && buffer_append(&text, content, bytes)
                 ? tokenizer_encode_after(tokenizer, id, text.data, text.bytes, out, error)
                 : no_memory(error);
    buffer_finish(&text);
    return rc;
}

static int add_message(const struct chat_template *format, const struct tokenizer *tokenizer,
                       const struct chat_message *message, struct token_list *out, struct error *error) {
    bool system = strcmp(message->role, "system") == 0;
    if (system && format->system == SYSTEM_NEVER)
        return error_set(error, ERROR_UNSUPPORTED, "this model's chat format has no role \"system\"");
    if (system && format->system == SYSTEM_UNLESS_EMPTY && message->content_bytes == 0) return 0;
    const char *marker = system                                     ? "<|system|>"
                         : strcmp(message->role, "user") == 0      ? "<|user|>"
                         : strcmp(message->role, "assistant") == 0 ? "<|assistant|>"
                                                                    : NULL;
    if (!marker)
        return error_set(error, ERROR_UNSUPPORTED,
                         "this model's chat format has the roles system, user and assistant, not \"%s\"",
                         message->role);
    int rc = add_turn(tokenizer, marker, message->content, message->content_bytes, out, error);
    return rc ? rc : add_turn(tokenizer, "<|end|>", "", 0, out, error);
}

int chat_template_render(const struct chat_template *format, const struct tokenizer *tokenizer,
                         const struct chat_message *messages, size_t count, struct token_list *out,
                         struct error *error) {
    if (format->bos && !token_list_add(out, tokenizer_bos_token(tokenizer))) return no_memory(error);
    for (size_t i = 0; i < count; i++) {
        int rc = add_message(format, tokenizer, &messages[i], out, error);
        if (rc) return rc;
    }
    return add_turn(tokenizer, "<|assistant|>", "", 0, out, error);
}
