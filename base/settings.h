// Settings. A table says all there is to know of each: its name in a file, its flag, its environment variable, its type
// and range, its default, its words in help. Reading a file, the environment and flags, and all documentation of them,
// come from it. Tables are constants of the module whose settings they are; a command puts those it takes in an array.
// Everything here belongs to the thread that starts the program.
#ifndef BASE_SETTINGS_H
#define BASE_SETTINGS_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

enum setting_type {
    SETTING_TEXT,    // char *, an owned copy
    SETTING_TEXTS,   // struct setting_texts: one more each time it is given, `most` of them at most; not in files
    SETTING_LIST,    // struct setting_sourced: several with commas between; a file may have a list of them. most 1: or of
                     // such lists by name, "0-3:0-7;4:2,5"; a file may have a section of them, 4: [2, 5]
    SETTING_SECRET,  // struct setting_sourced; no message repeats it
    SETTING_CHOICE,  // char *, one of the row's choices
    SETTING_INT,     // int
    SETTING_SIZE,    // size_t; "64K"
    SETTING_SECONDS, // double; "1.5", "1.5s"
    SETTING_NUMBER,  // double
    SETTING_SWITCH,  // bool; its flag alone means true
    SETTING_PATH,    // char *, an owned copy; ~/ is the home directory. In a file it is relative to where that lies
};

struct setting_texts {
    char **items; // [count], owned copies
    size_t count;
};

struct setting_sourced { // owned copies
    char *text;
    char *source; // where it comes from ("TANDEM_API_KEY"), for those who find out later what is wrong with it
};

struct setting {
    const char *name;        // "server.port": section and key of a file; with two points, a section in a section,
                             // whose rows stand behind the first one of that; NULL: not in files
    const char *flag;        // "--port"; NULL: no setting, but the end of the rows
    const char *environment; // "TANDEM_PORT"; NULL: none
    enum setting_type type;
    size_t offset;        // of its member in the table's target
    double least, most;   // numbers; of a text, least 1: its variable is empty by mistake, and does not mean unset
    const char *choices;  // SETTING_CHOICE: "f32 bf16"
    const char *fallback; // the default, as a user would write it; "" for a text, and only there: none
    const char *unit;     // "seconds", "bytes", "": what the number counts
    const char *help;
};

struct setting_table {
    const struct setting *rows; // up to one without a flag
    void *target;               // the struct that the rows' offsets are into
};

// The section of a file that a row is in: the first bytes of its name, up to the last point; 0: it is not in files.
size_t setting_section_bytes(const struct setting *setting);

// Sets every member of the target to its default. What it held before is lost.
int settings_init(const struct setting_table *table, struct error *error);
// Frees the texts. A target that is all zero, or whose init failed, may be finished too.
void settings_finish(const struct setting_table *table);

// Sets one. `source` says where the text comes from ("--port", "TANDEM_PORT", a file and line) for the message.
int settings_set(const struct setting_table *table, const struct setting *setting, const char *text, const char *source,
                 struct error *error);

// Variables that are empty count as unset, but for texts whose row forbids it.
int settings_read_environment(const struct setting_table *tables, size_t table_count, struct error *error);

// "--flag value", "--flag=value", and for a switch "--flag". The one argument that is no flag goes to *operand, which
// is left alone where there is none; it lives as long as the arguments. Behind "--" nothing is a flag. operand is NULL
// for a command that takes flags only. The param of an error is the flag that there is not, if that is what is wrong.
int settings_read_flags(const struct setting_table *tables, size_t table_count, int count, char *const *arguments,
                        const char **operand, struct error *error);

// The tables as text, in sections, for a terminal of WRAP_COLUMNS. False when out of memory.
bool settings_help(const struct setting_table *tables, size_t table_count, struct buffer *out);

// A file for base/settings_file.h with every setting that files may have, at its default, its words, range, flag and
// variable above it. False when out of memory.
bool settings_yaml(const struct setting_table *tables, size_t table_count, struct buffer *out);

// The tables for a man page. False when out of memory.
bool settings_roff(const struct setting_table *tables, size_t table_count, struct buffer *out);

#endif
