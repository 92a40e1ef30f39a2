#include "engine/model_directory.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPECTED \
    "expected a directory that holds config.json, tokenizer.json and *.safetensors, as downloaded from Hugging Face"

// As it is called from everywhere: somebody else may have chosen the directory that it is relative to.
static void whole_path(const char *dir, char out[2 * PATH_MAX]) {
    char here[PATH_MAX];
    if (dir[0] == '/' || !getcwd(here, sizeof here))
        snprintf(out, 2 * PATH_MAX, "%s", dir);
    else
        snprintf(out, 2 * PATH_MAX, "%s/%s", here, dir);
}

// "owner/name": what a model is called on Hugging Face.
static bool is_hub_name(const char *dir) {
    const char *slash = strchr(dir, '/');
    return slash && slash > dir && slash[1] && !strchr(slash + 1, '/') && dir[0] != '.' && dir[0] != '~';
}

static int nothing_there(const char *dir, const char *path, struct error *error) {
    if (is_hub_name(dir))
        return error_set(error, ERROR_NOT_FOUND,
                         "%s: there is no such directory; a model of Hugging Face has to be downloaded first: "
                         "hf download %s --local-dir %s",
                         path, dir, strchr(dir, '/') + 1);
    return error_set(error, ERROR_NOT_FOUND, "%s: there is no such directory; " EXPECTED, path);
}

static bool has_gguf(const char *dir) {
    bool found = false;
    DIR *entries = opendir(dir);
    for (struct dirent *entry; entries && !found && (entry = readdir(entries));) {
        size_t bytes = strlen(entry->d_name);
        found = bytes > 5 && strcmp(entry->d_name + bytes - 5, ".gguf") == 0;
    }
    if (entries) closedir(entries);
    return found;
}

int model_directory_check(const char *dir, struct error *error) {
    struct stat status;
    char path[2 * PATH_MAX], config[2 * PATH_MAX + 16];
    whole_path(dir, path);
    if (stat(dir, &status) != 0)
        return errno == ENOENT ? nothing_there(dir, path, error)
                               : error_set(error, ERROR_IO, "%s: can not be examined: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode)) return error_set(error, ERROR_NOT_FOUND, "%s: is a file; " EXPECTED, path);
    snprintf(config, sizeof config, "%s/config.json", dir);
    if (access(config, F_OK) == 0 || errno != ENOENT) return 0; // whatever else is wrong shows when it is read
    return error_set(error, ERROR_NOT_FOUND, "%s: %s; " EXPECTED, path,
                     has_gguf(dir) ? "holds GGUF files, which are not read" : "holds no config.json");
}
