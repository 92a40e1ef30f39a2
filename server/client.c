#include "server/client.h"

#include "base/checksum.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

enum { PREFIX_BYTES = 8, MAPPED_BYTES = 12, TEXT_BYTES = 64 };

uint64_t client_number(const char *address) {
    struct in6_addr six;
    struct in_addr four;
    char bare[TEXT_BYTES] = ""; // without "%eth0"
    size_t bytes = strcspn(address, "%");
    if (bytes < sizeof bare) memcpy(bare, address, bytes);
    if (inet_pton(AF_INET, bare, &four) == 1) return checksum(0, &four, sizeof four);
    if (inet_pton(AF_INET6, bare, &six) != 1 || IN6_IS_ADDR_LINKLOCAL(&six))
        return checksum(0, address, strlen(address));
    if (IN6_IS_ADDR_V4MAPPED(&six)) return checksum(0, six.s6_addr + MAPPED_BYTES, sizeof four);
    return checksum(0, &six, PREFIX_BYTES);
}
