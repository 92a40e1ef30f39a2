// What is made of tables of named values, whose rows are X(VALUE, "name") or longer: enums, lists and look-ups.
#ifndef BASE_NAMED_H
#define BASE_NAMED_H

#define NAMED_VALUE(value, ...) value,                       // members of an enum
#define NAMED_ONE(...) +1                                    // how many: enum { COUNT = 0 TABLE(NAMED_ONE) };
#define NAMED_NAME(value, ...) NAMED_FIRST(__VA_ARGS__, ),   // the names, in a list
#define NAMED_WORD(value, ...) " " NAMED_FIRST(__VA_ARGS__, ) // the names in one text, each with a space in front

// The whole of a function (const char *name, TYPE *out), but for `return false` where no row has the name.
#define NAMED_MATCH(value, ...) \
    if (strcmp(name, NAMED_FIRST(__VA_ARGS__, )) == 0) { \
        *out = value; \
        return true; \
    }

#define NAMED_FIRST(first, ...) first

#endif
