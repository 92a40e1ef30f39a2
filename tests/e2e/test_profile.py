"""tandem profile: which experts prompts call for."""
import json
import re
import signal
import subprocess

import pytest

import tandem


def run(*arguments, said=""):
    return subprocess.run([tandem.BINARY, *arguments], input=said, capture_output=True, text=True, timeout=tandem.PATIENCE_S)


QUESTIONS = ["What is the capital of France?", "Count from one to five.", "Which is larger, 7 or 12?"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "questions.txt"
    path.write_text("\n\n".join(QUESTIONS) + "\r\n")
    return str(path)


@pytest.fixture(scope="module")
def told(questions):
    result = run("profile", "--json", "--max-tokens", "8", "--placement", "cpu", questions)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_row_is_counted(told):
    """In each layer each token of a prompt, and of an answer each but the last, which nobody reads."""
    assert told["prompts"] == len(QUESTIONS) and told["answer_tokens"] > len(QUESTIONS)
    for layer in told["layers"]:
        for rows in layer.values():
            assert sum(rows["rows"]) == 2 * rows["chosen"] and len(rows["rows"]) == told["experts"]
            assert sum(count for _, _, count in rows["first_second_rows"]) == rows["chosen"]
            assert 2 / told["experts"] <= rows["evenness"] <= 1
        assert layer["prompts"]["chosen"] == told["prompt_tokens"]
        assert layer["answers"]["chosen"] == told["answer_tokens"] - len(QUESTIONS)
    suggested = told["suggested"]
    assert {suggested["experts_prefill"], suggested["experts_decode"]} <= {"cpu", "opencl"}
    assert suggested["prompts_gain"] >= 1 and suggested["answers_gain"] >= 1


def test_both_devices_choose_the_same(told, questions):
    split = json.loads(run("profile", "--json", "--max-tokens", "8", "--placement", "split", "--weights", "f32", questions).stdout)
    cpu = json.loads(run("profile", "--json", "--max-tokens", "8", "--placement", "cpu", "--weights", "f32", questions).stdout)
    assert split["layers"] == cpu["layers"]
    assert [layer["prompts"]["chosen"] for layer in cpu["layers"]] == [layer["prompts"]["chosen"] for layer in told["layers"]]


def test_for_people(told, questions, tmp_path):
    """The busiest expert of each layer is the JSON's; what it suggests is a settings file that serve takes."""
    text = run("profile", "--max-tokens", "8", "--placement", "cpu", questions).stdout
    lines = re.findall(r"^ +(\d+) +(\d+) +(\d\.\d\d) +(\d+) +(\d+) %", text, re.M)
    assert len(lines) == len(told["layers"])
    for line, layer in zip(lines, told["layers"]):
        rows = [sum(both) for both in zip(layer["prompts"]["rows"], layer["answers"]["rows"])]
        chosen = layer["prompts"]["chosen"] + layer["answers"]["chosen"]
        assert int(line[1]) == chosen and int(line[3]) == rows.index(max(rows))
        assert abs(int(line[4]) - 100 * max(rows) / chosen) <= 1
    assert re.search(r"^# prompts: \d+\.\d\d times as fast as on the CPU alone, .* s instead of ", text, re.M)
    config = tmp_path / "suggested.yaml"
    config.write_text(text[text.index("# OpenCL"):])
    assert re.search(r"engine:\n  experts:\n    prefill: (cpu|opencl)\n    decode: (cpu|opencl)\n", config.read_text())
    server = tandem.Server("--config", config)
    assert server.stop() == 0 and str(config) in server.log


def test_raw_and_standard_input(questions):
    told = json.loads(run("profile", "--json", "--raw", "--max-tokens", "1", "-", said="Once upon a time\n").stdout)
    assert told["prompts"] == 1 and told["answer_tokens"] <= 1
    assert all(layer["answers"]["chosen"] == 0 for layer in told["layers"])
    assert told["suggested"]["experts_decode"] == "auto" and told["suggested"]["answers_gain"] is None


def test_what_is_wrong_is_told(tmp_path):
    assert run("profile", tmp_path / "nowhere").returncode == 64
    result = run("profile", "-", said="\n\n")
    assert result.returncode == 64 and "standard input has no prompt" in result.stderr
    result = run("profile", "-", said="Hello!\n" + "word " * 50000)
    assert result.returncode == 1 and "standard input, prompt 2" in result.stderr and "context" in result.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0, 1])
def test_ends_while_it_loads_and_while_it_waits_for_a_prompt(number, code, seconds):
    process = subprocess.Popen([tandem.BINARY, "profile", "--placement", "cpu"], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("Hello!\n")
    process.stdin.flush()
    tandem.wait_for_handlers(process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(number)
    said, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert (process.returncode, said, complaint) == (code, "", "")
