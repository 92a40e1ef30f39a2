#include "api/openapi.h"

#include "api/json.h"
#include "api/reply.h"
#include "api/schema.h"

#include <string.h>

extern const char OPENAPI_TEMPLATE[]; // api/openapi.yaml; tools/embed.py makes it

static void write_version(int indent, struct buffer *out) {
    buffer_format(out, "%*s", indent, "");
    json_write_text(out, TANDEM_VERSION);
    buffer_text(out, "\n");
}

static void write_chat(int indent, struct buffer *out) {
    schema_openapi(FOR_CHAT, indent, out);
}

static void write_completion(int indent, struct buffer *out) {
    schema_openapi(FOR_COMPLETION, indent, out);
}

static void write_error(int indent, struct buffer *out) {
    buffer_format(out, "%*s", indent, "");
    api_error_schema(out);
    buffer_text(out, "\n");
}

static const struct part {
    const char *name;
    void (*write)(int indent, struct buffer *out); // whole lines
} PARTS[] = {
    {"{{version}}", write_version},
    {"{{chat request}}", write_chat},
    {"{{completion request}}", write_completion},
    {"{{error}}", write_error},
};

static const struct part *find(const char *text, size_t bytes) {
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        if (strlen(PARTS[i].name) == bytes && memcmp(PARTS[i].name, text, bytes) == 0) return &PARTS[i];
    return NULL;
}

void openapi_write(struct buffer *out) {
    for (const char *line = strstr(OPENAPI_TEMPLATE, "openapi:"), *end; *line; line = end) { // behind its own remarks
        end = line + strcspn(line, "\n");
        int indent = (int)strspn(line, " ");
        const struct part *part = find(line + indent, (size_t)(end - line - indent));
        end += *end == '\n';
        if (part)
            part->write(indent, out);
        else
            buffer_append(out, line, (size_t)(end - line));
    }
}
