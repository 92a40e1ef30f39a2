// JSON: a request's body read within bounds, and answers written straight into a buffer. Pure; any thread.
#ifndef API_JSON_H
#define API_JSON_H

#include "base/buffer.h"
#include "base/error.h"

#include <jansson.h>

// What a body may hold. They bound the parser's stack and the memory of the tree (some 50 MB at the worst) before
// either is spent; the server bounds the bytes.
enum { JSON_DEPTH_MAX = 64, JSON_CONTAINERS_MAX = 32 * 1024, JSON_VALUES_MAX = 512 * 1024 };

// A body's or a file's object, for json_decref; `what` is "The body" or what else messages call it, at the beginning of
// a sentence. NULL (and ERROR_ARGUMENT) for everything else: bad syntax, broken UTF-8, lone
// surrogates, NUL characters, keys given twice, numbers beyond 64 bits, or more than the bounds above.
json_t *json_read(const char *what, const char *body, size_t bytes, struct error *error);

// A string with its quotes. What is not valid UTF-8 becomes U+FFFD.
void json_write_string(struct buffer *out, const char *text, size_t bytes);
void json_write_text(struct buffer *out, const char *text); // the same, up to the NUL

#endif
