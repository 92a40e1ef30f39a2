// The shapes of AMX's eight tiles, as the instruction that sets them reads them.
#ifndef ENGINE_CPU_TILES_H
#define ENGINE_CPU_TILES_H

#include <stdint.h>

struct tile_shapes {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

// Sixteen rows of 64 bytes each. (Static: gcc 12 takes the instruction to read no more than the first bytes.)
static const struct tile_shapes TILE_SQUARES = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

#endif
