#include "base/nearest.h"

#include "base/smaller.h"

#include <string.h>

// Edit distance, where swapping two neighbours is one mistake.
static size_t distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    size_t rows[3][NEAREST_BYTES]; // [row % 3][column]: this row, the last, the one before
    for (size_t j = 0; j <= b_bytes; j++) rows[0][j] = j;
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t *row = rows[i % 3];
        const size_t *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            row[j] = smaller_size(last[j - 1] + (a[i - 1] != b[j - 1]), smaller_size(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = smaller_size(row[j], before[j - 2] + 1);
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

void nearest_init(struct nearest *nearest, const char *written, size_t bytes) {
    *nearest = (struct nearest){0};
    if (bytes < NEAREST_BYTES) memcpy(nearest->written, written, bytes);
}

void nearest_consider(struct nearest *nearest, const char *word, size_t bytes) {
    size_t written_bytes = strlen(nearest->written);
    if (bytes == 0 || bytes >= NEAREST_BYTES || written_bytes == 0) return;
    size_t found = distance(nearest->written, written_bytes, word, bytes);
    if (found > 1 + smaller_size(bytes, written_bytes) / 4) return; // more mistakes than that: another word
    if (nearest->word[0] && found >= nearest->distance) return;
    memcpy(nearest->word, word, bytes);
    nearest->word[bytes] = '\0';
    nearest->distance = found;
}
