// Keeps time stage by stage: stages that pass every call on to others, and note how long it took, what it had to read
// and to compute. The results are theirs, to the bit. The engine thread's.
#ifndef ENGINE_PROFILE_H
#define ENGINE_PROFILE_H

#include "engine/stages.h"
#include "engine/trace.h"

struct profile;

// The state of profile_stages, around stages that are open already and stay the caller's, as does the trace that spans
// are written to; NULL: none.
int profile_create(struct profile **out, const struct stages *inner, void *inner_state,
                   const struct stage_limits *limits, struct trace *trace, struct error *error);
void profile_destroy(struct profile *profile); // takes NULL
extern const struct stages profile_stages;     // without open and close: see above

// Around a forward pass. One that was not `whole` but broken off is forgotten.
void profile_begin(struct profile *profile, const struct batch *batch);
void profile_end(struct profile *profile, bool whole);

// The step that has just ended after so many seconds: all that happened since the last call. NULL: no forward pass did.
// Lives until the next call of any kind.
const struct engine_step *profile_step(struct profile *profile, double seconds, bool prefill, int answers);

#endif
