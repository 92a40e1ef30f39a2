"""tandem bench: its table, its JSON, the change since an older one, README's table that tools/figures.py makes of it, and
how it ends. Nothing here is a matter of speed."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import tandem
from terminal import Terminal
from test_settings import refused, run

TOY = ["bench", "--synthetic", "phi-toy-moe", "--quick"]
UNLIMITED = [*TOY, "--kernels", "reference"]  # takes no time to measure what the machine could do


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    result = run("bench", "--quick", "--profile", "--json", path)
    assert result.returncode == 0 and result.stderr == "", result
    return result.stdout, path


@pytest.fixture(scope="module")
def measured_int8(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "int8.json"
    result = run("bench", "--quick", "--weights", "int8", "--json", path)
    assert result.returncode == 0, result
    return result.stdout, path


def check_figures(found):
    assert found.keys() == {"machine", "model", "weights", "placement", "kernels", "load", "prefill", "decode", "serve",
                            "promises", "guess", "ttft_ms",
                            "peak_rss_mib", "runs"}
    assert found["machine"].keys() == {"cpu", "threads", "read_gbps", "f32_tflops", "bf16_tflops", "int8_tops"}
    assert found["weights"] == "bf16" and found["runs"] == 2 and found["machine"]["threads"] >= 1
    assert found["load"].keys() == {"seconds", "rss_mib"} and 0 < found["load"]["rss_mib"] <= found["peak_rss_mib"]
    assert [row["tokens"] for row in found["prefill"]] == [16, 128, 512]
    assert [(row["batch"], row["context"]) for row in found["decode"]] == [(1, 64), (8, 64)]
    for row in found["prefill"]:
        assert row.keys() == {"tokens", "tokens_per_s", "stddev", "share_of_peak"}
    for row in found["decode"]:
        assert row.keys() == {"batch", "context", "tokens_per_s", "stddev", "share_of_bandwidth"}
    for row in found["prefill"] + found["decode"]:
        assert row["tokens_per_s"] > 0 and row["stddev"] >= 0


def largest_cache():
    units = {"K": 2**10, "M": 2**20}
    sizes = [path.read_text().strip() for path in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size), default=0)


def test_json(measured):
    found = json.loads(measured[1].read_text())
    check_figures(found)
    assert found["model"] == "demo" and found["placement"] == "cpu" and found["kernels"] == "cpu"
    assert found["ttft_ms"] > 0 and found["machine"]["read_gbps"] > 0 and found["machine"]["f32_tflops"] > 0
    for row in found["prefill"]:
        assert row["share_of_peak"] > 0
    cached = largest_cache() >= 10.8e6  # the demo model's weights
    for row in found["decode"]:
        assert row["share_of_bandwidth"] is None if cached else row["share_of_bandwidth"] > 0
    assert len(re.findall(r"^decode.*  – \(the weights fit the cache\)$", measured[0], re.M)) == 2 * cached
    assert "% of the read rate" not in measured[0] or not cached


def test_head(measured):
    assert re.match(r"demo, weights in bf16: 10\.8 MB, loaded in \d+\.\d\d s\n", measured[0])


def test_table_says_what_json_says(measured):
    text, path = measured
    found = json.loads(path.read_text())
    rows = [(f"prefill of {row['tokens']} tokens", row) for row in found["prefill"]]
    rows += [(f"decode, batch {row['batch']}, context {row['context']}", row) for row in found["decode"]]
    for name, row in rows:
        rate, stddev = re.search(rf"^{name} +([\d.]+) +([\d.]+)  ", text, re.M).groups()
        assert abs(float(rate) - row["tokens_per_s"]) <= 0.06 + 1e-5 * row["tokens_per_s"]  # JSON has six digits
        assert abs(float(stddev) - row["stddev"]) <= 0.06 + 1e-5 * row["stddev"]


def check_steadiness(rows, text):
    """Figures that are not steady are said to be so."""
    most = max(row["stddev"] / row["tokens_per_s"] for row in rows)
    told = re.search(r"^runs of one figure deviate by up to (\d+) %", text, re.M)
    assert bool(told) == (most > 0.1) and (not told or abs(int(told[1]) - 100 * most) < 0.6)


def test_unsteady_figures_are_said_to_be(measured):
    found = json.loads(measured[1].read_text())
    check_steadiness(found["prefill"] + found["decode"], measured[0])


def test_profile_adds_up(measured):
    blocks = measured[0].split("\n\n")[-5:]
    assert [block.splitlines()[0].split("  ")[0] for block in blocks] == [
        "prefill of 16 tokens", "prefill of 128 tokens", "prefill of 512 tokens", "decode, batch 1, context 64",
        "decode, batch 8, context 64"]
    for block in blocks:
        stages = re.findall(r"^  \D+ +([\d.]+) +([\d.]+) %", block, re.M)
        whole = float(re.search(r"the whole step +([\d.]+)", block)[1])
        assert len(stages) == 10
        assert abs(sum(float(time) for time, _ in stages) - whole) < 0.01  # ten figures, rounded to 0.001
        assert abs(sum(float(share) for _, share in stages) - 100) < 0.6


def test_compare(measured, tmp_path):
    old = json.loads(measured[1].read_text())
    for row in old["prefill"]:
        row["tokens_per_s"] = 1e9
    old["decode"] = old["decode"][:1]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    new = tmp_path / "new.json"
    result = run(*UNLIMITED, "--compare", path, "--json", new)
    assert result.returncode == 0, result
    found = json.loads(new.read_text())
    check_figures(found)
    assert found["placement"] == "cpu" and found["kernels"] == "reference" and found["machine"]["read_gbps"] is None
    assert all(row["share_of_peak"] is None for row in found["prefill"])
    change = result.stdout.split("before")[1]
    assert len(re.findall(r"prefill of \d+ tokens +1000000000.0 +[\d.]+ +-100.0 %|prefill of \d+ tokens .* -99\.\d %", change)) == 3
    row = re.search(r"decode, batch 1, context 64 +([\d.]+) +([\d.]+) +([+-][\d.]+) %", change)
    before, after, percent = map(float, row.groups())
    assert abs(before - old["decode"][0]["tokens_per_s"]) < 0.1
    rounded = 0.05 / before + 0.05 * after / before**2  # what the two shown figures may be off by
    assert abs(percent - 100 * (after / before - 1)) < 0.06 + 100 * rounded
    assert "batch 8" not in change  # it was not measured then
    assert not re.search(r"prefill.*noise", change)
    assert re.match(r"phi-toy-moe, weights in bf16: [\d.]+ MB, made in ", result.stdout)
    assert 'model was "demo" then' in change


def test_change_within_the_noise(measured, tmp_path):
    """Where it is no larger than what both deviations add up to. It was so much faster then."""
    old = json.loads(measured[1].read_text())
    for row in old["prefill"] + old["decode"]:
        row["tokens_per_s"] += 1e9
        row["stddev"] = 2e9 if row in old["prefill"] else 1
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    result = run(*UNLIMITED, "--compare", path)
    rows = re.findall(r"^(prefill|decode).* %(  within the noise)?$", result.stdout.split("before")[1], re.M)
    assert len(rows) == 5 and all((kind == "prefill") == bool(noise) for kind, noise in rows), result


def check_quantiles(found):
    assert found.keys() == {"p50", "p95", "p99"} and 0 < found["p50"] <= found["p95"] <= found["p99"]


@pytest.mark.parametrize("model", [[], ["--synthetic", "phi-toy-moe"]])
def test_serve(model, tmp_path):
    path = tmp_path / "served.json"
    result = run("bench", "--serve", "--quick", *model, "--json", path)
    assert result.returncode == 0 and result.stderr == "", result
    found = json.loads(path.read_text())
    assert found["prefill"] == [] and found["decode"] == [] and found["ttft_ms"] is None
    assert [row["clients"] for row in found["serve"]] == [1, 8]
    for row in found["serve"]:
        assert row["requests"] == 2 * row["clients"] and row["requests_per_s"] is None
        assert row["tokens_per_s"] > 0 and row["engine_tokens_per_s"] > 0
        for times in ("first_token_ms", "whole_ms"):
            check_quantiles(row[times])
        assert row["first_token_ms"]["p50"] <= row["whole_ms"]["p50"]  # equal: a toy's answer may be there at once
        shown = re.search(rf"^{row['clients']} clients? +([\d.]+) +([\d.]+) +([\d.]+) %", result.stdout, re.M).groups()
        assert abs(float(shown[0]) - row["tokens_per_s"]) < 0.06 + 1e-5 * row["tokens_per_s"]
        assert abs(float(shown[1]) - row["times_one_client"]) < 0.006 + 1e-5 * row["times_one_client"]
        assert abs(float(shown[2]) - 100 * row["tokens_per_s"] / row["engine_tokens_per_s"]) < 0.1
    one, eight = found["serve"]
    assert one["times_one_client"] == 1
    assert abs(eight["times_one_client"] - eight["tokens_per_s"] / one["tokens_per_s"]) < 1e-4 * eight["times_one_client"]
    check_promises(found["promises"], result.stdout)
    assert all(row["stddev"] > 0 for row in found["serve"])
    check_steadiness(found["serve"], result.stdout)


def check_promises(found, text):
    """What is promised is told beside what was found; whether it was kept is a matter of speed, and not of this test."""
    assert found.keys() == {"prompt_tokens", "chunk_ms", "step_ms", "longest_gap", "free_place"}
    assert found["prompt_tokens"] in (511, 2000)  # a context's length less the one new token, at most
    gap, free = found["longest_gap"], found["free_place"]
    assert gap.keys() == {"ms", "promised_ms"} and free.keys() == {"ms", "longest_ms", "leavers", "promised_ms"}
    assert abs(gap["promised_ms"] - 1.5 * (found["chunk_ms"] + found["step_ms"])) < 1e-4 * gap["promised_ms"]
    assert 0 < free["ms"] <= free["longest_ms"] and free["leavers"] == 8 and found["step_ms"] == free["promised_ms"]
    shown = re.search(r"prompt of (\d+) tokens comes, a stream stands still for ([\d.]+) ms at most; promised: ([\d.]+)", text)
    assert int(shown[1]) == found["prompt_tokens"]
    assert abs(float(shown[2]) - gap["ms"]) < 0.06 and abs(float(shown[3]) - gap["promised_ms"]) < 0.06
    shown = re.search(r"its place is free after ([\d.]+) ms, the longest of 8 ([\d.]+) ms", text)
    assert abs(float(shown[1]) - free["ms"]) < 0.06 and abs(float(shown[2]) - free["longest_ms"]) < 0.06


def test_serve_so_many_clients(tmp_path):
    """One, and so many: as fast as they are answered, then at fixed rates: shares of the one that they reached."""
    path = tmp_path / "served.json"
    result = run("bench", "--serve", "--clients", "3", "--runs", "1", "--json", path)
    assert result.returncode == 0, result
    found = json.loads(path.read_text())
    one, closed, half, most = found["serve"]
    assert one["clients"] == one["requests"] == one["times_one_client"] == 1 and found["promises"] is None
    assert closed["clients"] == closed["requests"] == 3 and closed["requests_per_s"] is None
    for row, share in ((half, 0.5), (most, 0.9)):
        assert row["requests"] == 32 and row["engine_tokens_per_s"] is None and row["times_one_client"] is None
        assert abs(row["requests_per_s"] - share * closed["tokens_per_s"] / 32) < 1e-3 * row["requests_per_s"]
        check_quantiles(row["whole_ms"])


def test_serve_at_a_rate(tmp_path):
    """So many requests at one rate, and nothing else."""
    path = tmp_path / "served.json"
    result = run("bench", "--serve", "--clients", "12", "--rate", "40", "--json", path)
    assert result.returncode == 0, result
    found = json.loads(path.read_text())
    (row,) = found["serve"]
    assert row["requests"] == 12 and row["requests_per_s"] == 40 and found["promises"] is None
    assert 0 < row["tokens_per_s"] < 12 * 32 / (11 / 40)  # the last one comes after so long
    assert row["times_one_client"] is None and row["engine_tokens_per_s"] is None
    assert "\n40.00 requests a second " in result.stdout


@pytest.mark.parametrize("model", [[], ["--synthetic", "phi-toy-moe"]])
def test_guess(model, tmp_path):
    path = tmp_path / "guess.json"
    result = run("bench", "--guess", "--quick", *model, "--json", path)
    assert result.returncode == 0 and result.stderr == "", result
    found = json.loads(path.read_text())
    assert found["prefill"] == [] and found["serve"] is None and found["ttft_ms"] is None
    rows = found["guess"]["answers"]
    assert len(rows) == 4
    for row in rows:
        assert row["tokens_per_s"] > 0 and row["tokens_per_s_without"] > 0 and 0 <= row["right"] <= row["guessed"]
        without, guessing, guessed, right = re.search(
            rf"^{re.escape(row['text'])} +([\d.]+) +([\d.]+) +[+-][\d.]+ % +(\d+) +(\d+)$", result.stdout, re.M).groups()
        assert abs(float(without) - row["tokens_per_s_without"]) < 0.06 + 1e-5 * row["tokens_per_s_without"]
        assert abs(float(guessing) - row["tokens_per_s"]) < 0.06 + 1e-5 * row["tokens_per_s"]
        assert (int(guessed), int(right)) == (row["guessed"], row["right"])
    steps = found["guess"]["steps"]
    assert steps[0]["rows"] == 1 and all(step["ms"] > 0 and step["steps"] > 0 for step in steps)


def test_guess_off(tmp_path):
    path = tmp_path / "guess.json"
    assert run(*TOY, "--guess", "--speculate", "off", "--json", path).returncode == 0
    guess = json.loads(path.read_text())["guess"]
    assert [row["guessed"] for row in guess["answers"]] == [0] * 4
    assert [step["rows"] for step in guess["steps"]] == [1]


@pytest.mark.parametrize("more, placement", [
    (["--experts-prefill", "cpu"], "split"), (["--experts-prefill", "cpu", "--experts-decode", "cpu"], "cpu")])
def test_placement(more, placement, measured, tmp_path):
    """What really had the experts, whatever --placement asks for; and --compare minds it."""
    path = tmp_path / "x.json"
    result = run(*TOY, "--placement", "split", *more, "--compare", measured[1], "--json", path)
    if "all on it" in result.stdout:
        pytest.skip("there is no OpenCL here")
    found = json.loads(path.read_text())
    check_figures(found)
    assert (found["placement"], found["kernels"]) == (placement, "cpu")
    assert ('placement was "cpu" then' in result.stdout) == (placement == "split")
    assert "kernels was" not in result.stdout


def test_progress_is_shown_on_a_terminal():
    terminal = Terminal(*TOY, columns=60)
    assert terminal.wait() == 0
    for point in ("prefill of 16 tokens", "prefill of 512 tokens", "decode, batch 1, context 64", "decode, batch 8, context 64"):
        for run in (1, 2):
            assert f"\r\033[K{point}: run {run} of 2" in terminal.shown, terminal.shown


def test_int8(measured_int8):
    text, path = measured_int8
    prompts = "bf16" if "AMX" in text else "int8"  # with tiles, weights are unpacked for prompts
    assert f"of the {prompts} peak" in text, text
    assert re.search(rf"prompts are multiplied in {prompts}: at best \d+\.\d\d T(OPS|FLOP/s) with", text), text
    found = json.loads(path.read_text())
    assert found["weights"] == "int8"
    for row in found["prefill"]:
        assert row["share_of_peak"] > 0


@pytest.mark.parametrize("arguments, said", [
    (["--synthetic", "phi-big-moe"], "phi-tiny-moe"),
    (["--synthetic", "phi-toy-moe", "--model", "x"], "--model and --synthetic exclude each other"),
    (["--runs", "0"], "--runs"),
    (["--serve", "--token-gap", "-1"], "--token-gap"),
    (["--serve", "--guess"], "--serve and --guess exclude each other"),
    (["--rate", "5"], "--rate is of --serve; give both"),
    (["--compare", "/nowhere.json"], "tandem bench: /nowhere.json: cannot be opened: No such file or directory\n"),
    (["--compare", str(tandem.MODEL)], "found a directory"),
    (["--compare", str(tandem.TOP / "README.md")], "README.md:1: "),
    (["--compare", str(tandem.MODEL / "config.json")], "expected what tandem bench --json writes"),
    (["--json", "/nowhere/x.json"], "/nowhere/x.json can not be written: No such file or directory\n"),
    (["--json", "/tmp"], "/tmp can not be written: Is a directory\n"),
])
def test_wrong_arguments(arguments, said):
    assert said in refused("bench", *arguments)


def test_bad_model(tmp_path):
    assert run("bench", "--model", tmp_path).returncode == 2


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ends_at_once(number, code, tmp_path):
    path = tmp_path / "x.json"
    process = subprocess.Popen([tandem.BINARY, "bench", "--runs", "100", "--json", path], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               env={name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")})
    process.stdout.readline()  # it has begun
    time.sleep(0.2)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert process.returncode == code and complaint == "" and not path.exists()


# ---- README's table

TOOL = tandem.TOP / "tools" / "figures.py"
README = (tandem.TOP / "README.md").read_text()
BLOCK = re.compile(r"<!-- tools/figures\.py -->\n(.*?)<!-- end -->\n", re.DOTALL)


def renew(readme, *paths):
    return subprocess.run([sys.executable, TOOL, "--readme", readme, *paths], capture_output=True, text=True,
                          timeout=tandem.PATIENCE_S)


def test_table_is_renewed(measured, measured_int8, tmp_path):
    figures = measured[1], measured_int8[1]
    readme = tmp_path / "README.md"
    readme.write_text(README)
    result = renew(readme, *figures)
    assert result.returncode == 0 and result.stderr == "", result
    assert BLOCK.sub("", readme.read_text()) == BLOCK.sub("", README)  # nothing else has changed
    table = BLOCK.search(readme.read_text())[1]
    assert table == result.stdout and table.startswith("demo on ")
    assert "| tokens a second | bf16 | int8 |\n|---|---|---|\n" in table
    found = [json.loads(path.read_text()) for path in figures]
    rows = dict(re.findall(r"^\| ((?:prompt|decode)[^|]*) \| (.*) \|$", table, re.M))
    assert list(rows) == ["prompt of 16 tokens", "prompt of 128 tokens", "prompt of 512 tokens", "decode, 1 request",
                          "decode, 8 requests"]
    assert rows["decode, 8 requests"].split(" | ")[1].split()[0] == f"{found[1]['decode'][1]['tokens_per_s']:.1f}"
    assert rows["prompt of 16 tokens"].split(" | ")[0] == \
        f"{found[0]['prefill'][0]['tokens_per_s']:.1f} ({100 * found[0]['prefill'][0]['share_of_peak']:.0f} %)"
    assert renew(readme, *figures).returncode == 0  # and can be again


def test_figures_that_do_not_fit_are_refused(measured, measured_int8, tmp_path):
    figures = measured[1], measured_int8[1]
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
