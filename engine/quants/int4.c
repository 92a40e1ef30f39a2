#include "engine/quants/packed.h"

#include <string.h>

// 16 steps are few: which of them the largest weight falls on decides much. There is one step more below zero than
// above, so scales of both signs are tried; beyond 8 the largest weight is clipped in favour of the others.
static const float PARTS[] = {-8,    8,     -7.5f, 7.5f,   -7,    7,  -7.25f, 7.25f, -7.75f, 7.75f, -8.25f,
                              8.25f, -8.5f, 8.5f,  -8.75f, 8.75f, -9, 9,      -9.5f, 9.5f,   -6.5f, 6.5f};
static const struct packed_search SEARCH = {-8, 7, PARTS, sizeof PARTS / sizeof *PARTS};

static size_t byte_of(int output, int column) {
    return PACKED_SCALE_BYTES + (size_t)(column / 8 * PACKED_OUTPUTS + output) * 4 + (size_t)column % 4;
}

void int4_store(const float *weights, int group, unsigned char *block) {
    struct packed_group found;
    packed_find(&SEARCH, weights, &found);
    memcpy(block + (size_t)group * sizeof found.scale, found.scale, sizeof found.scale);
    for (int k = 0; k < PACKED_GROUP; k += 8)
        for (int i = 0; i < 4; i++)
            for (int o = 0; o < PACKED_OUTPUTS; o++) {
                int low = found.whole[k + i][o] + INT4_ZERO, high = found.whole[k + 4 + i][o] + INT4_ZERO;
                block[byte_of(o, group * PACKED_GROUP + k + i)] = (unsigned char)(low | high << 4);
            }
}

int int4_whole(const unsigned char *block, int output, int column) {
    int both = block[byte_of(output, column)];
    return (column % 8 < 4 ? both & 15 : both >> 4) - INT4_ZERO;
}
