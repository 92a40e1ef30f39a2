#include "engine/detokenizer.h"

#include "base/utf8.h"

#include <string.h>

static const char REPLACEMENT[] = "\xef\xbf\xbd"; // U+FFFD

void detokenizer_init(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, bool strip_space) {
    *detokenizer = (struct detokenizer){.tokenizer = tokenizer, .strip_space = strip_space};
}

static bool give_character(struct detokenizer *detokenizer, const char *text, size_t bytes, struct buffer *out) {
    bool strip = detokenizer->strip_space && text[0] == ' ';
    detokenizer->strip_space = false;
    return strip || buffer_append(out, text, bytes);
}

static void drop_pending(struct detokenizer *detokenizer, size_t bytes) {
    detokenizer->pending_bytes -= (int)bytes;
    memmove(detokenizer->pending, detokenizer->pending + bytes, (size_t)detokenizer->pending_bytes);
}

// Gives out what is certain. at_end: nothing more will come.
static bool settle(struct detokenizer *detokenizer, bool at_end, struct buffer *out) {
    while (detokenizer->pending_bytes > 0) {
        const char *pending = detokenizer->pending;
        size_t count = (size_t)detokenizer->pending_bytes;
        size_t width = utf8_decode(pending, count, NULL);
        if (width == 0 && !at_end && utf8_is_prefix(pending, count)) return true;
        bool ok = width ? give_character(detokenizer, pending, width, out)
                        : give_character(detokenizer, REPLACEMENT, sizeof REPLACEMENT - 1, out);
        if (!ok) return false;
        drop_pending(detokenizer, width ? width : 1);
    }
    return true;
}

bool detokenizer_add(struct detokenizer *detokenizer, int32_t id, struct buffer *out) {
    size_t bytes;
    const char *piece = tokenizer_piece(detokenizer->tokenizer, id, &bytes);
    if (!piece || tokenizer_is_special(detokenizer->tokenizer, id)) return true;
    for (size_t i = 0; i < bytes; i++) {
        detokenizer->pending[detokenizer->pending_bytes++] = piece[i];
        if (!settle(detokenizer, false, out)) return false;
    }
    return true;
}

bool detokenizer_flush(struct detokenizer *detokenizer, struct buffer *out) {
    return settle(detokenizer, true, out);
}
