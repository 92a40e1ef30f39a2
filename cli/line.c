// Editing is libedit's. It reads through read_character here, which also waits for signals; a paste, which terminals
// put in brackets when told to, goes into the line as a whole.
#include "cli/line.h"

#include "base/utf8.h"
#include "cli/interrupt.h"
#include "cli/line_file.h"
#include "cli/output.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_LINES_MAX = 1000 };

static const char PASTE_BEGINS[] = "\033[200~", PASTE_ENDS[] = "\033[201~";
static const char BRACKETS_ON[] = "\033[?2004h", BRACKETS_OFF[] = "\033[?2004l";

struct line_reader {
    struct line_file file; // without editing
    EditLine *edit;        // NULL: none
    History *history;
    char *history_path; // NULL: not kept
    const char *prompt; // with escape sequences between \1
    const char *(*complete)(const char *text, size_t bytes);
    bool interrupted, empty, brackets;
};

// ---- What the terminal does meanwhile

static volatile sig_atomic_t resized, continued;

static void on_change(int signal) {
    if (signal == SIGWINCH) resized = 1;
    if (signal == SIGCONT) continued = 1;
    interrupt_wake(NULL);
}

static void follow_terminal(const struct line_reader *reader) {
    if (!continued && !resized) return;
    if (continued) {                           // whoever had the terminal in between has changed it
        el_set(reader->edit, EL_PREP_TERM, 0); // or else it would take the terminal to be prepared
        el_set(reader->edit, EL_PREP_TERM, 1);
        if (reader->brackets) fputs(BRACKETS_ON, stdout);
    }
    if (resized) el_resize(reader->edit);
    continued = resized = 0;
    fputs("\r", stdout);
    el_set(reader->edit, EL_REFRESH);
}

// ---- Characters

static struct line_reader *reader_of(EditLine *edit) {
    void *reader = NULL;
    el_get(edit, EL_CLIENTDATA, &reader);
    return reader;
}

// 1: a byte, 0: the end, -1: interrupted or failed.
static int read_byte(struct line_reader *reader, char *out) {
    for (;;) {
        follow_terminal(reader);
        if (interrupt_noted()) {
            const LineInfo *line = el_line(reader->edit);
            reader->empty = line->lastchar == line->buffer;
            reader->interrupted = true;
            return -1;
        }
        if (!interrupt_wait(STDIN_FILENO)) continue;
        ssize_t count = read(STDIN_FILENO, out, 1);
        if (count >= 0 || (errno != EINTR && errno != EAGAIN)) return (int)count;
    }
}

// What is not UTF-8 is dropped.
static int read_character(EditLine *edit, wchar_t *out) {
    struct line_reader *reader = reader_of(edit);
    char bytes[4];
    for (size_t count = 0;;) {
        uint32_t c;
        int code = read_byte(reader, &bytes[count]);
        if (code <= 0) return code;
        count++;
        if (utf8_decode(bytes, count, &c) == count) {
            *out = (wchar_t)c;
            return 1;
        }
        if (count == sizeof bytes || !utf8_is_prefix(bytes, count)) count = 0;
    }
}

// ---- Keys

static bool ends_with(const struct buffer *text, const char *end) {
    size_t bytes = strlen(end);
    return text->bytes >= bytes && memcmp(text->data + text->bytes - bytes, end, bytes) == 0;
}

// Line ends and tabs stay; other control characters could do anything when the line is shown.
static void drop_controls(struct buffer *text) {
    size_t kept = 0;
    for (size_t i = 0; i < text->bytes; i++) {
        char c = text->data[i] == '\r' ? '\n' : text->data[i];
        if (c == '\n' || c == '\t' || (unsigned char)c >= ' ') text->data[kept++] = c;
    }
    while (kept > 0 && text->data[kept - 1] == '\n') kept--; // Enter sends it
    text->bytes = kept;
    text->data[kept] = '\0';
}

static unsigned char on_paste(EditLine *edit, int key) {
    (void)key;
    struct line_reader *reader = reader_of(edit);
    struct buffer text;
    buffer_init(&text, LINE_BYTES_MAX);
    char byte;
    int code = 1;
    while (!ends_with(&text, PASTE_ENDS) && (code = read_byte(reader, &byte)) > 0 && buffer_append(&text, &byte, 1)) {
    }
    bool well = ends_with(&text, PASTE_ENDS);
    if (well) {
        text.bytes -= strlen(PASTE_ENDS);
        drop_controls(&text);
        well = utf8_valid(text.data, text.bytes) && (text.bytes == 0 || el_insertstr(edit, text.data) == 0);
    }
    buffer_finish(&text);
    return code <= 0 ? CC_EOF : well ? CC_REFRESH : CC_REFRESH_BEEP;
}

static unsigned char on_tab(EditLine *edit, int key) {
    (void)key;
    const LineInfo *line = el_line(edit);
    const char *rest = reader_of(edit)->complete(line->buffer, (size_t)(line->cursor - line->buffer));
    return rest && el_insertstr(edit, rest) == 0 ? CC_REFRESH : CC_REFRESH_BEEP;
}

static char *tell_prompt(EditLine *edit) {
    return (char *)reader_of(edit)->prompt;
}

// ---- Opening

// libedit turns characters into bytes as the locale says.
static bool use_utf8(void) {
    return (setlocale(LC_CTYPE, "") && strcmp(nl_langinfo(CODESET), "UTF-8") == 0) || setlocale(LC_CTYPE, "C.UTF-8");
}

static int open_edit(struct line_reader *reader, struct error *error) {
    static const char *const KEYS[][2] = {
        {"^R", "em-inc-search-prev"},  {PASTE_BEGINS, "tandem-paste"}, {"^I", "tandem-complete"},
        {"\033[1;5D", "ed-prev-word"}, {"\033[1;5C", "em-next-word"},  {"\033[3~", "ed-delete-next-char"},
        {"\033[H", "ed-move-to-beg"},  {"\033[F", "ed-move-to-end"},   {"\033[1~", "ed-move-to-beg"},
        {"\033[4~", "ed-move-to-end"},
    };
    HistEvent event;
    interrupt_keep_terminal(STDIN_FILENO); // libedit has settings of its own between two lines, too
    reader->edit = use_utf8() ? el_init("tandem", stdin, stdout, stderr) : NULL;
    reader->history = history_init();
    if (!reader->edit || !reader->history) return error_set(error, ERROR_INTERNAL, "lines can not be edited here");
    reader->brackets = output_colours(STDOUT_FILENO) || (getenv("TERM") && strcmp(getenv("TERM"), "dumb") != 0);
    history(reader->history, &event, H_SETSIZE, HISTORY_LINES_MAX);
    history(reader->history, &event, H_SETUNIQUE, 1);
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_PROMPT_ESC, tell_prompt, '\1');
    el_set(reader->edit, EL_HIST, history, reader->history);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_wset(reader->edit, EL_ADDFN, L"tandem-paste", L"take what the terminal pastes", on_paste); // el_set leaks them
    el_wset(reader->edit, EL_ADDFN, L"tandem-complete", L"complete a command", on_tab);
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) el_set(reader->edit, EL_BIND, KEYS[i][0], KEYS[i][1], NULL);
    el_source(reader->edit, NULL); // what the user's ~/.editrc says wins
    el_set(reader->edit, EL_GETCFN, read_character);
    el_set(reader->edit, EL_SETTY, "-x", "eof=", NULL); // a Ctrl-D between two lines is for the next one to see
    const struct sigaction action = {.sa_handler = on_change, .sa_flags = SA_RESTART}; // libedit gives up its writes
    sigaction(SIGWINCH, &action, NULL);
    sigaction(SIGCONT, &action, NULL);
    return 0;
}

int line_open(struct line_reader **out, const char *(*complete)(const char *text, size_t bytes), struct error *error) {
    struct line_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return error_set_code(error, ERROR_MEMORY);
    reader->complete = complete;
    line_file_init(&reader->file, STDIN_FILENO);
    int code = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? open_edit(reader, error) : 0;
    if (code) {
        line_close(reader);
        return code;
    }
    *out = reader;
    return 0;
}

void line_close(struct line_reader *reader) {
    if (!reader) return;
    if (reader->edit) {
        signal(SIGWINCH, SIG_DFL);
        signal(SIGCONT, SIG_DFL);
        el_end(reader->edit);
    }
    if (reader->history) history_end(reader->history);
    free(reader->history_path);
    line_file_finish(&reader->file);
    free(reader);
}

bool line_edits(const struct line_reader *reader) {
    return reader->edit != NULL;
}

// ---- History

int line_keep_history(struct line_reader *reader, const char *path, struct error *error) {
    HistEvent event;
    struct stat file;
    if (!reader->edit) return 0;
    bool there = stat(path, &file) == 0 && (!S_ISREG(file.st_mode) || file.st_size > 0);
    if (history(reader->history, &event, H_LOAD, path) < 0 && there) // saving would overwrite it
        return error_set(error, ERROR_FORMAT, "%s is no history of lines, or can not be read", path);
    if (history(reader->history, &event, H_SAVE, path) < 0)
        return error_set(error, ERROR_IO, "%s can not be written: %s", path, strerror(errno));
    reader->history_path = strdup(path);
    return reader->history_path ? 0 : error_set_code(error, ERROR_MEMORY);
}

// After each line: a terminal that is closed leaves no time for it later.
static void remember(struct line_reader *reader, const char *line) {
    HistEvent event;
    if (!*line) return;
    history(reader->history, &event, H_ENTER, line);
    if (reader->history_path) history(reader->history, &event, H_SAVE, reader->history_path);
}

// ---- Reading

static enum line_result take_line(struct line_reader *reader, const char *line, int count, struct buffer *out,
                                  struct error *error) {
    size_t bytes = (size_t)count;
    if (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) bytes--;
    if (!buffer_append(out, line, bytes)) {
        error_set_code(error, ERROR_MEMORY);
        return LINE_FAILED;
    }
    remember(reader, out->data);
    return LINE_TEXT;
}

enum line_result line_read(struct line_reader *reader, const char *prompt, struct buffer *out, bool *empty,
                           struct error *error) {
    *empty = true;
    buffer_clear(out);
    if (!reader->edit) return line_file_read(&reader->file, out, error);
    reader->prompt = prompt;
    reader->interrupted = false;
    continued = 0;
    if (reader->brackets) fputs(BRACKETS_ON, stdout);
    int count = 0;
    const char *line = el_gets(reader->edit, &count);
    if (reader->brackets) fputs(BRACKETS_OFF, stdout);
    enum line_result result = LINE_END;
    *empty = reader->empty;
    if (reader->interrupted)
        result = LINE_INTERRUPTED;
    else if (line && count > 0)
        result = take_line(reader, line, count, out, error);
    if (result != LINE_TEXT) fputs("\n", stdout); // the cursor stands behind the prompt
    fflush(stdout);
    return result;
}
