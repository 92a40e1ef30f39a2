#!/usr/bin/env python3
"""Learn the demo model's tokenizer and write it in the form of Phi-3's: python train_tokenizer.py --out DIR

Ids: <unk> <s> </s>, 256 bytes, pieces in the order learnt, single characters, then Phi-3's special
tokens.  There is no pre-tokenizer in the file, as in Phi-3's; pieces keep to words and digits stand
alone because they were learnt on text cut that way, and the end of this script proves it.
"""

import argparse
import itertools
import json
import os
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus

VOCAB = 2048  # the last ids are padding, as Phi-3's are
SPECIAL = (
    ["<|endoftext|>", "<|assistant|>"]
    + [f"<|placeholder{i}|>" for i in range(1, 5)]
    + ["<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
)
FIRST_SPECIAL = VOCAB - 16
ALPHABET = [chr(c) for c in range(33, 127)] + ["▁"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
WORD = r"▁?[A-Za-z]+|[0-9]|▁(?=[0-9])|▁?[^A-Za-z0-9▁\n]+"
NORMALIZER = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def texts(count):
    for conversation in itertools.islice(corpus.conversations("tokenizer"), count):
        for message in conversation["messages"]:
            # Only ASCII is learnt, so that all else goes through the bytes and they get used.
            yield re.sub(r"[^\x20-\x7e]", "", message["content"])


def learn(sample):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = NORMALIZER
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_SPECIAL - 259, initial_alphabet=ALPHABET, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def write(learnt, directory):
    """Phi-3's layout around the learnt merges."""
    merges = json.loads(learnt.to_str())["model"]["merges"]
    pieces = ["".join(m) for m in merges]
    letters = [p for p in learnt.get_vocab() if len(p) == 1]
    order = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces + sorted(letters)
    assert len(order) == len(set(order)) == FIRST_SPECIAL, (len(order), len(set(order)))
    model = models.BPE(
        vocab={p: i for i, p in enumerate(order)},
        merges=[tuple(m) for m in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.decoder = NORMALIZER, DECODER
    tokenizer.add_special_tokens([AddedToken("<unk>", normalized=False), AddedToken("<s>", normalized=False)])
    tokenizer.add_tokens([AddedToken("</s>", rstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken(s, rstrip=s != "<|endoftext|>", normalized=False) for s in SPECIAL])
    data = json.loads(tokenizer.to_str())
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }
    data["model"]["merges"] = [" ".join(m) for m in merges]
    del data["model"]["ignore_merges"]
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/tokenizer.json", "w") as f:
        json.dump(data, f, ensure_ascii=False, indent=1)
        f.write("\n")
    # PreTrainedTokenizerFast makes transformers 5 read tokenizer.json as it stands; its LlamaTokenizer, which
    # Phi-3's own files name, builds another normalizer and drops the space that Phi-3 puts after a special token.
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "legacy": False,
        "chat_template": CHAT_TEMPLATE,
    }
    with open(f"{directory}/tokenizer_config.json", "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")


def prove(learnt, directory, sample):
    """The file without a pre-tokenizer must cut text exactly as the learner with one did."""
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    for text in sample:
        assert tokenizer.encode(text).tokens == learnt.encode(text).tokens, text
    for text in ("Hello, wörld ☕ 12+3", "  two  spaces ", '{"a": [1, 2]}\n\tx'):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text, text
    print(sum(len(tokenizer.encode(t).ids) for t in sample) / sum(map(len, sample)), "tokens a character")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--conversations", type=int, default=40000)
    args = parser.parse_args()
    sample = list(texts(args.conversations))
    learnt = learn(sample)
    write(learnt, args.out)
    prove(learnt, args.out, sample[:5000])
