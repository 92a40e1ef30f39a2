#include "base/utf8.h"

static const uint32_t SMALLEST[5] = {0, 0, 0x80, 0x800, 0x10000}; // by width: anything less is overlong

// Width that a lead byte announces, 0 for a byte that cannot lead.
static size_t lead_width(unsigned char byte) {
    if (byte < 0x80) return 1;
    if (byte >= 0xc2 && byte <= 0xdf) return 2;
    if (byte >= 0xe0 && byte <= 0xef) return 3;
    if (byte >= 0xf0 && byte <= 0xf4) return 4;
    return 0;
}

static bool is_scalar(uint32_t code_point) {
    return code_point <= 0x10ffff && !(code_point >= 0xd800 && code_point <= 0xdfff);
}

size_t utf8_decode(const char *text, size_t bytes, uint32_t *code_point) {
    if (bytes == 0) return 0;
    const unsigned char *p = (const unsigned char *)text;
    size_t width = lead_width(p[0]);
    if (width == 0 || width > bytes) return 0;

    uint32_t value = width == 1 ? p[0] : p[0] & (0x7fu >> width);
    for (size_t i = 1; i < width; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (p[i] & 0x3fu);
    }
    if (value < SMALLEST[width] || !is_scalar(value)) return 0;
    if (code_point) *code_point = value;
    return width;
}

bool utf8_is_prefix(const char *text, size_t bytes) {
    if (bytes == 0 || bytes > 3) return false;
    const unsigned char *p = (const unsigned char *)text;
    size_t width = lead_width(p[0]);
    if (width <= bytes) return false;
    for (size_t i = 1; i < bytes; i++)
        if ((p[i] & 0xc0) != 0x80) return false;
    if (bytes == 1) return true;
    // The second byte already decides overlong forms, surrogates and what lies above U+10FFFF.
    if (p[0] == 0xe0) return p[1] >= 0xa0;
    if (p[0] == 0xed) return p[1] < 0xa0;
    if (p[0] == 0xf0) return p[1] >= 0x90;
    if (p[0] == 0xf4) return p[1] < 0x90;
    return true;
}

bool utf8_valid(const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        size_t width = utf8_decode(text + at, bytes - at, NULL);
        if (width == 0) return false;
        at += width;
    }
    return true;
}

bool utf8_is_white_space(uint32_t c) {
    return (c >= '\t' && c <= '\r') || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
