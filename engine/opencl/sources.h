// The files of cl_kernels/, embedded by tools/embed_kernels.py.
#ifndef ENGINE_OPENCL_SOURCES_H
#define ENGINE_OPENCL_SOURCES_H

struct opencl_source {
    const char *name, *text; // "route.cl"
};
extern const struct opencl_source OPENCL_SOURCES[]; // the first is what the others build on; ends with a NULL name

#endif
