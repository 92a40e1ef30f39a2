"""The OpenCL kernels as a C table: embed_kernels.py OUTPUT.c FILE.cl…, in that order."""
import pathlib
import sys

output, *sources = sys.argv[1:]
lines = ['#include "engine/opencl/sources.h"', "", "#include <stddef.h>", ""]
for number, source in enumerate(sources):
    text = pathlib.Path(source).read_text(encoding="ascii")  # drivers' compilers differ in what else they take
    numbers = [str(byte) for byte in text.encode() + b"\0"]
    lines += [f"static const char text_{number}[] = {{"]
    lines += [",".join(numbers[i:i + 32]) + "," for i in range(0, len(numbers), 32)] + ["};"]
lines += ["const struct opencl_source OPENCL_SOURCES[] = {"]
lines += [f'    {{"{pathlib.Path(source).name}", text_{number}}},' for number, source in enumerate(sources)]
pathlib.Path(output).write_text("\n".join(lines + ["    {NULL, NULL},", "};", ""]))
