"""--placement split: the experts on an OpenCL device, all else on the CPU; and what clients notice when that fails."""
import concurrent.futures
import json
import re
import signal
import struct
import subprocess
import time

import pytest

import tandem
from test_settings import clean_environment, refused, run

QUESTIONS = ["What is the capital of France?", "Count from one to five.", "Which is larger, 7 or 12?"]


def start(*arguments, weights="f32", **environment):
    return tandem.Server("--weights", weights, *arguments, environment=environment)


def ask(server, question):
    status, _, body = server.request("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 24})
    assert status == 200, body
    return json.loads(body)["choices"][0]["message"]["content"]


def health(server):
    status, _, body = server.request("GET", "/health")
    return status, json.loads(body)


@pytest.fixture(scope="module")
def expected():
    server = start("--placement", "cpu")
    try:
        assert health(server)[1]["status"] == "ok"
        return [ask(server, question) for question in QUESTIONS]
    finally:
        assert server.stop() == 0


MISSING = (r"there is no libOpenCL|libOpenCL\S* has no|no driver \(ICD\)|"
           r"none of OpenCL's \d+ (platforms here has a|devices here will do)")


@pytest.fixture(scope="module", autouse=True)
def device():
    """Skips where the device is missing altogether, which is no failure of it; one that is there works."""
    server = start("--placement", "split")
    try:
        failed = re.search(r"the experts run on the CPU: (.*)", server.log)
    finally:
        server.stop()
    if failed and re.search(MISSING, failed[1]):
        pytest.skip(failed[1])
    assert not failed, failed[1]


def test_answers_are_the_cpus(expected):
    server = start("--placement", "split")
    try:
        lines = re.search(r"^  devices  (.*\n(?:           .*\n)*)", server.log, re.M)[1].splitlines()
        assert len(lines) >= 3 and max(map(len, lines)) < 160 and lines[1].startswith("           experts on OpenCL: ")
        assert re.search(r"^ {11}ms for a layer's, there/on the CPU: [\d.]+/[\d.]+ for 1 row, .* for 512", lines[2])
        assert "experts on OpenCL" in server.log
        assert [ask(server, question) for question in QUESTIONS] == expected
        status, told = health(server)
        assert (status, told["status"]) == (200, "ok") and "degraded" not in told
    finally:
        assert server.stop() == 0
    assert "the experts run on the CPU" not in server.log


def test_answers_of_clblast(expected):
    """The library compiles itself for the device first, which takes a CPU some ten seconds."""
    server = start("--placement", "split", "--cl-products", "clblast")
    try:
        if "without CLBlast: there is no" in server.log:
            pytest.skip("CLBlast is not installed")
        assert "prompts by CLBlast in f32" in server.log
        assert [ask(server, question) for question in QUESTIONS] == expected
        assert health(server)[1]["status"] == "ok"
    finally:
        assert server.stop() == 0
    assert "the experts run on the CPU" not in server.log


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_answers_of_integers_are_the_cpus(weights):
    """Chats over HTTP, each alone and then all at once."""
    answers = []
    for placement in "cpu", "split":
        server = start("--placement", placement, weights=weights)
        try:
            answers.append([ask(server, question) for question in QUESTIONS])
            with concurrent.futures.ThreadPoolExecutor(len(QUESTIONS)) as clients:
                assert list(clients.map(lambda question: ask(server, question), QUESTIONS)) == answers[-1]
            assert health(server)[1]["status"] == "ok"
        finally:
            assert server.stop() == 0
        assert ("experts on OpenCL" in server.log) == (placement == "split")
    assert answers[0] == answers[1]


@pytest.mark.parametrize("call", [1500, 5000])
def test_a_device_that_is_lost_in_a_request(expected, call, tmp_path):
    """From some call of the OpenCL library on, all fail: nobody but /health and the log gets to know. Figures are made
    up, for how many calls measuring takes depends on how busy the machine is."""
    make_up(tmp_path, 1, inspect("none", "--weights", "f32")["figures_of"])
    server = start("--placement", "split", "--cache", tmp_path, TANDEM_OPENCL_FAULT=f"{call}+")
    try:
        assert health(server)[1]["status"] == "ok"
        assert [ask(server, question) for question in QUESTIONS] == expected
        status, told = health(server)
        assert (status, told["status"]) == (200, "degraded")
        assert "CL_OUT_OF_RESOURCES" in told["degraded"]
    finally:
        assert server.stop() == 0
    assert len(re.findall("the experts run on the CPU: .*; OpenCL is tried again in 10 s", server.log)) == 1


def test_a_device_that_can_not_be_used(expected, tmp_path):
    """Its kernels can not be built: the server starts all the same, and says so."""
    (tmp_path / "down.cl").write_text("this is no kernel\n")
    server = start("--placement", "split", "--cl-kernels", tmp_path)
    try:
        assert "can not be built" in server.log and "down.cl" in server.log
        assert health(server)[1]["status"] == "degraded"
        assert ask(server, QUESTIONS[0]) == expected[0]
    finally:
        assert server.stop() == 0


def test_auto_takes_no_device_that_is_a_cpu(expected):
    server = start("--placement", "auto")
    try:
        assert health(server)[1]["status"] == "ok"
        assert ask(server, QUESTIONS[0]) == expected[0]
    finally:
        assert server.stop() == 0
    assert "experts on OpenCL" not in server.log or "GPU" in server.log


def test_timeline(tmp_path):
    """Both devices' spans, of which the device's lie within the steps, and some while the CPU works on something else."""
    path = tmp_path / "trace.json"
    server = start("--placement", "split", "--trace", path)
    try:
        ask(server, "Tell me something about these towns: " + "Rome, Paris, Lima, Oslo, Cairo, " * 12)
    finally:
        assert server.stop() == 0
    events = json.loads(path.read_text())
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = [(tracks[event["tid"]], event["name"], event["ts"], event["ts"] + event["dur"]) for event in events
             if event["ph"] == "X"]
    names = {(track, name) for track, name, _, _ in spans}
    assert {("steps", "step"), ("CPU", "attention"), ("CPU", "handing over"), ("CPU", "waiting for experts"),
            ("OpenCL device", "route"), ("OpenCL device", "gate_up_many"), ("OpenCL device", "down_few")} <= names
    steps = [span for span in spans if span[0] == "steps"]
    device = [span for span in spans if span[0] == "OpenCL device" and span[2] >= steps[0][2]]  # not the trial at start
    assert all(any(step[2] <= span[2] and span[3] <= step[3] for step in steps) for span in device)
    at_work = [span for span in spans if span[0] == "CPU" and span[1] not in ("handing over", "waiting for experts")]
    assert any(work[2] < span[3] and span[2] < work[3] for span in device for work in at_work)


def test_inspect(tmp_path):
    arguments = ["inspect", "--placement", "--cache", tmp_path]
    result = run(*arguments, "--json")
    assert result.returncode == 0 and result.stderr == ""
    told = json.loads(result.stdout)["placement"]
    assert told["contradictory"] == (not list(tmp_path.iterdir()))  # as may be, where other tests run
    assert told["device"] and [point["rows"] for point in told["points"]] == [1, 8, 16, 32, 128, 512]
    assert all(point["opencl_ms"] > 0 and point["split_tokens_per_s"] > 0 for point in told["points"])
    assert told["read_gbps"] >= 0 and told["halves_from"] in (0, 8, 16, 32) and not told["from_cache"]
    keep_figures(tmp_path, told["figures_of"], told["read_gbps"] * 1e9, [
        [point["rows"], *(point[part] / 1e3 for part in ("cpu_ms", "opencl_ms", "handing_over_ms", "rest_ms")), 0]
        for point in told["points"]])
    told = inspect(tmp_path)
    text = run(*arguments).stdout
    assert told["device"] in text and len(re.findall(r"^ +\d+ .*(?:CPU|OpenCL)$", text, re.M)) == 6
    for phase, points in ("Answers", told["points"][:4]), ("Prompts", told["points"][4:]):
        slowest = max(points, key=lambda point: point["cpu_tokens_per_s"] / point["split_tokens_per_s"])
        rows, times = slowest["rows"], slowest["cpu_tokens_per_s"] / slowest["split_tokens_per_s"]
        assert slowest["on_opencl"] == (times <= 0.9)
        who = "OpenCL" if times <= 0.9 else "the CPU"
        assert re.search(rf"^{phase}: {who}, as .*\b{rows} rows? .* {times:.2f} times", text, re.M)
    assert re.search(r"as measured \d+ minutes? ago \(--cache none measures again\)", text)
    again = json.loads(run(*arguments, "--json").stdout)["placement"]
    assert again.pop("from_cache") and told.pop("from_cache") and 0 <= told.pop("age_s") <= again.pop("age_s") < 600
    assert again == told and not told["contradictory"]
    anew = run("inspect", "--placement", "--cache", "none").stdout
    assert "as measured now" in anew


def checksum(data):
    """base/checksum.h's."""
    factor, whole, lanes, result = 0x9e3779b97f4a7c15, 2**64 - 1, list(range(8)), 0
    end = len(data) // 64 * 64
    for words in struct.iter_unpack("=8Q", data[:end]):
        lanes = [(lane ^ word) * factor & whole ^ lane >> 47 for lane, word in zip(lanes, words)]
    rest = data[end:].ljust(63, b"\0") + bytes([len(data) - end])
    for lane, word in zip(lanes, struct.unpack("=8Q", rest)):
        result = (result ^ lane) * factor & whole
        result = (result ^ result >> 29 ^ word) * factor & whole
    return result ^ result >> 32


def keep_figures(directory, key, read_bytes, points):
    """A file that the next start believes, as engine/placement_cache.c writes it."""
    lines = ["tandem placement 2", key, f"{int(time.time())} {read_bytes} {len(points)}",
             *(" ".join(map(str, point)) for point in points), ""]
    text = "\n".join(lines)
    (directory / f"placement-{checksum(key.encode()):016x}").write_text(f"{text}{checksum(text.encode()):016x}\n")


def make_up(directory, device_ms, key):
    """In each of 6 layers the device takes so long for all experts (one answer's, if they are two numbers, and all
    other calls'), and the CPU 2 ms for them, 1 ms for all else and 0.1 ms to hand over."""
    one, more = device_ms if isinstance(device_ms, tuple) else (device_ms, device_ms)
    keep_figures(directory, key, 0, [
        (rows, 2e-3, (one if rows == 1 else more) * 1e-3, 1e-4, 1e-3, 0) for rows in (1, 8, 16, 32, 128, 512)])


def inspect(directory, *arguments):
    return json.loads(run("inspect", "--placement", "--json", "--cache", directory, *arguments).stdout)["placement"]


def inspect_made_up(directory, device_ms, *arguments):
    """What `inspect` says with such figures."""
    make_up(directory, device_ms, inspect("none", *arguments)["figures_of"])
    return run("inspect", "--placement", "--cache", directory, *arguments).stdout


@pytest.mark.parametrize("device_ms, answers, prompts", [
    (1, "OpenCL, as even 1 row takes 0.67 times as long with it as on the CPU alone.",
     "OpenCL, as even 128 rows take 0.39 times as long with it as on the CPU alone."),
    (1.8, "the CPU, as 1 row would take 0.93 times as long with OpenCL, too little to tell from noise.",
     "OpenCL, as even 128 rows take 0.63 times as long with it as on the CPU alone."),
    (2.1, "the CPU, as 1 row would take 1.03 times as long with OpenCL.",
     "OpenCL, as even 128 rows take 0.73 times as long with it as on the CPU alone."),
    (6, "the CPU, as 1 row would take 2.33 times as long with OpenCL.",
     "the CPU, as 128 rows would take 2.03 times as long with OpenCL.")])
def test_inspect_says_why(device_ms, answers, prompts, tmp_path):
    """In a prompt the CPU's work passes beside the device's, but for half of a layer's at the ends."""
    said = inspect_made_up(tmp_path, device_ms)
    assert f"\nAnswers: {answers}\nPrompts: {prompts}\n" in said
    assert re.findall(r"^ +\d+ .* (CPU|OpenCL)$", said, re.M) == 4 * ["OpenCL" if answers[0] == "O" else "CPU"] + \
        2 * ["OpenCL" if prompts[0] == "O" else "CPU"]


@pytest.mark.parametrize("arguments, answers, devices", [
    (["--weights", "bf16"], "the CPU, as 1 row would take 1.33 times as long with OpenCL.", 4 * ["CPU"]),
    (["--weights", "int8"], "OpenCL from 8 at once on, as even 8 rows take 0.67 times as long with it as on the CPU "
     "alone; fewer: the CPU, as 1 row would take 1.33 times as long with OpenCL.", ["CPU"] + 3 * ["OpenCL"]),
    (["--weights", "int8", "--experts-decode-from", "16"], "OpenCL from 16 at once on, as even 16 rows take 0.67 times "
     "as long with it as on the CPU alone; fewer: the CPU, as was asked for.", 2 * ["CPU"] + 2 * ["OpenCL"]),
    (["--weights", "int8", "--experts-decode-from", "64"],
     "OpenCL from 64 at once on; fewer: the CPU, as was asked for.", 4 * ["CPU"])])
def test_inspect_decides_answers_by_number(arguments, answers, devices, tmp_path):
    """One is slower on the device: that decides for all, but where the bits of both are the same."""
    said = inspect_made_up(tmp_path, (3, 1), *arguments)
    assert f"\nAnswers: {answers}\nPrompts: OpenCL" in said
    assert re.findall(r"^ +\d+ .* (CPU|OpenCL)$", said, re.M)[:4] == devices
    told = inspect(tmp_path, *arguments)
    assert told["from_cache"] and told["same_bits"] == ("int8" in arguments)
    assert told["answers_from"] == (int(answers.split()[2]) if "at once on" in answers else 0)


def test_profile_suggests_answers_by_number(tmp_path):
    (tmp_path / "questions.txt").write_text(QUESTIONS[0])
    arguments = ["profile", "--weights", "int8", "--speculate", "off", "--max-tokens", "2", tmp_path / "questions.txt"]
    told = json.loads(run(*arguments, "--json", "--cache", "none").stdout)["suggested"]
    make_up(tmp_path, (3, 1), told["figures_of"])
    told = json.loads(run(*arguments, "--json", "--cache", tmp_path).stdout)["suggested"]
    assert (told["experts_decode"], told["experts_decode_from"]) == ("opencl", 8)
    assert "    decode: opencl\n    decode_from: 8\n" in run(*arguments, "--cache", tmp_path).stdout


@pytest.mark.parametrize("arguments, answers, prompts", [
    (["--experts-opencl", "0-3"], "1 row takes 0.70", "128 rows take 0.71"),
    (["--experts-layers", "0-1"], "1 row takes 0.89", "128 rows take 0.80"),
    (["--halves-from", "8"], "8 rows take 0.73", "128 rows take 0.39")])
def test_inspect_goes_by_settings(arguments, answers, prompts, tmp_path):
    """Half of the experts; those of two layers in six; answers in halves, where the CPU's 1.1 ms are the longer part."""
    said = inspect_made_up(tmp_path, 1, *arguments)
    assert f"\nAnswers: OpenCL, as even {answers} times" in said and f"\nPrompts: OpenCL, as even {prompts} times" in said
    assert ("8 answers at once and more are split in two halves" in said) == ("8" in arguments)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_inspect_ends_while_it_measures(number, code, tmp_path):
    """A device that never answers is waited for, for a minute."""
    process = subprocess.Popen([tandem.BINARY, "inspect", "--placement", "--cache", tmp_path], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**clean_environment(), "TANDEM_OPENCL_FAULT": "1?"})
    tandem.wait_for_handlers(process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(number)
    said, complaint = process.communicate(timeout=tandem.PATIENCE_S)
    assert (process.returncode, said) == (code, "") and not list(tmp_path.iterdir())
    assert complaint == "tandem: TANDEM_OPENCL_FAULT in the environment is no setting\n"


@pytest.mark.parametrize("way", ["auto", "cpu", "split"])
def test_inspect_takes_no_way(way, tmp_path):
    """As other commands do; unless there is such a directory."""
    message = refused("inspect", "--placement", way)
    assert f"--placement takes no value here, and there is no directory `{way}`" in message
    assert "but must be true or false" in refused("inspect", f"--placement={way}")
    (tmp_path / way).mkdir()
    result = subprocess.run([tandem.BINARY, "inspect", "--placement", way], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2 and "takes no value" not in result.stderr and way in result.stderr


def test_lists_that_do_not_fit_the_model(tmp_path):
    """It is known only once the model is; all the same it is said where they stand."""
    config = tmp_path / "x.yaml"
    for key, value, said in (("layers", "[0-3, 6]", 'layers are "0-3,6"; expected numbers from 0 to 5'),
                             ("opencl", '"0:8"', 'experts are "0:8"; expected numbers from 0 to 7')):
        config.write_text(f"engine:\n  experts:\n\n    {key}: {value}\n")
        assert f"serve: {config}:4: engine.experts.{key}: {said}" in refused("serve", "--config", config, "--port", "0")
        assert f"bench: --experts-{key}: {said}" in refused("bench", f"--experts-{key}", said.split('"')[1])
        variable = f"TANDEM_EXPERTS_{key.upper()}"
        assert f"bench: {variable}: {said}" in refused("bench", **{variable: said.split('"')[1]})


@pytest.mark.parametrize("arguments", [["--cl-weights", "staged"], ["--halves-from", "2", "--bus-share", "on"]],
                         ids=["staged", "halves"])
def test_other_ways(expected, arguments):
    """Weights that do not stay on the device; answers in halves, and the bus shared: alone and at once."""
    server = start("--placement", "split", *arguments)
    try:
        assert ("weights staged" in server.log) == ("staged" in arguments)
        assert [ask(server, question) for question in QUESTIONS] == expected
        with concurrent.futures.ThreadPoolExecutor(len(QUESTIONS)) as clients:
            assert list(clients.map(lambda question: ask(server, question), QUESTIONS)) == expected
        assert health(server)[1]["status"] == "ok"
    finally:
        assert server.stop() == 0


def test_bench_shows_the_device():
    """Calls of the device, and what of the CPU's time passed beside them, is lost in waiting, is left to it."""
    arguments = ["bench", "--quick", "--profile", "--runs", "1", "--placement", "split", "--bus-share", "on",
                 "--halves-from", "8"]
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"OpenCL, a step: ([\d.]+) calls \(([\d.]+) of halved answers\); the CPU worked ([\d.]+) ms beside "
                       r"them, waited ([\d.]+) ms in\n +([\d.]+) waits for them, and left them the bus for ([\d.]+) ms, "
                       r"([\d.]+) times", result.stdout)
    rows = [[float(value) for value in row] for row in shown]
    layers = 6
    assert [row[:2] for row in rows] == [[layers, 0], [2 * layers, 0], [2 * layers, 0], [layers, 0],
                                         [2 * layers, 2 * layers]]  # prompts of 16, 128, 512; 1 and 8 answers
    assert all(row[4] == row[0] for row in rows)  # a wait for each call
    assert all((row[2] > 0) == (row[0] > layers) for row in rows)  # one part leaves nothing to do beside it


def test_phases():
    server = start("--placement", "cpu", "--experts-prefill", "opencl", "--experts-layers", "0,2-3")
    try:
        assert "experts in prefill on OpenCL" in server.log
        assert health(server)[1]["status"] == "ok"
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_experts_of_both_devices(weights):
    """Some experts here, some there: the same answers, alone and at once."""
    answers = []
    for arguments in (["cpu"], ["split", "--experts-opencl", "0-2:0-3;3-5:1,4-6"]):
        server = start("--placement", *arguments, weights=weights)
        try:
            answers.append([ask(server, question) for question in QUESTIONS])
            with concurrent.futures.ThreadPoolExecutor(len(QUESTIONS)) as clients:
                assert list(clients.map(lambda question: ask(server, question), QUESTIONS)) == answers[-1]
            assert health(server)[1]["status"] == "ok"
        finally:
            assert server.stop() == 0
    assert "some experts on OpenCL" in server.log and answers[0] == answers[1]
