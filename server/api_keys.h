// The API keys, one of which a request must have where there are any. Read once, before the server starts, and not
// changed after that: any thread may ask.
#ifndef SERVER_API_KEYS_H
#define SERVER_API_KEYS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

enum { API_KEY_BYTES_MAX = 256, API_KEYS_MAX = 1000, API_KEYS_FILE_BYTES_MAX = 1 << 20 };

struct api_keys {                    // embedded; starts as zeros: no keys, everybody is let in
    char (*keys)[API_KEY_BYTES_MAX]; // [count], each filled up with zeros
    size_t count;
};

// Takes those of a list, with commas between them, and those of a file, one a line, where empty lines and those that
// begin with # do not count. "" or NULL: there is no list, no file. One that is there and holds no key is an error.
// What is wrong is told by its place, for the list its source ("TANDEM_API_KEY") and number; no message repeats a key.
int api_keys_read(struct api_keys *out, const char *list, const char *source, const char *path, struct error *error);
void api_keys_finish(struct api_keys *keys);

// Whether the value of an Authorization header (NULL: there is none) is "Bearer" and one of the keys, or there are no
// keys at all. *which (NULL: nobody asks) says which of them, from 1 (the last of those that are the same); 0: none.
// How long that takes depends on the number of keys and the length of what was sent, not on how much of a key it got
// right.
bool api_keys_accept(const struct api_keys *keys, const char *authorization, size_t *which);
// What to tell whom that has not let in.
const char *api_keys_why_not(const char *authorization);

#endif
