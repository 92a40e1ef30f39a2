// What the one loaded model may be called. Pure; any thread.
#ifndef API_MODEL_NAMES_H
#define API_MODEL_NAMES_H

#include "engine/engine.h"

// 0, or ERROR_MODEL_NOT_FOUND with the names there are.
int model_names_check(const struct engine_info *info, const char *name, struct error *error);

#endif
