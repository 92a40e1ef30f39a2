#!/usr/bin/env python3
"""Breaks the OpenCL kernels, one operator, number or barrier at a time, and tells which breaks no test notices.

    tools/mutate_kernels.py BUILD [--file NAME.cl]… [--level LEVEL]… [--every N] [--seconds S] [--state FILE]

BUILD is a build tree whose tests are built. With --state, what has been tried is kept, and the next call goes on from
there. What a level does not compile (parts behind #ifdef) survives at that level: look at survivors with the other
levels in mind."""
import argparse
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
TESTS = ["known_routes", "near_ties", "no_rows", "kinds_of_rows", "odd_rows", "rows_of_experts", "shapes", "as_the_cpu"]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--file", action="append")
    parser.add_argument("--level", action="append")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--state")
    arguments = parser.parse_args()
    levels = arguments.level or ["portable", "emulated dot"]
    state = pathlib.Path(arguments.state) if arguments.state else None
    tried = json.loads(state.read_text()) if state and state.exists() else {}
    ends_at = time.monotonic() + arguments.seconds
    for name in arguments.file or sorted(path.name for path in SOURCES.glob("*.cl")):
        for number, what, text in list(mutants(name))[::arguments.every]:
            key = f"{name}:{number}: {what}"
            if key in tried:
                continue
            if time.monotonic() > ends_at:
                print(f"{len(tried)} tried, more to do")
                return
            directory = tempfile.mkdtemp(prefix="tandem-mutant-")
            (pathlib.Path(directory) / name).write_text(text)
            tried[key] = next(filter(None, (notices(arguments.build, level, directory)
                                            for level in (["gemm"] if name == "gemm.cl" else levels))), None)
            shutil.rmtree(directory, ignore_errors=True)
            if state:
                state.write_text(json.dumps(tried, indent=1))
    survivors = [key for key, noticed in tried.items() if not noticed]
    print(f"{len(tried)} mutants, {len(survivors)} survive")
    print("\n".join(survivors))


if __name__ == "__main__":
    main()
