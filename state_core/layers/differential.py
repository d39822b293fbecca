"""Differential attention (Ye et al. 2024, arXiv 2410.05258): what one map sees less another.

    DiffAttn = (softmax(q1·k1/√d) − λ softmax(q2·k2/√d)) v,   then RMSNorm per head, × (1 − λ_init)
    λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init,   λ_init = 0.8 − 0.6 e^(−0.3 l) in layer l ≥ 0

Heads 2h and 2h+1 of queries and keys are the two maps of differential head h, whose values are
those of both, 2d wide: as many parameters as plain attention. Both maps see the same edges.

B batch, T tokens with rows, S tokens known, H heads, d and M head widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from state_core.layers.norm import RMSNorm

Attend = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""Softmax attention (q [B,h,T,d], k [B,h,S,d], v [B,h,S,M], which h of the heads) → [B,h,T,M]."""
ALL_HEADS = slice(None)


class DifferentialHeads(nn.Module):
    """Turns any softmax attention into a differential one, whichever edges it is over."""

    def __init__(self, head_dim: int, index: int) -> None:
        super().__init__()
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * index)
        self.lambda_q = nn.Parameter(0.1 * torch.randn(2, head_dim))
        self.lambda_k = nn.Parameter(0.1 * torch.randn(2, head_dim))
        self.norm = RMSNorm(2 * head_dim)

    def forward(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B,H,T,d], k and v [B,H,S,d] → [B,H/2,T,2d]."""
        both = v.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        maps = (slice(0, None, 2), slice(1, None, 2))
        signal, noise = (attend(q[:, heads], k[:, heads], both, heads) for heads in maps)
        return self.norm(signal - self.weight().to(noise) * noise) * (1 - self.lambda_init)

    def weight(self) -> Tensor:
        """λ, one number for all heads of the layer."""
        signal, noise = (self.lambda_q * self.lambda_k).sum(-1).exp()
        return signal - noise + self.lambda_init
