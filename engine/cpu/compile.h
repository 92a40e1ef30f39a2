// How kernels are compiled: functions between COMPILE_FOR and COMPILE_END for a set of instructions that the rest of the
// program may not use, both compilers in their own words; small ones as a part of whoever calls them; loops over
// registers laid out in full.
#ifndef ENGINE_CPU_COMPILE_H
#define ENGINE_CPU_COMPILE_H

#define COMPILE_PRAGMA(...) _Pragma(#__VA_ARGS__)
#if defined __clang__
#define COMPILE_FOR(features) \
    COMPILE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define COMPILE_END COMPILE_PRAGMA(clang attribute pop)
#else
#define COMPILE_FOR(features) COMPILE_PRAGMA(GCC push_options) COMPILE_PRAGMA(GCC target(features))
#define COMPILE_END COMPILE_PRAGMA(GCC pop_options)
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#endif
