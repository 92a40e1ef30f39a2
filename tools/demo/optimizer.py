"""Muon for the weight matrices of the layers, AdamW for everything else.

Muon (K. Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found with five
Newton-Schulz steps; a small model learns from noticeably fewer tokens with it.
"""

import torch

MUON_RATE, ADAM_RATE, MOMENTUM, DECAY = 0.02, 3e-3, 0.95, 0.01


def orthogonal(matrices):
    """[..., rows, columns] -> the same with singular values near 1."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    def __init__(self, model, boldness):
        self.boldness = boldness
        named = dict(model.named_parameters())
        is_matrix = lambda n, p: p.ndim >= 2 and ".layers." in n and "router" not in n
        self.matrices = [p for n, p in named.items() if is_matrix(n, p)]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.AdamW(
            [p for n, p in named.items() if not is_matrix(n, p)], lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0
        )

    @torch.no_grad()
    def step(self, progress):
        """progress from 0 to 1: the rate warms up, holds, and falls to nothing over the second half."""
        scale = self.boldness * min(1.0, (progress + 1e-3) / 0.02, 2 * (1 - progress) + 1e-3)
        for p, m in zip(self.matrices, self.momenta):
            m.lerp_(p.grad, 1 - MOMENTUM)
            update = p.grad.lerp(m, MOMENTUM)
            if p.ndim == 3 and p.shape[1] < p.shape[2]:  # w1 over w3: two matrices a expert
                update = orthogonal(update.unflatten(1, (2, -1))).flatten(1, 2)
            else:
                update = orthogonal(update)
            gain = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
            p.mul_(1 - MUON_RATE * scale * DECAY).add_(update, alpha=-MUON_RATE * scale * gain)
            p.grad = None
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * scale
        self.adam.step()
        self.adam.zero_grad()
