#include "base/nearest.h"

#include <string.h>

enum { WORD_BYTES_MAX = 64 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

// Edit distance, where swapping two neighbours is one mistake. SIZE_MAX for words longer than any of ours.
static size_t distance(const char *a, const char *b) {
    size_t rows[3][WORD_BYTES_MAX + 1]; // [row % 3][column]: this row, the last, the one before
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    if (a_bytes > WORD_BYTES_MAX || b_bytes > WORD_BYTES_MAX) return (size_t)-1;
    for (size_t j = 0; j <= b_bytes; j++) rows[0][j] = j;
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t *row = rows[i % 3];
        const size_t *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            row[j] = least(last[j - 1] + (a[i - 1] != b[j - 1]), least(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = least(row[j], before[j - 2] + 1);
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

void nearest_consider(struct nearest *nearest, const char *word) {
    if (!word) return;
    size_t found = distance(nearest->written, word);
    size_t most = 1 + least(strlen(word), strlen(nearest->written)) / 4; // more mistakes than that: another word
    if (found > most || (nearest->word && found >= nearest->distance)) return;
    nearest->word = word;
    nearest->distance = found;
}
