// The contract of a model family: which keys its config has, which tensors its files hold and under which
// names, and in which order its layers call the stages. One file a family, one row in architectures.c.
#ifndef ENGINE_ARCHITECTURES_ARCHITECTURE_H
#define ENGINE_ARCHITECTURES_ARCHITECTURE_H

#include "engine/model.h"

#include <jansson.h>

struct binder; // finds, checks and converts tensors; engine/binder.h

struct architecture {
    const char *name; // config.json's model_type
    // Reads config.json (json; path is for messages) into config: shapes first, so that a model can be described whose
    // variant is not supported. Everything is checked for its range here.
    int (*read_config)(const json_t *json, const char *path, struct model_config *config, struct error *error);
    // The rest of it, which makes a variant of the family: ERROR_UNSUPPORTED for one that is not implemented.
    int (*read_variant)(const json_t *json, const char *path, struct model_config *config, struct error *error);
    // Binds every tensor of the model through the binder.
    int (*bind)(struct model *model, struct binder *binder, struct error *error);
    // The forward pass over one batch: embeds, runs all layers, final norm and head for the wanted rows. False: broken
    // off, as engine/forward.h says of forward_run, which calls it.
    bool (*forward)(struct forward *forward, const struct batch *batch, const struct kv_cache *cache, float *logits);
};

extern const struct architecture phimoe_architecture;

// The family that a model_type names; NULL for one that is unknown. *known gets a list for the message.
const struct architecture *architecture_find(const char *model_type, const char **known);

#endif
