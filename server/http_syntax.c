#include "server/http_syntax.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { BAD_REQUEST = 400, TOO_LARGE = 413, HEADERS_TOO_LARGE = 431, VERSION_UNSUPPORTED = 505, METHOD_BYTES_MAX = 20 };

static int refuse(struct error *error, int status, const char *message) {
    error_set(error, status == TOO_LARGE ? ERROR_TOO_LARGE : ERROR_HEADERS, "%s", message);
    return status;
}

int http_header_too_large(struct error *error) {
    error_set(error, ERROR_HEADERS, "the request's header is larger than %d KiB", HTTP_HEADER_BYTES_MAX / 1024);
    return HEADERS_TOO_LARGE;
}

static bool is_token(char c) { // RFC 9110, 5.6.2
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static bool all_tokens(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (!is_token(text[i])) return false;
    return bytes > 0;
}

static bool all_text(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
    }
    return true;
}

static bool is(const char *text, size_t bytes, const char *word) {
    return bytes == strlen(word) && strncasecmp(text, word, bytes) == 0;
}

static int content_length(struct http_facts *facts, const char *value, size_t bytes, struct error *error) {
    if (facts->lengths++ > 0) return refuse(error, BAD_REQUEST, "the request has more than one Content-Length header");
    if (bytes == 0) return refuse(error, BAD_REQUEST, "the Content-Length header is not a whole number");
    for (size_t i = 0; i < bytes; i++) {
        if (value[i] < '0' || value[i] > '9')
            return refuse(error, BAD_REQUEST, "the Content-Length header is not a whole number");
        uint64_t digit = (uint64_t)(value[i] - '0');
        if (facts->content_length > (INT64_MAX - digit) / 10)
            return refuse(error, TOO_LARGE, "the Content-Length header announces more than any server can take");
        facts->content_length = facts->content_length * 10 + digit;
    }
    return 0;
}

int http_facts_line(struct http_facts *facts, const char *name, size_t name_bytes, const char *value,
                    size_t value_bytes, struct error *error) {
    if (!all_tokens(name, name_bytes))
        return refuse(error, BAD_REQUEST, "a header line does not begin with a valid name and a colon");
    if (!all_text(value, value_bytes)) return refuse(error, BAD_REQUEST, "a header value holds a control character");
    facts->parts++;
    if (is(name, name_bytes, "cookie"))
        for (size_t i = 0; i < value_bytes; i++) facts->parts += value[i] == ';' || value[i] == ',';
    if (facts->parts > HTTP_HEADER_PARTS_MAX)
        return refuse(error, HEADERS_TOO_LARGE, "the request has too many header lines, cookies or query arguments");

    if (is(name, name_bytes, "content-length")) return content_length(facts, value, value_bytes, error);
    if (is(name, name_bytes, "transfer-encoding")) {
        if (facts->encodings++ > 0 || !is(value, value_bytes, "chunked"))
            return refuse(error, BAD_REQUEST, "the only Transfer-Encoding accepted is a single `chunked`");
    } else if (is(name, name_bytes, "host")) {
        if (facts->hosts++ > 0) return refuse(error, BAD_REQUEST, "the request has more than one Host header");
        facts->host = value;
        facts->host_bytes = value_bytes;
    }
    return 0;
}

int http_facts_end(const struct http_facts *facts, bool http_1_0, struct error *error) {
    if (facts->encodings && facts->lengths)
        return refuse(error, BAD_REQUEST, "the request has both a Content-Length and a Transfer-Encoding header");
    if (facts->encodings && http_1_0)
        return refuse(error, BAD_REQUEST, "an HTTP/1.0 request can not have a Transfer-Encoding header");
    if (!facts->hosts && !http_1_0) return refuse(error, BAD_REQUEST, "the request has no Host header");
    return 0;
}

// "GET /path HTTP/1.1", one space each.
static int request_line(const char *line, size_t bytes, struct http_facts *facts, bool *http_1_0, struct error *error) {
    static const char malformed[] = "the request line is not of the form `METHOD /path HTTP/1.1`";
    const char *end = line + bytes;
    const char *target = memchr(line, ' ', bytes);
    if (!target || target - line > METHOD_BYTES_MAX || !all_tokens(line, (size_t)(target - line)))
        return refuse(error, BAD_REQUEST, malformed);
    target++;
    const char *version = memchr(target, ' ', (size_t)(end - target));
    if (!version || version == target) return refuse(error, BAD_REQUEST, malformed);
    for (const char *c = target; c < version; c++) {
        if (*c <= 0x20 || *c >= 0x7f) return refuse(error, BAD_REQUEST, malformed); // char may be signed: both sides
        facts->parts += *c == '&';
    }
    version++;
    if (end - version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.')
        return refuse(error, BAD_REQUEST, malformed);
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1'))
        return refuse(error, VERSION_UNSUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    *http_1_0 = version[7] == '0';
    return 0;
}

static int header_line(const char *line, size_t bytes, struct http_facts *facts, struct error *error) {
    const char *colon = memchr(line, ':', bytes);
    if (!colon) return refuse(error, BAD_REQUEST, "a header line does not begin with a valid name and a colon");
    const char *value = colon + 1, *end = line + bytes;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
    return http_facts_line(facts, line, (size_t)(colon - line), value, (size_t)(end - value), error);
}

static int refuse_chunks(struct error *error) {
    error_set_code(error, ERROR_CHUNKS);
    return BAD_REQUEST;
}

// Header lines behind the last chunk: as far as they are there.
static int trailer(const char *text, const char *end, struct error *error) {
    struct http_facts facts = {0};
    for (const char *newline; text < end && (newline = memchr(text, '\n', (size_t)(end - text))); text = newline + 1) {
        if (newline == text || newline[-1] != '\r')
            return refuse(error, BAD_REQUEST, "the trailer's lines must end in CR LF");
        if (newline - text == 1) return 0;
        int status = header_line(text, (size_t)(newline - 1 - text), &facts, error);
        if (status) return status;
    }
    return 0;
}

// What is there of a body in chunks: sizes in hexadecimal, with CR LF behind them and behind the data.
static int chunks(const char *text, const char *end, struct error *error) {
    enum { DIGITS_MAX = 8, EXTENSION_BYTES_MAX = 256 };
    for (;;) {
        size_t size = 0, digits = 0;
        for (; text < end && isxdigit((unsigned char)*text); text++, digits++)
            size = size * 16 + (size_t)(isdigit((unsigned char)*text) ? *text - '0' : (*text & ~0x20) - 'A' + 10);
        if (digits > DIGITS_MAX)
            return refuse(error, TOO_LARGE, "a chunk of the body is larger than any server can take");
        if (text == end) return 0;
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *last = newline ? newline - 1 : end;
        if (digits == 0 || (*text != '\r' && *text != ';') || last - text > EXTENSION_BYTES_MAX ||
            (newline && *last != '\r'))
            return refuse_chunks(error);
        if (!newline) return 0;
        text = newline + 1;
        if (size == 0) return trailer(text, end, error);
        if ((size_t)(end - text) <= size) return 0;
        text += size;
        if (*text != '\r' || (text + 1 < end && text[1] != '\n')) return refuse_chunks(error);
        if (end - text <= 2) return 0;
        text += 2;
    }
}

// The whole header, up to and with its empty line, and a look at what follows it.
static int check(const char *text, const char *end, const char *all, struct http_facts *out, struct error *error) {
    struct http_facts facts = {0};
    bool first = true, http_1_0 = false;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        if (newline == text || newline[-1] != '\r')
            return refuse(error, BAD_REQUEST, "the header's lines must end in CR LF");
        size_t bytes = (size_t)(newline - 1 - text);
        int status = 0;
        if (first)
            status = request_line(text, bytes, &facts, &http_1_0, error);
        else if (bytes > 0)
            status = header_line(text, bytes, &facts, error);
        if (status) return status;
        first = false;
        text = newline + 1;
    }
    int status = http_facts_end(&facts, http_1_0, error);
    if (!status && facts.encodings) status = chunks(end, all, error);
    *out = facts;
    return status ? status : 200;
}

// Behind the first empty line, or NULL. A line may end in LF alone here: check() names that mistake.
static const char *header_end(const char *text, size_t from, size_t bytes) {
    for (const char *at = text + from, *end = text + bytes; (at = memchr(at, '\n', (size_t)(end - at))); at++) {
        if (at + 1 < end && at[1] == '\n') return at + 2;
        if (at + 2 < end && at[1] == '\r' && at[2] == '\n') return at + 3;
    }
    return NULL;
}

// The first request; when its header is in order, also where that ends, and what it says.
static int first_request(const char *text, size_t bytes, size_t known, size_t *header_bytes, struct http_facts *facts,
                         struct error *error) {
    size_t skip = 0; // an empty line before the request is allowed
    if (bytes >= 2 && memcmp(text, "\r\n", 2) == 0)
        skip = 2;
    else if (bytes == 1 && text[0] == '\r')
        return 0;
    if (bytes > skip && !is_token(text[skip]))
        return refuse(error, BAD_REQUEST, "this is not an HTTP request (is it HTTPS? this port speaks plain HTTP)");

    size_t from = known > skip + 2 ? known - 2 : skip; // the empty line may have begun in what was seen before
    const char *end = header_end(text, from, bytes);
    if (end ? (size_t)(end - text) > HTTP_HEADER_BYTES_MAX : bytes >= HTTP_HEADER_BYTES_MAX)
        return http_header_too_large(error);
    if (!end) return 0;
    *header_bytes = (size_t)(end - text);
    return check(text + skip, end, text + bytes, facts, error);
}

int http_syntax_check(const char *text, size_t bytes, size_t known, struct error *error) {
    size_t header_bytes;
    struct http_facts facts;
    return first_request(text, bytes, known, &header_bytes, &facts, error);
}

int http_syntax_vet(const char *text, size_t bytes, size_t known, struct http_vetted *out, struct error *error) {
    *out = (struct http_vetted){0};
    struct error ignored;
    for (size_t at = 0; at < bytes;) {
        size_t header_bytes;
        struct http_facts facts;
        bool first = at == 0;
        int status =
            first_request(text + at, bytes - at, first ? known : 0, &header_bytes, &facts, first ? error : &ignored);
        if (status != 200) {
            if (first) return status;
            out->more_follows = true;
            break;
        }
        out->requests++;
        out->bytes += header_bytes;
        at += header_bytes;
        if (facts.encodings) break; // its end is not told
        if (facts.content_length > UINT64_MAX - out->bytes) break;
        out->bytes += facts.content_length;
        if (facts.content_length >= bytes - at) break;
        at += (size_t)facts.content_length;
    }
    return 200;
}
