"""tandem generate: its sources, what it prints and what it does not, how it ends; and that it says what the server says."""
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import tandem
from terminal import Terminal
from test_settings import refused, run, told

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."  # and the end of its line, wherever it goes
ASK = ["generate", "--chat", "--temperature", "0"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
RAMBLE = ["generate", "--prompt", "Once", "--temperature", "0.8", "--seed", "1", "--ignore-eos"]  # to the context's end


def fed(text, *arguments):
    result = subprocess.run([tandem.BINARY, *arguments], input=text.encode(), capture_output=True, env=ENVIRONMENT,
                            timeout=tandem.PATIENCE_S)
    assert result.returncode == 0 and result.stderr == b"", result
    return result.stdout.decode()


def start(*arguments, **options):
    return subprocess.Popen([tandem.BINARY, *arguments], env=ENVIRONMENT,
                            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def object_of(*arguments):
    return json.loads(told("generate", "--json", *arguments))


# ---- Where the prompt comes from

def test_sources(tmp_path):
    path = tmp_path / "question"
    path.write_bytes(FRANCE.encode() + b"\r\n")
    assert told(*ASK, "--prompt", FRANCE) == PARIS + "\n"
    assert told(*ASK, "--file", path) == PARIS + "\n"
    assert fed(FRANCE + "\n", *ASK) == PARIS + "\n"
    assert fed(FRANCE, *ASK, "-") == PARIS + "\n"
    assert fed(FRANCE, *ASK, "--file", "-") == PARIS + "\n"
    assert fed("something else", *ASK, "--prompt", FRANCE) == PARIS + "\n"
    assert fed("", "generate", "--tokens", "309,317,292,445,564,381,269", "--max-tokens", "5", "--temperature", "0")
    going_on = ["generate", "--prompt", "The capital", "--max-tokens", "2", "--temperature", "0"]
    assert told(*going_on) == object_of(*going_on[1:])["text"]  # and nothing behind it


def test_one_line_end_does_not_count(tmp_path):
    for end, tokens in (("", 0), ("\n", 0), ("\r\n", 0), ("\n\n", 1)):
        path = tmp_path / "text"
        path.write_bytes(b"The capital" + end.encode())
        plain = object_of("--prompt", "The capital", "--max-tokens", "1")["usage"]["prompt_tokens"]
        assert object_of("--file", path, "--max-tokens", "1")["usage"]["prompt_tokens"] == plain + tokens


def test_system():
    found = object_of("--chat", "--system", "You are a pirate.", "--prompt", FRANCE, "--max-tokens", "1")
    without = object_of("--chat", "--prompt", FRANCE, "--max-tokens", "1")
    assert found["prompt_tokens"][0] != without["prompt_tokens"][0]
    assert found["prompt_tokens"][-len(without["prompt_tokens"]):] == without["prompt_tokens"]


def test_special_tokens_only_where_asked_for():
    text = "<|user|>\nHello<|end|>"
    plain = object_of("--prompt", text, "--max-tokens", "1")["prompt_tokens"]
    special = object_of("--prompt", text, "--max-tokens", "1", "--parse-special")["prompt_tokens"]
    assert len(special) < len(plain) and not set(special) & {plain[0]}


@pytest.mark.parametrize("arguments, said", [
    (["--prompt", "a", "--file", "b"], "exclude each other"),
    (["--prompt", "a", "--tokens", "1"], "exclude each other"),
    (["--prompt", "a", "-"], "exclude each other"),
    (["hello"], "`hello` is one argument too many; is it the --prompt?"),
    (["--prompt", ""], "--prompt is ``"),
    ([], "the prompt is empty"),  # standard input has nothing
    (["--file", "/nowhere"], "/nowhere can not be read: No such file"),
    (["--file", "/"], "/ can not be read: Is a directory"),
    (["--tokens", "1,,2"], "--tokens: `` is no token id"),
    (["--tokens", "1,"], "--tokens: `` is no token id"),
    (["--tokens", "1, 2"], "--tokens: ` 2` is no token id"),
    (["--tokens", "-1"], "--tokens: `-1` is no token id"),
    (["--tokens", "99999999999"], "--tokens: `99999999999` is no token id"),
    (["--tokens", "0,2048"], "--tokens has 2048, but the model's ids go from 0 to 2047"),
    (["--tokens", "1", "--chat"], "--tokens is none"),
    (["--prompt", "a", "--chat", "--parse-special"], "exclude each other"),
    (["--prompt", "a", "--system", "b"], "--system needs --chat"),
    (["--prompt", "a", "--top-logprobs", "1"], "--top-logprobs needs --json"),
    (["--prompt", "a", "--json", "--top-logprobs", "21"], "0 to 20"),
    (["--prompt", "a", "--temperature", "2.1"], "0 to 2"),
    (["--prompt", "a", "--repetition-penalty", "0"], "0.1 to 10"),
    (["--prompt", "a", "--seed", "1x"], "--seed is `1x`"),
    (["--prompt", "a", "--seed", "9223372036854775808"], "from -9223372036854775808 to 9223372036854775807"),
    (["--prompt", "a", *["--stop", "b"] * 5], "given 4 times at most"),
    (["--prompt", "a", "--stop", ""], "--stop is ``"),
    (["--prompt", "a", "--stop", "b" * 1025], "1025 bytes, at most 1024"),
])
def test_wrong_arguments(arguments, said):
    assert said in refused("generate", *arguments)


def test_not_utf8(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"abc\xff")
    assert "byte 4 is 0xff" in refused("generate", "--file", path)


def test_too_long():
    result = run("generate", "--prompt", "a", "--max-tokens", "4000")
    assert result.returncode == 1 and result.stdout == ""
    assert "4000 new ones" in result.stderr and "context is 2048 tokens" in result.stderr
    result = run("generate", "--tokens", ",".join(["5"] * 3000))
    assert result.returncode == 1 and "the prompt has 3000 tokens" in result.stderr and "2048" in result.stderr


def test_bad_model(tmp_path):
    assert run("generate", "--prompt", "a", "--model", tmp_path).returncode == 2


@pytest.mark.parametrize("command", [["generate", "--prompt", "a"], ["chat"], ["bench"], ["serve", "--port", "0"]], ids=" ".join)
def test_settings_that_only_the_model_shows_to_be_wrong(command):
    """Are not the model's fault: the exit code says so."""
    for wrong in (["--experts-layers", "5-1"], ["--trace", "/nowhere/x"]):
        result = run(*command, *wrong)
        assert result.returncode == 64 and wrong[1] in result.stderr.replace('"', ""), result


# ---- What it says

SAMPLING = [
    {"temperature": 0},
    {"seed": 7},
    {"seed": -3, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    {"seed": 11, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": -0.5},
    {"seed": 5, "temperature": 1.2, "ignore_eos": True},
    {"seed": 2, "temperature": 1.5, "min_p": 0.3},
    {"seed": 3, "temperature": 1.5, "top_p": 0.5},
    {"seed": 4, "temperature": 1.5, "top_k": 2},
    {"temperature": 0, "repetition_penalty": 1.5},
    {"temperature": 0, "presence_penalty": 2},
    {"temperature": 0, "frequency_penalty": 2},
    {"temperature": 0, "stop": ["there", "little"]},
]


def flags(options):
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            yield from ["--" + name.replace("_", "-")] + ([] if value is True else [str(one)])


@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_as_the_server_continues(server, options):
    prompt = "Once upon a time"
    served = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 60, "logprobs": 3, **options})
    choice = served["choices"][0]
    arguments = ["--prompt", prompt, "--max-tokens", "60", *flags(options)]
    found = object_of(*arguments, "--top-logprobs", "3")
    assert told("generate", *arguments) == found["text"] == choice["text"]
    assert [token["token"] for token in found["tokens"]] == choice["logprobs"]["tokens"]
    assert [token["logprob"] for token in found["tokens"]] == choice["logprobs"]["token_logprobs"]
    for token, top in zip(found["tokens"], choice["logprobs"]["top_logprobs"]):
        assert {other["token"]: other["logprob"] for other in [token, *token["top_logprobs"]]} == top
    assert found["finish_reason"] == choice["finish_reason"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert found["usage"][count] == served["usage"][count]


@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_as_the_server_answers(server, options):
    text = "Tell me a short story."
    served = server.post("/v1/chat/completions", tandem.chat(text, max_tokens=60, logprobs=True, top_logprobs=2,
                                                             **{"temperature": 1, **options}))["choices"][0]
    found = object_of("--chat", "--prompt", text, "--max-tokens", "60", "--top-logprobs", "2", *flags(options))
    assert found["text"] == served["message"]["content"]
    for token in found["tokens"]:
        for entry in (token, *token["top_logprobs"]):
            assert isinstance(entry.pop("id"), int)
    assert found["tokens"] == served["logprobs"]["content"]


def test_json():
    found = object_of("--prompt", "The capital of France is", "--temperature", "0", "--seed", "3", "--max-tokens", "5")
    assert found.keys() == {"model", "weights", "seed", "prompt_tokens", "text", "tokens", "finish_reason", "usage",
                            "timings"}
    assert (found["model"], found["weights"], found["seed"]) == ("demo", "bf16", 3)
    assert found["text"].startswith(" Paris") and found["finish_reason"] in ("stop", "length")
    assert "".join(token["token"] for token in found["tokens"]) == found["text"]
    assert all(value >= 0 for value in found["timings"].values())
    ids = ",".join(map(str, found["prompt_tokens"]))
    again = object_of("--tokens", ids, "--temperature", "0", "--seed", "3", "--max-tokens", "5")
    assert {**again, "timings": 0} == {**found, "timings": 0}


def test_bytes_of_pieces():
    """Tokens that are no whole characters: the object is sound, and the bytes are there."""
    for seed in range(50):
        found = object_of("--prompt", "Once", "--temperature", "2", "--ignore-eos", "--max-tokens", "500", "--seed", str(seed))
        pieces = [token for token in found["tokens"] if token["token"].startswith("bytes:")]
        if pieces:
            break
    for token in pieces:
        spelt = "".join(f"\\x{byte:02x}" for byte in token["bytes"])
        assert token["token"] == "bytes:" + spelt
    whole = b"".join(bytes(token["bytes"]) for token in found["tokens"])
    assert whole.decode(errors="replace").count("\ufffd") and "\ufffd" in found["text"]


def test_seed():
    same = {told("generate", "--prompt", "Once", "--max-tokens", "40", "--seed", "1") for _ in range(2)}
    assert len(same) == 1
    other = {told("generate", "--prompt", "Once", "--max-tokens", "40", "--temperature", "2") for _ in range(4)}
    assert len(other) > 1
    found = object_of("--prompt", "Once", "--max-tokens", "40", "--temperature", "2")  # it tells the seed it drew
    assert told("generate", "--prompt", "Once", "--max-tokens", "40", "--temperature", "2",
                "--seed", str(found["seed"])) == found["text"]


def test_timings_only_where_asked_for():
    result = run(*ASK, "--prompt", FRANCE, "--verbose")
    assert result.stdout == PARIS + "\n" and result.stderr.startswith("12 prompt tokens in ") and "stopped" in result.stderr


# ---- How it ends

@pytest.fixture(scope="module")
def ramble():
    return told(*RAMBLE).encode()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ends_in_mid_answer(ramble, number, code):
    process = start(*RAMBLE)
    said = os.read(process.stdout.fileno(), 10)  # of what Python itself has read ahead communicate() does not know
    process.send_signal(number)
    rest, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert process.returncode == code and complaint == b""
    assert ramble.startswith(said + rest) and len(said + rest) < len(ramble)


def test_ends_without_half_an_object():
    process = start(*RAMBLE, "--json", "--kernels", "reference", "--verbose")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert process.returncode == 130 and said == b"" and complaint == b""


def test_ends_while_it_waits_for_input():
    process = start(*ASK, stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(tandem.PATIENCE_S) == 130
    process.communicate()


def test_ends_where_nobody_reads():
    """A full pipe, and a signal meanwhile."""
    reader, writer = os.pipe()
    while True:
        os.set_blocking(writer, False)
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    process = start(*RAMBLE, stdout=writer)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(tandem.PATIENCE_S) == 130
    for file in (reader, writer):
        os.close(file)
    process.communicate()


def test_reader_goes_away():
    process = start(*RAMBLE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(tandem.PATIENCE_S) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_cache_that_can_not_be_written(tmp_path):
    """Conversions are made again each time, which is seconds for a large model: so it is said."""
    (tmp_path / "file").write_text("")
    result = run("generate", "--weights", "int4", "--cache", tmp_path / "file" / "cache", "--prompt", "Hello", "--max-tokens", "1")
    assert result.returncode == 0 and re.fullmatch(
        rf"tandem: the next start converts the weights again: the cache was not written: {tmp_path}/file/cache.*\n", result.stderr)
    kept = ["generate", "--weights", "int4", "--cache", tmp_path / "cache", "--prompt", "Hello", "--max-tokens", "1"]
    assert run(*kept).stderr == "" == run(*kept).stderr


def test_full_disk():
    with open("/dev/full", "wb") as full:
        process = start(*RAMBLE, stdout=full)
        _, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert process.returncode == 1 and b"No space left" in complaint


# ---- On a terminal

def test_terminal():
    terminal = Terminal(*ASK, "--prompt", FRANCE)
    assert terminal.wait() == 0
    answer, timings = terminal.shown.splitlines()
    assert answer == PARIS and timings.startswith("12 prompt tokens in ")


def test_terminal_without_a_prompt():
    terminal = Terminal("generate")
    assert terminal.wait() == 64 and "there is no prompt" in terminal.shown


def test_terminal_interrupted():
    terminal = Terminal(*RAMBLE)
    terminal.wait_for(" ")
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert terminal.shown.endswith("\r\n")


def test_control_characters_are_shown(tmp_path):
    """Text with a control character in it goes through a pipe as it is, to a terminal made visible. A model that says
    Escape where the built-in one says a full stop."""
    model = shutil.copytree(tandem.MODEL, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["."], words["<0x1B>"] = words["<0x1B>"], words["."]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    arguments = [*ASK, "--model", model, "--prompt", FRANCE]
    assert told(*arguments) == PARIS.replace(".", "\x1b") + "\n"
    terminal = Terminal(*arguments)
    assert terminal.wait() == 0
    assert terminal.shown.splitlines()[0] == PARIS.replace(".", "^[") and "\x1b" not in terminal.shown
