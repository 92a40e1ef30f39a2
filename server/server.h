// The server: one engine behind one address. Created, run and destroyed by one thread, which becomes the loop
// thread while server_run lasts.
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "engine/engine.h"
#include "server/api_keys.h"
#include "server/config.h"
#include "server/listener_socket.h"

struct server;

// The keys (NULL: none) and the engine stay the caller's and must outlive the server; the socket's descriptor and
// file are taken over.
int server_create(struct server **out, const struct config *config, const struct listener_socket *socket,
                  const struct api_keys *keys, struct engine *engine, struct error *error);
void server_destroy(struct server *server); // takes NULL

// From now on SIGINT and SIGTERM stop the server; a second one ends the process at once, with 128 + its number as exit
// code. ERROR_MEMORY.
int server_watch_signals(struct server *server, struct error *error);

// Serves until it is stopped, then lets running requests end (config.drain_seconds).
void server_run(struct server *server);
void server_stop(struct server *server); // any thread, any number of times

#endif
