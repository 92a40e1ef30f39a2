"""The program as a process: its arguments, what it says of a model it cannot take, and how it ends."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import threading
import urllib.parse

import pytest

import tandem


def run(*arguments):
    return subprocess.run([tandem.BINARY, *arguments], capture_output=True, text=True, timeout=tandem.PATIENCE_S,
                          stdin=subprocess.DEVNULL)


def test_version():
    version = run("--version")
    assert version.returncode == 0 and re.search(r"\d+\.\d+\.\d+", version.stdout)


@pytest.mark.parametrize("arguments, named", [
    (["frobnicate"], "frobnicate"), (["serve", "--frobnicate"], "--frobnicate"), (["serve", "--port"], "port"),
    (["serve", "--port", "seventy"], "seventy"), (["serve", "--port", "70000"], "70000"),
    (["serve", "--weights", "int1"], "int1"), (["serve", "stray"], "stray"), ([], "serve"),
    (["help", "frobnicate"], "frobnicate"), (["serve", "--model", ""], "--model")])
def test_wrong_arguments(arguments, named):
    wrong = run(*arguments)
    assert wrong.returncode == 64 and named in wrong.stderr + wrong.stdout


def test_name(server):
    """As ps, top and pkill know it."""
    assert (tandem.pathlib.Path("/proc") / str(server.process.pid) / "comm").read_text() == "tandem\n"


def test_names_that_clients_may_use(serve):
    """The first stands in what is answered, all are taken; the directory's is none of them any more."""
    server = serve("--model-name", "gpt-4o, openai/gpt-4o,örtlich")
    assert [model["id"] for model in json.loads(server.request("GET", "/v1/models")[2])["data"]] == ["gpt-4o"]
    for name in ("gpt-4o", "openai/gpt-4o", "örtlich"):
        answer = server.post("/v1/completions", {"model": name, "prompt": "a", "max_tokens": 1})
        assert answer["model"] == "gpt-4o"
        assert json.loads(server.request("GET", f"/v1/models/{urllib.parse.quote(name)}")[2])["id"] == "gpt-4o"
    for name in ("demo", "gpt-4o, openai/gpt-4o,örtlich", "gpt", "openai/gpt-4o,", ""):
        status, _, body = server.request("POST", "/v1/completions", {"model": name, "prompt": "a", "max_tokens": 1})
        error = tandem.check_error(body)
        assert status == 404 and error["code"] == "model_not_found"
        assert error["message"].endswith("this server has 'gpt-4o', 'openai/gpt-4o', 'örtlich'")
    assert "serves gpt-4o on" in server.log


@pytest.mark.parametrize("names", [",", "a,,b", "a, ", " ", "x" * 201])
def test_names_that_are_none(names):
    wrong = run("serve", "--port", "0", "--model-name", names)
    assert wrong.returncode == 64 and names[:200] in wrong.stderr and "1 to 200 bytes" in wrong.stderr


def test_no_such_host():
    wrong = run("serve", "--model", tandem.MODEL, "--host", "no.such.host.invalid")
    assert wrong.returncode == 64 and "no.such.host.invalid" in wrong.stderr


def test_an_address_of_another_machine():
    wrong = run("serve", "--model", tandem.MODEL, "--host", "192.0.2.1")
    assert wrong.returncode == 64 and "192.0.2.1" in wrong.stderr


@pytest.fixture
def copy(tmp_path):
    """A copy of the model directory that a test may damage."""
    return shutil.copytree(tandem.MODEL, tmp_path / "model")


def refused(directory, *named):
    result = run("serve", "--port", "0", "--model", directory)
    assert result.returncode == 2, result
    for name in named:
        assert name in result.stderr, result.stderr
    assert result.stderr.count("\n") <= 2  # one message
    return result.stderr


def edit_json(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def test_no_such_directory(tmp_path):
    refused(tmp_path / "nowhere", "nowhere")


def test_a_name_on_hugging_face_is_no_directory():
    refused("microsoft/Phi-tiny-MoE-instruct", "/microsoft/Phi-tiny-MoE-instruct: ", "no such directory",
            "hf download microsoft/Phi-tiny-MoE-instruct --local-dir Phi-tiny-MoE-instruct\n")
    assert "hf download" not in refused("./microsoft/x", "no such directory") + refused("a/b/c", "no such directory")


def test_what_else_is_no_model(copy, tmp_path):
    refused(copy / "config.json", f"{copy}/config.json: is a file; expected a directory that holds config.json")
    (tmp_path / "other").mkdir()
    refused(tmp_path / "other", f"{tmp_path}/other: holds no config.json; expected")
    (tmp_path / "other" / "phi.Q4_0.gguf").touch()
    refused(tmp_path / "other", f"{tmp_path}/other: holds GGUF files, which are not read; expected")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "loop: can not be examined")


def test_git_lfs_pointer(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7516000000\n")
    refused(copy, "model.safetensors", "git lfs pull")


def test_empty_directory(tmp_path):
    refused(tmp_path, "config.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(copy, name):
    (copy / name).unlink()
    refused(copy, name.split(".")[0])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "nonsense", "\0", "[" * 100000])
def test_damaged_json(copy, name, content):
    (copy / name).write_text(content)
    refused(copy, name)


@pytest.mark.parametrize("changes, found", [
    ({"model_type": "llama"}, "llama"), ({"model_type": ...}, "model_type"), ({"hidden_size": -1}, "hidden_size"),
    ({"hidden_size": 1 << 40}, "hidden_size"), ({"num_hidden_layers": 0}, "num_hidden_layers"), ({"num_hidden_layers": "six"}, "num_hidden_layers"),
    ({"num_local_experts": 1 << 20}, "num_local_experts"), ({"vocab_size": 10}, "10"), ({"intermediate_size": 7}, "7"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, "longrope")])
def test_wrong_config(copy, changes, found):
    edit_json(copy / "config.json", **changes)
    refused(copy, found)


def test_weights_cut_off(copy):
    path = copy / "model.safetensors"
    size = path.stat().st_size
    for keep in (0, 4, 8, 100, size // 2, size - 1):
        with open(path, "r+b") as file:
            file.truncate(keep)
        refused(copy, "model.safetensors")


def test_weights_with_a_wrong_header(copy):
    path = copy / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])

    def put(changed):
        text = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length:])

    name = "model.norm.weight"
    for changes in ({"shape": [1]}, {"dtype": "I64"}, {"data_offsets": [0, 1 << 60]}, {"data_offsets": [-8, 0]},
                    {"data_offsets": [8, 0]}, {"shape": [1 << 40, 1 << 40]}, {"shape": "x"}):
        put({**header, name: {**header[name], **changes}})
        refused(copy, name)
    put({key if key != name else "something.else": value for key, value in header.items()})
    refused(copy, name)
    put(b"[" * 100)
    refused(copy, "model.safetensors")
    path.write_bytes(struct.pack("<Q", 1 << 63) + raw[8:])
    refused(copy, "model.safetensors")


def test_port_in_use(server):
    result = run("serve", "--port", str(server.port), "--model", tandem.MODEL)
    assert result.returncode == 1 and str(server.port) in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_stop(serve, number):
    server = serve()
    assert server.stop(number) == 0 and not server.listens()


def test_stop_drains(serve):
    """What runs is finished, word for word; nothing new is taken; the exit status is 0."""
    server = serve()
    options = {"max_tokens": 150, "temperature": 1, "seed": 4, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    alone = server.say(**options)
    connection, stream = server.open_stream(receive_bytes=2048, **options)
    server.process.send_signal(signal.SIGTERM)
    while server.listens():
        pass
    stream += tandem.read_all(connection)
    chunks, done = tandem.events(tandem.body_of(stream))
    assert done and tandem.text_of(chunks) == alone
    assert server.wait() == 0


def test_stop_has_a_limit(serve):
    """What does not end within the limit gets an error event, and the process ends all the same."""
    server = serve("--drain-seconds", "1")
    connection = server.held_stream()
    assert server.stop() == 0
    connection.close()


def test_weights_formats(serve, server):
    """f32 and bf16 hold the same weights where the file is bf16. The first token's log-probabilities differ by what a
    prompt's activations lose in bf16, on machines that multiply in it: a part in 256 each, some hundredths here."""
    body = tandem.chat("Hello!", max_tokens=1, logprobs=True, top_logprobs=5)
    answers = [one.post("/v1/chat/completions", body) for one in (serve("--weights", "f32"), server)]
    wide, narrow = ([(top["token"], top["logprob"]) for top in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
                    for answer in answers)
    assert [token for token, _ in wide] == [token for token, _ in narrow]
    assert all(abs(a - b) < 0.15 for (_, a), (_, b) in zip(wide, narrow))


def test_a_model_file_that_shrinks(copy):
    """Nothing can be computed any more; but it ends with a word, not with a core dump."""
    server = tandem.Server(model=copy)
    with open(copy / "model.safetensors", "r+b") as weights:
        weights.truncate(100_000)
    with pytest.raises((OSError, http.client.HTTPException)):
        server.post("/v1/completions", {"prompt": "Once upon a time"})
    assert server.wait() == 2 and "was shortened" in server.log


def test_stop_while_the_model_is_loaded(tmp_path):
    """As soon as the model's file is seen to be mapped; now and then it may be loaded already, which ends as well."""
    for i in range(6):
        where = ["--unix-socket", str(tmp_path / "socket")] if i % 2 else ["--port", "0"]
        process = subprocess.Popen([tandem.BINARY, "serve", "--config", "none", "--model", tandem.MODEL, *where],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while ".safetensors" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
        assert not (tmp_path / "socket").exists()


def test_second_interrupt_ends_at_once():
    server = tandem.Server()
    holder = server.held_stream()
    server.process.send_signal(signal.SIGINT)
    server.wait_until(lambda: "shutting down" in server.log)
    assert server.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert "stopped at once; 1 request was cut off" in server.log
    holder.close()


def cores():
    """CPUs of each core that this process may run on; None where that is not told, or they differ in speed."""
    found, speeds = {}, set()
    for cpu in os.sched_getaffinity(0):
        top = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}")
        try:
            name = tuple((top / "topology" / part).read_text() for part in ("physical_package_id", "core_id"))
        except OSError:
            return None
        speeds.update(path.read_text() for path in (top / "cpu_capacity", top / "cpufreq/cpuinfo_max_freq")
                      if path.exists())
        found.setdefault(name, set()).add(cpu)
    return sorted(found.values(), key=min) if len(speeds) < 2 else None


def kept_to_a_core(server, all_cores):
    """The cores that single threads of the server's keep to, in order."""
    where = [os.sched_getaffinity(int(task.name)) for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()]
    return sorted((cpus for cpus in where if cpus in all_cores), key=min)


@pytest.mark.parametrize("threads, told", [(1, False), (len(os.sched_getaffinity(0)) + 1, True)])
def test_threads_that_take_turns_are_told(serve, threads, told):
    assert ("take turns" in serve("--threads", str(threads)).log) == told


@pytest.mark.parametrize("arguments, each", [((), True), (("--placement", "split"), True), (("--pin", "off"), False),
                                             (("--threads", "1"), False)])
def test_threads_keep_to_their_cores(serve, arguments, each):
    """And none but those that compute."""
    all_cores = cores()
    if not all_cores or len(all_cores) < 2:
        pytest.skip("there are no two cores, or they may differ")
    server = serve(*arguments, *(() if "--threads" in arguments else ("--threads", str(len(all_cores)))))
    assert server.say("Hello!")
    assert kept_to_a_core(server, all_cores) == (all_cores if each else [])
    assert ("each thread keeps to a core of its own" in server.log) == each
    assert len(list(pathlib.Path(f"/proc/{server.process.pid}/task").iterdir())) > len(all_cores)
