// The list of model families: one row each.
#include "engine/architectures/architecture.h"

#include <string.h>

#define ARCHITECTURES(X) X(phimoe)

#define ARCHITECTURE_ROW(name) &name##_architecture,
static const struct architecture *const ALL[] = {ARCHITECTURES(ARCHITECTURE_ROW)};

#define ARCHITECTURE_NAME(name) " " #name
static const char KNOWN[] = ARCHITECTURES(ARCHITECTURE_NAME);

const struct architecture *architecture_find(const char *model_type, const char **known) {
    *known = KNOWN + 1; // without the first blank
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        if (strcmp(ALL[i]->name, model_type) == 0) return ALL[i];
    return NULL;
}
