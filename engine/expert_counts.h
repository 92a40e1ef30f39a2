// How often the router has chosen which experts: a number for each layer and each pair, the row's first choice and its
// second, for answers and for prompts. All else follows from these: rows of an expert, who is chosen with whom, how
// even the load is. A step that is broken off has counted in the layers that it ran. One thread adds, without a lock;
// any may read meanwhile, and sees each number as it was a moment ago.
#ifndef ENGINE_EXPERT_COUNTS_H
#define ENGINE_EXPERT_COUNTS_H

#include "engine/stages.h"

struct expert_counts;

enum { EXPERT_COUNTS_EXPERTS_MAX = 256 }; // of a layer; with more nothing is counted

int expert_counts_create(struct expert_counts **out, int layers, int experts, struct error *error);
void expert_counts_destroy(struct expert_counts *counts); // takes NULL

void expert_counts_add(struct expert_counts *counts, enum engine_rows rows, int layer, const struct routing *routing);

// A copy; see engine_choices, which this is.
int expert_counts_copy(const struct expert_counts *counts, struct engine_choices *out, struct error *error);
void expert_counts_balance(const struct expert_counts *counts, struct engine_balance *out);

#endif
