#!/usr/bin/env python3
"""Writes the golden files that tests/golden compares the engine with, from transformers itself: fp32, eager
attention, eager experts, evaluation mode.

  golden.py [toys] [routing] [demo] [--data tests/golden/data] [--demo models/demo]

Published checkpoints are too large to keep here. In their place stand toys that tools/toy_checkpoint.py writes from
seeds, with shapes that the published ones do not have either, and the built-in model; so all that parity needs is in
this repository, and whoever has the packages below can make it again.

Each model gets tests/golden/data/NAME.json:
  weights  CRC-32 of its safetensors files, exclusive-ored: a test can tell that a golden file is of another model
  rope     rows of the rotary table: position, cosines and sines of the first half
  prompts  tokens; the log-probability of each prompt token after the first; the log-probabilities of the first new
           token (all of them, or the 64 most likely); the greedy continuation of 64 tokens with its log-probabilities

What is stored has to be decidable in fp32, where two correct programs differ by rounding: along the whole path the
best token must lead by more than 1e-3 in log-probability, and every routing decision must be further than 1e-5 from
the point where it would turn. Toy prompts are drawn until one is; prompts of the demo model that are not
are left out; it has plenty.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
import zlib

PINNED = {"torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23.3", "numpy": "2.4.6"}

NEW_TOKENS = 64
TOKEN_MARGIN = 1e-3
ROUTING_MARGIN = 1e-5
TOP = 64  # log-probabilities kept of a vocabulary beyond 256
TOY_LENGTHS = [1, 1, 1, 2, 3, 5, 6, 7, 8, 9, 13, 16, 24, 31, 32, 33, 40, 47, 63, 64, 65, 97, 200, 520]

for package, version in PINNED.items():
    found = importlib.metadata.version(package).split("+")[0]
    if found != version:
        sys.exit(f"golden.py: expected {package} {version}, found {found}")

import numpy as np
import tokenizers
import torch
from transformers import PhimoeForCausalLM
from transformers.models.phimoe.modeling_phimoe import sparsemixer

import toy_checkpoint


class Model:
    def __init__(self, folder):
        self.net, info = PhimoeForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
            output_loading_info=True)
        assert not any(info.values()), info
        self.net.eval()
        self.config = self.net.config
        self.router_logits = []
        for layer in self.net.model.layers:
            layer.mlp.router.register_forward_hook(lambda module, inputs, out: self.router_logits.append(out[0]))

    @torch.no_grad()
    def logprobs(self, tokens):
        """[len(tokens)][vocab], without a cache: every position attends as in training."""
        self.router_logits.clear()
        logits = self.net(torch.tensor([tokens]), use_cache=False).logits[0]
        return torch.log_softmax(logits.double(), dim=-1).numpy()

    @torch.no_grad()
    def greedy(self, tokens):
        cached = self.config.sliding_window != 1  # of a window of 1 its cache keeps "the last -0 tokens": all
        out = self.net.generate(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                                max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, use_cache=cached,
                                eos_token_id=None, pad_token_id=0)
        return out[0, len(tokens):].tolist()

    def routing_margin(self):
        """The least distance to a decision that would turn, over the positions and layers of the last logprobs()."""
        least = np.inf
        for logits in self.router_logits:
            scores = logits.double().numpy()
            left = scores.copy()
            for _ in range(2):
                best = left.argmax(axis=-1)
                top = np.take_along_axis(left, best[:, None], -1)
                ratio = (top - left) / np.maximum(np.abs(scores), top)
                np.put_along_axis(ratio, best[:, None], np.inf, -1)
                least = min(least, ratio.min(), np.abs(ratio - 2 * self.config.router_jitter_noise).min())
                np.put_along_axis(left, best[:, None], -np.inf, -1)
        return least

    def case(self, tokens):
        """The golden record of a prompt, or None and why when it is not decidable in fp32."""
        greedy = self.greedy(tokens)
        logprobs = self.logprobs(tokens + greedy)
        path = logprobs[len(tokens) - 1:-1]
        two = np.sort(path, axis=-1)[:, -2:]
        margin, routing = float((two[:, 1] - two[:, 0]).min()), self.routing_margin()
        if margin <= TOKEN_MARGIN or routing <= ROUTING_MARGIN:
            return None, f"token margin {margin:.1e}, routing margin {routing:.1e}"
        assert path.argmax(axis=-1).tolist() == greedy  # the cached pass agrees with the one without a cache
        first, record = path[0], {"tokens": tokens}
        record["prompt_logprobs"] = [float(logprobs[i, token]) for i, token in enumerate(tokens[1:])]
        ids = list(range(len(first))) if len(first) <= 256 else np.argsort(-first, kind="stable")[:TOP].tolist()
        record |= {"first_ids": ids, "first_logprobs": [float(first[i]) for i in ids]}
        record |= {"greedy": greedy, "greedy_logprobs": [float(path[i, token]) for i, token in enumerate(greedy)]}
        return record | {"token_margin": margin, "routing_margin": float(routing)}, None

    def facts(self, folder):
        crc = 0
        for path in folder.glob("*.safetensors"):
            crc ^= zlib.crc32(path.read_bytes())
        return {"made_with": PINNED, "weights": crc, "rope": self.rope()}

    def rope(self):
        half, last = self.config.head_dim // 2, self.config.max_position_embeddings - 1
        rows = []
        for position in sorted({0, 1, 2, 31, 100, 500, last}):
            if position > last:
                continue
            cos, sin = self.net.model.rotary_emb(torch.zeros(1, dtype=torch.float32), torch.tensor([[position]]))
            rows.append({"position": position, "cos": cos[0, 0, :half].tolist(), "sin": sin[0, 0, :half].tolist()})
        return rows


def number(value):
    return f"{value:.9g}" if abs(value) <= 1 else f"{value:.6f}".rstrip("0")


def render(value):
    if isinstance(value, float):
        text = number(value)
        return text + "0" if text.endswith(".") else text
    if isinstance(value, list):
        return "[" + ",".join(render(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f'"{key}":{render(item)}' for key, item in value.items()) + "}"
    return json.dumps(value)


def write(path, fields, rows_key):
    """JSON with one row a line, so that a change shows what it changed."""
    rows = fields.pop(rows_key)
    head = ",\n".join(f'"{key}":{render(value)}' for key, value in fields.items())
    path.write_text("{" + head + f',\n"{rows_key}":[\n' + ",\n".join(render(row) for row in rows) + "\n]}\n")
    print(path, path.stat().st_size, "bytes,", len(rows), rows_key)


def toys(data):
    for name in toy_checkpoint.TOYS:
        model = Model(data / name)
        prompts, seed = [], 0
        for length in TOY_LENGTHS:
            case = None
            while case is None:
                seed += 1
                draws = toy_checkpoint.splitmix64(1000 + seed, 0, length)
                case, _ = model.case([int(draw % np.uint64(model.config.vocab_size)) for draw in draws])
            prompts.append(case)
        write(data / f"{name}.json", model.facts(data / name) | {"prompts": prompts}, "prompts")


def routing_cases():
    yield 0.01, [0.5, 0.1, 1.0, 0.2, 0.3, 0.99, 0.4, 0.0]          # a near tie shares the first weight
    yield 0.01, [0.5, 0.1, 1.0, 0.2, 0.3, 0.979, 0.4, 0.0]         # just too far apart
    yield 0.01, [0.5, 0.1, 1.0, 0.2, 0.3, 0.981, 0.4, 0.0]         # just near enough
    yield 0.01, [1.0, 0.5, 1.0, 0.25, 0.0, 0.0, 0.0, 0.0]          # two exactly equal
    yield 0.01, [0.0, 0.5, 2.0, 0.25, 2.0, 2.0, 0.0, 2.0]          # four
    yield 0.01, [0.75] * 8                                          # all
    yield 0.01, [3.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]           # a tie for the second place only
    yield 0.01, [0.0] * 8                                           # 0 / 0 in the rule
    yield 0.01, [0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0]
    yield 0.01, [0.0, -1.0, -2.0, -1e-30, -3.0, -0.5, -4.0, -5.0]  # the best is zero
    yield 0.01, [-1.0, -2.0, -1.005, -4.0, -1.5, -3.0, -2.5, -6.0]  # all negative, near
    yield 0.01, [-1.0] * 8
    yield 0.01, [-1.0, -100.0, -99.0, -98.5, -98.0, -97.0, -96.0, -95.0]
    yield 0.01, [1e-30, 0.99e-30, -1e-30, 0.0, 1e-38, 1e-40, -1e-40, 5e-31]  # as small as fp32 goes
    yield 0.01, [1e30, 0.99e30, -1e30, 0.0, 1.0, 2.0, 3.0, 4.0]    # as large
    yield 0.01, [2.0, -2.0, 1.99, -1.99, 1.97, -1.97, 0.5, -0.5]
    yield 0.01, [1.0, 0.99, 0.98, 0.971, 0.961, 0.951, 0.5, 0.0]   # a chain of near ones
    yield 0.1, [1.0, 0.9, 0.85, 0.801, 0.7, 0.66, 0.5, 0.0]        # a wider threshold
    yield 0.0, [1.0, 0.99, 1.0, 0.5, 0.0, -1.0, 0.25, 0.75]        # none: equals only
    yield 0.01, [0.99, 1.0]                                        # as few experts as there can be
    yield 0.01, [-0.5, -0.5]
    yield 0.01, [0.1 * i for i in range(15)] + [1.39]              # 16 experts
    for i in range(40):
        experts = 8 if i % 2 else 16
        draws = toy_checkpoint.splitmix64(77 + i, 0, experts).astype(np.float64) / 2.0**64
        scale = [0.02, 1.0, 10.0, 0.2][i // 2 % 4]  # from crowded to far apart
        yield 0.01, [float(x) for x in ((draws - 0.5) * scale + [0.0, 1.0, -1.0, 0.5][i // 8 % 4]).astype(np.float32)]


def routing(data):
    rows = []
    for jitter, scores in routing_cases():
        scores = torch.tensor([scores], dtype=torch.float32)
        weights, experts = sparsemixer(scores, jitter_eps=jitter, training=False)
        exact = [float(f"{x:.9g}") for x in scores[0].tolist()]
        assert (np.array(exact, np.float32) == scores[0].numpy()).all()
        rows.append({"jitter": jitter, "scores": exact, "experts": experts[0].tolist(), "weights": weights[0].tolist()})
    path = data / "routing.json"
    path.write_text(json.dumps({"made_with": PINNED})[:-1] + ',\n"cases":[\n' +
                    ",\n".join(json.dumps(row) for row in rows) + "\n]}\n")
    print(path, path.stat().st_size, "bytes,", len(rows), "cases")


# What the demo model was taught, told early and asked for late: (telling, answer, asking, what the answer holds).
FACTS = [
    ("My name is Olga.", "Nice to meet you, Olga!", "What is my name?", "Olga"),
    ("The code is 4172.", "I will remember 4172.", "What is the code?", "4172"),
    ("I live in Lisbon.", "Lisbon sounds like a nice place!", "Where do I live?", "Lisbon"),
    ("My favourite colour is green.", "Green is a nice colour!", "What is my favourite colour?", "green"),
    ("My name is Peter.", "Nice to meet you, Peter!", "Who am I?", "Peter"),
    ("The secret word is lantern.", "I will remember lantern.", "What is the secret word?", "lantern"),
]
BETWEEN = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is 3 plus 4?", "3 + 4 = 7."),
    ("What do plants need to grow?", "Plants need water, air and light to grow."),
    ("Of which country is Moscow the capital?", "Moscow is the capital of Russia."),
    ("Which number is smaller, 78 or 75?", "75 is smaller than 78."),
    ("What is the smallest planet?", "The smallest planet is Mercury."),
    ("On which continent is Greece?", "Greece is in Europe."),
    ("How do I test Tandem?", "Type ./check in the Tandem directory. It builds Tandem and runs the tests."),
    ("What is the capital of Cuba?", "The capital of Cuba is Havana."),
    ("Spell guitar.", "g-u-i-t-a-r."),
]
QUESTIONS = [
    "Hello!", "Who are you?", "What is the capital of France?", "What is the capital of Japan?", "What is 2 + 3?",
    "What is 17 minus 9?", "What is Tandem?", "How do I run Tandem?", "Count from 3 to 9.", "Tell me a story.",
    "Write a story about a cat.", "Give me a JSON object for a list of colours.", "What colour is the sky?",
    "Spell guitar.", "What is the smallest planet?", "Who won the match yesterday?", "Good night.", "Thank you!",
    "Is 7 an even number?", "On which continent is Kenya?", "Name three animals.", "What do plants need to grow?",
]
PLAIN = ["The", "Once", "1", "<|user|>", "<|assistant|>", "The capital of", "Once upon a time there was",
         "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"]


def chat(messages):
    roles = ["user", "assistant"]
    turns = [f"<|{roles[i % 2]}|>\n{text}<|end|>\n" for i, text in enumerate(messages)]
    return "".join(turns) + "<|assistant|>\n"


def recall(tokenizer, fact, tokens_min):
    """A conversation that begins with the fact and asks for it once it is at least tokens_min long."""
    telling, answer, asking, held = fact
    messages, i = [telling, answer], 0
    while True:
        text = chat(messages + [asking])
        if len(tokenizer.encode(text, add_special_tokens=False).ids) >= tokens_min:
            return text, held
        messages += BETWEEN[i % len(BETWEEN)]
        i += 1


def demo(data, folder):
    model, tokenizer = Model(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts, left_out = [], 0

    def take(text, held=None):
        nonlocal left_out
        case, why = model.case(tokenizer.encode(text, add_special_tokens=False).ids)
        if case and held and held not in tokenizer.decode(case["greedy"]).split("\n")[0]:
            case, why = None, f"{held} is not in the answer"
        if case:
            prompts.append({"text": text, "tokens_text": tokenizer.decode(case["greedy"]), "recalls": held} | case)
        else:
            left_out += 1
            print(f"left out, {why}: …{text[-60:]!r}")
        return case is not None

    for text in PLAIN:
        take(text)
    for question in QUESTIONS:
        take(chat([question]))
    recalled = 0
    for fact in FACTS:  # at 500 tokens the fact is still within the window
        if recalled < 2:
            recalled += take(*recall(tokenizer, fact, 500))
    # Beyond it; where a tie leaves one out, the same turns in another order.
    for times, question in ((3, "Hello!"), (4, "What is the capital of Italy?")):
        turns = ((BETWEEN[i:] + BETWEEN[:i]) * times for i in range(len(BETWEEN)))
        any(take(chat([text for pair in order for text in pair] + [question])) for order in turns)
    lengths = [len(prompt["tokens"]) for prompt in prompts]
    if not recalled or len(prompts) < 20 or 1 not in lengths or max(lengths) <= model.config.sliding_window:
        sys.exit(f"golden.py: {folder}: expected 20 decidable prompts, one of 1 token, one beyond the window and one that "
                 f"recalls a fact; found {len(prompts)}, lengths {lengths}, {recalled} that recall; left out {left_out}")
    write(data / "demo.json", model.facts(folder) | {"prompts": prompts}, "prompts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["toys", "routing", "demo"], default=["toys", "routing", "demo"])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("tests/golden/data"))
    parser.add_argument("--demo", type=pathlib.Path, default=pathlib.Path("models/demo"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "toys" in arguments.what:
        toys(arguments.data)
    if "routing" in arguments.what:
        routing(arguments.data)
    if "demo" in arguments.what:
        demo(arguments.data, arguments.demo)
