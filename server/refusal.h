// An error answered straight on a socket, where the HTTP library has no say yet or no longer takes an answer.
#ifndef SERVER_REFUSAL_H
#define SERVER_REFUSAL_H

#include "base/error.h"

// One whole HTTP/1.1 response with the JSON error object, and `Connection: close`. Never waits: a client whose
// buffers are full has to do without.
void refusal_send(int fd, int status, const char *request_id, const struct error *error);

#endif
