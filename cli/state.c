#include "cli/state.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>

bool state_path(char out[PATH_MAX], const char *name) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int bytes = -1;
    if (state && state[0] == '/') // others do not count, says the XDG Base Directory Specification
        bytes = snprintf(out, PATH_MAX, "%s/tandem/%s", state, name);
    else if (home && home[0] == '/')
        bytes = snprintf(out, PATH_MAX, "%s/.local/state/tandem/%s", home, name);
    if (bytes < 0 || bytes >= PATH_MAX) return false;
    file_make_directories(out);
    return true;
}
