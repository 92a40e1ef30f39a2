// Who asks, as a number: where requests bring no key, a client is a machine, told by its address.
#ifndef SERVER_CLIENT_H
#define SERVER_CLIENT_H

#include <stdint.h>

// The number of the client behind an address as listener_peer tells it. An IPv6 address counts by its first 64 bits:
// what a machine or a household is given is at least a /64, of which it may take any address it likes, so that else it
// could be as many clients as it likes. Link-local addresses, whose first 64 bits all have in common, count whole. An
// IPv4 address that is written as IPv6 is the same client as the bare one.
uint64_t client_number(const char *address);

#endif
