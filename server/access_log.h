// The log's line about a request that has ended, or about a connection that never came to one. Any thread.
#ifndef SERVER_ACCESS_LOG_H
#define SERVER_ACCESS_LOG_H

#include "api/generation.h"
#include "server/log.h"

// What is known of it. NULL and "": that is not.
struct access {
    const char *refusal; // why the connection was turned away before there was a request
    const char *method, *target;
    const char *route; // the path of the endpoint that it reached
    const char *request_id;
    const char *client;        // its address
    int status;                // answered, or 499
    const char *cause, *param; // the error that the answer tells of, by its code there, and the field at fault
    const char *failed;        // why the answer did not come out whole
    double seconds;
    const char *generation_id;
    const struct generation_summary *summary; // of a chat or completion that was begun; NULL: none was
};
void access_log(enum log_level level, const struct access *access);

#endif
