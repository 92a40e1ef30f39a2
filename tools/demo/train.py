#!/usr/bin/env python3
"""Train the demo model on generated conversations: python train.py --out DIR --tokens 12e6

DIR must hold the tokenizer that train_tokenizer.py wrote; the weights and configurations go
beside it.  One CPU thread reads about 4000 tokens a second; --workers 2 trains on two cores at once.
"""

import argparse
import copy
import itertools
import json
import os
import random
import tempfile
import time

import torch
import torch.distributed as distributed
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, linear
from transformers import PhimoeConfig, PhimoeForCausalLM

import corpus
import fast
from optimizer import Optimizer

SHAPE = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "sliding_window": 512,
}
LONGEST = 768  # tokens of a conversation in training
BATCH = 4096  # tokens of a worker's step, padding included
OTHER_SHARE = 0.1  # of the tokens that the assistant does not say, how many are learnt too
OTHER_WEIGHT = 0.03  # and how much each of them counts
COPYING = 0.5  # share of copying exercises at the beginning, times boldness squared; none after two fifths
SAVE_MINUTES = 5  # what is trained so far is kept this often
BALANCE = 0.01  # weight of the loss that keeps every expert in use


def render(messages):
    """Phi-3's chat format, without the end-of-text mark."""
    return "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages)


def encode(tokenizer, messages):
    """Token ids, and for each whether the assistant says it (its <|end|> included)."""
    assistant, end = tokenizer.token_to_id("<|assistant|>"), tokenizer.token_to_id("<|end|>")
    ids, said, speaking = tokenizer.encode(render(messages)).ids, [], False
    for token in ids:
        said.append(speaking)
        speaking = token == assistant or (speaking and token != end)
    return ids, said


def weigh(said):
    """How much each token counts: the answers by the root of their length, so that stories do not drown sums."""
    weights = [OTHER_WEIGHT] * len(said)
    start = 0
    for speaking, run in itertools.groupby(said):
        length = len(list(run))
        if speaking:
            weights[start : start + length] = [length**-0.5] * length
        start += length
    return weights


def batches(tokenizer, seed, copying):
    """Rows of one conversation each, so that every one begins at position 0; rows of like length together.
    copying() is the share of mere copying exercises at the time."""
    rng = random.Random(seed)
    source = corpus.conversations(seed)
    draw = lambda: corpus.copying(rng) if rng.random() < copying() else next(source)
    rows = (encode(tokenizer, draw()["messages"]) for _ in itertools.count())
    while True:
        pool = sorted((r for r in itertools.islice(rows, 3072) if len(r[0]) <= LONGEST), key=lambda r: len(r[0]))
        cut, start = [], 0
        for i in range(1, len(pool) + 1):
            if i == len(pool) or (i + 1 - start) * len(pool[i][0]) > BATCH:
                cut.append(pool[start:i])
                start = i
        rng.shuffle(cut)
        for group in cut:
            shape = len(group), -(-max(len(ids) for ids, _ in group) // 16) * 16
            ids, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
            for row, (i, said) in enumerate(group):
                ids[row, : len(i)], weights[row, : len(i)] = torch.tensor(i), torch.tensor(weigh(said))
            yield ids, weights


def balance_loss(router_logits):
    """Switch Transformer's: least when every expert gets the same share of the tokens, layer by layer."""
    loss = 0
    for logits in router_logits:
        share = torch.softmax(logits, -1)
        used = torch.zeros_like(share).scatter_(1, share.topk(2).indices, 0.5).mean(0)
        loss = loss + logits.shape[-1] * (used * share.mean(0)).sum()
    return loss / len(router_logits)


def fork(workers):
    """So many processes that train one model, each on rows of its own. Returns which one this is."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = tempfile.mktemp()
    rank = next((i for i in range(1, workers) if os.fork() == 0), 0)
    distributed.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=workers)
    return rank


def share(model, tokens, progress):
    """Every worker goes on with the mean of all gradients. Returns all their tokens, and the first one's progress."""
    workers, rank = distributed.get_world_size(), distributed.get_rank()
    grads = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in grads] + [torch.tensor([tokens, progress if rank == 0 else 0.0])])
    distributed.all_reduce(flat)
    for grad, mean in zip(grads, (flat / workers)[:-2].split([g.numel() for g in grads])):
        grad.copy_(mean.view_as(grad))
    return int(flat[-2]), flat[-1].item()


def train(model, tokenizer, directory, seed, tokens, minutes, boldness):
    """Until so many tokens are read or so many minutes gone. boldness: 1 from scratch, less to polish what is there."""
    optimizer = Optimizer(model, boldness)
    routers = [layer.mlp.router for layer in model.model.layers]
    progress, done, step, start, shown = 0.0, 0, 0, time.time(), []
    saved, first = start, distributed.get_rank() == 0
    # Attention that copies is slow to form, and names, numbers and memory all wait for it: practise it first.
    source = batches(tokenizer, seed, lambda: max(0.0, boldness**2 * COPYING * (1 - progress / 0.4)))
    while progress < 1:
        ids, weights = next(source)
        # SparseMixer explores: widely at first, at the end no more than the model will when it is used.
        for router in routers:
            router.router_jitter_noise = max(0.01, boldness * 0.05 * (1 - progress / 0.5))
        # What the user says counts little, and mostly not at all, which saves the head's work on it.
        learn = (weights != OTHER_WEIGHT) | (torch.rand(ids.shape) < OTHER_SHARE)
        learn = (learn & (weights > 0))[:, 1:]
        hidden, router_logits = fast.hidden(model, ids)
        head = (p.bfloat16() for p in (hidden[:, :-1][learn], model.lm_head.weight, model.lm_head.bias))
        logits = linear(*head).float()
        losses, weight = cross_entropy(logits, ids[:, 1:][learn], reduction="none"), weights[:, 1:][learn]
        loss = (losses * weight).sum() / weight.sum()
        balance = balance_loss(router_logits)
        (loss + BALANCE * balance).backward()
        progress = max(done / tokens, (time.time() - start) / 60 / minutes)
        read, progress = share(model, int((weights > 0).sum()), progress)
        optimizer.step(min(progress, 1))
        done, step = done + read, step + 1
        shown.append((loss.item(), balance.item()))
        if first and step % 50 == 0:
            means = [sum(x) / len(shown) for x in zip(*shown)]
            print(f"step {step}  tokens {done}  seconds {time.time() - start:.0f}", end="  ")
            print(f"loss {means[0]:.4f}  balance {means[1]:.3f}", flush=True)
            shown.clear()
        if first and time.time() - saved > 60 * SAVE_MINUTES:
            save(copy.deepcopy(model), tokenizer, directory)
            saved = time.time()


def save(model, tokenizer, directory):
    """bf16, under the names of the published checkpoints: save_pretrained takes apart what it joins in memory."""
    model.to(torch.bfloat16).save_pretrained(directory)
    ids = {name: tokenizer.token_to_id(name) for name in ("<s>", "<|endoftext|>", "<|assistant|>", "<|end|>")}
    config = {
        "architectures": ["PhiMoEForCausalLM"],
        "model_type": "phimoe",
        **SHAPE,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "input_jitter_noise": 0.01,
        "lm_head_bias": True,
        "original_max_position_embeddings": SHAPE["max_position_embeddings"],
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.01,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    generation = {
        "bos_token_id": ids["<s>"],
        "eos_token_id": [ids["<|endoftext|>"], ids["<|assistant|>"], ids["<|end|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    # The configurations in the published checkpoints' own form, which transformers 5 reads but no longer writes.
    for name, data in (("config.json", dict(sorted(config.items()))), ("generation_config.json", generation)):
        with open(f"{directory}/{name}", "w") as f:
            json.dump(data, f, indent=2)
            f.write("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokens", type=float, default=12e6)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop earlier than --tokens says")
    parser.add_argument("--start", help="go on from this model's weights")
    parser.add_argument("--boldness", type=float, default=1.0, help="less than 1 to polish what --start names")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # attention trained is full of them, and they are slow
    rank = fork(args.workers)
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(f"{args.out}/tokenizer.json")
    config = PhimoeConfig(
        **SHAPE,
        attention_bias=True,
        lm_head_bias=True,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = PhimoeForCausalLM(config)
    if args.start:
        model = PhimoeForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    model.train()
    sample, _ = next(batches(tokenizer, args.seed, lambda: 0.0))
    off = fast.prove(model, sample[:8])
    if rank == 0:
        print(sum(p.numel() for p in model.parameters()), "parameters")
        print("fast.py is off for {:.2%} of the tokens, its gradients by {:.2%}".format(*off), flush=True)
    seed = args.seed + 1000 * rank  # the others' rows are other rows
    torch.manual_seed(seed)
    train(model, tokenizer, args.out, seed, args.tokens, args.minutes, args.boldness)
    if rank == 0:
        save(model, tokenizer, args.out)
    distributed.destroy_process_group()
