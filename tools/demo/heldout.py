#!/usr/bin/env python3
"""Write what tests/golden/test_formats.c measures the weight formats on: held-out conversations as token ids.

  heldout.py [--out tests/golden/data/heldout.json] [--tokenizer models/demo/tokenizer.json] [--count 120]

The first conversations of those that eval.py takes perplexity over. Each is {"tokens": [...], "said": [[first, last],
...]}: what the assistant says, each <|end|> included, is tokens[first:last].
"""

import argparse
import itertools
import json
import pathlib

import corpus
import tokenizers
from train import encode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/data/heldout.json"))
    parser.add_argument("--tokenizer", default="models/demo/tokenizer.json")
    parser.add_argument("--count", type=int, default=120)
    args = parser.parse_args()
    tokenizer, lines = tokenizers.Tokenizer.from_file(args.tokenizer), []
    for conversation in itertools.islice(corpus.conversations("eval", "held"), args.count):
        tokens, said = encode(tokenizer, conversation["messages"])
        spans = [[run[0][0], run[-1][0] + 1] for speaking, run in
                 ((key, list(group)) for key, group in itertools.groupby(enumerate(said), lambda pair: pair[1])) if speaking]
        lines.append(json.dumps({"tokens": tokens, "said": spans}, separators=(",", ":")))
    args.out.write_text("[" + ",\n".join(lines) + "]\n")


if __name__ == "__main__":
    main()
