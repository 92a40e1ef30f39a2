// Which build of the program this is: what the linker made of all that is in it. Any thread.
#ifndef BASE_BUILD_ID_H
#define BASE_BUILD_ID_H

enum { BUILD_ID_BYTES = 65 };

// In hexadecimal, of up to 32 bytes; "": the linker has left none.
void build_id(char out[BUILD_ID_BYTES]);

#endif
