// The id that every response carries as x-request-id. Pure but for a counter; loop thread.
#ifndef SERVER_REQUEST_ID_H
#define SERVER_REQUEST_ID_H

enum { REQUEST_ID_BYTES = 65 }; // with the NUL

// The client's own id where that is harmless to repeat in a header and a log (1..64 letters, digits, '-', '_',
// '.'); otherwise, and for NULL, a new one.
void request_id_choose(char out[REQUEST_ID_BYTES], const char *from_client);

#endif
