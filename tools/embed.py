"""Turns a file into a C array: embed.py FILE OUTPUT.c NAME. The array ends in a NUL that does not count as content."""
import pathlib
import sys

source, output, name = sys.argv[1:]
numbers = [str(byte - 256 if byte > 127 else byte) for byte in pathlib.Path(source).read_bytes() + b"\0"]
lines = [",".join(numbers[i:i + 32]) for i in range(0, len(numbers), 32)]
pathlib.Path(output).write_text(f"extern const char {name}[];\nconst char {name}[] = {{\n" + ",\n".join(lines) + "};\n")
