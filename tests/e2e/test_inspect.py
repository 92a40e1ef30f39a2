"""tandem inspect: what a model is, and whether it fits, from headers alone.

The large models are files of the published shapes with nothing in them: headers, and a length.
"""
import json
import lzma
import re
import shutil
import struct

import pytest

import tandem
from test_settings import run, told

LAYERS, HIDDEN, EXPERTS, VOCAB = 32, 4096, 16, 32064
SHAPES = {  # heads, heads of keys and values, expert width, context, window, published parameters in billions
    "tiny": (16, 4, 448, 4096, 2047, 3.8),
    "mini": (32, 8, 960, 4096, 2047, 7.6),
    "3.5": (32, 8, 6400, 131072, 131072, 41.9),
}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "short_mscale": 1.243,
            "long_mscale": 1.243, "original_max_position_embeddings": 4096}


def tensors(heads, kv_heads, width, layers=LAYERS):
    yield "model.embed_tokens", [VOCAB, HIDDEN], False
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm", [HIDDEN], True
        yield f"{at}.post_attention_layernorm", [HIDDEN], True
        for name, rows, columns in (("q", heads * 128, HIDDEN), ("k", kv_heads * 128, HIDDEN),
                                    ("v", kv_heads * 128, HIDDEN), ("o", HIDDEN, heads * 128)):
            yield f"{at}.self_attn.{name}_proj", [rows, columns], True
        yield f"{at}.block_sparse_moe.gate", [EXPERTS, HIDDEN], False
        for expert in range(EXPERTS):
            for name, shape in (("w1", [width, HIDDEN]), ("w2", [HIDDEN, width]), ("w3", [width, HIDDEN])):
                yield f"{at}.block_sparse_moe.experts.{expert}.{name}", shape, False
    yield "model.norm", [HIDDEN], True
    yield "lm_head", [VOCAB, HIDDEN], True


def write_hollow(path, *shape):
    """A safetensors file whose data is one long hole; returns the number of parameters."""
    header, count = {}, 0
    for name, shape, bias in tensors(*shape):
        for kind, sizes in [("weight", shape)] + ([("bias", shape[:1])] if bias else []):
            elements = sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
            header[f"{name}.{kind}"] = {"dtype": "BF16", "shape": sizes, "data_offsets": [2 * count, 2 * (count + elements)]}
            count += elements
    head = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + 2 * count)
    return count


def write_model(directory, name, layers=LAYERS):
    """Returns the number of parameters."""
    heads, kv_heads, width, context, window, _ = SHAPES[name]
    (directory / "config.json").write_text(json.dumps({
        "model_type": "phimoe", "num_hidden_layers": layers, "hidden_size": HIDDEN, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": 128, "intermediate_size": width, "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2, "vocab_size": VOCAB, "max_position_embeddings": context, "sliding_window": window,
        "rms_norm_eps": 1e-5, "router_jitter_noise": 0.01, "attention_bias": True, "lm_head_bias": True,
        "rope_theta": 10000.0, "rope_scaling": LONGROPE if name == "3.5" else None, "hidden_act": "silu",
        "tie_word_embeddings": False, "eos_token_id": 32000}))
    data = tandem.TOP / "tests" / "data" / "phi3"
    for packed in data.glob("*.json.xz"):
        (directory / packed.stem).write_bytes(lzma.open(packed).read())
    shutil.copy(data / "tokenizer_config.json", directory)
    return write_hollow(directory / "model.safetensors", heads, kv_heads, width, layers)


@pytest.fixture(params=SHAPES)
def large(request, tmp_path):
    return request.param, tmp_path, write_model(tmp_path, request.param)


def test_large_models(large):
    name, directory, count = large
    result = run("inspect", "--json", directory)
    found = json.loads(result.stdout)
    heads, kv_heads, width, context, window, billions = SHAPES[name]
    assert found["parameters"] == count and round(count / 1e9, 1) == billions
    assert found["parameters_active"] == count - LAYERS * (EXPERTS - 2) * 3 * HIDDEN * width - (VOCAB - 1) * HIDDEN
    assert found["kv_bytes_per_token"] == LAYERS * 2 * kv_heads * 128 * 2
    floats = LAYERS * EXPERTS * HIDDEN + sum(shape[0] for _, shape, bias in tensors(heads, kv_heads, width) if bias) + \
        (2 * LAYERS + 1) * HIDDEN  # routers, biases, the norms' weights: always fp32
    assert found["weights"]["bf16"]["bytes"] == 2 * count + 2 * floats
    assert found["weights"]["f32"]["bytes"] == 4 * count
    fine = 2 * VOCAB * HIDDEN  # embedding and head; every shape here is whole blocks of 16 by 64
    assert found["weights"]["int8"]["bytes"] == 4 * floats + (count - floats) * 1088 // 1024
    assert found["weights"]["int4"]["bytes"] == \
        4 * floats + fine * 1088 // 1024 + (count - floats - fine) * 576 // 1024
    assert (found["context_tokens"], found["window_tokens"]) == (context, window)
    assert {"id": 32007, "text": "<|end|>", "ends_answer": True} in found["special_tokens"]
    if name == "3.5":
        assert result.returncode == 2 and not found["supported"]
        assert "longrope" in found["unsupported"] and found["unsupported"] in result.stderr
    else:
        assert result.returncode == 0 and result.stderr == ""
        assert found["supported"] and found["unsupported"] is None


def test_built_in_model():
    text = told("inspect")
    assert text.startswith("demo: phimoe, 5.4 million parameters, 2.2 million for a token\n")
    for said in ("8 of width 96", "2048 tokens, of which a token sees the last 512", "BF16", "phi-3", "<|end|>*",
                 "--weights f32   21.6 MB", "--weights bf16  10.8 MB", "--weights int8  6.2 MB", "--weights int4  3.9 MB", "1.5 KiB for each token"):
        assert said in text, said
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[:10] == told("inspect", tandem.MODEL).splitlines()[:10]  # the free memory changes
    assert told("inspect", TANDEM_MODEL=str(tandem.MODEL)).splitlines()[:10] == text.splitlines()[:10]


def test_what_fits():
    found = json.loads(told("inspect", "--json"))
    free = found["machine"]["memory_free_bytes"]
    for held in found["weights"].values():
        pages = (free - held["bytes"] - 512 * 2**20) // (32 * found["kv_bytes_per_token"])
        assert held["fits"] and held["kv_tokens"] == 32 * pages and held["kv_tokens_standard"] == 32 * 2048


def test_serve_takes_what_inspect_tells(serve):
    """The same cache, and the same room: but for what other programs take or give back in between."""
    told = json.loads(run("inspect", "--json").stdout)["weights"]["bf16"]
    taken, room = re.search(r"KV cache (\d+) tokens, 100.7 MB when full \(--kv-tokens: up to (\d+) fit\)", serve().log).groups()
    assert int(taken) == told["kv_tokens_standard"]
    assert abs(int(room) / told["kv_tokens"] - 1) < 0.1


def test_a_cache_that_can_not_fit_is_refused(tmp_path):
    """With the number that would. Whatever this machine has, a terabyte more is too much."""
    write_model(tmp_path, "tiny", layers=2)
    serve = ["serve", "--config", "none", "--port", "0", "--model", tmp_path, "--weights", "bf16", "--kv-tokens"]
    most = json.loads(run("inspect", "--json", tmp_path).stdout)["weights"]["bf16"]["kv_tokens"]
    if not most:
        pytest.skip("less memory is free than the model takes")
    refused = run(*serve, str(most + 2**28))
    assert refused.returncode == 64 and f"a KV cache of {most + 2**28} tokens takes " in refused.stderr
    assert "the weights take 0.96 GB" in refused.stderr
    assert abs(int(re.search(r"at most (\d+) tokens fit", refused.stderr)[1]) - most) < 0.1 * most + 8192


def test_the_cache_comes_in_whole_pages(serve):
    assert "KV cache 32 tokens, 0.0 MB when full" in serve("--kv-tokens", "1").log
    assert "KV cache 8192 tokens, " in serve("--kv-tokens", "8K").log


def test_a_template_that_is_assumed(tmp_path):
    assert json.loads(told("inspect", "--json"))["chat_template_assumed"] is False
    copy = shutil.copytree(tandem.MODEL, tmp_path / "model")
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    assert "chat       phi-3, assumed: the files have no chat template\n" in told("inspect", copy)
    assert json.loads(told("inspect", "--json", copy))["chat_template_assumed"] is True


def test_refused_as_by_serve(tmp_path):
    def message(result):
        assert result.returncode == 2 and result.stdout == "", result
        return re.sub("^tandem \\w+: ", "", result.stderr)
    for directory in (tmp_path, tmp_path / "none", tandem.MODEL / "config.json", "microsoft/Phi-tiny-MoE-instruct"):
        served = run("serve", "--config", "none", "--port", "0", "--model", directory)
        assert message(run("inspect", directory)) == message(served)
    assert run("inspect", "--json", tmp_path).stdout == ""


def test_wrong_arguments():
    assert run("inspect", "a", "b").returncode == 64
    empty = run("inspect", "")
    assert empty.returncode == 64 and "DIR is ``, but must be a directory" in empty.stderr
    wrong = run("inspect", "--jsno")
    assert wrong.returncode == 64 and "did you mean --json?" in wrong.stderr
