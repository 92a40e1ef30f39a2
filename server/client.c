#include "server/client.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

enum { PREFIX_BYTES = 8, MAPPED_BYTES = 12, TEXT_BYTES = 64 };

// FNV-1a.
static uint64_t number_of(const void *data, size_t bytes) {
    const unsigned char *at = data;
    uint64_t number = 0xcbf29ce484222325;
    for (; bytes > 0; bytes--) number = (number ^ *at++) * 0x100000001b3;
    return number;
}

uint64_t client_number(const char *address) {
    struct in6_addr six;
    struct in_addr four;
    char bare[TEXT_BYTES] = ""; // without "%eth0"
    size_t bytes = strcspn(address, "%");
    if (bytes < sizeof bare) memcpy(bare, address, bytes);
    if (inet_pton(AF_INET, bare, &four) == 1) return number_of(&four, sizeof four);
    if (inet_pton(AF_INET6, bare, &six) != 1 || IN6_IS_ADDR_LINKLOCAL(&six)) return number_of(address, strlen(address));
    if (IN6_IS_ADDR_V4MAPPED(&six)) return number_of(six.s6_addr + MAPPED_BYTES, sizeof four);
    return number_of(&six, PREFIX_BYTES);
}
