"""What a topic yields, and the small tools that all topics share."""

import re
from dataclasses import dataclass
from functools import cache

DONT_KNOW = "I don't know. I am a tiny demo model and know only a few simple things."


@dataclass
class Exchange:
    user: str
    answer: str
    expect: str = ""  # what a right answer contains, or its kind: see right() in eval.py
    brief: str = ""  # the answer when one word was asked for
    exact: bool = False  # the answer copies the user's spelling: do not disturb it


@cache
def phrasings(text):
    """(open, held): texts between bars, the held-out ones without their "~"."""
    found = [" ".join(p.split()) for p in text.split("|")]
    return [p for p in found if p[0] != "~"], [p[1:] for p in found if p[0] == "~"]


def pick(rng, split, text):
    """One phrasing of this split, one of the words in each [a, b].  A text that holds nothing out serves both."""
    open_, held = phrasings(text)
    phrasing = rng.choice(held if split == "held" and held else open_)
    return re.sub(r"\[([^]]+)\]", lambda choice: rng.choice(choice[1].split(", ")), phrasing)


def from_table(rng, split, table):
    """One row (phrasings, answer, what a right answer contains)."""
    phrasings, answer, expect = rng.choice(table)
    return Exchange(pick(rng, split, phrasings), answer, expect)


def made_up(rng):
    """A word that means nothing, so that copying and not-knowing do not depend on a list."""
    word = "".join(
        rng.choice("b c d f g k l m n p r s t v z br dr kl st tr".split()) + rng.choice("aeiou")
        for _ in range(rng.choice([2, 2, 3]))
    )
    return word + rng.choice(["", "n", "r", "s", "l", "x"])


def cap(text):
    return text[:1].upper() + text[1:]
