"""The training forward of PhimoeForCausalLM, several times faster on a CPU: the same parameters, the same function.

Multiplications are done in bf16 on fp32 parameters; the residual stream, the LayerNorms, the router and
SparseMixer stay in fp32.  The noise on the router's inputs is left out; the noise in SparseMixer is not.
"""

import torch
import torch.nn.functional as F
from transformers.models.phimoe.modeling_phimoe import sparsemixer


BLOCK = 64  # rows of an expert are padded to a multiple: oneDNN prepares each new shape anew, which takes longer than it


class Experts(torch.autograd.Function):
    """Every token through its two experts, tokens sorted by expert; gradients by hand, to gather and never scatter."""

    @staticmethod
    def forward(ctx, x, chosen, share, up, down):
        """x [tokens][hidden], chosen and share [tokens][2], up [experts][2 * width][hidden], down [..][hidden][width]"""
        chosen = chosen.flatten()
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=len(up))
        room = (counts + BLOCK - 1) // BLOCK * BLOCK
        ends = room.cumsum(0)
        # Where each (token, expert) lies, and which token lies where; what pads reads token 0 and counts nothing.
        place = torch.arange(len(order)) + (ends - room - counts.cumsum(0) + counts)[chosen[order]]
        back = torch.empty_like(order)
        back[order] = place
        total = int(ends[-1])
        source = torch.zeros(total, dtype=torch.long)
        source[place] = order // 2
        shares = torch.zeros(total)
        shares[place] = share.flatten()[order]
        shares = shares.unsqueeze(1).to(x.dtype)
        ends = ends.tolist()
        parts = [slice(a, b) for a, b in zip([0] + ends, ends)]
        up, down = up.to(x.dtype), down.to(x.dtype)
        xs = x.index_select(0, source)
        both = x.new_empty(total, up.shape[1])
        for part, w in zip(parts, up):
            torch.mm(xs[part], w.mT, out=both[part])
        gate, value = both.chunk(2, 1)
        act = F.silu(gate).mul_(value)
        scaled = act * shares
        y = torch.empty_like(xs)
        for part, w in zip(parts, down):
            torch.mm(scaled[part], w.mT, out=y[part])
        ctx.save_for_backward(xs, both, act, scaled, shares, source, back, up, down)
        ctx.parts = parts
        return pairs(y, back)

    @staticmethod
    def backward(ctx, grad):
        xs, both, act, scaled, shares, source, back, up, down = ctx.saved_tensors
        dy = grad.to(xs.dtype).index_select(0, source)
        d_scaled, dx = torch.empty_like(act), torch.empty_like(xs)
        d_up, d_down = torch.empty_like(up), torch.empty_like(down)
        for part, w, d in zip(ctx.parts, down, d_down):
            torch.mm(dy[part], w, out=d_scaled[part])
            torch.mm(dy[part].mT, scaled[part], out=d)
        d_share = (d_scaled * act).sum(1, dtype=torch.float32)[back].view(-1, 2)
        d_act = d_scaled.mul_(shares)
        gate, value = both.chunk(2, 1)
        d_both = torch.cat((torch.ops.aten.silu_backward(d_act * value, gate), d_act.mul_(F.silu(gate))), 1)
        for part, w, d in zip(ctx.parts, up, d_up):
            torch.mm(d_both[part], w, out=dx[part])
            torch.mm(d_both[part].mT, xs[part], out=d)
        return pairs(dx, back), None, d_share, d_up.float(), d_down.float()


def pairs(y, back):
    """The sum of what a token's two experts made."""
    y = y.index_select(0, back).view(-1, 2, y.shape[1])
    return y[:, 0] + y[:, 1]


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def hidden(model, ids, dtype=torch.bfloat16, training=True):
    """(what the head reads [rows][length][hidden], router logits of every layer [tokens][experts])"""
    config, inner = model.config, model.model
    rows, length = ids.shape
    heads, kv, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    cos, sin = inner.rotary_emb(torch.empty(0), torch.arange(length)[None])
    cos, sin = (t[0, :, None, : size // 2].to(dtype) for t in (cos, sin))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = torch.zeros(length, length, dtype=dtype)
    mask.masked_fill_((distance < 0) | (distance >= config.sliding_window), float("-inf"))
    x, routers = inner.embed_tokens(ids).view(rows * length, -1), []
    for layer in inner.layers:
        att, mlp = layer.self_attn, layer.mlp
        h = layer.input_layernorm(x).to(dtype)
        weight = torch.cat((att.q_proj.weight, att.k_proj.weight, att.v_proj.weight)).to(dtype)
        bias = torch.cat((att.q_proj.bias, att.k_proj.bias, att.v_proj.bias)).to(dtype)
        qkv = F.linear(h, weight, bias).view(rows, length, heads + 2 * kv, size)
        qk, v = rotate(qkv[:, :, : heads + kv], cos, sin), qkv[:, :, heads + kv :]
        # Queries that share a key-value head are rows of one product: [rows * kv][group * length][size].
        group = heads // kv
        q = qk[:, :, :heads].unflatten(2, (kv, group)).permute(0, 2, 3, 1, 4).reshape(rows * kv, group * length, size)
        k = qk[:, :, heads:].transpose(1, 2).reshape(rows * kv, length, size)
        v = v.transpose(1, 2).reshape(rows * kv, length, size)
        scores = torch.baddbmm(mask.repeat(group, 1), q, k.mT, alpha=size**-0.5)
        y = torch.bmm(torch.softmax(scores, -1), v)
        y = y.view(rows, kv, group, length, size).permute(0, 3, 1, 2, 4).reshape(rows * length, -1)
        x = x + F.linear(y, att.o_proj.weight.to(dtype), att.o_proj.bias.to(dtype))
        h = layer.post_attention_layernorm(x)
        logits = F.linear(h, mlp.router.weight)
        share, chosen = sparsemixer(logits, mlp.router.router_jitter_noise, training)
        routers.append(logits)
        x = x + Experts.apply(h.to(dtype), chosen, share, mlp.experts.gate_up_proj, mlp.experts.down_proj)
    return inner.norm(x).view(rows, length, -1), routers


def prove(model, ids):
    """That in fp32 this is what the class itself computes in training, forwards and backwards, from the same dice."""
    for layer in model.model.layers:
        layer.mlp.input_jitter_noise = layer.mlp.router.input_jitter_noise = 0.0

    def run(function):
        torch.manual_seed(0)
        logits = model.lm_head(function())
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        return logits.detach(), grads

    expected, expected_grads = run(lambda: model.model(input_ids=ids, use_cache=False).last_hidden_state)
    logits, grads = run(lambda: hidden(model, ids, torch.float32)[0])
    # A near tie between experts may fall the other way for a token in thousands; hence not the largest difference.
    far = ((logits - expected).abs().amax(-1) > 1e-3).float().mean().item()
    worst = max((grads[n] - g).norm().item() / (g.norm().item() + 1e-8) for n, g in expected_grads.items())
    if far > 0.01 or worst > 0.02:
        raise SystemExit(f"fast.py differs from PhimoeForCausalLM: {far:.1%} of the tokens, gradients by {worst:.1%}")
    return far, worst
