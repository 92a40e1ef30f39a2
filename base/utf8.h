// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure functions.
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bytes (1..4) of the character at the start of text, or 0 where it is invalid or incomplete.
// The code point goes to *code_point unless that is NULL.
size_t utf8_decode(const char *text, size_t bytes, uint32_t *code_point);

// Whether text (1..3 bytes) is a proper beginning of some character that more bytes could complete.
bool utf8_is_prefix(const char *text, size_t bytes);

// White space as Unicode has it.
bool utf8_is_white_space(uint32_t code_point);

// Whether all of text is valid.
bool utf8_valid(const char *text, size_t bytes);

#endif
