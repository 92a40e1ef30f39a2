"""--weights and --cache: what is chosen and why, and conversions that are found again at the next start."""
import os
import re
import resource

import pytest

import tandem


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "cache"


def the_file(cache, weights="int8"):
    found = list(cache.iterdir())
    assert len(found) == 1 and re.fullmatch(rf"{tandem.MODEL.name}-[0-9a-f]{{8}}-{weights}\.weights", found[0].name), found
    return found[0]


def note(server):
    return re.search(r"^  cache +(.*)$", server.log, re.M)[1]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_cache(serve, cache, weights):
    first = serve("--weights", weights, "--cache", cache)
    path = the_file(cache, weights)
    assert note(first) == f"made: {path}"
    answer = first.say()
    second = serve("--weights", weights, "--cache", cache)
    assert note(second) == f"mapped from {path}"
    assert second.say() == answer
    assert re.search(rf"^  weights +{weights}, ", second.log, re.M)


def test_formats_share_a_directory(serve, cache):
    for weights in "int8", "int4":
        serve("--weights", weights, "--cache", cache)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("how", ["weights", "cut", "empty"])
def test_damaged(serve, cache, how):
    answer = serve("--weights", "int8", "--cache", cache).say()
    path = the_file(cache)
    content = path.read_bytes()
    damaged = {"weights": content[:99999] + bytes([content[99999] ^ 4]) + content[100000:],
               "cut": content[:-4096], "empty": b""}[how]
    path.unlink()  # the first server goes on with what it has mapped or made
    path.write_bytes(damaged)
    again = serve("--weights", "int8", "--cache", cache)
    assert note(again).startswith("made again: ") and again.say() == answer
    assert the_file(cache).read_bytes() == content
    assert note(serve("--weights", "int8", "--cache", cache)) == f"mapped from {path}"


def test_other_model(serve, cache, tmp_path):
    """The same directory holds another model now: its file's time, or its content, has changed."""
    model = tmp_path / tandem.MODEL.name
    model.mkdir()
    for file in tandem.MODEL.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    serve("--weights", "int8", "--cache", cache, model=model)
    assert note(serve("--weights", "int8", "--cache", cache, model=model)).startswith("mapped from")
    weights = model / "model.safetensors"
    before, content = weights.stat(), bytearray(weights.read_bytes())
    content[8 * 2**20 + 100] ^= 1  # among the samples
    for change in (lambda: os.utime(weights, (1, 1)),
                   lambda: (weights.write_bytes(content), os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns)))):
        change()
        assert note(serve("--weights", "int8", "--cache", cache, model=model)).startswith("made: ")
        the_file(cache)


def test_full_disk_only_costs_the_cache(cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        server = tandem.Server("--weights", "int8", "--cache", cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert note(server).startswith("not written: ") and "File too large" in note(server)
    assert server.say() and list(cache.iterdir()) == []
    assert server.stop() == 0


def test_no_cache(serve):
    assert "  cache " not in serve("--weights", "int8", "--cache", "none").log


@pytest.mark.skipif(tandem.MODEL.name != "demo", reason="what is chosen depends on the model's size")
def test_auto(serve, cache):
    server = serve("--cache", cache)
    assert re.search(r"^  weights +bf16, ", server.log, re.M)
    assert re.search(r"^ +chosen: bf16, 10\.8 MB of [\d.]+ GB free: the model is small$", server.log, re.M)
    assert not cache.exists()
    assert "chosen" not in serve("--weights", "bf16").log


@pytest.mark.parametrize("kernels", ["plain", "avx2", "avx-vnni", "avx512", "amx"])
def test_forced_kernels(cache, kernels):
    try:
        server = tandem.Server("--weights", "int4", "--cache", "none", "--kernels", kernels)
    except RuntimeError as refusal:
        assert f"lacks the instructions for the {kernels} kernels" in str(refusal)
        return
    assert server.say("What is the capital of France?").startswith("The capital of France is")
    assert server.stop() == 0
