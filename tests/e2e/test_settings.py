"""Settings from a file, the environment and flags, and what the program says of them and of itself."""
import os
import re
import shutil
import subprocess

import pytest

import tandem

CONFIGS = tandem.TOP / "configs"
TOPICS = ["settings", "parameters", "metrics", "errors", "exit-codes", "yaml", "man"]


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}


def run(*arguments, binary=tandem.BINARY, **environment):
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=tandem.PATIENCE_S,
                          stdin=subprocess.DEVNULL, env={**clean_environment(), **environment})


def told(*arguments, **more):
    """What a command prints that goes well and has nothing to complain of."""
    result = run(*arguments, **more)
    assert result.returncode == 0 and result.stderr == "", result
    return result.stdout


def refused(*arguments, **more):
    """The message of a command that is called wrongly."""
    result = run(*arguments, **more)
    assert result.returncode == 64 and result.stdout == "", result
    return result.stderr


def test_serve_says_that_no_file_was_wanted(server):
    assert "  settings none (--config none)\n" in server.log and "65536 tokens" in server.log and "MB when full" in server.log


@pytest.mark.parametrize("arguments", [["help"], ["help", "man"], ["serve", "--help"], ["version"], ["--version"],
                                       ["inspect"], ["inspect", "--json"],
                                       ["bench", "--quick", "--synthetic", "phi-toy-moe", "--kernels", "reference"]], ids=" ".join)
def test_what_can_not_be_printed(arguments):
    with open("/dev/full", "wb") as full:
        result = subprocess.run([tandem.BINARY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=tandem.PATIENCE_S, stdin=subprocess.DEVNULL, env=clean_environment())
    name = "help" if arguments == ["help", "man"] else arguments[0].removeprefix("--")
    assert re.fullmatch(rf"tandem {name}: standard output can not be written(: No space left on device)?\n", result.stderr)
    assert result.returncode == 1


@pytest.mark.parametrize("arguments", [["inspect"], ["generate", "--prompt", "Once", "--max-tokens", "1"]], ids=" ".join)
def test_closed_output(arguments):
    """No file that is opened later takes its place."""
    result = subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', tandem.BINARY, *arguments], stderr=subprocess.PIPE,
                            text=True, timeout=tandem.PATIENCE_S, stdin=subprocess.DEVNULL, env=clean_environment())
    said = f"tandem {arguments[0]}: standard output can not be written: Bad file descriptor\n"
    assert result.returncode == 1 and result.stderr == said, result


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "x.yaml").write_text(text)
        return tmp_path / "x.yaml"
    return write


# ---- The file

def test_file_of_the_repository():
    """Every setting is in it, as the program has it: `tandem help yaml >configs/tandem.yaml` brings it up to date."""
    assert told("help", "yaml") == (CONFIGS / "tandem.yaml").read_text()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_files_are_taken(serve, path):
    assert f"settings {path}" in serve("--config", path, "--threads", "1").log


def test_profiles_depart_from_the_defaults():
    """A profile says nothing that is so without it, and what it says of memory adds up."""
    defaults = dict(re.findall(r"^  (\w+): (.+)$", told("help", "yaml"), re.MULTILINE))
    text = (CONFIGS / "core-ultra-9-185h.yaml").read_text()
    own = dict(re.findall(r"^  (\w+): (.+)$", text, re.MULTILINE))
    assert own and all(defaults[key] != value for key, value in own.items()), own
    each_kib, most_gib = map(int, re.search(r"values are (\d+) KiB in Phi-tiny-MoE, so that this is (\d+) GiB", text).groups())
    assert own["kv_tokens"] == f"{most_gib * 1024 // each_kib}K"
    sides, heads, head_size, bytes_each, layers = 2, 4, 128, 2, 32  # Phi-tiny-MoE's, in f16
    assert each_kib * 1024 == sides * heads * head_size * bytes_each * layers


def test_file_then_environment_then_flag(config):
    """What is wrong later than the file shows which of them has the last word: nothing is served here."""
    path = config("server:\n  host: a.invalid\n")
    by_file = ["serve", "--config", path]
    assert "a.invalid" in refused(*by_file)
    assert "b.invalid" in refused(*by_file, TANDEM_HOST="b.invalid")
    assert "c.invalid" in refused(*by_file, "--host", "c.invalid", TANDEM_HOST="b.invalid")
    assert "a.invalid" in refused("serve", TANDEM_CONFIG=str(path))
    assert "b.invalid" in refused("serve", "--config", "none", "--host", "b.invalid", TANDEM_CONFIG=str(path))


@pytest.mark.parametrize("text, named", [
    ("server:\n  port: 1\n  prot: 1\n", "x.yaml:3: unknown key `prot` in `server` (did you mean `port`?); keys there are: "
                                        "host, port, unix_socket, unix_socket_mode, connections_max, "),
    ("sever:\n", "x.yaml:1: unknown section `sever` (did you mean `server`?); sections are: model, engine, server"),
    ("engine:\n  queue: 65537\n", "x.yaml:2: engine.queue is `65537`, but must be a whole number from 1 to 65536"),
    ("model:\n  weights: int1\n", "x.yaml:2: model.weights is `int1`, but must be one of: auto f32 bf16 int8 int4"),
    ("server:\n  port: 1\n  port: 2\n", "x.yaml:3: `port` stands here a second time"),
    ("server:\n  threads: 4\n", "x.yaml:2: unknown key `threads` in `server` (it belongs in `engine`); keys there are: host, "),
    ("port: 9000\n", "x.yaml:1: unknown section `port` (it belongs in `server`); sections are: model, engine, server"),
    ("server: {\n", "x.yaml:2: "),
])
def test_wrong_file(config, text, named):
    assert named in refused("serve", "--config", config(text))


def test_paths_are_relative_to_the_file(tmp_path, serve, monkeypatch):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "it").symlink_to(tandem.MODEL)
    path = tmp_path / "place" / "x.yaml"
    path.write_text("model:\n  path: it\n")
    monkeypatch.chdir(tmp_path)
    assert serve("--config", "place/x.yaml", model=None).say("What is the capital of France?", model="demo")
    path.write_text("model:\n  path: nowhere\n")
    wrong = run("serve", "--config", path, "--port", "0")
    assert wrong.returncode == 2 and f"{tmp_path}/place/nowhere: " in wrong.stderr


def test_home(tmp_path, monkeypatch):
    for arguments in (["--model=~/nowhere"], ["--model", "~/nowhere"], ["--model", f"{tmp_path}/nowhere"]):
        wrong = run("serve", "--config", "none", "--port", "0", *arguments, HOME=str(tmp_path))
        assert wrong.returncode == 2 and f"{tmp_path}/nowhere: " in wrong.stderr
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/nowhere: " in run("serve", "--port", "0", "--model", "nowhere").stderr  # whole, too


def test_the_file_that_readme_shows(config, serve):
    shown = re.search(r"^    (engine: \{.*\}\})$", (tandem.TOP / "README.md").read_text(), re.MULTILINE)[1]
    path = config(shown + "\n")
    assert f"settings {path}" in serve("--config", path, "--threads", "1").log


def test_empty_variables_are_as_if_unset(config):
    path = config("server:\n  host: a.invalid\n")
    assert "a.invalid" in refused("serve", "--config", path, TANDEM_HOST="", TANDEM_PORT="", TANDEM_WEIGHTS="")


def test_settings_of_other_commands():
    assert "--config is one of tandem serve, health\n" in refused("inspect", "--config", "none")
    assert " is one of " not in refused("inspect", "--nothing", "x") + refused("serve", "--port", "x")


@pytest.mark.parametrize("command", ["serve", "chat", "bench"])
def test_an_argument_that_was_meant_as_the_model(command):
    assert "`some/model` is one argument too many; is it the --model?" in refused(command, "some/model")


def test_no_such_file(tmp_path):
    assert str(tmp_path / "none.yaml") in refused("serve", "--config", tmp_path / "none.yaml")


def test_file_beside_the_program(tmp_path):
    """As in a build tree: configs/ lies where the program's directory does. Another program has another file."""
    if tandem.SANITIZED:
        pytest.skip("a sanitized program is large to copy, and it is a matter of paths only")
    (tmp_path / "build").mkdir()
    (tmp_path / "configs").mkdir()
    binary = shutil.copy(tandem.BINARY, tmp_path / "build" / "tandem")
    (tmp_path / "configs" / "tandem.yaml").write_text("server:\n  host: beside.invalid\n")
    assert "beside.invalid" in refused("serve", binary=binary)
    assert "flag.invalid" in refused("serve", "--host", "flag.invalid", binary=binary)


def test_misspelt_variable():
    result = run("version", TANDEM_PROT="1", TANDEM_SERVICE_HOST="1")
    assert result.returncode == 0
    other = run("version", TANDEM_FOO="1", TANDEM_BUSY="1")
    assert other.stderr.count("is no setting\n") == 2 and "mean" not in other.stderr
    assert "TANDEM_PROT in the environment is no setting; did you mean TANDEM_PORT?\n" in result.stderr
    assert "TANDEM_SERVICE_HOST in the environment is no setting\n" in result.stderr
    assert told("version", TANDEM_PORT="1") and told("help", TANDEM_PROT="1")


# ---- Help

def test_overview():
    text = told("help")
    assert text == told("--help") == told("-h")
    for name in ["serve", "version", *TOPICS]:
        assert f"\n  {name} " in text
    for code in (0, 1, 2, 64, 130, 143):
        assert f"\n  {code} " in text
    assert run().returncode == 64 and run().stderr == text and run().stdout == ""
    assert told("help", "--help") == told("help", "-h") == text


def test_help_is_on_one_thing_at_a_time():
    assert "`inspect` is one argument too many" in refused("help", "serve", "inspect")


def test_exit_codes_have_a_heading():
    first, empty, *codes = told("help", "exit-codes").splitlines()
    assert first.endswith(":") and empty == "" and all(code.startswith("  ") for code in codes)


def test_the_manual_knows_both_places_of_the_file():
    text = told("help", "man")
    assert "configs/tandem.yaml" in text.split(".SH FILES")[1] and "/etc/tandem/tandem.yaml" in text.replace("\\", "")


@pytest.mark.parametrize("topic", TOPICS)
def test_topics(topic):
    text = told("help", topic)
    assert text.endswith("\n") and "(null)" not in text and "\x1b" not in text
    if topic != "man":
        assert max(map(len, text.splitlines())) <= (100 if topic == "yaml" else 80)


def commands():
    return re.findall(r"^  ([a-z]+) ", told("help").split("tandem help TOPIC")[0], re.MULTILINE)


def test_commands_explain_themselves():
    for command in commands():
        if command == "help":
            continue
        text = told(command, "--help")
        assert text == told("help", command) == told(command, "-h")
        assert text.startswith(f"tandem {command}: ") and f"Usage: tandem {command}" in text
        words = [line for line in text.splitlines() if not re.match(r"  .*\btandem ", line)]  # no examples
        assert max(map(len, words)) <= 80, command
        for line in re.findall(r"^  (?:\w+=\S+ )*tandem (.*)", text, re.MULTILINE):  # examples
            for flag in re.findall(r"(--[a-z-]+)", line):
                assert f"\n  {flag}" in text, line


def test_parameters():
    text = told("help", "parameters")
    assert "\n  temperature " in text and "\n  logit_bias " in text and "|" not in text


def test_errors():
    text = told("help", "errors")
    assert re.search(r"^400 +context_length_exceeded \(invalid_request_error\)\n +the prompt", text, re.MULTILINE)
    assert re.search(r"^429 +rate_limit_exceeded ", text, re.MULTILINE)


def test_man_page():
    """roff takes it without a warning, and every flag of every command is in what it prints."""
    source = told("help", "man")
    assert source.startswith(".TH TANDEM 1 ")
    if not shutil.which("groff"):
        pytest.skip("groff is not here")
    page = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=100n"], input=source,
                          capture_output=True, text=True, timeout=tandem.PATIENCE_S)
    assert page.returncode == 0 and page.stderr == ""
    for flag in re.findall(r"^  (--[a-z-]+)", told("help", "settings"), re.MULTILINE):
        assert flag in page.stdout, flag
    assert "EXIT STATUS" in page.stdout


@pytest.mark.parametrize("arguments, meant", [
    (["srve"], "did you mean serve?"), (["hepl"], "did you mean help?"), (["help", "eror"], "there is no help on `eror`"),
    (["help", "erors"], "did you mean errors?"), (["serve", "--prot", "1"], "did you mean --port?"),
    (["serve", "--hepl"], "did you mean --help?")])
def test_misspelt(arguments, meant):
    assert meant in refused(*arguments)
