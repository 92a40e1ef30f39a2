#include "cli/config_file.h"

#include "base/settings_file.h"
#include "cli/place.h"

#include <stdio.h>
#include <string.h>

const struct setting CONFIG_FILE_SETTINGS[] = {
    {NULL, "--config", "TANDEM_CONFIG", SETTING_PATH, 0, 0, 0, NULL, "", "",
     "a YAML file of settings, or none; without it the one that came with the program"},
    {.flag = NULL},
};

static void find(const char *named, char path[CONFIG_FILE_PATH_BYTES]) {
    static const char *const places[] = {"../configs", "../../../configs", TANDEM_CONFIG_DIR};
    char place[PATH_MAX];
    path[0] = '\0';
    if (named[0])
        snprintf(path, CONFIG_FILE_PATH_BYTES, "%s", strcmp(named, "none") == 0 ? "" : named);
    else if (place_find(place, places, sizeof places / sizeof *places, CONFIG_FILE_NAME))
        snprintf(path, CONFIG_FILE_PATH_BYTES, "%s/" CONFIG_FILE_NAME, place);
}

int config_file_read(const struct command *command, const struct setting_table *tables, size_t table_count,
                     const char *named, int count, char *const *arguments, char path[CONFIG_FILE_PATH_BYTES]) {
    struct error error = {0};
    find(named, path);
    if (!path[0]) return 0;
    if (settings_read_file(tables, table_count, path, &error) ||
        settings_read_environment(command->tables, command->table_count, &error) ||
        settings_read_flags(command->tables, command->table_count, count, arguments, NULL, &error))
        return command_misused(command, &error);
    return 0;
}
