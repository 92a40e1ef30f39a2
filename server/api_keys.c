#include "server/api_keys.h"

#include "base/checked.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char BLANKS[] = " \t\r";

// ---- Reading

static bool is_visible(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (text[i] <= ' ' || text[i] > '~' || text[i] == ',') return false;
    return true;
}

static int add(struct api_keys *keys, const char *text, size_t bytes, const char *place, struct error *error) {
    if (bytes > API_KEY_BYTES_MAX)
        return error_set(error, ERROR_ARGUMENT, "%s: a key has at most %d characters, this one has %zu", place,
                         API_KEY_BYTES_MAX, bytes);
    if (!is_visible(text, bytes))
        return error_set(error, ERROR_ARGUMENT,
                         "%s: a key is made of visible ASCII characters other than the comma; this one is not", place);
    if (keys->count == API_KEYS_MAX)
        return error_set(error, ERROR_ARGUMENT, "%s: there can be at most %d API keys, this is one more", place,
                         API_KEYS_MAX);
    size_t size;
    char(*more)[API_KEY_BYTES_MAX] = NULL;
    if (checked_mul(keys->count + 1, API_KEY_BYTES_MAX, &size)) more = realloc(keys->keys, size);
    if (!more) return error_set_code(error, ERROR_MEMORY);
    keys->keys = more;
    char *key = keys->keys[keys->count++];
    memset(key, 0, API_KEY_BYTES_MAX);
    memcpy(key, text, bytes);
    return 0;
}

// The text's parts between separators, without the blanks around them. `place` says which part is wrong.
static int add_all(struct api_keys *keys, const char *text, size_t bytes, char separator, const char *place,
                   struct error *error) {
    size_t before = keys->count, part = 0;
    for (const char *at = text, *end = text + bytes, *next; at < end; at = next + 1) {
        next = memchr(at, separator, (size_t)(end - at));
        if (!next) next = end;
        part++;
        const char *first = at, *last = next;
        while (first < last && memchr(BLANKS, *first, sizeof BLANKS - 1)) first++;
        while (last > first && memchr(BLANKS, last[-1], sizeof BLANKS - 1)) last--;
        if (first == last || (separator == '\n' && *first == '#')) continue;
        char where[ERROR_MESSAGE_BYTES];
        snprintf(where, sizeof where, "%s:%zu", place, part);
        int code = add(keys, first, (size_t)(last - first), where, error);
        if (code) return code;
    }
    if (keys->count > before) return 0;
    return error_set(error, ERROR_ARGUMENT, "%s: expected API keys, found none", place);
}

static int add_file(struct api_keys *keys, const char *path, struct error *error) {
    char *text;
    size_t bytes;
    int code = file_load_or_pipe(path, API_KEYS_FILE_BYTES_MAX, &text, &bytes, error);
    if (code) return code;
    code = add_all(keys, text, bytes, '\n', path, error);
    free(text);
    return code;
}

int api_keys_read(struct api_keys *out, const char *list, const char *source, const char *path, struct error *error) {
    *out = (struct api_keys){0};
    int code = 0;
    if (list && *list) code = add_all(out, list, strlen(list), ',', source, error);
    if (!code && path && *path) code = add_file(out, path, error);
    if (code) api_keys_finish(out);
    return code;
}

void api_keys_finish(struct api_keys *keys) {
    free(keys->keys);
    *keys = (struct api_keys){0};
}

// ---- Asking

// What stands behind "Bearer ", filled up with zeros. False: nothing that could be a key.
static bool read_bearer(const char *authorization, char out[API_KEY_BYTES_MAX]) {
    static const char scheme[] = "Bearer ";
    if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) return false;
    authorization += sizeof scheme - 1;
    authorization += strspn(authorization, " ");
    size_t bytes = strlen(authorization);
    while (bytes > 0 && (authorization[bytes - 1] == ' ' || authorization[bytes - 1] == '\t')) bytes--; // no part of it
    if (bytes == 0 || bytes > API_KEY_BYTES_MAX) return false;
    memset(out, 0, API_KEY_BYTES_MAX);
    memcpy(out, authorization, bytes);
    return true;
}

// Always looks at every byte: all the differences are wanted, and no compiler can know them before the last.
static bool is_same(const char a[API_KEY_BYTES_MAX], const char b[API_KEY_BYTES_MAX]) {
    unsigned differences = 0;
    for (size_t i = 0; i < API_KEY_BYTES_MAX; i++) differences |= (unsigned char)(a[i] ^ b[i]);
    __asm__ volatile("" : "+r"(differences)); // nor that only "any" or "none" counts
    return differences == 0;
}

static size_t find(const struct api_keys *keys, const char *authorization) {
    char given[API_KEY_BYTES_MAX];
    if (!keys || !read_bearer(authorization, given)) return 0;
    size_t found = 0;
    for (size_t i = 0; i < keys->count; i++) {
        size_t mask = -(size_t)is_same(given, keys->keys[i]);
        found = (found & ~mask) | ((i + 1) & mask);
    }
    return found;
}

bool api_keys_accept(const struct api_keys *keys, const char *authorization, size_t *which) {
    size_t found = find(keys, authorization);
    if (which) *which = found;
    return found != 0 || !keys || keys->count == 0;
}

const char *api_keys_why_not(const char *authorization) {
    static const char scheme[] = "Bearer";
    size_t bytes = authorization ? strcspn(authorization, " ") : 0;
    if (!authorization) return "this server wants an API key: `Authorization: Bearer KEY`";
    if (bytes != sizeof scheme - 1 || strncasecmp(authorization, scheme, bytes) != 0)
        return "the Authorization header has no API key; it has to be `Authorization: Bearer KEY`";
    if (!authorization[bytes + strspn(authorization + bytes, " ")])
        return "the API key is empty: nothing stands behind `Authorization: Bearer`";
    return "the API key is not one that this server knows";
}
