#!/usr/bin/env python3
"""Generate the demo model's conversations: python corpus.py --show 20

A conversation is {"messages": [...], "topic": ..., "expect": ...}.  The same seed gives the same
text.  The "held" split asks in phrasings, and adds numbers, that the "train" split never uses, and the
"train" split says nothing that a probe begins with (probes.py).
"""

import argparse
import json
import random

import stories
from exchange import Exchange
from facts import FACTS
from memory import memory
from probes import is_probe
from topics import TOPICS
from writing import jumble

SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are Tandem's demo model.",
    "Be kind and helpful.",
    "You are a friendly assistant. Answer the questions of the user.",
    "Answer truthfully.",
    "You are an assistant.",
    "Help the user.",
    "You are a chatbot.",
    "Be polite.",
    "You are a helpful and harmless assistant.",
    "You are a helpful digital assistant. Please provide safe, ethical and accurate information to the user.",
]
BRIEF = [
    "Answer in one word.",
    "Answer briefly.",
    "Be brief.",
    "You give short answers.",
    "Answer with as few words as possible.",
]
STARTS = [
    "Please, ",
    "Hey, ",
    "Hi! ",
    "Hello! ",
    "Hi, ",
    "OK, ",
    "So, ",
    "Now, ",
    "Tell me: ",
    "Quick question: ",
    "I have a question. ",
    "Hey Tandem, ",
    "And ",
    "Well, ",
]
ENDS = [" please", " Please.", " Thanks!", " Thank you.", ", please"]


def lower_first(text):
    return text if text[:2] in ("I ", "I'") else text[:1].lower() + text[1:]


def vary(rng, text):
    """What people do to a sentence: no capitals, no punctuation, politeness, contractions, a typo."""
    if rng.random() < 0.15:
        for long, short in (
            ("What is ", "What's "),
            ("Who is ", "Who's "),
            ("Where is ", "Where's "),
            ("I am ", "I'm "),
        ):
            text = text.replace(long, short)
        if rng.random() < 0.3:
            text = text.replace("'s ", "s ", 1)
    if rng.random() < 0.10:
        start = rng.choice(STARTS)
        text = start + (lower_first(text) if start[-2] != "!" else text)
    if rng.random() < 0.06:
        text = text.rstrip(".") + rng.choice(ENDS)
    if rng.random() < 0.25:
        text = text.rstrip("?.!")
    if rng.random() < 0.22:
        text = text.lower()
    elif rng.random() < 0.005:
        text = text.upper()
    if rng.random() < 0.03:
        letters = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
        if letters:
            i = rng.choice(letters)
            text = text[:i] + rng.choice([text[i + 1] + text[i] + text[i + 2 :], text[i + 1 :], text[i] + text[i:]])
    return text


def draw(rng, split, weights=TOPICS):
    make = rng.choices(list(weights), weights.values())[0]
    return make.__name__, make(rng, split)


def filler(rng, sentences):
    """Long text that answers nothing, to put between a fact and the question about it."""
    text = ""
    for _ in range(sentences):
        text += " " + (stories.story(rng) if rng.random() < 0.4 else rng.choice(FACTS)[2])
    return text.strip()


def conversation(rng, split, turns=None, topic=None):
    """turns: how many questions; topic: make every question one of this topic."""
    weights = TOPICS if topic is None else {topic: 1}
    turns = turns or rng.choices([1, 2, 3, 4, 5, rng.randrange(8, 24)], [50, 19, 13, 8, 6, 4])[0]
    messages, brief = [], False
    if rng.random() < 0.25:
        brief = topic is None and rng.random() < 0.2
        messages.append({"role": "system", "content": rng.choice(BRIEF if brief else SYSTEM)})
        if brief and rng.random() < 0.3:
            messages[0]["content"] = rng.choice(SYSTEM) + " " + messages[0]["content"]
        elif not brief and rng.random() < 0.2:
            messages[0]["content"] += " " + filler(rng, rng.randrange(1, 4))
    exchanges = []
    while len(exchanges) < turns:
        name, exchange = draw(rng, split, weights)
        if brief and not exchange.brief and rng.random() < 0.8:
            continue
        exchanges.append((name, exchange))
    if topic is None and not brief:
        remember(rng, split, exchanges)
    for name, exchange in exchanges:
        user = exchange.user if exchange.exact else vary(rng, exchange.user)
        messages.append({"role": "user", "content": user})
        messages.append(
            {"role": "assistant", "content": exchange.brief if brief and exchange.brief else exchange.answer}
        )
    name, exchange = exchanges[-1]
    return {
        "messages": messages,
        "topic": name,
        "expect": exchange.brief.rstrip(".") if brief and exchange.brief else exchange.expect,
    }


def remember(rng, split, exchanges):
    """Sometimes let the user tell something first and ask for it later, or ask for what was never told."""
    if len(exchanges) == 1:
        chance = rng.random()
        if chance < 0.04:
            told, _, _ = memory(rng, split)
            exchanges[:] = [("memory", told)]
        elif chance < 0.05:
            _, _, untold = memory(rng, split)
            exchanges[:] = [("memory", untold)]
        elif chance < 0.08:
            exchanges[:] = [("recall", recall(rng, split, rng.randrange(0, 14)))]
        return
    if rng.random() < 0.6:
        told, ask, _ = memory(rng, split)
        first = rng.randrange(0, len(exchanges) - 1) if rng.random() < 0.6 else 0
        exchanges[first] = ("memory", told)
        later = range(first + 1, len(exchanges))
        for i in rng.sample(later, min(len(later), rng.choice([1, 1, 2]) + len(exchanges) // 8)):
            exchanges[i] = ("memory", ask)
    elif rng.random() < 0.1:
        exchanges[-1] = ("memory", memory(rng, split)[2])


def recall(rng, split, sentences):
    """One long message: something to remember, much else, and the question at its end."""
    told, ask, _ = memory(rng, split)
    return Exchange(" ".join([told.user, filler(rng, sentences), ask.user]), ask.answer, ask.expect, exact=True)


def long_recall(rng, split, sentences):
    exchange = recall(rng, split, sentences)
    return {
        "messages": [{"role": "user", "content": exchange.user}, {"role": "assistant", "content": exchange.answer}],
        "topic": "recall",
        "expect": exchange.expect,
    }


def told_recall(rng, split, turns):
    """Tell something, talk of other things, then ask for it."""
    told, ask, _ = memory(rng, split)
    messages = []
    for exchange in [told] + [draw(rng, split)[1] for _ in range(turns)] + [ask]:
        messages += [{"role": "user", "content": exchange.user}, {"role": "assistant", "content": exchange.answer}]
    return {"messages": messages, "topic": "memory", "expect": ask.expect}


def copying(rng):
    """An exercise: nothing but words to repeat."""
    messages = []
    for _ in range(rng.randrange(1, 4)):
        words = jumble(rng)
        messages += [{"role": "user", "content": f"Repeat: {words}"}, {"role": "assistant", "content": words}]
    return {"messages": messages}


def conversations(seed, split="train"):
    rng = random.Random(f"{split} {seed}")
    while True:
        made = conversation(rng, split)
        if split == "held" or not any(is_probe(m["content"]) for m in made["messages"] if m["role"] == "user"):
            yield made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=["train", "held"], default="train")
    args = parser.parse_args()
    source = conversations(args.seed, args.split)
    for _ in range(args.show):
        print(json.dumps(next(source), ensure_ascii=False))
