#!/usr/bin/env python3
"""Renews the table of speeds in README.md with what this build does on this machine.

    tools/figures.py                        runs build/tandem bench --quick with the weights below: some minutes, and
                                            nothing else should run meanwhile
    tools/figures.py bf16.json int8.json    takes what `tandem bench --json` wrote, of one model and one machine

--readme FILE: another file to write to. The commit is that of the checkout.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

TOP = pathlib.Path(__file__).resolve().parents[1]
BENCH = [TOP / "build" / "tandem", "bench", "--synthetic", "phi-tiny-moe", "--quick"]
WEIGHTS = ["bf16", "int8", "int4"]
BLOCK = re.compile(r"(<!-- tools/figures\.py -->\n).*?(<!-- end -->\n)", re.DOTALL)


def measure(directory):
    paths = [pathlib.Path(directory) / f"{weights}.json" for weights in WEIGHTS]
    for weights, path in zip(WEIGHTS, paths):
        subprocess.run([*BENCH, "--weights", weights, "--json", path], check=True)
    return paths


def git(*arguments):
    return subprocess.run(["git", "-C", TOP, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def commit():
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!README.md")
        return f"commit {git('log', '-1', '--format=%h of %cs')}{', with changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"  # no checkout


def name_of(kind, row):
    if kind == "prefill":
        return f"prompt of {row['tokens']:,} tokens"
    context = "" if row["context"] == 64 else f", behind {row['context']:,} tokens"
    return f"decode, {row['batch']} request{'s' if row['batch'] > 1 else ''}{context}"


def cell(row):
    share = row.get("share_of_peak", row.get("share_of_bandwidth"))
    return f"{row['tokens_per_s']:.1f}" + (f" ({100 * share:.0f} %)" if share else "")


def join(words):
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def table(found):
    """A column for each weights, a row for each point that one of them has, in the order of the first."""
    columns = [{name_of(kind, row): cell(row) for kind in ("prefill", "decode") for row in one[kind]} for one in found]
    names = list(dict.fromkeys(name for column in columns for name in column))
    yield "| tokens a second | " + " | ".join(one["weights"] for one in found) + " |"
    yield "|---|" + "---|" * len(found)
    for name in names:
        yield f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |"


def caption(found):
    machine = found[0]["machine"]
    limits = [f"{machine[key]:.{digits}f} {unit}" for key, digits, unit in
              [("read_gbps", 0, "GB/s read"), ("bf16_tflops", 1, "TFLOP/s in bf16"), ("int8_tops", 1, "TOPS in int8")]
              if machine[key]]
    shares = (f" In brackets: shares of what the machine itself reached in the same run, prompts of its multiplications and "
              f"decode of its reading ({join(limits)} with the first of these)." if limits else "")
    return textwrap.fill(f"{found[0]['model']} on {commit()}, {machine['threads']} threads of {machine['cpu']}, "
                         f"{found[0]['runs']} runs.{shares}", 120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="FILE.json")
    parser.add_argument("--readme", type=pathlib.Path, default=TOP / "README.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = [json.loads(path.read_text()) for path in arguments.files or measure(directory)]
    if len({(one["model"], one["machine"]["cpu"], one["machine"]["threads"]) for one in found}) != 1:
        sys.exit("figures: expected files of one model, one processor and as many threads")
    text = "\n".join([caption(found), "", *table(found)]) + "\n"
    readme, count = BLOCK.subn(lambda block: block[1] + text + block[2], arguments.readme.read_text())
    if count != 1:
        sys.exit(f"figures: {arguments.readme} has {count} places for the table; expected one")
    arguments.readme.write_text(readme)
    print(text, end="")


main()
