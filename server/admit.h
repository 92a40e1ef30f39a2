// Who may ask, and which endpoint answers: what is decided of an exchange when its headers are there, before its body
// comes. Keeps nothing. Loop thread.
#ifndef SERVER_ADMIT_H
#define SERVER_ADMIT_H

#include "server/http.h"
#include "server/route.h"

struct api_keys;

struct admit_rules {
    const struct api_keys *keys;
    const char *local_host; // where only this machine can reach the server: the bound name; otherwise NULL
    bool shutting_down;     // nothing new is generated
};

// 0, with the route and *key: the number of the API key that the exchange came with, 0 where it has none or needs none.
// The exchange's endpoint is set as soon as it is known, also where it is refused after that. ERROR_METHOD fills
// route->allow.
int admit(const struct admit_rules *rules, struct exchange *exchange, struct route *route, size_t *key,
          struct error *error);

#endif
