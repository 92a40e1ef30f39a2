#include "server/request_id.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static bool harmless(const char *id) {
    size_t bytes = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.");
    return bytes > 0 && bytes < REQUEST_ID_BYTES && id[bytes] == '\0';
}

static uint64_t random_start(void) {
    uint64_t start;
    if (getrandom(&start, sizeof start, GRND_NONBLOCK) != sizeof start)
        start = (uint64_t)time(NULL) << 32; // early at boot: distinct from the last run is enough
    return start;
}

// splitmix64's mixer: one to one, so ids repeat only after 2^64 of them.
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void request_id_choose(char out[REQUEST_ID_BYTES], const char *from_client) {
    if (from_client && harmless(from_client)) {
        memcpy(out, from_client, strlen(from_client) + 1); // harmless() has checked the length
        return;
    }
    static uint64_t counter;
    if (counter == 0) counter = random_start();
    uint64_t value = mix(++counter);
    memcpy(out, "req-", 4);
    for (int i = 0; i < 16; i++) out[4 + i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    out[20] = '\0';
}
