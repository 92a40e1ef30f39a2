#!/usr/bin/env python3
"""Breaks the OpenCL kernels, one operator, number or barrier at a time, and tells which breaks no test notices.

    tools/mutate_kernels.py BUILD [--file NAME.cl]… [--level LEVEL]… [--seconds S] [--state FILE]

BUILD is a build tree whose tests are built. Breaks are tried in an order that is mixed, but always the same: the first
so many of them are a fair sample. With --state, what has been tried is kept, and the next call goes on from there;
--seconds 0 only tells of it. A break is tried at the levels that compile it; what none of those asked for does is left
out."""
import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "cl_kernels"
OPERATORS = [("+", "-"), ("-", "+"), ("*", "+"), ("/", "*"), ("%", "/"), ("<", "<="), ("<=", "<"), (">", ">="), (">=", ">"),
             ("==", "!="), ("!=", "=="), ("&&", "||"), ("||", "&&"), ("<<", ">>"), (">>", "<<"), ("&", "|"), ("+=", "-=")]
WORDS = [("min(", "max("), ("fma(w", "fma(-w"), ("fabs(", "("), ("isfinite(", "!isnan(")]
# Fast ones that notice most come first. NAME takes the level behind it.
TESTS = ["known_routes", "near_ties", "kinds_of_rows", "odd_rows", "rows_of_experts", "shapes"]
GEMM_TESTS = ["products_in_f32", "products_in_f16", "weights_in_f16"]


def mutants(name):
    """(line number, what was done, the whole text) of each."""
    lines = (SOURCES / name).read_text().split("\n")
    for number, line in enumerate(lines):
        code = line.split("//")[0]
        if code.lstrip().startswith("#") or not code.strip():
            continue
        changes = []
        for old, new in OPERATORS:
            changes += [(m.start() + 1, len(old), new) for m in re.finditer(re.escape(f" {old} "), code)]
        for old, new in WORDS:
            changes += [(m.start(), len(old), new) for m in re.finditer(re.escape(old), code)]
        changes += [(m.start(), len(m[0]), str(int(m[0]) + 1)) for m in re.finditer(r"(?<![\w.])\d+(?![\w.])", code)]
        if code.strip().startswith("barrier("):
            changes.append((len(code) - len(code.lstrip()), len(code.strip()), ""))
        for at, length, new in changes:
            changed = line[:at] + new + line[at + length:]
            yield number + 1, f"{line.strip()}  =>  {changed.strip()}", "\n".join(lines[:number] + [changed] + lines[number + 1:])


def seen_by(level, name, text):
    """What a level's compiler sees, in any of the formats, with this text in the place of a file."""
    order = re.findall(r"cl_kernels/(\w+\.cl)", (SOURCES.parent / "meson.build").read_text())
    whole = "\n".join(text if each == name else (SOURCES / each).read_text() for each in order)
    defines = [f"-D{word}" for word, wanted in [("SUB_GROUPS", "sub-group" in level), ("DOT", "dot" in level),
                                                ("DOT_EMULATED", "emulated" in level)] if wanted]
    return [subprocess.run(["cpp", "-P", *defines, *form], input=whole.encode(), capture_output=True, check=True).stdout
            for form in (["-DQUANT=bf16"], ["-DQUANT=int8", "-DPACKED"], ["-DQUANT=int4", "-DPACKED"])]


def notices(build, level, directory):
    """The test that fails with these kernels, or None."""
    programs = [("test_opencl", f"{name} {level}") for name in TESTS]
    if level == "gemm":
        programs = [("test_opencl_clblast", name) for name in GEMM_TESTS]
    for program, test in programs:
        environment = {**os.environ, "TANDEM_TEST_KERNELS": directory, "TANDEM_TEST_ONLY": test, "OMP_WAIT_POLICY": "passive",
                       "POCL_CACHE_DIR": directory + "/cache"}
        try:
            result = subprocess.run([f"{build}/tests/{program}"], env=environment, capture_output=True, timeout=90)
        except subprocess.TimeoutExpired:
            return f"{test} (never ends)"
        if result.returncode:
            return test + (" (does not compile)" if b"can not be built" in result.stdout + result.stderr else "")
    return None


def mixed(names):
    """(key, file, the whole text) of all mutants of these files."""
    every = [(f"{name}:{number}: {what}", name, text) for name in names for number, what, text in mutants(name)]
    return sorted(every, key=lambda mutant: hashlib.sha256(mutant[0].encode()).digest())


def report(tried):
    survivors = [key for key, noticed in tried.items() if not noticed]
    files = collections.Counter(key.split(":")[0] for key in tried)
    alive = collections.Counter(key.split(":")[0] for key in survivors)
    print(f"{len(tried)} breaks tried, {len(survivors)} not noticed")
    for name in sorted(files):
        print(f"  {name}: {files[name]}, {alive[name]}")
    print("\n".join(sorted(survivors)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--file", action="append")
    parser.add_argument("--level", action="append")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--state")
    arguments = parser.parse_args()
    levels = arguments.level or ["portable", "emulated dot"]
    state = pathlib.Path(arguments.state) if arguments.state else None
    tried = json.loads(state.read_text()) if state and state.exists() else {}
    ends_at = time.monotonic() + arguments.seconds
    for key, name, text in mixed(arguments.file or sorted(path.name for path in SOURCES.glob("*.cl"))):
        if key in tried:
            continue
        if time.monotonic() > ends_at:
            break
        plain = (SOURCES / name).read_text()
        here = [level for level in (["gemm"] if name == "gemm.cl" else levels + ["gemm"] * (name == "common.cl"))
                if seen_by(level, name, text) != seen_by(level, name, plain)]
        if not here:
            continue
        directory = tempfile.mkdtemp(prefix="tandem-mutant-")
        (pathlib.Path(directory) / name).write_text(text)
        tried[key] = next(filter(None, (notices(arguments.build, level, directory) for level in here)), None)
        shutil.rmtree(directory, ignore_errors=True)
        if state:
            state.write_text(json.dumps(tried, indent=1))
    report(tried)


if __name__ == "__main__":
    main()
