// Which build of the program this is, or of a library that it has loaded: what the linker made of all that is in it.
// Any thread.
#ifndef BASE_BUILD_ID_H
#define BASE_BUILD_ID_H

#include <stdint.h>

enum { BUILD_ID_BYTES = 65 };

// In hexadecimal, of up to 32 bytes; "": the linker has left none.
void build_id(char out[BUILD_ID_BYTES]);
// Of whatever has code at this address.
void build_id_of(uintptr_t address, char out[BUILD_ID_BYTES]);

#endif
