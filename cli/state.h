// Where a program may keep what it remembers from one run to the next.
#ifndef CLI_STATE_H
#define CLI_STATE_H

#include <limits.h>
#include <stdbool.h>

// $XDG_STATE_HOME/tandem/NAME, or else ~/.local/state/tandem/NAME; the directories are made, for this user alone, as
// far as they can be. False where neither place is known.
bool state_path(char out[PATH_MAX], const char *name);

#endif
