#include "cli/amounts.h"

#include <stdio.h>

const char *amount_of_bytes(char out[AMOUNT_BYTES], double bytes) {
    if (bytes >= 1e9)
        snprintf(out, AMOUNT_BYTES, "%.2f GB", bytes / 1e9);
    else
        snprintf(out, AMOUNT_BYTES, "%.1f MB", bytes / 1e6);
    return out;
}

const char *amount_of_things(char out[AMOUNT_BYTES], double count) {
    if (count >= 1e9)
        snprintf(out, AMOUNT_BYTES, "%.2f billion", count / 1e9);
    else
        snprintf(out, AMOUNT_BYTES, "%.1f million", count / 1e6);
    return out;
}
