// Amounts as a person reads them.
#ifndef CLI_AMOUNTS_H
#define CLI_AMOUNTS_H

enum { AMOUNT_BYTES = 32 };

const char *amount_of_bytes(char out[AMOUNT_BYTES], double bytes); // "7.52 GB", "10.8 MB"; returns out
const char *amount_of_things(char out[AMOUNT_BYTES], double count); // "3.76 billion", "5.4 million"

#endif
