"""A model of Phi-tiny-MoE's shape and random weights, over HTTP, with the experts on an OpenCL device and without:
chats, how long they take, and how alike the answers are.

    python3 tests/load/split_whole.py [--directory DIR] [--weights int8] [--layers 32] [--tokens 8] [--binary PATH]
        [--beside KERNELS] [--same] [OPTIONS …]

writes 7.5 GB of checkpoint where there is none yet (with fewer layers less), and as much as the weights take for what
they are converted to; the directory is kept, unless none is named. Other options are serve's, for both. On PoCL, a CPU
that plays a GPU, it takes minutes. Needs numpy. Ends with exit code 1 where an answer or the device failed.

--same: also where answers, or log-probabilities of what is likely, have not the same bits. That is promised of int8 and
int4 with the CPU's kernels for bytes, `--kernels avx-vnni` or any without AMX. Else answers need not be the same: a
model of random weights prefers nothing clearly, and passes on what a last bit changes. How much of that is the model's
doing, --beside KERNELS tells: it takes the CPU with other kernels in the device's place.
"""
import argparse
import concurrent.futures
import json
import lzma
import os
import pathlib
import struct
import sys
import tempfile
import time

import numpy as np

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

HIDDEN, HEADS, KV, DIM, EXPERTS, INNER, VOCAB = 4096, 16, 4, 128, 16, 448, 32064
CONFIG = {
    "architectures": ["PhimoeForCausalLM"], "model_type": "phimoe", "attention_bias": True, "lm_head_bias": True,
    "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": INNER, "max_position_embeddings": 4096,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": DIM, "num_experts_per_tok": 2,
    "num_local_experts": EXPERTS, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "router_jitter_noise": 0.01, "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 32000,
}
QUESTIONS = ["What is the capital of France?", "Count from one to five, and say why. " * 6]


def tensors(layers):
    """Name, shape and standard deviation of each, in the order of the file; 0: all ones."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN), 1
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for norm in "input_layernorm", "post_attention_layernorm":
            yield f"{at}{norm}.weight", (HIDDEN,), 0
            yield f"{at}{norm}.bias", (HIDDEN,), 0.05
        for name, outputs, inputs in (("q", HEADS * DIM, HIDDEN), ("k", KV * DIM, HIDDEN), ("v", KV * DIM, HIDDEN),
                                      ("o", HIDDEN, HEADS * DIM)):
            yield f"{at}self_attn.{name}_proj.weight", (outputs, inputs), inputs**-0.5
            yield f"{at}self_attn.{name}_proj.bias", (outputs,), 0.05
        yield f"{at}block_sparse_moe.gate.weight", (EXPERTS, HIDDEN), HIDDEN**-0.5
        for expert in range(EXPERTS):
            for name, shape in ("w1", (INNER, HIDDEN)), ("w2", (HIDDEN, INNER)), ("w3", (INNER, HIDDEN)):
                yield f"{at}block_sparse_moe.experts.{expert}.{name}.weight", shape, shape[1]**-0.5
    yield "model.norm.weight", (HIDDEN,), 0
    yield "model.norm.bias", (HIDDEN,), 0.05
    yield "lm_head.weight", (VOCAB, HIDDEN), 3 * HIDDEN**-0.5  # answers that are sure of themselves
    yield "lm_head.bias", (VOCAB,), 0.05


class Pool:
    """Normals in bf16, of each deviation so many; tensors are cut out of them at random places."""

    def __init__(self):
        self.draw, self.pools = np.random.default_rng(5), {}

    def take(self, count, deviation):
        if deviation not in self.pools:
            values = self.draw.standard_normal(1 << 24, dtype=np.float32) * np.float32(deviation) if deviation else \
                np.ones(1 << 24, dtype=np.float32)
            self.pools[deviation] = (values.view(np.uint32) >> 16).astype("<u2")
        pool, pieces = self.pools[deviation], []
        while count > 0:
            piece = pool[int(self.draw.integers(0, pool.size // 2)):][:count]
            pieces.append(piece)
            count -= piece.size
        return pieces


def write_checkpoint(directory, layers):
    header, at = {}, 0
    for name, shape, _ in tensors(layers):
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    pool = Pool()
    with open(directory / "unfinished", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, shape, deviation in tensors(layers):
            for piece in pool.take(int(np.prod(shape)), deviation):
                file.write(piece.data)
    (directory / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    for name in "tokenizer.json", "tokenizer_config.json":
        source = TOP / "tests" / "data" / "phi3" / name
        packed = source.with_name(name + ".xz")
        (directory / name).write_bytes(lzma.decompress(packed.read_bytes()) if packed.exists() else source.read_bytes())
    (directory / "unfinished").rename(directory / "model.safetensors")


def ask(server, question, tokens):
    began = time.monotonic()
    status, _, body = server.request("POST", "/v1/chat/completions", {
        "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": tokens, "ignore_eos": True,
        "logprobs": True, "top_logprobs": 20})
    assert status == 200, body
    answer = json.loads(body)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == tokens, answer
    likely = [{(other["token"], tuple(other["bytes"] or ())): other["logprob"] for other in token["top_logprobs"]}
              for token in content]
    return [token["token"] for token in content], likely, answer["usage"]["prompt_tokens"], time.monotonic() - began


def answers(tandem, directory, placement, options, more):
    """Each question alone, then all at once: of each the tokens, and what was likely in each's place."""
    began = time.monotonic()
    server = tandem.Server("--placement", placement, "--weights", options.weights, "--cache", directory / "cache",
                           "--kv-tokens", "1024", "--max-sequences", "4", *more, model=directory)
    print(f"{placement}: ready after {time.monotonic() - began:.0f} s", flush=True)
    try:
        alone = [ask(server, question, options.tokens) for question in QUESTIONS]
        for tokens, _, prompt, seconds in alone:
            print(f"  {prompt} tokens of prompt, {len(tokens)} of answer: {seconds:.1f} s", flush=True)
        with concurrent.futures.ThreadPoolExecutor(len(QUESTIONS)) as clients:
            together = list(clients.map(lambda question: ask(server, question, options.tokens), QUESTIONS))
        told = server.request("GET", "/health")[2]
    finally:
        server.stop()
    well = json.loads(told)["status"] == "ok" and ("on OpenCL" in server.log) == (placement == "split")
    if not well:
        print(server.log)
    print("  " + next(line for line in server.log.splitlines() if "threads" in line)[:300], flush=True)
    return alone + together, well


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=pathlib.Path)
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--beside")
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--binary")
    options, more = parser.parse_known_args()
    if options.binary:
        os.environ["TANDEM"] = str(pathlib.Path(options.binary).resolve())
    import tandem
    tandem.PATIENCE_S = 1200
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.directory or pathlib.Path(temporary)
        directory.mkdir(exist_ok=True)
        if not any(directory.glob("*.safetensors")):
            write_checkpoint(directory, options.layers)
            print("the checkpoint is written", flush=True)
        of_cpu, well = answers(tandem, directory, "cpu", options, more)
        of_both, as_well = answers(tandem, directory, "cpu", options, [*more, "--kernels", options.beside]) \
            if options.beside else answers(tandem, directory, "split", options, more)
    for a, b in zip(of_cpu, of_both):
        alike = next((i for i in range(options.tokens) if a[0][i] != b[0][i]), options.tokens)
        first, other = a[1][0], b[1][0]
        shared = first.keys() & other.keys()
        off = max((abs(first[token] - other[token]) for token in shared), default=float("inf"))
        print(f"{alike} of {options.tokens} tokens are the same; {len(shared)} of the {len(first)} likeliest first "
              f"ones, log-probabilities within {off:.3g}")
    sys.exit(not (well and as_well and (not options.same or all(a[:2] == b[:2] for a, b in zip(of_cpu, of_both)))))


if __name__ == "__main__":
    main()
