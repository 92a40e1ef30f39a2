#include "cli/command.h"

#include <stdio.h>

static int run(int count, char **arguments) {
    if (count > 0) {
        fprintf(stderr, "tandem version: `%.60s` is one argument too many\n", arguments[0]);
        return EXIT_USAGE;
    }
    printf("tandem %s\n", TANDEM_VERSION);
    return 0;
}

static void help(struct buffer *out) {
    buffer_text(out, "Usage: tandem version\n");
}

const struct command version_command = {"version", "print the version", run, help};
