#!/usr/bin/env python3
"""Writes the tokenizer's test cases: what Hugging Face makes of generated texts, id sequences and conversations.

    tools/tokenizer_cases.py DIR OUT.jsonl.xz [--seed N] [--texts N] [--sequences N] [--conversations N]

DIR holds tokenizer.json and tokenizer_config.json. The same seed gives the same file. A line is one of
    {"text": …, "plain": ids, "special": ids}   plain: added tokens are not recognised; special: where it differs
    {"ids": …, "text": …}                       decoded without special tokens
    {"chat": [[role, content], …], "ids": ids}  chat template with the generation prompt
    {"variant": …, "texts": …, "ids": …}        the same files with other steps, flags or spellings (--variants N texts)
    {"template": …, "chats": …, "ids": …}       the same files with another chat template (with --variants)

The committed files:
    tools/tokenizer_cases.py PHI3 tests/data/tokenizer_cases_phi3.jsonl.xz --variants 40   (tests/data/phi3, unpacked)
    tools/tokenizer_cases.py models/demo tests/data/tokenizer_cases_demo.jsonl.xz --texts 600 --sequences 200 \\
        --conversations 100
"""

import argparse
import codecs
import json
import lzma
import pathlib
import random
import sys

import tokenizers
import transformers

PINNED = {tokenizers: "0.23.3", transformers: "5.23.0"}

SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "👨🏿‍💻", "❤️", "🤦🏼‍♂️", "1️⃣", "🧑‍🚀"]
WORDS = ("the of and to in is that it was for on are as with his they at be this from have or by one had not but "
         "what all were when we there can an your which their said if do will each about how up out them then she "
         "many some so these would other into has more her two like him see time could no make than first been its "
         "who now people my made over did down only way find use may water long little very after words called").split()
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n", "a <- b |> c()",
        "SELECT * FROM t WHERE x = 'y';", "#include <stdio.h>\r\n", "{\"key\": [1, 2.5e-3, null]}", "x\\n\\t\\\\"]


def characters(rng, low, high, count):
    return "".join(chr(rng.randint(low, high)) for _ in range(count))


def any_character(rng):
    while True:
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def look_alike(rng, added):
    token = rng.choice(added)
    return rng.choice([
        lambda: token,
        lambda: token[:rng.randrange(len(token) + 1)],
        lambda: token[:-1] + rng.choice(SPACES) + token[-1],
        lambda: token.upper(),
        lambda: token + rng.choice(SPACES) * rng.randrange(4),
        lambda: rng.choice(SPACES) * rng.randrange(4) + token,
        lambda: "<" + token + ">",
        lambda: token.replace("|", "｜"),
        lambda: f"<0x{rng.randrange(256):02X}>",
        lambda: "▁" * rng.randrange(4) + token,
    ])()


def part(rng, pieces, added):
    return rng.choice([
        lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 12))),
        lambda: "".join(rng.choices(pieces, k=rng.randint(1, 10))),
        lambda: "".join(any_character(rng) for _ in range(rng.randint(1, 12))),
        lambda: " " * rng.choice([1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33]),
        lambda: "".join(rng.choices(SPACES, k=rng.randint(1, 8))),
        lambda: "".join(rng.choices(EMOJI, k=rng.randint(1, 4))),
        lambda: characters(rng, 0, 0x1F, rng.randint(1, 8)) + "\x7f",
        lambda: look_alike(rng, added),
        lambda: rng.choice(["\n", "\r\n", "\t", "\n\n", " \n", "\n ", "\t\t"]) * rng.randint(1, 4),
        lambda: characters(rng, 0x4E00, 0x9FFF, rng.randint(1, 10)),
        lambda: characters(rng, 0x3041, 0x30FF, rng.randint(1, 10)) + characters(rng, 0xAC00, 0xD7A3, 3),
        lambda: "".join(c + characters(rng, 0x300, 0x36F, rng.randint(1, 4)) for c in rng.choices("aeioun ", k=3)),
        lambda: characters(rng, 0x600, 0x6FF, 6) + characters(rng, 0x900, 0x97F, 6),
        lambda: "▁" * rng.randint(1, 5) + rng.choice(WORDS),
        lambda: rng.choice(CODE),
        lambda: str(rng.randrange(10 ** rng.randint(1, 20))),
    ])()


def long_word(rng, pieces):
    return rng.choice([
        lambda: rng.choice("aeo.-= ▁") * rng.randint(200, 3000),
        lambda: rng.choice(["ab", "aab", "th", "in g", "\n ", "=-"]) * rng.randint(100, 1000),
        lambda: "".join(rng.choices("aeiou", k=rng.randint(200, 600))),
        lambda: "".join(p.strip("▁") for p in rng.choices(pieces, k=rng.randint(50, 150))),
        lambda: rng.choice(EMOJI) * 100,
    ])()


def make_text(rng, pieces, added):
    if rng.random() < 0.02:
        return long_word(rng, pieces)
    return "".join(part(rng, pieces, added) for _ in range(rng.choice([1, 1, 2, 2, 3, 4, 6])))


def make_ids(rng, tokenizer, size, byte_ids, special_ids):
    whole = rng.random() < 0.5  # no pieces of characters
    ids = []
    for _ in range(rng.randint(1, 12)):
        ids += rng.choice([
            lambda: [i for i in rng.choices(range(size), k=rng.randint(1, 4)) if not (whole and i in byte_ids)],
            lambda: [byte_ids[b] for b in any_character(rng).encode()],
            lambda: [byte_ids[b] for b in rng.choice(EMOJI).encode()],
            lambda: [rng.choice(special_ids)],
            lambda: tokenizer.encode(" " + rng.choice(WORDS), add_special_tokens=False).ids,
            *([] if whole else [
                lambda: [byte_ids[b] for b in any_character(rng).encode()[:rng.randint(1, 3)]],
                lambda: [byte_ids[rng.randrange(256)] for _ in range(rng.randint(1, 3))],
                lambda: [byte_ids[b] for b in rng.choices([0x20, 0x41, 0xC3, 0xE2, 0xF0, 0x80, 0xBF, 0xED, 0xA0], k=3)],
            ]),
        ])()
    return ids


def replace_each(error):
    return "\ufffd" * (error.end - error.start), error.end


def decode(tokenizer, ids, special, byte_of):
    """What a stream can know: as Hugging Face's decoder, but valid characters of an invalid run of bytes stay."""
    raw = b"".join(byte_of.get(i) or tokenizer.id_to_token(i).replace("▁", " ").encode()
                   for i in ids if i not in special and tokenizer.id_to_token(i) is not None)
    text = raw.decode("utf-8", "replace_each")
    return text[1:] if text.startswith(" ") else text


def runs_are_valid(ids, special, byte_of):
    run = b""
    for i in [i for i in ids if i not in special] + [None]:
        if i in byte_of:
            run += byte_of[i]
            continue
        try:
            run.decode()
        except UnicodeDecodeError:
            return False
        run = b""
    return True


def make_conversation(rng, pieces, added):
    def content():
        while True:
            before, after = rng.choice(["", " ", "\n", "  "]), rng.choice(["", " ", "\n", "\u3000"])
            text = rng.choice([before + make_text(rng, pieces, added) + after] * 3 + [""])
            if len(text) < 400 and not any(token in text for token in added):
                return text

    messages = []
    if rng.random() < 0.5:
        messages.append(["system", content()])
    for _ in range(rng.randrange(3)):
        messages += [["user", content()], ["assistant", content()]]
    messages.append([rng.choice(["user", "user", "user", "system", "assistant"]), content()])
    return messages


def variants(source):
    """What else is read: keys that replace those of tokenizer.json, of its model, and of each added token."""
    no_steps = {"normalizer": None}
    for scheme in ["first", "always", "never"]:
        for split in [False, True]:
            step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
            yield {"top": {**no_steps, "pre_tokenizer": step}}
    for add in [False, True]:
        step = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": add}
        if not add:
            step["prepend_scheme"] = "never"
        yield {"top": {**no_steps, "pre_tokenizer": step}}
    prepend, replace = source["normalizer"]["normalizers"]
    yield {"top": {"normalizer": replace}}
    yield {"top": {"normalizer": {"type": "Sequence", "normalizers": [replace, prepend]}}}
    yield {"top": no_steps}
    yield {"top": {"normalizer": replace, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
                                                             "prepend_scheme": "first", "split": False}}}
    yield {"model": {"ignore_merges": True}}
    yield {"model": {"ignore_merges": True}, "top": {**no_steps, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}}}
    for flags in [{"lstrip": True}, {"lstrip": True, "rstrip": False}, {"rstrip": False}, {"normalized": True},
                  {"normalized": True, "lstrip": True}]:
        yield {"added": flags}
    yield {"added": {"normalized": True}, "top": {**no_steps, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}}
    yield {"added": {"lstrip": True}, "more_added": [" ", "\n", "<|end|><|end|>", "<|", "\n\n"], "rstrip": False}
    yield {"more_added": ["\n", "\n\n \n"], "rstrip": True}


def templates():
    """Chat templates of the family, as published and in other spellings."""
    def turn(role):
        return "{{'<|" + role + "|>\\n' + message['content'] + '<|end|>\\n'}}"

    loop = "{% for message in messages %}"
    system = "{% if message['role'] == 'system' %}" + turn("system") + "{% elif "
    checked = "{% if message['role'] == 'system' and message['content'] %}" + turn("system") + "{% elif "
    others = ("message['role'] == 'user' %}" + turn("user") + "{% elif message['role'] == 'assistant' %}" +
              turn("assistant") + "{% endif %}{% endfor %}")
    prompt = "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
    yield loop + checked + others + prompt
    yield loop + system + others + prompt
    yield "{{ bos_token }}" + loop + checked + others + prompt
    yield ("{{ bos_token }}" + loop + "{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}"
           "{% endfor %}" + prompt)
    yield """{%- for message in messages -%}
  {%- if (message.role == "system") and message.content -%}
    {{- "<|system|>" + "\\n" + message.content + "<|end|>" + "\\n" -}}
  {%- elif message.role == "user" -%}
    {{- "<|user|>" + "\\n" + message.content + "<|end|>" + "\\n" -}}
  {%- elif message.role == "assistant" -%}
    {{- "<|assistant|>" + "\\n" + message.content + "<|end|>" + "\\n" -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|assistant|>\\n" -}}
{%- endif -%}
"""
    yield """{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}
  {% elif message['role'] == 'user' %}
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}} {% elif message['role'] == 'assistant' %}
{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{% endif %}
"""


def make_variant(source, variant):
    changed = {**source, **variant.get("top", {})}
    changed["model"] = {**source["model"], **variant.get("model", {})}
    changed["added_tokens"] = [{**token, **variant.get("added", {})} for token in source["added_tokens"]]
    # Contents that BPE makes too are refused by our reader; those here must be out of its reach.
    for content in variant.get("more_added", []):
        changed["added_tokens"].append({
            "id": 1 + max(token["id"] for token in changed["added_tokens"]), "content": content, "single_word": False,
            "lstrip": False, "rstrip": variant["rstrip"], "normalized": False, "special": True})
    return changed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--sequences", type=int, default=600)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--variants", type=int, default=0, help="texts for each variant of the files")
    args = parser.parse_args()
    for module, version in PINNED.items():
        if module.__version__ != version:
            sys.exit(f"expected {module.__name__} {version}, found {module.__version__}")

    codecs.register_error("replace_each", replace_each)
    rng = random.Random(args.seed)
    source = json.loads((args.dir / "tokenizer.json").read_text())
    config = json.loads((args.dir / "tokenizer_config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(source))
    plain = tokenizers.Tokenizer.from_str(json.dumps({**source, "added_tokens": []}))
    # The files as they stand, whatever tokenizer_class says: LlamaTokenizer would put its own steps around them.
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(args.dir / "tokenizer.json"),
                                                bos_token=config["bos_token"], eos_token=config["eos_token"],
                                                chat_template=config["chat_template"])

    vocabulary = source["model"]["vocab"]
    byte_ids = [vocabulary[f"<0x{b:02X}>"] for b in range(256)]
    byte_of = {i: bytes([b]) for b, i in enumerate(byte_ids)}
    added = [token["content"] for token in source["added_tokens"]]
    special = {token["id"] for token in source["added_tokens"] if token["special"]}
    pieces = [piece for piece in sorted(vocabulary) if not piece.startswith("<")]
    size = max([*vocabulary.values(), *special]) + 1

    lines, different = [], 0
    for _ in range(args.texts):
        text = make_text(rng, pieces, added)
        case = {"text": text, "plain": plain.encode(text, add_special_tokens=False).ids}
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if ids != case["plain"]:
            case["special"] = ids
        lines.append(case)
    for _ in range(args.sequences):
        ids = make_ids(rng, tokenizer, size + 20, byte_ids, sorted(special))
        text = decode(tokenizer, ids, special, byte_of)
        same = text == tokenizer.decode(ids, skip_special_tokens=True)
        if not same and runs_are_valid(ids, special, byte_of):
            sys.exit(f"the rule for decoding is wrong for {ids}")
        different += not same
        lines.append({"ids": ids, "text": text})
    for _ in range(args.conversations):
        chat = make_conversation(rng, pieces, added)
        messages = [{"role": role, "content": content} for role, content in chat]
        ids = fast.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        lines.append({"chat": chat, "ids": ids})
    for variant in variants(source) if args.variants else []:
        changed = make_variant(source, variant)
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(changed))
        texts = ["", " ", "  x ", "▁x", "<|user|>", *(make_text(rng, pieces, added) for _ in range(args.variants))]
        lines.append({"variant": variant, "added_tokens": changed["added_tokens"], "texts": texts,
                      "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]})
    for template in templates() if args.variants else []:
        chats = [[["user", "hi"]], [["system", ""], ["user", " x\n"]],
                 *(make_conversation(rng, pieces, added) for _ in range(10))]
        ids = [fast.apply_chat_template([{"role": role, "content": content} for role, content in chat],
                                        chat_template=template, tokenize=True, add_generation_prompt=True,
                                        return_dict=False) for chat in chats]
        lines.append({"template": template, "chats": chats, "ids": ids})

    data = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines).encode()
    args.out.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    print(f"{args.out}: {args.texts} texts, {args.sequences} sequences ({different} with invalid runs of bytes), "
          f"{args.conversations} conversations, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
