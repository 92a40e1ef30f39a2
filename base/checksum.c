#include "base/checksum.h"

#include <string.h>

enum { LANES = 8 }; // words of which each has a sum of its own

uint64_t checksum(uint64_t sum, const void *data, size_t bytes) {
    static const uint64_t FACTOR = 0x9e3779b97f4a7c15u; // odd
    uint64_t lane[LANES];
    const unsigned char *from = data;
    for (int i = 0; i < LANES; i++) lane[i] = sum + (uint64_t)i;
    for (; bytes >= sizeof lane; bytes -= sizeof lane, from += sizeof lane) {
        uint64_t word[LANES];
        memcpy(word, from, sizeof word);
        for (int i = 0; i < LANES; i++) lane[i] = ((lane[i] ^ word[i]) * FACTOR) ^ (lane[i] >> 47);
    }
    unsigned char rest[sizeof lane] = {0};
    memcpy(rest, from, bytes);
    rest[sizeof rest - 1] = (unsigned char)bytes; // fewer than a line: its last byte is free
    for (int i = 0; i < LANES; i++) {
        uint64_t word;
        memcpy(&word, rest + (size_t)i * sizeof word, sizeof word);
        sum = (sum ^ lane[i]) * FACTOR;
        sum = (sum ^ sum >> 29 ^ word) * FACTOR;
    }
    return sum ^ sum >> 32;
}
