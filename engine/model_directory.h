// Whether a path can be a model's directory at all, and what people name by mistake. Any thread.
#ifndef ENGINE_MODEL_DIRECTORY_H
#define ENGINE_MODEL_DIRECTORY_H

#include "base/error.h"

// 0 where it is a directory with a config.json. The error says what it is instead, by its whole path, and what to do.
int model_directory_check(const char *dir, struct error *error);

#endif
