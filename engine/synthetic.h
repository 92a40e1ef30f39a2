// Models of random weights, made in memory: what to measure a machine with before a download. Weights are spread evenly
// around 0 and scaled as those of a fresh model, so the router sends tokens to all experts alike. A large tensor
// repeats pieces of its first numbers in a random order: nothing that is measured can tell, and it is made as fast as
// copied. Any number of threads makes the same weights. The opening thread's.
#ifndef ENGINE_SYNTHETIC_H
#define ENGINE_SYNTHETIC_H

#include "engine/checkpoints/checkpoint.h"
#include "engine/model.h"

// The shape that a row of SYNTHETIC_MODELS names. ERROR_ARGUMENT for another name.
int synthetic_config(const char *name, const struct architecture **architecture, struct model_config *out,
                     struct error *error);

// A checkpoint of that shape, its tensors of the types that options->weights needs without conversion wherever that
// can be. ERROR_MEMORY, with both amounts, where less is free; nothing has been written then.
int synthetic_checkpoint(struct checkpoint *out, const struct model_config *config, const struct model_options *options,
                         struct error *error);

#endif
