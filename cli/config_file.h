// The settings file of the commands that start or ask a server.
#ifndef CLI_CONFIG_FILE_H
#define CLI_CONFIG_FILE_H

#include "cli/command.h"

#include <limits.h>

#define CONFIG_FILE_NAME "tandem.yaml"
enum { CONFIG_FILE_PATH_BYTES = PATH_MAX + sizeof CONFIG_FILE_NAME };

// --config alone; its target is a char *.
extern const struct setting CONFIG_FILE_SETTINGS[];

// Reads the file that `named` names, or for "" the one in the checkout or installation that the program is in ("none":
// no file), into `tables`; then environment and flags once more into the command's tables, for they win over it. The
// file's path goes to `path`, "" where none was read. Returns 0, or the exit code of what is wrong, which has been
// said.
int config_file_read(const struct command *command, const struct setting_table *tables, size_t table_count,
                     const char *named, int count, char *const *arguments, char path[CONFIG_FILE_PATH_BYTES]);

#endif
