// The whole API as an OpenAPI 3.1 document: api/openapi.yaml with what the tables of fields and errors know put in.
// Pure; any thread.
#ifndef API_OPENAPI_H
#define API_OPENAPI_H

#include "base/buffer.h"

enum { OPENAPI_BYTES_MAX = 256 * 1024 };

void openapi_write(struct buffer *out);

#endif
