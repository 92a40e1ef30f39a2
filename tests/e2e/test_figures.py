"""tools/figures.py: README's table of speeds comes from what bench measures, and is where it is expected."""
import json
import re
import subprocess
import sys

import pytest

import tandem
from test_settings import run

TOOL = tandem.TOP / "tools" / "figures.py"
README = (tandem.TOP / "README.md").read_text()
BLOCK = re.compile(r"<!-- tools/figures\.py -->\n(.*?)<!-- end -->\n", re.DOTALL)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Of two formats of weights."""
    paths = [tmp_path_factory.mktemp("figures") / f"{weights}.json" for weights in ("bf16", "int8")]
    for path in paths:
        result = run("bench", "--synthetic", "phi-toy-moe", "--quick", "--weights", path.stem, "--json", path)
        assert result.returncode == 0, result
    return paths


def renew(readme, *paths):
    return subprocess.run([sys.executable, TOOL, "--readme", readme, *paths], capture_output=True, text=True,
                          timeout=tandem.PATIENCE_S)


def test_table_is_renewed(figures, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    result = renew(readme, *figures)
    assert result.returncode == 0 and result.stderr == "", result
    assert BLOCK.sub("", readme.read_text()) == BLOCK.sub("", README)  # nothing else has changed
    table = BLOCK.search(readme.read_text())[1]
    assert table == result.stdout and table.startswith("phi-toy-moe on ")
    assert "| tokens a second | bf16 | int8 |\n|---|---|---|\n" in table
    found = [json.loads(path.read_text()) for path in figures]
    rows = dict(re.findall(r"^\| ((?:prompt|decode)[^|]*) \| (.*) \|$", table, re.M))
    assert list(rows) == ["prompt of 16 tokens", "prompt of 128 tokens", "prompt of 512 tokens", "decode, 1 request",
                          "decode, 8 requests"]
    assert rows["decode, 8 requests"].split(" | ")[1].split()[0] == f"{found[1]['decode'][1]['tokens_per_s']:.1f}"
    assert rows["prompt of 16 tokens"].split(" | ")[0] == \
        f"{found[0]['prefill'][0]['tokens_per_s']:.1f} ({100 * found[0]['prefill'][0]['share_of_peak']:.0f} %)"
    assert renew(readme, *figures).returncode == 0  # and can be again


def test_what_does_not_fit_is_refused(figures, tmp_path):
    other = json.loads(figures[1].read_text())
    other["model"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "README.md").write_text(README)
    result = renew(tmp_path / "README.md", figures[0], tmp_path / "other.json")
    assert result.returncode == 1 and "expected files of one model" in result.stderr
    (tmp_path / "README.md").write_text("no place")
    result = renew(tmp_path / "README.md", *figures)
    assert result.returncode == 1 and "has 0 places for the table" in result.stderr


def test_table_of_the_repository():
    """Is one that the tool wrote: nobody's figures without a commit and a machine."""
    table = BLOCK.search(README)[1]
    assert re.match(r"\S+ on commit [0-9a-f]{7,} of \d{4}-\d\d-\d\d, (with changes, )?\d+ threads of \w", table)
