"""OpenCL is asked for where it has no driver: all starts, says why the CPU has the experts, and answers as it does."""
import json
import re

import pytest

import tandem
from test_settings import run
from test_split import MISSING, QUESTIONS, ask, health

WHY = r"the experts run on the CPU: (.*)"


@pytest.fixture(params=["none", "missing", "broken"])
def drivers(request, tmp_path):
    """A directory of drivers' names for the loader: an empty one, none at all, or one that names what is not there."""
    if request.param == "broken":
        (tmp_path / "gone.icd").write_text("/nowhere/libgone.so\n")
    return str(tmp_path / "nothing" if request.param == "missing" else tmp_path) + "/"


def test_serve(drivers):
    answers = []
    for placement, environment in ("cpu", {}), ("split", {"OCL_ICD_VENDORS": drivers}):
        server = tandem.Server("--placement", placement, environment=environment)
        try:
            answers.append([ask(server, question) for question in QUESTIONS])
            status, told = health(server)
        finally:
            assert server.stop() == 0
        why = re.findall(WHY, server.log)
        assert status == 200 and told["status"] == ("degraded" if placement == "split" else "ok")
        assert len(why) == (placement == "split")
    assert re.search(MISSING, why[0]) and why[0] == told["degraded"]
    assert "is tried again" not in server.log  # a driver does not come by itself
    assert answers[0] == answers[1]


def test_auto_does_not_mind(drivers):
    server = tandem.Server("--placement", "auto", environment={"OCL_ICD_VENDORS": drivers})
    try:
        assert health(server)[1]["status"] == "ok"
    finally:
        assert server.stop() == 0
    assert not re.search(WHY, server.log)


def test_generate_and_inspect(drivers):
    arguments = ["generate", "--chat", "--temperature", "0", "--prompt", QUESTIONS[0], "--max-tokens", "8"]
    alone, split = run(*arguments), run(*arguments, "--placement", "split", OCL_ICD_VENDORS=drivers)
    assert alone.returncode == split.returncode == 0 and alone.stdout == split.stdout
    assert re.search(MISSING, re.search(WHY, split.stderr)[1])
    result = run("inspect", "--placement", "--cache", "none", "--json", OCL_ICD_VENDORS=drivers)
    told = json.loads(result.stdout)["placement"]
    assert result.returncode == 0 and re.search(MISSING, told["why"]) and told["device"] == ""
    assert all(point["cpu_tokens_per_s"] > 0 and not point["on_opencl"] for point in told["points"])
