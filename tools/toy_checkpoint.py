#!/usr/bin/env python3
"""Writes the toy Phi-MoE checkpoints that the tests load: tests/golden/data/toy-*.

  toy_checkpoint.py [NAME …] [--out tests/golden/data]

Random weights, the same to the bit on every machine: integers from SplitMix64, and as normals the sum of twelve
uniforms less six, which double arithmetic adds up exactly. Each toy is odd in its own way; see TOYS.
"""

import argparse
import json
import math
import pathlib
import struct

import numpy as np  # 2.4.6; any version will do: only integer and exact double arithmetic is used

BASE = dict(hidden=48, layers=2, heads=4, kv=2, head_dim=16, experts=8, inter=48, vocab=131, window=7, context=640,
            theta=10000.0, epsilon=1e-5, jitter=0.01, bias=True, tied=False, dtype="BF16", shards=1, stacked=False)

TOYS = {
    # grouped queries, heads × head_dim 64 ≠ hidden, a window shorter than nearly every prompt, an odd vocabulary
    "toy-window": BASE | dict(seed=1),
    # 16 experts, one KV head, half precision, two files and an index
    "toy-sharded": BASE | dict(seed=2, hidden=40, layers=3, heads=6, kv=1, head_dim=8, experts=16, inter=20, vocab=97,
                               window=31, dtype="F16", shards=2),
    # transformers' newer names and rope_parameters, fp32, no window, an odd expert width, a wide tie threshold
    "toy-stacked": BASE | dict(seed=3, hidden=32, heads=2, kv=2, head_dim=24, inter=27, vocab=64, window=None,
                               theta=500.0, epsilon=1e-6, jitter=0.05, dtype="F32", stacked=True),
    # tied head, no biases, and the rotary table of Phi-tiny-MoE: 4096 positions of 128
    "toy-tied": BASE | dict(seed=4, hidden=24, heads=1, kv=1, head_dim=128, inter=16, vocab=80, window=33,
                            context=4096, bias=False, tied=True, dtype="F32"),
    # experts wider than the model and only as many as each token gets, three heads on one KV head, each row attends to
    # itself alone
    "toy-wide": BASE | dict(seed=5, hidden=20, heads=3, kv=1, head_dim=10, experts=2, inter=52, vocab=67, window=1),
}


def splitmix64(seed, start, count):
    """Numbers start … start + count − 1 of the stream that belongs to seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15) * (
            np.arange(start, start + count, dtype=np.uint64) + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Random:
    def __init__(self, seed):
        self.seed, self.at = seed, 0

    def normal(self, *shape):
        count = int(np.prod(shape))
        bits = splitmix64(self.seed, self.at, 12 * count)
        self.at += 12 * count
        uniform = (bits >> np.uint64(40)).astype(np.float64) / 2.0**24
        return uniform.reshape(count, 12).sum(axis=1).reshape(shape) - 6.0


def encode(values, dtype):
    values = values.astype(np.float32)
    if dtype == "F32":
        return values.astype("<f4")
    if dtype == "F16":
        return values.astype("<f2")
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def tensors(p):
    """(name, values) in the order of the file."""
    random = Random(p["seed"])
    hidden, inter, experts = p["hidden"], p["inter"], p["experts"]
    q, kv = p["heads"] * p["head_dim"], p["kv"] * p["head_dim"]
    matrix = lambda rows, columns: random.normal(rows, columns) / math.sqrt(columns)
    scale = lambda n: 1.0 + 0.1 * random.normal(n)
    shift = lambda n: 0.1 * random.normal(n)
    # Embeddings that also serve as the head have to make logits of some 3 standard deviations.
    yield "model.embed_tokens.weight", random.normal(p["vocab"], hidden) * (0.6 if p["tied"] else 1.0)
    for l in range(p["layers"]):
        layer = f"model.layers.{l}."
        yield layer + "input_layernorm.weight", scale(hidden)
        yield layer + "input_layernorm.bias", shift(hidden)
        for letter, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
            yield layer + f"self_attn.{letter}_proj.weight", 1.5 * matrix(rows, columns)
            if p["bias"]:
                yield layer + f"self_attn.{letter}_proj.bias", shift(rows)
        yield layer + "post_attention_layernorm.weight", scale(hidden)
        yield layer + "post_attention_layernorm.bias", shift(hidden)
        router = matrix(experts, hidden)
        parts = [[matrix(inter, hidden), matrix(hidden, inter), matrix(inter, hidden)] for _ in range(experts)]
        if p["stacked"]:
            yield layer + "mlp.router.weight", router
            yield layer + "mlp.experts.gate_up_proj", np.stack([np.concatenate([w1, w3]) for w1, w2, w3 in parts])
            yield layer + "mlp.experts.down_proj", np.stack([w2 for w1, w2, w3 in parts])
            continue
        yield layer + "block_sparse_moe.gate.weight", router
        for e, expert in enumerate(parts):
            for i, values in enumerate(expert):
                yield layer + f"block_sparse_moe.experts.{e}.w{i + 1}.weight", values
    yield "model.norm.weight", scale(hidden)
    yield "model.norm.bias", shift(hidden)
    if not p["tied"]:
        yield "lm_head.weight", 3.0 * matrix(p["vocab"], hidden)
    if p["bias"]:
        yield "lm_head.bias", shift(p["vocab"])


def config(p):
    fields = {
        "architectures": ["PhiMoEForCausalLM"], "model_type": "phimoe", "attention_bias": p["bias"],
        "bos_token_id": 1, "eos_token_id": 2, "head_dim": p["head_dim"], "hidden_act": "silu",
        "hidden_size": p["hidden"], "intermediate_size": p["inter"], "lm_head_bias": p["bias"],
        "max_position_embeddings": p["context"], "num_attention_heads": p["heads"], "num_experts_per_tok": 2,
        "num_hidden_layers": p["layers"], "num_key_value_heads": p["kv"], "num_local_experts": p["experts"],
        "rms_norm_eps": p["epsilon"], "router_jitter_noise": p["jitter"], "sliding_window": p["window"],
        "tie_word_embeddings": p["tied"], "vocab_size": p["vocab"],
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[p["dtype"]],
    }
    if p["stacked"]:
        return fields | {"rope_parameters": {"rope_type": "default", "rope_theta": p["theta"]}}
    return fields | {"rope_scaling": None, "rope_theta": p["theta"]}


def write_safetensors(path, named):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, values in named:
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for _, _, values in named))


def write(name, out):
    p = TOYS[name]
    folder = pathlib.Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(p), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 3]}) + "\n")
    named = [(name, p["dtype"], encode(values, p["dtype"])) for name, values in tensors(p)]
    if p["shards"] == 1:
        write_safetensors(folder / "model.safetensors", named)
        return
    weight_map, each = {}, -(-len(named) // p["shards"])
    for i in range(p["shards"]):
        shard = named[i * each:(i + 1) * each]
        file = f"model-{i + 1:05d}-of-{p['shards']:05d}.safetensors"
        write_safetensors(folder / file, shard)
        weight_map |= {name: file for name, _, _ in shard}
    total = sum(values.nbytes for _, _, values in named)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(TOYS)}; default all")
    parser.add_argument("--out", default="tests/golden/data")
    arguments = parser.parse_args()
    for name in arguments.names or TOYS:
        write(name, arguments.out)
