"""README.md's examples, run as they stand there, but for the address: each prints what README says it prints."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

import node_packages
import tandem

ADDRESS = "http://127.0.0.1:8080"
SECTION = re.search(r"^## Examples\n(.*?)^## ", (tandem.TOP / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
EXAMPLES = list(zip(BLOCKS[0::2], BLOCKS[1::2]))


def test_every_example_says_what_it_prints():
    assert len(EXAMPLES) >= 5 and len(BLOCKS) == 2 * len(EXAMPLES)
    assert {language for language, _ in BLOCKS[0::2]} == {"sh", "python", "js"}
    assert {language for language, _ in BLOCKS[1::2]} == {"text"}
    assert all(ADDRESS in code for _, code in BLOCKS[0::2])


def test_its_contents_are_its_headings():
    text = (tandem.TOP / "README.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    contents = re.findall(r"\[([^]]+)\]\(#([^)]+)\)", text.split("\n## ")[0])
    assert contents == [(heading, re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")) for heading in headings]


def run(language, code):
    if language == "js":
        node_packages.demand()
        (node_packages.PLACE / "readme.mjs").write_text(code)
        return node_packages.run("readme.mjs")
    command = ["bash", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"  # python3 as in a virtual environment
    return subprocess.run(command, env={**os.environ, "PATH": path}, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=tandem.PATIENCE_S)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(server, number):
    (language, code), (_, expected) = EXAMPLES[number]
    result = run(language, code.replace(ADDRESS, server.url))
    assert result.returncode == 0, result.stdout
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    assert re.fullmatch(pattern, result.stdout.strip(), re.DOTALL), result.stdout
