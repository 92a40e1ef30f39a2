#!/usr/bin/env python3
"""Measure the demo model on what it was not trained on.

  python eval.py --model models/demo                       perplexity and questions, with transformers
  python eval.py --url http://127.0.0.1:8080/v1            questions only, asked of a running server
  python eval.py --model models/demo --ask "Who are you?"  one question

Perplexity is over the assistant's tokens (each <|end|> included) of 600 conversations that ask in
held-out phrasings.  Questions are held-out phrasings as well, and for sums and differences held-out
numbers; decoding is greedy.  Stories, lists and JSON count as right when they have the form asked for.
Probes (probes.py) are a stranger's questions, word for word kept out of training; promises are questions that
were taught word for word. Both count apart.
"""

import argparse
import itertools
import json
import math
import random
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import corpus
import stories
from probes import PROMISES, probes
from topics import TOPICS
from writing import LISTS

MAX_TOKENS = 200


def questions(per_topic, seed="eval"):
    """[(topic, messages, expect)]: every topic alone, then what was told before, near and far."""
    rng, found = random.Random(seed), []
    for topic in TOPICS:
        for _ in range(per_topic):
            c = corpus.conversation(rng, "held", turns=1, topic=topic)
            found.append((c["topic"], c["messages"][:-1], c["expect"]))
    for name, make, low, high in (
        ("told 1-4 turns before", corpus.told_recall, 0, 4),
        ("told 10-16 turns before", corpus.told_recall, 9, 16),
        ("long message", corpus.long_recall, 3, 9),
        ("longer than the window", corpus.long_recall, 18, 26),
    ):
        for _ in range(per_topic):
            c = make(rng, "held", rng.randrange(low, high))
            found.append((name, c["messages"][:-1], c["expect"]))
    return found


def right(answer, expect):
    kind, _, rest = expect.partition(":")
    if kind == "json":
        try:
            value = json.loads(answer)
        except ValueError:
            return False
        if rest.startswith("{"):
            return value == json.loads(rest)
        return isinstance(value, dict) and list(value) == rest.split(",")
    if kind == "exactly":
        return answer.removesuffix(".") == rest
    if kind == "story":
        figures = re.findall(r"(?:called|named) (\w+)", answer)
        several = len(figures) == len(set(figures)) > 1
        return several and len(re.findall(r"[.?!]", answer)) >= 4 and rest in answer and answer.endswith(".")
    if kind == "list":
        number, _, what = rest.partition(":")
        items = re.split(r", | and ", answer.rstrip("."))
        known = [x.lower() for x in LISTS[what]]
        return len(items) == len(set(items)) == int(number) and all(x.lower() in known for x in items)
    if kind == "joke":
        return answer in stories.JOKES
    if kind == "poem":
        return answer.split("\n") in stories.RHYMES.values()
    return any(re.search(rf"(?<!\w){re.escape(e)}(?!\w)", answer, re.IGNORECASE) for e in expect.split("|"))


class Local:
    """The model through transformers, in fp32 on the bf16 weights."""

    def __init__(self, directory):
        import torch
        from transformers import AutoTokenizer, PhimoeForCausalLM

        self.torch = torch
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.model = PhimoeForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def answers(self, dialogs, batch=32):
        texts = [self.tokenizer.apply_chat_template(d, tokenize=False, add_generation_prompt=True) for d in dialogs]
        found = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            inputs = self.tokenizer(
                [texts[i] for i in group], return_tensors="pt", padding=True, return_token_type_ids=False
            )
            out = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
            for i, ids in zip(group, out[:, inputs["input_ids"].shape[1] :]):
                found[i] = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return found

    def perplexity(self, count):
        from train import encode

        torch, tokenizer = self.torch, self.tokenizer.backend_tokenizer
        total, tokens = 0.0, 0
        for c in itertools.islice(corpus.conversations("eval", "held"), count):
            ids, said = encode(tokenizer, c["messages"])
            ids, said = torch.tensor([ids]), torch.tensor(said[1:])
            with torch.no_grad():
                logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits[said], ids[0, 1:][said], reduction="sum").item()
            tokens += int(said.sum())
        return math.exp(total / tokens), tokens


class Remote:
    """Any server that speaks the OpenAI API."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.name = json.load(urllib.request.urlopen(self.url + "/models"))["data"][0]["id"]

    def answer(self, messages):
        body = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        request = urllib.request.Request(
            self.url + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"].strip()

    def answers(self, dialogs):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.answer, dialogs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--model", help="a model directory")
    where.add_argument("--url", help="the base URL of a server")
    parser.add_argument("--per-topic", type=int, default=50)
    parser.add_argument("--ask", nargs="+", metavar="QUESTION", help="only ask these, each by itself")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers too")
    args = parser.parse_args()
    model = Local(args.model) if args.model else Remote(args.url)
    if args.ask:
        for question, answer in zip(args.ask, model.answers([[{"role": "user", "content": q}] for q in args.ask])):
            print(f"{question}\n    {answer}")
        return
    if args.model:
        value, tokens = model.perplexity(600)
        print(f"held-out perplexity {value:.3f} over {tokens} assistant tokens")
    measure(model, questions(args.per_topic), "all", args.wrong)
    print()
    asked = [(f"probes: {topic}", messages, expect) for topic, messages, expect in probes()]
    measure(model, asked, "probes", args.wrong)
    print()
    measure(model, probes(PROMISES), "promises", args.wrong)


def measure(model, asked, name, show_wrong):
    score = {}
    for (topic, messages, expect), answer in zip(asked, model.answers([m for _, m, _ in asked])):
        good = right(answer, expect)
        score.setdefault(topic, []).append(good)
        if show_wrong and not good:
            print(f"[{topic}] ...{messages[-1]['content'][-120:]!r} -> {answer!r}, expected {expect!r}")
    for topic, results in score.items():
        print(f"{topic:28} {sum(results):4} of {len(results)}")
    everything = sum(score.values(), [])
    print(f"{name:28} {sum(everything):4} of {len(everything)} right: {100 * sum(everything) / len(everything):.1f} %")


if __name__ == "__main__":
    main()
