// What a stage has to read from memory at least: weights, keys and values. Pure.
#ifndef ENGINE_STAGE_BYTES_H
#define ENGINE_STAGE_BYTES_H

#include "engine/stages.h"

double stage_bytes_matrix(const struct matrix *matrix);
double stage_bytes_expert(const struct expert *expert);

// Keys that the rows of a batch see, each row its own, and those that have to be read, once for all rows of a sequence.
struct stage_keys {
    double seen, read;
};
struct stage_keys stage_keys(const struct attention *attention, const struct batch *batch);
double stage_bytes_keys(const struct attention *attention, const struct kv_cache *cache, double keys); // and values

// How many of a layer's experts so many rows choose, if all are as likely.
double stage_experts_chosen(const struct router *router, int rows);

#endif
