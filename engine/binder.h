// The binder: gives a checkpoint's tensors their place in a model. Each is found by name, its shape and type are
// checked, and it is bound straight into the mapped file where it is held as wished, or else converted once.
// Works in two turns, so that a checkpoint that does not fit costs no memory: while an architecture binds, only
// checks and reservations are made; binder_load then converts, and lets go of the pages it has read.
// One thread's, though binder_load shares its work among several; lives while a model is opened.
#ifndef ENGINE_BINDER_H
#define ENGINE_BINDER_H

#include "engine/checkpoints/checkpoint.h"
#include "engine/weights.h"

#include <stdbool.h>

struct binder;

// What stays behind the bound pointers; the model owns it.
struct model_storage {
    struct checkpoint checkpoint;
    unsigned char *memory; // conversions; NULL: there are none
    size_t memory_bytes;
    void *map; // what that memory lies in: taken from the system, or a cache file's
    size_t map_bytes;
};
void model_storage_finish(struct model_storage *storage); // takes one that is all zeros too

// Binds from storage->checkpoint, which must outlive the binder, with matrices held in `weights`.
int binder_create(struct binder **out, struct model_storage *storage, enum weight_format weights, struct error *error);
void binder_destroy(struct binder *binder); // takes NULL

// Where tensors go; what is bound must stay where it is until binder_load has given it its data. Names are written as
// with printf.
int binder_matrix(struct binder *binder, struct matrix *out, int rows, int columns, struct error *error,
                  const char *name, ...) __attribute__((format(printf, 6, 7)));
// The same for embeddings and heads, which are held at least in int8.
int binder_words(struct binder *binder, struct matrix *out, int rows, int columns, struct error *error,
                 const char *name, ...) __attribute__((format(printf, 6, 7)));
// Held in fp32, whatever the file's type. With columns 0, a vector of `rows`.
int binder_floats(struct binder *binder, const float **out, int rows, int columns, struct error *error,
                  const char *name, ...) __attribute__((format(printf, 6, 7)));
// `rows` rows from row `first` of part `part` of a stack of matrices: the tensor is [parts][part_rows][columns].
struct stack {
    int parts, part_rows, columns;
    int part, first, rows;
};
int binder_stacked(struct binder *binder, struct matrix *out, const struct stack *stack, struct error *error,
                   const char *name, ...) __attribute__((format(printf, 5, 6)));

bool binder_has(const struct binder *binder, const char *name, ...) __attribute__((format(printf, 2, 3)));

// Every tensor must have been bound; one that was not is an error that names it, unless its name ends in one of
// harmless (NULL-terminated): what may lie unused.
int binder_finish(const struct binder *binder, const char *const *harmless, struct error *error);

// How weights are loaded.
struct binder_loading {
    size_t memory_bytes;  // what conversions may take; 0: not known, and not checked
    int threads;          // including the caller's; less than 1 counts as 1
    double quiet_seconds; // progress is told only once loading has taken longer
    const char *cache;    // a file for conversions to int8 and int4, made where there is none yet; NULL: none
    void (*progress)(void *user, const char *what, double share); // by the caller's thread; may be NULL
    void *progress_user;
};

// Converts what has to be, and reads what stays mapped, so that the first answer need not wait for the disk. Threads
// end with it. ERROR_MEMORY: conversions need more than memory_bytes; then nothing has been written yet.
int binder_load(struct binder *binder, const struct binder_loading *loading, struct error *error);

// What became of the cache, in a line for a person; "" without one. Lives as long as the binder.
const char *binder_cache_note(const struct binder *binder);
bool binder_cache_lost(const struct binder *binder); // it could not be written

uint64_t binder_parameters(const struct binder *binder); // elements bound
size_t binder_bytes_as(const struct binder *binder, enum weight_format format); // the next one's, in another format
size_t binder_bytes(const struct binder *binder);        // held for them, mapped or converted
size_t binder_converted_bytes(const struct binder *binder); // those of them that are memory of our own

#endif
